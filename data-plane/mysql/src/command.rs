//! Commands: their numbers, and what shape of response each one has.

/// `COM_SLEEP`: a server's own, refused when a client sends it
pub const SLEEP: u8 = 0x00;
/// `COM_QUIT`
pub const QUIT: u8 = 0x01;
/// `COM_INIT_DB`
pub const INIT_DB: u8 = 0x02;
/// `COM_QUERY`
pub const QUERY: u8 = 0x03;
/// `COM_FIELD_LIST`
pub const FIELD_LIST: u8 = 0x04;
/// `COM_REFRESH`
pub const REFRESH: u8 = 0x07;
/// `COM_SHUTDOWN`
pub const SHUTDOWN: u8 = 0x08;
/// `COM_STATISTICS`
pub const STATISTICS: u8 = 0x09;
/// `COM_PROCESS_INFO`
pub const PROCESS_INFO: u8 = 0x0A;
/// `COM_PROCESS_KILL`
pub const PROCESS_KILL: u8 = 0x0C;
/// `COM_DEBUG`
pub const DEBUG: u8 = 0x0D;
/// `COM_PING`
pub const PING: u8 = 0x0E;
/// `COM_CHANGE_USER`
pub const CHANGE_USER: u8 = 0x11;
/// `COM_BINLOG_DUMP`
pub const BINLOG_DUMP: u8 = 0x12;
/// `COM_STMT_PREPARE`
pub const STMT_PREPARE: u8 = 0x16;
/// `COM_STMT_EXECUTE`
pub const STMT_EXECUTE: u8 = 0x17;
/// `COM_STMT_SEND_LONG_DATA`
pub const STMT_SEND_LONG_DATA: u8 = 0x18;
/// `COM_STMT_CLOSE`
pub const STMT_CLOSE: u8 = 0x19;
/// `COM_STMT_RESET`
pub const STMT_RESET: u8 = 0x1A;
/// `COM_SET_OPTION`
pub const SET_OPTION: u8 = 0x1B;
/// `COM_STMT_FETCH`
pub const STMT_FETCH: u8 = 0x1C;
/// `COM_RESET_CONNECTION`
pub const RESET_CONNECTION: u8 = 0x1F;
/// MariaDB's `COM_STMT_BULK_EXECUTE`
pub const STMT_BULK_EXECUTE: u8 = 0xFA;

/// The shape of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// There is none.
    None,
    /// One packet: OK, EOF or ERR.
    Simple,
    /// One packet of text, or ERR.
    Text,
    /// OK, ERR, a result set or a request for a file; several where the status says that more follow.
    Results,
    /// The answer to a prepare: OK with counts, then definitions; or ERR.
    Prepare,
    /// Rows without definitions, ended as a result set; or ERR.
    Rows,
    /// Definitions, ended as a result set; or ERR.
    Fields,
}

/// What is done with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes to the CN, and has this response.
    Forward(Shape),
    /// It is a login of its own.
    ChangeUser,
    /// It is refused: replication has no place in a routed session, and what is unknown has an unknown response.
    Refuse,
}

/// What is done with the command of this number.
#[must_use]
pub const fn kind(code: u8) -> Kind {
    Kind::Forward(match code {
        QUIT | STMT_SEND_LONG_DATA | STMT_CLOSE => Shape::None,
        INIT_DB | REFRESH | SHUTDOWN | PROCESS_KILL | DEBUG | PING | STMT_RESET | SET_OPTION
        | RESET_CONNECTION => Shape::Simple,
        STATISTICS => Shape::Text,
        QUERY | PROCESS_INFO | STMT_EXECUTE | STMT_BULK_EXECUTE => Shape::Results,
        STMT_PREPARE => Shape::Prepare,
        STMT_FETCH => Shape::Rows,
        FIELD_LIST => Shape::Fields,
        CHANGE_USER => return Kind::ChangeUser,
        _ => return Kind::Refuse,
    })
}
