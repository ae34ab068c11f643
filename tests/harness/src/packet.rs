//! Packets on a stream: three bytes of length, one of sequence, a payload of at most 2^24 - 1 bytes.
//!
//! A payload of exactly 2^24 - 1 bytes is continued by the next packet. Here a packet is what is on
//! the wire; joining continuations is the reader's choice (`join`).

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The longest payload of one packet; one that is this long is continued.
pub const MAX_PAYLOAD: usize = 0xFF_FFFF;

/// One packet as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Sequence number.
    pub sequence: u8,
    /// Payload, without the header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// The bytes of this packet on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(self.payload.len(), self.sequence).to_vec();
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// The stream failed, or ended (`UnexpectedEof`).
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut head = [0; 4];
        from.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        from.read_exact(&mut payload).await?;
        Ok(Self { sequence: head[3], payload })
    }
}

/// A packet header.
pub fn header(length: usize, sequence: u8) -> [u8; 4] {
    let [a, b, c, ..] = (length as u32).to_le_bytes();
    [a, b, c, sequence]
}

/// Cuts a payload into packets, the first with this sequence number. A payload that fills its last
/// packet is followed by an empty one.
pub fn split(payload: &[u8], first: u8) -> Vec<Packet> {
    let mut packets = Vec::new();
    let mut rest = payload;
    let mut sequence = first;
    loop {
        let (head, tail) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        packets.push(Packet { sequence, payload: head.to_vec() });
        sequence = sequence.wrapping_add(1);
        if head.len() < MAX_PAYLOAD {
            return packets;
        }
        rest = tail;
    }
}

/// Joins packets that continue each other into whole payloads.
pub fn join(packets: &[Packet]) -> Vec<Vec<u8>> {
    let mut joined: Vec<Vec<u8>> = Vec::new();
    let mut continues = false;
    for packet in packets {
        match joined.last_mut() {
            Some(last) if continues => last.extend_from_slice(&packet.payload),
            _ => joined.push(packet.payload.clone()),
        }
        continues = packet.payload.len() == MAX_PAYLOAD;
    }
    joined
}
