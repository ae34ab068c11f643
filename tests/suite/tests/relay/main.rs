//! The relay against a real CN: every command and response passes unharmed, whatever its size, its order and the way
//! its bytes are cut; and what Shunt does itself looks as if the CN had done it.

mod commands;
mod dying;
mod pins;
mod pipeline;
mod sizes;
#[path = "../stand/mod.rs"]
mod stand;
mod tracking;
mod upload;
mod user;
