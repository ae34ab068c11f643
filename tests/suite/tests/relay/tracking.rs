//! Session tracking: a client sees what it would see without Shunt, and whatever it does to the trackers, Shunt goes
//! on seeing all.

use crate::stand::{app, is_pinned, login, own_cn, shunt_before, tracking_cn};
use anyhow::Result;
use shunt_harness::decode::Tracked;
use shunt_harness::mariadb::Options;
use shunt_harness::{Login, MariaDb, Param, Raw, com, command};

/// What an OK tells, in an order of its own: a server's means nothing.
async fn told(s: &mut Raw, payload: &[u8]) -> Result<Vec<Tracked>> {
    let mut tracked = s.command(payload).await?.success()?.ok()?.tracked;
    tracked.sort_by_key(|item| format!("{item:?}"));
    Ok(tracked)
}

/// What clients do to the trackers, and what then happens to their state.
fn story() -> Vec<Vec<u8>> {
    [
        "SET autocommit = 0",
        "SET sql_mode = 'ANSI'",
        "SET @a = 1",
        "USE mysql",
        "SET session_track_system_variables = 'sql_mode,big_tables'",
        "SET autocommit = 1",
        "SET sql_mode = ''",
        "SET NAMES latin1",
        "SET session_track_system_variables = '*'",
        "SET time_zone = '+01:00', lock_wait_timeout = 77",
        "SET session_track_system_variables = ''",
        "SET time_zone = '+02:00'",
        "SET session_track_system_variables = 'time_zone'",
        "SET session_track_schema = OFF",
        // To name a tracker is not to switch it.
        "DO @@session_track_state_change = 'OFF' OR @@session_track_transaction_info = 'OFF'",
        "USE suite",
        "SET session_track_schema = ON",
        "USE suite",
        "SET session_track_state_change = ON",
        "SET @a = 2",
        "SET time_zone = '+03:00'",
        "SET session_track_state_change = OFF",
        "SET @a = 3",
        "SET session_track_transaction_info = 'STATE'",
        "BEGIN",
        "INSERT INTO suite.tracked VALUES (1)",
        "COMMIT",
        "SET session_track_transaction_info = 'CHARACTERISTICS'",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "BEGIN",
        "ROLLBACK",
        "SET session_track_transaction_info = 'OFF'",
        "BEGIN",
        "ROLLBACK",
        // Two at once, the second of which the first one hides.
        "SET session_track_system_variables = 'autocommit', session_track_state_change = ON",
        "SET @a = 5",
        "SET autocommit = 1",
        "SET session_track_state_change = OFF, session_track_schema = OFF",
        "USE suite",
    ]
    .into_iter()
    .map(command::query)
    .chain([vec![com::RESET_CONNECTION]])
    .chain(["SET autocommit = 0", "SET sql_mode = 'ANSI'", "USE mysql", "SET @a = 4"].map(command::query))
    .collect()
}

/// Tells the story at the CN and through Shunt.
async fn is_told_alike(cn: &MariaDb) -> Result<()> {
    cn.run(&["CREATE TABLE suite.tracked (a INT) ENGINE=InnoDB"]).await?;
    let shunt = shunt_before(&[cn]).await?;
    for eof in [false, true] {
        let way = app().session_track(true).deprecate_eof(eof);
        let mut direct = Raw::login(cn.address(), &way).await?;
        let mut routed = login(&shunt, &way).await?;
        for payload in story() {
            let sql = String::from_utf8_lossy(&payload[1..]).into_owned();
            let (mut expected, found) =
                (told(&mut direct, &payload).await?, told(&mut routed, &payload).await?);
            // A tracker that is on already has nothing to say when a client switches it on; and what a statement
            // hides by its own list is known only behind it.
            if sql.contains("info = 'STATE'") || sql.contains("'autocommit', session") {
                expected.retain(|item| found.contains(item));
            }
            assert_eq!(found, expected, "{sql}");
        }
        is_not_blind(&mut routed).await?;
        routed.quit().await?;

        // A client that did not ask for it hears nothing, whatever it sets.
        let mut silent = login(&shunt, &app().deprecate_eof(eof)).await?;
        for payload in story() {
            let ok = silent.command(&payload).await?.success()?;
            assert_eq!(ok.packets[0].payload.len(), 7, "{:02x?}", ok.packets[0].payload);
        }
        is_not_blind(&mut silent).await?;
        silent.quit().await?;
    }
    Ok(())
}

/// All is tracked on the session's connection.
async fn is_not_blind(s: &mut Raw) -> Result<()> {
    let tracked = "SELECT CONCAT(@@session_track_system_variables, @@session_track_schema, \
                   @@session_track_state_change, @@session_track_transaction_info)";
    assert_eq!(s.value(tracked).await?, "*ONONCHARACTERISTICS");
    Ok(())
}

#[tokio::test]
async fn a_cn_that_tracks_what_mariadb_does_by_itself() -> Result<()> {
    is_told_alike(&own_cn(Options::new()).await?).await
}

#[tokio::test]
async fn a_cn_that_tracks_everything() -> Result<()> {
    is_told_alike(&tracking_cn().await?).await
}

/// The user's own settings must not bend what Shunt learns when a client touches the trackers.
#[tokio::test]
async fn settings_of_the_user_do_not_bend_what_is_learnt() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    for setting in [
        "SET sql_select_limit = 0",
        "SET character_set_results = ucs2",
        "SET max_join_size = 1, sql_big_selects = 0",
        "SET max_statement_time = 0.000001",
        "SET sql_mode = 'ANSI,PAD_CHAR_TO_FULL_LENGTH'",
    ] {
        let way = app().session_track(true);
        let (mut direct, mut routed) = (Raw::login(cn.address(), &way).await?, login(&shunt, &way).await?);
        for s in [&mut direct, &mut routed] {
            s.run(setting).await?;
            s.run("SET session_track_system_variables = 'sql_mode'").await?;
        }
        for sql in ["SET autocommit = 0", "SET sql_mode = 'ANSI'", "SET time_zone = '+01:00'"] {
            let sql = command::query(sql);
            assert_eq!(told(&mut routed, &sql).await?, told(&mut direct, &sql).await?, "{setting}");
        }
        routed.run("SET sql_select_limit = DEFAULT, character_set_results = utf8mb4").await?;
        assert_eq!(routed.value("SELECT @@session_track_system_variables").await?, "*", "{setting}");
        routed.quit().await?;
    }
    Ok(())
}

/// Touching the trackers inside a transaction leaves the transaction alone.
#[tokio::test]
async fn a_transaction_survives_a_change_of_the_trackers() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.kept (a INT) ENGINE=InnoDB"]).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let mut s = login(&shunt, &app().session_track(true)).await?;
    s.run("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await?;
    s.run("SET session_track_system_variables = 'sql_mode'").await?;
    s.run("BEGIN").await?;
    s.run("INSERT INTO suite.kept VALUES (1)").await?;
    s.run("SET session_track_system_variables = 'autocommit'").await?;
    // What is not seen until the transaction ends is not assumed.
    is_pinned(&shunt, &s, &["transaction", "unknown state"]).await;
    s.run("ROLLBACK").await?;
    assert_eq!(s.value("SELECT COUNT(*) FROM suite.kept").await?, "0");
    let told = told(&mut s, &command::query("SET autocommit = 0")).await?;
    assert_eq!(told, [Tracked::Variable("autocommit".into(), "OFF".into())]);
    is_not_blind(&mut s).await?;
    s.quit().await
}

/// Prepared, and behind more text than is looked at: trackers are switched there too.
#[tokio::test]
async fn trackers_may_be_switched_in_other_ways() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let way = app().session_track(true);
    let (mut direct, mut routed) = (Raw::login(cn.address(), &way).await?, login(&shunt, &way).await?);
    let long = format!("DO '{}'; SET session_track_system_variables = 'time_zone'", "x".repeat(300_000));
    for s in [&mut direct, &mut routed] {
        let set = s.prepare("SET session_track_system_variables = ?").await?;
        s.execute(set, &[Param::Text("sql_mode".into())]).await?.success()?;
    }
    let [autocommit, mode] = ["SET autocommit = 0", "SET sql_mode = 'ANSI'"].map(command::query);
    for payload in [&autocommit, &mode, &command::query(long), &autocommit, &mode] {
        assert_eq!(told(&mut routed, payload).await?, told(&mut direct, payload).await?);
    }
    is_not_blind(&mut routed).await?;
    routed.quit().await
}

/// Shunt asks nothing behind a statement that only is long: what it left for the next one stays.
#[tokio::test]
async fn a_long_statement_leaves_what_it_left() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.long_one (a TINYINT, b LONGTEXT) ENGINE=InnoDB"]).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET sql_mode = ''").await?;
    let text = "x".repeat(300_000);
    s.run(format!("INSERT INTO suite.long_one VALUES (1000, '{text}'), (2, '')")).await?;
    assert_eq!(s.value("SELECT ROW_COUNT()").await?, "2");
    s.run(format!("INSERT INTO suite.long_one VALUES (1000, '{text}')")).await?;
    assert_eq!(s.run("SHOW WARNINGS").await?.rows()?.len(), 1);
    s.run(format!("SELECT SQL_CALC_FOUND_ROWS * FROM suite.long_one WHERE b <> '{text}y' LIMIT 1")).await?;
    assert_eq!(s.value("SELECT FOUND_ROWS()").await?, "3");
    let queries: u64 = cn.root().await?.run("SHOW GLOBAL STATUS LIKE 'Com_select'").await?.rows()?[0][1]
        .as_deref()
        .unwrap_or_default()
        .parse()?;
    s.run(format!("INSERT INTO suite.long_one VALUES (3, '{text}')")).await?;
    let after: u64 = cn.root().await?.run("SHOW GLOBAL STATUS LIKE 'Com_select'").await?.rows()?[0][1]
        .as_deref()
        .unwrap_or_default()
        .parse()?;
    assert_eq!(after, queries, "a question was asked behind an INSERT");
    s.quit().await
}

/// A login without a database, and with one: what its OK tells is what the CN's tells.
#[tokio::test]
async fn the_oks_of_a_login_tell_alike() -> Result<()> {
    for cn in [own_cn(Options::new()).await?, tracking_cn().await?] {
        let shunt = shunt_before(&[&cn]).await?;
        for way in [app(), Login { database: None, ..app() }] {
            let way = way.session_track(true);
            let (direct, routed) = (Raw::login(cn.address(), &way).await?, login(&shunt, &way).await?);
            let items = |s: &Raw| {
                let ok = shunt_harness::OkPacket::decode(&s.welcome.payload, s.caps).unwrap();
                let mut tracked = ok.tracked;
                tracked.sort_by_key(|item| format!("{item:?}"));
                (ok.status, tracked)
            };
            assert_eq!(items(&routed), items(&direct));
        }
    }
    Ok(())
}
