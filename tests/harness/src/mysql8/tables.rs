//! The tables of a scripted MySQL 8 by which its sessions, accounts and code are read.

use super::eval::{Row, names};
use super::session::{Session, Sql};
use super::value::{Value, collations};
use super::{Plugin, Shared};
use crate::decode::ErrPacket;
use crate::fake_cn::error;

/// The number of a connection's thread, which is another one.
pub(super) fn thread_id(connection: u32) -> u64 {
    u64::from(connection) + 1000
}

fn text(text: &str) -> Value {
    Value::text(text, "utf8mb4_0900_ai_ci")
}

fn maybe(value: Option<&str>) -> Value {
    value.map_or_else(Value::null, text)
}

fn denied(session: &Session, table: &str) -> ErrPacket {
    let text = format!("SELECT command denied to user '{}'@'127.0.0.1' for table '{table}'", session.user);
    error(1142, "42000", &text)
}

/// The rows of a table, as this session may read them.
pub(super) fn rows(session: &mut Session, shared: &Shared, name: &str) -> Sql<Vec<Row>> {
    let settings = shared.settings.lock().clone();
    let account = settings.accounts.iter().find(|account| account.name == session.user);
    let is_service = account.is_some_and(|account| account.is_service);
    let (schema, table) = name.split_once('.').unwrap_or(("", name));
    // Anybody may read what is of the session, or of no secrecy; and here all that tells of neither locks nor variables.
    let is_open = !matches!(table, "user_variables_by_thread" | "metadata_locks");
    let reads_all = is_service || account.is_some_and(|account| account.reads_performance_schema);
    if schema == "performance_schema" && !is_open && !reads_all {
        return Err(denied(session, table));
    }
    Ok(match name {
        "performance_schema.session_variables" => {
            names().map(|name| vec![("variable_name", text(name)), ("variable_value", text(""))]).collect()
        }
        "performance_schema.user_variables_by_thread" => user_variables(session),
        "performance_schema.metadata_locks" => locks(session, settings.instruments_locks),
        "performance_schema.setup_instruments" => {
            let enabled = if settings.instruments_locks { "YES" } else { "NO" };
            vec![vec![("name", text("wait/lock/metadata/sql/mdl")), ("enabled", text(enabled))]]
        }
        "performance_schema.setup_consumers" => {
            vec![vec![("name", text("global_instrumentation")), ("enabled", text("YES"))]]
        }
        "performance_schema.threads" => vec![vec![
            ("thread_id", Value::int(thread_id(session.id))),
            ("instrumented", text("YES")),
            ("resource_group", text(&session.resource_group)),
        ]],
        "performance_schema.global_status" => vec![vec![
            ("variable_name", text("Performance_schema_metadata_lock_lost")),
            ("variable_value", text("0")),
        ]],
        "information_schema.collations" => collations()
            .map(|(id, name, of)| {
                vec![
                    ("id", Value::int(id.into())),
                    ("collation_name", text(name)),
                    ("character_set_name", text(of)),
                ]
            })
            .collect(),
        // None of its users may end sessions of others; there is no stored code.
        "information_schema.user_privileges"
        | "information_schema.routines"
        | "information_schema.triggers" => Vec::new(),
        "information_schema.processlist" => {
            let all = shared.ports.lock();
            all.iter()
                .map(|(id, port)| {
                    let host = format!("127.0.0.1:{port}");
                    vec![("id", Value::int(u64::from(*id))), ("host", text(&host))]
                })
                .collect()
        }
        "mysql.user" if is_service => settings
            .accounts
            .iter()
            .map(|account| {
                let (plugin, stored) = match account.plugin {
                    Plugin::Native => ("mysql_native_password", account.stored()),
                    // Salted: nothing that a password could be had from.
                    Plugin::CachingSha2 => ("caching_sha2_password", "$A$005$salted".to_owned()),
                };
                vec![
                    ("user", text(&account.name)),
                    ("plugin", text(plugin)),
                    ("authentication_string", text(&stored)),
                ]
            })
            .collect(),
        "mysql.user" => return Err(denied(session, "user")),
        _ if schema == "information_schema" => {
            let text = format!("Unknown table '{}' in information_schema", table.to_uppercase());
            return Err(error(1109, "42S02", &text));
        }
        _ => return Err(error(1146, "42S02", &format!("Table '{name}' doesn't exist"))),
    })
}

fn user_variables(session: &Session) -> Vec<Row> {
    let one = |(name, value): (&String, &Value)| {
        vec![
            ("thread_id", Value::int(thread_id(session.id))),
            ("variable_name", text(name)),
            ("variable_value", Value { collation: "binary".into(), ..value.clone() }),
        ]
    };
    session.state.user_variables.iter().map(one).collect()
}

/// The locks of the session, and those that this question takes itself.
fn locks(session: &Session, are_instrumented: bool) -> Vec<Row> {
    let row = |object_type: &str, schema: Option<&str>, name: &str, kind: &str, duration: &str| {
        vec![
            ("object_type", text(object_type)),
            ("object_schema", maybe(schema)),
            ("object_name", text(name)),
            ("lock_type", text(kind)),
            ("lock_duration", text(duration)),
            ("lock_status", text("GRANTED")),
            ("owner_thread_id", Value::int(thread_id(session.id))),
        ]
    };
    if !are_instrumented {
        return Vec::new();
    }
    let own = row("TABLE", Some("performance_schema"), "metadata_locks", "SHARED_READ", "TRANSACTION");
    let held = session.locks.iter();
    let held =
        held.map(|held| row(held.object_type, held.schema.as_deref(), &held.name, held.kind, held.duration));
    [own].into_iter().chain(held).collect()
}
