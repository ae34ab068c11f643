//! Putting a session's state into a new session: what is sent, what must be said to it, and whether the new session is
//! the old one then.
//!
//! In two parts. What takes long and holds for the old session as it goes on (its prepared statements) is sent ahead. The
//! rest is sent while the session stands still, and every answer is looked at. At the end the new session is asked what
//! the old one was asked, and must say the same; the last statement of all is the readiness statement, because a Galera
//! node out of its component says yes to everything before it.

use super::catalog::{Catalog, Kind};
use super::dialect::Dialect;
use super::read::{self, Facts, State, Unreadable, VARIABLES, Variables, find_rows};
use super::{literal, query};
use crate::cn::Column;
use crate::cn::converse::Said;
use crate::session::mirror::left::Counted;
use mysql_wire::command;
use mysql_wire::reply;

/// A prepared statement to be prepared again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToPrepare {
    /// The id that the client knows it by, and what tells it from another one of that id.
    pub(crate) id: u32,
    pub(crate) serial: u32,
    /// It was prepared by SQL, which `text` is then.
    pub(crate) by_sql: bool,
    pub(crate) text: Vec<u8>,
    pub(crate) database: Option<Vec<u8>>,
    pub(crate) sql_mode: Vec<u8>,
    pub(crate) character_set_client: Vec<u8>,
    pub(crate) collation_connection: Vec<u8>,
    pub(crate) params: u16,
    /// The types that were bound to its parameters last.
    pub(crate) types: Option<Vec<u8>>,
}

/// What must be said to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expect {
    /// OK.
    Ok,
    /// OK; the name of what it sets, for people.
    Set(Box<str>),
    /// OK, or a refusal that does not matter: the name of a variable that nobody is known to have changed, and whether
    /// code that is not seen may have, with rights that the user has not.
    Unless(Box<str>, bool),
    /// OK; else the statements behind it, up to the next one of these, cannot be prepared now.
    Context,
    /// An id, or the error that an execute will get.
    Prepared { id: u32, serial: u32, params: u16 },
    /// OK, or an error, of a statement that is prepared by SQL.
    PreparedBySql,
    /// The error that says that values are missing: the types are taken.
    Bound,
    /// OK, or that no client can have such a character set.
    Names,
    /// An error: there is no such statement.
    Refused,
    /// Rows.
    Rows,
    /// Something that is read by whoever asked.
    Answer,
}

/// Commands, and what must be said to each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    commands: Vec<Vec<u8>>,
    expected: Vec<Expect>,
}

/// Why a new session is not the old one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// The CN refused.
    #[error("{what}: error {} ({})", .err.code, String::from_utf8_lossy(&.err.message))]
    Refused {
        /// What.
        what: String,
        /// What it said.
        err: reply::Err,
    },
    /// The CN said something that is no answer to what it was told.
    #[error("{0}: not an answer")]
    Malformed(String),
    /// It has another value than on the old CN.
    #[error("{0} is not what it was")]
    Differs(String),
    /// The new CN does not have it.
    #[error("the CN has no {0}")]
    Missing(String),
    /// A value is not of its type.
    #[error("{0} cannot be written")]
    Unwritable(String),
}

impl From<Unreadable> for Wrong {
    fn from(unreadable: Unreadable) -> Self {
        Self::Malformed(unreadable.to_string())
    }
}

/// What a statement is called by the new CN: its id there, or why it has none.
pub(crate) type Prepared = (u32, u32, Result<u32, reply::Err>);

impl Script {
    fn push(&mut self, command: Vec<u8>, expected: Expect) {
        self.commands.push(command);
        self.expected.push(expected);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.push(query(&format!("SET SESSION {name}={value}")), Expect::Set(name.into()));
    }

    /// What is sent.
    pub(crate) fn commands(&self) -> &[Vec<u8>] {
        &self.commands
    }

    /// Looks at what was said to all of it. Gives what statements are called now.
    ///
    /// # Errors
    /// [`Wrong`]: the first thing that is.
    pub(crate) fn check(&self, said: &[Said]) -> Result<Vec<Prepared>, Wrong> {
        let mut prepared = Vec::new();
        let mut out_of_context: Option<reply::Err> = None;
        if said.len() != self.expected.len() {
            return Err(Wrong::Malformed("number of answers".into()));
        }
        for (expected, said) in self.expected.iter().zip(said) {
            match (expected, said) {
                (Expect::Answer, _)
                | (Expect::Ok | Expect::Set(_) | Expect::Unless(..), Said::Ok(_))
                | (Expect::Rows, Said::Rows(..))
                | (Expect::Names, Said::Ok(_) | Said::Err(_))
                | (Expect::Refused, Said::Err(_)) => {}
                (Expect::PreparedBySql, Said::Ok(_) | Said::Err(_)) => {
                    let refused = match said {
                        Said::Err(err) if !is_of_the_statement(err) => Some(err),
                        // It would be one of the database that the session happens to have.
                        _ => out_of_context.as_ref(),
                    };
                    if let Some(err) = refused {
                        return Err(Wrong::Refused { what: expected.what(), err: err.clone() });
                    }
                }
                (Expect::Context, Said::Ok(_)) => out_of_context = None,
                (Expect::Context, Said::Err(err)) => out_of_context = Some(err.clone()),
                (Expect::Unless(_, unseen), Said::Err(err)) if cannot_be_set(err, *unseen) => {}
                (Expect::Prepared { id, serial, params }, Said::Prepared(cn_id, _, now)) => {
                    if params != now {
                        return Err(Wrong::Differs(format!("the number of parameters of statement {id}")));
                    }
                    let on_cn = out_of_context.clone().map_or(Ok(*cn_id), Err);
                    prepared.push((*id, *serial, on_cn));
                }
                (Expect::Prepared { id, serial, .. }, Said::Err(err)) if is_of_the_statement(err) => {
                    prepared.push((*id, *serial, Err(err.clone())));
                }
                // The statement before it could not be prepared, or the one before that was the last.
                (Expect::Bound, Said::Err(err)) if matches!(err.code, MISSING_VALUES | NO_SUCH_STATEMENT) => {
                }
                (expected, Said::Err(err)) => {
                    return Err(Wrong::Refused { what: expected.what(), err: err.clone() });
                }
                (expected, _) => return Err(Wrong::Malformed(expected.what())),
            }
        }
        Ok(prepared)
    }
}

const MISSING_VALUES: u16 = 1210;
const NO_SUCH_STATEMENT: u16 = 1243;

/// A variable that no session can set, or that this user may not: so it did not, unless code did that is not seen.
const fn cannot_be_set(err: &reply::Err, unseen: bool) -> bool {
    matches!(err.code, 1193 | 1229 | 1238 | 1621) || (err.code == 1227 && !unseen)
}

/// An error that an execute of the statement would get too: what it names is not there any more, is another thing, or may
/// not be used. All else may pass, or is the CN's own.
const fn is_of_the_statement(err: &reply::Err) -> bool {
    matches!(
        err.code,
        1044 | 1046
            | 1049
            | 1051
            | 1054
            | 1064
            | 1109
            | 1142
            | 1143
            | 1146
            | 1227
            | 1305
            | 1347
            | 1356
            | 1370
            | 4091
    )
}

impl Expect {
    /// What it is about, for people.
    fn what(&self) -> String {
        match self {
            Self::Set(name) | Self::Unless(name, _) => format!("set {name}"),
            Self::Context => "use the database of a statement".into(),
            Self::Prepared { id, .. } => format!("prepare statement {id}"),
            Self::PreparedBySql => "prepare by SQL".into(),
            Self::Bound => "bind types".into(),
            Self::Refused => "forget the last statement".into(),
            Self::Names => "set the character set of results".into(),
            Self::Rows => "catch up, or count rows again".into(),
            Self::Ok | Self::Answer => "restore".into(),
        }
    }
}

/// Prepares `statements`, in their order.
pub(crate) fn prepare(dialect: Dialect, statements: &[ToPrepare]) -> Script {
    let mut script = Script::default();
    let mut last: Option<&ToPrepare> = None;
    for statement in statements {
        let ToPrepare { id, serial, by_sql, text, params, types, .. } = statement;
        if !last.is_some_and(|last| is_under_the_same(last, statement)) {
            under(&mut script, statement, last);
        }
        last = Some(statement);
        if *by_sql {
            script.push([&[command::QUERY], text.as_slice()].concat(), Expect::PreparedBySql);
            continue;
        }
        let prepared = Expect::Prepared { id: *id, serial: *serial, params: *params };
        script.push([&[command::STMT_PREPARE], text.as_slice()].concat(), prepared);
        if let Some(types) = types
            && dialect.takes_types()
        {
            script.push(bind(*params, types), Expect::Bound);
        }
    }
    script
}

fn is_under_the_same(a: &ToPrepare, b: &ToPrepare) -> bool {
    a.database == b.database
        && a.sql_mode == b.sql_mode
        && a.character_set_client == b.character_set_client
        && a.collation_connection == b.collation_connection
}

/// What `statement` was prepared under.
fn under(script: &mut Script, statement: &ToPrepare, last: Option<&ToPrepare>) {
    // The name of a database is read by the client's character set. Where one was prepared without any, all were.
    if last.is_none_or(|last| last.database != statement.database)
        && let Some(database) = &statement.database
    {
        script.set("character_set_client", "utf8mb4");
        script.push([&[command::INIT_DB], database.as_slice()].concat(), Expect::Context);
    }
    script.set("sql_mode", &literal::text(&statement.sql_mode));
    script.set("character_set_client", &literal::text(&statement.character_set_client));
    script.set("collation_connection", &literal::text(&statement.collation_connection));
}

/// An execute of the statement that was prepared last, with types and without values: the CN takes the types, and refuses
/// to execute.
fn bind(params: u16, types: &[u8]) -> Vec<u8> {
    let mut execute = vec![command::STMT_EXECUTE];
    execute.extend_from_slice(&u32::MAX.to_le_bytes());
    // No cursor; once.
    execute.extend_from_slice(&[0, 1, 0, 0, 0]);
    // None of them is NULL; types follow.
    execute.resize(execute.len() + usize::from(params).div_ceil(8), 0);
    execute.push(1);
    execute.extend_from_slice(types);
    execute
}

/// Lets the client send several statements at once, or not.
pub(crate) fn set_several_statements(script: &mut Script, several: bool) {
    script.push(vec![command::SET_OPTION, u8::from(!several), 0], Expect::Ok);
}

/// Makes the CN forget which statement was prepared last, where the session has none by that name.
pub(crate) fn forget_last(script: &mut Script) {
    script.push(vec![command::STMT_PREPARE], Expect::Refused);
}

/// Closes statements that the session closed meanwhile.
pub(crate) fn close(cn_id: u32) -> Vec<u8> {
    [&[command::STMT_CLOSE][..], &cn_id.to_le_bytes()].concat()
}

/// What a new session has before anything is put into it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fresh {
    pub(crate) facts: Facts,
    pub(crate) variables: Variables,
}

/// Asks a new session what it has.
pub(crate) fn ask_fresh(catalog: &Catalog) -> Vec<Vec<u8>> {
    read::variables(catalog).into()
}

/// Reads the answers to [`ask_fresh`].
///
/// # Errors
/// [`Unreadable`].
pub(crate) fn read_fresh(catalog: &Catalog, said: &[Said]) -> Result<Fresh, Unreadable> {
    let (facts, variables) = read::read_variables(catalog, said)?;
    Ok(Fresh { facts, variables })
}

/// Set whatever the new session has: preparing statements changed them, or others do.
const ALWAYS: [&str; 4] = ["sql_mode", "character_set_client", "collation_connection", "sql_big_selects"];

/// What tells one CN from another: a session that did not set it has the CN's.
const OWN: [&str; 4] = ["auto_increment_increment", "auto_increment_offset", "gtid_domain_id", "server_id"];

/// Set before those: it sets two of them.
const RESULTS: &str = "character_set_results";

/// What is to be put into a new session.
pub(crate) struct ToRestore<'a> {
    /// The session variables of the new CN.
    pub(crate) catalog: &'a Catalog,
    pub(crate) state: &'a State,
    pub(crate) fresh: &'a Fresh,
    /// The id that the old CN gave its connection.
    pub(crate) old_thread: u32,
    /// The last statement had rows: ROW_COUNT is -1.
    pub(crate) selected: bool,
    /// The client set no variable that is not known: those that are a CN's own stay as the new one has them.
    pub(crate) leaves_own: bool,
    /// The new CN is a node of a Galera cluster: it must catch up with what this session wrote and saw.
    pub(crate) catches_up: bool,
}

/// The commands that put a session's state into a new one, behind `script`. Gives where the answers begin that tell what
/// the new session has then.
///
/// # Errors
/// [`Wrong`]: a value cannot be written, or the new CN lacks a variable that the session changed.
pub(crate) fn restore(
    script: &mut Script,
    to: &ToRestore<'_>,
    has_changed: impl Fn(&[u8]) -> bool,
) -> Result<usize, Wrong> {
    let State { facts, user_variables, .. } = to.state;
    let dialect = to.catalog.dialect();
    if facts.dialect != dialect {
        return Err(Wrong::Differs("the kind of server".into()));
    }
    script.push(query("SET NAMES utf8mb4"), Expect::Ok);
    if to.catches_up {
        catch_up(script, to.fresh);
    }
    if let Some(database) = &facts.database {
        let init = [&[command::INIT_DB], database.as_slice()].concat();
        script.push(init, Expect::Set("the default database".into()));
    }
    if facts.role != to.fresh.facts.role {
        let role = match &facts.role {
            Some(role) => {
                let role = std::str::from_utf8(role).map_err(|_| Wrong::Unwritable("role".into()))?;
                dialect.set_role(role)
            }
            None => "NONE".into(),
        };
        script.push(query(&format!("SET ROLE {role}")), Expect::Set("role".into()));
    }
    for variable in user_variables {
        let set = variable.set().ok_or_else(|| Wrong::Unwritable("a user variable".into()))?;
        script.push(set, Expect::Set("a user variable".into()));
    }
    system_variables(script, to, &has_changed)?;
    numbers(script, to);
    let at = script.commands.len();
    for question in read::variables(to.catalog).into_iter().chain([read::counters(dialect)]) {
        script.push(question, Expect::Answer);
    }
    last_words(script, to);
    Ok(at)
}

/// A causal read: it needs nothing of the old CN, which may be dead.
fn catch_up(script: &mut Script, fresh: &Fresh) {
    let before = fresh.variables.get("wsrep_sync_wait").cloned().flatten();
    let Some(before) = before.as_deref().and_then(literal::number) else { return };
    script.set("wsrep_sync_wait", "1");
    script.push(query("SELECT 1"), Expect::Rows);
    script.set("wsrep_sync_wait", before);
}

fn system_variables(
    script: &mut Script,
    to: &ToRestore<'_>,
    has_changed: &impl Fn(&[u8]) -> bool,
) -> Result<(), Wrong> {
    let mut late = Vec::new();
    for (name, value) in to.state.variables.iter() {
        let Some(variable) = to.catalog.find(name) else {
            if has_changed(name.as_bytes()) {
                return Err(Wrong::Missing(name.to_string()));
            }
            continue;
        };
        if &**name == RESULTS || is_own(to, name, has_changed) {
            continue;
        }
        let always = ALWAYS.contains(&&**name);
        // A database brings its own, and COM_RESET_CONNECTION takes it away and leaves the database.
        let is_the_database_s = &**name == "collation_database";
        if is_the_database_s && !to.catalog.dialect().sets_collation_of_database() {
            continue;
        }
        if !always && !is_the_database_s && to.fresh.variables.get(name) == Some(value) {
            continue;
        }
        let value = written(name, variable.kind, value)?;
        // What changes how results are sent, or how long statements may take, comes behind the rest.
        if to.catalog.dialect().bent().contains(&&**name) || always {
            late.push((name, value));
        } else {
            set(script, name, &value, to, has_changed);
        }
    }
    results(script, to)?;
    for (name, value) in late {
        set(script, name, &value, to, has_changed);
    }
    Ok(())
}

/// Whether this is the CN's, and not the session's.
fn is_own(to: &ToRestore<'_>, name: &str, has_changed: &impl Fn(&[u8]) -> bool) -> bool {
    to.leaves_own && OWN.contains(&name) && !has_changed(name.as_bytes())
}

/// The character set of results, with the collation that it has.
fn results(script: &mut Script, to: &ToRestore<'_>) -> Result<(), Wrong> {
    let Some(value) = to.state.variables.get(RESULTS).cloned().flatten() else {
        script.set(RESULTS, "NULL");
        return Ok(());
    };
    let number = to.state.facts.results;
    let collation =
        to.catalog.collation(number).ok_or_else(|| Wrong::Missing(format!("collation {number}")))?;
    if collation.character_set.as_bytes() == value {
        let names = format!("SET NAMES {} COLLATE {}", collation.character_set, collation.name);
        // One that clients may not have (ucs2) can be that of results all the same.
        script.push(query(&names), Expect::Names);
    }
    // Where it was set as it should be already, this would take the collation away.
    if collation.character_set.as_bytes() != value || !is_for_clients(&collation.character_set) {
        script.set(RESULTS, &literal::text(&value));
    }
    Ok(())
}

/// Whether a client can have this character set: each of its ASCII characters is one byte, as in ASCII.
fn is_for_clients(character_set: &str) -> bool {
    !matches!(character_set, "ucs2" | "utf16" | "utf16le" | "utf32")
}

fn set(
    script: &mut Script,
    name: &str,
    value: &str,
    to: &ToRestore<'_>,
    has_changed: &impl Fn(&[u8]) -> bool,
) {
    let expected = if has_changed(name.as_bytes()) || ALWAYS.contains(&name) {
        Expect::Set(name.into())
    } else {
        Expect::Unless(name.into(), to.state.unseen)
    };
    script.push(query(&format!("SET SESSION {name}={value}")), expected);
}

fn written(name: &str, kind: Kind, value: &Column) -> Result<String, Wrong> {
    match (kind, value) {
        (_, None) => Ok("NULL".into()),
        (Kind::Text, Some(value)) => Ok(literal::text(value)),
        (Kind::Number, Some(value)) => {
            literal::number(value).map(str::to_owned).ok_or_else(|| Wrong::Unwritable(name.into()))
        }
    }
}

fn numbers(script: &mut Script, to: &ToRestore<'_>) {
    let facts = &to.state.facts;
    if facts.dialect.tells_seeds() {
        let [one, two] = facts.rand_seed;
        script.push(
            query(&format!("SET SESSION rand_seed1={one}, rand_seed2={two}")),
            Expect::Set("rand_seed".into()),
        );
    }
    if to.state.is_clock_stopped {
        // It was read as a number of the CN's own printing.
        script.set("timestamp", &String::from_utf8_lossy(&facts.timestamp));
    }
    if facts.thread != u64::from(to.old_thread) {
        script.set("pseudo_thread_id", &facts.thread.to_string());
    }
    if facts.last_insert_id != to.fresh.facts.last_insert_id {
        script.set("last_insert_id", &facts.last_insert_id.to_string());
    }
    if facts.insert_id != 0 {
        script.set("insert_id", &facts.insert_id.to_string());
    }
    if facts.autocommit != to.fresh.facts.autocommit {
        script.set("autocommit", if facts.autocommit { "1" } else { "0" });
    }
}

/// What the last statement left, what holds for the next transaction only, and whether the CN serves.
fn last_words(script: &mut Script, to: &ToRestore<'_>) {
    script.push(read::bring_out(), Expect::Ok);
    let found = to
        .state
        .found_rows
        .and_then(|n| find_rows(to.catalog.dialect(), n))
        .map(|question| (question, Expect::Rows));
    let ready = (query(crate::service::READY), Expect::Ok);
    let next =
        to.state.next_transaction.iter().map(|sql| (sql.clone(), Expect::Set("the next transaction".into())));
    // The last one but for rows that were selected: whatever comes behind it would leave ROW_COUNT at 0.
    let (before, behind) = if to.selected { (None, found) } else { (found, None) };
    let all = before.into_iter().chain(next).chain([ready]).chain(behind);
    for (command, expected) in all {
        script.push(command, expected);
    }
}

/// Whether the new session is what the old one was. `said` is what was said from where [`restore`] told. Gives what the
/// CN counted.
///
/// # Errors
/// [`Wrong`].
pub(crate) fn verify(
    to: &ToRestore<'_>,
    said: &[Said],
    has_changed: impl Fn(&[u8]) -> bool,
) -> Result<Counted, Wrong> {
    let questions = said.get(..VARIABLES).unwrap_or_default();
    let (facts, variables) = read::read_variables(to.catalog, questions)?;
    let counted = read::read_counters(said, VARIABLES)?;
    for (name, value) in to.state.variables.iter() {
        match variables.get(name) {
            Some(now) if now == value => {}
            Some(_) if is_own(to, name, &has_changed) => {}
            // The CN's own: nobody can set it in a session, and nobody did.
            Some(_)
                if !has_changed(name.as_bytes())
                    && !ALWAYS.contains(&&**name)
                    && is_unset(to, name, &variables) => {}
            Some(now) => {
                let shown = |value: &Column| {
                    let text = value.as_deref().map(String::from_utf8_lossy).unwrap_or("NULL".into());
                    text.chars().take(40).collect::<String>()
                };
                let what = format!("{name} ({} there, {} here)", shown(value), shown(now));
                return Err(Wrong::Differs(what));
            }
            None if has_changed(name.as_bytes()) => return Err(Wrong::Missing(name.to_string())),
            None => {}
        }
    }
    let was = &to.state.facts;
    let differs = [
        ("the default database", facts.database != was.database),
        ("the role", facts.role != was.role),
        ("last_insert_id", facts.last_insert_id != was.last_insert_id),
        ("insert_id", facts.insert_id != was.insert_id),
        ("autocommit", facts.autocommit != was.autocommit),
        ("the collation of results", facts.results != was.results),
        ("rand_seed", facts.rand_seed != was.rand_seed),
        ("timestamp", to.state.is_clock_stopped && facts.timestamp != was.timestamp),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(Wrong::Differs(what.into())),
        None => Ok(counted),
    }
}

/// Whether a variable still has the value that the new session began with.
fn is_unset(to: &ToRestore<'_>, name: &str, now: &Variables) -> bool {
    to.fresh.variables.get(name) == now.get(name)
}
