//! The mirror: what is known of a session's state on its CN without asking.
//!
//! It hears every command as it goes out and every end of a response as it comes in. A tracker says which state changed;
//! what trackers do not show raises a hint. Values that a CN must be asked for are not kept here as truth: a variable's
//! reported value only tells that it was changed.
//!
//! Must not know: sockets, which CN, how state is carried.

mod statements;

use mysql_wire::command;
use mysql_wire::reply::{
    self, AUTOCOMMIT, CURSOR_EXISTS, IN_TRANS, LAST_ROW_SENT, MORE_RESULTS, STATE_CHANGED,
};
use mysql_wire::request::{Command, Pending, Requested};
use mysql_wire::response::Answered;
use mysql_wire::sql::{self, Hints};
use mysql_wire::track::{self, Change};
use statements::{LAST_PREPARED, MOST_TEXT, Parse, Statements};
use std::collections::{BTreeSet, VecDeque};

/// Names of changed variables that are kept.
const MOST_VARIABLES: usize = 2048;

/// What is known of the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Transaction {
    /// None is open.
    #[default]
    No,
    /// One is open.
    Open,
    /// An ERR came after the last status: it may have opened, ended or left one.
    Unknown,
}

/// Why a session cannot move now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PinReason {
    Transaction,
    LockedTables,
    UserLock,
    TemporaryTable,
    Cursor,
    LongData,
    Handler,
    Upload,
    CredentialsUnknown,
    TooLarge,
    UnknownState,
}

impl PinReason {
    /// Every reason.
    const ALL: [Self; 11] = [
        Self::Transaction,
        Self::LockedTables,
        Self::UserLock,
        Self::TemporaryTable,
        Self::Cursor,
        Self::LongData,
        Self::Handler,
        Self::Upload,
        Self::CredentialsUnknown,
        Self::TooLarge,
        Self::UnknownState,
    ];

    /// Its bit among a session's reasons.
    pub(crate) const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The words for all of `bits`.
    pub(crate) fn words_of(bits: u16) -> Vec<&'static str> {
        Self::ALL.into_iter().filter(|reason| bits & reason.bit() != 0).map(Self::words).collect()
    }

    /// The words that people read.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::LockedTables => "locked tables",
            Self::UserLock => "user lock",
            Self::TemporaryTable => "temporary table",
            Self::Cursor => "cursor",
            Self::LongData => "long data",
            Self::Handler => "handler",
            Self::Upload => "upload",
            Self::CredentialsUnknown => "credentials unknown",
            Self::TooLarge => "too large",
            Self::UnknownState => "unknown state",
        }
    }
}

/// The mirror of one session.
#[derive(Debug)]
pub(crate) struct Mirror {
    transaction: Transaction,
    locked_tables: bool,
    hints: Hints,
    /// Variables that were reported to have changed. The values are the CN's to say.
    changed: BTreeSet<Box<[u8]>>,
    characteristics: Option<Box<[u8]>>,
    statements: Statements,
    /// Texts of prepares that await their answer, in order; `None`: too long.
    preparing: VecDeque<Option<Vec<u8>>>,
    /// Bytes of them.
    preparing_text: usize,
    too_large: bool,
    /// The client may have narrowed the trackers.
    trackers_touched: bool,
    /// The trackers that it named.
    trackers_named: Hints,
    /// The answer that is being read tells of a change of state.
    state_changed: bool,
    /// A statement ran whose end is reported by a later OK that changes state.
    reports_late: bool,
    /// A question that only an OK without rows answers destroys nothing now.
    may_ask: bool,
    quit: bool,
    last_status: u16,
    /// An error that says that the CN itself is unwell.
    suspect: Option<u16>,
    queries: u32,
}

/// Variables that the meaning of a text depends on.
const PARSE: [&[u8]; 4] =
    [b"sql_mode", b"character_set_client", b"character_set_connection", b"collation_connection"];

impl Mirror {
    /// Of a session that begins with this status and database.
    pub(crate) fn new(database: Option<&[u8]>) -> Self {
        Self {
            transaction: Transaction::No,
            locked_tables: false,
            hints: Hints::none(),
            changed: BTreeSet::new(),
            characteristics: None,
            statements: Statements::new(database),
            preparing: VecDeque::new(),
            preparing_text: 0,
            too_large: false,
            trackers_touched: false,
            trackers_named: Hints::none(),
            state_changed: false,
            reports_late: false,
            may_ask: false,
            quit: false,
            last_status: AUTOCOMMIT,
            suspect: None,
            queries: 0,
        }
    }

    /// Why it cannot move now, as far as is known, one bit for each reason: each hint that was not settled counts as
    /// the worst it can mean.
    pub(crate) fn pins(&self) -> u16 {
        let hinted = |hint| self.hints.has(hint);
        let unknown = self.transaction == Transaction::Unknown
            || hinted(Hints::HIDDEN)
            || hinted(Hints::XA)
            || hinted(Hints::SEQUENCES)
            || self.statements.has_lost();
        [
            (self.transaction == Transaction::Open, PinReason::Transaction),
            (self.locked_tables || hinted(Hints::LOCKED_TABLES), PinReason::LockedTables),
            (hinted(Hints::USER_LOCKS), PinReason::UserLock),
            (hinted(Hints::TEMPORARY_TABLES), PinReason::TemporaryTable),
            (self.statements.has_cursor(), PinReason::Cursor),
            (self.statements.has_long_data(), PinReason::LongData),
            (hinted(Hints::HANDLERS), PinReason::Handler),
            (self.too_large || self.statements.is_too_large(), PinReason::TooLarge),
            (unknown, PinReason::UnknownState),
        ]
        .into_iter()
        .fold(0, |bits, (pinned, reason)| if pinned { bits | reason.bit() } else { bits })
    }

    /// Whether a transaction is open, or may still be: an ERR leaves one open more often than not.
    pub(crate) const fn may_be_in_transaction(&self) -> bool {
        match self.transaction {
            Transaction::No => false,
            Transaction::Open => true,
            Transaction::Unknown => self.last_status & IN_TRANS != 0,
        }
    }

    pub(crate) const fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// Commands that had a response.
    pub(crate) const fn queries(&self) -> u32 {
        self.queries
    }

    /// An error that says that the CN is unwell, once.
    pub(crate) const fn take_suspect(&mut self) -> Option<u16> {
        self.suspect.take()
    }

    /// Whether the trackers must be set again, once.
    pub(crate) fn take_trackers_touched(&mut self) -> bool {
        std::mem::take(&mut self.trackers_touched)
    }

    /// The trackers that the client named since the last time.
    pub(crate) fn take_trackers_named(&mut self) -> Hints {
        std::mem::take(&mut self.trackers_named)
    }

    /// The client may have changed what nobody told of.
    pub(crate) fn missed(&mut self) {
        self.hints = self.hints.with(Hints::HIDDEN);
    }

    /// The trackers are as they should be.
    pub(crate) const fn forget_tracking(&mut self) {
        self.trackers_touched = false;
        self.trackers_named = Hints::none();
    }

    /// Whether the client said that it leaves.
    pub(crate) const fn has_quit(&self) -> bool {
        self.quit
    }

    /// The status flags that an OK of ours would have now.
    pub(crate) const fn status_now(&self) -> u16 {
        self.last_status
    }

    /// COM_RESET_CONNECTION succeeded: all is as after the login, but for the database.
    pub(crate) fn reset(&mut self) {
        let mut statements = std::mem::replace(&mut self.statements, Statements::new(None));
        statements.reset();
        *self = Self { statements, queries: self.queries, ..Self::new(None) };
    }

    /// Whether the CN is to be asked for the variables that parsing depends on, once: nothing that the last statement
    /// left is lost by it now.
    pub(crate) fn take_ask(&mut self) -> bool {
        std::mem::take(&mut self.may_ask) && self.statements.is_to_ask()
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

    fn status(&mut self, status: u16) {
        self.last_status = status & (IN_TRANS | AUTOCOMMIT);
        self.transaction = if status & IN_TRANS == 0 { Transaction::No } else { Transaction::Open };
    }

    fn finished(&mut self, pending: &Pending, status: u16) {
        self.status(status);
        match pending.code {
            command::STMT_EXECUTE => {
                self.statements.set_cursor(pending.statement, status & CURSOR_EXISTS != 0);
            }
            command::STMT_FETCH if status & LAST_ROW_SENT != 0 => {
                self.statements.set_cursor(pending.statement, false);
            }
            command::STMT_RESET => self.statements.set_cursor(pending.statement, false),
            _ => {}
        }
    }

    fn trackers(&mut self, named: Hints) {
        self.trackers_named = self.trackers_named.with(named);
        self.trackers_touched |= !named.is_empty();
    }

    fn set_long_data(&mut self, id: u32, sent: bool) {
        if id == LAST_PREPARED && !self.preparing.is_empty() {
            // Of a statement whose id is on its way.
            self.missed();
        } else {
            self.statements.set_long_data(id, sent);
        }
    }

    /// A text goes to the CN.
    fn hinted(&mut self, hints: Hints) {
        self.hints = self.hints.with(hints);
        self.reports_late |= hints.has(Hints::VARIABLES) || hints.has(Hints::HIDDEN);
    }

    /// Whether nothing that the statement left that ends with `ok` is lost by a question that an OK without rows
    /// answers: FOUND_ROWS, LAST_INSERT_ID and warnings stay, ROW_COUNT becomes 0. What is reported late is the client's.
    fn may_ask_behind(&mut self, ok: &reply::Ok<'_>) -> bool {
        let reports = !ok.changes.is_empty();
        let late = reports && std::mem::take(&mut self.reports_late);
        let rests = ok.status & (IN_TRANS | MORE_RESULTS) == 0;
        reports && !late && rests && ok.header == reply::OK && ok.affected == 0
    }

    /// Keeps the text of a prepare until it is answered. A client may send many before it reads an answer.
    fn await_prepare(&mut self, text: Vec<u8>) {
        if self.preparing_text + text.len() > MOST_TEXT {
            return self.preparing.push_back(None);
        }
        self.preparing_text += text.len();
        self.preparing.push_back(Some(text));
    }

    /// The text of the prepare that was answered.
    fn take_prepared(&mut self) -> Option<Vec<u8>> {
        let text = self.preparing.pop_front().flatten()?;
        self.preparing_text -= text.len();
        Some(text)
    }
}

impl Requested for Mirror {
    fn command(&mut self, command: Command<'_>) {
        match command.code {
            command::QUERY => {
                let hints = sql::hints(command.body, command.whole);
                self.hinted(hints);
                self.trackers(hints.trackers());
            }
            command::STMT_PREPARE => {
                let text = command.body.to_vec();
                self.hinted(sql::hints(&text, command.whole));
                self.await_prepare(text);
            }
            command::STMT_SEND_LONG_DATA => self.set_long_data(command.statement(), true),
            command::STMT_EXECUTE | command::STMT_BULK_EXECUTE | command::STMT_RESET => {
                let id = command.statement();
                self.set_long_data(id, false);
                let hints = self.statements.hints(id);
                self.hinted(hints);
                self.trackers(hints.trackers());
            }
            command::QUIT => self.quit = true,
            command::STMT_CLOSE => self.statements.forget(command.statement()),
            _ => {}
        }
    }

    fn more(&mut self, body: &[u8]) {
        if let Some(last) = self.preparing.back_mut()
            && let Some(text) = last
        {
            if self.preparing_text + body.len() > MOST_TEXT {
                self.preparing_text -= text.len();
                *last = None;
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
            self.hints = self.hints.with(Hints::LAST_INSERT_ID);
        }
        if ok.warnings != 0 {
            self.hints = self.hints.with(Hints::LAST_RESULT);
        }
        // What was not read of a text may have switched trackers: then it changed state, as a long INSERT does not.
        self.trackers_touched |= std::mem::take(&mut self.state_changed) && !pending.seen;
        self.may_ask = self.may_ask_behind(ok);
        self.finished(pending, ok.status);
    }

    fn eof(&mut self, pending: &Pending, status: u16) {
        if status & STATE_CHANGED != 0 {
            // The changes that it announces are never sent.
            self.hints = self.hints.with(Hints::VARIABLES).with(Hints::USER_VARIABLES);
            self.statements.doubt_parse();
            if self.hints.has(Hints::HIDDEN) {
                self.statements.doubt_database();
            }
        }
        self.may_ask = false;
        self.finished(pending, status);
    }

    fn err(&mut self, pending: Option<&Pending>, code: u16) {
        // An ERR carries neither status nor changes.
        self.transaction = Transaction::Unknown;
        self.hints = self.hints.with(Hints::VARIABLES).with(Hints::LAST_RESULT);
        self.may_ask = false;
        self.statements.doubt_parse();
        if self.hints.has(Hints::HIDDEN) {
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
        }
    }

    fn change(&mut self, change: Change<'_>) {
        match change {
            Change::Variable { name, .. } => {
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
            Change::Schema(database) => self.statements.use_database(database),
            Change::State => self.state_changed = true,
            Change::Characteristics(sql) => {
                self.characteristics = (!sql.is_empty()).then(|| sql.into());
            }
            Change::Transaction(letters) => {
                self.locked_tables = letters.get(7) == Some(&b'L');
            }
            Change::Unknown(_) => self.hints = self.hints.with(Hints::HIDDEN),
        }
    }

    fn prepared(&mut self, statement: u32, _columns: u16, _params: u16) {
        let text = self.take_prepared();
        let hints = text.as_ref().map_or(Hints::none(), |text| sql::hints(text, true));
        self.statements.prepared(statement, text, hints);
    }

    fn done(&mut self, _pending: &Pending) {
        self.queries = self.queries.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
