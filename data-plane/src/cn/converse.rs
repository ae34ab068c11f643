//! Several commands to a CN in one go, and what it said to each.
//!
//! Sent in pieces that the CN's answers to leave room for, so that neither side waits for the other to read. Whatever
//! was asked is read to its end, also where nobody wants it any more: the connection is at rest behind it.
//!
//! Must not know: what the commands are for.

use super::{Asker, CnError, Column, column};
use mysql_wire::command;
use mysql_wire::packet::{self, Fields, Malformed};
use mysql_wire::reply;
use tokio::io::AsyncWriteExt as _;

/// Commands, and bytes of them, that are sent before their answers are read.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = 32 << 10;

/// The longest packet of an answer, in bytes.
const MAX_PACKET: usize = 8 << 20;

/// The most rows of an answer, and the most bytes of them.
const MAX_ROWS: usize = 20_000;
const MAX_BYTES: usize = 16 << 20;

/// Columns whose definition is kept.
const MAX_COLUMNS: usize = 4096;

/// What is kept of the definition of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    /// The number of its collation.
    pub(crate) collation: u16,
    /// The number of its type.
    pub(crate) kind: u8,
    pub(crate) flags: u16,
}

impl Definition {
    /// It stands in the last 12 bytes, whatever is before them. All is 0 where it is none.
    fn read(definition: &[u8]) -> Self {
        let Some(tail) = definition.last_chunk::<12>() else { return Self::default() };
        let [low, high, _, _, _, _, kind, flags, more, ..] = *tail;
        Self { collation: u16::from_le_bytes([low, high]), kind, flags: u16::from_le_bytes([flags, more]) }
    }
}

/// What a CN said to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// OK, with its payload.
    Ok(Vec<u8>),
    /// ERR.
    Err(reply::Err),
    /// Rows of text, and the definition of each column.
    Rows(Vec<Vec<Column>>, Vec<Definition>),
    /// A statement was prepared, under this id, with so many columns and parameters.
    Prepared(u32, u16, u16),
}

impl Said {
    /// Its first row, where it has one.
    pub(crate) fn row(&self) -> Option<&[Column]> {
        match self {
            Self::Rows(rows, _) => rows.first().map(Vec::as_slice),
            Self::Ok(_) | Self::Err(_) | Self::Prepared(..) => None,
        }
    }
}

impl Asker<'_> {
    /// Sends `commands` and gives what was said to each, in their order.
    ///
    /// # Errors
    /// [`CnError`], after which the connection is of no use. An ERR is no error here.
    pub(crate) async fn converse(&mut self, commands: &[Vec<u8>]) -> Result<Vec<Said>, CnError> {
        let mut all = Vec::with_capacity(commands.len());
        while all.len() < commands.len() {
            let (mut bytes, mut asked) = (Vec::new(), 0);
            for command in commands[all.len()..].iter().take(AT_ONCE) {
                if asked > 0 && bytes.len() + command.len() > BYTES_AT_ONCE {
                    break;
                }
                packet::write(&mut bytes, 0, command);
                asked += 1;
            }
            self.peer.socket.write_all(&bytes).await?;
            for _ in 0..asked {
                let code = commands[all.len()].first().copied().unwrap_or_default();
                all.push(self.said(code).await?);
            }
        }
        Ok(all)
    }

    /// Reads the answer to a command of this number.
    async fn said(&mut self, code: u8) -> Result<Said, CnError> {
        // Packets of an answer are numbered from 1: what is left of another one is noticed.
        self.next = 1;
        let first = self.packet().await?;
        match (first.first(), code) {
            (Some(&reply::ERR), _) => Ok(Said::Err(reply::Err::read(&first)?)),
            (Some(&reply::OK), command::STMT_PREPARE) => self.prepared(&first).await,
            (Some(&reply::OK), _) => Ok(Said::Ok(first)),
            (_, command::QUERY) => self.result(&first).await,
            _ => Ok(Said::Ok(first)),
        }
    }

    async fn prepared(&mut self, first: &[u8]) -> Result<Said, CnError> {
        let mut fields = Fields::new(&first[1..]);
        let id = fields.u32("statement id")?;
        let columns = fields.u16("number of columns")?;
        let params = fields.u16("number of parameters")?;
        for definitions in [params, columns].into_iter().filter(|n| *n > 0) {
            for _ in 0..u32::from(definitions) + u32::from(!self.deprecate_eof) {
                self.packet().await?;
            }
        }
        Ok(Said::Prepared(id, columns, params))
    }

    async fn result(&mut self, first: &[u8]) -> Result<Said, CnError> {
        let columns = Fields::new(first).lenenc("column count")?;
        let mut definitions = Vec::new();
        for _ in 0..columns {
            let definition = self.packet().await?;
            definitions.extend((definitions.len() < MAX_COLUMNS).then(|| Definition::read(&definition)));
        }
        if !self.deprecate_eof {
            self.packet().await?;
        }
        let (mut rows, mut bytes) = (Vec::new(), 0);
        loop {
            let packet = self.packet().await?;
            match packet.first() {
                // A row that begins so has a first column of 16 MiB or more, which is longer than is read here.
                Some(&reply::EOF) => return Ok(Said::Rows(rows, definitions)),
                Some(&reply::ERR) => return Ok(Said::Err(reply::Err::read(&packet)?)),
                _ => {}
            }
            bytes += packet.len();
            if rows.len() < MAX_ROWS && bytes <= MAX_BYTES {
                let mut fields = Fields::new(&packet);
                rows.push((0..columns).map(|_| column(&mut fields)).collect::<Result<_, _>>()?);
            }
        }
    }

    async fn packet(&mut self) -> Result<Vec<u8>, CnError> {
        let packet = self.peer.read(MAX_PACKET).await?;
        if packet.seq != self.next {
            return Err(Malformed::Value("sequence number of an answer").into());
        }
        self.next = self.next.wrapping_add(1);
        Ok(packet.payload)
    }
}
