//! Session state of MariaDB (10.11) and of what speaks exactly like it, and of MySQL 8 by its documentation: what differs
//! between the two is in [`dialect`].
//!
//! A session's state is never believed from what a tracker told: it is asked for whole, in one batch ([`read`]), put into
//! the session on the new CN ([`write`]), and asked for there again: what differs then was not carried, and the session
//! stays where it is.
//!
//! What is asked is written so that the session's own settings cannot bend the answers: a limit on rows, on time, or a
//! character set of results. All texts of ours are ASCII, strings are in hexadecimal, so that neither `sql_mode` nor a
//! character set changes what they mean.

pub(crate) mod catalog;
pub(crate) mod dialect;
mod literal;
pub(crate) mod read;
mod user_variable;
pub(crate) mod write;

/// `text`, which is ASCII, out of whatever character set the session wants its results in.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != 0).collect()
}

/// The payload of a COM_QUERY.
fn query(sql: &str) -> Vec<u8> {
    crate::cn::query(sql)
}
