//! The session state in an OK packet, taken apart without a look at what it means: for comparing, and
//! for saying what a client without SESSION_TRACK would be sent.

use crate::caps::Caps;
use crate::decode::{Cursor, status};

/// An OK with a block of session state, in parts. Put together they are no packet: the block's length
/// is left out.
pub struct OkParts {
    /// From the header byte to the number of warnings.
    pub head: Vec<u8>,
    /// The info, with its length.
    pub info: Vec<u8>,
    /// The items, each with its type.
    pub items: Vec<Vec<u8>>,
}

impl OkParts {
    /// Takes an OK apart; none if it has no block of session state.
    pub fn of(payload: &[u8], caps: Caps) -> Option<Self> {
        let mut at = Cursor::new(payload);
        let read = |at: &Cursor<'_>| payload.len() - at.rest().len();
        at.u8().ok()?;
        at.lenenc().ok()?;
        at.lenenc().ok()?;
        let status = at.u16().ok()?;
        if !caps.has(Caps::SESSION_TRACK) || status & status::SESSION_STATE_CHANGED == 0 {
            return None;
        }
        at.u16().ok()?;
        let head = payload[..read(&at)].to_vec();
        at.lenenc_bytes().ok()?;
        let info = payload[head.len()..read(&at)].to_vec();
        let mut inner = Cursor::new(at.lenenc_bytes().ok()?);
        let mut items = Vec::new();
        while !inner.is_empty() {
            let start = inner.rest();
            inner.u8().ok()?;
            inner.lenenc_bytes().ok()?;
            items.push(start[..start.len() - inner.rest().len()].to_vec());
        }
        Some(Self { head, info, items })
    }

    /// This OK as MariaDB sends it when there is nothing to tell of the state: no bit in the status,
    /// and no info if it is empty.
    pub fn without_items(mut self) -> Vec<u8> {
        let status = self.head.len() - 3;
        self.head[status] &= !((status::SESSION_STATE_CHANGED >> 8) as u8);
        if self.info != [0] {
            self.head.extend(self.info);
        }
        self.head
    }
}
