//! The packets that end a response: OK, EOF and ERR.

use crate::packet::{self, Fields, Malformed, write_lenenc, write_lenenc_bytes};

/// The transaction is open.
pub const IN_TRANS: u16 = 0x0001;
/// Autocommit is on.
pub const AUTOCOMMIT: u16 = 0x0002;
/// Another result follows.
pub const MORE_RESULTS: u16 = 0x0008;
/// The statement has an open cursor.
pub const CURSOR_EXISTS: u16 = 0x0040;
/// The cursor gave its last row.
pub const LAST_ROW_SENT: u16 = 0x0080;
/// Session-state changes are attached.
pub const STATE_CHANGED: u16 = 0x4000;

/// The packet that ends a result, for clients that deprecated EOF, is an OK with this header.
pub const EOF: u8 = 0xFE;
/// OK.
pub const OK: u8 = 0x00;
/// ERR.
pub const ERR: u8 = 0xFF;
/// A request for a file of the client.
pub const LOCAL_INFILE: u8 = 0xFB;

/// An OK packet, or an EOF in the form of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ok<'a> {
    /// [`OK`] or [`EOF`].
    pub header: u8,
    /// Rows that the statement changed.
    pub affected: u64,
    /// The id that it generated.
    pub insert_id: u64,
    /// Status flags.
    pub status: u16,
    /// Number of warnings.
    pub warnings: u16,
    /// Text for people.
    pub info: &'a [u8],
    /// The session-state changes, still encoded.
    pub changes: &'a [u8],
}

impl<'a> Ok<'a> {
    /// Reads the payload of an OK packet of a connection with session tracking.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        let header = fields.u8("OK header")?;
        let affected = fields.lenenc("affected rows")?;
        let insert_id = fields.lenenc("insert id")?;
        let status = fields.u16("status")?;
        let warnings = fields.u16("warnings")?;
        let info = if fields.is_empty() { &[][..] } else { fields.lenenc_bytes("info")? };
        let changes = if status & STATE_CHANGED != 0 && !fields.is_empty() {
            fields.lenenc_bytes("session-state changes")?
        } else {
            &[]
        };
        Ok(Self { header, affected, insert_id, status, warnings, info, changes })
    }

    /// Its payload. With no changes the status says so, and an info that is empty is left out, as MariaDB does.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.header];
        write_lenenc(&mut out, self.affected);
        write_lenenc(&mut out, self.insert_id);
        let changed = if self.changes.is_empty() { 0 } else { STATE_CHANGED };
        out.extend_from_slice(&(self.status & !STATE_CHANGED | changed).to_le_bytes());
        out.extend_from_slice(&self.warnings.to_le_bytes());
        if !self.info.is_empty() || !self.changes.is_empty() {
            write_lenenc_bytes(&mut out, self.info);
        }
        if !self.changes.is_empty() {
            write_lenenc_bytes(&mut out, self.changes);
        }
        out
    }
}

/// An ERR packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Err {
    /// The error number.
    pub code: u16,
    /// Five characters. Absent before the login in some servers.
    pub sqlstate: [u8; 5],
    /// Text for people.
    pub message: Vec<u8>,
}

impl Err {
    /// An error of ours. Where `sqlstate` is not five characters, it is `HY000`.
    #[must_use]
    pub fn new(code: u16, sqlstate: &str, message: impl AsRef<[u8]>) -> Self {
        let sqlstate = sqlstate.as_bytes().try_into().unwrap_or(*b"HY000");
        Self { code, sqlstate, message: message.as_ref().to_vec() }
    }

    /// Its payload.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![ERR];
        out.extend_from_slice(&self.code.to_le_bytes());
        out.push(b'#');
        out.extend_from_slice(&self.sqlstate);
        out.extend_from_slice(&self.message);
        out
    }

    /// Its one packet.
    #[must_use]
    pub fn packet(&self, seq: u8) -> Vec<u8> {
        let mut out = Vec::new();
        packet::write(&mut out, seq, &self.write());
        out
    }

    /// Reads the payload of an ERR packet.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        fields.u8("ERR header")?;
        let code = fields.u16("error number")?;
        let rest = fields.rest();
        if let [b'#', a, b, c, d, e, message @ ..] = rest {
            return Ok(Self { code, sqlstate: [*a, *b, *c, *d, *e], message: message.to_vec() });
        }
        Ok(Self { code, sqlstate: *b"HY000", message: rest.to_vec() })
    }

    /// Whether its SQLSTATE is of class 08: the connection is at fault.
    #[must_use]
    pub fn is_connection_error(&self) -> bool {
        self.sqlstate.starts_with(b"08")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_ok_comes_back(
            affected: u64, insert_id: u64, status: u16, warnings: u16, info: Vec<u8>,
            changes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let changed = if changes.is_empty() { 0 } else { STATE_CHANGED };
            let status = status & !STATE_CHANGED | changed;
            let ok = Ok { header: OK, affected, insert_id, status, warnings, info: &info, changes: &changes };
            let written = ok.write();
            prop_assert_eq!(Ok::read(&written), Ok(ok));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Ok::read(&bytes);
            let _ = Err::read(&bytes);
        }
    }

    #[test]
    fn an_err_comes_back() {
        let err = Err::new(1045, "28000", "Access denied");
        assert_eq!(Err::read(&err.write()), Ok(err));
        // Before the login some servers leave the state out.
        assert_eq!(Err::read(b"\xff\x10\x04Too many").unwrap(), Err::new(1040, "HY000", "Too many"));
        assert!(Err::new(1053, "08S01", "x").is_connection_error());
    }
}
