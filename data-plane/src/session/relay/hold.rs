//! Holding a session for a move: at its next rest, or in front of its client's next command.
//!
//! While a session is held, what the client sends stays in the kernel and in one buffer, and nothing of it is lost.
//!
//! Must not know: where the session goes.

use super::{Event, Link};
use crate::session::mirror::Transaction;
use mysql_wire::command;
use mysql_wire::packet::{HEADER, Header};
use mysql_wire::request::{Command, LOOK};
use mysql_wire::sql;
use std::task::Context;

/// For what a session is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hold {
    /// It is not.
    #[default]
    No,
    /// It is told when it rests; `passed`: it may be told now, and not only when a command was forwarded.
    Rest { passed: bool },
    /// It rests, and is told when the next command is there.
    Command,
}

/// A session at rest: no command, no transaction under way, and everything told to its client. Made here only.
#[derive(Debug)]
pub(crate) struct SafePoint(());

impl SafePoint {
    /// A session whose CN is gone with all that was under way rests.
    pub(super) const fn of_cut() -> Self {
        Self(())
    }
}

impl Link {
    /// From now on it is held so.
    pub(crate) fn hold(&mut self, hold: Hold) {
        self.hold = hold;
        // What was read ahead may be what is waited for.
        self.again |= !self.client_held.is_empty();
    }

    /// The next command is forwarded; then it is told when it rests.
    pub(crate) fn let_pass(&mut self) {
        self.hold(Hold::Rest { passed: false });
    }

    /// Whether the session rests now.
    pub(super) fn rests(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_at_safe_point() && self.is_client_told(cx)
    }

    fn is_at_safe_point(&self) -> bool {
        self.requests.is_idle()
            && self.responses.is_before_result()
            && self.to_cn.is_empty()
            && self.to_client.is_empty()
            && self.cn_held.is_empty()
            && self.owed.is_none()
            && !self.has_cn_ended
            && !self.mirror.may_be_in_transaction()
    }

    /// The session at rest, if it rests.
    pub(crate) fn safe_point(&self) -> Option<SafePoint> {
        self.is_at_safe_point().then_some(SafePoint(()))
    }

    /// What a held session is to be told now.
    pub(super) fn held(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        (self.hold == Hold::Rest { passed: true } && self.rests(cx)).then_some(Event::Rest)
    }

    /// Whether the client's bytes wait: for the answers to what it sent before, so that the session comes to rest.
    pub(super) fn is_held_back(&self) -> bool {
        let awaits = self.requests.awaited() > 0 && self.requests.is_at_command();
        matches!(self.hold, Hold::Rest { .. }) && awaits && !self.requests.is_uploading()
    }

    /// What `bytes`, the next that the client sent, bring about in a held session before they are forwarded.
    pub(super) fn arrives(&mut self, bytes: &[u8]) -> Option<Event> {
        match self.hold {
            Hold::Command => beginning(bytes).map(|_| Event::Arrived),
            Hold::Rest { .. } => {
                let ends = self.requests.is_idle() && self.mirror.transaction() == Transaction::Open;
                let begins = |command: Command<'_>| {
                    command.code == command::QUERY && command.whole && sql::begins_transaction(command.body)
                };
                (ends && beginning(bytes).is_some_and(begins)).then_some(Event::Begin)
            }
            Hold::No => None,
        }
    }

    /// The command that is held back, as far as it is there.
    pub(crate) fn held_command(&self) -> Option<Command<'_>> {
        beginning(&self.client_held)
    }

    /// Throws away the command that is held back, which is there whole.
    pub(crate) fn drop_held_command(&mut self) {
        let len = Header::read(&self.client_held).map_or(0, |header| HEADER + header.len);
        self.client_held.drain(..len.min(self.client_held.len()));
        self.again = !self.client_held.is_empty();
    }
}

/// The command that begins `bytes`, where enough of it is there to tell what it is.
pub(super) fn beginning(bytes: &[u8]) -> Option<Command<'_>> {
    let header = Header::read(bytes)?;
    let there = &bytes[HEADER..bytes.len().min(HEADER + header.len)];
    if there.len() < header.len.min(LOOK) {
        return None;
    }
    match there.split_first() {
        Some((code, body)) => Some(Command { code: *code, body, whole: there.len() == header.len }),
        // A packet without a command: it is refused when it is forwarded.
        None => Some(Command { code: command::SLEEP, body: &[], whole: true }),
    }
}
