//! Sessions that are moved by hand: what they take along, what keeps them, and what their clients notice, which is
//! nothing.
//!
//! Two names of one CN stand for two that share their data: a move goes to a new session of the same server, which has
//! nothing but what was put into it.

#[path = "migrate/meanwhile.rs"]
mod meanwhile;
mod stand;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shunt_harness::mariadb::Options;
use shunt_harness::{Execute, Group, Login, MariaDb, Param, Raw, Shunt, com, command, eventually};
use stand::{DATABASE, app, is_pinned, login, own_cn, seen, setup, shown, telling_cn};

/// Shunt in front of `cn` under two names. What a session's last statement left is kept as long as anybody likes.
async fn twice(cn: &MariaDb) -> Result<Shunt> {
    let group = Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address());
    let setup = setup().group(group).set("policy.migrate.freeze_deadline", "20s");
    let shunt = setup.set("policy.migrate.last_result_grace", "1h").standalone().await?;
    seen(&shunt).await;
    Ok(shunt)
}

/// Orders a session to move: what `shuntctl` prints, and whether it says that it did.
async fn order(shunt: &Shunt, session: u32, more: &[&str]) -> Result<(Value, bool)> {
    let id = session.to_string();
    let said = shunt.try_ctl(&[&["-o", "json", "session", "move", &id][..], more].concat()).await?;
    let told = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
    Ok((told, said.status.success()))
}

/// Moves a session, which must be done.
async fn moves(shunt: &Shunt, session: &Raw) -> Result<Value> {
    let (told, moved) = order(shunt, session.connection_id(), &[]).await?;
    ensure!(moved && told["outcome"] == "moved", "{told}");
    Ok(told)
}

/// Orders a session to move, which these reasons must keep.
async fn stays(shunt: &Shunt, session: &Raw, outcome: &str, reasons: &[&str]) -> Result<()> {
    let (told, moved) = order(shunt, session.connection_id(), &[]).await?;
    ensure!(!moved && told["outcome"] == outcome && told["reasons"] == json!(reasons), "{told}");
    Ok(())
}

/// Every session variable, every user variable, and what else a session is. Two thread ids differ.
async fn everything(session: &mut Raw) -> Result<Vec<Vec<Option<String>>>> {
    let mut all = Vec::new();
    for sql in [
        "SELECT variable_name, session_value FROM information_schema.system_variables \
         WHERE session_value IS NOT NULL AND variable_name NOT IN ('PSEUDO_THREAD_ID', 'TIMESTAMP') \
         AND variable_name NOT LIKE 'SESSION_TRACK%' AND variable_name NOT LIKE 'RAND_SEED%' \
         AND variable_scope LIKE 'SESSION%' ORDER BY 1",
        "SELECT * FROM information_schema.user_variables ORDER BY 1",
        "SELECT DATABASE(), CURRENT_ROLE(), LAST_INSERT_ID(), CURRENT_USER(), @@character_set_results",
    ] {
        all.extend(session.query(sql).await?.success()?.rows()?);
    }
    Ok(all)
}

#[tokio::test]
async fn a_session_takes_everything_along() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&[
        "CREATE ROLE clerk",
        "GRANT clerk TO app@'%'",
        "CREATE TABLE suite.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(50))",
    ])
    .await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app().multi_statements(true)).await?;
    let before = everything(&mut s).await?;
    for sql in [
        "SET ROLE clerk",
        "SET NAMES latin1 COLLATE latin1_german2_ci, character_set_results = NULL, sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'",
        "SET time_zone = '+05:30', lock_wait_timeout = 77, max_join_size = 1000, sql_big_selects = 1",
        "SET tx_isolation = 'SERIALIZABLE', foreign_key_checks = 0, optimizer_switch = 'mrr=on'",
        "SET @i = -5, @u = 18446744073709551615, @d = 1.50, @f = 1.5e0, @n = NULL, @`a``b` = 'x'",
        "SET @l = _latin1 X'E4FF' COLLATE latin1_bin, @b = X'00FF27', @z = CAST(NULL AS SIGNED)",
        "INSERT INTO t (v) VALUES ('one'), ('two')",
        "SELECT 1",
    ] {
        s.run(sql).await?;
    }
    let told = moves(&shunt, &s).await?;
    let shown_after = shown(&shunt, &s).await?;
    ensure!(shown_after["cn"] == told["to"] && told["from"] != told["to"], "{shown_after} {told}");
    ensure!(shown_after["lastMove"]["outcome"] == "moved", "{shown_after}");
    ensure!(told["pause"].is_string(), "{told}");
    let direct = {
        // The same, on a session that stays.
        let mut direct = Raw::login(cn.address(), &app().multi_statements(true)).await?;
        for sql in [
            "SET ROLE clerk",
            "SET NAMES latin1 COLLATE latin1_german2_ci, character_set_results = NULL, sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES'",
            "SET time_zone = '+05:30', lock_wait_timeout = 77, max_join_size = 1000, sql_big_selects = 1",
            "SET tx_isolation = 'SERIALIZABLE', foreign_key_checks = 0, optimizer_switch = 'mrr=on'",
            "SET @i = -5, @u = 18446744073709551615, @d = 1.50, @f = 1.5e0, @n = NULL, @`a``b` = 'x'",
            "SET @l = _latin1 X'E4FF' COLLATE latin1_bin, @b = X'00FF27', @z = CAST(NULL AS SIGNED)",
            "SET last_insert_id = 1",
        ] {
            direct.run(sql).await?;
        }
        everything(&mut direct).await?
    };
    let after = everything(&mut s).await?;
    for (after, direct) in after.iter().zip(&direct) {
        assert_eq!(after, direct);
    }
    assert_eq!(after.len(), direct.len());
    assert_ne!(after, before);
    moves(&shunt, &s).await?;
    assert_eq!(everything(&mut s).await?, after);
    s.quit().await
}

#[tokio::test]
async fn one_shots_and_the_clock_are_carried() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)"]).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    let mut direct = cn.app(DATABASE).await?;
    // For the next transaction only. What uses it up, the CN knows; some of it, an error tells nobody.
    for sql in [
        "SET TRANSACTION READ ONLY",
        "INSERT INTO t (v) VALUES (1)",
        "SELECT COUNT(*) FROM t WHERE v = 0",
        "SELECT 1",
        "SELECT COUNT(*) FROM t WHERE v = 0",
        "INSERT INTO t (v) VALUES (1)",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SELECT 1",
        "BEGIN",
        "SELECT trx_isolation_level FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()",
        "SELECT COUNT(*) FROM t WHERE v = 0",
        "COMMIT",
        "SELECT COUNT(*) FROM t WHERE v = 0",
    ] {
        let (there, here) = (s.query(sql).await?, direct.query(sql).await?);
        let code = |response: &shunt_harness::Response| response.err().map(|err| err.code);
        assert_eq!(code(&there), code(&here), "{sql}");
        let leaves_nothing = code(&here).is_none() && !sql.starts_with("INSERT");
        if leaves_nothing && sql != "BEGIN" && !sql.contains("trx") {
            let moved = order(&shunt, s.connection_id(), &[]).await?.0;
            ensure!(
                ["moved", "pinned"].contains(&moved["outcome"].as_str().context("no outcome")?),
                "{moved}"
            );
        }
    }
    direct.quit().await?;
    s.run("SELECT COUNT(*) FROM t").await?;
    s.run("SELECT 1").await?;

    s.run("SET insert_id = 77").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.run("INSERT INTO t (v) VALUES (2)").await?.ok()?.insert_id, 77);
    s.run("SELECT 1").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.run("INSERT INTO t (v) VALUES (2)").await?.ok()?.insert_id, 78);

    s.run("SET timestamp = 1600000000.25").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.value("SELECT UNIX_TIMESTAMP(NOW(6))").await?, "1600000000.250000");
    s.run("SET timestamp = DEFAULT").await?;
    moves(&shunt, &s).await?;
    let first = s.value("SELECT NOW(6)").await?;
    assert_ne!(s.value("SELECT NOW(6)").await?, first, "the clock runs");

    s.run("SET rand_seed1 = 12, rand_seed2 = 5").await?;
    let mut direct = cn.app(DATABASE).await?;
    direct.run("SET rand_seed1 = 12, rand_seed2 = 5").await?;
    for _ in 0..3 {
        moves(&shunt, &s).await?;
        assert_eq!(s.value("SELECT RAND()").await?, direct.value("SELECT RAND()").await?);
    }
    s.quit().await
}

#[tokio::test]
async fn prepared_statements_keep_their_ids_and_what_they_were_prepared_under() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&[
        "CREATE DATABASE IF NOT EXISTS other",
        "GRANT ALL ON other.* TO app@'%'",
        "CREATE OR REPLACE TABLE suite.t AS SELECT 'suite' AS v",
        "CREATE OR REPLACE TABLE other.t AS SELECT 'other' AS v",
        "CREATE TABLE suite.gone AS SELECT 'gone' AS v",
    ])
    .await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    let read = s.prepare("SELECT v FROM t").await?;
    let gone = s.prepare("SELECT v FROM gone").await?;
    s.run("SET sql_mode = 'ANSI_QUOTES'").await?;
    let ansi = s.prepare("SELECT \"v\", ? FROM t").await?;
    s.run("SET sql_mode = ''").await?;
    s.run("PREPARE named FROM 'SELECT v, \"q\" FROM t'").await?;
    s.run("USE other").await?;
    let closed = s.prepare("SELECT 1").await?;
    s.send(&command::about_statement(com::STMT_CLOSE, closed.id)).await?;
    // The types of a parameter are sent once, and hold from then on.
    s.command(&command::execute(ansi.id, &[Param::Long(-5)], Execute::default())).await?.success()?;
    cn.run(&["DROP TABLE suite.gone"]).await?;
    for n in 0..3 {
        // It uses a table: the error of the statement before is gone.
        s.run("SELECT v FROM t").await?;
        moves(&shunt, &s).await?;
        // A row of the binary protocol ends with its last value.
        let ends = |response: shunt_harness::Response, end: &[u8]| {
            let results = response.success()?.results()?;
            let row = results.first().and_then(|set| set.rows.first()).context("no row")?;
            ensure!(row.ends_with(end), "{row:?} does not end with {end:?}");
            anyhow::Ok(())
        };
        ends(s.execute(read, &[]).await?, b"suite")?;
        let as_bound = Execute { omit_types: true, ..Execute::default() };
        let rows = s.command(&command::execute(ansi.id, &[Param::Long(n - 7)], as_bound)).await?;
        ends(rows, &[b"suite", &(n - 7).to_le_bytes()[..]].concat())?;
        assert_eq!(s.value("SELECT v FROM t").await?, "other");
        // It fails when it is used, not the move.
        let failed = s.execute(gone, &[]).await?.err().context("its table is gone")?;
        assert_eq!(failed.code, 1146);
        let missing = s.execute(closed, &[]).await?.err().context("it was closed")?;
        assert_eq!(missing.code, 1243);
        // One that is prepared now is none of those before.
        let new = s.prepare("SELECT 'new'").await?;
        ensure!(![read.id, gone.id, ansi.id].contains(&new.id), "{}", new.id);
        ends(s.command(&command::execute(u32::MAX, &[], Execute::default())).await?, b"new")?;
        ends(s.execute(new, &[]).await?, b"new")?;
        // An end of rows says that something changed, and not what: one that waits to be looked into would be lost.
        s.send(&command::about_statement(com::STMT_CLOSE, new.id)).await?;
        let named = s.query("EXECUTE named").await?.success()?.rows()?;
        assert_eq!(named, [[Some("suite".to_owned()), Some("q".to_owned())]]);
    }
    s.run("SELECT v FROM t").await?;
    s.run("DEALLOCATE PREPARE named").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.query("EXECUTE named").await?.err().context("it was given up")?.code, 1243);
    s.quit().await
}

/// A statement's second name, "the last one", is that of none where the last one was closed.
#[tokio::test]
async fn a_closed_last_statement_is_not_another_one_after_a_move() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT)"]).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    // It uses a table: what the error before it left is gone.
    let kept = s.prepare("SELECT a FROM t").await?;
    let last = s.prepare("SELECT 'last'").await?;
    s.send(&command::about_statement(com::STMT_CLOSE, last.id)).await?;
    for n in 0..3 {
        if n == 1 {
            // A prepare that fails is the last one too, and is none.
            s.prepare("SELECT a FROM t").await?;
            let failed = s.command(&[&[com::STMT_PREPARE][..], b"no such thing"].concat()).await?;
            assert_eq!(failed.err().context("no such thing")?.code, 1064);
        }
        let refused = s.command(&command::execute(u32::MAX, &[], Execute::default())).await?;
        assert_eq!(refused.err().context("it was closed")?.code, 1243);
        s.execute(kept, &[]).await?.success()?;
        moves(&shunt, &s).await?;
    }
    s.quit().await
}

/// Also where nothing moved from or to this CN before, and it is asked which variables there are.
#[tokio::test]
async fn found_rows_of_the_first_session_that_moves_are_right() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t AS SELECT 1 AS a UNION SELECT 2 UNION SELECT 3"]).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.value("SELECT FOUND_ROWS()").await?, "3");
    s.quit().await
}

/// A statement that was prepared without a default database has none when it runs, whatever the session has by then.
#[tokio::test]
async fn what_was_prepared_without_a_database_gets_none() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &Login::user("app").password("app")).await?;
    s.run("PREPARE named FROM 'SELECT DATABASE()'").await?;
    moves(&shunt, &s).await?;
    s.run("USE suite").await?;
    let own = s.prepare("SELECT DATABASE()").await?;
    let (told, moved) = order(&shunt, s.connection_id(), &[]).await?;
    ensure!(!moved && told["reasons"][0].to_string().contains("no default database"), "{told}");
    assert_eq!(s.query("EXECUTE named").await?.success()?.rows()?, [[None]]);
    s.send(&command::about_statement(com::STMT_CLOSE, own.id)).await?;
    s.run("DEALLOCATE PREPARE named").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.value("SELECT DATABASE()").await?, "suite");
    s.quit().await
}

/// A database that is gone is nobody's reason to prepare a statement in another one.
#[tokio::test]
async fn what_was_prepared_in_a_database_that_is_gone_is_not_prepared_in_another() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE DATABASE gone", "GRANT ALL ON gone.* TO app@'%'", "CREATE TABLE gone.x (a INT)"])
        .await?;
    cn.run(&["CREATE TABLE suite.x AS SELECT 'suite' AS a"]).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("USE gone").await?;
    s.run("PREPARE named FROM 'SELECT a FROM x'").await?;
    s.run("USE suite").await?;
    cn.run(&["DROP DATABASE gone"]).await?;
    let (told, moved) = order(&shunt, s.connection_id(), &[]).await?;
    ensure!(!moved && told["outcome"] == "failed", "{told}");
    let failed = s.query("EXECUTE named").await?.err().context("its database is gone")?;
    ensure!([1049, 1146].contains(&failed.code), "{failed:?}");
    s.quit().await
}

/// Whether the client may send several statements at once is what it said last, also while the move is under way.
#[tokio::test]
async fn several_statements_at_once_are_allowed_as_the_client_said_last() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    for on in [true, false, true] {
        let option = [com::SET_OPTION, u8::from(!on), 0];
        s.command(&option).await?.success()?;
        moves(&shunt, &s).await?;
        assert_eq!(s.query("SELECT 1; SELECT 2").await?.success().is_ok(), on);
        s.run("SELECT * FROM information_schema.schemata LIMIT 0").await?;
    }
    s.quit().await
}

/// A CN that does not let its user in now is not tried again and again while there is another.
#[tokio::test]
async fn a_cn_that_a_session_cannot_move_to_does_not_keep_it_from_another() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let full = own_cn(Options::new()).await?;
    full.run(&["ALTER USER app@'%' WITH MAX_USER_CONNECTIONS 1"]).await?;
    let _only = Raw::login(full.address(), &app()).await?;
    let group = Group::named("shared")
        .cn("cn-1", cn.address())
        .cn("full", full.address())
        .cn_by_name("cn-3", cn.address());
    let shunt = setup().group(group).set("policy.migrate.freeze_deadline", "20s").standalone().await?;
    seen(&shunt).await;
    shunt.ctl(&["cn", "drain", "full"]).await?;
    let mut s = login(&shunt, &app()).await?;
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(login(&shunt, &app()).await?);
    }
    s.run("SET @v = 1").await?;
    // It has none: the first to be picked.
    shunt.ctl(&["cn", "undrain", "full"]).await?;
    let mut outcomes = Vec::new();
    // Others are told to fill it meanwhile, this one too: then another move is under way.
    for _ in 0..6 {
        outcomes.push(order(&shunt, s.connection_id(), &[]).await?.0);
        if outcomes.last().is_some_and(|told| told["outcome"] == "moved") {
            break;
        }
    }
    ensure!(outcomes.last().is_some_and(|told| told["outcome"] == "moved"), "{outcomes:?}");
    assert_eq!(s.value("SELECT @v").await?, "1");
    s.quit().await
}

/// What tells nodes apart is not carried from one to another, unless the client set it.
#[tokio::test]
async fn a_node_s_own_numbers_stay_with_the_node() -> Result<()> {
    let one = telling_cn(Options::new().arg("--auto-increment-increment=2").arg("--auto-increment-offset=1"))
        .await?;
    let two = telling_cn(Options::new().arg("--auto-increment-increment=2").arg("--auto-increment-offset=2"))
        .await?;
    let group = Group::named("shared").cn("cn-1", one.address()).cn("cn-2", two.address());
    let shunt = setup().group(group).set("policy.migrate.freeze_deadline", "20s").standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    let id = s.connection_id();
    order(&shunt, id, &["--to", "cn-1"]).await?;
    assert_eq!(s.value("SELECT @@auto_increment_offset").await?, "1");
    let (told, moved) = order(&shunt, id, &["--to", "cn-2"]).await?;
    ensure!(moved, "{told}");
    assert_eq!(s.value("SELECT @@auto_increment_offset").await?, "2");
    s.run("SET auto_increment_increment = 7, auto_increment_offset = 5").await?;
    let (told, moved) = order(&shunt, id, &["--to", "cn-1"]).await?;
    ensure!(moved, "{told}");
    let set =
        s.query("SELECT @@auto_increment_increment, @@auto_increment_offset").await?.success()?.rows()?;
    assert_eq!(set, [[Some("7".to_owned()), Some("5".to_owned())]]);
    s.quit().await
}

/// FLUSH STATUS that is prepared makes the counter of temporary tables begin anew when nobody sees it.
#[tokio::test]
async fn a_temporary_table_is_not_forgotten_with_a_prepared_flush() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["GRANT RELOAD ON *.* TO app@'%'"]).await?;
    let shunt = twice(&cn).await?;
    for by_sql in [true, false] {
        let mut s = login(&shunt, &app()).await?;
        let flush = if by_sql {
            s.run("PREPARE f FROM 'FLUSH STATUS'").await?;
            None
        } else {
            Some(s.prepare("FLUSH STATUS").await?)
        };
        s.run("CREATE TEMPORARY TABLE tmp SELECT 1").await?;
        match flush {
            Some(flush) => s.execute(flush, &[]).await?.success()?,
            None => s.run("EXECUTE f").await?,
        };
        s.run("SELECT * FROM tmp").await?;
        let (told, moved) = order(&shunt, s.connection_id(), &[]).await?;
        ensure!(!moved && told["outcome"] == "pinned", "{told}");
        s.quit().await?;
    }
    Ok(())
}

/// The new CN says OK and does something else: it has a lower maximum.
#[tokio::test]
async fn a_value_that_the_new_cn_does_not_take_as_it_is_keeps_the_session() -> Result<()> {
    let roomy = telling_cn(Options::new()).await?;
    let narrow = own_cn(Options::new().arg("--maximum-sort-buffer-size=2097152")).await?;
    let group = Group::named("shared").cn("cn-1", roomy.address()).cn("cn-2", narrow.address());
    let shunt = setup().group(group).set("policy.migrate.freeze_deadline", "20s").standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    let id = s.connection_id();
    order(&shunt, id, &["--to", "cn-1"]).await?;
    assert_eq!(shown(&shunt, &s).await?["cn"], "cn-1");
    s.run("SET sort_buffer_size = 4194304").await?;
    let (told, moved) = order(&shunt, id, &["--to", "cn-2"]).await?;
    ensure!(!moved && told["outcome"] == "failed", "{told}");
    ensure!(told["reasons"][0].to_string().contains("sort_buffer_size"), "{told}");
    assert_eq!(s.value("SELECT @@sort_buffer_size").await?, "4194304");
    s.run("SET sort_buffer_size = 1048576").await?;
    let (told, moved) = order(&shunt, id, &["--to", "cn-2"]).await?;
    ensure!(moved, "{told}");
    assert_eq!(s.value("SELECT @@sort_buffer_size").await?, "1048576");
    s.quit().await
}

#[tokio::test]
async fn what_cannot_be_carried_keeps_the_session_and_says_why() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&[
        "CREATE TABLE suite.t (a INT) ENGINE=InnoDB",
        "CREATE TABLE suite.u (a INT) ENGINE=InnoDB",
        "CREATE SEQUENCE suite.s",
        "CREATE FUNCTION suite.takes_one() RETURNS INT RETURN GET_LOCK('hidden', 0)",
        "CREATE VIEW suite.v AS SELECT GET_LOCK('viewed', 0) AS l",
        "CREATE PROCEDURE suite.makes() CREATE TEMPORARY TABLE tmp SELECT 1",
        "CREATE PROCEDURE suite.prepares() BEGIN PREPARE hidden FROM 'SELECT 1'; END",
        "GRANT RELOAD ON *.* TO app@'%'",
    ])
    .await?;
    let shunt = twice(&cn).await?;
    let reset = vec![com::RESET_CONNECTION];
    for (holds, reason, end) in [
        ("SELECT GET_LOCK('a', 0)", "user lock", Some("SELECT RELEASE_LOCK('a')")),
        ("SELECT takes_one()", "user lock", Some("DO RELEASE_ALL_LOCKS()")),
        ("SELECT l FROM v", "user lock", Some("DO RELEASE_ALL_LOCKS()")),
        ("CREATE TEMPORARY TABLE tmp SELECT 1", "temporary table", None),
        ("CALL makes()", "temporary table", None),
        ("CALL prepares()", "unknown state", None),
        ("LOCK TABLES t READ", "locked tables", Some("UNLOCK TABLES")),
        ("FLUSH TABLES WITH READ LOCK", "locked tables", Some("UNLOCK TABLES")),
        ("HANDLER u OPEN", "handler", Some("HANDLER u CLOSE")),
        ("SELECT NEXTVAL(s)", "unknown state", None),
        ("SET @long = REPEAT('x', 3000)", "too large", Some("SET @long = NULL")),
        ("SET gtid_seq_no = 5", "unknown state", None),
        ("PREPARE p FROM 'SELECT 1'; EXECUTE p; PREPARE q FROM 'SELECT 2'", "unknown state", None),
    ] {
        let privileged = holds.contains("gtid");
        let who = if privileged { Login::user("root") } else { app() };
        let mut s = login(&shunt, &who.database(DATABASE).multi_statements(true)).await?;
        if s.query(holds).await?.err().is_some() {
            ensure!(privileged, "{holds}");
            continue;
        }
        s.run("SELECT 1").await?;
        stays(&shunt, &s, "pinned", &[reason]).await.context(holds)?;
        if let Some(end) = end {
            s.run(end).await?;
        } else {
            s.command(&reset).await?.success()?;
        }
        s.run("SELECT 1").await?;
        moves(&shunt, &s).await.with_context(|| format!("after {holds}"))?;
        s.quit().await?;
    }
    Ok(())
}

/// FLUSH STATUS clears the counter by which a temporary table is known.
/// A CN that does not tell who holds locks: what names one holds the session.
#[tokio::test]
async fn where_locks_are_not_seen_what_names_one_holds_the_session() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT)", "CREATE PROCEDURE suite.hides() SELECT 1"]).await?;
    let shunt = twice(&cn).await?;
    for (sql, reasons) in [
        ("DO GET_LOCK('named', 0)", "user lock"),
        ("LOCK TABLES t READ", "locked tables"),
        ("HANDLER t OPEN", "handler"),
        ("CALL hides()", "unknown state"),
    ] {
        let mut s = login(&shunt, &app()).await?;
        moves(&shunt, &s).await?;
        s.run(sql).await?;
        let (told, moved) = order(&shunt, s.connection_id(), &[]).await?;
        ensure!(!moved && told["outcome"] == "pinned", "{sql}: {told}");
        ensure!(told["reasons"].to_string().contains(reasons), "{sql}: {told}");
        s.command(&[com::RESET_CONNECTION]).await?.success()?;
        moves(&shunt, &s).await?;
        s.quit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_temporary_table_is_not_forgotten_with_the_counters() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&[
        "CREATE PROCEDURE suite.makes() CREATE TEMPORARY TABLE tmp SELECT 1 AS a",
        "GRANT RELOAD ON *.* TO app@'%'",
    ])
    .await?;
    let shunt = twice(&cn).await?;
    for make in ["CREATE TEMPORARY TABLE tmp SELECT 1 AS a", "CALL makes()"] {
        let mut s = login(&shunt, &app()).await?;
        s.run(make).await?;
        s.run("FLUSH STATUS").await?;
        s.run("SELECT 1").await?;
        let (told, moved) = order(&shunt, s.connection_id(), &[]).await?;
        ensure!(!moved && told["outcome"] == "pinned", "{make}: {told}");
        assert_eq!(s.value("SELECT a FROM tmp").await?, "1");
        s.quit().await?;
    }
    // And one that has none moves.
    let mut s = login(&shunt, &app()).await?;
    s.run("PREPARE p FROM 'SELECT 5'").await?;
    s.run("SELECT 1").await?;
    moves(&shunt, &s).await?;
    s.run("FLUSH STATUS").await?;
    s.run("SELECT 1").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.value("EXECUTE p").await?, "5");
    s.quit().await
}

#[tokio::test]
async fn an_open_transaction_a_cursor_and_long_data_keep_the_session() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT) ENGINE=InnoDB"]).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    let statement = s.prepare("SELECT 1 UNION SELECT ?").await?;
    s.send(&command::long_data(statement.id, 0, b"x")).await?;
    is_pinned(&shunt, &s, &["long data"]).await;
    stays(&shunt, &s, "pinned", &["long data"]).await?;
    let cursor = Execute { cursor: true, ..Execute::default() };
    s.command(&command::execute(statement.id, &[Param::Sent], cursor)).await?.success()?;
    stays(&shunt, &s, "pinned", &["cursor"]).await?;
    s.command(&command::about_statement(com::STMT_RESET, statement.id)).await?.success()?;
    s.run("BEGIN").await?;
    s.run("INSERT INTO t VALUES (1)").await?;
    stays(&shunt, &s, "pinned", &["transaction"]).await?;
    s.run("ROLLBACK").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.value("SELECT COUNT(*) FROM t").await?, "0");
    s.quit().await
}

/// The trap: an error hides that a transaction is open. The CN is asked, and the session stays.
#[tokio::test]
async fn a_transaction_that_an_error_hides_keeps_the_session() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT PRIMARY KEY) ENGINE=InnoDB", "INSERT INTO suite.t VALUES (1)"])
        .await?;
    let setup =
        setup().group(Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address()));
    let shunt = setup.set("policy.migrate.last_result_grace", "0s").standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET autocommit = 0").await?;
    assert_eq!(s.query("INSERT INTO t VALUES (1)").await?.err().context("it is there")?.code, 1062);
    stays(&shunt, &s, "pinned", &["transaction"]).await?;
    s.run("INSERT INTO t VALUES (2)").await?;
    s.run("ROLLBACK").await?;
    s.run("SELECT 1").await?;
    moves(&shunt, &s).await?;
    assert_eq!(s.value("SELECT @@autocommit").await?, "0");
    s.quit().await
}

/// A client that ends each transaction by beginning the next one moves between two of them.
#[tokio::test]
async fn a_begin_is_held_for_a_session_that_is_never_out_of_a_transaction() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT) ENGINE=InnoDB"]).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("BEGIN").await?;
    s.run("INSERT INTO t VALUES (1)").await?;
    let id = s.connection_id();
    let ordered = order(&shunt, id, &[]);
    let works = async {
        let first = shown(&shunt, &s).await?["cn"].clone();
        loop {
            s.run("BEGIN").await?;
            s.run("INSERT INTO t VALUES (1)").await?;
            if shown(&shunt, &s).await?["cn"] != first {
                return anyhow::Ok(s);
            }
        }
    };
    let (ordered, works) = tokio::join!(ordered, works);
    ensure!(ordered?.1);
    let mut s = works?;
    let rows = s.value("SELECT COUNT(*) FROM t").await?;
    s.run("ROLLBACK").await?;
    // The last one was rolled back, the others were committed.
    let committed: u32 = s.value("SELECT COUNT(*) FROM t").await?.parse()?;
    assert_eq!(committed + 1, rows.parse::<u32>()?);
    s.quit().await
}

/// What the last statement left is there until the next one has read it, or cannot any more.
#[tokio::test]
async fn warnings_and_row_counts_are_read_before_the_session_moves() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT) ENGINE=InnoDB AS SELECT 1 AS a UNION SELECT 2"]).await?;
    let shunt = twice(&cn).await?;
    for (leaves, reads, expected) in [
        ("UPDATE t SET a = a + 10", "SELECT ROW_COUNT()", "2"),
        ("SELECT 1 / 0, CAST('x' AS INT)", "SHOW COUNT(*) WARNINGS", "2"),
        ("SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1", "SELECT FOUND_ROWS()", "2"),
        ("SELECT seq FROM seq_1_to_5000", "SELECT FOUND_ROWS()", "5000"),
        ("SELECT 1", "SELECT ROW_COUNT()", "-1"),
        ("DO 1", "SELECT ROW_COUNT()", "0"),
    ] {
        let mut s = login(&shunt, &app()).await?;
        s.run(leaves).await?;
        let id = s.connection_id();
        let before = shown(&shunt, &s).await?["cn"].clone();
        let ordered = order(&shunt, id, &[]);
        let reading = async {
            assert_eq!(s.value(reads).await?, expected, "{leaves}");
            s.run("SELECT a FROM t").await?;
            eventually("moved", async || {
                let now = shown(&shunt, &s).await?["cn"].clone();
                ensure!(now != before, "{now}");
                anyhow::Ok(())
            })
            .await;
            assert_eq!(s.value("SELECT 7").await?, "7");
            s.quit().await
        };
        let (ordered, reading) = tokio::join!(ordered, reading);
        reading?;
        ensure!(ordered?.1, "{leaves}");
    }
    Ok(())
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_told_so() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let shunt = twice(&cn).await?;
    let s = login(&shunt, &app()).await?;
    let id = s.connection_id();
    let on = shown(&shunt, &s).await?["cn"].as_str().context("a CN")?.to_owned();
    let (told, moved) = order(&shunt, id, &["--to", &on]).await?;
    ensure!(
        !moved && told["outcome"] == "failed" && told["reasons"][0].to_string().contains("already"),
        "{told}"
    );
    let (told, moved) = order(&shunt, id, &["--to", "cn-9"]).await?;
    ensure!(!moved && told["reasons"][0].to_string().contains("cn-9"), "{told}");
    let (told, moved) = order(&shunt, id + 1000, &[]).await?;
    ensure!(!moved && told["outcome"] == "gone", "{told}");
    let other = if on == "cn-1" { "cn-2" } else { "cn-1" };
    let (told, moved) = order(&shunt, id, &["--to", other]).await?;
    ensure!(moved && told["to"] == other, "{told}");
    s.quit().await
}

/// The number that a client read as its connection's on the CN is another connection's once the session moved.
#[tokio::test]
async fn a_kill_by_a_number_of_the_old_cn_is_refused() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    let shunt = twice(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    let own = stand::id_on_cn(&mut s).await?;
    moves(&shunt, &s).await?;
    assert_ne!(stand::id_on_cn(&mut s).await?, own);
    let refused = s.query(format!("KILL {own}")).await?.err().context("it is not its own any more")?;
    assert_eq!(refused.code, 1094);
    // By the number that the client was given it still ends itself.
    let killed = s.query(format!("KILL QUERY {}", s.connection_id())).await?;
    assert_eq!(killed.err().context("it ends its own statement")?.code, 1317);
    // And so does another one of the same user, by that number.
    let mut other = login(&shunt, &app()).await?;
    other.run(format!("KILL {}", s.connection_id())).await?;
    assert!(s.query("SELECT 1").await.is_err(), "it was killed");
    other.quit().await
}
