//! What differs between MariaDB and MySQL 8, where a CN is asked for a session's state or for its accounts: the texts of
//! the questions, how their answers are read, and what pins. Nothing else knows which of the two a CN is.
//!
//! MariaDB's texts were measured on 10.11. MySQL's are by its documentation (MySQL 8.0 Reference Manual; sections are named)
//! and were never measured: so whatever MySQL does not tell beyond doubt pins, as `unknown state`.
//!
//! Must not know: sockets, sessions.

mod session_variables;

use super::catalog::Kind;
use super::literal;
use crate::cn::Column;
use mysql_wire::capability::{CLIENT_MYSQL, Capabilities};

/// Which of the two a CN is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// MariaDB, and what speaks exactly like it.
    #[default]
    MariaDb,
    /// MySQL 8 and later.
    MySql,
}

use Dialect::{MariaDb, MySql};

/// Before a question, takes away what would bend its answer. `sql_big_selects` in place of `max_join_size`, because
/// setting the latter sets the former. Not `character_set_results`, which does not come back with the collation that it
/// had: what is not ASCII is asked for as bytes, or in hexadecimal, which is read in whatever character set it is.
const UNBENT: &str = "SET STATEMENT sql_select_limit=DEFAULT, sql_big_selects=1, max_statement_time=0 FOR ";

/// The same for MySQL, behind the SELECT ("Optimizer Hints", "Variable-Setting Hint Syntax": the three are hintable).
/// A hint has no DEFAULT. One that is not taken is only warned of: [`Dialect::witness`] looks whether these were.
const UNBENT_HINT: &str =
    "/*+ SET_VAR(sql_select_limit=4294967295) SET_VAR(sql_big_selects=1) SET_VAR(max_execution_time=0) */ ";

/// Only the limit of rows.
const ALL_ROWS_HINT: &str = "/*+ SET_VAR(sql_select_limit=4294967295) */ ";

/// That limit, or more.
const ALL_ROWS: u64 = 4_294_967_295;

/// Variables that are asked for and put back each in its own way, or that are no state of the session's.
const APART: [&str; 23] = [
    // The clock, ids and seeds: some are used up, or run.
    "timestamp",
    "insert_id",
    "last_insert_id",
    "identity",
    "rand_seed1",
    "rand_seed2",
    "pseudo_thread_id",
    "gtid_seq_no",
    "wsrep_gtid_seq_no",
    // Put back last: from then on a transaction may begin.
    "autocommit",
    // The other name of a collation that is carried.
    "character_set_connection",
    "character_set_database",
    "character_set_server",
    // Set on every connection, for the mirror.
    "session_track_schema",
    "session_track_state_change",
    "session_track_system_variables",
    "session_track_transaction_info",
    // What a statement left.
    "error_count",
    "warning_count",
    "in_transaction",
    "last_gtid",
    // Who the user is.
    "external_user",
    "proxy_user",
];

/// Other names: in MySQL 8 they are the only ones.
const OTHER_NAMES: [&str; 3] = ["transaction_isolation", "transaction_read_only", "storage_engine"];

/// What in the text of a stored function or a trigger may touch a session's state, and no tracker tells: user variables
/// by SELECT, locks, temporary tables, sequences, statements prepared by SQL.
const UNSEEN: &str =
    "(^|[^@])@[^@]|get_lock|release_|temporary|nextval|lastval|setval|next +value|handler|prepare|execute";

impl Dialect {
    /// Of a CN that greeted so. MariaDB says so, and does not set `CLIENT_MYSQL`, whatever version it was told to show.
    pub(crate) fn of(version: &[u8], capabilities: Capabilities) -> Self {
        let is_mariadb = version.windows(7).any(|word| word.eq_ignore_ascii_case(b"mariadb"));
        let is_mysql = matches!(version, [b'8' | b'9', b'.', ..]) && capabilities & CLIENT_MYSQL != 0;
        if is_mysql && !is_mariadb { MySql } else { MariaDb }
    }

    /// `SELECT what`, whose answer no setting of the session bends.
    pub(super) fn select(self, what: &str) -> String {
        match self {
            MariaDb => format!("{UNBENT}SELECT {what}"),
            MySql => format!("SELECT {UNBENT_HINT}{what}"),
        }
    }

    /// `SELECT what`, of which no limit on rows takes any away.
    pub(crate) fn select_all(self, what: &str) -> String {
        match self {
            MariaDb => format!("SET STATEMENT sql_select_limit=DEFAULT FOR SELECT {what}"),
            MySql => format!("SELECT {ALL_ROWS_HINT}{what}"),
        }
    }

    /// `SELECT what`, which may take as long as it takes, and gives all rows.
    pub(crate) fn select_unhindered(self, what: &str) -> String {
        match self {
            MariaDb => {
                format!("SET STATEMENT sql_select_limit=DEFAULT, max_statement_time=0 FOR SELECT {what}")
            }
            MySql => self.select(what),
        }
    }

    /// The variables that are asked for apart: [`Self::select`] changes them, or the character set of results has to be
    /// known together with its collation.
    pub(super) const fn bent(self) -> [&'static str; 4] {
        let time = match self {
            MariaDb => "max_statement_time",
            MySql => "max_execution_time",
        };
        ["sql_select_limit", "sql_big_selects", time, "character_set_results"]
    }

    /// Asks for the last three of them.
    pub(super) fn settings(self) -> String {
        let [_, big, time, results] = self.bent();
        let one_row = match self {
            MariaDb => "SET STATEMENT sql_select_limit=1 FOR SELECT ",
            MySql => "SELECT /*+ SET_VAR(sql_select_limit=1) */ ",
        };
        format!("{one_row}@@{big}, @@{time}, HEX(@@{results})")
    }

    /// Whether a variable is not simply asked for by its name and put back by its value.
    pub(super) fn is_apart(self, name: &str) -> bool {
        let own = match self {
            MariaDb => &OTHER_NAMES[..],
            MySql => &["gtid_next"],
        };
        APART.contains(&name) || own.contains(&name) || self.bent().contains(&name)
    }

    /// Variables that a session can change and that cannot be read back. MySQL: "can be set but not read" ("Server System
    /// Variables", `rand_seed1`).
    pub(super) const fn unreadable(self) -> &'static [&'static str] {
        match self {
            MariaDb => &["gtid_seq_no", "wsrep_gtid_seq_no"],
            MySql => &["rand_seed1", "rand_seed2"],
        }
    }

    /// Asks for the session variables that a CN has, and, of a session that did nothing yet (`fresh`), for its collations.
    /// MySQL's are in tables of InnoDB: to read them would begin a transaction where a session does not commit by itself.
    pub(super) fn catalog(self, fresh: bool) -> Vec<String> {
        let collations = "id, collation_name, character_set_name FROM information_schema.collations";
        match self {
            MariaDb => {
                let variables = "variable_name, variable_type FROM information_schema.system_variables \
                     WHERE variable_scope LIKE 'SESSION%' AND read_only = 'NO' ORDER BY 1";
                // Collations of several character sets have a number for each; before 10.10 each had one character set.
                let several = "id, full_collation_name, character_set_name \
                     FROM information_schema.collation_character_set_applicability";
                [variables, several, collations].map(|what| self.select(what)).into()
            }
            MySql => {
                let mut all = vec![self.select("variable_name FROM performance_schema.session_variables")];
                if fresh {
                    all.extend([self.select(collations), "COMMIT AND NO CHAIN NO RELEASE".to_owned()]);
                }
                all
            }
        }
    }

    /// What a variable's value is written as, by a row of the answer without its name. `None` where no session sets it.
    pub(super) fn kind(self, name: &str, of: &[Column]) -> Option<Kind> {
        match (self, of) {
            (MariaDb, [Some(kind)]) => Some(match super::ascii(kind).as_slice() {
                b"ENUM" | b"SET" | b"FLAGSET" | b"VARCHAR" => Kind::Text,
                _ => Kind::Number,
            }),
            (MySql, []) => session_variables::kind(name),
            _ => None,
        }
    }

    /// Asks for single facts of a session. MySQL's seeds cannot be read; the number of a GTID is MariaDB's.
    pub(super) fn facts(self) -> String {
        let (seeds, more) = match self {
            MariaDb => ("@@rand_seed1, @@rand_seed2, @@pseudo_thread_id, @@gtid_seq_no", ""),
            MySql => ("0, 0, @@pseudo_thread_id, 0", ", HEX(@@gtid_next)"),
        };
        self.select(&format!(
            "HEX(CONVERT(DATABASE() USING utf8mb4)), HEX(CONVERT(CURRENT_ROLE() USING utf8mb4)), \
             LAST_INSERT_ID(), @@insert_id, @@timestamp, {seeds}, @@autocommit{more}"
        ))
    }

    /// What `SET ROLE` is to be given for what CURRENT_ROLE() said. MySQL may have several, each `` `name`@`host` ``, and
    /// says NONE for none ("Information Functions", CURRENT_ROLE): their order does not matter.
    pub(super) fn role(self, said: Option<Vec<u8>>) -> Option<Option<Vec<u8>>> {
        match (self, said) {
            (MariaDb, said) => Some(said),
            (MySql, None) => Some(None),
            (MySql, Some(said)) if said == b"NONE" => Some(None),
            (MySql, Some(said)) => {
                let mut roles = roles(std::str::from_utf8(&said).ok()?)?;
                roles.sort_unstable();
                Some(Some(roles.join(",").into_bytes()))
            }
        }
    }

    /// What comes behind `SET ROLE` for a role as [`Self::role`] gave it.
    pub(super) fn set_role(self, role: &str) -> String {
        match self {
            MariaDb => literal::name(role),
            MySql => role.to_owned(),
        }
    }

    /// Whether seeds of RAND() are read and put back.
    pub(super) const fn tells_seeds(self) -> bool {
        matches!(self, MariaDb)
    }

    /// Asks which locks a session holds. MySQL's own question holds some too, on the tables that it reads.
    pub(super) fn locks(self, connection_id: u32) -> String {
        match self {
            MariaDb => self.select(&format!(
                "lock_type FROM information_schema.metadata_lock_info WHERE thread_id = {connection_id}"
            )),
            MySql => self.select(
                "object_type FROM performance_schema.metadata_locks \
                 WHERE owner_thread_id = PS_CURRENT_THREAD_ID() \
                 AND NOT (object_schema <=> 'performance_schema' AND lock_duration = 'TRANSACTION')",
            ),
        }
    }

    /// The kind of a lock in MariaDB's words.
    pub(super) fn lock(self, kind: Vec<u8>) -> Vec<u8> {
        match (self, kind.as_slice()) {
            (MySql, b"USER LEVEL LOCK" | b"LOCKING SERVICE") => b"User lock".to_vec(),
            (MySql, b"TABLE") => b"Table metadata lock".to_vec(),
            _ => kind,
        }
    }

    /// Asks whether what the CN says of locks and user variables is all of it: where locks are not instrumented, or the
    /// thread is not, none are told ("The metadata_locks Table", "The threads Table"). And for what no tracker tells, and
    /// whether the hints of [`Self::select`] are taken.
    pub(super) fn witness(self) -> Option<String> {
        let own = "FROM performance_schema.threads WHERE thread_id = PS_CURRENT_THREAD_ID()";
        let what = format!(
            "(SELECT enabled FROM performance_schema.setup_instruments \
              WHERE name = 'wait/lock/metadata/sql/mdl'), \
             (SELECT enabled FROM performance_schema.setup_consumers WHERE name = 'global_instrumentation'), \
             (SELECT instrumented {own}), \
             (SELECT variable_value FROM performance_schema.global_status \
              WHERE variable_name = 'Performance_schema_metadata_lock_lost'), \
             (SELECT resource_group {own}), @@sql_select_limit, @@sql_big_selects"
        );
        (self == MySql).then(|| self.select(&what))
    }

    /// Whether it is, and the session is in no resource group of its own.
    pub(super) fn is_witnessed(self, row: &[Column]) -> bool {
        let row: Vec<_> = row.iter().map(|column| column.as_deref().map(super::ascii)).collect();
        let [instrument, consumer, thread, lost, group, limit, big] = &row[..] else { return false };
        let is = |column: &Option<Vec<u8>>, word: &[u8]| column.as_deref() == Some(word);
        let tells = [instrument, consumer, thread].into_iter().all(|column| is(column, b"YES"));
        let limit = limit.as_deref().and_then(literal::number).and_then(|limit| limit.parse::<u64>().ok());
        let is_unbent = limit.is_some_and(|limit| limit >= ALL_ROWS) && is(big, b"1");
        // NULL where there are no resource groups.
        tells && is_unbent && is(lost, b"0") && (group.is_none() || is(group, b"USR_default"))
    }

    /// Whether a question that the CN refuses pins the session, which then cannot be read.
    pub(super) const fn pins_where_refused(self) -> bool {
        matches!(self, MySql)
    }

    /// Whether `gtid_next` lets the session generate what GTID comes: any other value owns one ("Replication and Binary
    /// Logging Options and Variables").
    pub(super) fn is_gtid_free(self, row: &[Column]) -> Option<bool> {
        match (self, row) {
            (MariaDb, []) => Some(true),
            (MySql, [Some(hex)]) => {
                Some(literal::from_hex(&super::ascii(hex))?.eq_ignore_ascii_case(b"AUTOMATIC"))
            }
            _ => None,
        }
    }

    /// Whether the CN tells by a status whether a session has an XA transaction: MySQL's manual does not say so of one
    /// that is prepared.
    pub(super) const fn tells_xa(self) -> bool {
        matches!(self, MariaDb)
    }

    /// Whether an execute without values makes a CN take the types of a statement's parameters. MariaDB does, and knows
    /// the statement that it prepared last without an id. Nothing says so of MySQL: a statement that was executed with
    /// types keeps its session.
    pub(crate) const fn takes_types(self) -> bool {
        matches!(self, MariaDb)
    }

    /// Whether a session sets the collation of its database: in MySQL that follows the database, and is not to be set
    /// ("Server System Variables", `collation_database`).
    pub(super) const fn sets_collation_of_database(self) -> bool {
        matches!(self, MariaDb)
    }

    /// Asks for the counters, last of the questions: to read them clears the warnings. MySQL counts a temporary table as
    /// any other, and shows these only by SHOW ("Performance Schema Status Variable Tables").
    pub(super) fn counters(self) -> String {
        match self {
            MariaDb => self.select(
                "variable_name, variable_value FROM information_schema.session_status \
                 WHERE variable_name IN ('COM_CREATE_TEMPORARY_TABLE', 'COM_PREPARE_SQL', 'COM_DEALLOC_SQL')",
            ),
            MySql => "SHOW SESSION STATUS WHERE Variable_name IN \
                      ('Com_create_table', 'Com_prepare_sql', 'Com_dealloc_sql')"
                .to_owned(),
        }
    }

    /// Asks what the last statement left. MySQL is not asked for warnings: a SELECT of their number leaves only the number
    /// ("SHOW WARNINGS Statement").
    pub(super) const fn last(self) -> &'static str {
        match self {
            MariaDb => "SELECT FOUND_ROWS(), @@warning_count",
            MySql => "SELECT FOUND_ROWS()",
        }
    }

    /// Whether asking how many warnings there are leaves them.
    pub(crate) const fn leaves_warnings(self) -> bool {
        matches!(self, MariaDb)
    }

    /// A SELECT of the `n` rows of `table`, which leaves FOUND_ROWS at that, without their being sent. MySQL warns of
    /// SQL_CALC_FOUND_ROWS, and a client would read that: they are sent.
    pub(super) fn find(self, n: u64, table: &str) -> String {
        match self {
            MariaDb => format!("SELECT SQL_CALC_FOUND_ROWS 1 FROM {table} LIMIT 0"),
            MySql => format!("SELECT 1 FROM {table} LIMIT {n}"),
        }
    }

    /// The most FOUND_ROWS that are put back: counting them takes the CN time, or sending them.
    pub(super) const fn most_found_rows(self) -> u64 {
        match self {
            MariaDb => 1 << 20,
            MySql => 4096,
        }
    }

    /// Asks for the user variables that there are.
    pub(super) fn user_variables(self) -> String {
        match self {
            MariaDb => self.select(
                "HEX(CONVERT(variable_name USING utf8mb4)), variable_type, character_set_name, \
                 CHAR_LENGTH(variable_value) FROM information_schema.user_variables",
            ),
            // "Performance Schema User-Defined Variable Tables": names and values, no types.
            MySql => self.select(
                "HEX(CONVERT(variable_name USING utf8mb4)), LENGTH(variable_value) \
                 FROM performance_schema.user_variables_by_thread WHERE thread_id = PS_CURRENT_THREAD_ID()",
            ),
        }
    }

    /// A statement whose text may have names that are not ASCII, whatever the character set of the client is.
    /// `None` where there is none for a client of this character set.
    pub(super) fn in_any_client(self, sql: &str, client: &[u8]) -> Option<String> {
        match self {
            _ if sql.is_ascii() => Some(sql.to_owned()),
            MariaDb => {
                Some(format!("EXECUTE IMMEDIATE CONVERT(X'{}' USING utf8mb4)", literal::hex(sql.as_bytes())))
            }
            MySql => matches!(client, b"utf8mb4" | b"utf8mb3" | b"utf8").then(|| sql.to_owned()),
        }
    }

    /// Asks for what the CN keeps of the passwords of a user, given as hexadecimal digits, and of the anonymous one.
    pub(crate) fn accounts(self, hex: &str) -> String {
        let (what, of) = match self {
            MariaDb => ("Priv", "mysql.global_priv"),
            MySql => ("plugin, authentication_string", "mysql.user"),
        };
        // As a hexadecimal literal no name can be anything but a name.
        let of_user = if hex.is_empty() {
            String::new()
        } else {
            format!(" OR User = CONVERT(x'{hex}' USING utf8mb4)")
        };
        format!("SELECT {what} FROM {of} WHERE User = ''{of_user}")
    }

    /// Asks whether there is stored code that may touch a session's state unseen.
    pub(crate) fn code(self) -> String {
        let triggers = "information_schema.triggers WHERE trigger_schema <> 'sys'";
        match self {
            MariaDb => {
                let routines = "mysql.proc WHERE db NOT IN ('mysql', 'sys')";
                format!(
                    "SELECT (EXISTS(SELECT 1 FROM {routines} AND type IN ('FUNCTION', 'PACKAGE BODY')) OR EXISTS(SELECT 1 FROM {triggers})) \
                     AND (EXISTS(SELECT 1 FROM {routines} AND CONVERT(body USING utf8mb4) REGEXP '{UNSEEN}') \
                          OR EXISTS(SELECT 1 FROM {triggers} AND action_statement REGEXP '{UNSEEN}'))"
                )
            }
            // A definition that the account may not see is NULL ("The INFORMATION_SCHEMA ROUTINES Table"): it may be any.
            MySql => {
                let routines = "information_schema.routines WHERE routine_schema NOT IN ('mysql', 'sys')";
                let unseen = |text: &str| {
                    format!("COALESCE(REGEXP_LIKE(CONVERT({text} USING utf8mb4), '{UNSEEN}', 'i'), 1)")
                };
                format!(
                    "SELECT (EXISTS(SELECT 1 FROM {routines} AND routine_type = 'FUNCTION') OR EXISTS(SELECT 1 FROM {triggers})) \
                     AND (EXISTS(SELECT 1 FROM {routines} AND {}) OR EXISTS(SELECT 1 FROM {triggers} AND {}))",
                    unseen("routine_definition"),
                    unseen("action_statement"),
                )
            }
        }
    }

    /// The rights, any of one list, without which stored code is not seen and none is found.
    pub(crate) const fn rights_to_see_code(self) -> &'static [&'static [&'static str]] {
        match self {
            // Who may not read `mysql.proc` is refused.
            MariaDb => &[&["TRIGGER"]],
            MySql => &[&["TRIGGER"], &["SHOW_ROUTINE", "SELECT"]],
        }
    }

    /// The grants that are told by name: to read hashes, to see and end sessions, to see stored code.
    pub(crate) const fn grants(self) -> [&'static str; 3] {
        match self {
            MariaDb => [
                "GRANT SELECT ON mysql.global_priv",
                "GRANT PROCESS, CONNECTION ADMIN ON *.*",
                "GRANT SELECT ON mysql.proc, and GRANT TRIGGER ON *.*",
            ],
            MySql => [
                "GRANT SELECT ON mysql.user",
                "GRANT PROCESS, CONNECTION_ADMIN ON *.*",
                "GRANT SHOW_ROUTINE, TRIGGER ON *.*",
            ],
        }
    }

    /// The right to end the sessions of others, beside SUPER.
    pub(crate) const fn right_to_kill(self) -> &'static str {
        match self {
            MariaDb => "CONNECTION ADMIN",
            MySql => "CONNECTION_ADMIN",
        }
    }
}

/// The roles in a list of `` `name`@`host` ``. `None` where it is none.
fn roles(list: &str) -> Option<Vec<&str>> {
    let mut all = Vec::new();
    let mut rest = list;
    loop {
        let name = quoted(rest)?;
        let host = quoted(rest[name..].strip_prefix('@')?)?;
        let (role, behind) = rest.split_at_checked(name + 1 + host)?;
        all.push(role);
        if behind.is_empty() {
            return Some(all);
        }
        rest = behind.strip_prefix(',')?;
    }
}

/// How long the name in backticks is that `text` begins with.
fn quoted(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('`')?;
    let mut at = 0;
    loop {
        at += inside[at..].find('`')?;
        if inside[at + 1..].starts_with('`') {
            at += 2;
        } else {
            return Some(at + 2);
        }
    }
}

#[cfg(test)]
mod tests;
