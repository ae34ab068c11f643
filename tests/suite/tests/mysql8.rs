//! MySQL 8 as a CN, by its documentation: logins, moves with all that a session has, and what keeps a session because
//! MySQL does not tell it.
//!
//! The CNs are scripted (`shunt_harness::mysql8`): no MySQL was measured. Each panics at its end if it was told anything
//! that MySQL 8 does not know.

mod stand;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use shunt_harness::mysql8::{State, VERSION};
use shunt_harness::{
    ErrPacket, Execute, Group, Login, Mysql8, Param, Raw, Setup, Shunt, com, command, eventually,
};
use stand::{login, seen, shown};

/// Two CNs, and Shunt in front of them. Sessions are not asked about while they rest, unless `settles`.
async fn two(settles: bool) -> Result<(Mysql8, Mysql8, Shunt)> {
    let (one, two) = (Mysql8::start().await?, Mysql8::start().await?);
    let group = Group::named("shared").cn("cn-1", one.address()).cn("cn-2", two.address());
    let setup = Setup::new().cn_account("shunt", "secret").group(group);
    let setup = setup.set("policy.migrate.freeze_deadline", "20s");
    let setup = if settles { setup } else { setup.set("policy.migrate.settle_after", "1h") };
    let shunt = setup.standalone().await?;
    seen(&shunt).await;
    Ok((one, two, shunt))
}

fn app() -> Login {
    Login::user("app").password("app").database("suite")
}

/// What the one session of `user` is, and on which CN.
fn only<'a>(cns: [&'a Mysql8; 2], user: &str) -> Result<(&'a Mysql8, State)> {
    let all: Vec<_> =
        cns.into_iter().flat_map(|cn| cn.sessions(user).into_iter().map(move |state| (cn, state))).collect();
    let n = all.len();
    let [one] = <[_; 1]>::try_from(all).ok().with_context(|| format!("{n} sessions"))?;
    Ok(one)
}

/// The same, once the connection that was left is gone.
async fn only_one<'a>(cns: [&'a Mysql8; 2], user: &str) -> Result<(&'a Mysql8, State)> {
    eventually("one session is left", async || only(cns, user).map(drop)).await;
    only(cns, user)
}

/// Orders a session to move: what `shuntctl` prints.
async fn order(shunt: &Shunt, session: &Raw) -> Result<Value> {
    let id = session.connection_id().to_string();
    let said = shunt.try_ctl(&["-o", "json", "session", "move", &id]).await?;
    serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))
}

async fn moves(shunt: &Shunt, session: &Raw) -> Result<()> {
    let told = order(shunt, session).await?;
    ensure!(told["outcome"] == "moved", "{told}");
    Ok(())
}

async fn stays(shunt: &Shunt, session: &Raw, reasons: &[&str]) -> Result<()> {
    let told = order(shunt, session).await?;
    ensure!(told["outcome"] == "pinned" && told["reasons"] == json!(reasons), "{told}, not {reasons:?}");
    Ok(())
}

/// What the other tests rest on: that a question in MariaDB's words fails, and its test with it.
#[tokio::test]
async fn the_scripted_mysql_refuses_what_is_mariadb_s() -> Result<()> {
    let cn = Mysql8::start().await?;
    let mut s = Raw::login(cn.address(), &Login::user("shunt").password("secret")).await?;
    let all = [
        ("SET STATEMENT sql_select_limit=DEFAULT FOR SELECT 1", 1064),
        ("EXECUTE IMMEDIATE 'SELECT 1'", 1064),
        ("SELECT lock_type FROM information_schema.metadata_lock_info", 1109),
        ("SELECT variable_name FROM information_schema.user_variables", 1109),
        ("SELECT variable_name FROM information_schema.system_variables", 1109),
        ("SELECT variable_name FROM information_schema.session_status", 1109),
        ("SELECT Priv FROM mysql.global_priv", 1146),
        ("SELECT body FROM mysql.proc", 1146),
        ("SELECT @@tx_isolation", 1193),
        ("SELECT @@max_statement_time", 1193),
        ("SET SESSION gtid_seq_no = 1", 1193),
        ("SELECT @@rand_seed1", 1238),
        ("SELECT LASTVAL(s)", 1054),
    ];
    for (sql, code) in all {
        let err = s.query(sql).await?.err().with_context(|| format!("{sql} is answered"))?;
        assert_eq!(err.code, code, "{sql}: {err:?}");
    }
    ensure!(cn.take_unexpected().len() >= all.len() - 1);
    // And that it is no more than an account's that may read.
    let mut s = Raw::login(cn.address(), &Login::user("poor").password("poor")).await?;
    for table in
        ["mysql.user", "performance_schema.user_variables_by_thread", "performance_schema.metadata_locks"]
    {
        let err = s.query(format!("SELECT 1 FROM {table}")).await?.err().context(table)?;
        assert_eq!(err.code, 1142, "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_logs_in_and_moves_with_all_that_it_has() -> Result<()> {
    for way in stand::both_ways(&app()) {
        let (one, two, shunt) = two(false).await?;
        let cns = [&one, &two];
        let mut s = login(&shunt, &way).await?;
        assert_eq!(s.greeting.version, VERSION);
        for sql in [
            "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', time_zone = '+05:30'",
            "SET transaction_isolation = 'SERIALIZABLE', foreign_key_checks = OFF, lock_wait_timeout = 77",
            "SET max_join_size = 1000, long_query_time = 0.25, max_execution_time = 70000, sql_select_limit = 3",
            "SET session_track_gtids = 'OWN_GTID', group_concat_max_len = 5, lc_time_names = 'de_DE'",
            "SET NAMES latin1 COLLATE latin1_german2_ci",
            "SET @i = -5, @u = 18446744073709551615, @d = 1.50, @e = -7., @f = 1.5e0, @n = NULL, @`a``b` = 'x'",
            "SET @l = _latin1 X'E4FF' COLLATE latin1_bin, @b = X'00FF27', @z = CAST(NULL AS SIGNED)",
            "SET @v = CAST(NULL AS UNSIGNED), @w = CAST(NULL AS DECIMAL(65,30)), @x = CAST(NULL AS DOUBLE)",
            "SET @y = CAST(NULL AS CHAR CHARACTER SET latin1) COLLATE latin1_bin, @empty = ''",
            "SET ROLE clerk, auditor",
            "INSERT INTO t (v) VALUES ('one')",
        ] {
            s.run(sql).await?;
        }
        let first = s.prepare("SELECT ?, @@sql_mode").await?;
        s.run("USE other").await?;
        s.run("SET sql_mode = 'TRADITIONAL'").await?;
        let second = s.prepare("SELECT DATABASE()").await?;
        s.run("SET character_set_results = NULL, collation_connection = latin1_bin").await?;
        for sql in ["SET insert_id = 77, timestamp = 1234.5", "SET TRANSACTION READ ONLY", "SELECT @i"] {
            s.run(sql).await?;
        }
        let (from, before) = only(cns, "app")?;
        ensure!(before.user_variables.len() == 15 && before.results.is_none() && before.roles.len() == 2);
        ensure!(before.statements.len() == 2 && before.last_insert_id == 1 && before.found_rows == 1);
        ensure!(before.next_transaction == "SET TRANSACTION READ ONLY;" && before.insert_id == 77);
        moves(&shunt, &s).await?;
        let (to, after) = only_one(cns, "app").await?;
        ensure!(!std::ptr::eq(from, to), "it is where it was");
        assert_eq!(after.roles, ["`auditor`@`%`", "`clerk`@`%`"]);
        // No order of roles is promised, and none of the ids.
        assert_eq!(State { roles: before.roles.clone(), ..after }, before);
        // Its ids are what they were.
        assert_eq!(s.execute(second, &[]).await?.success()?.results()?.len(), 1);
        let value = s.execute(first, &[Param::Text("a".into())]).await?.success()?;
        ensure!(value.results()?[0].rows.len() == 1, "{value:?}");
        s.run("SELECT 1").await?;
        s.quit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_session_goes_there_and_back_and_has_what_a_new_one_has_where_it_set_nothing() -> Result<()> {
    let (one, two, shunt) = two(false).await?;
    let mut s = login(&shunt, &app()).await?;
    let (from, before) = only([&one, &two], "app")?;
    for _ in 0..3 {
        moves(&shunt, &s).await?;
    }
    let (to, after) = only_one([&one, &two], "app").await?;
    ensure!(!std::ptr::eq(from, to));
    assert_eq!(after, before);
    // Names that are not ASCII, where the client can say them.
    s.run("SET NAMES utf8mb4").await?;
    s.run("SET @`ü` = 'ä', @`日本` = 7").await?;
    s.run("SELECT id FROM information_schema.collations LIMIT 7").await?;
    let (_, before) = only([&one, &two], "app")?;
    ensure!(before.found_rows == 7);
    moves(&shunt, &s).await?;
    let (_, after) = only_one([&one, &two], "app").await?;
    assert_eq!(after, before);
    s.run("SET NAMES latin1").await?;
    stays(&shunt, &s, &["unknown state"]).await?;
    // Nothing is amiss with a session that stays.
    s.run("SET NAMES utf8mb4").await?;
    assert_eq!(s.value("SELECT @`日本`").await?, "7");
    s.quit().await
}

/// What MySQL shows of a session.
#[tokio::test]
async fn what_cannot_be_carried_keeps_the_session_and_says_why() -> Result<()> {
    let (one, two, shunt) = two(false).await?;
    let cases: [(&str, &[&str], &str); 14] = [
        ("SELECT GET_LOCK('a', 0)", &["user lock"], "SELECT RELEASE_LOCK('a')"),
        ("LOCK TABLES t READ", &["locked tables"], "UNLOCK TABLES"),
        ("LOCK INSTANCE FOR BACKUP", &["locked tables"], ""),
        ("HANDLER t OPEN", &["handler"], ""),
        ("CREATE TEMPORARY TABLE t (i INT)", &["temporary table"], ""),
        // MySQL counts it as a temporary one.
        ("CREATE TABLE t (i INT)", &["temporary table"], ""),
        (
            "SET gtid_next = '3E11FA47-71CA-11E1-9E33-C80AA9429562:23'",
            &["unknown state"],
            "SET gtid_next = AUTOMATIC",
        ),
        ("SET rand_seed1 = 5", &["unknown state"], ""),
        // Of a plugin, or of a later release.
        ("SET component_of_tomorrow = 1", &["unknown state"], ""),
        ("SET RESOURCE GROUP batch", &["unknown state"], "SET RESOURCE GROUP USR_default"),
        ("XA START 'a'", &["unknown state"], ""),
        // SHOW STATUS may be cut.
        ("SET sql_select_limit = 1", &["unknown state"], "SET sql_select_limit = DEFAULT"),
        // Nobody sees what it says.
        ("PREPARE s FROM @text", &["unknown state"], ""),
        ("BEGIN", &["transaction"], "COMMIT"),
    ];
    for (sql, reasons, end) in cases {
        let mut s = login(&shunt, &app()).await?;
        s.run(sql).await.context(sql)?;
        let (_, before) = only_one([&one, &two], "app").await?;
        stays(&shunt, &s, reasons).await.context(sql)?;
        let (_, after) = only_one([&one, &two], "app").await?;
        assert_eq!(after, before, "{sql}");
        if end.is_empty() {
            s.command(&command::with(com::RESET_CONNECTION, &[])).await?.success()?;
        } else {
            s.run(end).await?;
        }
        moves(&shunt, &s).await.context(sql)?;
        s.quit().await?;
        eventually("it is gone", async || {
            ensure!(one.sessions("app").is_empty() && two.sessions("app").is_empty());
            Ok(())
        })
        .await;
    }
    Ok(())
}

/// MySQL does not take types without values: a client that does not send them again would be misread.
#[tokio::test]
async fn a_statement_that_was_executed_with_types_keeps_its_session_until_it_is_closed() -> Result<()> {
    let (_one, _two, shunt) = two(false).await?;
    let mut s = login(&shunt, &app()).await?;
    let statement = s.prepare("SELECT ?").await?;
    moves(&shunt, &s).await?;
    s.execute(statement, &[Param::Text("a".into())]).await?.success()?;
    stays(&shunt, &s, &["unknown state"]).await?;
    let again = command::execute(
        statement.id,
        &[Param::Text("b".into())],
        Execute { omit_types: true, ..Execute::default() },
    );
    s.command(&again).await?.success()?;
    s.send(&command::about_statement(com::STMT_CLOSE, statement.id)).await?;
    moves(&shunt, &s).await?;
    s.quit().await
}

#[tokio::test]
async fn where_the_user_or_the_server_does_not_tell_all_a_session_stays() -> Result<()> {
    let (one, two, mut shunt) = two(false).await?;
    let mut s = login(&shunt, &Login::user("poor").password("poor")).await?;
    s.run("SET @a = 1, time_zone = '+01:00'").await?;
    stays(&shunt, &s, &["unknown state"]).await?;
    let process = shunt.plane("standalone").process()?;
    let words = "a user lacks a grant: GRANT SELECT ON performance_schema.*";
    ensure!(process.output().contains(words), "{}", process.output());
    assert_eq!(s.value("SELECT @a").await?, "1");
    s.quit().await?;
    // A lock that nobody would see.
    let mut s = login(&shunt, &app()).await?;
    for cn in [&one, &two] {
        cn.instrument_locks(false);
    }
    s.run("SELECT 1").await?;
    stays(&shunt, &s, &["unknown state"]).await?;
    for cn in [&one, &two] {
        cn.instrument_locks(true);
        cn.know_threads(false);
    }
    s.run("SELECT 1").await?;
    stays(&shunt, &s, &["unknown state"]).await?;
    for cn in [&one, &two] {
        cn.know_threads(true);
        let unexpected = cn.take_unexpected();
        ensure!(unexpected.iter().all(|text| text.contains("PS_CURRENT_THREAD_ID")), "{unexpected:?}");
    }
    moves(&shunt, &s).await?;
    // Limits of the session's own that cannot be lifted might cut an answer.
    for cn in [&one, &two] {
        cn.take_hints(false);
    }
    moves(&shunt, &s).await?;
    s.run("SET sql_select_limit = 3, @a = 1, @b = 2, @c = 3, @d = 4").await?;
    stays(&shunt, &s, &["unknown state"]).await?;
    s.run("SET sql_select_limit = DEFAULT").await?;
    moves(&shunt, &s).await?;
    let (_, state) = only_one([&one, &two], "app").await?;
    assert_eq!(state.user_variables.len(), 4);
    s.quit().await
}

/// MySQL is not asked how many warnings there are, for that takes them away.
#[tokio::test]
async fn warnings_stay_as_long_as_they_are_kept() -> Result<()> {
    let (one, two) = (Mysql8::start().await?, Mysql8::start().await?);
    let group = Group::named("shared").cn("cn-1", one.address()).cn("cn-2", two.address());
    let setup = Setup::new().cn_account("shunt", "secret").group(group);
    let shunt = setup.set("policy.migrate.last_result_grace", "1h").standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    // It is deprecated, and warns of that.
    s.run("SELECT FOUND_ROWS()").await?;
    let (_, before) = only([&one, &two], "app")?;
    ensure!(before.warnings == 1, "{before:?}");
    let told = order(&shunt, &s).await?;
    ensure!(told["outcome"] == "failed" && told["reasons"].to_string().contains("last statement"), "{told}");
    let (_, after) = only_one([&one, &two], "app").await?;
    assert_eq!(after, before);
    s.run("SELECT id FROM information_schema.collations LIMIT 5").await?;
    moves(&shunt, &s).await?;
    let (_, after) = only_one([&one, &two], "app").await?;
    assert_eq!((after.warnings, after.found_rows), (0, 5));
    s.quit().await
}

/// What one kind of server says of a session is not for the other.
#[tokio::test]
async fn a_session_does_not_move_to_another_kind_of_server() -> Result<()> {
    let (mariadb, mysql) = (stand::shared_cn().await, Mysql8::start().await?);
    let group = Group::named("shared").cn("cn-1", mariadb.address()).cn("cn-2", mysql.address());
    let shunt = Setup::new().cn_account("shunt", "secret").group(group).standalone().await?;
    seen(&shunt).await;
    let mut all = [login(&shunt, &app()).await?, login(&shunt, &app()).await?];
    ensure!(mysql.sessions("app").len() == 1, "not one on each");
    for session in &mut all {
        session.run("SET @a = 1").await?;
        let told = order(&shunt, session).await?;
        ensure!(
            told["outcome"] == "failed" && told["reasons"].to_string().contains("kind of server"),
            "{told}"
        );
        assert_eq!(session.value("SELECT @a").await?, "1");
    }
    ensure!(mysql.sessions("app").len() == 1);
    Ok(())
}

#[tokio::test]
async fn a_refused_restore_leaves_the_session_where_it_was() -> Result<()> {
    let (one, two, shunt) = two(false).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET time_zone = 'Europe/Berlin', @a = 'kept'").await?;
    s.run("SELECT @a").await?;
    let statement = s.prepare("SELECT @a").await?;
    let (on, before) = only([&one, &two], "app")?;
    let other = if std::ptr::eq(on, &one) { &two } else { &one };
    other.refuse("time_zone", 1298, "Unknown or incorrect time zone: 'Europe/Berlin'");
    let told = order(&shunt, &s).await?;
    let reasons = told["reasons"].to_string();
    ensure!(
        told["outcome"] == "failed" && reasons.contains("time_zone") && reasons.contains("1298"),
        "{told}"
    );
    let (still, after) = only_one([&one, &two], "app").await?;
    ensure!(std::ptr::eq(on, still), "it moved");
    assert_eq!(after, before);
    s.execute(statement, &[]).await?.success()?;
    assert_eq!(s.value("SELECT @@time_zone").await?, "Europe/Berlin");
    s.quit().await
}

/// A variable that needs a right is put back only where it differs; and it is not lost where it cannot be.
#[tokio::test]
async fn what_needs_a_right_is_set_only_where_it_differs() -> Result<()> {
    let (one, two, shunt) = two(false).await?;
    let mut s = login(&shunt, &app()).await?;
    let Err(refused) = s.run("SET sql_log_bin = 0").await else { bail!("anybody may") };
    assert_eq!(refused.downcast::<ErrPacket>()?.code, 1227);
    moves(&shunt, &s).await?;
    let said = [one.received("app"), two.received("app")].concat();
    for variable in ["binlog_format", "sql_log_bin", "collation_database", "pseudo_thread_id", "rand_seed"] {
        let set = |sql: &&String| {
            sql.starts_with("SET") && sql.contains(variable) && !sql.ends_with("sql_log_bin = 0")
        };
        ensure!(!said.iter().any(|sql| set(&sql)), "{variable}: {said:#?}");
    }
    s.quit().await
}

#[tokio::test]
async fn an_account_of_another_plugin_logs_in_by_itself_and_stays() -> Result<()> {
    let (one, two, shunt) = two(false).await?;
    let mut s = login(&shunt, &Login::user("sha").password("sha")).await?;
    s.run("SELECT 1").await?;
    assert_eq!(shown(&shunt, &s).await?["pinned"], json!(["credentials unknown"]));
    stays(&shunt, &s, &["credentials unknown"]).await?;
    assert_eq!(only([&one, &two], "sha")?.1.user_variables.len(), 0);
    s.quit().await?;
    for (user, password) in [("sha", "wrong"), ("app", "wrong"), ("nobody", "x")] {
        let Err(refused) = login(&shunt, &Login::user(user).password(password)).await else {
            bail!("{user} is let in with {password}")
        };
        // In the CN's words.
        let refused = refused.downcast::<ErrPacket>()?;
        ensure!(refused.code == 1045 && refused.message.contains("Access denied for user"), "{refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_on_another_cn_is_killed_by_the_service_account() -> Result<()> {
    let (one, two, shunt) = two(false).await?;
    let mut killer = login(&shunt, &app()).await?;
    let mut killed = login(&shunt, &app()).await?;
    ensure!(one.sessions("app").len() == 1 && two.sessions("app").len() == 1, "on one CN");
    let none = killer.query(format!("KILL {}", killed.connection_id() + 1)).await?.err();
    assert_eq!(none.context("killed nobody")?.code, 1094);
    killer.run(format!("KILL {}", killed.connection_id())).await?;
    killed.closed().await?;
    killer.quit().await
}

/// What a session was when its CN was asked last is enough, where nothing touched it since.
#[tokio::test]
async fn a_session_outlives_its_cn() -> Result<()> {
    let (one, two, mut shunt) = two(true).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET time_zone = '+05:30', @a = 1.50, sql_mode = 'TRADITIONAL'").await?;
    let statement = s.prepare("SELECT @a").await?;
    let plane = shunt.plane("standalone");
    eventually("it was asked about", async || {
        let metrics = plane.metrics().await?;
        let known = metrics.lines().find(|line| line.contains("settled_total") && line.contains("known"));
        ensure!(known.is_some_and(|line| !line.ends_with(" 0")), "{known:?}");
        anyhow::Ok(())
    })
    .await;
    // It may be asked once more behind the prepare; then it rests.
    let (on, _) = only([&one, &two], "app")?;
    let is_on_one = std::ptr::eq(on, &one);
    let (dies, lives) = if is_on_one { (one, two) } else { (two, one) };
    let before = dies.sessions("app");
    drop(dies);
    eventually("it is on the other", async || {
        ensure!(lives.sessions("app").len() == 1);
        anyhow::Ok(())
    })
    .await;
    s.execute(statement, &[]).await?.success()?;
    assert_eq!(s.value("SELECT @@time_zone").await?, "+05:30");
    let after = lives.sessions("app");
    let variables =
        |of: &[State]| of.first().map(|state| (state.variables.clone(), state.user_variables.clone()));
    assert_eq!(variables(&after), variables(&before));
    s.quit().await
}

#[tokio::test]
async fn grants_that_the_service_account_lacks_are_told_in_mysql_s_words() -> Result<()> {
    let (one, two) = (Mysql8::start().await?, Mysql8::start().await?);
    for cn in [&one, &two] {
        cn.grant(&["GRANT PROCESS, TRIGGER ON *.* TO `shunt`@`%`"]);
    }
    let group = Group::named("shared").cn("cn-1", one.address()).cn("cn-2", two.address());
    let mut shunt = Setup::new().cn_account("shunt", "secret").group(group).standalone().await?;
    let process = shunt.plane("standalone").process()?;
    eventually("told", async || {
        let log = process.output();
        ensure!(log.contains("cn_account lacks a grant: GRANT SHOW_ROUTINE, TRIGGER ON *.*"), "{log}");
        anyhow::Ok(())
    })
    .await;
    // One that may read no accounts.
    let cn = Mysql8::start().await?;
    let mut shunt = Setup::new().cn_account("app", "app").cn("cn-1", cn.address()).standalone().await?;
    let session = login(&shunt, &app()).await?;
    assert_eq!(shown(&shunt, &session).await?["pinned"], json!(["credentials unknown"]));
    let log = shunt.plane("standalone").process()?.output();
    ensure!(log.contains("cn_account lacks a grant: GRANT SELECT ON mysql.user"), "{log}");
    session.quit().await
}
