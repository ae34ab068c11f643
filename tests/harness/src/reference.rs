//! The reference parser of responses: given a command and the negotiated capabilities, it is shown
//! the server's packets one by one and says what each is and whether the response is complete.
//!
//! It is written to be obviously right, from the protocol's documentation, and shares no code with
//! Shunt's own scanner, which is checked against it. It looks at whole packets; it does not know
//! sockets.

use crate::caps::Caps;
use crate::command::com;
use crate::decode::{Cursor, EofPacket, OkPacket, status};
use crate::packet::MAX_PAYLOAD;
use anyhow::{Context as _, Result, bail};

/// What one packet of a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// OK.
    Ok,
    /// ERR.
    Err,
    /// EOF in answer to a command, not of a result.
    Eof,
    /// The number of columns.
    ColumnCount,
    /// A column or parameter definition.
    Definition,
    /// EOF behind definitions.
    DefinitionsEnd,
    /// A row.
    Row,
    /// EOF or OK (header 0xFE) that ends a result.
    ResultEnd,
    /// The server asks for a file.
    FileRequest,
    /// The answer to COM_STMT_PREPARE.
    Prepared,
    /// A bare string.
    Text,
    /// The server asks for another authentication.
    AuthSwitch,
    /// More data of an authentication.
    AuthMore,
    /// MariaDB's progress report.
    Progress,
    /// The rest of a packet over 16 MiB.
    Continuation,
}

/// Where a response stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The server has more to send.
    Server,
    /// The server waits for the client: a file, or an authentication.
    Client,
    /// The response is complete.
    Nobody,
}

/// The shape of a whole response, as the differential test counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// No response to this command.
    None,
    /// OK.
    Ok,
    /// ERR at once.
    Err,
    /// EOF.
    Eof,
    /// One text result.
    Text,
    /// One binary result.
    Binary,
    /// A result that was ended by an ERR after its first packet.
    CutResult,
    /// Several results.
    Multi,
    /// Several results, the last of them an ERR.
    MultiErr,
    /// A file was asked for, then OK.
    Upload,
    /// A file was asked for, then ERR.
    UploadErr,
    /// A statement without parameters and columns was prepared.
    PrepareBare,
    /// A statement with parameters or columns was prepared.
    Prepare,
    /// A cursor was opened.
    CursorOpen,
    /// Rows were fetched.
    Fetch,
    /// Field list.
    FieldList,
    /// A string.
    Statistics,
    /// OK after another authentication.
    SwitchOk,
    /// ERR after another authentication.
    SwitchErr,
}

/// What comes behind the definitions that are being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    Rows,
    /// The column definitions of a prepared statement, if there are any.
    Columns(u64),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first packet of a simple command: OK, EOF or ERR.
    Simple,
    /// The first packet of a result.
    Result,
    /// Behind an upload: OK or ERR.
    AfterUpload,
    Definitions {
        left: u64,
        behind: Behind,
    },
    DefinitionsEnd {
        behind: Behind,
    },
    Rows,
    Fields,
    Prepare,
    Text,
    Auth,
    /// The client's turn; then this.
    Upload,
    Done,
}

/// A response that is being read.
#[derive(Clone, Debug)]
pub struct Reference {
    command: u8,
    caps: Caps,
    state: State,
    continues: bool,
    roles: Vec<Role>,
    cursor: bool,
    prepared: (u64, u64),
}

impl Reference {
    /// The response to this command (the first byte of its payload).
    pub fn new(command: u8, caps: Caps) -> Self {
        let state = match command {
            com::QUIT | com::STMT_CLOSE | com::STMT_SEND_LONG_DATA => State::Done,
            com::QUERY | com::STMT_EXECUTE | com::PROCESS_INFO | com::STMT_BULK_EXECUTE => State::Result,
            com::FIELD_LIST => State::Fields,
            com::STMT_FETCH => State::Rows,
            com::STMT_PREPARE => State::Prepare,
            com::STATISTICS => State::Text,
            com::CHANGE_USER => State::Auth,
            _ => State::Simple,
        };
        Self { command, caps, state, continues: false, roles: Vec::new(), cursor: false, prepared: (0, 0) }
    }

    /// Whose turn it is.
    pub fn turn(&self) -> Turn {
        match self.state {
            _ if self.continues => Turn::Server,
            State::Done => Turn::Nobody,
            State::Upload => Turn::Client,
            State::Auth if matches!(self.roles.last(), Some(Role::AuthSwitch | Role::AuthMore)) => {
                Turn::Client
            }
            _ => Turn::Server,
        }
    }

    /// What the packets so far were.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// The client has sent its whole file, the empty packet included, or its answer.
    pub fn client_done(&mut self) {
        match self.state {
            State::Upload => self.state = State::AfterUpload,
            // The role that gave the turn away stays the last one; the turn must come back.
            State::Auth => self.state = State::Simple,
            _ => {}
        }
    }

    /// Shows the next packet of the server.
    ///
    /// # Errors
    /// No server may send this here.
    pub fn packet(&mut self, payload: &[u8]) -> Result<Role> {
        if self.turn() != Turn::Server {
            bail!("a packet when it is the turn of {:?}: {:02x?}", self.turn(), head(payload));
        }
        let full = payload.len() == MAX_PAYLOAD;
        let role = if self.continues {
            Role::Continuation
        } else {
            self.first_packet(payload).with_context(|| {
                format!("in state {:?} of command {:#x}: {:02x?}", self.state, self.command, head(payload))
            })?
        };
        self.continues = full;
        self.roles.push(role);
        Ok(role)
    }

    /// A packet that begins a payload.
    fn first_packet(&mut self, payload: &[u8]) -> Result<Role> {
        if self.state == State::Text {
            self.state = State::Done;
            return Ok(if payload.first() == Some(&0xFF) { Role::Err } else { Role::Text });
        }
        let first = *payload.first().context("an empty packet")?;
        if first == 0xFF {
            return Ok(self.err(payload));
        }
        match self.state {
            State::Simple | State::AfterUpload => self.simple(first, payload),
            State::Result => self.result(first, payload),
            State::Definitions { left, behind } => {
                self.state = match left {
                    0 => bail!("no definition was expected"),
                    1 if self.caps.has(Caps::DEPRECATE_EOF) => self.behind(behind),
                    1 => State::DefinitionsEnd { behind },
                    _ => State::Definitions { left: left - 1, behind },
                };
                Ok(Role::Definition)
            }
            State::DefinitionsEnd { behind } => self.definitions_end(payload, behind),
            State::Rows if self.is_end(first, payload) => self.result_end(payload),
            State::Rows => Ok(Role::Row),
            State::Fields if self.is_end(first, payload) => self.result_end(payload),
            State::Fields => Ok(Role::Definition),
            State::Prepare => self.prepare(payload),
            State::Auth => self.auth(first),
            State::Text | State::Upload | State::Done => bail!("nothing was expected"),
        }
    }

    /// Any ERR ends the response, except that MariaDB reports progress in ERR's clothes.
    fn err(&mut self, payload: &[u8]) -> Role {
        if self.caps.has(Caps::MARIADB_PROGRESS) && payload.get(1..3) == Some(&[0xFF, 0xFF]) {
            return Role::Progress;
        }
        self.state = State::Done;
        Role::Err
    }

    fn simple(&mut self, first: u8, payload: &[u8]) -> Result<Role> {
        match first {
            0x00 => self.ok(payload),
            0xFE if self.state == State::Simple => {
                self.state = State::Done;
                Ok(Role::Eof)
            }
            _ => bail!("neither OK nor EOF nor ERR"),
        }
    }

    fn ok(&mut self, payload: &[u8]) -> Result<Role> {
        let more = OkPacket::decode(payload, self.caps)?.status & status::MORE_RESULTS != 0;
        self.state = if more { State::Result } else { State::Done };
        Ok(Role::Ok)
    }

    fn result(&mut self, first: u8, payload: &[u8]) -> Result<Role> {
        match first {
            0x00 => self.ok(payload),
            0xFB => {
                self.state = State::Upload;
                Ok(Role::FileRequest)
            }
            _ => {
                let mut at = Cursor::new(payload);
                let columns = at.lenenc()?;
                let defined = !self.caps.has(Caps::MARIADB_CACHE_METADATA) || at.u8()? != 0;
                if !at.is_empty() {
                    bail!("bytes behind the column count");
                }
                self.state = match (defined, self.caps.has(Caps::DEPRECATE_EOF)) {
                    (true, _) => State::Definitions { left: columns, behind: Behind::Rows },
                    (false, true) => State::Rows,
                    (false, false) => State::DefinitionsEnd { behind: Behind::Rows },
                };
                Ok(Role::ColumnCount)
            }
        }
    }

    fn definitions_end(&mut self, payload: &[u8], behind: Behind) -> Result<Role> {
        let eof = EofPacket::decode(payload)?;
        if behind == Behind::Rows && eof.status & status::CURSOR_EXISTS != 0 {
            // A cursor: its rows are fetched.
            return self.result_end(payload);
        }
        self.state = self.behind(behind);
        Ok(Role::DefinitionsEnd)
    }

    fn behind(&self, behind: Behind) -> State {
        match behind {
            Behind::Rows => State::Rows,
            Behind::Columns(0) | Behind::Nothing => State::Done,
            Behind::Columns(left) => State::Definitions { left, behind: Behind::Nothing },
        }
    }

    /// Is this the end of rows, or of fields? A row that begins with 0xFE has a column of 16 MiB or
    /// more, and so fills its packet.
    fn is_end(&self, first: u8, payload: &[u8]) -> bool {
        let below = if self.caps.has(Caps::DEPRECATE_EOF) { MAX_PAYLOAD } else { 9 };
        first == 0xFE && payload.len() < below
    }

    fn result_end(&mut self, payload: &[u8]) -> Result<Role> {
        let status = if self.caps.has(Caps::DEPRECATE_EOF) {
            OkPacket::decode(payload, self.caps)?.status
        } else {
            EofPacket::decode(payload)?.status
        };
        self.cursor |= status & status::CURSOR_EXISTS != 0;
        let more = status & status::MORE_RESULTS != 0 && self.state != State::Fields;
        self.state = if more { State::Result } else { State::Done };
        Ok(Role::ResultEnd)
    }

    fn prepare(&mut self, payload: &[u8]) -> Result<Role> {
        let mut at = Cursor::new(payload);
        if at.u8()? != 0 {
            bail!("neither a prepared statement nor ERR");
        }
        at.u32()?;
        let columns = u64::from(at.u16()?);
        let params = u64::from(at.u16()?);
        self.prepared = (params, columns);
        self.state = match params {
            0 => self.behind(Behind::Columns(columns)),
            left => State::Definitions { left, behind: Behind::Columns(columns) },
        };
        Ok(Role::Prepared)
    }

    fn auth(&mut self, first: u8) -> Result<Role> {
        match first {
            0x00 => {
                self.state = State::Done;
                Ok(Role::Ok)
            }
            0xFE => Ok(Role::AuthSwitch),
            0x01 => Ok(Role::AuthMore),
            _ => bail!("not a packet of an authentication"),
        }
    }

    /// The shape of the response, once it is complete.
    pub fn shape(&self) -> Shape {
        let has = |role| self.roles.contains(&role);
        let failed = self.roles.last() == Some(&Role::Err);
        let ends = |role: &&Role| matches!(role, Role::Ok | Role::ResultEnd | Role::FileRequest);
        let results = self.roles.iter().filter(ends).count();
        if has(Role::AuthSwitch) {
            return if failed { Shape::SwitchErr } else { Shape::SwitchOk };
        }
        if has(Role::FileRequest) {
            return if failed { Shape::UploadErr } else { Shape::Upload };
        }
        match self.command {
            _ if self.roles.is_empty() => Shape::None,
            _ if failed && results > 0 => Shape::MultiErr,
            _ if failed && has(Role::ColumnCount) => Shape::CutResult,
            _ if failed => Shape::Err,
            _ if results > 1 => Shape::Multi,
            com::STATISTICS => Shape::Statistics,
            com::FIELD_LIST => Shape::FieldList,
            com::STMT_FETCH => Shape::Fetch,
            com::STMT_PREPARE if self.prepared == (0, 0) => Shape::PrepareBare,
            com::STMT_PREPARE => Shape::Prepare,
            _ if self.cursor => Shape::CursorOpen,
            com::STMT_EXECUTE | com::STMT_BULK_EXECUTE if has(Role::ColumnCount) => Shape::Binary,
            _ if has(Role::ColumnCount) => Shape::Text,
            _ if has(Role::Eof) => Shape::Eof,
            _ => Shape::Ok,
        }
    }
}

fn head(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(32)]
}

/// Reads a list of packets that the server sent in answer to a command, and says where the response
/// stands after them and what each was. For responses in which the client has no turn.
///
/// # Errors
/// No server may send these.
pub fn read<'a>(
    command: u8,
    caps: Caps,
    packets: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Turn, Vec<Role>)> {
    let mut reference = Reference::new(command, caps);
    for packet in packets {
        reference.packet(packet)?;
    }
    Ok((reference.turn(), reference.roles))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_ends_with_eof_or_ok() {
        let eof: &[u8] = &[0xFE, 0, 0, 2, 0];
        let definition: &[u8] = b"\x03def";
        let row: &[u8] = b"\x011";
        let plain = [&[1][..], definition, eof, row, eof];
        let (turn, roles) = read(com::QUERY, Caps::NONE, plain).unwrap();
        assert_eq!(turn, Turn::Nobody);
        use Role::*;
        assert_eq!(roles, [ColumnCount, Definition, DefinitionsEnd, Row, ResultEnd]);
        let ok: &[u8] = &[0xFE, 0, 0, 2, 0, 0, 0];
        let (turn, roles) = read(com::QUERY, Caps::DEPRECATE_EOF, [&[1][..], definition, row, ok]).unwrap();
        assert_eq!((turn, roles), (Turn::Nobody, vec![ColumnCount, Definition, Row, ResultEnd]));
    }

    #[test]
    fn a_response_that_goes_on_is_not_complete() {
        let ok_more: &[u8] = &[0, 1, 0, 0x0A, 0, 0, 0];
        assert_eq!(read(com::QUERY, Caps::NONE, [ok_more]).unwrap().0, Turn::Server);
        assert_eq!(read(com::QUERY, Caps::NONE, [&[0xFB, b'x'][..]]).unwrap().0, Turn::Client);
        let ok: &[u8] = &[0, 1, 0, 2, 0, 0, 0];
        assert_eq!(read(com::QUERY, Caps::NONE, [ok_more, ok]).unwrap().0, Turn::Nobody);
        assert!(read(com::QUERY, Caps::NONE, [ok, ok]).is_err());
    }

    #[test]
    fn a_row_over_16_mib_is_no_end_of_a_result() {
        let mut big = vec![0xFE];
        big.resize(MAX_PAYLOAD, 0);
        let mut reference = Reference::new(com::STMT_FETCH, Caps::DEPRECATE_EOF);
        assert_eq!(reference.packet(&big).unwrap(), Role::Row);
        assert_eq!(reference.packet(&[0xFE, 0, 0, 2, 0, 0, 0]).unwrap(), Role::Continuation);
        assert_eq!(reference.packet(&[0xFE, 0, 0, 2, 0, 0, 0]).unwrap(), Role::ResultEnd);
    }

    #[test]
    fn progress_is_no_error() {
        let mut reference = Reference::new(com::QUERY, Caps::MARIADB_PROGRESS);
        assert_eq!(reference.packet(&[0xFF, 0xFF, 0xFF, 1]).unwrap(), Role::Progress);
        assert_eq!(reference.turn(), Turn::Server);
        let mut reference = Reference::new(com::QUERY, Caps::NONE);
        assert_eq!(reference.packet(&[0xFF, 0xFF, 0xFF, 1]).unwrap(), Role::Err);
    }
}
