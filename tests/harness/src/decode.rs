//! Reading what a server sent: integers and strings of the protocol, OK, EOF and ERR packets,
//! column definitions, rows.
//!
//! Written for clarity, as a reference: it copies, and it knows nothing of responses as a whole
//! (that is `reference`) or of sockets (that is `wire`).

use crate::caps::Caps;
use anyhow::{Context as _, Result, bail};

/// Bits of the server status.
pub mod status {
    /// A transaction is open.
    pub const IN_TRANS: u16 = 0x0001;
    /// Autocommit is on.
    pub const AUTOCOMMIT: u16 = 0x0002;
    /// Another result follows.
    pub const MORE_RESULTS: u16 = 0x0008;
    /// A cursor was opened; rows are fetched.
    pub const CURSOR_EXISTS: u16 = 0x0040;
    /// The last row of a cursor was sent.
    pub const LAST_ROW_SENT: u16 = 0x0080;
    /// A prepared statement was prepared again with other columns.
    pub const METADATA_CHANGED: u16 = 0x0400;
    /// The results are OUT parameters.
    pub const PS_OUT_PARAMS: u16 = 0x1000;
    /// The packet has session state changes.
    pub const SESSION_STATE_CHANGED: u16 = 0x4000;
}

/// A place in a packet that is being read.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) =
            self.rest.split_at_checked(n).with_context(|| format!("{n} bytes of {}", self.rest.len()))?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(self.int(2)? as u16)
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(self.int(4)? as u32)
    }

    /// `n` bytes, little endian.
    pub fn int(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    /// A length-encoded integer.
    pub fn lenenc(&mut self) -> Result<u64> {
        match self.u8()? {
            small @ 0..=0xFA => Ok(u64::from(small)),
            0xFC => self.int(2),
            0xFD => self.int(3),
            0xFE => self.int(8),
            other => bail!("length begins with {other:#x}"),
        }
    }

    /// A length-encoded string.
    pub fn lenenc_bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.lenenc()?;
        self.take(usize::try_from(n)?)
    }

    /// Bytes up to a zero byte, which is read too.
    pub fn until_nul(&mut self) -> Result<&'a [u8]> {
        let n = self.rest.iter().position(|byte| *byte == 0).context("no zero byte")?;
        let found = self.take(n)?;
        self.take(1)?;
        Ok(found)
    }
}

/// One item of session state in an OK packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// A system variable and its new value.
    Variable(String, String),
    /// The current database.
    Schema(String),
    /// The state-change flag.
    StateChange(String),
    /// Transaction characteristics, as SQL.
    Characteristics(String),
    /// Eight characters of transaction state.
    Transaction(String),
    /// A type this decoder does not know, with its data.
    Other(u8, Vec<u8>),
}

/// An OK packet, or the OK that ends a result (header 0xFE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OkPacket {
    /// 0x00, or 0xFE at the end of a result.
    pub header: u8,
    /// Rows changed.
    pub affected: u64,
    /// The id that an INSERT made.
    pub insert_id: u64,
    /// Server status.
    pub status: u16,
    /// How many warnings.
    pub warnings: u16,
    /// The human-readable line.
    pub info: Vec<u8>,
    /// Session state changes.
    pub tracked: Vec<Tracked>,
}

/// An ERR packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({sqlstate}): {message}")]
pub struct ErrPacket {
    /// Error number.
    pub code: u16,
    /// Five characters; empty if the server sent none (before login).
    pub sqlstate: String,
    /// The text.
    pub message: String,
}

/// An EOF packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EofPacket {
    /// How many warnings.
    pub warnings: u16,
    /// Server status.
    pub status: u16,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl OkPacket {
    /// Reads an OK packet as these capabilities make it.
    ///
    /// # Errors
    /// The bytes are not an OK packet, or something is left over.
    pub fn decode(payload: &[u8], caps: Caps) -> Result<Self> {
        let mut at = Cursor::new(payload);
        let header = at.u8()?;
        if header != 0x00 && header != 0xFE {
            bail!("an OK packet begins with {header:#x}");
        }
        let affected = at.lenenc()?;
        let insert_id = at.lenenc()?;
        let status = at.u16()?;
        let warnings = at.u16()?;
        let mut ok =
            Self { header, affected, insert_id, status, warnings, info: Vec::new(), tracked: Vec::new() };
        if !caps.has(Caps::SESSION_TRACK) {
            ok.info = at.rest().to_vec();
            return Ok(ok);
        }
        if !at.is_empty() {
            ok.info = at.lenenc_bytes().context("info")?.to_vec();
        }
        if status & status::SESSION_STATE_CHANGED != 0 {
            ok.tracked = tracked(at.lenenc_bytes().context("session state")?)?;
        }
        if !at.is_empty() {
            bail!("{} bytes after an OK packet", at.rest().len());
        }
        Ok(ok)
    }
}

fn tracked(block: &[u8]) -> Result<Vec<Tracked>> {
    let mut at = Cursor::new(block);
    let mut items = Vec::new();
    while !at.is_empty() {
        let kind = at.u8()?;
        let data = at.lenenc_bytes()?;
        let mut inner = Cursor::new(data);
        match kind {
            0 => {
                // MariaDB puts several name/value pairs into one item.
                while !inner.is_empty() {
                    let name = text(inner.lenenc_bytes()?);
                    items.push(Tracked::Variable(name, text(inner.lenenc_bytes()?)));
                }
            }
            1 => items.push(Tracked::Schema(text(inner.lenenc_bytes()?))),
            2 => items.push(Tracked::StateChange(text(data))),
            4 => items.push(Tracked::Characteristics(text(inner.lenenc_bytes()?))),
            5 => items.push(Tracked::Transaction(text(inner.lenenc_bytes()?))),
            other => items.push(Tracked::Other(other, data.to_vec())),
        }
    }
    Ok(items)
}

impl ErrPacket {
    /// Reads an ERR packet, with or without an SQLSTATE.
    ///
    /// # Errors
    /// The bytes are not an ERR packet.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(payload);
        if at.u8()? != 0xFF {
            bail!("an ERR packet begins with {:#x}", payload[0]);
        }
        let code = at.u16()?;
        let mut sqlstate = String::new();
        if at.rest().first() == Some(&b'#') {
            at.take(1)?;
            sqlstate = text(at.take(5)?);
        }
        Ok(Self { code, sqlstate, message: text(at.rest()) })
    }
}

impl EofPacket {
    /// Reads an EOF packet.
    ///
    /// # Errors
    /// The bytes are not an EOF packet of protocol 4.1.
    pub fn decode(payload: &[u8]) -> Result<Self> {
        let mut at = Cursor::new(payload);
        if at.u8()? != 0xFE || payload.len() != 5 {
            bail!("not an EOF packet: {payload:02x?}");
        }
        Ok(Self { warnings: at.u16()?, status: at.u16()? })
    }
}

/// What a column definition says of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its database.
    pub schema: String,
    /// The table's alias.
    pub table: String,
    /// Its name or alias.
    pub name: String,
    /// Collation id; 63 is binary.
    pub charset: u16,
    /// Display length.
    pub length: u32,
    /// Type byte.
    pub kind: u8,
    /// Flags.
    pub flags: u16,
    /// Decimals.
    pub decimals: u8,
}

impl Column {
    /// Reads a column definition.
    ///
    /// # Errors
    /// The bytes are not one.
    pub fn decode(payload: &[u8], caps: Caps) -> Result<Self> {
        let mut at = Cursor::new(payload);
        at.lenenc_bytes().context("catalog")?;
        let schema = text(at.lenenc_bytes()?);
        let table = text(at.lenenc_bytes()?);
        at.lenenc_bytes().context("original table")?;
        let name = text(at.lenenc_bytes()?);
        at.lenenc_bytes().context("original name")?;
        if caps.has(Caps::MARIADB_EXTENDED_METADATA) {
            at.lenenc_bytes().context("extended metadata")?;
        }
        at.lenenc().context("length of the fixed part")?;
        let charset = at.u16()?;
        let length = at.u32()?;
        let kind = at.u8()?;
        let flags = at.u16()?;
        Ok(Self { schema, table, name, charset, length, kind, flags, decimals: at.u8()? })
    }
}

/// Reads a row of a text result; NULL is `None`.
///
/// # Errors
/// The bytes are not a row of `columns` values.
pub fn text_row(payload: &[u8], columns: usize) -> Result<Vec<Option<Vec<u8>>>> {
    let mut at = Cursor::new(payload);
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        if at.rest().first() == Some(&0xFB) {
            at.take(1)?;
            row.push(None);
        } else {
            row.push(Some(at.lenenc_bytes()?.to_vec()));
        }
    }
    if !at.is_empty() {
        bail!("{} bytes after a row", at.rest().len());
    }
    Ok(row)
}
