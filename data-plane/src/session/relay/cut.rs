//! A link whose CN is gone: what its client was told so far, and what it is told of what was under way.
//!
//! Must not know: why the CN is gone, where the session goes on.

use super::hold::SafePoint;
use super::{BURST, Link};
use mysql_wire::reply;
use tokio::io::AsyncReadExt as _;

/// Where the client stands in the answers that it awaits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Before the answer to a command, or nowhere.
    Before,
    /// Between two rows of a result: an ERR may stand in place of the next one.
    BetweenRows,
    /// Within a packet, or among definitions: nothing that it would understand may stand there.
    Within,
}

/// What was under way on a CN that is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnderWay {
    /// Commands that await an answer.
    awaited: usize,
    /// The sequence number of what the client reads next.
    seq: u8,
    /// The client is in the middle of a command, or of a file.
    sends: bool,
}

impl Link {
    /// Where the client stands.
    pub(crate) fn standing(&self) -> Standing {
        if self.responses.is_before_result()
            || (self.requests.is_uploading() && self.responses.is_at_packet())
        {
            Standing::Before
        } else if self.responses.is_between_rows() {
            Standing::BetweenRows
        } else {
            Standing::Within
        }
    }

    /// Whether the client was sent something of the answer that it awaits.
    pub(crate) const fn has_answer_begun(&self) -> bool {
        self.responses.has_begun()
    }

    /// How many commands await their answers.
    pub(crate) fn awaited(&self) -> usize {
        self.requests.awaited()
    }

    /// Whether the client is in the middle of a command, or of a file.
    pub(crate) fn is_sending(&self) -> bool {
        !self.requests.is_at_command()
    }

    /// Whether the client closed its side.
    pub(crate) fn has_client_left(&self) -> bool {
        super::hung_up(&self.client)
    }

    /// Whether there is something of the client's that no CN was sent.
    pub(crate) const fn has_more(&self) -> bool {
        !self.client_held.is_empty()
    }

    /// Forgets the CN and all that was under way on it, but for the one command that another CN is to answer as well
    /// (`again`). The session rests then.
    pub(crate) fn cut(&mut self, again: bool) -> (SafePoint, UnderWay) {
        let (seq, sends) = (self.next_seq(), self.is_sending());
        let awaited = if again { 0 } else { self.requests.cut() };
        self.responses.cut();
        self.mirror.cut(again);
        self.cn_held = Vec::new();
        self.to_cn = Vec::new();
        self.has_cn_ended = false;
        self.in_vain = (0, 0, 0);
        self.comes_to_rest = false;
        // What it was stopped for is found anew, unless it is thrown away.
        self.stopped = None;
        self.again |= !self.client_held.is_empty();
        (SafePoint::of_cut(), UnderWay { awaited, seq, sends })
    }

    /// Sends the one command that is under way to the CN that the session has now.
    pub(crate) fn send_again(&mut self) {
        if let Some(command) = self.mirror.again() {
            mysql_wire::packet::write(&mut self.to_cn, 0, command);
        }
    }

    /// Gives the client `err` for everything that was under way, once it sent all of what it is in the middle of.
    ///
    /// # Errors
    /// The client left.
    pub(crate) async fn tell_of_cut(&mut self, cut: UnderWay, err: &reply::Err) -> std::io::Result<()> {
        if cut.sends {
            self.skip().await?;
        }
        for n in 0..cut.awaited {
            let seq = match n {
                // Of several commands the last one is the one that it was in the middle of.
                _ if cut.sends && n + 1 == cut.awaited => self.requests.seq_behind(),
                0 => cut.seq,
                _ => 1,
            };
            self.to_client.extend_from_slice(&err.packet(seq));
        }
        Ok(())
    }

    /// Reads the rest of what the client is in the middle of, and throws it away.
    async fn skip(&mut self) -> std::io::Result<()> {
        loop {
            let taken = self.requests.skip(&self.client_held);
            self.client_held.drain(..taken);
            if self.requests.is_at_command() {
                self.again = !self.client_held.is_empty();
                return Ok(());
            }
            let held = self.client_held.len();
            self.client_held.resize(held + BURST, 0);
            let read = self.client.read(&mut self.client_held[held..]).await;
            self.client_held.truncate(held + read.as_ref().copied().unwrap_or(0));
            if read? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            // A client that sends without a pause must not keep the thread for itself.
            shunt_ring::submit();
            tokio::task::yield_now().await;
        }
    }
}
