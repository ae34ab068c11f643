//! A socket that is read packet by packet: for logins and for questions to CNs, never for forwarding.
//!
//! What was read ahead stays with the socket, so that nothing is lost when it goes on to forwarding.

use crate::socket::Socket;
use mysql_wire::packet::{self, HEADER, Header};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How much is asked of the socket at a time.
const CHUNK: usize = 4096;

/// A socket, and what was read of it and not used.
#[derive(Debug)]
pub(crate) struct PacketStream {
    pub(crate) socket: Socket,
    unread: Vec<u8>,
}

/// A socket and its unread bytes, borrowed for a conversation.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) socket: &'a mut Socket,
    pub(crate) unread: &'a mut Vec<u8>,
}

/// A packet: its sequence number and its payload.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) seq: u8,
    pub(crate) payload: Vec<u8>,
}

/// Why there is no packet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The peer closed. `true`: in the middle of a packet.
    #[error("{}", if *.0 { "closed in the middle of a packet" } else { "closed" })]
    Closed(bool),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The packet is longer than any that may stand here.
    #[error("packet of {0} bytes")]
    TooLong(usize),
}

impl PacketStream {
    pub(crate) const fn new(socket: Socket) -> Self {
        Self { socket, unread: Vec::new() }
    }

    /// The socket, and what was read ahead.
    pub(crate) fn into_parts(self) -> (Socket, Vec<u8>) {
        (self.socket, self.unread)
    }

    /// Whether something was read of the socket and not looked at.
    pub(crate) const fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(crate) const fn peer(&mut self) -> Peer<'_> {
        Peer { socket: &mut self.socket, unread: &mut self.unread }
    }

    /// As [`Peer::read`].
    pub(crate) async fn read(&mut self, max: usize) -> Result<Packet, ReadError> {
        self.peer().read(max).await
    }

    /// As [`Peer::write`].
    pub(crate) async fn write(&mut self, seq: u8, payload: &[u8]) -> io::Result<()> {
        self.peer().write(seq, payload).await
    }
}

impl Peer<'_> {
    /// Reads a packet of at most `max` bytes, which is below 16 MiB. Cancel safe: what was read stays.
    pub(crate) async fn read(&mut self, max: usize) -> Result<Packet, ReadError> {
        loop {
            if let Some(header) = Header::read(self.unread) {
                if header.len > max {
                    return Err(ReadError::TooLong(header.len));
                }
                let end = HEADER + header.len;
                if self.unread.len() >= end {
                    let payload = self.unread[HEADER..end].to_vec();
                    self.unread.drain(..end);
                    if self.unread.is_empty() {
                        // An idle session keeps no buffer.
                        *self.unread = Vec::new();
                    }
                    return Ok(Packet { seq: header.seq, payload });
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        self.unread.reserve(CHUNK);
        // A read that leaves room tells the runtime that there is no more, which spares one that finds nothing.
        match self.socket.read_buf(self.unread).await? {
            0 => Err(ReadError::Closed(!self.unread.is_empty())),
            _ => Ok(()),
        }
    }

    /// Writes `payload` as a packet. Not cancel safe.
    pub(crate) async fn write(&mut self, seq: u8, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        packet::write(&mut bytes, seq, payload);
        self.socket.write_all(&bytes).await
    }
}
