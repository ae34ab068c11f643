//! Asking a CN for a session's state: the questions, and what the answers say.
//!
//! A question may take away what the last statement left for the next one (ROW_COUNT, FOUND_ROWS): whoever asks puts
//! these back where the session stays ([`put_back`]).

use super::catalog::{Catalog, Kind, Variable};
use super::dialect::Dialect;
use super::user_variable::{self, Listed, Problem, UserVariable};
use super::{ascii, literal, query};
use crate::cn::Column;
use crate::cn::converse::Said;
use crate::session::mirror::left::Counted;
use crate::session::pin::PinReason;
use mysql_wire::command;
use mysql_wire::reply::{self, IN_TRANS};
use mysql_wire::sql::Hints;
use mysql_wire::track::{self, Change};
use std::collections::BTreeMap;
use std::rc::Rc;

/// System variables and their values. Absent where the CN does not have one.
pub(crate) type Variables = BTreeMap<Box<str>, Column>;

/// Single facts of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What the CN is that says them.
    pub(crate) dialect: Dialect,
    /// The default database, in UTF-8.
    pub(crate) database: Option<Vec<u8>>,
    /// The role that is set, in UTF-8, as [`Dialect::set_role`] wants it.
    pub(crate) role: Option<Vec<u8>>,
    pub(crate) last_insert_id: u64,
    /// What the next generated id is to be; 0: what comes.
    pub(crate) insert_id: u64,
    /// Seconds and their fraction, as the CN prints them: of the statement that asked, unless the clock is stopped.
    pub(crate) timestamp: Vec<u8>,
    pub(crate) rand_seed: [u64; 2],
    pub(crate) thread: u64,
    pub(crate) gtid_seq_no: u64,
    /// The next GTID is the session's own.
    pub(crate) owns_gtid: bool,
    pub(crate) autocommit: bool,
    /// The number of the collation of `character_set_results`: SET NAMES … COLLATE sets it, and only the definitions of
    /// results show it.
    pub(crate) results: u16,
}

/// What a session's CN says of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// FOUND_ROWS(); `None` where the session lets no row through.
    pub(crate) found_rows: Option<u64>,
    /// How many warnings the last statement left.
    pub(crate) warnings: u64,
    pub(crate) facts: Facts,
    /// Shared by the sessions of a worker that have the same.
    pub(crate) variables: Rc<Variables>,
    /// Statements that set what holds for the next transaction only.
    pub(crate) next_transaction: Vec<Vec<u8>>,
    /// The clock is stopped at `facts.timestamp`.
    pub(crate) is_clock_stopped: bool,
    pub(crate) user_variables: Vec<UserVariable>,
    pub(crate) counted: Counted,
    /// Kinds of locks that it holds; `None` where the CN cannot tell.
    locks: Option<Vec<Vec<u8>>>,
    /// User variables whose values are yet to be asked for.
    listed: Vec<Listed>,
    /// Why it cannot be read whole.
    problem: Option<Problem>,
    /// The status flags of the last OK.
    pub(crate) status: u16,
    /// Code ran in the session that is not seen: it may have set what the user may not.
    pub(crate) unseen: bool,
    /// The user may not ask for all of it.
    pub(crate) lacks_grant: bool,
}

/// An answer that cannot be one. Names the question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The CN refused to say.
    #[error("{0}: error {1}")]
    Refused(&'static str, u16),
    /// It said something else.
    #[error("{0}: not an answer")]
    Malformed(&'static str),
}

/// The questions about variables: they are asked of a new session too, and once more when it was given its state.
pub(super) const VARIABLES: usize = 4;

/// Asks for the variables of `catalog` and for single facts.
pub(super) fn variables(catalog: &Catalog) -> [Vec<u8>; VARIABLES] {
    let question = |variable: &Variable| match variable.kind {
        Kind::Number => format!("@@{}", variable.name),
        Kind::Text => format!("CAST(@@{} AS BINARY)", variable.name),
    };
    let names: Vec<String> = catalog.plain().map(question).collect();
    let dialect = catalog.dialect();
    [
        query(&dialect.facts()),
        query(&dialect.select(&names.join(", "))),
        query("SELECT @@sql_select_limit"),
        query(&dialect.settings()),
    ]
}

/// Reads the answers to [`variables`].
pub(super) fn read_variables(catalog: &Catalog, said: &[Said]) -> Result<(Facts, Variables), Unreadable> {
    let facts = facts(catalog.dialect(), row(said, 0, "facts")?);
    let mut facts = facts.ok_or(Unreadable::Malformed("facts"))?;
    if let Some(Said::Rows(_, definitions)) = said.get(3) {
        facts.results = definitions.last().map_or(0, |definition| definition.collation);
    }
    let values = row(said, 1, "variables")?;
    let asked: Vec<&Variable> = catalog.plain().collect();
    if asked.len() != values.len() {
        return Err(Unreadable::Malformed("variables"));
    }
    let value = |kind: Kind, value: &Column| match kind {
        Kind::Number => value.as_deref().map(ascii),
        Kind::Text => value.clone(),
    };
    let pairs = asked.into_iter().zip(values);
    let mut variables: Variables = pairs.map(|(of, now)| (of.name.clone(), value(of.kind, now))).collect();
    // A session that lets no row through is one whose limit is 0.
    let limit = match refused(said, 2, "sql_select_limit")? {
        Said::Rows(rows, _) if rows.is_empty() => Some(b"0".to_vec()),
        said => said.row().and_then(|row| row.first()?.as_deref()).map(ascii),
    };
    let [Some(big), Some(time), results] = row(said, 3, "settings of results")? else {
        return Err(Unreadable::Malformed("settings of results"));
    };
    let results = match results {
        Some(hex) => Some(literal::from_hex(&ascii(hex)).ok_or(Unreadable::Malformed("character set"))?),
        None => None,
    };
    let bent = [limit, Some(ascii(big)), Some(ascii(time)), results];
    variables.extend(catalog.dialect().bent().into_iter().map(Into::into).zip(bent));
    Ok((facts, variables))
}

/// Single facts, of which every CN says as many, and then its own.
const FACTS: usize = 10;

fn facts(dialect: Dialect, row: &[Column]) -> Option<Facts> {
    let number = |n: usize| literal::number(&ascii(row.get(n)?.as_deref()?))?.parse::<u64>().ok();
    let bytes = |n: usize| match row.get(n)? {
        Some(hex) => literal::from_hex(&ascii(hex)).map(Some),
        None => Some(None),
    };
    Some(Facts {
        dialect,
        database: bytes(0)?,
        role: dialect.role(bytes(1)?)?,
        last_insert_id: number(2)?,
        insert_id: number(3)?,
        timestamp: ascii(row.get(4)?.as_deref()?),
        rand_seed: [number(5)?, number(6)?],
        thread: number(7)?,
        gtid_seq_no: number(8)?,
        owns_gtid: !dialect.is_gtid_free(row.get(FACTS..)?)?,
        autocommit: number(9)? != 0,
        results: 0,
    })
}

/// What was said to question `n`, unless it was refused.
fn refused<'a>(said: &'a [Said], n: usize, what: &'static str) -> Result<&'a Said, Unreadable> {
    match said.get(n) {
        Some(Said::Err(err)) => Err(Unreadable::Refused(what, err.code)),
        Some(said) => Ok(said),
        None => Err(Unreadable::Malformed(what)),
    }
}

fn row<'a>(said: &'a [Said], n: usize, what: &'static str) -> Result<&'a [Column], Unreadable> {
    refused(said, n, what)?.row().ok_or(Unreadable::Malformed(what))
}

/// The counters, last of the questions: to read them clears the warnings.
pub(super) fn counters(dialect: Dialect) -> Vec<u8> {
    query(&dialect.counters())
}

pub(super) fn read_counters(said: &[Said], n: usize) -> Result<Counted, Unreadable> {
    let Said::Rows(rows, _) = refused(said, n, "counters")? else {
        return Err(Unreadable::Malformed("counters"));
    };
    let mut counted = [None; 3];
    for row in rows {
        let [Some(name), Some(value)] = &row[..] else { continue };
        let value = literal::number(&ascii(value)).and_then(|value| value.parse::<u32>().ok());
        match ascii(name).to_ascii_uppercase().as_slice() {
            b"COM_CREATE_TEMPORARY_TABLE" | b"COM_CREATE_TABLE" => counted[0] = value,
            b"COM_PREPARE_SQL" => counted[1] = value,
            b"COM_DEALLOC_SQL" => counted[2] = value,
            _ => {}
        }
    }
    match counted {
        [Some(temporary_tables), Some(prepared), Some(deallocated)] => {
            Ok(Counted { temporary_tables, prepared, deallocated })
        }
        _ => Err(Unreadable::Malformed("counters")),
    }
}

/// What is asked before anything else where there may be warnings, which the other questions clear: what the last
/// statement left. Takes FOUND_ROWS and ROW_COUNT away, and warnings unless [`Dialect::leaves_warnings`].
pub(crate) fn first_questions(dialect: Dialect) -> Vec<Vec<u8>> {
    vec![vec![command::PING], query(dialect.last())]
}

/// Reads the answers to [`first_questions`]: FOUND_ROWS, and how many warnings there are.
///
/// # Errors
/// [`Unreadable`]; a PING that is refused says that a transaction was ended.
pub(crate) fn read_first(said: &[Said]) -> Result<(Option<u64>, u64), Unreadable> {
    refused(said, 0, "ping")?;
    let number = |column: Option<&Column>| {
        let text = ascii(column?.as_deref()?);
        literal::number(&text)?.parse::<u64>().ok()
    };
    let row = refused(said, 1, "last statement")?.row();
    let found_rows = row.and_then(|row| number(row.first()));
    Ok((found_rows, row.and_then(|row| number(row.get(1))).unwrap_or_default()))
}

/// What a session's CN is asked, which knows its connection by `connection_id`.
pub(crate) fn questions(catalog: &Catalog, connection_id: u32) -> Vec<Vec<u8>> {
    let dialect = catalog.dialect();
    let mut questions = first_questions(dialect);
    questions.extend(variables(catalog));
    questions.extend(dialect.witness().map(|sql| query(&sql)));
    questions.push(query(&dialect.locks(connection_id)));
    questions.push(query(&dialect.user_variables()));
    questions.push(counters(dialect));
    // A tracker that is switched on anew begins with how things stand.
    questions.push(query("SET SESSION session_track_transaction_info=OFF"));
    questions.push(query("SET SESSION session_track_transaction_info=CHARACTERISTICS"));
    questions.push(query(&dialect.select("@@timestamp")));
    questions.push(bring_out());
    questions
}

/// What was put back behind [`Dialect::select`] is reported with the next OK that changes state: let it be one of ours.
pub(super) fn bring_out() -> Vec<u8> {
    query("SET SESSION session_track_state_change=ON")
}

/// The table of locks is no table: the plugin that has it is not there.
const NO_SUCH_TABLE: u16 = 1109;

/// The session holds locks, and may use no table but those.
const NOT_LOCKED: u16 = 1100;

/// The user may not read this.
const DENIED: [u16; 3] = [1142, 1143, 1227];

/// Reads the answers to [`questions`].
pub(crate) fn read(catalog: &Catalog, said: &[Said]) -> Result<State, Unreadable> {
    let Said::Ok(ping) = refused(said, 0, "ping")? else { return Err(Unreadable::Malformed("ping")) };
    let mut status = status(ping).ok_or(Unreadable::Malformed("ping"))?;
    let (found_rows, warnings) = read_first(said)?;
    let (facts, variables) = read_variables(catalog, said.get(2..2 + VARIABLES).unwrap_or_default())?;
    let dialect = catalog.dialect();
    let mut doubts = Doubts { dialect, ..Doubts::default() };
    let mut at = 2 + VARIABLES;
    if dialect.witness().is_some() {
        let row = doubts.rows(said, at, "witness")?.and_then(<[_]>::first).map_or(&[][..], Vec::as_slice);
        doubts.problem = doubts.problem.or((!dialect.is_witnessed(row)).then_some(Problem::Unreadable));
        at += 1;
    }
    let locks = match said.get(at) {
        Some(Said::Err(err)) if err.code == NO_SUCH_TABLE && !dialect.pins_where_refused() => None,
        Some(Said::Err(err)) if err.code == NOT_LOCKED && dialect.pins_where_refused() => {
            Some(vec![dialect.lock(b"TABLE".to_vec())])
        }
        _ => {
            let rows = doubts.rows(said, at, "locks")?.unwrap_or_default();
            let kind = |row: &Vec<Column>| row.first()?.as_deref().map(|kind| dialect.lock(ascii(kind)));
            Some(rows.iter().filter_map(kind).collect())
        }
    };
    let listed = match doubts.rows(said, at + 1, "user variables")? {
        Some(rows) => user_variable::listed(dialect, rows, variables.get("character_set_client")),
        None => Ok(Vec::new()),
    };
    let listed = listed.unwrap_or_else(|problem| {
        doubts.problem = Some(problem);
        Vec::new()
    });
    let counted = match read_counters(said, at + 2) {
        Err(_) if dialect.pins_where_refused() => {
            doubts.problem = doubts.problem.or(Some(Problem::Unreadable));
            Counted::default()
        }
        counted => counted?,
    };
    refused(said, at + 3, "transaction tracker")?;
    let Said::Ok(tracked) = refused(said, at + 4, "transaction tracker")? else {
        return Err(Unreadable::Malformed("transaction tracker"));
    };
    let next_transaction = characteristics(tracked).ok_or(Unreadable::Malformed("transaction tracker"))?;
    let later = row(said, at + 5, "timestamp")?;
    let later = later.first().and_then(Option::as_deref).map(ascii);
    let is_clock_stopped = later.as_ref() == Some(&facts.timestamp);
    let Said::Ok(last) = refused(said, at + 6, "state tracker")? else {
        return Err(Unreadable::Malformed("state tracker"));
    };
    status |= self::status(last).ok_or(Unreadable::Malformed("state tracker"))? & IN_TRANS;
    Ok(State {
        found_rows,
        warnings,
        facts,
        variables: Rc::new(variables),
        next_transaction,
        is_clock_stopped,
        user_variables: Vec::new(),
        counted,
        locks,
        listed,
        problem: doubts.problem,
        status,
        unseen: false,
        lacks_grant: doubts.lacks_grant,
    })
}

/// What came up while answers were read that a CN may refuse.
#[derive(Default)]
struct Doubts {
    dialect: Dialect,
    problem: Option<Problem>,
    lacks_grant: bool,
}

impl Doubts {
    /// The rows of answer `n`. `None` where the CN refused it, and that pins.
    fn rows<'a>(
        &mut self,
        said: &'a [Said],
        n: usize,
        what: &'static str,
    ) -> Result<Option<&'a [Vec<Column>]>, Unreadable> {
        match refused(said, n, what) {
            Ok(Said::Rows(rows, _)) => Ok(Some(rows)),
            Ok(_) => Err(Unreadable::Malformed(what)),
            Err(Unreadable::Refused(_, code)) if self.dialect.pins_where_refused() => {
                self.problem = Some(Problem::Unreadable);
                self.lacks_grant |= DENIED.contains(&code);
                Ok(None)
            }
            Err(unreadable) => Err(unreadable),
        }
    }
}

fn status(ok: &[u8]) -> Option<u16> {
    reply::Ok::read(ok).ok().map(|ok| ok.status)
}

/// The statements that set what holds for the next transaction only: the tracker gives them as SQL.
fn characteristics(ok: &[u8]) -> Option<Vec<Vec<u8>>> {
    let ok = reply::Ok::read(ok).ok()?;
    let mut statements = Vec::new();
    track::read(ok.changes, |change| {
        if let Change::Characteristics(sql) = change {
            let one = |sql: &[u8]| [&[command::QUERY], sql.trim_ascii()].concat();
            statements =
                sql.split(|byte| *byte == b';').filter(|sql| !sql.trim_ascii().is_empty()).map(one).collect();
        }
    })
    .ok()?;
    Some(statements)
}

impl State {
    /// Of a session that has these, and did nothing yet.
    pub(crate) fn of(facts: &Facts, variables: &Variables) -> Self {
        Self { facts: facts.clone(), variables: Rc::new(variables.clone()), ..Self::default() }
    }

    /// What is still to be asked: the values of user variables.
    pub(crate) fn further_question(&self) -> Option<Vec<u8>> {
        let client = self.variables.get("character_set_client").and_then(Option::as_deref);
        let ask = || user_variable::values(self.facts.dialect, &self.listed, client.unwrap_or_default());
        if self.listed.is_empty() { None } else { ask() }
    }

    /// What was asked further for this state, of a client with this character set.
    pub(crate) fn further_question_again(&self, client: &[u8]) -> Option<Vec<u8>> {
        let listed = user_variable::listed_again(&self.user_variables);
        if listed.is_empty() { None } else { user_variable::values(self.facts.dialect, &listed, client) }
    }

    /// Reads the answer to it.
    pub(crate) fn read_further(&mut self, said: &Said) -> Result<(), Unreadable> {
        let what = "values of user variables";
        let Said::Rows(rows, definitions) = refused(std::slice::from_ref(said), 0, what)? else {
            return Err(Unreadable::Malformed(what));
        };
        let values = rows.first().ok_or(Unreadable::Malformed(what))?;
        let listed = std::mem::take(&mut self.listed);
        match user_variable::read(self.facts.dialect, listed, values, definitions) {
            Ok(variables) => self.user_variables = variables,
            Err(problem) => self.problem = Some(problem),
        }
        Ok(())
    }

    /// What the answers leave no doubt about, of what texts hint at.
    pub(crate) fn known(&self) -> Hints {
        let by_asking = Hints::USER_VARIABLES
            .with(Hints::TEMPORARY_TABLES)
            .with(Hints::TEXT_STATEMENTS)
            .with(Hints::LAST_INSERT_ID)
            .with(Hints::VARIABLES)
            .with(Hints::LAST_RESULT);
        let by_asking = if self.facts.dialect.tells_xa() { by_asking.with(Hints::XA) } else { by_asking };
        let by_locks = Hints::USER_LOCKS.with(Hints::LOCKED_TABLES).with(Hints::HANDLERS).with(Hints::HIDDEN);
        if self.locks.is_some() { by_asking.with(by_locks) } else { by_asking }
    }

    /// Why the session cannot move, one bit for each reason; what was counted is another's to judge. `hints` is what the
    /// session's texts hinted at, `has_changed` says of a variable whether it was reported to have changed.
    pub(crate) fn pins(&self, hints: Hints, has_changed: impl Fn(&[u8]) -> bool) -> u16 {
        let hinted = |hint| self.locks.is_none() && hints.has(hint);
        let locked = |kinds: fn(&[u8]) -> bool| self.locks.iter().flatten().any(|kind| kinds(kind));
        let is_user_lock = |kind: &[u8]| kind == b"User lock";
        let is_table_lock = |kind: &[u8]| kind == b"Table metadata lock";
        let is_other_lock = |kind: &[u8]| kind != b"User lock" && kind != b"Table metadata lock";
        // A transaction holds locks on the tables that it used.
        let in_transaction = self.status & IN_TRANS != 0;
        let on_tables = locked(is_table_lock) && !in_transaction;
        // A procedure's own text is not seen: the lock may be of either kind.
        let by_handler = on_tables && hints.has(Hints::HANDLERS);
        let dialect = self.facts.dialect;
        let unread = dialect.unreadable().iter().any(|name| has_changed(name.as_bytes()))
            || self.facts.gtid_seq_no != 0;
        let unread = unread || self.facts.owns_gtid || (hints.has(Hints::XA) && !dialect.tells_xa());
        [
            (in_transaction, PinReason::Transaction),
            (locked(is_user_lock) || hinted(Hints::USER_LOCKS), PinReason::UserLock),
            (by_handler || hinted(Hints::HANDLERS), PinReason::Handler),
            (
                (on_tables && !by_handler)
                    || (locked(is_other_lock) && !in_transaction)
                    || hinted(Hints::LOCKED_TABLES),
                PinReason::LockedTables,
            ),
            (self.problem == Some(Problem::TooLarge), PinReason::TooLarge),
            (
                self.problem == Some(Problem::Unreadable) || unread || hinted(Hints::HIDDEN),
                PinReason::UnknownState,
            ),
        ]
        .into_iter()
        .fold(0, |bits, (pinned, reason)| if pinned { bits | reason.bit() } else { bits })
    }
}

/// FOUND_ROWS that can be put back without a table.
const MOST_WITHOUT_TABLE: u64 = 1;

/// The most rows of one generated table.
const ROWS: u64 = 4096;

/// A question that leaves FOUND_ROWS at `n`, and ROW_COUNT at -1. `None` where that would cost too much.
pub(super) fn find_rows(dialect: Dialect, n: u64) -> Option<Vec<u8>> {
    let table = |rows: u64| {
        let ones = vec!["1"; usize::try_from(rows).unwrap_or_default()].join(",");
        format!("JSON_TABLE('[{ones}]', '$[*]' COLUMNS (o FOR ORDINALITY))")
    };
    match n {
        0 => Some(query("SELECT 1 FROM DUAL WHERE FALSE")),
        1 => Some(query("SELECT 1")),
        _ if n > dialect.most_found_rows() => None,
        2..=ROWS => Some(query(&dialect.find(n, &format!("{} a", table(n))))),
        _ => {
            let (a, b) = (table(n.div_ceil(ROWS)), table(ROWS));
            let of_two = format!("{a} a, {b} b WHERE (a.o - 1) * {ROWS} + b.o <= {n}");
            Some(query(&dialect.find(n, &of_two)))
        }
    }
}

/// What puts back on the old CN what the questions took away, where the session stays there. `selected` says that the
/// last statement had rows.
pub(crate) fn put_back(
    dialect: Dialect,
    found_rows: Option<u64>,
    warnings: u64,
    selected: bool,
) -> Vec<Vec<u8>> {
    let mut commands = vec![bring_out()];
    // A table would clear the warnings.
    let most = if warnings > 0 { MOST_WITHOUT_TABLE } else { dialect.most_found_rows() };
    commands.extend(found_rows.filter(|n| *n <= most).and_then(|n| find_rows(dialect, n)));
    if !selected {
        commands.push(query("DO 1"));
    }
    commands
}
