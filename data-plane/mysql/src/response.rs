//! What a CN answers: where a response ends, and what its ends say.
//!
//! Rows and definitions are hopped over by their headers. A packet that ends a response (or one result of it) is held
//! until it is there whole, decoded, and edited where the client must not see all of it; edits only shrink, so they are
//! made in place.

use crate::command::Shape;
use crate::packet::{FULL, Fields, HEADER, Header, Malformed, header_bytes};
use crate::reply::{self, CURSOR_EXISTS, MORE_RESULTS, STATE_CHANGED};
use crate::request::{Pending, Requests, Violation};
use crate::track::{self, Change, Subscription};

/// The longest packet that is held to be decoded, in bytes. Rows and definitions are not held.
pub const MAX_DECODED: usize = 1 << 20;

/// Hears of what a CN said.
pub trait Answered {
    /// An OK: of a statement, or at the end of a result of a client that deprecated EOF.
    fn ok(&mut self, pending: &Pending, ok: &reply::Ok<'_>);

    /// An EOF packet at the end of a result, or behind definitions.
    fn eof(&mut self, pending: &Pending, status: u16, warnings: u16);

    /// An ERR. `None` where nothing was asked: the CN is about to close.
    fn err(&mut self, pending: Option<&Pending>, code: u16);

    /// A change of the session's state.
    fn change(&mut self, change: Change<'_>);

    /// A statement was prepared, under this id of the CN's. Gives the id that the client is to know it by.
    fn prepared(&mut self, statement: u32, columns: u16, params: u16) -> u32;

    /// The whole response of a command is there.
    fn done(&mut self, pending: &Pending);
}

/// A CN whose bytes cannot be what the client asked for. The session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Desync {
    /// It said something that nobody asked for.
    #[error("packet beginning with {0:#04x} answers no command")]
    Unasked(u8),
    /// It said something that cannot stand here.
    #[error("packet beginning with {0:#04x} cannot stand here")]
    Misplaced(u8),
    /// A packet that must be decoded is not as the protocol says.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A packet that must be decoded is too long.
    #[error("packet of {0} bytes ends a response")]
    TooLong(usize),
    /// It asked for a file while other commands were under way.
    #[error(transparent)]
    Upload(#[from] Violation),
}

/// Where in a response it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first packet of a result.
    First,
    /// Definitions, so many of them.
    Definitions { left: u64, then: Then },
    /// The EOF behind definitions.
    Behind(Then),
    /// Rows, or what ends them.
    Rows,
    /// The file was asked for; OK or ERR follow it.
    File,
}

/// What follows definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Rows,
    /// Those of a prepared statement's columns follow those of its parameters.
    Columns(u16),
    Done,
}

/// What of a burst goes where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// So many bytes at the front go to the client.
    pub forward: usize,
    /// The bytes from here on are the beginning of a packet: call again with more behind them.
    pub held: usize,
}

/// The CN's direction of a session.
#[derive(Debug)]
pub struct Responses {
    phase: Phase,
    /// Bytes left of a packet that is hopped over.
    left: usize,
    /// The packet hopped over goes on in the next one.
    continued: bool,
    /// The packet hopped over is a whole response.
    last: bool,
    /// The sequence number of the last packet of a response that is not whole yet.
    last_seq: Option<u8>,
    /// Results end with OK packets.
    deprecate_eof: bool,
    /// What the client is shown of changes; `None`: nothing.
    pub shown: Option<Subscription>,
}

impl Responses {
    /// Of a session whose client did or did not deprecate EOF, and is shown `shown` of changes.
    #[must_use]
    pub const fn new(deprecate_eof: bool, shown: Option<Subscription>) -> Self {
        let (phase, left, continued, last, last_seq) = (Phase::First, 0, false, false, None);
        Self { phase, left, continued, last, last_seq, deprecate_eof, shown }
    }

    /// The CN is gone: the next byte comes from another one, which answers the next command.
    pub const fn cut(&mut self) {
        (self.phase, self.left, self.continued, self.last, self.last_seq) =
            (Phase::First, 0, false, false, None);
    }

    /// Whether the last byte that was taken is the last of a packet.
    #[must_use]
    pub const fn is_at_packet(&self) -> bool {
        self.left == 0 && !self.continued
    }

    /// Whether something of the answer to the command that is next was passed on.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.last_seq.is_some()
    }

    /// Whether nothing of a result has come: an ERR may stand here in place of the response.
    #[must_use]
    pub fn is_before_result(&self) -> bool {
        self.is_at_packet() && self.phase == Phase::First
    }

    /// Whether rows are on their way: an ERR may stand here in place of the next one.
    #[must_use]
    pub fn is_between_rows(&self) -> bool {
        self.is_at_packet() && self.phase == Phase::Rows
    }

    /// The sequence number of a packet that would stand here, in the response to the command that is next.
    #[must_use]
    pub fn next_seq(&self, requests: &Requests) -> u8 {
        self.last_seq.unwrap_or_else(|| requests.last_seq()).wrapping_add(1)
    }

    /// Takes what it can of `bytes`, edits it in place, and tells `events`.
    ///
    /// # Errors
    /// [`Desync`]. What of the burst was good is lost; the session is to be closed.
    pub fn advance(
        &mut self,
        bytes: &mut [u8],
        requests: &mut Requests,
        events: &mut impl Answered,
    ) -> Result<Advanced, Desync> {
        let len = bytes.len();
        // Read here, written there: apart once an edit made a packet shorter.
        let (mut from, mut to) = (0, 0);
        loop {
            let now = self.left.min(len - from);
            shift(bytes, from, to, now);
            from += now;
            to += now;
            self.left -= now;
            if self.left > 0 {
                return Ok(Advanced { forward: to, held: from });
            }
            if self.last && !self.continued {
                self.last = false;
                self.end(requests, events);
            }
            let Some(header) = Header::read(&bytes[from..]) else {
                return Ok(Advanced { forward: to, held: from });
            };
            if self.continued {
                self.hop(header);
                shift(bytes, from, to, HEADER);
                from += HEADER;
                to += HEADER;
                continue;
            }
            let Some(&first) = bytes.get(from + HEADER).filter(|_| header.len > 0) else {
                if header.len == 0 {
                    return Err(Desync::Misplaced(0));
                }
                return Ok(Advanced { forward: to, held: from });
            };
            if self.is_hopped(requests, header.len, first) {
                self.hop(header);
                shift(bytes, from, to, HEADER);
                from += HEADER;
                to += HEADER;
                continue;
            }
            if header.len > MAX_DECODED {
                return Err(Desync::TooLong(header.len));
            }
            let end = from + HEADER + header.len;
            if len < end {
                return Ok(Advanced { forward: to, held: from });
            }
            self.last_seq = Some(header.seq);
            let kept = self.decode(&mut bytes[from + HEADER..end], requests, events)?;
            if from != to || kept != header.len {
                bytes.copy_within(from + HEADER..from + HEADER + kept, to + HEADER);
                bytes[to..to + HEADER].copy_from_slice(&header_bytes(kept, header.seq));
            }
            from = end;
            to += HEADER + kept;
        }
    }

    fn hop(&mut self, header: Header) {
        self.left = header.len;
        self.continued = header.len == FULL;
        self.last_seq = Some(header.seq);
    }

    /// Whether the packet is only passed on. Counts definitions, as they are hopped over.
    fn is_hopped(&mut self, requests: &Requests, len: usize, first: u8) -> bool {
        let Some(pending) = requests.next() else { return false };
        match self.phase {
            Phase::First if pending.shape == Shape::Text && first != reply::ERR => {
                self.last = true;
                true
            }
            Phase::First if matches!(pending.shape, Shape::Rows | Shape::Fields) => !self.ends(len, first),
            Phase::Rows => !self.ends(len, first),
            Phase::Definitions { left, then } if first != reply::ERR => {
                match left {
                    2.. => self.phase = Phase::Definitions { left: left - 1, then },
                    _ => self.behind(then),
                }
                true
            }
            _ => false,
        }
    }

    /// Whether a packet among rows ends them.
    const fn ends(&self, len: usize, first: u8) -> bool {
        match first {
            reply::ERR => true,
            // A row may begin with 0xFE too: a first column of 16 MiB or more, so in a full packet.
            reply::EOF if self.deprecate_eof => len < FULL,
            reply::EOF => len < 9,
            _ => false,
        }
    }

    /// The last definition is passing. An EOF follows, or at once what stands behind it.
    const fn behind(&mut self, then: Then) {
        self.phase = match then {
            then if !self.deprecate_eof => Phase::Behind(then),
            Then::Rows => Phase::Rows,
            Then::Columns(columns @ 1..) => Phase::Definitions { left: columns as u64, then: Then::Done },
            Then::Columns(0) | Then::Done => {
                self.last = true;
                Phase::First
            }
        };
    }

    /// Decodes a packet that says something, and returns how many of its bytes are kept.
    fn decode(
        &mut self,
        payload: &mut [u8],
        requests: &mut Requests,
        events: &mut impl Answered,
    ) -> Result<usize, Desync> {
        let first = payload[0];
        let Some(&pending) = requests.next() else {
            if first != reply::ERR {
                return Err(Desync::Unasked(first));
            }
            events.err(None, reply::Err::read(payload)?.code);
            return Ok(payload.len());
        };
        if first == reply::ERR {
            events.err(Some(&pending), reply::Err::read(payload)?.code);
            self.end(requests, events);
            return Ok(payload.len());
        }
        match (self.phase, pending.shape, first) {
            (Phase::First, Shape::Prepare, reply::OK) => self.prepared(payload, requests, events)?,
            (Phase::First, Shape::Simple | Shape::Results, reply::OK) | (Phase::File, _, reply::OK) => {
                return self.ok(payload, &pending, requests, events);
            }
            (Phase::First, Shape::Simple | Shape::Rows | Shape::Fields, reply::EOF)
            | (Phase::Rows, _, reply::EOF) => {
                if payload.len() >= 7 {
                    return self.ok(payload, &pending, requests, events);
                }
                let status = self.eof(payload, &pending, events)?;
                self.result_ended(status, requests, events);
            }
            (Phase::First, Shape::Results, reply::LOCAL_INFILE) => {
                requests.begin_upload()?;
                self.phase = Phase::File;
            }
            (Phase::First, Shape::Results, _) => {
                let left = Fields::new(payload).lenenc("column count")?;
                if left == 0 || left > u64::from(u16::MAX) {
                    return Err(Desync::Misplaced(first));
                }
                self.phase = Phase::Definitions { left, then: Then::Rows };
            }
            (Phase::Behind(then), _, reply::EOF) => {
                let status = self.eof(payload, &pending, events)?;
                self.phase = match then {
                    // The rows of a cursor are fetched later.
                    Then::Rows if status & CURSOR_EXISTS != 0 => {
                        self.result_ended(status, requests, events);
                        return Ok(payload.len());
                    }
                    Then::Rows => Phase::Rows,
                    Then::Columns(0) | Then::Done => {
                        self.end(requests, events);
                        return Ok(payload.len());
                    }
                    Then::Columns(columns) => Phase::Definitions { left: columns.into(), then: Then::Done },
                };
            }
            _ => return Err(Desync::Misplaced(first)),
        }
        Ok(payload.len())
    }

    fn ok(
        &mut self,
        payload: &mut [u8],
        pending: &Pending,
        requests: &mut Requests,
        events: &mut impl Answered,
    ) -> Result<usize, Desync> {
        let ok = reply::Ok::read(payload)?;
        track::read(ok.changes, |change| events.change(change))?;
        events.ok(pending, &ok);
        let status = ok.status;
        let mut kept = payload.len();
        if status & STATE_CHANGED != 0 {
            if let Some(shown) = &mut self.shown {
                // A tracker that the client switched holds from this very packet on.
                track::read(ok.changes, |change| {
                    if let Change::Variable { name, value } = change {
                        shown.set(name, value);
                    }
                })?;
            }
            let changes = match &self.shown {
                Some(shown) => shown.filter(ok.changes)?,
                None => Vec::new(),
            };
            let edited = reply::Ok { changes: &changes, ..ok }.write();
            kept = edited.len();
            payload.get_mut(..kept).ok_or(Malformed::Value("OK"))?.copy_from_slice(&edited);
        }
        self.result_ended(status, requests, events);
        Ok(kept)
    }

    /// An EOF packet: its status, and what a client may see of it. The changes that it announces are nowhere: the CN
    /// never sends them.
    fn eof(&self, payload: &mut [u8], pending: &Pending, events: &mut impl Answered) -> Result<u16, Desync> {
        let mut fields = Fields::new(&payload[1..]);
        let warnings = fields.u16("warnings")?;
        let status = fields.u16("status")?;
        events.eof(pending, status, warnings);
        payload[3..5].copy_from_slice(&(status & !STATE_CHANGED).to_le_bytes());
        Ok(status)
    }

    fn prepared(
        &mut self,
        payload: &mut [u8],
        requests: &mut Requests,
        events: &mut impl Answered,
    ) -> Result<(), Desync> {
        let mut fields = Fields::new(&payload[1..]);
        let statement = fields.u32("statement id")?;
        let columns = fields.u16("number of columns")?;
        let params = fields.u16("number of parameters")?;
        let id = events.prepared(statement, columns, params);
        payload[1..5].copy_from_slice(&id.to_le_bytes());
        match (params, columns) {
            (0, 0) => self.end(requests, events),
            (0, columns) => {
                self.phase = Phase::Definitions { left: columns.into(), then: Then::Done };
            }
            (params, columns) => {
                self.phase = Phase::Definitions { left: params.into(), then: Then::Columns(columns) };
            }
        }
        Ok(())
    }

    /// A result ended with `status`: another follows, or the response is whole.
    fn result_ended(&mut self, status: u16, requests: &mut Requests, events: &mut impl Answered) {
        self.phase = Phase::First;
        if status & MORE_RESULTS == 0 {
            self.end(requests, events);
        }
    }

    fn end(&mut self, requests: &mut Requests, events: &mut impl Answered) {
        self.phase = Phase::First;
        self.last_seq = None;
        finish(requests, events);
    }
}

fn finish(requests: &mut Requests, events: &mut impl Answered) {
    if let Some(pending) = requests.answered() {
        events.done(&pending);
    }
}

/// Moves `n` bytes to the front, where they are not there already.
fn shift(bytes: &mut [u8], from: usize, to: usize, n: usize) {
    if from != to {
        bytes.copy_within(from..from + n, to);
    }
}
