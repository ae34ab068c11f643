//! An error that is owed to a client: its next command that has a response gets it, and goes to no CN.
//!
//! Owed is what a CN said to a command of ours and meant for the client, and what became of a statement that the CN
//! would not prepare again.

use super::{Event, Link};
use mysql_wire::command::{self, Kind, Shape};
use mysql_wire::packet::{FULL, HEADER, Header};
use mysql_wire::reply;
use mysql_wire::request::Command;
use std::task::{Context, Poll, ready};

/// An error, and how far the command is thrown away that gets it.
#[derive(Debug)]
pub(super) struct Owed {
    err: reply::Err,
    /// Bytes left of its packet.
    left: usize,
    /// Another packet of it follows.
    continued: bool,
    /// Its beginning was thrown away.
    begun: bool,
    /// A command got it. What came with that one gets it too.
    paid: bool,
    seq: u8,
}

/// What is done with the front of what the client sent.
enum Done {
    /// More must be there first.
    Partial,
    /// A command without a response: it is forwarded.
    Forward(usize),
    /// The command was thrown away whole.
    Answered,
}

impl Link {
    /// The client's next command that has a response gets `err`.
    pub(crate) fn owe(&mut self, err: reply::Err) {
        let (left, continued, begun, paid, seq) = (0, false, false, false, 0);
        self.owed.get_or_insert(Box::new(Owed { err, left, continued, begun, paid, seq }));
        self.again |= !self.client_held.is_empty();
    }

    /// What the client's next command, which `bytes` begins, gets in place of an answer: it is about a statement that the
    /// CN would not prepare, or reads what was lost with a CN.
    pub(super) fn owes_for(&self, bytes: &[u8]) -> Option<reply::Err> {
        if !self.requests.is_idle() {
            return None;
        }
        if let Some(what) = super::hold::beginning(bytes).and_then(|command| self.mirror.reads_lost(command))
        {
            return Some(reply::Err::new(1180, "HY000", format!("{what} was lost with the CN that knew it")));
        }
        let is_about_one = |code| matches!(code, command::STMT_EXECUTE | command::STMT_BULK_EXECUTE);
        let [_, _, _, _, code, id @ ..] = bytes else { return None };
        let id = id.first_chunk().filter(|_| is_about_one(*code))?;
        self.mirror.refusal(u32::from_le_bytes(*id)).cloned()
    }

    /// Reads the client, and answers its next command that has a response with what is owed.
    pub(super) fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        if !std::mem::take(&mut self.again) {
            ready!(self.poll_read_more(cx))?;
        }
        Poll::Ready(self.pay(cx))
    }

    fn pay(&mut self, cx: &mut Context<'_>) -> Result<(), Event> {
        let Some(owed) = &mut self.owed else { return Ok(()) };
        if let Some(command) = owed.throws_away(&self.client_held) {
            self.mirror.throws_away(command);
        }
        match owed.take(&mut self.client_held) {
            Done::Partial => {}
            Done::Forward(len) => {
                let rest = self.client_held.split_off(len);
                let mut command = std::mem::replace(&mut self.client_held, rest);
                let (taken, _) =
                    self.requests.advance(&mut command, &mut self.mirror).map_err(Event::Violation)?;
                super::write(&mut self.cn, &mut self.to_cn, &command[..taken], cx);
                self.again = !self.client_held.is_empty();
                if owed.paid && !self.again {
                    self.owed = None;
                }
            }
            Done::Answered => {
                self.to_client.extend_from_slice(&owed.err.packet(owed.seq.wrapping_add(1)));
                self.again = !self.client_held.is_empty();
                if self.again {
                    // What came with it was sent by a client that had not heard of this.
                    (owed.begun, owed.paid) = (false, true);
                } else {
                    self.owed = None;
                }
            }
        }
        if self.client_held.is_empty() {
            self.client_held = Vec::new();
        }
        Ok(())
    }
}

impl Owed {
    /// The command at the front of `bytes` that begins to be thrown away, as far as it is there.
    fn throws_away<'a>(&self, bytes: &'a [u8]) -> Option<Command<'a>> {
        if self.begun || self.left > 0 { None } else { super::hold::beginning(bytes) }
    }

    /// Takes what it can from the front of `bytes`.
    fn take(&mut self, bytes: &mut Vec<u8>) -> Done {
        loop {
            let now = self.left.min(bytes.len());
            bytes.drain(..now);
            self.left -= now;
            if self.left > 0 {
                return Done::Partial;
            }
            if self.begun && !self.continued {
                return Done::Answered;
            }
            let Some(header) = Header::read(bytes) else { return Done::Partial };
            if !self.begun {
                let Some(code) = bytes.get(HEADER).copied().filter(|_| header.len > 0) else {
                    if header.len > 0 {
                        return Done::Partial;
                    }
                    // A packet without a command gets an answer, too.
                    self.begin(header, bytes);
                    continue;
                };
                // What an execute is to use is thrown away with it.
                let is_of_execute = code == command::STMT_SEND_LONG_DATA;
                if is_of_execute && bytes.len() < HEADER + header.len {
                    return Done::Partial;
                }
                if is_of_execute {
                    bytes.drain(..HEADER + header.len);
                    continue;
                }
                if command::kind(code) == Kind::Forward(Shape::None) {
                    let len = HEADER + header.len;
                    return if bytes.len() < len { Done::Partial } else { Done::Forward(len) };
                }
            }
            self.begin(header, bytes);
        }
    }

    fn begin(&mut self, header: Header, bytes: &mut Vec<u8>) {
        bytes.drain(..HEADER);
        (self.left, self.continued, self.begun, self.seq) =
            (header.len, header.len == FULL, true, header.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_wire::packet;

    fn owed() -> Owed {
        let err = reply::Err::new(1213, "40001", "x");
        Owed { err, left: 0, continued: false, begun: false, paid: false, seq: 0 }
    }

    #[test]
    fn a_command_of_several_packets_is_thrown_away_in_whatever_pieces_it_comes() {
        let mut payload = vec![0; FULL + 10];
        payload[0] = command::QUERY;
        let mut stream = Vec::new();
        packet::write(&mut stream, 0, &payload);
        packet::write(&mut stream, 0, &[command::PING]);
        for piece in [1000, 99_991, stream.len()] {
            let (mut owed, mut held, mut rest) = (owed(), Vec::new(), &stream[..]);
            loop {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                held.extend_from_slice(now);
                rest = later;
                match owed.take(&mut held) {
                    Done::Answered => break,
                    Done::Partial => assert!(held.len() < HEADER && !rest.is_empty()),
                    Done::Forward(_) => panic!("it has a response"),
                }
            }
            held.extend_from_slice(rest);
            assert_eq!((owed.seq, &held[HEADER..]), (1, &[command::PING][..]), "{piece}");
        }
    }

    #[test]
    fn what_has_no_response_is_forwarded_and_owed_stays() {
        let mut owed = owed();
        let mut bytes = Vec::new();
        packet::write(&mut bytes, 0, &[command::STMT_CLOSE, 1, 0, 0, 0]);
        let partial = &mut bytes[..6].to_vec();
        assert!(matches!(owed.take(partial), Done::Partial));
        assert!(matches!(owed.take(&mut bytes), Done::Forward(9)));
        bytes.clear();
        packet::write(&mut bytes, 0, &[]);
        assert!(matches!(owed.take(&mut bytes), Done::Answered));
    }
}
