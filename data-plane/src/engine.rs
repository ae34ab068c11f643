//! What differs by kind of CN: how the state of a session is asked for, and put into a new one.
//!
//! Pure: commands and what was said to them. Must not know: sockets, the relay, why a session moves.

pub(crate) mod mysql;
