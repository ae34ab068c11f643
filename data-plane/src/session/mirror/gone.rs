//! What the mirror knows for the case that the CN is gone: what another one could answer, and what is lost.
//!
//! Must not know: sockets, why the CN is gone.

use super::since::Lost;
use super::{Mirror, Transaction};
use mysql_wire::command::{self, Kind, Shape};
use mysql_wire::reply::IN_TRANS;
use mysql_wire::request::Command;
use mysql_wire::sql::{self, Hints};

impl Mirror {
    /// What was lost with a CN that died.
    pub(crate) const fn lost(&self) -> Lost {
        self.lost
    }

    /// Whether all that is under way is plain statements.
    pub(crate) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// The command that is under way, where it is the only one and another CN may answer it as well as this one.
    pub(crate) fn again(&self) -> Option<&[u8]> {
        self.again.as_deref().filter(|_| self.sent == self.answered.wrapping_add(1))
    }

    /// Whether the CN told the client that it is about to close.
    pub(crate) const fn said_farewell(&self) -> bool {
        self.said_farewell
    }

    /// The CN is gone, with whatever was under way on it; but for `again`, which another one is to answer.
    pub(crate) fn cut(&mut self, again: bool) {
        if !again {
            self.answered = self.sent;
            self.preparing.clear();
            self.preparing_text = 0;
            self.again = None;
        }
        self.by_sql.clear();
        self.last_status &= !IN_TRANS;
        self.transaction = Transaction::No;
        self.state_changed = false;
        self.since.read();
        self.lost = Lost {
            warnings: self.left.has_warnings() || self.lost.warnings,
            rows: self.left.counts_rows() || self.lost.rows,
            found_rows: self.since.ran() || self.lost.found_rows,
            insert_id: self.since.has_new_insert_id() || self.lost.insert_id,
        };
    }

    /// A command goes to no CN.
    pub(crate) fn throws_away(&mut self, command: Command<'_>) {
        let bulk = command.code == command::STMT_BULK_EXECUTE;
        if bulk || command.code == command::STMT_EXECUTE {
            self.statements.throws_away(command.statement(), command.body, command.whole, bulk);
        }
    }

    /// What a command that begins so would read of what was lost with a CN, in words.
    pub(crate) fn reads_lost(&self, command: Command<'_>) -> Option<&'static str> {
        self.lost.read_by(self.hints_of(command)?)
    }

    /// What a command hints at.
    pub(super) fn hints_of(&self, command: Command<'_>) -> Option<Hints> {
        match command.code {
            command::QUERY => Some(sql::hints(command.body, command.whole)),
            command::STMT_EXECUTE => Some(self.statements.hints(command.statement())),
            _ => None,
        }
    }

    /// Notes what another CN could make of `command`, which goes out now.
    pub(super) fn goes_out(&mut self, command: Command<'_>) {
        let is_alone = self.sent == self.answered;
        let is_plain = match command.code {
            // Only in a transaction it matters.
            _ if self.transaction != Transaction::Open => false,
            command::QUERY => command.whole && sql::is_plain(command.body),
            command::STMT_EXECUTE | command::STMT_BULK_EXECUTE => {
                self.statements.is_plain(command.statement())
            }
            _ => command::kind(command.code) == Kind::Forward(Shape::None),
        };
        self.plain = is_plain && (is_alone || self.plain);
        let is_again = matches!(
            command.code,
            command::PING
                | command::STATISTICS
                | command::INIT_DB
                | command::FIELD_LIST
                | command::STMT_PREPARE
        );
        self.again =
            (is_again && is_alone && command.whole).then(|| [&[command.code], command.body].concat().into());
    }
}
