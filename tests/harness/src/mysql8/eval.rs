//! What a scripted MySQL 8 makes of expressions and SELECTs: the functions and tables that a session's state can be read
//! by, with the rights that they need. A table that MySQL 8 does not have is unknown here too.

use super::Shared;
use super::session::{May, Session, Sql, VARIABLES, default_of, find};
use super::sql::{Expr, From, Select};
use super::value::{self, Kind, Value};
use crate::fake_cn::error;
use std::time::SystemTime;

pub(super) type Row = Vec<(&'static str, Value)>;

/// Rows with the titles of their columns.
pub(super) struct Rows {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<Value>>,
}

/// What an expression may use.
pub(super) struct Scope<'a> {
    pub(super) session: &'a mut Session,
    pub(super) shared: &'a Shared,
    pub(super) row: Option<Row>,
    pub(super) params: Vec<Value>,
    pub(super) hints: Vec<(String, String)>,
}

fn unknown_column(name: &str) -> crate::decode::ErrPacket {
    error(1054, "42S22", &format!("Unknown column '{name}' in 'field list'"))
}

fn bool(is: bool) -> Value {
    Value::int(u64::from(is))
}

impl<'a> Scope<'a> {
    pub(super) fn new(session: &'a mut Session, shared: &'a Shared) -> Self {
        Self { session, shared, row: None, params: Vec::new(), hints: Vec::new() }
    }

    /// A SELECT of a client: it leaves FOUND_ROWS.
    pub(super) fn select(&mut self, select: &Select) -> Sql<Rows> {
        if self.shared.settings.lock().takes_hints {
            self.hints = select.hints.clone();
        }
        let limited = self.variable("sql_select_limit")?.word().and_then(|limit| limit.parse::<u64>().ok());
        if matches!(select.from, From::Table(_)) && !self.variable("sql_big_selects")?.is_true() {
            let text = "The SELECT would examine more than MAX_JOIN_SIZE rows";
            return Err(error(1104, "42000", text));
        }
        let mut rows = self.rows(select)?;
        if select.limit.is_none() {
            let limit = limited.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
            rows.rows.truncate(limit);
        }
        self.hints.clear();
        self.session.state.found_rows = rows.rows.len() as u64;
        Ok(rows)
    }

    fn rows(&mut self, select: &Select) -> Sql<Rows> {
        let from: Vec<Row> = match &select.from {
            From::Dual => vec![Vec::new()],
            From::Numbers(n) => (1..=*n).map(|o| vec![("o", Value::int(o as u64))]).collect(),
            From::Table(name) => super::tables::rows(self.session, self.shared, name)?,
        };
        let outer = self.row.take();
        let mut rows = Vec::new();
        for row in from {
            self.row = Some(row);
            let is_in = match &select.filter {
                Some(filter) => self.eval(filter)?.is_true(),
                None => true,
            };
            if is_in && select.limit.is_none_or(|limit| rows.len() < limit) {
                rows.push(select.columns.iter().map(|(_, one)| self.eval(one)).collect::<Sql<Vec<_>>>()?);
            }
        }
        self.row = outer;
        Ok(Rows { columns: select.columns.iter().map(|(title, _)| title.clone()).collect(), rows })
    }

    pub(super) fn variable(&self, name: &str) -> Sql<Value> {
        let name = name.rsplit('.').next().unwrap_or_default();
        let (name, kind, default, may) = find(name)?;
        if let Some((_, hinted)) = self.hints.iter().find(|(hinted, _)| hinted == name) {
            return Ok(default_of(kind, hinted));
        }
        let session = &self.session.state;
        Ok(match name {
            "pseudo_thread_id" => Value::int(u64::from(self.session.id)),
            "timestamp" => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let now = format!("{}.{:06}", now.as_secs(), now.subsec_micros());
                Value::of(Kind::Double, Some(session.timestamp.as_ref().unwrap_or(&now)))
            }
            "insert_id" => Value::int(session.insert_id),
            "last_insert_id" => Value::int(session.last_insert_id),
            _ if may == May::OnlySet => {
                // MySQL does not say what it answers; whoever asks builds on nothing.
                return Err(error(1238, "HY000", &format!("Variable '{name}' is not to be read")));
            }
            _ => session.variables.get(name).cloned().unwrap_or_else(|| default_of(kind, default)),
        })
    }

    pub(super) fn eval(&mut self, expr: &Expr) -> Sql<Value> {
        Ok(match expr {
            Expr::Value(value) => value.clone(),
            Expr::Default => return Err(error(1064, "42000", "near 'DEFAULT'")),
            Expr::Param => {
                if self.params.is_empty() {
                    return Err(error(1210, "HY000", "Incorrect arguments to mysqld_stmt_execute"));
                }
                self.params.remove(0)
            }
            Expr::User(name) => {
                let found = self.session.state.user_variables.get(&name.to_lowercase());
                found.cloned().unwrap_or_else(Value::null)
            }
            Expr::System(name) => self.variable(name)?,
            Expr::Column(name) => {
                let name = name.to_ascii_lowercase();
                let found = self.row.iter().flatten().find(|(column, _)| *column == name);
                found.map(|(_, value)| value.clone()).ok_or_else(|| unknown_column(&name))?
            }
            Expr::Cast(of, words) => {
                let of = self.eval(of)?;
                of.cast(words).map_err(|wrong| error(1064, "42000", &wrong.to_string()))?
            }
            Expr::Convert(of, to) => {
                let of = self.eval(of)?;
                of.convert(to).map_err(|wrong| error(1115, "42000", &wrong.to_string()))?
            }
            Expr::Collate(of, collation) => {
                let of = self.eval(of)?;
                if value::character_set(&of.collation) != value::character_set(collation) {
                    let text = format!("COLLATION '{collation}' is not valid for '{}'", of.collation);
                    return Err(error(1253, "42000", &text));
                }
                Value { collation: collation.clone(), ..of }
            }
            Expr::Select(select) => {
                let rows = self.rows(select)?;
                rows.rows.first().and_then(|row| row.first()).cloned().unwrap_or_else(Value::null)
            }
            Expr::Binary(sign, left, right) => self.compare(sign, left, right)?,
            Expr::In(left, all) => {
                let left = self.eval(left)?.word();
                let mut is_in = false;
                for one in all {
                    is_in |= same(left.as_deref(), self.eval(one)?.word().as_deref());
                }
                bool(is_in)
            }
            Expr::Not(of) => bool(!self.eval(of)?.is_true()),
            Expr::Call(name, arguments) => self.call(name, arguments)?,
        })
    }

    fn compare(&mut self, sign: &str, left: &Expr, right: &Expr) -> Sql<Value> {
        let (left, right) = (self.eval(left)?, self.eval(right)?);
        let (a, b) = (left.word(), right.word());
        Ok(match sign {
            "and" => bool(left.is_true() && right.is_true()),
            "or" => bool(left.is_true() || right.is_true()),
            "<=>" => bool(same(a.as_deref(), b.as_deref())),
            _ if a.is_none() || b.is_none() => Value::null(),
            "=" => bool(same(a.as_deref(), b.as_deref())),
            "like" => {
                let (a, b) = (a.unwrap_or_default().to_lowercase(), b.unwrap_or_default().to_lowercase());
                bool(b.strip_prefix('%').map_or(a == b, |end| a.ends_with(end)))
            }
            "<>" | "!=" => bool(!same(a.as_deref(), b.as_deref())),
            other => return Err(error(1235, "42000", other)),
        })
    }

    fn call(&mut self, name: &str, arguments: &[Expr]) -> Sql<Value> {
        if name == "EXISTS" {
            let [Expr::Select(select)] = arguments else { return Err(error(1064, "42000", "EXISTS")) };
            return Ok(bool(!self.rows(select)?.rows.is_empty()));
        }
        let values = arguments.iter().map(|one| self.eval(one)).collect::<Sql<Vec<_>>>()?;
        let connection = self.session.word("collation_connection");
        let text = |text: &str| Value::text(text, &connection);
        let system = |text: &str| Value::text(text, "utf8mb3_general_ci");
        let knows_threads = self.shared.settings.lock().knows_threads;
        let session = &mut *self.session;
        Ok(match (name, &values[..]) {
            ("DATABASE", []) => session.state.database.as_deref().map_or_else(Value::null, system),
            ("CURRENT_USER", []) => system(&format!("{}@%", session.user)),
            ("CURRENT_ROLE", []) if session.state.roles.is_empty() => system("NONE"),
            ("CURRENT_ROLE", []) => system(&session.state.roles.join(",")),
            ("CONNECTION_ID", []) => Value::int(u64::from(session.id)),
            ("PS_CURRENT_THREAD_ID", []) if knows_threads => Value::int(super::tables::thread_id(session.id)),
            ("LAST_INSERT_ID", []) => Value::int(session.state.last_insert_id),
            ("LAST_INSERT_ID", [id]) => {
                session.state.last_insert_id = id.word().and_then(|id| id.parse().ok()).unwrap_or_default();
                id.clone()
            }
            ("FOUND_ROWS", []) => {
                // Deprecated as of 8.0.17.
                session.state.warnings = 1;
                Value::int(session.state.found_rows)
            }
            ("HEX", [of]) => match &of.bytes {
                Some(bytes) => text(&bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>()),
                None => Value::null(),
            },
            ("LENGTH", [of]) => {
                of.bytes.as_ref().map_or_else(Value::null, |bytes| Value::int(bytes.len() as u64))
            }
            ("CHARSET", [of]) => system(value::character_set(&of.collation)),
            ("COLLATION", [of]) => system(&of.collation),
            ("COALESCE", all) => {
                all.iter().find(|one| one.bytes.is_some()).cloned().unwrap_or_else(Value::null)
            }
            ("GET_LOCK", [lock, _]) => {
                session.lock("USER LEVEL LOCK", None, &lock.word().unwrap_or_default(), "EXCLUSIVE");
                Value::int(1)
            }
            ("RELEASE_LOCK", [lock]) => {
                let before = session.locks.len();
                let lock = lock.word().unwrap_or_default();
                session.locks.retain(|held| held.object_type != "USER LEVEL LOCK" || held.name != lock);
                bool(session.locks.len() < before)
            }
            _ => return Err(error(1305, "42000", &format!("FUNCTION {name} does not exist"))),
        })
    }
}

impl Session {
    pub(super) fn lock(
        &mut self,
        object_type: &'static str,
        schema: Option<&str>,
        name: &str,
        kind: &'static str,
    ) {
        let (schema, name) = (schema.map(str::to_owned), name.to_owned());
        self.locks.push(super::session::Lock { object_type, schema, name, kind, duration: "EXPLICIT" });
    }
}

/// As MySQL compares by default: without regard to case.
fn same(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// The names of all variables, a session's or not.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().map(|(name, ..)| *name)
}
