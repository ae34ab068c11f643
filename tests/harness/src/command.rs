//! The client's commands as payloads: their bytes, and the encoding of statement parameters.

/// Command bytes.
pub mod com {
    /// Closes the session.
    pub const QUIT: u8 = 0x01;
    /// Chooses a database.
    pub const INIT_DB: u8 = 0x02;
    /// A text query.
    pub const QUERY: u8 = 0x03;
    /// Column definitions of a table.
    pub const FIELD_LIST: u8 = 0x04;
    /// Refreshes something.
    pub const REFRESH: u8 = 0x07;
    /// A line of text about the server.
    pub const STATISTICS: u8 = 0x09;
    /// The process list.
    pub const PROCESS_INFO: u8 = 0x0A;
    /// Kills a session.
    pub const PROCESS_KILL: u8 = 0x0C;
    /// Debug output to the server's log.
    pub const DEBUG: u8 = 0x0D;
    /// Are you there?
    pub const PING: u8 = 0x0E;
    /// Another login on the same connection.
    pub const CHANGE_USER: u8 = 0x11;
    /// Asks for the binary log.
    pub const BINLOG_DUMP: u8 = 0x12;
    /// Prepares a statement.
    pub const STMT_PREPARE: u8 = 0x16;
    /// Executes a prepared statement.
    pub const STMT_EXECUTE: u8 = 0x17;
    /// Sends a part of a parameter.
    pub const STMT_SEND_LONG_DATA: u8 = 0x18;
    /// Forgets a statement.
    pub const STMT_CLOSE: u8 = 0x19;
    /// Closes a statement's cursor, forgets its long data.
    pub const STMT_RESET: u8 = 0x1A;
    /// Multi-statements on or off.
    pub const SET_OPTION: u8 = 0x1B;
    /// Rows of a cursor.
    pub const STMT_FETCH: u8 = 0x1C;
    /// A session as if new.
    pub const RESET_CONNECTION: u8 = 0x1F;
    /// MariaDB: executes a statement for many rows of parameters.
    pub const STMT_BULK_EXECUTE: u8 = 0xFA;
}

/// The name of a command, as tables print it.
pub fn name(command: u8) -> &'static str {
    match command {
        com::QUIT => "QUIT",
        com::INIT_DB => "INIT_DB",
        com::QUERY => "QUERY",
        com::FIELD_LIST => "FIELD_LIST",
        com::REFRESH => "REFRESH",
        com::STATISTICS => "STATISTICS",
        com::PROCESS_INFO => "PROCESS_INFO",
        com::PROCESS_KILL => "PROCESS_KILL",
        com::DEBUG => "DEBUG",
        com::PING => "PING",
        com::CHANGE_USER => "CHANGE_USER",
        com::BINLOG_DUMP => "BINLOG_DUMP",
        com::STMT_PREPARE => "STMT_PREPARE",
        com::STMT_EXECUTE => "STMT_EXECUTE",
        com::STMT_SEND_LONG_DATA => "STMT_SEND_LONG_DATA",
        com::STMT_CLOSE => "STMT_CLOSE",
        com::STMT_RESET => "STMT_RESET",
        com::SET_OPTION => "SET_OPTION",
        com::STMT_FETCH => "STMT_FETCH",
        com::RESET_CONNECTION => "RESET_CONNECTION",
        com::STMT_BULK_EXECUTE => "STMT_BULK_EXECUTE",
        _ => "UNKNOWN",
    }
}

/// A command byte followed by bytes.
pub fn with(command: u8, body: &[u8]) -> Vec<u8> {
    let mut payload = vec![command];
    payload.extend_from_slice(body);
    payload
}

/// COM_QUERY.
pub fn query(sql: impl AsRef<[u8]>) -> Vec<u8> {
    with(com::QUERY, sql.as_ref())
}

/// COM_STMT_PREPARE.
pub fn prepare(sql: impl AsRef<[u8]>) -> Vec<u8> {
    with(com::STMT_PREPARE, sql.as_ref())
}

/// COM_FIELD_LIST, with a pattern for the columns.
pub fn field_list(table: &str, pattern: &str) -> Vec<u8> {
    let mut payload = with(com::FIELD_LIST, table.as_bytes());
    payload.push(0);
    payload.extend_from_slice(pattern.as_bytes());
    payload
}

/// COM_SET_OPTION: multi-statements on (0) or off (1).
pub fn set_option(option: u16) -> Vec<u8> {
    with(com::SET_OPTION, &option.to_le_bytes())
}

/// COM_STMT_SEND_LONG_DATA.
pub fn long_data(id: u32, parameter: u16, data: &[u8]) -> Vec<u8> {
    let mut payload = with(com::STMT_SEND_LONG_DATA, &id.to_le_bytes());
    payload.extend_from_slice(&parameter.to_le_bytes());
    payload.extend_from_slice(data);
    payload
}

/// COM_STMT_FETCH.
pub fn fetch(id: u32, rows: u32) -> Vec<u8> {
    let mut payload = with(com::STMT_FETCH, &id.to_le_bytes());
    payload.extend_from_slice(&rows.to_le_bytes());
    payload
}

/// A command whose only argument is a statement id: CLOSE, RESET.
pub fn about_statement(command: u8, id: u32) -> Vec<u8> {
    with(command, &id.to_le_bytes())
}

/// A value bound to a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// NULL.
    Null,
    /// TINYINT.
    Tiny(i8),
    /// SMALLINT.
    Short(i16),
    /// INT.
    Long(i32),
    /// BIGINT.
    LongLong(i64),
    /// BIGINT UNSIGNED.
    Unsigned(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL, as text.
    Decimal(String),
    /// VARCHAR.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
    /// DATE: year, month, day.
    Date(u16, u8, u8),
    /// DATETIME: year, month, day, hour, minute, second, microsecond.
    DateTime(u16, u8, u8, u8, u8, u8, u32),
    /// TIME: negative, days, hours, minutes, seconds, microseconds.
    Time(bool, u32, u8, u8, u8, u32),
    /// BLOB whose data was sent with COM_STMT_SEND_LONG_DATA.
    Sent,
}

impl Param {
    /// Type byte and unsigned flag.
    fn kind(&self) -> [u8; 2] {
        match self {
            Self::Null => [0x06, 0],
            Self::Tiny(_) => [0x01, 0],
            Self::Short(_) => [0x02, 0],
            Self::Long(_) => [0x03, 0],
            Self::LongLong(_) => [0x08, 0],
            Self::Unsigned(_) => [0x08, 0x80],
            Self::Float(_) => [0x04, 0],
            Self::Double(_) => [0x05, 0],
            Self::Decimal(_) => [0xF6, 0],
            Self::Text(_) => [0xFD, 0],
            Self::Blob(_) | Self::Sent => [0xFC, 0],
            Self::Date(..) => [0x0A, 0],
            Self::DateTime(..) => [0x0C, 0],
            Self::Time(..) => [0x0B, 0],
        }
    }

    fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Self::Null | Self::Sent => {}
            Self::Tiny(v) => into.extend(v.to_le_bytes()),
            Self::Short(v) => into.extend(v.to_le_bytes()),
            Self::Long(v) => into.extend(v.to_le_bytes()),
            Self::LongLong(v) => into.extend(v.to_le_bytes()),
            Self::Unsigned(v) => into.extend(v.to_le_bytes()),
            Self::Float(v) => into.extend(v.to_le_bytes()),
            Self::Double(v) => into.extend(v.to_le_bytes()),
            Self::Decimal(v) | Self::Text(v) => lenenc_bytes(into, v.as_bytes()),
            Self::Blob(v) => lenenc_bytes(into, v),
            Self::Date(year, month, day) => {
                into.push(4);
                into.extend(year.to_le_bytes());
                into.extend([*month, *day]);
            }
            Self::DateTime(year, month, day, hour, minute, second, micro) => {
                into.push(11);
                into.extend(year.to_le_bytes());
                into.extend([*month, *day, *hour, *minute, *second]);
                into.extend(micro.to_le_bytes());
            }
            Self::Time(negative, days, hour, minute, second, micro) => {
                into.extend([12, u8::from(*negative)]);
                into.extend(days.to_le_bytes());
                into.extend([*hour, *minute, *second]);
                into.extend(micro.to_le_bytes());
            }
        }
    }
}

/// How COM_STMT_EXECUTE is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Execute {
    /// Asks for a read-only cursor.
    pub cursor: bool,
    /// Leaves out the parameters' types: those of the last execution hold.
    pub omit_types: bool,
}

/// COM_STMT_EXECUTE.
pub fn execute(id: u32, params: &[Param], how: Execute) -> Vec<u8> {
    let mut payload = with(com::STMT_EXECUTE, &id.to_le_bytes());
    payload.push(u8::from(how.cursor));
    payload.extend(1_u32.to_le_bytes());
    if params.is_empty() {
        return payload;
    }
    let mut nulls = vec![0; params.len().div_ceil(8)];
    for (i, param) in params.iter().enumerate() {
        if *param == Param::Null {
            nulls[i / 8] |= 1 << (i % 8);
        }
    }
    payload.extend(nulls);
    payload.push(u8::from(!how.omit_types));
    if !how.omit_types {
        payload.extend(params.iter().flat_map(Param::kind));
    }
    params.iter().for_each(|param| param.encode(&mut payload));
    payload
}

/// COM_STMT_BULK_EXECUTE of MariaDB: several rows of parameters, typed by the first row.
pub fn bulk_execute(id: u32, rows: &[Vec<Param>]) -> Vec<u8> {
    let mut payload = with(com::STMT_BULK_EXECUTE, &id.to_le_bytes());
    payload.extend(128_u16.to_le_bytes()); // types follow
    payload.extend(rows.first().into_iter().flatten().flat_map(Param::kind));
    for param in rows.iter().flatten() {
        payload.push(u8::from(*param == Param::Null)); // indicator: 0 a value, 1 NULL
        param.encode(&mut payload);
    }
    payload
}

/// Appends a length-encoded integer.
pub fn lenenc(into: &mut Vec<u8>, n: u64) {
    match n {
        0..=0xFA => into.push(n as u8),
        0xFB..=0xFFFF => {
            into.push(0xFC);
            into.extend(&n.to_le_bytes()[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            into.push(0xFD);
            into.extend(&n.to_le_bytes()[..3]);
        }
        _ => {
            into.push(0xFE);
            into.extend(n.to_le_bytes());
        }
    }
}

/// Appends a length-encoded string.
pub fn lenenc_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    lenenc(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}
