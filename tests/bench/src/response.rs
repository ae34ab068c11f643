//! Where the response to a COM_QUERY ends, for a client that did not deprecate EOF: the load generator's own reading,
//! by packet headers, in constant memory however large a row is.

use anyhow::{Result, bail};

/// The longest payload of a packet; one that is this long is continued by the next.
const MAX_PAYLOAD: usize = 0xFF_FFFF;

/// How much of an error is kept to be told.
const MOST_OF_AN_ERROR: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// OK, ERR, or the number of columns.
    First,
    /// Column definitions, up to an EOF.
    Definitions,
    /// Rows, up to an EOF or an ERR.
    Rows,
}

/// Follows responses, one after the other.
#[derive(Debug)]
pub(crate) struct Responses {
    stage: Stage,
    header: [u8; 4],
    have: usize,
    /// What is missing of the payload.
    left: usize,
    /// The packet goes on with the one before it.
    continues: bool,
    /// The packet is the last one of its response.
    last: bool,
    /// What came of an ERR.
    error: Option<Vec<u8>>,
}

impl Responses {
    /// Before the first byte of a response.
    pub(crate) const fn new() -> Self {
        Self {
            stage: Stage::First,
            header: [0; 4],
            have: 0,
            left: 0,
            continues: false,
            last: false,
            error: None,
        }
    }

    /// Takes the next bytes; whether the response has ended with the last of them.
    ///
    /// # Errors
    /// The response is an ERR, or more came than one response.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<bool> {
        while !bytes.is_empty() {
            if self.have < self.header.len() {
                let take = bytes.len().min(self.header.len() - self.have);
                self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                if self.have < self.header.len() {
                    return Ok(false);
                }
                self.left = self.length();
                // An empty packet ends what goes over 16 MiB, and is a statement without columns nowhere.
                if self.left > 0 {
                    continue;
                }
            } else {
                self.payload(&mut bytes);
            }
            if self.left == 0 && self.end_packet()? {
                if !bytes.is_empty() {
                    bail!("{} bytes behind the end of a response", bytes.len());
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn length(&self) -> usize {
        u32::from_le_bytes([self.header[0], self.header[1], self.header[2], 0]) as usize
    }

    fn payload(&mut self, bytes: &mut &[u8]) {
        if self.left == self.length() && !self.continues {
            self.classify(bytes[0]);
        }
        let take = bytes.len().min(self.left);
        if let Some(error) = &mut self.error {
            let room = MOST_OF_AN_ERROR.saturating_sub(error.len());
            error.extend_from_slice(&bytes[..take.min(room)]);
        }
        *bytes = &bytes[take..];
        self.left -= take;
    }

    /// Says what a packet is by its first byte.
    fn classify(&mut self, first: u8) {
        let short = self.length() < 9;
        match (self.stage, first) {
            (_, 0xFF) => {
                self.error = Some(Vec::new());
                self.last = true;
            }
            (Stage::First, 0x00) => self.last = true,
            (Stage::First, _) => self.stage = Stage::Definitions,
            (Stage::Definitions, 0xFE) if short => self.stage = Stage::Rows,
            (Stage::Rows, 0xFE) if short => self.last = true,
            _ => {}
        }
    }

    fn end_packet(&mut self) -> Result<bool> {
        self.continues = self.length() == MAX_PAYLOAD;
        self.have = 0;
        if !self.last || self.continues {
            return Ok(false);
        }
        let error = self.error.take();
        *self = Self::new();
        match error {
            Some(error) => {
                bail!("the server says: {}", String::from_utf8_lossy(error.get(3..).unwrap_or(b"")))
            }
            None => Ok(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(seq: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes()[..3].to_vec();
        bytes.push(seq);
        bytes.extend_from_slice(payload);
        bytes
    }

    const EOF: [u8; 5] = [0xFE, 0, 0, 2, 0];

    fn result(row: &[u8]) -> Vec<u8> {
        [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &EOF), packet(4, row), packet(5, &EOF)].concat()
    }

    fn ends(bytes: &[u8], piece: usize) -> usize {
        let mut responses = Responses::new();
        bytes.chunks(piece).filter(|piece| responses.push(piece).unwrap()).count()
    }

    #[test]
    fn a_result_ends_at_its_second_eof_however_it_is_cut() {
        let bytes = result(b"\x01x");
        for piece in 1..=bytes.len() {
            assert_eq!(ends(&bytes, piece), 1, "{piece}");
            assert_eq!(ends(&bytes[..bytes.len() - 1], piece), 0, "{piece}");
        }
    }

    #[test]
    fn an_ok_is_a_whole_response_and_the_next_one_follows() {
        let mut responses = Responses::new();
        for _ in 0..2 {
            assert!(responses.push(&packet(1, &[0, 1, 0, 2, 0, 0, 0])).unwrap());
        }
    }

    #[test]
    fn an_error_is_told_in_its_words() {
        let mut responses = Responses::new();
        let error = responses.push(&packet(1, b"\xFF\x28\x04#42000You have an error")).unwrap_err();
        assert!(error.to_string().contains("You have an error"), "{error}");
        let mut responses = Responses::new();
        let mut bytes = result(b"\x01x");
        bytes.truncate(bytes.len() - 9);
        assert!(!responses.push(&bytes).unwrap());
        assert!(responses.push(&packet(5, b"\xFF\x25\x05#70100interrupted")).is_err());
    }

    #[test]
    fn a_row_over_sixteen_mebibytes_does_not_end_where_its_next_packet_looks_like_an_eof() {
        let head = vec![b'x'; MAX_PAYLOAD];
        let row = [packet(4, &head), packet(5, &[0xFE, 1, 2])].concat();
        let bytes = [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &EOF), row, packet(6, &EOF)].concat();
        assert_eq!(ends(&bytes, 65_536), 1);
        assert_eq!(ends(&bytes[..bytes.len() - 9], 65_536), 0);
        // A row that fills its last packet is followed by an empty one.
        let row = [packet(4, &head), packet(5, &[])].concat();
        let bytes = [packet(1, &[1]), packet(2, b"\x03def"), packet(3, &EOF), row, packet(6, &EOF)].concat();
        assert_eq!(ends(&bytes, 70_000), 1);
    }

    #[test]
    fn what_comes_unasked_is_an_error() {
        let bytes = [result(b"\x01x"), vec![1]].concat();
        assert!(Responses::new().push(&bytes).is_err());
    }
}
