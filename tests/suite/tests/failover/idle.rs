//! Sessions that wait for their clients: these notice nothing, or are closed as the server would.

use crate::stand::{DATABASE, app, app_as, is_in_state, is_pinned, login, metric, shown};
use crate::{Two, all_settled, asked, beside, failed_over, settled};
use anyhow::{Result, ensure};
use shunt_harness::{Param, Raw, command, eventually};

/// All that a session was given, as its client reads it.
async fn state(s: &mut Raw) -> Result<Vec<Option<String>>> {
    let of_all = "SELECT @a, HEX(@b), @@time_zone, @@sql_mode LIKE '%ANSI%', @@collation_connection, \
                 @@character_set_results, DATABASE(), @@autocommit, LAST_INSERT_ID()";
    Ok(s.query(of_all).await?.success()?.rows()?.remove(0))
}

#[tokio::test]
async fn a_session_with_state_goes_on_as_it_was() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app().deprecate_eof(true)).await?;
    s.run("INSERT INTO t (v) VALUES (1), (2)").await?;
    s.run("SET NAMES latin1 COLLATE latin1_german2_ci, sql_mode = 'ANSI'").await?;
    s.run("SET @a = 1.50, @b = X'00FF', time_zone = '+05:30'").await?;
    let prepared = s.prepare("SELECT ? + 1, DATABASE()").await?;
    let answer = s.execute(prepared, &[Param::Long(6)]).await?.success()?;
    s.run("USE information_schema").await?;
    let before = state(&mut s).await?;
    settled(&shunt, &s).await;
    two.of(&shunt, &s).await?.kill()?;
    assert_eq!(state(&mut s).await?, before);
    assert_eq!(s.execute(prepared, &[Param::Long(6)]).await?.success()?.packets, answer.packets);
    let told = shown(&shunt, &s).await?;
    ensure!(told["lastMove"]["outcome"] == "moved" && told["lastMove"]["to"] == told["cn"], "{told}");
    failed_over(&shunt, "unnoticed", 1.0).await;
    s.quit().await
}

/// A database brings its collation along, wherever a session is rebuilt.
#[tokio::test]
async fn the_collation_of_the_database_is_the_database_s() -> Result<()> {
    let mut two = Two::start().await?;
    for cn in &two.cns {
        cn.run(&[
            "CREATE DATABASE other COLLATE latin1_german1_ci",
            "CREATE DATABASE third COLLATE utf8mb4_bin",
        ])
        .await?;
    }
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app().database("other")).await?;
    for (given, used, collation) in [
        ("", "other", "latin1_german1_ci"),
        ("SET @a = 1", "third", "utf8mb4_bin"),
        ("", "other", "latin1_german1_ci"),
    ] {
        if !given.is_empty() {
            s.run(given).await?;
            settled(&shunt, &s).await;
        }
        s.run(format!("USE {used}")).await?;
        two.of(&shunt, &s).await?.kill()?;
        assert_eq!(s.value("SELECT @@collation_database").await?, collation);
        two.revive(&shunt).await?;
    }
    s.quit().await
}

/// The CN that it is on numbers a session anew, which only an administrator may do by hand.
#[tokio::test]
async fn a_user_without_rights_goes_on_after_moves_too() -> Result<()> {
    let mut two = Two::start().await?;
    for cn in &two.cns {
        cn.run(&["CREATE USER poor@'%' IDENTIFIED BY 'poor'", "GRANT SELECT ON suite.* TO poor@'%'"]).await?;
    }
    let shunt = two.shunt(|setup| setup).await?;
    let poor = app_as("poor").password("poor");
    let mut s = login(&shunt, &poor).await?;
    s.run("SET @a = 5").await?;
    settled(&shunt, &s).await;
    let told = shunt.ctl(&["session", "move", &s.connection_id().to_string()]).await?;
    ensure!(told["outcome"] == "moved", "{told}");
    two.of(&shunt, &s).await?.kill()?;
    assert_eq!(s.value("SELECT @a").await?, "5");
    two.revive(&shunt).await?;
    two.of(&shunt, &s).await?.kill()?;
    assert_eq!(s.value("SELECT @a").await?, "5");
    s.quit().await
}

/// What was set and not asked for yet, or cannot be carried, is not lost silently: the session ends, as on a server that
/// dies.
#[tokio::test]
async fn a_session_that_is_not_known_ends() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("policy.migrate.settle_after", "1h")).await?;
    let mut unasked = login(&shunt, &app()).await?;
    unasked.run("SET @a = 1").await?;
    let mut pinned = beside(&shunt, &unasked, 1).await?.remove(0);
    pinned.run("SELECT GET_LOCK('a', 0)").await?;
    two.of(&shunt, &unasked).await?.kill()?;
    unasked.closed().await?;
    pinned.closed().await?;
    failed_over(&shunt, "lost", 2.0).await;
    Ok(())
}

#[tokio::test]
async fn a_session_that_only_logged_in_or_used_tables_need_not_be_asked() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("policy.migrate.settle_after", "1h")).await?;
    let mut fresh = login(&shunt, &app()).await?;
    let mut used = beside(&shunt, &fresh, 1).await?.remove(0);
    used.run("SET autocommit = 0").await?;
    used.run("INSERT INTO t (v) VALUES (1)").await?;
    used.run("COMMIT").await?;
    assert!(used.query("SELECT nope").await?.err().is_some());
    two.of(&shunt, &fresh).await?.kill()?;
    assert_eq!(fresh.value("SELECT DATABASE()").await?, DATABASE);
    assert_eq!(used.value("SELECT @@autocommit").await?, "0");
    // What its last statements left is gone with their CN, and not told wrong.
    for lost in ["SELECT LAST_INSERT_ID()"] {
        let err = used.query(lost).await?.err().expect("an ERR");
        assert_eq!((err.code, err.sqlstate.as_str()), (1180, "HY000"), "{lost}: {err}");
    }
    used.run("INSERT INTO t (v) VALUES (1)").await?;
    used.run("SELECT LAST_INSERT_ID()").await?;
    failed_over(&shunt, "unnoticed", 2.0).await;
    Ok(())
}

/// A trigger may set a user variable, which nothing tells of: where there is one, tables are no proof of harmlessness.
#[tokio::test]
async fn code_on_the_cn_makes_it_be_asked_after_every_statement() -> Result<()> {
    let mut two = Two::start().await?;
    for cn in &two.cns {
        cn.run(&["CREATE FUNCTION suite.hides() RETURNS INT BEGIN SELECT 7 INTO @hidden; RETURN 1; END"])
            .await?;
    }
    let shunt = two.shunt(|setup| setup.set("policy.migrate.settle_after", "1h")).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SELECT hides()").await?;
    two.of(&shunt, &s).await?.kill()?;
    s.closed().await?;
    failed_over(&shunt, "lost", 1.0).await;

    two.revive(&shunt).await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SELECT hides()").await?;
    settled(&shunt, &s).await;
    two.of(&shunt, &s).await?.kill()?;
    assert_eq!(s.value("SELECT @hidden").await?, "7");
    s.quit().await
}

/// 0 errors, every state right on the next query.
#[tokio::test]
async fn five_hundred_sessions_with_state_notice_nothing() -> Result<()> {
    let mut two = Two::start().await?;
    // So long that none is asked about between two of its commands: each once, when it has done all.
    let shunt = two.shunt(|setup| setup.set("policy.migrate.settle_after", "2s")).await?;
    let mut sessions = Vec::new();
    for n in 0..500 {
        let mut s = login(&shunt, &app()).await?;
        s.run(format!("SET @a = {n}.25, @b = X'00FF', time_zone = '+0{}:00'", n % 10)).await?;
        let prepared = s.prepare(format!("SELECT {n} + ?")).await?;
        let answer = s.execute(prepared, &[Param::Long(1)]).await?.success()?.packets;
        s.run(if n % 2 == 0 { "USE information_schema" } else { "SET NAMES latin1" }).await?;
        let before = state(&mut s).await?;
        sessions.push((s, before, prepared, answer));
    }
    all_settled(&shunt, 500).await;
    two.cns[0].kill()?;
    for (s, before, prepared, answer) in &mut sessions {
        assert_eq!(&state(s).await?, before);
        assert_eq!(&s.execute(*prepared, &[Param::Long(1)]).await?.success()?.packets, answer);
    }
    failed_over(&shunt, "lost", 0.0).await;
    let unnoticed = metric(&shunt, 0, "shunt_data_failovers_total", "unnoticed").await?;
    ensure!((200.0..=300.0).contains(&unnoticed), "{unnoticed} of 500 were on it");
    Ok(())
}

/// SIGTERM: the server ends its sessions one by one while it still answers, or does not any more.
#[tokio::test]
async fn a_cn_that_is_stopped_in_order_costs_its_sessions_nothing() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    let mut beside = beside(&shunt, &s, 10).await?;
    s.run("SET @a = 5").await?;
    settled(&shunt, &s).await;
    two.of(&shunt, &s).await?.stop().await?;
    assert_eq!(s.value("SELECT @a").await?, "5");
    for one in &mut beside {
        assert_eq!(one.value("SELECT 7").await?, "7");
        assert_eq!(one.value("SELECT 8").await?, "8");
    }
    failed_over(&shunt, "lost", 0.0).await;
    Ok(())
}

/// A CN that ends a session on purpose is no CN that died.
#[tokio::test]
async fn a_session_that_its_cn_kills_is_not_revived() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    let id = s.value("SELECT CONNECTION_ID()").await?;
    two.of(&shunt, &s).await?.run(&[&format!("KILL {id}")]).await?;
    s.closed().await?;
    failed_over(&shunt, "unnoticed", 0.0).await;
    Ok(())
}

/// One that is pinned is shown so before, with the reason.
#[tokio::test]
async fn what_would_end_it_is_shown() -> Result<()> {
    let two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("CREATE TEMPORARY TABLE tmp (a INT)").await?;
    eventually("asked", async || {
        let n = metric(&shunt, 0, "shunt_data_settled_total", "pinned").await?;
        ensure!(n >= 1.0, "{n}");
        anyhow::Ok(())
    })
    .await;
    is_pinned(&shunt, &s, &["temporary table"]).await;
    s.quit().await
}

/// What is certain need not be asked for. To ask begins the tracker of transactions anew, which then forgets locked tables,
/// and would not tell that they are unlocked.
#[tokio::test]
async fn a_session_that_rested_with_locked_tables_moves_once_they_are_unlocked() -> Result<()> {
    let two = Two::start().await?;
    for cn in &two.cns {
        cn.run(&["INSTALL SONAME 'metadata_lock_info'"]).await?;
    }
    let shunt = two.shunt(|setup| setup).await?;
    let mut s = login(&shunt, &app()).await?;
    let mut watched = login(&shunt, &app()).await?;
    s.run("LOCK TABLES t READ").await?;
    // Time enough for it: another session is settled that was due later.
    watched.run("SET @b = 1").await?;
    settled(&shunt, &watched).await;
    is_pinned(&shunt, &s, &["locked tables"]).await;
    s.run("UNLOCK TABLES").await?;
    settled(&shunt, &s).await;
    let told = shunt.ctl(&["session", "move", &s.connection_id().to_string()]).await?;
    ensure!(told["outcome"] == "moved", "{told}");
    s.quit().await
}

/// Of what the last statement left nothing is used up by asking, as long as its client may read it.
#[tokio::test]
async fn settling_leaves_what_the_last_statement_left() -> Result<()> {
    let two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("policy.migrate.last_result_grace", "1h")).await?;
    let mut s = login(&shunt, &app()).await?;
    let mut watched = login(&shunt, &app()).await?;
    for (last, then, answer, is_put_back) in [
        ("INSERT INTO t (v) VALUES (2), (3)", "SELECT ROW_COUNT()", "2", false),
        ("SELECT CAST('x' AS INT)", "SELECT @@warning_count", "1", false),
        ("SELECT SQL_CALC_FOUND_ROWS 1 FROM seq_1_to_7 LIMIT 2", "SELECT FOUND_ROWS()", "7", true),
        ("SELECT 1 FROM t", "SELECT ROW_COUNT()", "-1", true),
        ("DO 1", "SELECT ROW_COUNT()", "0", true),
    ] {
        s.run("SET @a = 1").await?;
        s.query(last).await?;
        if is_put_back {
            settled(&shunt, &s).await;
        } else {
            // Time enough for it: another session is settled that was due later.
            let before = metric(&shunt, 0, "shunt_data_settled_total", "known").await?;
            watched.run("SET @b = 1").await?;
            asked(&shunt, before + 1.0).await;
        }
        assert_eq!(s.value(then).await?, answer, "{then} behind {last}");
    }
    s.quit().await
}

#[tokio::test]
async fn sessions_wait_for_a_cn_and_are_told_when_none_comes() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("policy.migrate.wait_for_cn", "20s")).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET @a = 5").await?;
    settled(&shunt, &s).await;
    let on = shown(&shunt, &s).await?["cn"].clone();
    let [one, other] = if on == "cn-1" { [0, 1] } else { [1, 0] };
    two.cns[other].kill()?;
    two.cns[one].kill()?;
    is_in_state(&shunt, &s, "moving").await;
    s.send(&command::query("SELECT @a")).await?;
    two.cns[1].restart().await?;
    assert_eq!(s.receive().await?.success()?.rows()?, [[Some("5".to_owned())]]);
    s.quit().await?;

    let shunt = two.shunt_before_what_is_left(|setup| setup.set("policy.migrate.wait_for_cn", "0s")).await?;
    let mut busy = login(&shunt, &app()).await?;
    let mut idle = login(&shunt, &app()).await?;
    busy.send(&command::query("SELECT SLEEP(100)")).await?;
    is_in_state(&shunt, &busy, "active").await;
    two.cns[1].kill()?;
    let err = busy.receive().await?.err().expect("an ERR");
    ensure!(err.code == 1053 && err.message.contains("no CN took it within 0"), "{err}");
    busy.closed().await?;
    idle.closed().await?;
    Ok(())
}

/// A session that works on and on is settled between two transactions, and may be moved at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_and_moving_do_not_stand_in_each_other_s_way() -> Result<()> {
    let two = Two::start().await?;
    let shunt = two.shunt(|setup| setup).await?;
    let s = login(&shunt, &app()).await?;
    let id = s.connection_id().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let works = tokio::spawn(works_until(s, stopped));
    let mut moved = 0;
    for _ in 0..20 {
        let told = shunt.try_ctl(&["-o", "json", "session", "move", &id]).await?;
        moved += u32::from(told.stdout.contains("\"moved\""));
        let before = metric(&shunt, 0, "shunt_data_settled_total", "known").await?;
        asked(&shunt, before + 1.0).await;
    }
    ensure!(moved >= 10, "{moved} of 20");
    stop.send(()).map_err(|()| anyhow::anyhow!("it does not work any more"))?;
    works.await?
}

/// Sets a user variable in each of its transactions, and reads it back.
async fn works_until(mut s: Raw, mut stopped: tokio::sync::oneshot::Receiver<()>) -> Result<()> {
    let mut n = 0;
    while stopped.try_recv().is_err() {
        s.run("BEGIN").await?;
        assert_eq!(s.value("SELECT COALESCE(@a, 0)").await?, n.to_string());
        n += 1;
        s.run(format!("SET @a = {n}")).await?;
        s.run("COMMIT").await?;
    }
    s.quit().await
}
