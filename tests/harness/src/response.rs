//! A whole response as tests look at it: its packets, what each was, and values read from them.

use crate::caps::Caps;
use crate::decode::{Column, Cursor, EofPacket, ErrPacket, OkPacket, text_row};
use crate::packet::{MAX_PAYLOAD, Packet};
use crate::reference::{Role, Shape};
use anyhow::{Context as _, Result, bail};

/// A complete response to one command.
#[derive(Clone, Debug)]
pub struct Response {
    /// The command's first byte.
    pub command: u8,
    /// The connection's capabilities.
    pub caps: Caps,
    /// The server's packets, as they were on the wire.
    pub packets: Vec<Packet>,
    /// What each packet was.
    pub roles: Vec<Role>,
    /// The shape of the whole.
    pub shape: Shape,
}

/// One result set of a response.
#[derive(Clone, Debug, Default)]
pub struct ResultSet {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows, undecoded, over 16 MiB joined.
    pub rows: Vec<Vec<u8>>,
}

/// What a prepared statement's first packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The statement's id.
    pub id: u32,
    /// How many columns.
    pub columns: u16,
    /// How many parameters.
    pub params: u16,
}

impl Response {
    /// Payloads with their roles, continuations joined.
    pub fn payloads(&self) -> Vec<(Role, Vec<u8>)> {
        let mut joined: Vec<(Role, Vec<u8>)> = Vec::new();
        for (role, packet) in self.roles.iter().zip(&self.packets) {
            match joined.last_mut() {
                Some((_, last)) if *role == Role::Continuation => last.extend_from_slice(&packet.payload),
                _ => joined.push((*role, packet.payload.clone())),
            }
        }
        joined
    }

    /// The ERR of this response, if it ended in one.
    pub fn err(&self) -> Option<ErrPacket> {
        let last = (self.roles.last() == Some(&Role::Err)).then(|| self.packets.last()).flatten()?;
        ErrPacket::decode(&last.payload).ok()
    }

    /// The last OK of this response, that at the end of a result too.
    ///
    /// # Errors
    /// The response was an ERR, or ended with something else.
    pub fn ok(&self) -> Result<OkPacket> {
        if let Some(err) = self.err() {
            return Err(err.into());
        }
        let last = self.packets.last().context("no response")?;
        OkPacket::decode(&last.payload, self.caps)
    }

    /// The status at the end of this response, from OK or EOF.
    ///
    /// # Errors
    /// The response was an ERR, or ended with something else.
    pub fn status(&self) -> Result<u16> {
        let last = self.packets.last().context("no response")?;
        if last.payload.len() == 5 && last.payload[0] == 0xFE {
            return Ok(EofPacket::decode(&last.payload)?.status);
        }
        Ok(self.ok()?.status)
    }

    /// Fails if the response is an ERR.
    ///
    /// # Errors
    /// The ERR, as an `ErrPacket`.
    pub fn success(self) -> Result<Self> {
        match self.err() {
            Some(err) => Err(err.into()),
            None => Ok(self),
        }
    }

    /// All result sets.
    ///
    /// # Errors
    /// A packet could not be read.
    pub fn results(&self) -> Result<Vec<ResultSet>> {
        let mut sets: Vec<ResultSet> = Vec::new();
        for (role, payload) in self.payloads() {
            match role {
                Role::ColumnCount => sets.push(ResultSet::default()),
                Role::Definition => {
                    sets.last_mut().context("no result")?.columns.push(Column::decode(&payload, self.caps)?);
                }
                Role::Row => {
                    if sets.is_empty() {
                        sets.push(ResultSet::default()); // COM_STMT_FETCH
                    }
                    sets.last_mut().context("no result")?.rows.push(payload);
                }
                _ => {}
            }
        }
        Ok(sets)
    }

    /// The rows of the first result, read as text; NULL is `None`, bytes that are not UTF-8 are
    /// replaced.
    ///
    /// # Errors
    /// The response was an ERR, or a row could not be read.
    pub fn rows(&self) -> Result<Vec<Vec<Option<String>>>> {
        if let Some(err) = self.err() {
            return Err(err.into());
        }
        let results = self.results()?;
        let Some(set) = results.first() else { return Ok(Vec::new()) };
        let row = |payload: &Vec<u8>| {
            let values = text_row(payload, set.columns.len())?;
            Ok(values
                .into_iter()
                .map(|value| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                .collect())
        };
        set.rows.iter().map(row).collect()
    }

    /// The single value of a response with one row: its first column, not NULL.
    ///
    /// # Errors
    /// There is no such value.
    pub fn value(&self) -> Result<String> {
        let rows = self.rows()?;
        let value = rows.first().and_then(|row| row.first()).context("no row")?;
        value.clone().context("NULL")
    }

    /// The id, columns and parameters of a prepared statement.
    ///
    /// # Errors
    /// This is not the response to a COM_STMT_PREPARE that succeeded.
    pub fn prepared(&self) -> Result<Prepared> {
        if let Some(err) = self.err() {
            return Err(err.into());
        }
        if self.roles.first() != Some(&Role::Prepared) {
            bail!("no statement was prepared: {:?}", self.roles);
        }
        let mut at = Cursor::new(&self.packets[0].payload[1..]);
        Ok(Prepared { id: at.u32()?, columns: at.u16()?, params: at.u16()? })
    }

    /// How many bytes the response has on the wire.
    pub fn wire_bytes(&self) -> usize {
        self.packets.iter().map(|packet| packet.payload.len().min(MAX_PAYLOAD) + 4).sum()
    }
}
