//! Faults of clients and CNs against real servers: each has an outcome, a bound of its memory and a bound of its time.
//! docs/limits.md lists them.

mod accounts;
mod bad_cn;
mod fake_cn;
mod garbage;
mod limits;
mod log;
mod memory;
mod moves;
mod slow;
#[path = "../stand/mod.rs"]
mod stand;
mod vanish;
