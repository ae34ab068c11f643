//! The statements of a scripted MySQL 8. What is none of them is a syntax error, and unexpected.

use super::Shared;
use super::eval::{Rows, Scope};
use super::session::{Session, Sql, Statement, default_of, find};
use super::sql::{Expr, Parser, Token};
use super::value::{Kind, Value};
use crate::decode::ErrPacket;
use crate::fake_cn::error;

/// What a statement gives.
pub(super) enum Reply {
    Ok { affected: u64, insert_id: u64 },
    Rows(Rows),
}

const DONE: Reply = Reply::Ok { affected: 0, insert_id: 0 };

pub(super) fn syntax(wrong: &anyhow::Error) -> ErrPacket {
    error(1064, "42000", &format!("You have an error in your SQL syntax: {wrong}"))
}

/// Runs a statement.
pub(super) fn run(session: &mut Session, shared: &Shared, text: &str, params: Vec<Value>) -> Sql<Reply> {
    let read = |parser: anyhow::Result<Parser>| parser.map_err(|wrong| syntax(&wrong));
    let mut at = read(Parser::new(text))?;
    session.state.warnings = 0;
    if at.word("SELECT") {
        let select =
            at.select().and_then(|select| at.done().map(|()| select)).map_err(|wrong| syntax(&wrong))?;
        let mut scope = Scope::new(session, shared);
        scope.params = params;
        return scope.select(&select).map(Reply::Rows);
    }
    if at.word("SET") {
        return set(session, shared, &mut at);
    }
    let words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_uppercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["DO", ..] => {
            at.word("DO");
            let of = at.expression().map_err(|wrong| syntax(&wrong))?;
            Scope::new(session, shared).eval(&of)?;
        }
        ["SHOW", ..] => return show(session, shared, &words, text),
        ["BEGIN", ..] | ["START", "TRANSACTION", ..] => session.begin(),
        ["COMMIT"] | ["COMMIT", "AND", "NO", "CHAIN", "NO", "RELEASE"] | ["ROLLBACK"] => session.end(),
        ["USE", ..] => {
            at.word("USE");
            let database = at.name().map_err(|wrong| syntax(&wrong))?;
            session.use_database(&database);
        }
        ["CREATE", "TEMPORARY", "TABLE", ..] | ["CREATE", "TABLE", ..] => {
            session.count("Com_create_table");
            session.reports.push_back(super::session::Report::State);
        }
        ["INSERT", "INTO", ..] => {
            let id = std::mem::take(&mut session.state.insert_id).max(session.state.last_insert_id + 1);
            session.state.last_insert_id = id;
            session.in_transaction |= !session.is_on("autocommit");
            return Ok(Reply::Ok { affected: 1, insert_id: id });
        }
        ["PREPARE", ..] => session.count("Com_prepare_sql"),
        ["DEALLOCATE", "PREPARE", ..] => session.count("Com_dealloc_sql"),
        ["LOCK", "INSTANCE", "FOR", "BACKUP"] => session.lock("BACKUP LOCK", None, "", "SHARED"),
        ["LOCK", "TABLES", table, ..] => {
            let table = table.to_lowercase();
            session.lock("TABLE", Some("suite"), &table, "SHARED_READ_ONLY");
            session.reports.push_back(super::session::Report::Transaction("_______L"));
        }
        ["UNLOCK", "TABLES"] => {
            session.locks.retain(|lock| lock.object_type != "TABLE");
            session.reports.push_back(super::session::Report::Transaction("________"));
        }
        ["HANDLER", table, "OPEN"] => {
            session.lock("TABLE", Some("suite"), &table.to_lowercase(), "SHARED_READ");
        }
        ["XA", "START" | "END" | "PREPARE" | "COMMIT" | "ROLLBACK", ..] => {}
        ["KILL", .., id] => {
            let id = id.parse().unwrap_or_default();
            let is_there = shared.ports.lock().contains_key(&id);
            let connection = shared.connections.lock().remove(&id).filter(|_| is_there);
            let unknown = || error(1094, "HY000", &format!("Unknown thread id: {id}"));
            connection.ok_or_else(unknown)?.abort();
        }
        _ => return Err(syntax(&anyhow::anyhow!("near '{text}'"))),
    }
    Ok(DONE)
}

fn show(session: &Session, shared: &Shared, words: &[&str], text: &str) -> Sql<Reply> {
    let system = |text: &str| Value::text(text, "utf8mb3_general_ci");
    let columns = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
    match words {
        ["SHOW", "SESSION", "STATUS", "WHERE", "VARIABLE_NAME", "IN", names @ ..] => {
            let counters = session.counters.iter();
            let named = counters.filter(|(name, _)| names.contains(&name.to_uppercase().as_str()));
            let mut rows: Vec<Vec<Value>> =
                named.map(|(name, n)| vec![system(name), system(&n.to_string())]).collect();
            // As a SELECT, which this is: nothing says that it is not bent.
            rows.truncate(session.word("sql_select_limit").parse().unwrap_or(usize::MAX));
            Ok(Reply::Rows(Rows { columns: columns(&["Variable_name", "Value"]), rows }))
        }
        // There is no Galera here.
        ["SHOW", "GLOBAL", "VARIABLES", "LIKE", ..] => {
            Ok(Reply::Rows(Rows { columns: columns(&["Variable_name", "Value"]), rows: Vec::new() }))
        }
        ["SHOW", "GRANTS"] => {
            let grants = &shared.settings.lock().grants;
            let rows = grants.iter().map(|grant| vec![system(grant)]).collect();
            Ok(Reply::Rows(Rows { columns: columns(&["Grants"]), rows }))
        }
        _ => Err(syntax(&anyhow::anyhow!("near '{text}'"))),
    }
}

fn set(session: &mut Session, shared: &Shared, at: &mut Parser) -> Sql<Reply> {
    loop {
        set_one(session, shared, at)?;
        if !at.sign(",") {
            break;
        }
    }
    at.done().map_err(|wrong| syntax(&wrong))?;
    Ok(DONE)
}

fn set_one(session: &mut Session, shared: &Shared, at: &mut Parser) -> Sql<()> {
    let wrong = |wrong: anyhow::Error| syntax(&wrong);
    at.word("SESSION");
    if at.word("TRANSACTION") {
        return set_transaction(session, at);
    }
    if at.word("NAMES") {
        let character_set = at.name().map_err(wrong)?;
        let collation = if at.word("COLLATE") { Some(at.name().map_err(wrong)?) } else { None };
        let known = |name: Option<&str>| name.is_some_and(|name| super::value::number_of(name) != 0);
        if !known(collation.as_deref().or_else(|| super::value::default_collation(&character_set)))
            || character_set == "ucs2"
        {
            return Err(error(1115, "42000", &format!("Unknown character set: '{character_set}'")));
        }
        session.set_names(&character_set, collation.as_deref());
        return Ok(());
    }
    if at.word("ROLE") {
        return set_role(session, shared, at);
    }
    if at.word("RESOURCE") {
        at.expect_word("GROUP").map_err(wrong)?;
        session.resource_group = at.name().map_err(wrong)?;
        return Ok(());
    }
    let name = at.next().map_err(wrong)?;
    if !at.sign(":=") {
        at.expect("=").map_err(wrong)?;
    }
    let value = at.expression().map_err(wrong)?;
    match name {
        Token::User(name) => {
            let value = Scope::new(session, shared).eval(&value)?;
            session.state.user_variables.insert(name.to_lowercase(), value);
            session.reports.push_back(super::session::Report::State);
            Ok(())
        }
        Token::System(name) | Token::Word(name) => {
            let name = name.to_ascii_lowercase();
            let name = name.strip_prefix("session.").unwrap_or(&name);
            assign(session, shared, name, &value)
        }
        other => Err(syntax(&anyhow::anyhow!("near {other:?}"))),
    }
}

fn assign(session: &mut Session, shared: &Shared, name: &str, value: &Expr) -> Sql<()> {
    let (name, kind, default, _) = find(name)?;
    let settings = shared.settings.lock().clone();
    if let Some(refusal) = settings.refuses.get(name) {
        return Err(refusal.clone());
    }
    let value = match value {
        Expr::Default => default_of(kind, default),
        // A word is a value here: ON, SERIALIZABLE.
        Expr::Column(word) => Value::text(word.as_str(), "utf8mb3_general_ci"),
        other => Scope::new(session, shared).eval(other)?,
    };
    let value = if value.kind == Kind::Text && value.collation.starts_with("utf8") {
        value
    } else {
        value.convert("utf8mb4").map_err(|wrong| syntax(&wrong))?
    };
    let was_tracking = session.word("session_track_transaction_info") != "OFF";
    let account = settings.accounts.iter().find(|account| account.name == session.user);
    session.assign(name, kind, &value, account.is_some_and(|account| account.is_service))?;
    match name {
        "autocommit" if session.is_on("autocommit") => session.in_transaction = false,
        "session_track_transaction_info"
            if !was_tracking && session.word("session_track_transaction_info") != "OFF" =>
        {
            session.report_transaction();
        }
        _ => {}
    }
    Ok(())
}

fn set_transaction(session: &mut Session, at: &mut Parser) -> Sql<()> {
    let mut words = Vec::new();
    while let Some(Token::Word(word)) = at.peek() {
        words.push(word.to_uppercase());
        at.word(&word.clone());
    }
    let text = words.join(" ");
    let known = text.starts_with("ISOLATION LEVEL ") || matches!(text.as_str(), "READ ONLY" | "READ WRITE");
    if !known {
        return Err(syntax(&anyhow::anyhow!("near '{text}'")));
    }
    if session.in_transaction {
        let text = "Transaction characteristics can't be changed while a transaction is in progress";
        return Err(error(1568, "25001", text));
    }
    session.state.next_transaction.push_str(&format!("SET TRANSACTION {text};"));
    session.report_transaction();
    Ok(())
}

fn set_role(session: &mut Session, shared: &Shared, at: &mut Parser) -> Sql<()> {
    let wrong = |wrong: anyhow::Error| syntax(&wrong);
    let mut roles = Vec::new();
    if !at.word("NONE") {
        loop {
            let name = at.name().map_err(wrong)?;
            let host = match at.peek() {
                Some(Token::User(host)) => host.clone(),
                _ => "%".to_owned(),
            };
            if matches!(at.peek(), Some(Token::User(_))) {
                at.next().map_err(wrong)?;
            }
            roles.push((name, host));
            if !at.sign(",") {
                break;
            }
        }
    }
    let settings = shared.settings.lock().clone();
    if let Some((name, host)) = roles.iter().find(|(name, _)| !settings.roles.contains(name)) {
        return Err(error(
            3530,
            "HY000",
            &format!("`{name}`@`{host}` is not granted to `{}`@`%`", session.user),
        ));
    }
    let shown = |(name, host): &(String, String)| format!("`{}`@`{host}`", name.replace('`', "``"));
    session.state.roles = roles.iter().map(shown).collect();
    session.reports.push_back(super::session::Report::State);
    Ok(())
}

/// Prepares a statement: how many columns and parameters it has.
pub(super) fn prepare(session: &mut Session, text: &str) -> Sql<(u32, usize, usize)> {
    let mut at = Parser::new(text).map_err(|wrong| syntax(&wrong))?;
    let columns = if at.word("SELECT") {
        at.select().map_err(|wrong| syntax(&wrong))?.columns.len()
    } else if at.is_at_end() {
        return Err(error(1065, "42000", "Query was empty"));
    } else {
        0
    };
    let parse = ["sql_mode", "character_set_client", "collation_connection"].map(|name| session.word(name));
    let id = session.next_statement;
    session.next_statement += 1;
    let database = session.state.database.clone();
    let statement = Statement { text: text.to_owned(), database, parse, params: at.params, types: None };
    session.prepared.insert(id, statement);
    Ok((id, columns, at.params))
}
