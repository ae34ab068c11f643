//! Several control planes over one etcd: each knows the whole, one leads, and any of them may die.

mod stand;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_harness::mariadb::Options;
use shunt_harness::{Etcd, Group, MariaDb, Process, Raw, Shunt, eventually};
use stand::{app, own_cn, setup};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

const REPLICAS: usize = 3;

/// Two names of one server behind two data planes and three control planes over three members of etcd.
struct Fleet {
    etcd: Etcd,
    shunt: Shunt,
    _cn: MariaDb,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let etcd = Etcd::start(3).await?;
        let cn = own_cn(Options::new()).await?;
        let group = Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address());
        let mut shunt = setup().group(group).replicas(&etcd, REPLICAS, 2).await?;
        for n in 1..=REPLICAS {
            shunt.ask(n);
            stand::seen(&shunt).await;
        }
        Ok(Self { etcd, shunt, _cn: cn })
    }

    /// So many sessions through each data plane.
    async fn sessions(&mut self, each: usize) -> Result<Vec<Raw>> {
        let mut sessions = Vec::new();
        for name in ["data-1", "data-2"] {
            let address = self.shunt.plane(name).mysql();
            for _ in 0..each {
                sessions.push(Raw::login(address, &app()).await?);
            }
        }
        Ok(sessions)
    }

    /// The control planes that run.
    fn running(&mut self) -> Vec<usize> {
        (1..=REPLICAS).filter(|n| self.control(*n).is_ok()).collect()
    }

    fn control(&mut self, n: usize) -> Result<&mut Process> {
        self.shunt.plane(&format!("control-{n}")).process()
    }

    /// Which control plane leads, as the one that is asked knows it.
    async fn leader(&mut self) -> Result<usize> {
        for n in self.running() {
            self.shunt.ask(n);
            let status = self.shunt.ctl(&["status"]).await?;
            let leads = replicas(&status).find(|replica| replica["leader"] == true);
            if leads.is_some_and(|leader| leader["id"] == status["replica"]) {
                return Ok(n);
            }
        }
        anyhow::bail!("none of those that run leads")
    }

    async fn led(&mut self) -> usize {
        eventually("one leads", async || self.leader().await).await
    }
}

fn replicas(status: &Value) -> impl Iterator<Item = &Value> {
    status["replicas"].as_array().into_iter().flatten()
}

/// Sessions by CN, as the control plane that is asked counts them.
async fn counts(shunt: &Shunt) -> Result<BTreeMap<String, u64>> {
    let listed = shunt.ctl(&["cn", "list"]).await?;
    let cns = listed["cns"].as_array().context("no list")?;
    Ok(cns.iter().map(|cn| (cn["name"].to_string(), cn["sessions"].as_u64().unwrap_or(0))).collect())
}

/// Waits until so many sessions are counted. Gives them by CN.
async fn all_counted(shunt: &Shunt, sessions: u64) -> BTreeMap<String, u64> {
    eventually(&format!("{sessions} are counted"), async || {
        let counts = counts(shunt).await?;
        ensure!(counts.values().sum::<u64>() == sessions, "{counts:?}");
        anyhow::Ok(counts)
    })
    .await
}

async fn state(shunt: &Shunt, cn: &str) -> Result<Value> {
    Ok(shunt.ctl(&["cn", "get", cn]).await?["state"].clone())
}

/// To whichever replica a data plane reports, all of them count the same.
#[tokio::test]
async fn each_replica_knows_the_whole() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let sessions = fleet.sessions(4).await?;
    for n in 1..=REPLICAS {
        fleet.shunt.ask(n);
        all_counted(&fleet.shunt, 8).await;
        let listed = fleet.shunt.ctl(&["session", "list"]).await?;
        ensure!(listed["sessions"].as_array().is_some_and(|all| all.len() == 8), "{listed}");
        let status = fleet.shunt.ctl(&["status"]).await?;
        ensure!(replicas(&status).count() == REPLICAS, "{status}");
        ensure!(replicas(&status).filter(|replica| replica["leader"] == true).count() == 1, "{status}");
    }
    // For a person who looks: JSON, by replica and data plane.
    let mut kept = 0;
    for (key, value) in fleet.etcd.get("/shunt/report/")? {
        let report: Value = serde_json::from_str(&value).with_context(|| format!("{key}: {value}"))?;
        let sessions = report["sessions"].as_object().into_iter().flat_map(|sessions| sessions.values());
        kept += sessions.filter_map(Value::as_u64).sum::<u64>();
    }
    ensure!(kept == 8, "{kept} sessions in etcd");
    drop(sessions);
    Ok(())
}

/// A session is shown, moved and killed by any replica, and by a client on any data plane.
#[tokio::test]
async fn a_session_is_reached_from_any_replica() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let mut sessions = fleet.sessions(1).await?;
    for n in 1..=REPLICAS {
        fleet.shunt.ask(n);
        for session in &mut sessions {
            let id = session.connection_id().to_string();
            let shown = fleet.shunt.ctl(&["session", "get", &id]).await?;
            ensure!(shown["id"].as_u64() == Some(session.connection_id().into()), "{shown}");
            let moved = fleet.shunt.ctl(&["session", "move", &id]).await?;
            ensure!(moved["outcome"] == "moved", "{moved}");
            ensure!(session.value("SELECT 1").await? == "1");
        }
    }
    // Each data plane's client ends one of the other's.
    let mut victims = fleet.sessions(1).await?;
    victims.reverse();
    for (killer, victim) in sessions.iter_mut().zip(&mut victims) {
        killer.run(format!("KILL {}", victim.connection_id())).await?;
        victim.ends().await?;
    }
    for (n, session) in (1..).zip(&mut sessions) {
        fleet.shunt.ask(n);
        fleet.shunt.ctl(&["session", "kill", &session.connection_id().to_string()]).await?;
        session.ends().await?;
    }
    Ok(())
}

/// Replicas die one after the other and come back: clients notice nothing, and no session counts twice meanwhile.
#[tokio::test]
async fn a_replica_that_dies_costs_no_count() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let mut sessions = fleet.sessions(3).await?;
    for victim in 1..=REPLICAS {
        let watcher = victim % REPLICAS + 1;
        fleet.shunt.ask(watcher);
        let all = all_counted(&fleet.shunt, 6).await;
        fleet.shunt.plane(&format!("control-{victim}")).kill()?;
        // Longer than a replica that is gone is remembered.
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end {
            let counts = counts(&fleet.shunt).await?;
            ensure!(counts == all, "while {victim} is down: {counts:?}, not {all:?}");
            for session in &mut sessions {
                ensure!(session.value("SELECT 1").await? == "1");
            }
        }
        let plane = fleet.shunt.plane(&format!("control-{victim}"));
        plane.launch()?;
        plane.ready().await?;
    }
    for name in ["data-1", "data-2"] {
        let log = fleet.shunt.plane(name).process()?.output();
        let times = |what: &str| log.matches(what).count();
        ensure!(times("connected resumed=false") == 1, "{name} was given all of the state again:\n{log}");
    }
    Ok(())
}

/// etcd's leader dies, then its quorum: what is known stays and is served, and changes wait or are refused. When it is back
/// all goes on, and nobody has to be started again.
#[tokio::test]
async fn members_of_etcd_die() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let mut sessions = fleet.sessions(2).await?;
    for n in 1..=REPLICAS {
        fleet.shunt.ask(n);
        all_counted(&fleet.shunt, 4).await;
    }
    let leader = fleet.etcd.leader()?;
    fleet.etcd.kill(leader)?;
    fleet.shunt.ctl(&["cn", "label", "cn-1", "zone=a"]).await?;
    let other = fleet.etcd.leader()?;
    fleet.etcd.kill(other)?;
    for n in 1..=REPLICAS {
        fleet.shunt.ask(n);
        eventually("it says that the store is out of reach", async || {
            let status = fleet.shunt.ctl(&["status"]).await?;
            ensure!(status["storeProblem"] != "", "{status}");
            anyhow::Ok(())
        })
        .await;
        let refused = fleet.shunt.try_ctl(&["cn", "label", "cn-1", "zone=b"]).await?;
        ensure!(refused.stderr.contains("UNAVAILABLE"), "{refused:?}");
        let counts = counts(&fleet.shunt).await?;
        ensure!(counts.values().sum::<u64>() == 4, "{counts:?}");
    }
    for session in &mut sessions {
        ensure!(session.value("SELECT 1").await? == "1");
    }
    sessions.extend(fleet.sessions(1).await?);
    fleet.etcd.revive(other).await?;
    fleet.etcd.revive(leader).await?;
    fleet.led().await;
    for n in 1..=REPLICAS {
        fleet.shunt.ask(n);
        eventually("changes are taken again, and all is counted", async || {
            fleet.shunt.ctl(&["cn", "label", "cn-1", &format!("zone=c{n}")]).await?;
            let counts = counts(&fleet.shunt).await?;
            ensure!(counts.values().sum::<u64>() == 6, "{counts:?}");
            anyhow::Ok(())
        })
        .await;
    }
    Ok(())
}

/// A drain that the leader does not see the end of is seen to its end by the next one.
#[tokio::test]
async fn a_drain_ends_whoever_leads() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let mut sessions = fleet.sessions(2).await?;
    for session in &mut sessions {
        session.run("BEGIN").await?;
        session.run("SELECT COUNT(*) FROM mysql.user").await?;
    }
    fleet.shunt.ctl(&["cn", "drain", "cn-1"]).await?;
    let leader = fleet.led().await;
    fleet.shunt.plane(&format!("control-{leader}")).kill()?;
    let killed = Instant::now();
    let other = fleet.led().await;
    println!("another one leads after {:?}", killed.elapsed());
    ensure!(state(&fleet.shunt, "cn-1").await? == "draining", "its sessions are in transactions");
    for session in &mut sessions {
        session.run("COMMIT").await?;
    }
    eventually("drained", async || {
        let state = state(&fleet.shunt, "cn-1").await?;
        ensure!(state == "drained", "{state} by replica {other}");
        anyhow::Ok(())
    })
    .await;
    for session in &mut sessions {
        ensure!(session.value("SELECT 1").await? == "1");
    }
    Ok(())
}

/// A leader that stands still is replaced. When it goes on it has nothing to say: what it saw is not so any more.
#[tokio::test]
async fn a_leader_that_stood_still_writes_nothing() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let leader = fleet.led().await;
    fleet.control(leader)?.freeze().await?;
    let others: Vec<usize> = fleet.running().into_iter().filter(|n| *n != leader).collect();
    eventually("another one leads", async || {
        for n in &others {
            fleet.shunt.ask(*n);
            let status = fleet.shunt.ctl(&["status"]).await?;
            let leads = replicas(&status).find(|replica| replica["leader"] == true);
            if leads.is_some_and(|leader| leader["id"] == status["replica"]) {
                return Ok(());
            }
        }
        anyhow::bail!("none of {others:?}")
    })
    .await;
    fleet.shunt.ctl(&["cn", "drain", "cn-1", "--wait"]).await?;
    fleet.shunt.ctl(&["cn", "undrain", "cn-1"]).await?;
    fleet.control(leader)?.signal(rustix::process::Signal::CONT)?;
    fleet.shunt.ask(leader);
    eventually("it knows that it does not lead", async || {
        let status = fleet.shunt.ctl(&["status"]).await?;
        let mine =
            replicas(&status).find(|replica| replica["id"] == status["replica"]).context("not entered")?;
        ensure!(mine["leader"] == false && status["storeProblem"] == "", "{status}");
        anyhow::Ok(())
    })
    .await;
    ensure!(state(&fleet.shunt, "cn-1").await? == "working");
    Ok(())
}

/// SIGTERM gives the leadership up: nobody waits for a lease to end.
#[tokio::test]
async fn a_leader_that_ends_resigns() -> Result<()> {
    let mut fleet = Fleet::start().await?;
    let leader = fleet.led().await;
    let of = |etcd: &Etcd| anyhow::Ok(etcd.get("/shunt/leader")?.first().map(|(_, value)| value.clone()));
    let before = of(&fleet.etcd)?;
    ensure!(before.is_some());
    fleet.shunt.plane(&format!("control-{leader}")).stop().await?;
    ensure!(of(&fleet.etcd)? != before, "it leads still in etcd");
    let stopped = Instant::now();
    ensure!(fleet.led().await != leader);
    println!("another one leads after {:?}", stopped.elapsed());
    Ok(())
}

/// The moment of the first line of a log that says so, in seconds of the day.
fn said_at(log: &str, what: &str) -> Option<f64> {
    let line = log.lines().find(|line| line.contains(what))?;
    let time = line.split('T').nth(1)?.split('Z').next()?;
    time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

/// What a data plane finds out is known to every replica, and to every data plane, before these have tried for themselves.
#[tokio::test]
async fn a_cn_that_dies_is_avoided_by_all() -> Result<()> {
    let etcd = Etcd::start(1).await?;
    let (cn, mut dies) = (own_cn(Options::new()).await?, own_cn(Options::new()).await?);
    let group = Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address());
    let mut shunt = setup().group(group.cn("cn-3", dies.address())).replicas(&etcd, 2, 2).await?;
    stand::seen(&shunt).await;
    dies.kill()?;
    let mut noted: Vec<f64> = Vec::new();
    for name in ["control-1", "control-2"] {
        let process = shunt.plane(name).process()?;
        noted.push(
            eventually(&format!("{name} has it avoided"), async || {
                said_at(&process.output(), "avoid these cns={\"cn-3\"}").context("not yet")
            })
            .await,
        );
    }
    let mut found = Vec::new();
    for name in ["data-1", "data-2"] {
        found.extend(said_at(&shunt.plane(name).process()?.output(), "cn is down cn=cn-3"));
    }
    let first = found.into_iter().reduce(f64::min).context("nobody found out")?;
    let last = noted.into_iter().reduce(f64::max).context("two replicas")?;
    println!("all know {:.0} ms after the first", (last - first) * 1000.0);
    ensure!(last - first < 1.0, "{first} {last}");
    Ok(())
}
