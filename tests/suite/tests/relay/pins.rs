//! Why a session cannot move, in the words that operators read: each state that no other CN could take over is shown.

use crate::stand::{DATABASE, app, is_in_state, is_pinned, login, setup, shared_cn, shunt_before};
use anyhow::Result;
use shunt_harness::packet::Packet;
use shunt_harness::{Execute, Group, MariaDb, Param, Raw, Shunt, com, command};

async fn table(cn: &MariaDb, name: &str) -> Result<()> {
    let sql = format!("CREATE OR REPLACE TABLE {DATABASE}.{name} (a INT) ENGINE=InnoDB AS SELECT 1 AS a");
    cn.run(&[&sql]).await
}

async fn session(name: &str) -> Result<(Shunt, Raw)> {
    let cn = shared_cn().await;
    table(cn, name).await?;
    let shunt = shunt_before(&[cn]).await?;
    let s = login(&shunt, &app().deprecate_eof(true)).await?;
    is_pinned(&shunt, &s, &[]).await;
    Ok((shunt, s))
}

#[tokio::test]
async fn a_transaction() -> Result<()> {
    let (shunt, mut s) = session("transaction").await?;
    for (begin, end) in [
        ("BEGIN", "COMMIT"),
        ("START TRANSACTION READ ONLY", "ROLLBACK"),
        ("SET autocommit = 0; SELECT * FROM suite.transaction", "COMMIT; SET autocommit = 1"),
        ("SET completion_type = CHAIN; BEGIN; COMMIT", "COMMIT AND NO CHAIN"),
    ] {
        s.run(begin).await?;
        is_pinned(&shunt, &s, &["transaction"]).await;
        is_in_state(&shunt, &s, "transaction").await;
        s.run(end).await?;
        is_pinned(&shunt, &s, &[]).await;
        is_in_state(&shunt, &s, "idle").await;
    }
    s.quit().await
}

/// An ERR carries no status: a procedure that opened a transaction and failed is one of the cases.
#[tokio::test]
async fn a_transaction_that_an_error_hides() -> Result<()> {
    let (shunt, mut s) = session("hidden").await?;
    s.run(
        "CREATE OR REPLACE PROCEDURE suite.opens() BEGIN START TRANSACTION; INSERT INTO suite.hidden VALUES (2); \
         SIGNAL SQLSTATE '45000'; END",
    )
    .await?;
    assert!(s.query("CALL suite.opens()").await?.err().is_some());
    is_pinned(&shunt, &s, &["unknown state"]).await;
    // What the CN says next tells it.
    s.ping().await?;
    is_pinned(&shunt, &s, &["transaction", "unknown state"]).await;
    s.run("ROLLBACK").await?;
    assert_eq!(s.value("SELECT COUNT(*) FROM suite.hidden").await?, "1");
    s.quit().await
}

#[tokio::test]
async fn a_cursor() -> Result<()> {
    let (shunt, mut s) = session("cursor").await?;
    let cursor = Execute { cursor: true, ..Execute::default() };
    // By its id, and as the last prepared.
    for (n, last) in [(0, false), (1, true)] {
        let statement = s.prepare("SELECT 1 UNION SELECT 2").await?;
        let id = if last { u32::MAX } else { statement.id };
        s.command(&command::execute(id, &[], cursor)).await?.success()?;
        is_pinned(&shunt, &s, &["cursor"]).await;
        s.command(&command::fetch(id, 1)).await?.success()?;
        is_pinned(&shunt, &s, &["cursor"]).await;
        match n {
            0 => drop(s.command(&command::fetch(id, 5)).await?.success()?),
            _ => drop(s.command(&command::about_statement(com::STMT_RESET, id)).await?.success()?),
        }
        is_pinned(&shunt, &s, &[]).await;
        s.command(&command::execute(id, &[], cursor)).await?.success()?;
        is_pinned(&shunt, &s, &["cursor"]).await;
        s.send(&command::about_statement(com::STMT_CLOSE, statement.id)).await?;
        is_pinned(&shunt, &s, &[]).await;
    }
    s.quit().await
}

#[tokio::test]
async fn long_data() -> Result<()> {
    let (shunt, mut s) = session("long_data").await?;
    let statement = s.prepare("SELECT ?").await?;
    for id in [statement.id, u32::MAX] {
        s.send(&command::long_data(id, 0, b"x")).await?;
        is_pinned(&shunt, &s, &["long data"]).await;
        s.command(&command::execute(id, &[Param::Sent], Execute::default())).await?.success()?;
        is_pinned(&shunt, &s, &[]).await;
        s.send(&command::long_data(id, 0, b"x")).await?;
        is_pinned(&shunt, &s, &["long data"]).await;
        s.command(&command::about_statement(com::STMT_RESET, id)).await?.success()?;
        is_pinned(&shunt, &s, &[]).await;
    }
    s.quit().await
}

/// What trackers do not show, or only in part, is known by its words.
#[tokio::test]
async fn locks_tables_and_handlers() -> Result<()> {
    for (name, sql, word) in [
        ("p_user_lock", "SELECT GET_LOCK('suite', 1)", "user lock"),
        ("p_lower", "do /* quietly */ get_lock('suite2', 1)", "user lock"),
        ("p_temporary", "CREATE TEMPORARY TABLE suite.temporary SELECT 1", "temporary table"),
        ("p_handler", "HANDLER suite.p_handler OPEN", "handler"),
        ("p_locked", "LOCK TABLES suite.p_locked WRITE", "locked tables"),
    ] {
        let (shunt, mut s) = session(name).await?;
        s.run(sql).await?;
        is_pinned(&shunt, &s, &[word]).await;
        s.quit().await?;
    }
    Ok(())
}

/// The same by the binary protocol, where the text comes once and its execution later.
#[tokio::test]
async fn what_is_prepared_counts_too() -> Result<()> {
    let (shunt, mut s) = session("p_prepared").await?;
    let lock = s.prepare("SELECT GET_LOCK('suite3', 1)").await?;
    s.execute(lock, &[]).await?.success()?;
    is_pinned(&shunt, &s, &["user lock"]).await;
    s.quit().await
}

/// A text too long to be looked at may have done anything.
#[tokio::test]
async fn a_text_that_is_not_seen_whole_is_unknown() -> Result<()> {
    let (shunt, mut s) = session("p_long").await?;
    // More than is read at a time.
    let text = "x".repeat(70_000);
    s.run(format!("SELECT '{text}', GET_LOCK('suite4', 1)")).await?;
    let words = ["locked tables", "user lock", "temporary table", "handler", "unknown state"];
    is_pinned(&shunt, &s, &words).await;
    s.quit().await
}

/// One that a network cuts in pieces is looked at once it is there.
#[tokio::test]
async fn a_text_that_comes_in_pieces_is_seen_whole() -> Result<()> {
    let (shunt, mut s) = session("p_pieces").await?;
    let sql = format!("SELECT '{}'", "x".repeat(16_000));
    let whole = Packet { sequence: 0, payload: [&[com::QUERY], sql.as_bytes()].concat() }.bytes();
    for piece in whole.chunks(1448) {
        s.send_bytes(piece).await?;
        // So that the bytes are not read together; it would be right either way.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    s.receive_for(com::QUERY).await?.success()?;
    is_pinned(&shunt, &s, &[]).await;
    s.quit().await
}

/// Without a service account, a session whose client logged in itself has a password that nobody else knows.
#[tokio::test]
async fn credentials_unknown() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_harness::Setup::new().cn("cn-1", cn.address()).standalone().await?;
    let mut s = login(&shunt, &app()).await?;
    is_pinned(&shunt, &s, &["credentials unknown"]).await;
    s.run("BEGIN").await?;
    is_pinned(&shunt, &s, &["transaction", "credentials unknown"]).await;
    s.quit().await?;

    // With the account, a password that the client sent in another way becomes known as well.
    let shunt = setup().group(Group::named("shared").cn("cn-1", cn.address())).standalone().await?;
    let s = login(&shunt, &app().plugin("caching_sha2_password")).await?;
    is_pinned(&shunt, &s, &[]).await;
    s.quit().await
}

/// A statement means what it meant where it was prepared. Where that is over before it could be asked for, it cannot be
/// prepared again as it was.
#[tokio::test]
async fn a_statement_prepared_under_what_nobody_saw() -> Result<()> {
    let (shunt, mut s) = session("prepared").await?;
    // In the open the CN is asked in time.
    s.run("SET NAMES latin1").await?;
    let text = s.prepare("SELECT \"a\"").await?;
    s.run("SET sql_mode = 'ANSI'").await?;
    let identifier = s.prepare("SELECT \"a\" FROM suite.prepared").await?;
    s.run("SET sql_mode = DEFAULT; SET NAMES utf8mb4 COLLATE utf8mb4_bin").await?;
    is_pinned(&shunt, &s, &[]).await;
    // Nothing is asked in a transaction.
    s.run("BEGIN; SET sql_mode = 'ANSI'").await?;
    let unseen = s.prepare("SELECT \"a\" FROM suite.prepared").await?;
    is_pinned(&shunt, &s, &["transaction"]).await;
    s.run("SET sql_mode = DEFAULT").await?;
    is_pinned(&shunt, &s, &["transaction", "unknown state"]).await;
    s.run("COMMIT").await?;
    is_pinned(&shunt, &s, &["unknown state"]).await;
    s.send(&command::about_statement(com::STMT_CLOSE, unseen.id)).await?;
    s.ping().await?;
    is_pinned(&shunt, &s, &[]).await;
    for statement in [text, identifier] {
        s.send(&command::about_statement(com::STMT_CLOSE, statement.id)).await?;
    }
    s.quit().await
}

/// The question is not seen: what the last statement left is there, and nothing comes into a transaction.
#[tokio::test]
async fn a_question_to_the_cn_leaves_no_trace() -> Result<()> {
    let (_shunt, mut s) = session("question").await?;
    let asked =
        "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'COM_SET_OPTION'";
    let number = async |s: &mut Raw| Ok::<u32, anyhow::Error>(s.value(asked).await?.parse()?);
    s.query("SELECT SQL_CALC_FOUND_ROWS 1 FROM seq_1_to_7 LIMIT 2").await?;
    s.run("SET NAMES latin1").await?;
    assert_eq!(s.value("SELECT FOUND_ROWS()").await?, "7");
    s.run("SET sql_mode = ''").await?;
    s.query("SELECT CAST('x' AS INT)").await?;
    s.run("SET NAMES utf8mb4").await?;
    assert_eq!(s.value("SELECT @@warning_count").await?, "1");
    let before = number(&mut s).await?;
    s.run("SET NAMES latin1").await?;
    assert_eq!(number(&mut s).await?, before + 2, "the client's and ours");
    s.run("BEGIN").await?;
    s.run("SET NAMES utf8mb4").await?;
    assert_eq!(number(&mut s).await?, before + 3, "in a transaction only the client's");
    s.run("COMMIT").await?;
    s.quit().await
}

/// A client that touches the trackers makes Shunt ask for them: behind all that the client sent in one go.
#[tokio::test]
async fn a_question_for_the_trackers_leaves_no_trace() -> Result<()> {
    let (_shunt, mut s) = session("trackers").await?;
    for (last, then, answer) in [
        ("DROP TABLE IF EXISTS suite.nope", "SELECT ROW_COUNT()", "0"),
        ("DROP TABLE IF EXISTS suite.nope", "SELECT @@warning_count", "1"),
        ("INSERT INTO suite.trackers VALUES (2), (3)", "SELECT ROW_COUNT()", "2"),
        ("SELECT 1", "SELECT ROW_COUNT()", "-1"),
        ("SELECT SQL_CALC_FOUND_ROWS 1 FROM seq_1_to_7 LIMIT 2", "SELECT FOUND_ROWS()", "7"),
    ] {
        s.pipeline(&[command::query("SET session_track_schema = ON"), command::query(last)]).await?;
        assert_eq!(s.value(then).await?, answer, "{then} behind {last}");
    }
    s.quit().await
}
