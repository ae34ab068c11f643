//! CNs that say nothing any more, and one of a real fleet that dies under load.

use crate::stand::{app, is_in_state, login, shown};
use crate::{Two, beside, failed_over, settled};
use anyhow::{Context as _, Result, bail, ensure};
use shunt_harness::galera::Galera;
use shunt_harness::{ErrPacket, Group, Login, Raw, Setup, command, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A CN that is stopped closes no connection. Its sessions go on elsewhere all the same; what was under way there may yet
/// be done when it is let go on.
#[tokio::test]
async fn sessions_leave_a_cn_that_hangs() -> Result<()> {
    let mut two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("limits.cn_connect", "300ms")).await?;
    let mut idle = login(&shunt, &app()).await?;
    idle.run("SET @a = 5").await?;
    settled(&shunt, &idle).await;
    let on = shown(&shunt, &idle).await?["cn"].clone();
    let others = beside(&shunt, &idle, 3).await?;
    let [mut open, mut busy, mut busy_in] =
        <[_; 3]>::try_from(others).map_err(|_| anyhow::anyhow!("three"))?;
    open.run("BEGIN").await?;
    open.run("INSERT INTO t (v) VALUES (7)").await?;
    busy_in.run("BEGIN").await?;
    busy_in.run("INSERT INTO t (v) VALUES (8)").await?;
    let cn = two.of(&shunt, &idle).await?;
    cn.freeze().await?;
    busy.send(&command::query("INSERT INTO t (v) VALUES (9)")).await?;
    busy_in.send(&command::query("UPDATE t SET v = 10")).await?;
    eventually("the idle one left", async || {
        let shown = shown(&shunt, &idle).await?;
        ensure!(shown["cn"] != on && shown["state"] == "idle", "{shown}");
        anyhow::Ok(())
    })
    .await;
    assert_eq!(idle.value("SELECT @a").await?, "5");
    for (session, told) in [(&mut busy, 1180), (&mut busy_in, 1180)] {
        let err = session.receive().await?.err().expect("an ERR");
        assert_eq!(err.code, told, "{err}");
        session.run("SELECT 1").await?;
    }
    let err = open.query("SELECT 1").await?.err().expect("an ERR");
    assert_eq!(err.code, 1213, "{err}");
    open.run("SELECT 1").await?;
    failed_over(&shunt, "lost", 0.0).await;
    let cn = if on == "cn-2" { &two.cns[1] } else { &two.cns[0] };
    cn.thaw()?;
    eventually("it serves again, and nobody is left on it", async || {
        let listed = shunt.ctl(&["cn", "get", on.as_str().unwrap_or_default()]).await?;
        ensure!(listed["health"] == "up", "{listed}");
        anyhow::Ok(())
    })
    .await;
    assert_eq!(cn.app("suite").await?.value("SELECT COUNT(*) FROM t WHERE v IN (7, 8, 10)").await?, "0");
    Ok(())
}

/// A CN whose sessions work, and which lets nobody else in, is left alone.
#[tokio::test]
async fn a_cn_that_serves_its_sessions_keeps_them() -> Result<()> {
    let two = Two::start().await?;
    let shunt = two.shunt(|setup| setup.set("limits.cn_connect", "300ms")).await?;
    let mut s = login(&shunt, &app()).await?;
    s.send(&command::query("SELECT SLEEP(3)")).await?;
    is_in_state(&shunt, &s, "active").await;
    for cn in &two.cns {
        cn.run(&["SET GLOBAL max_connections = 10, extra_max_connections = 1"]).await?;
    }
    s.receive().await?.success()?;
    failed_over(&shunt, "unknown", 0.0).await;
    Ok(())
}

/// What came of a client's transfers, by their numbers.
#[derive(Default)]
struct Transfers {
    acknowledged: Vec<u32>,
    unknown: Vec<u32>,
    tried_again: u32,
}

const ACCOUNTS: u32 = 20;

/// One transfer, in a transaction that notes its number.
async fn transfer(s: &mut Raw, client: u32, n: u32) -> Result<()> {
    let (from, to) = ((client + n) % ACCOUNTS, (client * 7 + n * 3 + 1) % ACCOUNTS);
    s.run("BEGIN").await?;
    s.run(format!("UPDATE accounts SET balance = balance - 1 WHERE id = {from}")).await?;
    s.run(format!("UPDATE accounts SET balance = balance + 1 WHERE id = {to}")).await?;
    s.run(format!("INSERT INTO transfers VALUES ({client}, {n})")).await?;
    s.run("COMMIT").await.map(drop)
}

/// Whatever is open is over then, also where the CN that was told so was lost.
async fn roll_back(s: &mut Raw) -> Result<()> {
    while let Some(err) = s.query("ROLLBACK").await.context("the connection was lost")?.err() {
        ensure!(matches!(err.code, 1180 | 1213), "{err}");
    }
    Ok(())
}

/// Transfers until it is told to stop: again where it is told that nothing took effect, never where nobody knows.
async fn work(mut s: Raw, client: u32, done: &AtomicU32, stop: &AtomicBool) -> Result<Transfers> {
    let mut all = Transfers::default();
    let mut n = 0;
    while !stop.load(Ordering::Acquire) {
        let Err(error) = transfer(&mut s, client, n).await else {
            all.acknowledged.push(n);
            done.fetch_add(1, Ordering::AcqRel);
            n += 1;
            continue;
        };
        let err = error.downcast::<ErrPacket>().context("the connection was lost")?;
        match (err.code, err.sqlstate.as_str()) {
            (1213, "40001") => all.tried_again += 1,
            (1180, "HY000") => {
                all.unknown.push(n);
                n += 1;
            }
            _ => bail!("{err}"),
        }
        roll_back(&mut s).await?;
    }
    s.quit().await?;
    Ok(all)
}

/// Every client gets its answer or one clean ERR, no connection is lost, and no money.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_under_load_costs_no_connection_and_no_money() -> Result<()> {
    let cluster = Galera::start().await?;
    let mut root =
        Raw::login(cluster.node(1), &Login::user("admin").password(cluster.password("admin")?)).await?;
    root.run("CREATE TABLE shop.accounts (id INT PRIMARY KEY, balance INT NOT NULL) ENGINE=InnoDB").await?;
    root.run("CREATE TABLE shop.transfers (client INT, n INT, PRIMARY KEY (client, n)) ENGINE=InnoDB")
        .await?;
    root.run(format!("INSERT INTO shop.accounts SELECT seq, 100 FROM shop.seq_0_to_{}", ACCOUNTS - 1))
        .await?;
    let group = (1..=3).fold(Group::named("tp"), |group, n| group.cn(&format!("cn-{n}"), cluster.node(n)));
    let shunt =
        Setup::new().group(group).cn_account("shunt", &cluster.password("shunt")?).standalone().await?;
    crate::stand::seen(&shunt).await;
    let login = Login::user("app").password(cluster.password("app")?).database("shop");
    let (done, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..9 {
        let s = Raw::login(shunt.address(), &login).await?;
        let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
        clients.spawn(async move { (client, work(s, client, &done, &stop).await) });
    }
    let transfers = async |n: u32| {
        let wanted = done.load(Ordering::Acquire) + n;
        eventually("they work", async || {
            ensure!(done.load(Ordering::Acquire) >= wanted, "{} of {wanted}", done.load(Ordering::Acquire));
            anyhow::Ok(())
        })
        .await;
    };
    transfers(100).await;
    cluster.kill(2).await?;
    transfers(300).await;
    stop.store(true, Ordering::Release);
    // It may be behind the node that acknowledged a transfer.
    root.run("SET wsrep_sync_wait = 1").await?;
    let (mut acknowledged, mut unknown, mut tried_again) = (0, 0, 0);
    while let Some(ended) = clients.join_next().await {
        let (client, all) = ended?;
        let all = all.with_context(|| format!("client {client}"))?;
        let sql = format!("SELECT n FROM shop.transfers WHERE client = {client}");
        let rows = root.query(sql).await?.success()?.rows()?;
        let there: Vec<u32> = rows
            .iter()
            .map(|row| Ok(row[0].as_deref().context("a number")?.parse()?))
            .collect::<Result<_>>()?;
        for n in &all.acknowledged {
            ensure!(there.contains(n), "transfer {n} of {client} was acknowledged and is not there");
        }
        for n in &there {
            ensure!(
                all.acknowledged.contains(n) || all.unknown.contains(n),
                "{n} of {client} was told to be undone"
            );
        }
        acknowledged += all.acknowledged.len();
        unknown += all.unknown.len();
        tried_again += all.tried_again;
    }
    println!("{acknowledged} acknowledged, {unknown} unknown, {tried_again} tried again");
    let sum = root.value("SELECT SUM(balance) FROM shop.accounts").await?;
    assert_eq!(sum, (ACCOUNTS * 100).to_string());
    failed_over(&shunt, "lost", 0.0).await;
    failed_over(&shunt, "closed", 0.0).await;
    Ok(())
}
