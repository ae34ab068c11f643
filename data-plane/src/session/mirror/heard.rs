//! What the mirror makes of what it hears: commands as they go out, and the ends of responses as they come in.
//!
//! Must not know: sockets, which CN, how state is carried.

use super::statements::{MOST_TEXT, UNKNOWN};
use super::{MOST_VARIABLES, Mirror, PARSE, Transaction};
use mysql_wire::command::{self, Kind, Shape};
use mysql_wire::reply::{self, MORE_RESULTS, STATE_CHANGED};
use mysql_wire::request::{Command, Pending, Requested};
use mysql_wire::response::Answered;
use mysql_wire::sql::{self, Hints};
use mysql_wire::track::Change;

impl Requested for Mirror {
    fn command(&mut self, command: Command<'_>) -> Option<u32> {
        let is_about_one = matches!(
            command.code,
            command::STMT_EXECUTE
                | command::STMT_BULK_EXECUTE
                | command::STMT_RESET
                | command::STMT_FETCH
                | command::STMT_CLOSE
                | command::STMT_SEND_LONG_DATA
        );
        let mut on_cn = if is_about_one { self.statements.on_cn(command.statement()) } else { None };
        (self.tables, self.hidden, self.varies, self.sets) = (false, false, false, false);
        self.goes_out(command);
        match command.code {
            command::QUERY => {
                let hints = sql::hints(command.body, command.whole);
                if hints.has(Hints::LOCKED_TABLES) && sql::may_flush(command.body) {
                    self.flushes();
                    // One that is prepared by it may be executed at any time.
                    self.uncounted |= hints.has(Hints::TEXT_STATEMENTS);
                }
                self.hinted(hints);
                self.tables = hints.has(Hints::TABLES);
                if hints.has(Hints::TEXT_STATEMENTS) && command.whole {
                    self.read_by_sql(command.body);
                }
                self.trackers(hints.trackers());
            }
            command::STMT_PREPARE => {
                let text = command.body.to_vec();
                let hints = sql::hints(&text, command.whole);
                self.uncounted |= hints.has(Hints::LOCKED_TABLES) && sql::may_flush(&text);
                // It may be executed before it has an id by which its text is found.
                self.hinted(hints);
                self.await_prepare(text);
            }
            command::STMT_SEND_LONG_DATA => self.set_long_data(command.statement(), true),
            command::STMT_EXECUTE | command::STMT_BULK_EXECUTE | command::STMT_RESET => {
                let id = command.statement();
                if command.code != command::STMT_RESET && !self.executes(command) {
                    // It is told of none that it knows.
                    on_cn = Some(UNKNOWN);
                }
                self.set_long_data(id, false);
                let hints = self.statements.hints(id);
                self.hinted(hints);
                self.tables = command.code != command::STMT_RESET && hints.has(Hints::TABLES);
                self.trackers(hints.trackers());
            }
            command::REFRESH => {
                self.flushes();
                self.since.touched();
            }
            command::QUIT => self.quit = true,
            command::STMT_CLOSE => self.statements.forget(command.statement()),
            _ => {}
        }
        let has_response = !matches!(
            command::kind(command.code),
            Kind::Forward(Shape::None) | Kind::Refuse | Kind::ChangeUser
        );
        self.sent = self.sent.wrapping_add(u32::from(has_response));
        on_cn
    }

    fn look(&self, id: u32) -> usize {
        self.statements.look(id)
    }

    fn more(&mut self, body: &[u8]) {
        if let Some(last) = self.preparing.back_mut()
            && let Some(text) = &mut last.text
        {
            if self.preparing_text + body.len() > MOST_TEXT {
                self.preparing_text -= text.len();
                last.text = None;
            } else {
                self.preparing_text += body.len();
                text.extend_from_slice(body);
            }
        }
    }
}

impl Answered for Mirror {
    fn ok(&mut self, pending: &Pending, ok: &reply::Ok<'_>) {
        if ok.insert_id != 0 {
            self.insert_id = ok.insert_id;
            self.since.generated();
            self.lost.insert_id = false;
            self.hints = self.hints.with(Hints::LAST_INSERT_ID);
        }
        if ok.warnings != 0 {
            self.hints = self.hints.with(Hints::LAST_RESULT);
        }
        self.several |= ok.status & MORE_RESULTS != 0;
        self.leaves(pending, ok.warnings, ok.header == reply::OK && ok.affected > 0, ok.header == reply::EOF);
        self.since.read();
        // What was not read of a text may have switched trackers: then it changed state, as a long INSERT does not.
        self.trackers_touched |= std::mem::take(&mut self.state_changed) && !pending.seen;
        self.may_ask = self.may_ask_behind(ok);
        self.finished(pending, ok.status);
    }

    fn eof(&mut self, pending: &Pending, status: u16, warnings: u16) {
        if status & STATE_CHANGED != 0 {
            // The changes that it announces are never sent.
            self.hints = self.hints.with(Hints::VARIABLES).with(Hints::USER_VARIABLES);
            self.since.touched();
            self.statements.doubt_parse();
            if self.may_hide() {
                self.statements.doubt_database();
            }
        }
        self.may_ask = false;
        self.several |= status & MORE_RESULTS != 0;
        self.leaves(pending, warnings, false, true);
        self.finished(pending, status);
    }

    fn err(&mut self, pending: Option<&Pending>, code: u16) {
        self.said_farewell |= pending.is_none();
        // An ERR carries neither status nor changes.
        self.transaction = Transaction::Unknown;
        self.hints = self.hints.with(Hints::VARIABLES).with(Hints::LAST_RESULT);
        self.may_ask = false;
        self.left.behind(true, false, false, true);
        (self.lost.rows, self.lost.warnings) = (false, false);
        // An UPDATE says SET too.
        self.since.failed(self.may_set() && !self.plain, self.tables);
        self.named(false);
        if self.may_set() {
            self.statements.doubt_parse();
        } else {
            self.statements.failed();
        }
        if self.may_hide() {
            // A procedure may have dropped it before it failed.
            self.statements.doubt_database();
        }
        // The same number says that an option of COM_SET_OPTION is unknown, which anybody can bring about.
        let asked = pending.map(|pending| pending.code);
        if matches!(code, 1047 | 1053) && asked != Some(command::SET_OPTION) {
            self.suspect = Some(code);
        }
        if pending.is_some_and(|pending| pending.code == command::STMT_PREPARE) {
            self.take_prepared();
            // The CN forgets which one it prepared last.
            self.statements.forget_last();
        }
    }

    fn change(&mut self, change: Change<'_>) {
        match change {
            Change::Variable { name, .. } => {
                match name {
                    // Each OK says it.
                    b"autocommit" => self.since.explained(),
                    b"last_insert_id" => {
                        self.lost.insert_id = false;
                        self.since.touched();
                    }
                    _ => self.since.touched(),
                }
                if PARSE.contains(&name) {
                    self.statements.parse_changed();
                }
                if name.starts_with(b"session_track_") {
                    self.trackers_touched = true;
                }
                if self.changed.len() < MOST_VARIABLES {
                    self.changed.insert(name.into());
                } else {
                    self.too_large = true;
                }
            }
            Change::Schema(database) => {
                self.since.explained();
                self.statements.use_database(database);
            }
            Change::State => {
                self.since.changed();
                self.state_changed = true;
            }
            // Asked for when it is needed: an error tells nobody that it was used up.
            Change::Characteristics(sql) => {
                // One that has begun has taken them.
                let begins = b"START TRANSACTION";
                let begun = sql.windows(begins.len()).any(|words| words == begins);
                self.since.next_transaction(!begun && !sql.trim_ascii().is_empty());
            }
            Change::Transaction(letters) => {
                self.locked_tables = letters.get(7) == Some(&b'L');
            }
            Change::Unknown(_) => {
                self.since.touched();
                self.hints = self.hints.with(Hints::HIDDEN);
            }
        }
    }

    fn prepared(&mut self, statement: u32, columns: u16, params: u16) -> u32 {
        let preparing = self.take_prepared();
        let hints = preparing.text.as_ref().map_or(Hints::none(), |text| sql::hints(text, true));
        self.statements.prepared(statement, preparing, hints, (columns, params))
    }

    fn done(&mut self, _pending: &Pending) {
        self.answered = self.answered.wrapping_add(1);
        self.again = None;
        self.several = false;
        self.queries = self.queries.saturating_add(1);
    }
}
