//! What a session costs in memory, at rest, and whether anything stays behind.

use crate::stand::{app, group_of, login, metric, own_cn, seen, sessions_left, setup};
use anyhow::{Result, ensure};
use futures::StreamExt as _;
use shunt_harness::mariadb::Options;
use shunt_harness::{Raw, Shunt, eventually};

const KIB: u64 = 1024;

async fn open(shunt: &Shunt, n: usize) -> Result<Vec<Raw>> {
    let way = app().session_track(true);
    let logins = futures::stream::iter(0..n).map(|_| login(shunt, &way));
    let sessions: Vec<Result<Raw>> = logins.buffer_unordered(16).collect().await;
    sessions.into_iter().collect()
}

fn resident(shunt: &mut Shunt) -> Result<u64> {
    shunt.plane("data-1").process()?.resident()
}

/// Two thousand at rest, after each did something; then five thousand that come and go, and as many more.
#[tokio::test]
async fn idle_sessions_are_small_and_logins_leave_nothing_behind() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let mut shunt = setup().group(group_of(&[&cn])).planes(1).await?;
    seen(&shunt).await;
    drop(open(&shunt, 50).await?);
    sessions_left(&shunt, 0).await;
    let before = resident(&mut shunt)?;

    let mut sessions = open(&shunt, 2000).await?;
    for s in &mut sessions {
        s.run("SELECT REPEAT('x', 20000)").await?;
    }
    let each = (resident(&mut shunt)? - before) / 2000;
    println!("an idle session: {each} bytes resident");
    ensure!(each <= 24 * KIB, "{each} bytes for an idle session");
    drop(sessions);
    sessions_left(&shunt, 0).await;

    let mut after = Vec::new();
    for _ in 0..2 {
        for _ in 0..5 {
            drop(open(&shunt, 500).await?);
            sessions_left(&shunt, 0).await;
        }
        after.push(resident(&mut shunt)?);
    }
    println!("after 2,500 logins {} KiB, after 5,000 {} KiB", after[0] / KIB, after[1] / KIB);
    ensure!(after[1] < after[0] + 1024 * KIB, "logins leave memory behind");
    Ok(())
}

/// Opens `n` sessions that are made to be of one kind by `set` and their numbers, and waits until all that are there are
/// known.
async fn known(shunt: &Shunt, there: &mut Vec<Raw>, n: usize, set: impl Fn(usize) -> String) -> Result<()> {
    let mut sessions = open(shunt, n).await?;
    for (n, s) in sessions.iter_mut().enumerate() {
        s.run(set(there.len() + n)).await?;
    }
    there.append(&mut sessions);
    // Not by a list of sessions: that takes memory of the same process.
    eventually("all are known", async || {
        let known = metric(shunt, 1, "shunt_data_settled_total", "known").await?;
        ensure!(known >= there.len() as f64, "{known}");
        anyhow::Ok(())
    })
    .await;
    Ok(())
}

/// What a session costs once its CN was asked what it is: of `n` of these, beside as many that were asked about before, for
/// to ask takes memory once.
async fn settled(n: usize, set: impl Fn(usize) -> String) -> Result<u64> {
    let cn = own_cn(Options::new()).await?;
    let mut shunt = setup().group(group_of(&[&cn])).planes(1).await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    known(&shunt, &mut sessions, n, &set).await?;
    let before = resident(&mut shunt)?;
    known(&shunt, &mut sessions, n, &set).await?;
    Ok((resident(&mut shunt)? - before) / n as u64)
}

/// Sessions that have the same variables, as many do, and sessions that differ by a few: of these all is kept once.
async fn settled_sessions_are_small(n: usize) -> Result<()> {
    for (what, value) in [("the same variables", ""), ("a variable of its own", ", lock_wait_timeout = {n}")]
    {
        let set = |n: usize| {
            format!("SET @n = {n}, time_zone = '+02:00'{}", value.replace("{n}", &(n + 100).to_string()))
        };
        let known = settled(n, set).await?;
        println!("{n} sessions: {known} bytes each that is known and has {what}");
        ensure!(known <= 8 * KIB, "{known} bytes for a session that is known and has {what}");
    }
    Ok(())
}

#[tokio::test]
async fn sessions_that_are_known_are_small() -> Result<()> {
    settled_sessions_are_small(500).await
}

#[tokio::test]
#[ignore = "takes half a minute"]
async fn soak_two_thousand_sessions_that_are_known_are_small() -> Result<()> {
    settled_sessions_are_small(2000).await
}
