//! Many sessions that go elsewhere at once, because a CN leaves, joins or dies.

use super::Told;
use crate::case::What;
use crate::cpu::CpuTime;
use crate::files;
use crate::fleet::{Cns, Fleet, are_whole};
use crate::rounds::Plan;
use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use shunt_harness::{Raw, within};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

fn told(what: What, values: Vec<f64>, unit: &'static str, more: Value) -> Told {
    Told { what, values, unit, name: "", more }
}

/// Sessions, half on each of two CNs that are both in use.
async fn half_on_each(fleet: &Fleet, n: usize) -> Result<Vec<Raw>> {
    let sessions = fleet.open_numbered(n).await?;
    fleet
        .until(Duration::from_secs(30), |counts| counts.values().all(|on| on.abs_diff(n as u64 / 2) <= 1))
        .await?;
    Ok(sessions)
}

/// Gives up all sessions, and the drain of `cn-1`.
async fn begin_anew(fleet: &Fleet, sessions: Vec<Raw>) -> Result<()> {
    drop(sessions);
    fleet.until(Duration::from_secs(60), |counts| counts.values().all(|on| *on == 0)).await?;
    fleet.shunt.ctl(&["cn", "undrain", "cn-1"]).await.map(drop)
}

/// Moves a second of a data plane with one core and one worker, between CNs that answer at once: a drain with a rate that
/// bounds nothing.
///
/// # Errors
/// A session was lost.
pub(super) async fn rate(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let cns = Cns::fake().await?;
    on_one_core(true).await?;
    let unbounded = ("policy.rebalance.moves_per_second", 100_000);
    let fleet = Fleet::start(cns, 2, plan.io, |setup| setup.set(unbounded.0, unbounded.1)).await;
    on_one_core(false).await?;
    let mut fleet = fleet?;
    let on_it = if plan.quick { 1000 } else { 2000 };
    files::ensure_room(2 * on_it)?;
    let (mut values, mut cpu) = (Vec::new(), Vec::new());
    // The first one is for the fakes, which then know all that they are asked.
    for _ in 0..plan.rounds.min(3) + 1 {
        let sessions = fleet.open(2 * on_it as usize).await?;
        fleet
            .until(Duration::from_secs(30), |counts| counts.values().all(|on| on.abs_diff(on_it.into()) <= 1))
            .await?;
        let (began_with, pid) = (moved(&fleet).await?, fleet.pid()?);
        let before = CpuTime::of(pid)?;
        fleet.shunt.ctl(&["cn", "drain", "cn-1"]).await?;
        let began = Instant::now();
        let all = within(Duration::from_secs(60), async || {
            let n = moved(&fleet).await? - began_with;
            ensure!(n >= f64::from(on_it), "{n} moved");
            Ok(n)
        })
        .await?;
        values.push(all / began.elapsed().as_secs_f64());
        cpu.push(CpuTime::of(pid)?.since(&before) as f64 / 1000.0 / all);
        begin_anew(&fleet, sessions).await?;
    }
    let (values, cpu) = (values.split_off(1), cpu.split_off(1));
    let more = json!({ "sessions": on_it, "cpu_us_per_move": cpu });
    let command = "shuntctl cn drain cn-1, with policy.rebalance.moves_per_second 100000";
    Ok((vec![told(What::MovesPerSecond, values, "moves/s", more)], command.to_owned()))
}

async fn moved(fleet: &Fleet) -> Result<f64> {
    fleet.metric("shunt_data_moves_total", "outcome=\"moved\"").await
}

/// What this process starts from now on has one core, or all.
async fn on_one_core(one: bool) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    let list = if one { "0".to_owned() } else { format!("0-{}", all_cores(cores) - 1) };
    let me = std::process::id().to_string();
    let done = tokio::process::Command::new("taskset").args(["-p", "-c", &list, &me]).output().await;
    let done = done.context("taskset")?;
    ensure!(done.status.success(), "taskset: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// How many cores there are, where this process may have been given one of them.
fn all_cores(mine: usize) -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count().max(mine)
}

/// How long an operator waits until a CN with idle sessions is drained.
///
/// # Errors
/// It was not drained, or a session was lost.
pub(super) async fn drain(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let fleet = Fleet::start(Cns::mariadb(2).await?, 2, plan.io, |setup| setup).await?;
    let on_it = if plan.quick { 500 } else { 2000 };
    files::ensure_room(2 * on_it)?;
    let mut in_time = Vec::new();
    for _ in 0..plan.rounds.min(3) {
        in_time.push(drained(&fleet, on_it, &["--timeout", "10s"]).await?);
    }
    let as_it_comes = vec![drained(&fleet, on_it, &[]).await?];
    let more = json!({ "sessions": on_it });
    let by_default =
        Told { name: "-by-default", ..told(What::DrainByDefault, as_it_comes, "s", more.clone()) };
    let command = "shuntctl cn drain cn-1 --wait --timeout 10s; by default without --timeout";
    Ok((vec![told(What::Drain, in_time, "s", more), by_default], command.to_owned()))
}

/// The time of one drain, in seconds.
async fn drained(fleet: &Fleet, on_it: u32, more: &[&str]) -> Result<f64> {
    let mut sessions = half_on_each(fleet, 2 * on_it as usize).await?;
    let began = Instant::now();
    fleet.shunt.try_ctl(&[&["cn", "drain", "cn-1", "--wait"], more].concat()).await?;
    // Where its time was not enough, it goes on: that is a figure, too.
    within(Duration::from_secs(120), async || {
        let cn = fleet.shunt.ctl(&["cn", "get", "cn-1"]).await?;
        ensure!(cn["state"] == "drained", "{cn}");
        Ok(())
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    are_whole(&mut sessions).await?;
    begin_anew(fleet, sessions).await?;
    Ok(took)
}

/// How long it takes until a CN that joins two others has its share of their sessions, within max(2, 10 %).
///
/// # Errors
/// It never has, or a session was lost.
pub(super) async fn join(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let n = if plan.quick { 600 } else { 2000 };
    files::ensure_room(n)?;
    let fleet = Fleet::start(Cns::mariadb(3).await?, 2, plan.io, |setup| setup).await?;
    let address = fleet.cns.addresses()[2].to_string();
    let share = f64::from(n) / 3.0;
    let mut values = Vec::new();
    for _ in 0..plan.rounds.min(3) {
        let mut sessions = half_on_each(&fleet, n as usize).await?;
        let began = Instant::now();
        fleet.shunt.ctl(&["cn", "register", "cn-3", &address, "--group", "all"]).await?;
        let are_even = |on: &u64| (*on as f64 - share).abs() <= (share / 10.0).max(2.0);
        fleet
            .until(Duration::from_secs(60), |counts| counts.len() == 3 && counts.values().all(are_even))
            .await?;
        values.push(began.elapsed().as_secs_f64());
        are_whole(&mut sessions).await?;
        drop(sessions);
        fleet.until(Duration::from_secs(60), |counts| counts.values().all(|on| *on == 0)).await?;
        fleet.shunt.ctl(&["cn", "delete", "cn-3"]).await?;
    }
    let more = json!({ "sessions": n });
    Ok((
        vec![told(What::Join, values, "s", more)],
        format!("shuntctl cn register cn-3 {address} --group all"),
    ))
}

/// The sessions whose CN is killed.
const KILLED: u32 = 500;

/// How long it takes, from `kill -9`, until each idle session of the CN has its next answer: without an error.
///
/// # Errors
/// A session was lost, or saw an error.
pub(super) async fn failover(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let mut values = Vec::new();
    for _ in 0..plan.rounds.min(3) {
        values.push(killed(plan).await?);
    }
    let more = json!({ "sessions": KILLED, "errors": 0 });
    Ok((vec![told(What::Failover, values, "s", more)], "kill -9 of the CN's process".to_owned()))
}

/// One of two CNs is killed; in seconds, how long it takes.
async fn killed(plan: &Plan) -> Result<f64> {
    let mut fleet = Fleet::start(Cns::mariadb(2).await?, 2, plan.io, |setup| setup).await?;
    let mut sessions = half_on_each(&fleet, 2 * KILLED as usize).await?;
    within(Duration::from_secs(60), async || {
        let known = fleet.metric("shunt_data_settled_total", "known").await?;
        ensure!(known >= f64::from(2 * KILLED), "{known} settled");
        Ok(())
    })
    .await?;
    let on = places(&fleet).await?;
    let is_hit = |session: &Raw| on.get(&session.connection_id().into()).is_some_and(|cn| cn == "cn-1");
    let Cns::MariaDb(cns) = &mut fleet.cns else { bail!("no MariaDB") };
    let began = Instant::now();
    cns[0].kill()?;
    let ask = sessions.iter_mut().enumerate().filter(|(_, session)| is_hit(session)).map(
        |(n, session)| async move {
            let known = session.value("SELECT @n").await.with_context(|| format!("session {n}"))?;
            ensure!(known == n.to_string(), "session {n} is {known}");
            anyhow::Ok(())
        },
    );
    let hit = try_join_all(ask).await?.len();
    let took = began.elapsed().as_secs_f64();
    ensure!(hit.abs_diff(KILLED as usize) <= 1, "{hit} were hit");
    are_whole(&mut sessions).await?;
    Ok(took)
}

/// The CN of each session.
async fn places(fleet: &Fleet) -> Result<HashMap<u64, String>> {
    let listed = fleet.shunt.ctl(&["session", "list"]).await?;
    let place = |session: &Value| {
        Ok((session["id"].as_u64().context("no id")?, session["cn"].as_str().context("no cn")?.to_owned()))
    };
    listed["sessions"].as_array().context("no list")?.iter().map(place).collect()
}
