//! Counts of sessions, after anything that may have happened to them: clients that come and go in every way, sessions that
//! are killed and moved, CNs that are drained and relabelled, by two data planes at once. Whenever all of it rests, whoever
//! counts has the same number.

#[path = "counters/clients.rs"]
mod clients;
mod stand;

use anyhow::{Context as _, Result, ensure};
use clients::{Clients, Held};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use shunt_harness::mariadb::Options;
use shunt_harness::{MariaDb, Shunt, eventually};
use stand::{group_of, metric, own_cn, seen, setup};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long clients and operators are at it between two rests.
const BETWEEN_RESTS: Duration = Duration::from_secs(2);

/// The data planes, by their place among Shunt's programs.
const DATA_PLANES: [usize; 2] = [1, 2];

struct Fleet {
    shunt: Shunt,
    cns: Vec<MariaDb>,
}

/// Who has how many sessions of which CN.
type Counts = BTreeMap<String, u64>;

/// The sum of what is counted under each name; names of nothing are left out.
fn sums(all: impl IntoIterator<Item = (String, u64)>) -> Counts {
    let mut counts = Counts::new();
    for (name, n) in all.into_iter().filter(|(_, n)| *n > 0) {
        *counts.entry(name).or_default() += n;
    }
    counts
}

impl Fleet {
    async fn start() -> Result<Self> {
        let mut cns = Vec::new();
        for _ in 0..3 {
            let cn = own_cn(Options::new()).await?;
            cn.run(&["CREATE TABLE suite.t (a INT) ENGINE=InnoDB"]).await?;
            cns.push(cn);
        }
        let group = group_of(&cns.iter().collect::<Vec<_>>());
        let shunt = setup().group(group).planes(DATA_PLANES.len()).await?;
        seen(&shunt).await;
        Ok(Self { shunt, cns })
    }

    /// What `session list` says: each session with its CN, of which none is on its way.
    async fn listed(&self) -> Result<BTreeMap<u32, String>> {
        let listed = self.shunt.ctl(&["session", "list"]).await?;
        let session = |session: &Value| {
            ensure!(session["state"] == "idle", "it does not rest: {session}");
            let id = session["id"].as_u64().context("no id")?;
            Ok((u32::try_from(id)?, session["cn"].as_str().context("no cn")?.to_owned()))
        };
        listed["sessions"].as_array().context("no list")?.iter().map(session).collect()
    }

    async fn by_cn_list(&self) -> Result<Counts> {
        let listed = self.shunt.ctl(&["cn", "list"]).await?;
        let count = |cn: &Value| {
            Ok((
                cn["name"].as_str().context("no name")?.to_owned(),
                cn["sessions"].as_u64().context("no count")?,
            ))
        };
        let all: Result<Vec<_>> = listed["cns"].as_array().context("no list")?.iter().map(count).collect();
        Ok(sums(all?))
    }

    /// What the CNs themselves have.
    async fn by_process_lists(&self) -> Result<Counts> {
        let mut all = Vec::new();
        for (n, cn) in self.cns.iter().enumerate() {
            let mut root = cn.root().await?;
            let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
            all.push((format!("cn-{}", n + 1), root.value(sql).await?.parse()?));
            root.quit().await?;
        }
        Ok(sums(all))
    }

    /// What the data planes' gauges say, logins and reservations included.
    async fn by_gauges(&self) -> Result<Counts> {
        let mut all = Vec::new();
        for plane in DATA_PLANES {
            let mut of_all = 0;
            for n in 1..=self.cns.len() {
                let name = format!("cn-{n}");
                let count =
                    metric(&self.shunt, plane, "shunt_data_cn_sessions", &format!("\"{name}\"")).await?;
                of_all += count as u64;
                all.push((name, count as u64));
            }
            let sessions = metric(&self.shunt, plane, "shunt_data_sessions", "").await? as u64;
            ensure!(
                sessions == of_all,
                "data plane {plane} has {sessions} sessions, and {of_all} on its CNs"
            );
        }
        Ok(sums(all))
    }

    /// Waits until whoever counts has the same numbers, and every session is one that a client holds.
    async fn agrees(&self, held: &BTreeSet<u32>) {
        eventually("all counts agree", async || {
            let listed = self.listed().await?;
            let ids: BTreeSet<u32> = listed.keys().copied().collect();
            ensure!(ids == *held, "listed, not held: {:?}; held, not listed: {:?}", &ids - held, held - &ids);
            let wanted = sums(listed.into_values().map(|cn| (cn, 1)));
            for (who, counts) in [
                ("cn list", self.by_cn_list().await?),
                ("the process lists", self.by_process_lists().await?),
                ("the gauges", self.by_gauges().await?),
            ] {
                ensure!(counts == wanted, "session list says {wanted:?}, {who}: {counts:?}");
            }
            anyhow::Ok(())
        })
        .await;
    }

    /// Open files of the data planes.
    fn files(&mut self) -> Result<usize> {
        let mut all = 0;
        for plane in DATA_PLANES {
            let id = self.shunt.planes[plane].process()?.id();
            all += std::fs::read_dir(format!("/proc/{id}/fd"))?.count();
        }
        Ok(all)
    }
}

/// What operators did: at most one CN drains, and at most one other has a label, so that there is always one for everybody.
#[derive(Debug, Default)]
struct Operator {
    drained: Option<usize>,
    labelled: Option<usize>,
    moved: u32,
    killed: u32,
    drains: u32,
    relabels: u32,
}

impl Operator {
    /// Does one thing or another, until it is time to rest.
    async fn work(
        &mut self,
        fleet: &Fleet,
        clients: &Clients,
        rng: &mut StdRng,
        until: Instant,
    ) -> Result<()> {
        while Instant::now() < until {
            match rng.random_range(0..10) {
                0..5 => self.moves(fleet, clients.any_id(rng).await).await?,
                5 => self.kills(fleet, clients, rng).await?,
                6..8 => self.drains(fleet, rng).await?,
                _ => self.relabels(fleet, rng).await?,
            }
        }
        Ok(())
    }

    async fn moves(&mut self, fleet: &Fleet, id: Option<u32>) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        // It may have left, or have nowhere to go.
        let said = fleet.shunt.try_ctl(&["session", "move", &id.to_string()]).await?;
        self.moved += u32::from(said.status.success());
        Ok(())
    }

    async fn kills(&mut self, fleet: &Fleet, clients: &Clients, rng: &mut StdRng) -> Result<()> {
        let Some(id) = clients.condemn(rng).await else { return Ok(()) };
        let said = fleet.shunt.try_ctl(&["session", "kill", &id.to_string()]).await?;
        self.killed += u32::from(said.status.success());
        Ok(())
    }

    async fn drains(&mut self, fleet: &Fleet, rng: &mut StdRng) -> Result<()> {
        let cn = rng.random_range(1..=fleet.cns.len());
        match self.drained.take() {
            Some(cn) => fleet.shunt.ctl(&["cn", "undrain", &format!("cn-{cn}")]).await?,
            None if self.labelled == Some(cn) => return Ok(()),
            None => {
                self.drained = Some(cn);
                self.drains += 1;
                fleet.shunt.ctl(&["cn", "drain", &format!("cn-{cn}")]).await?
            }
        };
        Ok(())
    }

    async fn relabels(&mut self, fleet: &Fleet, rng: &mut StdRng) -> Result<()> {
        let cn = rng.random_range(1..=fleet.cns.len());
        match self.labelled.take() {
            Some(cn) => fleet.shunt.ctl(&["cn", "label", &format!("cn-{cn}"), "workload-"]).await?,
            None if self.drained == Some(cn) => return Ok(()),
            None => {
                self.labelled = Some(cn);
                self.relabels += 1;
                fleet.shunt.ctl(&["cn", "label", &format!("cn-{cn}"), "workload=ap"]).await?
            }
        };
        Ok(())
    }
}

async fn whoever_counts_has_the_same(lasts: Duration) -> Result<()> {
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    println!("seed {seed}");
    let mut fleet = Fleet::start().await?;
    let files = fleet.files()?;
    let addresses = DATA_PLANES.map(|plane| fleet.shunt.planes[plane].mysql());
    let (mut operator, mut held, mut rests) = (Operator::default(), Held::default(), 0);
    let mut most = 0;
    let until = Instant::now() + lasts;
    while rests < 2 || Instant::now() < until {
        let clients = Clients::start(&addresses, held, &mut rng);
        operator.work(&fleet, &clients, &mut rng, Instant::now() + BETWEEN_RESTS).await?;
        held = clients.rest().await?;
        held.are_whole().await?;
        most = most.max(held.ids().len());
        fleet.agrees(&held.ids()).await;
        rests += 1;
    }
    let mut moved = 0.0;
    for plane in DATA_PLANES {
        moved += metric(&fleet.shunt, plane, "shunt_data_moves_total", "\"moved\"").await?;
    }
    println!(
        "{rests} rests, {} sessions came, {most} at most at a rest, {moved} moves; {operator:?}",
        held.came()
    );
    drop(held);
    fleet.agrees(&BTreeSet::new()).await;
    eventually("no file is left open", async || {
        let now = fleet.files()?;
        // A connection of the service account, or a probe, comes and goes.
        ensure!(now <= files + 8, "{files} files at first, {now} now");
        anyhow::Ok(())
    })
    .await;
    ensure!(moved >= f64::from(rests) && most >= 10, "nothing happened");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_agree_after_whatever_happened_to_sessions() -> Result<()> {
    whoever_counts_has_the_same(Duration::from_secs(8)).await
}

/// An hour, or `SOAK_SECONDS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an hour"]
async fn soak_counts_agree_after_whatever_happened_to_sessions() -> Result<()> {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    whoever_counts_has_the_same(Duration::from_secs(seconds.unwrap_or(3600))).await
}
