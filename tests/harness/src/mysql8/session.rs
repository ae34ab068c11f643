//! A session of a scripted MySQL 8: its variables and what else it keeps, and what its trackers are yet to report.

use super::value::{self, Kind, Value};
use crate::decode::{ErrPacket, status};
use crate::fake_cn::error;
use std::collections::{BTreeMap, VecDeque};

pub(super) type Sql<T> = Result<T, ErrPacket>;

/// Who may set a variable in a session, or read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// Anybody.
    Set,
    /// Who has SESSION_VARIABLES_ADMIN.
    SetWithRight,
    /// Nobody sets it in a session.
    Read,
    /// It is global only.
    Global,
    /// Anybody sets it, and nobody reads it.
    OnlySet,
}

use Kind::{Double, Int, Text, Unsigned};
use May::{Global, OnlySet, Read, Set, SetWithRight};

const MOST: &str = "18446744073709551615";

/// The variables that it has: a part of MySQL's, of each sort some.
pub(super) const VARIABLES: &[(&str, Kind, &str, May)] = &[
    ("auto_increment_increment", Int, "1", Set),
    ("auto_increment_offset", Int, "1", Set),
    ("autocommit", Int, "1", Set),
    ("binlog_format", Text, "ROW", SetWithRight),
    ("character_set_client", Text, "utf8mb4", Set),
    ("character_set_connection", Text, "utf8mb4", Set),
    ("character_set_database", Text, "utf8mb4", Set),
    ("character_set_results", Text, "utf8mb4", Set),
    ("character_set_server", Text, "utf8mb4", Set),
    ("collation_connection", Text, "utf8mb4_0900_ai_ci", Set),
    ("collation_database", Text, "utf8mb4_0900_ai_ci", SetWithRight),
    ("collation_server", Text, "utf8mb4_0900_ai_ci", Set),
    ("component_of_tomorrow", Int, "0", Set),
    ("default_storage_engine", Text, "InnoDB", Set),
    ("foreign_key_checks", Int, "1", Set),
    ("group_concat_max_len", Int, "1024", Set),
    ("gtid_next", Text, "AUTOMATIC", Set),
    ("innodb_buffer_pool_size", Int, "134217728", Global),
    ("insert_id", Int, "0", Set),
    ("last_insert_id", Int, "0", Set),
    ("lc_time_names", Text, "en_US", Set),
    ("lock_wait_timeout", Int, "31536000", Set),
    ("long_query_time", Double, "10.000000", Set),
    ("max_allowed_packet", Int, "67108864", Read),
    ("max_execution_time", Int, "0", Set),
    ("max_join_size", Unsigned, MOST, Set),
    ("optimizer_switch", Text, "index_merge=on,mrr=on", Set),
    ("performance_schema", Int, "1", Global),
    ("pseudo_thread_id", Int, "0", SetWithRight),
    ("rand_seed1", Int, "0", OnlySet),
    ("rand_seed2", Int, "0", OnlySet),
    ("session_track_gtids", Text, "OFF", Set),
    ("session_track_schema", Int, "1", Set),
    ("session_track_state_change", Int, "0", Set),
    (
        "session_track_system_variables",
        Text,
        "time_zone,autocommit,character_set_client,character_set_results,character_set_connection",
        Set,
    ),
    ("session_track_transaction_info", Text, "OFF", Set),
    ("sql_big_selects", Int, "1", Set),
    ("sql_log_bin", Int, "1", SetWithRight),
    ("sql_mode", Text, "ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES", Set),
    ("sql_safe_updates", Int, "0", Set),
    ("sql_select_limit", Unsigned, MOST, Set),
    ("time_zone", Text, "SYSTEM", Set),
    ("timestamp", Double, "0", Set),
    ("transaction_isolation", Text, "REPEATABLE-READ", Set),
    ("transaction_read_only", Int, "0", Set),
    ("unique_checks", Int, "1", Set),
    ("wait_timeout", Int, "28800", Set),
];

/// A prepared statement, and what it was prepared under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its text.
    pub text: String,
    /// The default database then.
    pub database: Option<String>,
    /// `sql_mode`, `character_set_client` and `collation_connection` then.
    pub parse: [String; 3],
    pub(super) params: usize,
    pub(super) types: Option<Vec<[u8; 2]>>,
}

/// All that a session is for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The default database.
    pub database: Option<String>,
    /// The session variables, but for its own thread id.
    pub variables: BTreeMap<String, Value>,
    /// The collation of results, by its number; absent where they are not converted.
    pub results: Option<u16>,
    /// The user variables.
    pub user_variables: BTreeMap<String, Value>,
    /// The roles that are active.
    pub roles: Vec<String>,
    /// LAST_INSERT_ID()
    pub last_insert_id: u64,
    /// The next generated id; 0: what comes.
    pub insert_id: u64,
    /// The clock, where it is stopped.
    pub timestamp: Option<String>,
    /// What holds for the next transaction only.
    pub next_transaction: String,
    /// FOUND_ROWS()
    pub found_rows: u64,
    /// How many warnings the last statement left.
    pub warnings: u16,
    /// The prepared statements, in their order.
    pub statements: Vec<Statement>,
}

/// A lock that a session holds, as the performance schema shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) object_type: &'static str,
    pub(super) schema: Option<String>,
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) duration: &'static str,
}

/// What is reported with the next OK.
#[derive(Clone, Debug)]
pub(super) enum Report {
    Variable(String, String),
    Schema(String),
    State,
    Characteristics(String),
    Transaction(&'static str),
}

pub(super) struct Session {
    pub(super) id: u32,
    pub(super) user: String,
    pub(super) state: State,
    pub(super) prepared: BTreeMap<u32, Statement>,
    pub(super) next_statement: u32,
    pub(super) in_transaction: bool,
    pub(super) locks: Vec<Lock>,
    pub(super) counters: BTreeMap<&'static str, u64>,
    pub(super) reports: VecDeque<Report>,
    pub(super) resource_group: String,
}

impl Session {
    pub(super) fn new(id: u32, user: &str, database: Option<String>, collation: u16) -> Self {
        let mut session = Self {
            id,
            user: user.to_owned(),
            state: fresh(database),
            prepared: BTreeMap::new(),
            next_statement: 1,
            in_transaction: false,
            locks: Vec::new(),
            counters: counters(),
            reports: VecDeque::new(),
            resource_group: "USR_default".to_owned(),
        };
        if let Some(collation) = value::named(collation) {
            session.set_names(value::character_set(collation), Some(collation));
        }
        session.reports.clear();
        session
    }

    /// COM_RESET_CONNECTION: the database stays.
    pub(super) fn reset(&mut self) {
        let database = self.state.database.take();
        *self = Self { next_statement: self.next_statement, ..Self::new(self.id, &self.user, database, 0) };
    }

    /// As tests compare it.
    pub(super) fn state(&self) -> State {
        State { statements: self.prepared.values().cloned().collect(), ..self.state.clone() }
    }

    pub(super) fn word(&self, variable: &str) -> String {
        self.state.variables.get(variable).and_then(Value::word).unwrap_or_default()
    }

    pub(super) fn is_on(&self, variable: &str) -> bool {
        self.word(variable) == "1"
    }

    pub(super) fn count(&mut self, counter: &'static str) {
        *self.counters.entry(counter).or_default() += 1;
    }

    pub(super) fn status(&self) -> u16 {
        let on = |bit: u16, is: bool| if is { bit } else { 0 };
        on(status::IN_TRANS, self.in_transaction) | on(status::AUTOCOMMIT, self.is_on("autocommit"))
    }

    /// A variable was assigned to.
    pub(super) fn report(&mut self, variable: &str) {
        let value = self.state.variables.get(variable).and_then(Value::word).unwrap_or_default();
        let is_switch = VARIABLES.iter().any(|(name, kind, default, _)| {
            *name == variable && *kind == Int && matches!(*default, "0" | "1") && *name != "insert_id"
        });
        let value = match (is_switch, value.as_str()) {
            (true, "1") => "ON".to_owned(),
            (true, "0") => "OFF".to_owned(),
            _ => value,
        };
        self.reports.push_back(Report::Variable(variable.to_owned(), value));
        self.reports.push_back(Report::State);
    }

    pub(super) fn put(&mut self, variable: &str, text: &str) {
        self.state.variables.insert(variable.to_owned(), Value::text(text, "utf8mb3_general_ci"));
    }

    /// SET NAMES. The tracker does not tell `collation_connection`.
    pub(super) fn set_names(&mut self, character_set: &str, collation: Option<&str>) {
        let collation =
            collation.or_else(|| value::default_collation(character_set)).unwrap_or_default().to_owned();
        for variable in ["character_set_client", "character_set_connection", "character_set_results"] {
            self.put(variable, character_set);
            self.report(variable);
        }
        self.put("collation_connection", &collation);
        self.state.results = Some(value::number_of(&collation));
    }

    /// What the transaction tracker says of the next transaction.
    pub(super) fn report_transaction(&mut self) {
        let state = if self.in_transaction { "T_______" } else { "________" };
        self.reports.push_back(Report::Transaction(state));
        self.reports.push_back(Report::Characteristics(self.state.next_transaction.clone()));
    }

    pub(super) fn begin(&mut self) {
        self.in_transaction = true;
        self.state.next_transaction.clear();
        self.reports.push_back(Report::Transaction("T_______"));
        self.reports.push_back(Report::Characteristics("START TRANSACTION;".to_owned()));
    }

    pub(super) fn end(&mut self) {
        self.in_transaction = false;
        self.report_transaction();
    }

    pub(super) fn use_database(&mut self, database: &str) {
        self.state.database = Some(database.to_owned());
        self.reports.push_back(Report::Schema(database.to_owned()));
        self.reports.push_back(Report::State);
    }

    /// Sets a variable of VARIABLES to a value of its kind, with what else that sets.
    pub(super) fn assign(&mut self, name: &str, kind: Kind, value: &Value, has_right: bool) -> Sql<()> {
        let (_, _, _, may) = find(name)?;
        let named = |text: &str| text.replace("{}", name);
        match may {
            Set | OnlySet => {}
            SetWithRight if has_right => {}
            SetWithRight => {
                let text = "Access denied; you need (at least one of) the SUPER, SYSTEM_VARIABLES_ADMIN or \
                            SESSION_VARIABLES_ADMIN privilege(s) for this operation";
                return Err(error(1227, "42000", text));
            }
            Read => {
                return Err(error(
                    1621,
                    "HY000",
                    &named("SESSION variable '{}' is read-only. Use SET GLOBAL"),
                ));
            }
            Global => {
                let text = "Variable '{}' is a GLOBAL variable and should be set with SET GLOBAL";
                return Err(error(1229, "HY000", &named(text)));
            }
        }
        let word = value.word();
        let wrong =
            || error(1231, "42000", &format!("Variable '{name}' can't be set to the value of '{word:?}'"));
        match (name, word.as_deref()) {
            ("timestamp", word) => self.state.timestamp = word.map(str::to_owned).filter(|word| word != "0"),
            ("insert_id", Some(word)) => self.state.insert_id = word.parse().map_err(|_| wrong())?,
            ("last_insert_id", Some(word)) => {
                self.state.last_insert_id = word.parse().map_err(|_| wrong())?
            }
            ("rand_seed1" | "rand_seed2", _) => {}
            ("character_set_results", None) => {
                self.state.variables.insert(name.into(), Value::null());
                self.state.results = None;
            }
            (_, None) => return Err(wrong()),
            ("character_set_results", Some(word)) => {
                self.state.results = Some(value::number_of(collation_or_set(name, word).ok_or_else(wrong)?));
                self.put(name, word);
            }
            ("character_set_client", Some("ucs2")) => return Err(wrong()),
            ("character_set_client", Some(word)) => {
                collation_or_set(name, word).ok_or_else(wrong)?;
                self.put(name, word);
            }
            ("character_set_connection", Some(word)) => {
                let collation = collation_or_set(name, word).ok_or_else(wrong)?;
                self.put(name, word);
                self.put("collation_connection", collation);
            }
            ("collation_connection", Some(word)) => {
                collation_or_set(name, word).ok_or_else(wrong)?;
                self.put(name, word);
                self.put("character_set_connection", value::character_set(word));
            }
            (_, Some(word)) if kind == Text => self.put(name, word),
            (_, Some(word)) => {
                let digits = match word.to_ascii_uppercase().as_str() {
                    "ON" => "1".to_owned(),
                    "OFF" => "0".to_owned(),
                    _ => word.to_owned(),
                };
                digits.parse::<f64>().map_err(|_| wrong())?;
                let digits = if kind == Double {
                    format!("{:.6}", digits.parse::<f64>().unwrap_or(0.))
                } else {
                    digits
                };
                self.state.variables.insert(name.into(), Value::of(kind, Some(&digits)));
            }
        }
        if name == "max_join_size" {
            let all = if word.as_deref() == Some(MOST) { "1" } else { "0" };
            self.state.variables.insert("sql_big_selects".into(), Value::of(Int, Some(all)));
        }
        self.report(name);
        Ok(())
    }
}

/// The collation that a character set has, or the collation itself.
fn collation_or_set<'a>(variable: &str, word: &'a str) -> Option<&'a str> {
    if variable.starts_with("collation") {
        (value::number_of(word) != 0).then_some(word)
    } else {
        value::default_collation(word)
    }
}

pub(super) fn find(name: &str) -> Sql<(&'static str, Kind, &'static str, May)> {
    let found = VARIABLES.iter().find(|(known, ..)| *known == name);
    found.copied().ok_or_else(|| error(1193, "HY000", &format!("Unknown system variable '{name}'")))
}

pub(super) fn default_of(kind: Kind, default: &str) -> Value {
    if kind == Text { Value::text(default, "utf8mb3_general_ci") } else { Value::of(kind, Some(default)) }
}

fn counters() -> BTreeMap<&'static str, u64> {
    ["Com_create_table", "Com_prepare_sql", "Com_dealloc_sql"].map(|name| (name, 0)).into()
}

fn fresh(database: Option<String>) -> State {
    let own = ["pseudo_thread_id", "timestamp", "insert_id", "last_insert_id", "rand_seed1", "rand_seed2"];
    let variables = VARIABLES.iter().filter(|(name, ..)| !own.contains(name));
    let variables =
        variables.map(|(name, kind, default, _)| ((*name).to_owned(), default_of(*kind, default)));
    State {
        database,
        variables: variables.collect(),
        results: Some(255),
        user_variables: BTreeMap::new(),
        roles: Vec::new(),
        last_insert_id: 0,
        insert_id: 0,
        timestamp: None,
        next_transaction: String::new(),
        found_rows: 0,
        warnings: 0,
        statements: Vec::new(),
    }
}
