//! Session state of MariaDB (10.11) and of what speaks exactly like it.
//!
//! A session's state is never believed from what a tracker told: it is asked for whole, in one batch ([`read`]), put into
//! the session on the new CN ([`write`]), and asked for there again: what differs then was not carried, and the session
//! stays where it is.
//!
//! What is asked is written so that the session's own settings cannot bend the answers: a limit on rows, on time, or a
//! character set of results. All texts of ours are ASCII, strings are in hexadecimal, so that neither `sql_mode` nor a
//! character set changes what they mean.

pub(crate) mod catalog;
mod literal;
pub(crate) mod read;
mod user_variable;
pub(crate) mod write;

/// Before a question, takes away what would bend its answer. `sql_big_selects` in place of `max_join_size`, because
/// setting the latter sets the former. Not `character_set_results`, which does not come back with the collation that it
/// had: what is not ASCII is asked for as bytes, or in hexadecimal, which [`read`] reads in whatever character set it is.
const UNBENT: &str = "SET STATEMENT sql_select_limit=DEFAULT, sql_big_selects=1, max_statement_time=0 FOR ";

/// The variables that are asked for apart: [`UNBENT`] changes them, or the character set of results has to be known
/// together with its collation.
const BENT: [&str; 4] =
    ["sql_select_limit", "sql_big_selects", "max_statement_time", "character_set_results"];

/// `text`, which is ASCII, out of whatever character set the session wants its results in.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != 0).collect()
}

/// The payload of a COM_QUERY.
fn query(sql: &str) -> Vec<u8> {
    crate::cn::query(sql)
}
