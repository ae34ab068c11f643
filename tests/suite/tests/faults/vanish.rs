//! Clients that vanish: what they left running is killed on the CN, once, and nobody else's.

use crate::stand::{
    DATABASE, app, gone_from, id_on_cn, is_in_state, login, metric, own_cn, sessions_left, shared_cn,
    shunt_before,
};
use anyhow::{Context as _, Result, ensure};
use shunt_harness::mariadb::Options;
use shunt_harness::packet::split;
use shunt_harness::{MariaDb, Raw, Shunt, com, command, eventually};
use std::time::Duration;
use tokio::time::Instant;

/// From a client's leaving to the end of its statement on the CN.
const BOUND: Duration = Duration::from_secs(8);

/// KILLs that the CN was given since it started.
async fn kills(cn: &MariaDb) -> Result<u64> {
    let rows = cn.root().await?.run("SHOW GLOBAL STATUS LIKE 'Com_kill'").await?.rows()?;
    Ok(rows[0][1].as_deref().context("no count")?.parse()?)
}

fn leave(client: Raw, by_reset: bool) -> Result<()> {
    if by_reset {
        return client.abort();
    }
    drop(client);
    Ok(())
}

async fn orphans(shunt: &Shunt) -> Result<f64> {
    metric(shunt, 0, "shunt_data_orphans_killed_total", "").await
}

#[tokio::test]
async fn the_query_of_a_vanished_client_is_killed_once_and_no_other() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let mut holder = cn.root().await?;
    holder.run("SELECT GET_LOCK('kept', 0)").await?;
    let mut other = login(&shunt, &app()).await?;
    other.send(&command::query("SELECT GET_LOCK('kept', 1000), 'undisturbed'")).await?;
    for by_reset in [false, true] {
        let before = kills(&cn).await?;
        let mut s = login(&shunt, &app()).await?;
        let id = id_on_cn(&mut s).await?;
        s.send(&command::query("SELECT SLEEP(1000)")).await?;
        is_in_state(&shunt, &s, "active").await;
        let left = Instant::now();
        leave(s, by_reset)?;
        gone_from(&cn, id).await?;
        ensure!(left.elapsed() < BOUND, "it ran on for {:?}", left.elapsed());
        assert_eq!(kills(&cn).await?, before + 1);
    }
    assert_eq!(orphans(&shunt).await?, 2.0);
    // Nobody who leaves at rest has anything killed.
    let mut idle = login(&shunt, &app()).await?;
    let id = id_on_cn(&mut idle).await?;
    leave(idle, true)?;
    gone_from(&cn, id).await?;
    assert_eq!(orphans(&shunt).await?, 2.0);
    holder.run("DO RELEASE_LOCK('kept')").await?;
    let row = other.receive().await?.rows()?;
    assert_eq!(row[0][1].as_deref(), Some("undisturbed"));
    other.quit().await
}

/// Waits until so many statements wait for this lock.
async fn wait_for(root: &mut Raw, lock: &str, many: usize) {
    let waiting = format!(
        "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE state = 'User lock' AND info LIKE 'SELECT GET_LOCK(''{lock}''%'"
    );
    eventually(&format!("{many} wait for {lock}"), async || {
        let n = root.value(&waiting).await?;
        ensure!(n == many.to_string(), "{n}");
        anyhow::Ok(())
    })
    .await;
}

/// Two hundred at once, among fifty that stay: every statement that is left is killed, and no other.
#[tokio::test]
async fn two_hundred_clients_that_vanish_at_once_take_nobody_along() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let before = kills(&cn).await?;
    // Each waits for one of two locks, from which the CN wakes it at once. Nobody gets one while they leave.
    let mut holder = cn.root().await?;
    holder.run("SELECT GET_LOCK('left', 0), GET_LOCK('kept', 0)").await?;
    let (mut leaving, mut staying) = (Vec::new(), Vec::new());
    for n in 0..250 {
        let mut s = login(&shunt, &app()).await?;
        if n % 5 == 0 {
            let id = id_on_cn(&mut s).await?;
            let wait = format!("SELECT GET_LOCK('kept', 1000), RELEASE_LOCK('kept'), {id}");
            s.send(&command::query(wait)).await?;
            staying.push((s, id));
        } else {
            s.send(&command::query("SELECT GET_LOCK('left', 1000)")).await?;
            leaving.push(s);
        }
    }
    let mut root = cn.root().await?;
    wait_for(&mut root, "left", 200).await;
    wait_for(&mut root, "kept", 50).await;
    let left = Instant::now();
    for (n, client) in leaving.into_iter().enumerate() {
        leave(client, n % 2 == 0)?;
    }
    wait_for(&mut root, "left", 0).await;
    ensure!(left.elapsed() < 2 * BOUND, "they ran on for {:?}", left.elapsed());
    wait_for(&mut root, "kept", 50).await;
    assert_eq!(kills(&cn).await?, before + 200);
    holder.run("DO RELEASE_LOCK('kept')").await?;
    for (s, id) in &mut staying {
        let row = ["1", "1", &id.to_string()].map(|value| Some(value.to_owned()));
        assert_eq!(s.receive().await?.rows()?, [row]);
        assert_eq!(id_on_cn(s).await?, *id);
    }
    assert_eq!(kills(&cn).await?, before + 200);
    eventually("they are counted", async || {
        let n = orphans(&shunt).await?;
        ensure!(n == 200.0, "{n}");
        anyhow::Ok(())
    })
    .await;
    Ok(())
}

/// What would have been written after its client had left is not.
#[tokio::test]
async fn an_update_of_a_vanished_client_does_not_commit_later() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut root = cn.root().await?;
    for (name, by_reset) in [("left_fin", false), ("left_reset", true)] {
        root.run(format!("CREATE OR REPLACE TABLE {DATABASE}.{name} (a INT) ENGINE=InnoDB")).await?;
        root.run(format!("INSERT INTO {DATABASE}.{name} VALUES (0), (0), (0)")).await?;
        let mut s = login(&shunt, &app()).await?;
        let id = id_on_cn(&mut s).await?;
        // Done after fifteen seconds, were it left alone.
        s.send(&command::query(format!("UPDATE {name} SET a = a + 1 + SLEEP(5)"))).await?;
        is_in_state(&shunt, &s, "active").await;
        let left = Instant::now();
        leave(s, by_reset)?;
        gone_from(cn, id).await?;
        ensure!(left.elapsed() < BOUND, "it ran on for {:?}", left.elapsed());
        assert_eq!(root.value(format!("SELECT SUM(a) FROM {DATABASE}.{name}")).await?, "0");
    }
    Ok(())
}

/// A transaction that nobody ends holds no lock.
#[tokio::test]
async fn a_transaction_of_a_vanished_client_is_rolled_back() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut root = cn.root().await?;
    root.run(format!("CREATE OR REPLACE TABLE {DATABASE}.open (a INT PRIMARY KEY) ENGINE=InnoDB")).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("BEGIN").await?;
    s.run("INSERT INTO open VALUES (1)").await?;
    leave(s, true)?;
    root.run("SET innodb_lock_wait_timeout = 5").await?;
    root.run(format!("INSERT INTO {DATABASE}.open VALUES (1)")).await?;
    Ok(())
}

/// Each of these keeps the client from being read; that it left is noticed all the same.
#[tokio::test]
async fn a_client_is_missed_whatever_it_sent_last() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let sleep = command::query("SELECT SLEEP(1000)");
    let many = std::iter::once(sleep.clone()).chain(vec![vec![com::PING]; 3000]).collect();
    let half = command::query(format!("INSERT INTO nowhere VALUES ('{}')", "x".repeat(100_000)));
    let cases: [(&str, Vec<Vec<u8>>, usize); 7] = [
        ("a goodbye behind it, as drivers say it", vec![sleep.clone(), vec![com::QUIT]], 0),
        ("a reset behind it", vec![sleep.clone(), vec![com::RESET_CONNECTION]], 0),
        ("a KILL behind it", vec![sleep.clone(), command::query("KILL 1999999999")], 0),
        ("more commands than may wait", many, 0),
        ("half a header behind it", vec![sleep.clone(), vec![com::PING]], 3),
        ("half a command", vec![half], 50_000),
        ("half a login behind it", vec![sleep, vec![com::CHANGE_USER; 90]], 20),
    ];
    for (what, commands, cut) in cases {
        let mut s = login(&shunt, &app()).await?;
        let id = id_on_cn(&mut s).await?;
        let mut bytes: Vec<u8> =
            commands.iter().flat_map(|payload| split(payload, 0)).flat_map(|packet| packet.bytes()).collect();
        bytes.truncate(bytes.len() - cut);
        s.send_bytes(&bytes).await?;
        is_in_state(&shunt, &s, "active").await;
        let left = Instant::now();
        leave(s, false)?;
        gone_from(&cn, id).await.context(what)?;
        ensure!(left.elapsed() < BOUND, "{what}: it ran on for {:?}", left.elapsed());
    }
    sessions_left(&shunt, 0).await;
    Ok(())
}

/// Without a service account nobody can kill: the connection to the CN is closed, which the CN notices when it answers.
#[tokio::test]
async fn without_an_account_the_connection_is_closed() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_harness::Setup::new().cn("cn-1", cn.address()).standalone().await?;
    let mut s = login(&shunt, &app()).await?;
    let id = id_on_cn(&mut s).await?;
    s.send(&command::query("SELECT SLEEP(3)")).await?;
    is_in_state(&shunt, &s, "active").await;
    leave(s, true)?;
    gone_from(&cn, id).await?;
    assert_eq!(kills(&cn).await?, 0);
    Ok(())
}

/// A CN that stands still cannot kill: the session ends all the same, and the CN is avoided.
#[tokio::test]
async fn a_client_that_leaves_a_frozen_cn_is_not_waited_for() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let mut clients = Vec::new();
    for n in 0..20 {
        let mut s = login(&shunt, &app()).await?;
        // Half of them idle, half of them at work.
        if n % 2 == 0 {
            s.send(&command::query("SELECT SLEEP(1000)")).await?;
            is_in_state(&shunt, &s, "active").await;
        }
        clients.push(s);
    }
    cn.freeze().await?;
    let left = Instant::now();
    for (n, client) in clients.into_iter().enumerate() {
        leave(client, n % 4 < 2)?;
    }
    sessions_left(&shunt, 0).await;
    ensure!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    cn.thaw()?;
    Ok(())
}
