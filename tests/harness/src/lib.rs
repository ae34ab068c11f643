//! What the tests stand on: a raw MySQL client with a reference parser, real MariaDB servers,
//! Shunt's own programs as processes, a fake CN, and links that can be cut.
//!
//! It shares no protocol code with Shunt: it is what Shunt is compared with.

pub mod caps;
pub mod capture;
pub mod command;
pub mod coverage;
pub mod decode;
pub mod differential;
pub mod etcd;
pub mod eventually;
pub mod fake_cn;
pub mod fault_proxy;
pub mod galera;
pub mod http;
pub mod login;
pub mod mariadb;
pub mod mysql8;
pub mod packet;
pub mod ports;
pub mod process;
pub mod random_session;
mod random_sql;
pub mod reference;
pub mod response;
pub mod session_state;
pub mod shunt;
pub mod tcp_info;
pub mod wire;

pub use caps::Caps;
pub use command::{Execute, Param, com};
pub use decode::{ErrPacket, OkPacket};
pub use etcd::Etcd;
pub use eventually::{eventually, patience, within};
pub use fake_cn::FakeCn;
pub use fault_proxy::{Fault, FaultProxy};
pub use galera::Galera;
pub use login::Login;
pub use mariadb::MariaDb;
pub use mysql8::Mysql8;
pub use ports::{free_port, free_ports};
pub use process::Process;
pub use reference::{Role, Shape, Turn};
pub use response::Response;
pub use shunt::{Group, Setup, Shunt};
pub use wire::Raw;
