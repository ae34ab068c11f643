//! The MySQL protocol as Shunt needs it: bytes in, bytes out.
//!
//! A session's two directions are followed by [`request::Requests`] (client to CN) and [`response::Responses`] (CN to
//! client). Both hop from packet header to packet header, keep a handful of bytes between bursts, and decode only what
//! begins a command or ends a response. Before that, [`greeting`] and [`login`] read and write the handshake.
//!
//! Names and layouts follow MariaDB's protocol documentation (<https://mariadb.com/kb/en/clientserver-protocol/>) and
//! MySQL's (<https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>).
//!
//! Absent on purpose: sockets, clocks, runtimes, and any knowledge of CNs, tenants or routing.

pub mod capability;
pub mod command;
pub mod greeting;
pub mod login;
pub mod native;
pub mod packet;
pub mod reply;
pub mod request;
pub mod response;
pub mod sql;
pub mod track;
