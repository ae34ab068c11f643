//! The mirror: what is known of a session's state on its CN without asking.
//!
//! It hears every command as it goes out and every end of a response as it comes in. A tracker says which state changed;
//! what trackers do not show raises a hint. Values that a CN must be asked for are not kept here as truth: a variable's
//! reported value only tells that it was changed.
//!
//! Must not know: sockets, which CN, how state is carried.

mod gone;
mod heard;
pub(crate) mod left;
mod preparing;
pub(crate) mod since;
pub(crate) mod statements;

use super::pin::PinReason;
use left::{Counted, Left};
use mysql_wire::command;
use mysql_wire::reply::{self, AUTOCOMMIT, CURSOR_EXISTS, IN_TRANS, LAST_ROW_SENT, MORE_RESULTS};
use mysql_wire::request::{Command, Pending};
use mysql_wire::sql::Hints;
use preparing::NamedStatement;
use since::{Lost, Since};
use statements::{Preparing, Statement, Statements};
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

/// The mirror of one session.
#[derive(Debug)]
pub(crate) struct Mirror {
    transaction: Transaction,
    locked_tables: bool,
    hints: Hints,
    /// Variables that were reported to have changed. The values are the CN's to say.
    changed: BTreeSet<Box<[u8]>>,
    statements: Statements,
    /// Prepares that await their answer, in order.
    preparing: VecDeque<Preparing>,
    /// Bytes of their texts.
    preparing_text: usize,
    /// What texts that await their answer do to statements that are prepared by SQL, by the number of the command.
    by_sql: VecDeque<(u32, NamedStatement)>,
    /// Commands with a response that were sent, and how many of them were answered.
    sent: u32,
    answered: u32,
    /// What the CN counts of this session, as far as it was seen from here.
    counted: Counted,
    /// The same where its counters began anew (FLUSH STATUS), which they may have.
    counted_anew: Option<Counted>,
    /// Its counters began anew before they were read, or a prepared statement may make them whenever it is executed: what
    /// they counted is not known.
    uncounted: bool,
    /// What the last statement left that no question may take away.
    left: Left,
    /// Whether the client may send several statements at once, where it said so after its login.
    several_statements: Option<bool>,
    too_large: bool,
    /// The client may have narrowed the trackers.
    trackers_touched: bool,
    /// The trackers that it named.
    trackers_named: Hints,
    /// The answer that is being read tells of a change of state.
    state_changed: bool,
    /// The text that was sent last uses tables.
    tables: bool,
    /// It has several results.
    several: bool,
    /// It may run code that is not seen.
    hidden: bool,
    /// It may change variables for itself alone.
    varies: bool,
    /// It may set variables.
    sets: bool,
    /// A statement ran whose end is reported by a later OK that changes state.
    reports_late: bool,
    /// A question that only an OK without rows answers destroys nothing now.
    may_ask: bool,
    /// What happened since the session's state was known whole.
    since: Since,
    /// What was lost with a CN that died.
    lost: Lost,
    /// All that is under way is plain statements.
    plain: bool,
    /// The one command that is under way, where another CN may answer it as well as this one.
    again: Option<Box<[u8]>>,
    /// An ERR came that nobody had asked for, and went to the client: the CN is about to close.
    said_farewell: bool,
    /// A status of the CN was heard.
    heard_status: bool,
    /// The id that an OK told last.
    insert_id: u64,
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
            statements: Statements::new(database),
            preparing: VecDeque::new(),
            preparing_text: 0,
            by_sql: VecDeque::new(),
            sent: 0,
            answered: 0,
            counted: Counted::default(),
            counted_anew: None,
            uncounted: false,
            left: Left::default(),
            several_statements: None,
            too_large: false,
            trackers_touched: false,
            trackers_named: Hints::none(),
            state_changed: false,
            tables: false,
            several: false,
            hidden: false,
            varies: false,
            sets: false,
            reports_late: false,
            may_ask: false,
            since: Since::default(),
            lost: Lost::default(),
            plain: true,
            again: None,
            said_farewell: false,
            heard_status: false,
            insert_id: 0,
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

    /// Why it cannot move now whatever its CN says, one bit for each reason. What may still be open behind an ERR is not
    /// among them.
    pub(crate) fn certain_pins(&self) -> u16 {
        [
            (self.may_be_in_transaction(), PinReason::Transaction),
            (self.locked_tables, PinReason::LockedTables),
            (self.statements.has_cursor(), PinReason::Cursor),
            (self.statements.has_long_data(), PinReason::LongData),
            (self.too_large || self.statements.is_too_large(), PinReason::TooLarge),
            (self.statements.has_lost() || self.hints.has(Hints::SEQUENCES), PinReason::UnknownState),
        ]
        .into_iter()
        .fold(0, |bits, (pinned, reason)| if pinned { bits | reason.bit() } else { bits })
    }

    /// What is not known of it, for a log.
    pub(crate) fn doubts(&self) -> String {
        let (lost, unsure) = self.statements.lost();
        format!(
            "{:?}, {lost} statements lost, {unsure} unsure, uncounted: {}, {:?}",
            self.hints, self.uncounted, self.counted
        )
    }

    /// What is to be asked of the CN.
    pub(crate) const fn hints(&self) -> Hints {
        self.hints
    }

    /// The CN was asked for all that `known` names, and what it counted: nothing of it is in doubt.
    pub(crate) const fn settle(&mut self, known: Hints, counted: Counted) {
        self.hints = self.hints.without(known);
        (self.counted, self.counted_anew) = (counted, None);
    }

    /// The CN says so of transactions.
    pub(crate) const fn found_status(&mut self, status: u16) {
        self.heard_status = true;
        self.last_status = status & (IN_TRANS | AUTOCOMMIT);
        self.transaction = if status & IN_TRANS == 0 { Transaction::No } else { Transaction::Open };
    }

    /// What happened since the session's state was known whole.
    pub(crate) const fn since(&self) -> Since {
        self.since
    }

    /// The session's state is known whole now, or why it cannot be: what the last statement left was used up by asking.
    pub(crate) fn settled(&mut self) {
        self.since = Since::default();
        self.insert_id = 0;
        self.left.moved();
    }

    /// Nothing touched state since it was known: an error that hinted at variables changed none.
    pub(crate) const fn was_harmless(&mut self) {
        self.hints = self.hints.without(Hints::VARIABLES);
    }

    /// The id that an OK told last since the state was known whole; 0: none did.
    pub(crate) const fn insert_id(&self) -> u64 {
        self.insert_id
    }

    /// The default database, where it is known.
    pub(crate) fn database(&self) -> Option<Option<Vec<u8>>> {
        self.statements.database_now()
    }

    /// Whether it commits by itself, as the CN said last; `None`: it said nothing since the login.
    pub(crate) const fn commits_itself(&self) -> Option<bool> {
        if self.heard_status { Some(self.last_status & AUTOCOMMIT != 0) } else { None }
    }

    /// What the last statement left.
    pub(crate) const fn left(&self) -> Left {
        self.left
    }

    /// A command that the session saw to itself was answered, by an ERR or not.
    pub(crate) const fn saw_to(&mut self, err: bool) {
        self.left.behind(err, false, false, err);
    }

    /// The CN says whether there are warnings.
    pub(crate) const fn found_warnings(&mut self, any: bool) {
        self.left.found_warnings(any);
    }

    /// Whether a command that begins so takes away all that the last statement left.
    pub(crate) fn is_overwritten_by(&self, command: Command<'_>) -> bool {
        let seen = command.code != command::QUERY || command.whole;
        seen && self.hints_of(command).is_some_and(|hints| self.left.is_overwritten_by(hints))
    }

    /// Whether a command that begins so may read of what the last statement left.
    pub(crate) fn is_read_by(&self, command: Command<'_>) -> bool {
        let seen = command.code != command::QUERY || command.whole;
        !seen || self.hints_of(command).is_some_and(|hints| hints.has(Hints::READS_LAST))
    }

    /// Whether the CN counted of the session what was seen of it from here, and so nothing happened unseen.
    pub(crate) fn agrees(&self, counted: Counted) -> bool {
        !self.uncounted && (counted == self.counted || Some(counted) == self.counted_anew)
    }

    /// Whether the CN counted temporary tables: only once they were gone with the session's state are they not there.
    pub(crate) fn has_temporary_tables(&self, counted: Counted) -> bool {
        let expected = [Some(self.counted), self.counted_anew];
        let agrees = expected.iter().flatten().any(|one| one.temporary_tables == counted.temporary_tables);
        !agrees || (self.uncounted && self.hints.has(Hints::TEMPORARY_TABLES))
    }

    /// The CN's counters may begin anew.
    fn flushes(&mut self) {
        let counted = [Hints::TEMPORARY_TABLES, Hints::TEXT_STATEMENTS, Hints::HIDDEN];
        self.uncounted |= counted.into_iter().any(|hint| self.hints.has(hint));
        self.counted_anew = Some(Counted::default());
    }

    /// Variables that were reported to have changed.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &[u8]> {
        self.changed.iter().map(|name| &**name)
    }

    /// Whether this variable was reported to have changed.
    pub(crate) fn has_changed(&self, variable: &[u8]) -> bool {
        self.changed.contains(variable)
    }

    /// The session is on another CN now, which counted this of it, and knows each statement by the id that `on_cn` gives.
    pub(crate) fn moved(&mut self, counted: Counted, on_cn: impl FnMut(u32, u32) -> Result<u32, reply::Err>) {
        (self.counted, self.counted_anew) = (counted, None);
        self.left.moved();
        self.locked_tables = false;
        self.statements.moved(on_cn);
    }

    /// Its prepared statements, by the ids that the client knows, in the order in which they were prepared.
    pub(crate) fn statements(&self) -> Vec<(u32, &Statement)> {
        self.statements.in_order()
    }

    /// Whether the statement prepared last is there by its second name.
    pub(crate) fn has_last_statement(&self) -> bool {
        self.statements.has_last()
    }

    /// What the CN said to the statement that a command is about, where it would not prepare it.
    pub(crate) fn refusal(&self, statement: u32) -> Option<&reply::Err> {
        self.statements.refusal(statement)
    }

    /// Whether there may be statements that the CN would not prepare.
    pub(crate) const fn has_refused(&self) -> bool {
        self.statements.has_refused()
    }

    /// The CN says which database is the default one.
    pub(crate) fn found_database(&mut self, database: Option<&[u8]>) {
        self.statements.found_database(database.unwrap_or_default());
    }

    /// Whether the client may send several statements at once, where it said so after its login.
    pub(crate) const fn several_statements(&self) -> Option<bool> {
        self.several_statements
    }

    /// Whether a transaction is open for certain.
    pub(crate) const fn is_in_transaction(&self) -> bool {
        matches!(self.transaction, Transaction::Open)
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
        self.since.touched();
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
        let Self { queries, several_statements, .. } = *self;
        *self = Self { statements, queries, several_statements, ..Self::new(None) };
        // A reset gives a session what its CN has for all, and not what its login asked for.
        self.since.touched();
    }

    fn finished(&mut self, pending: &Pending, status: u16) {
        self.found_status(status);
        match pending.code {
            command::STMT_EXECUTE => {
                self.statements.set_cursor(pending.statement, status & CURSOR_EXISTS != 0);
            }
            command::STMT_FETCH if status & LAST_ROW_SENT != 0 => {
                self.statements.set_cursor(pending.statement, false);
            }
            command::STMT_RESET => self.statements.set_cursor(pending.statement, false),
            command::SET_OPTION => self.several_statements = Some(pending.statement == 0),
            _ => {}
        }
        self.named(true);
    }

    /// Whether the statement that is answered now may have run code that is not seen.
    fn may_hide(&self) -> bool {
        // Of several commands that are under way nobody knows here which this is.
        self.hints.has(Hints::HIDDEN) && (self.hidden || self.sent != self.answered.wrapping_add(1))
    }

    /// Whether the statement that is answered now may have set variables before it failed.
    fn may_set(&self) -> bool {
        self.sets || self.sent != self.answered.wrapping_add(1)
    }

    /// What the statement that is answered now leaves.
    fn leaves(&mut self, pending: &Pending, warnings: u16, rows: bool, selected: bool) {
        let is_statement = matches!(
            pending.code,
            command::QUERY
                | command::STMT_EXECUTE
                | command::STMT_BULK_EXECUTE
                | command::INIT_DB
                | command::PING
        );
        if !is_statement && warnings == 0 {
            return;
        }
        // Of several commands that are under way nobody knows here which this is, nor of several statements of a text.
        let tables = self.tables && !self.several && self.sent == self.answered.wrapping_add(1);
        self.lost.rows = false;
        self.lost.warnings &= !tables && warnings == 0;
        self.lost.found_rows &= !selected;
        self.left.behind(warnings > 0, tables, rows, selected);
    }

    fn trackers(&mut self, named: Hints) {
        self.trackers_named = self.trackers_named.with(named);
        self.trackers_touched |= !named.is_empty();
    }

    /// A text goes to the CN.
    fn hinted(&mut self, hints: Hints) {
        self.since.runs(hints);
        self.hints = self.hints.with(hints.state());
        self.hidden = hints.has(Hints::HIDDEN);
        self.varies = hints.has(Hints::VARIABLES);
        self.sets = self.hidden || hints.has(Hints::SETS);
        if self.varies {
            self.left.will_report();
        }
        self.reports_late |= hints.has(Hints::VARIABLES) || hints.has(Hints::HIDDEN);
    }

    /// Whether nothing that the statement left that ends with `ok` is lost by a question that an OK without rows
    /// answers: FOUND_ROWS, LAST_INSERT_ID and warnings stay, ROW_COUNT becomes 0. What is reported late is the client's.
    fn may_ask_behind(&mut self, ok: &reply::Ok<'_>) -> bool {
        let reports = !ok.changes.is_empty();
        if reports && !self.varies && self.sent == self.answered.wrapping_add(1) {
            self.left.reported();
        }
        let late = reports && std::mem::take(&mut self.reports_late);
        let rests = ok.status & (IN_TRANS | MORE_RESULTS) == 0;
        reports && !late && rests && ok.header == reply::OK && ok.affected == 0
    }
}

#[cfg(test)]
mod tests;
