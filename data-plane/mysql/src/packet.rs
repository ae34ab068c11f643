//! Packets: the four bytes of their headers, integers and strings inside.
//!
//! A packet is three bytes of length, a sequence number, and up to 2^24 - 1 bytes. A payload of that very length goes
//! on in the next packet.

/// Bytes of a header.
pub const HEADER: usize = 4;

/// A payload of this length goes on in the next packet.
pub const FULL: usize = 0xFF_FFFF;

/// Something that is not as the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The packet ends in the middle of a field.
    #[error("packet ends within {0}")]
    Short(&'static str),
    /// A field has a value that it cannot have.
    #[error("{0} has an impossible value")]
    Value(&'static str),
}

/// The header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub len: usize,
    /// The sequence number.
    pub seq: u8,
}

impl Header {
    /// Reads a header; `None` where `bytes` has fewer than four.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, seq, ..] = *bytes else { return None };
        let len = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
        Some(Self { len, seq })
    }
}

/// Writes `payload` as one packet, or as several where it is longer than one can be. Returns the next sequence number.
pub fn write(out: &mut Vec<u8>, mut seq: u8, payload: &[u8]) -> u8 {
    let mut rest = payload;
    loop {
        let (now, later) = rest.split_at(rest.len().min(FULL));
        write_header(out, now.len(), seq);
        out.extend_from_slice(now);
        seq = seq.wrapping_add(1);
        rest = later;
        if now.len() < FULL {
            return seq;
        }
    }
}

/// Writes a header. `len` is at most [`FULL`].
pub fn write_header(out: &mut Vec<u8>, len: usize, seq: u8) {
    out.extend_from_slice(&header_bytes(len, seq));
}

/// The bytes of a header.
#[must_use]
pub fn header_bytes(len: usize, seq: u8) -> [u8; HEADER] {
    debug_assert!(len <= FULL, "a packet is not longer than its header can say");
    let [a, b, c, ..] = len.to_le_bytes();
    [a, b, c, seq]
}

/// Reads the fields of a payload from front to back.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `payload`.
    #[must_use]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// What was not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed::Short`] names `what`.
    pub fn bytes(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (now, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Short(what))?;
        self.rest = rest;
        Ok(now)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`Malformed::Short`] names `what`.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.bytes(1, what)?[0])
    }

    /// A little-endian number of `n` bytes, at most 8.
    ///
    /// # Errors
    /// [`Malformed::Short`] names `what`.
    pub fn uint(&mut self, n: usize, what: &'static str) -> Result<u64, Malformed> {
        let bytes = self.bytes(n, what)?;
        Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`Malformed::Short`] names `what`.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        let bytes = self.bytes(2, what)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`Malformed::Short`] names `what`.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        let bytes = self.bytes(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A length-encoded number.
    ///
    /// # Errors
    /// [`Malformed`] names `what`: cut off, or the marks for NULL and ERR.
    pub fn lenenc(&mut self, what: &'static str) -> Result<u64, Malformed> {
        match self.u8(what)? {
            small @ 0..=0xFA => Ok(u64::from(small)),
            0xFC => self.uint(2, what),
            0xFD => self.uint(3, what),
            0xFE => self.uint(8, what),
            0xFB | 0xFF => Err(Malformed::Value(what)),
        }
    }

    /// A string with a length-encoded length.
    ///
    /// # Errors
    /// [`Malformed`] names `what`.
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.lenenc(what)?;
        let len = usize::try_from(len).map_err(|_| Malformed::Short(what))?;
        self.bytes(len, what)
    }

    /// A string up to a zero byte, which is taken and not given.
    ///
    /// # Errors
    /// [`Malformed::Short`] names `what`, where there is no zero byte.
    pub fn nul_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed::Short(what))?;
        let now = self.bytes(end, what)?;
        self.bytes(1, what)?;
        Ok(now)
    }
}

/// Writes a length-encoded number.
pub fn write_lenenc(out: &mut Vec<u8>, n: u64) {
    let bytes = n.to_le_bytes();
    match n {
        0..=0xFA => out.push(bytes[0]),
        0xFB..=0xFFFF => {
            out.push(0xFC);
            out.extend_from_slice(&bytes[..2]);
        }
        0x1_0000..=0xFF_FFFF => {
            out.push(0xFD);
            out.extend_from_slice(&bytes[..3]);
        }
        _ => {
            out.push(0xFE);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Writes a string with a length-encoded length.
pub fn write_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_packet_is_followed_by_another() {
        for (len, packets) in [(0, 1), (1, 1), (FULL - 1, 1), (FULL, 2), (FULL + 1, 2)] {
            let mut out = Vec::new();
            let next = write(&mut out, 0, &vec![7; len]);
            assert_eq!((usize::from(next), out.len()), (packets, len + packets * HEADER), "{len}");
        }
    }

    #[test]
    fn null_and_err_marks_are_no_numbers() {
        assert_eq!(Fields::new(&[0xFB]).lenenc("n"), Err(Malformed::Value("n")));
        assert_eq!(Fields::new(&[0xFF]).lenenc("n"), Err(Malformed::Value("n")));
        assert_eq!(Fields::new(&[0xFC, 1]).lenenc("n"), Err(Malformed::Short("n")));
    }

    proptest! {
        #[test]
        fn numbers_come_back(n: u64) {
            let mut out = Vec::new();
            write_lenenc(&mut out, n);
            let mut fields = Fields::new(&out);
            prop_assert_eq!(fields.lenenc("n"), Ok(n));
            prop_assert!(fields.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut fields = Fields::new(&bytes);
            while fields.lenenc_bytes("x").is_ok() {}
            let _ = Fields::new(&bytes).nul_bytes("x");
        }
    }
}
