//! What a client sends: where commands begin, what they are, and which of them await a response.
//!
//! A command is looked at where it starts: no more of it than has come, or is waited for, never the middle of an upload or of a payload
//! that goes over several packets. Everything else is hopped over.

use crate::command::{self, Kind, Shape};
use crate::packet::{FULL, HEADER, Header};
use crate::{login, sql};
use std::collections::VecDeque;

/// How much of a statement is waited for, in bytes, so that it can be looked at. Shorter ones are seen whole, in however many
/// pieces they come; nearly all that programs write are.
pub const LOOK: usize = 16 << 10;

/// Commands that may await their response. A client that sends more is not read until some are answered.
pub const MAX_PENDING: usize = 1024;

/// A command that awaits its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its number.
    pub code: u8,
    /// The shape of its response.
    pub shape: Shape,
    /// The statement that it is about, for those that are about one.
    pub statement: u32,
    /// Whether all of it was looked at.
    pub seen: bool,
}

/// A command as its beginning tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Its number.
    pub code: u8,
    /// What follows the number: all of it, or a beginning.
    pub body: &'a [u8],
    /// Whether `body` is all.
    pub whole: bool,
}

impl Command<'_> {
    /// The statement that it is about; of COM_SET_OPTION the option.
    #[must_use]
    pub fn statement(&self) -> u32 {
        match self.body {
            [a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]),
            [a, b] if self.code == command::SET_OPTION => u32::from(u16::from_le_bytes([*a, *b])),
            _ => 0,
        }
    }
}

/// Hears of commands as they are forwarded.
pub trait Requested {
    /// A command begins, and goes to the CN. Where it is about a statement that the CN knows by another id than the
    /// client, gives that id: it is what the CN reads.
    fn command(&mut self, command: Command<'_>) -> Option<u32>;

    /// More of the command whose beginning was not all of it.
    fn more(&mut self, body: &[u8]);

    /// Of an execute of statement `id`: how many bytes of it, its number included, must be there to tell what it binds.
    fn look(&self, id: u32) -> usize;
}

/// Why forwarding stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What is left is the beginning of something: call again with more behind it.
    Partial,
    /// What is left begins with a command that does not go to the CN as it is. The packet has this many bytes, its
    /// header included, and is all there.
    Intercepted(usize),
    /// Too many commands await their response.
    Full,
}

/// A client that breaks the protocol. Its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A command does not begin with sequence number 0.
    #[error("command begins with sequence number {0}")]
    OutOfOrder(u8),
    /// A command that must be seen whole is longer than any real one.
    #[error("command {0:#04x} of {1} bytes")]
    TooLong(u8, usize),
    /// More was sent behind a LOAD DATA LOCAL than its file.
    #[error("a command was sent ahead behind a request for a file")]
    SentAhead,
}

/// Where in the stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next packet begins a command.
    Command,
    /// Within a command: bytes left of its packet, and whether another packet of it follows.
    Body { left: usize, continued: bool, fed: bool },
    /// At the header of a further packet of a command.
    Continuation { fed: bool },
    /// The next packet is of a file.
    Upload { continued: bool },
    /// Within a packet of a file.
    UploadBody { left: usize, continued: bool },
}

/// The client's direction of a session.
#[derive(Debug)]
pub struct Requests {
    state: State,
    pending: VecDeque<Pending>,
    /// The sequence number of the client's last packet.
    seq: u8,
}

impl Default for Requests {
    fn default() -> Self {
        Self { state: State::Command, pending: VecDeque::new(), seq: 0 }
    }
}

impl Requests {
    /// Whether no command is under way and every one has had its whole response.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.state == State::Command && self.pending.is_empty()
    }

    /// Whether the next byte begins a command.
    #[must_use]
    pub fn is_at_command(&self) -> bool {
        self.state == State::Command
    }

    /// Whether a file is being sent.
    #[must_use]
    pub const fn is_uploading(&self) -> bool {
        matches!(self.state, State::Upload { .. } | State::UploadBody { .. })
    }

    /// The command whose response is next.
    #[must_use]
    pub fn next(&self) -> Option<&Pending> {
        self.pending.front()
    }

    /// How many commands await their response.
    #[must_use]
    pub fn awaited(&self) -> usize {
        self.pending.len()
    }

    /// The sequence number of the last packet of the command whose response is next.
    pub(crate) fn last_seq(&self) -> u8 {
        // Only the last command can be known to have had several packets.
        if self.pending.len() == 1 { self.seq } else { 0 }
    }

    /// The CN is gone: no answer to what is under way will come from it. Gives how many were awaited. What is left of a
    /// command or a file that is being sent is for [`Requests::skip`].
    pub fn cut(&mut self) -> usize {
        let awaited = self.pending.len();
        self.pending = VecDeque::new();
        awaited
    }

    /// The sequence number behind the client's last packet.
    #[must_use]
    pub const fn seq_behind(&self) -> u8 {
        self.seq.wrapping_add(1)
    }

    /// Takes from the front of `bytes` what is left of the command or the file that is being sent. Returns how many bytes
    /// that is; where the command ends, it ends.
    pub fn skip(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Command {
            match self.hop(&bytes[at..]) {
                Some(taken) => at += taken,
                None => break,
            }
        }
        at
    }

    /// One step through `rest`, which is not empty and begins no command. `None`: more must be there first.
    fn hop(&mut self, rest: &[u8]) -> Option<usize> {
        match self.state {
            State::Command => Some(0),
            State::Body { left, continued, fed } => {
                let now = left.min(rest.len());
                self.state = match (left - now, continued) {
                    (0, true) => State::Continuation { fed },
                    (0, false) => State::Command,
                    (left, _) => State::Body { left, continued, fed },
                };
                Some(now)
            }
            State::Continuation { .. } | State::Upload { .. } => {
                let header = Header::read(rest)?;
                self.seq = header.seq;
                self.state = self.further(header.len);
                Some(HEADER)
            }
            State::UploadBody { left, continued } => {
                let now = left.min(rest.len());
                self.state = match left - now {
                    0 => State::Upload { continued },
                    left => State::UploadBody { left, continued },
                };
                Some(now)
            }
        }
    }

    /// The response of the next command is whole.
    pub(crate) fn answered(&mut self) -> Option<Pending> {
        let pending = self.pending.pop_front();
        if self.pending.is_empty() && self.pending.capacity() > 8 {
            self.pending.shrink_to(0);
        }
        pending
    }

    /// The CN asked for a file: what the client sends next is that file.
    pub(crate) fn begin_upload(&mut self) -> Result<(), Violation> {
        if self.state != State::Command || self.pending.len() != 1 {
            return Err(Violation::SentAhead);
        }
        self.state = State::Upload { continued: false };
        Ok(())
    }

    /// Takes what can be forwarded from the front of `bytes`, and writes the CN's ids of statements into it. Returns how
    /// many bytes that is, and why it ends there, unless all were taken.
    ///
    /// # Errors
    /// [`Violation`].
    pub fn advance(
        &mut self,
        bytes: &mut [u8],
        events: &mut impl Requested,
    ) -> Result<(usize, Option<Stop>), Violation> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            match self.state {
                State::Command => match self.begin(rest, events)? {
                    Ok(taken) => at += taken,
                    Err(stop) => return Ok((at, Some(stop))),
                },
                state => {
                    let Some(taken) = self.hop(rest) else { return Ok((at, Some(Stop::Partial))) };
                    if matches!(state, State::Body { fed: true, .. }) {
                        events.more(&rest[..taken]);
                    }
                    at += taken;
                }
            }
        }
        Ok((at, None))
    }

    /// Counts `packet`, which is a whole intercepted command, as forwarded after all.
    pub fn pass(&mut self, packet: &[u8], events: &mut impl Requested) {
        let Some((&code, body)) = packet.get(HEADER..).and_then(<[u8]>::split_first) else { return };
        let Kind::Forward(shape) = command::kind(code) else { return };
        let command = Command { code, body, whole: true };
        self.pending.push_back(Pending { code, shape, statement: command.statement(), seen: true });
        // What is intercepted is about no statement.
        let _ = events.command(command);
    }

    /// The state behind a header that begins no command.
    fn further(&self, len: usize) -> State {
        let continued = len == FULL;
        match self.state {
            // An empty packet ends a file, but not where it only ends a payload of several packets.
            State::Upload { continued: false } if len == 0 => State::Command,
            State::Upload { .. } if len == 0 => State::Upload { continued: false },
            State::Upload { .. } => State::UploadBody { left: len, continued },
            State::Continuation { .. } if len == 0 => State::Command,
            State::Continuation { fed } => State::Body { left: len, continued, fed },
            state => state,
        }
    }

    /// Begins a command at the front of `bytes`, which has at least one byte.
    fn begin(
        &mut self,
        bytes: &mut [u8],
        events: &mut impl Requested,
    ) -> Result<Result<usize, Stop>, Violation> {
        let Some(header) = Header::read(bytes) else {
            return Ok(Err(Stop::Partial));
        };
        if header.seq != 0 {
            return Err(Violation::OutOfOrder(header.seq));
        }
        let Some(&code) = bytes.get(HEADER).filter(|_| header.len > 0) else {
            // A packet without a command is refused like an unknown one.
            return Ok(Err(if header.len == 0 { Stop::Intercepted(HEADER) } else { Stop::Partial }));
        };
        let end = bytes.len().min(HEADER + header.len);
        let there = &bytes[HEADER..end];
        let shape = match command::kind(code) {
            Kind::Forward(shape) => shape,
            Kind::ChangeUser | Kind::Refuse => return intercepted(code, header.len, there.len()),
        };
        if there.len() < header.len.min(look(code)) {
            return Ok(Err(Stop::Partial));
        }
        if matches!(code, command::STMT_EXECUTE | command::STMT_BULK_EXECUTE) {
            let statement = Command { code, body: &there[1..], whole: false }.statement();
            if there.len() < header.len.min(events.look(statement)) {
                return Ok(Err(Stop::Partial));
            }
        }
        if is_kill(code, &there[1..]) && there.len() == header.len {
            return Ok(Err(Stop::Intercepted(HEADER + header.len)));
        }
        if matches!(code, command::RESET_CONNECTION | command::PROCESS_KILL) {
            return intercepted(code, header.len, there.len());
        }
        if self.pending.len() >= MAX_PENDING {
            return Ok(Err(Stop::Full));
        }
        self.seq = 0;
        let whole = there.len() == header.len && header.len < FULL;
        let command = Command { code, body: &there[1..], whole };
        if shape != Shape::None {
            self.pending.push_back(Pending { code, shape, statement: command.statement(), seen: whole });
        }
        let there_len = there.len();
        if let Some(id) = events.command(command)
            && let Some(place) = bytes.get_mut(HEADER + 1..HEADER + 5)
        {
            place.copy_from_slice(&id.to_le_bytes());
        }
        let fed = !whole && code == command::STMT_PREPARE;
        let continued = header.len == FULL;
        self.state = match (header.len - there_len, continued) {
            (0, true) => State::Continuation { fed },
            (0, false) => State::Command,
            (left, _) => State::Body { left, continued, fed },
        };
        Ok(Ok(HEADER + there_len))
    }
}

/// A command that must be there whole before it is dealt with.
fn intercepted(code: u8, len: usize, there: usize) -> Result<Result<usize, Stop>, Violation> {
    if len > login::MAX_LOGIN {
        return Err(Violation::TooLong(code, len));
    }
    Ok(Err(if there == len { Stop::Intercepted(HEADER + len) } else { Stop::Partial }))
}

/// How many bytes of a command, its number included, are needed to tell what it is.
const fn look(code: u8) -> usize {
    match code {
        command::QUERY | command::STMT_PREPARE => LOOK,
        // Statement id, flags, and number of executions.
        command::STMT_EXECUTE | command::STMT_BULK_EXECUTE => 10,
        command::STMT_CLOSE | command::STMT_RESET | command::STMT_FETCH | command::STMT_SEND_LONG_DATA => 5,
        _ => 1,
    }
}

fn is_kill(code: u8, body: &[u8]) -> bool {
    code == command::QUERY && sql::begins_with_kill(body)
}
