//! Statements that are on their way to be prepared, by the protocol and by SQL, and under what.
//!
//! Must not know: sockets, which CN.

use super::Mirror;
use super::left::Counted;
use super::statements::{LAST_PREPARED, MOST_TEXT, Parse, Preparing};
use mysql_wire::command;
use mysql_wire::reply;
use mysql_wire::request::Command;
use mysql_wire::sql::{self, BySql};
use mysql_wire::track::{self, Change};

/// Texts that prepare by SQL and await their answer, at most.
const MOST_BY_SQL: usize = 64;

/// Bytes that are kept of an execute that names a statement which has no id yet.
const MOST_EXECUTED: usize = 16 << 10;

/// What a text does to a statement that is prepared by SQL.
#[derive(Debug)]
pub(super) enum NamedStatement {
    /// Prepares it, by this text.
    Prepare(Box<[u8]>, Vec<u8>),
    /// Gives it up.
    Deallocate(Box<[u8]>),
}

impl Mirror {
    /// Keeps the text of a prepare until it is answered. A client may send many before it reads an answer.
    pub(super) fn await_prepare(&mut self, text: Vec<u8>) {
        if self.preparing_text + text.len() > MOST_TEXT {
            return self.preparing.push_back(Preparing::default());
        }
        self.preparing_text += text.len();
        self.preparing.push_back(Preparing { text: Some(text), ..Preparing::default() });
    }

    /// The prepare that was answered.
    pub(super) fn take_prepared(&mut self) -> Preparing {
        let preparing = self.preparing.pop_front().unwrap_or_default();
        self.preparing_text -= preparing.text.as_ref().map_or(0, Vec::len);
        preparing
    }

    /// An execute goes to the CN. False where the CN would read what it binds by other types than its client's.
    pub(super) fn executes(&mut self, command: Command<'_>) -> bool {
        let id = command.statement();
        if id == LAST_PREPARED
            && let Some(preparing) = self.preparing.back_mut()
        {
            // Its parameters are not known yet. A bulk is told apart by them only, too.
            preparing.unsure |= command.code == command::STMT_BULK_EXECUTE;
            preparing.executed = Some(command.body[..command.body.len().min(MOST_EXECUTED)].to_vec());
            return true;
        }
        self.statements.bind(id, command.body, command.code == command::STMT_BULK_EXECUTE)
    }

    pub(super) fn set_long_data(&mut self, id: u32, sent: bool) {
        if id == LAST_PREPARED
            && let Some(preparing) = self.preparing.back_mut()
        {
            // Of a statement whose id is on its way.
            preparing.unsure |= sent;
        } else {
            self.statements.set_long_data(id, sent);
        }
    }

    /// What the text that is answered now does to statements prepared by SQL, where it did not fail.
    pub(super) fn named(&mut self, succeeded: bool) {
        if self.by_sql.front().is_none_or(|(number, _)| *number != self.answered) {
            return;
        }
        match (self.by_sql.pop_front(), succeeded) {
            (Some((_, NamedStatement::Prepare(name, sql))), true) => {
                self.statements.prepared_by_sql(&name, sql)
            }
            // The one that had the name before is gone in any case.
            (Some((_, NamedStatement::Prepare(name, _))), false)
            | (Some((_, NamedStatement::Deallocate(name))), true) => self.statements.forget_named(&name),
            _ => {}
        }
    }

    /// A text that goes to the CN prepares a statement by SQL, or gives one up.
    pub(super) fn read_by_sql(&mut self, text: &[u8]) {
        let Some(read) = sql::by_sql(text) else { return };
        let statement = match read {
            BySql::Prepare(name) => {
                self.counts(|counted| counted.prepared += 1);
                NamedStatement::Prepare(name.to_ascii_lowercase().into(), text.to_vec())
            }
            BySql::Deallocate(name) => {
                self.counts(|counted| counted.deallocated += 1);
                NamedStatement::Deallocate(name.to_ascii_lowercase().into())
            }
        };
        if self.by_sql.len() < MOST_BY_SQL {
            self.by_sql.push_back((self.sent, statement));
        } else {
            self.uncounted = true;
        }
    }

    /// The CN says what texts are parsed by now.
    pub(crate) fn learn_parse(
        &mut self,
        sql_mode: &[u8],
        character_set_client: &[u8],
        collation_connection: &[u8],
    ) {
        self.statements.learn(Parse {
            sql_mode: sql_mode.into(),
            character_set_client: character_set_client.into(),
            collation_connection: collation_connection.into(),
        });
    }

    /// Takes the answer in: an OK that reports the variables.
    pub(crate) fn learn(&mut self, ok: &reply::Ok<'_>) {
        let (mut sql_mode, mut client, mut collation) = (None, None, None);
        let read = track::read(ok.changes, |change| {
            if let Change::Variable { name, value } = change {
                match name {
                    b"sql_mode" => sql_mode = Some(value.into()),
                    b"character_set_client" => client = Some(value.into()),
                    b"collation_connection" => collation = Some(value.into()),
                    _ => {}
                }
            }
        });
        if let (Ok(()), Some(sql_mode), Some(character_set_client), Some(collation_connection)) =
            (read, sql_mode, client, collation)
        {
            self.statements.learn(Parse { sql_mode, character_set_client, collation_connection });
        }
    }

    /// Whether the CN is to be asked for the variables that parsing depends on, once: nothing that the last statement
    /// left is lost by it now.
    pub(crate) fn take_ask(&mut self) -> bool {
        std::mem::take(&mut self.may_ask) && self.statements.is_to_ask()
    }

    pub(super) fn counts(&mut self, what: impl Fn(&mut Counted)) {
        what(&mut self.counted);
        self.counted_anew.iter_mut().for_each(what);
    }
}
