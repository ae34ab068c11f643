//! A real fleet that shares its data, under load, whose CNs are drained, relabelled and replaced without a pause: its
//! clients see what Galera itself does to them, and nothing else.

mod stand;
#[path = "fleet_under_load/sysbench.rs"]
mod sysbench;
#[path = "fleet_under_load/writers.rs"]
mod writers;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_harness::galera::{Galera, NODES};
use shunt_harness::{Group, Login, Raw, Setup, Shunt, eventually};
use stand::{metric, seen};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use writers::{Writers, Written};

/// Connections of sysbench.
const CONNECTIONS: usize = 64;
/// Writers; the later half of them ask for a label that no CN has, most of the time.
const WRITERS: usize = 12;

/// A fleet of Galera nodes with Shunt in front.
struct Fleet {
    shunt: Shunt,
    cluster: Galera,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let cluster = Galera::start().await?;
        let group =
            (1..=NODES).fold(Group::named("all"), |group, n| group.cn(&format!("cn-{n}"), cluster.node(n)));
        let account = cluster.password("shunt")?;
        let shunt = Setup::new().group(group).cn_account("shunt", &account).standalone().await?;
        seen(&shunt).await;
        Ok(Self { shunt, cluster })
    }

    async fn root(&self, node: u16) -> Result<Raw> {
        let login = Login::user("admin").password(self.cluster.password("admin")?).database("shop");
        Raw::login(self.cluster.node(node), &login).await
    }

    async fn writers(&self) -> Result<Vec<Raw>> {
        let password = self.cluster.password("app")?;
        let mut sessions = Vec::new();
        for n in 0..WRITERS {
            let user = if n < WRITERS / 2 { "app" } else { "app?workload=ap" };
            let login = Login::user(user).password(password.clone()).database("shop");
            sessions.push(Raw::login(self.shunt.address(), &login).await?);
        }
        Ok(sessions)
    }

    /// Where each session is.
    async fn sessions(&self) -> Result<BTreeMap<u64, String>> {
        let listed = self.shunt.ctl(&["session", "list"]).await?;
        let all = listed["sessions"].as_array().context("no list")?;
        let of = |session: &Value| {
            let cn = session["cn"].as_str().unwrap_or_default().to_owned();
            Ok((session["id"].as_u64().context("no id")?, cn))
        };
        all.iter().map(of).collect()
    }

    async fn drained_and_back(&self, cn: &str) -> Result<()> {
        self.drained(cn).await?;
        self.shunt.ctl(&["cn", "undrain", cn]).await.map(drop)
    }

    async fn drained(&self, cn: &str) -> Result<()> {
        let said = self.shunt.try_ctl(&["cn", "drain", cn, "--wait", "--timeout", "30s"]).await?;
        ensure!(said.status.success(), "{cn} is not drained: {said:?}");
        Ok(())
    }

    /// It is another CN to whoever counts: forgotten, and made known anew.
    async fn replaced(&self, cn: &str, node: u16) -> Result<()> {
        self.drained(cn).await?;
        self.shunt.ctl(&["cn", "delete", cn]).await?;
        let address = self.cluster.node(node).to_string();
        self.shunt.ctl(&["cn", "register", cn, &address, "--group", "all"]).await.map(drop)
    }

    /// All leave it but those that ask for its new label: these go there. Then it is what it was.
    async fn relabelled_and_back(&self, cn: &str, at_home: &BTreeSet<u64>) -> Result<()> {
        self.shunt.ctl(&["cn", "label", cn, "workload=ap"]).await?;
        eventually(&format!("{cn} has those that asked for its label, and nobody else"), async || {
            let sessions = self.sessions().await?;
            let on: BTreeSet<u64> = sessions.iter().filter(|(_, on)| *on == cn).map(|(id, _)| *id).collect();
            let here: BTreeSet<u64> =
                at_home.iter().copied().filter(|id| sessions.contains_key(id)).collect();
            ensure!(on == here, "{on:?} are there, of {here:?}");
            anyhow::Ok(())
        })
        .await;
        self.shunt.ctl(&["cn", "label", cn, "workload-"]).await.map(drop)
    }

    /// One CN after the other is drained, relabelled or replaced; how often each.
    async fn changes(&self, until: Instant, at_home: &BTreeSet<u64>) -> Result<[u32; 3]> {
        let before: Vec<u64> = self.sessions().await?.into_keys().collect();
        let mut done = [0; 3];
        for n in 0.. {
            let (kind, node) = (n % 3, (n + n / 3) % usize::from(NODES) + 1);
            let cn = format!("cn-{node}");
            match kind {
                0 => self.drained_and_back(&cn).await?,
                1 => self.relabelled_and_back(&cn, at_home).await?,
                _ => self.replaced(&cn, u16::try_from(node)?).await?,
            }
            done[kind] += 1;
            let is_over = Instant::now() >= until;
            if is_over && done.iter().all(|times| *times > 0) {
                break;
            }
            let now: Vec<u64> = self.sessions().await?.into_keys().collect();
            ensure!(is_over || now == before, "sessions are others: {before:?}, then {now:?}");
        }
        Ok(done)
    }

    /// On every node, once it has all that was written: what was acknowledged, once each, and nothing else.
    async fn has_what_was_written(&self, written: &BTreeMap<u32, Written>) -> Result<()> {
        for node in 1..=NODES {
            let mut root = self.root(node).await?;
            root.run("SET SESSION wsrep_sync_wait = 15").await?;
            let sql = "SELECT writer, COUNT(*), COUNT(DISTINCT n), MAX(n) FROM written GROUP BY writer";
            let rows = root.query(sql).await?.rows()?;
            let numbers = |row: &Vec<Option<String>>| -> Result<Vec<u32>> {
                row.iter().map(|value| Ok(value.as_deref().context("NULL")?.parse()?)).collect()
            };
            let there: Vec<Vec<u32>> = rows.iter().map(numbers).collect::<Result<_>>()?;
            let wanted: Vec<Vec<u32>> = written
                .iter()
                .map(|(writer, Written { acknowledged: n, .. })| vec![*writer, *n, *n, n.saturating_sub(1)])
                .collect();
            ensure!(
                there == wanted,
                "node {node} has (writer, rows, numbers, last) {there:?}, not {wanted:?}"
            );
        }
        Ok(())
    }

    async fn is_alike_on_all_nodes(&self) -> Result<()> {
        let tables: Vec<String> =
            (1..=sysbench::TABLES).map(|n| format!("sbtest{n}")).chain(["written".to_owned()]).collect();
        let mut all = Vec::new();
        for node in 1..=NODES {
            let mut root = self.root(node).await?;
            root.run("SET SESSION wsrep_sync_wait = 15").await?;
            root.run("SELECT COUNT(*) FROM written").await?;
            all.push(root.query(format!("CHECKSUM TABLE {}", tables.join(", "))).await?.rows()?);
        }
        ensure!(all.iter().all(|node| *node == all[0]), "nodes differ: {all:?}");
        ensure!(all[0].len() == tables.len() && all[0].iter().all(|table| table[1].is_some()), "{all:?}");
        Ok(())
    }
}

/// Lines of the data plane's metrics with these beginnings that count something.
async fn told(shunt: &Shunt, beginnings: &[&str]) -> Result<Vec<String>> {
    let metrics = shunt.planes[0].metrics().await?;
    let is_wanted =
        |line: &&str| beginnings.iter().any(|beginning| line.starts_with(beginning)) && !line.ends_with(" 0");
    Ok(metrics.lines().filter(is_wanted).map(str::to_owned).collect())
}

/// Why moves failed, and how often, by the program's log.
fn failures(shunt: &mut Shunt) -> Result<BTreeMap<String, u32>> {
    let mut all = BTreeMap::new();
    for line in
        shunt.plane("standalone").process()?.output().lines().filter(|line| line.contains("\"failed\""))
    {
        let reason = line.split("reasons=").nth(1).unwrap_or(line);
        *all.entry(reason.to_owned()).or_default() += 1;
    }
    Ok(all)
}

async fn changes_cost_no_connection_and_no_row(lasts: Duration) -> Result<()> {
    if !sysbench::is_installed()? {
        return Ok(());
    }
    let mut fleet = Fleet::start().await?;
    let password = fleet.cluster.password("app")?;
    fleet.root(1).await?.run(writers::TABLE).await?;
    sysbench::prepare(fleet.cluster.node(1), "app", &password).await?;
    let sessions = fleet.writers().await?;
    let at_home = sessions[WRITERS / 2..].iter().map(|s| s.connection_id().into()).collect();
    let load = sysbench::start(fleet.shunt.address(), "app", &password, CONNECTIONS, lasts)?;
    let writers = Writers::start(sessions);
    eventually("all are there", async || {
        let there = fleet.sessions().await?.len();
        ensure!(there == CONNECTIONS + WRITERS, "{there}");
        anyhow::Ok(())
    })
    .await;
    // The load ends by its own clock, which began a moment ago. Where it ends early, it says why.
    let until = Instant::now() + lasts.saturating_sub(Duration::from_secs(3));
    let (done, load) = tokio::try_join!(fleet.changes(until, &at_home), sysbench::ended(load))?;
    let written = writers.stop().await?;
    let failures = failures(&mut fleet.shunt)?;
    let shunt = &fleet.shunt;
    let moved = metric(shunt, 0, "shunt_data_moves_total", "outcome=\"moved\"").await?;
    let rows: u32 = written.values().map(|written| written.acknowledged).sum();
    let mut errors = BTreeMap::from([(sysbench::MET, u32::try_from(load.met)?)]);
    for (code, times) in written.values().flat_map(|written| &written.told) {
        *errors.entry(*code).or_default() += times;
    }
    println!(
        "{done:?} CNs drained, relabelled, replaced; {moved} moves; {load:?}; {rows} rows; errors of Galera {errors:?}"
    );
    let moves = told(shunt, &["shunt_data_moves", "shunt_data_move_pause_seconds_bucket"]).await?;
    println!("{moves:#?}; why moves failed: {failures:#?}");

    ensure!(load.reconnects == 0, "{load:?}");
    ensure!(
        load.transactions >= lasts.as_secs() * 10 && rows >= 100,
        "they hardly worked: {load:?}, {rows} rows"
    );
    stand::sessions_left(shunt, 0).await;
    let closed = told(shunt, &["shunt_data_sessions_closed_total"]).await?;
    let quit = format!("shunt_data_sessions_closed_total{{reason=\"quit\"}} {}", CONNECTIONS + WRITERS);
    ensure!(closed == [quit.as_str()], "sessions ended in other ways: {closed:?}");
    ensure!(moved >= (CONNECTIONS + WRITERS) as f64, "{moved} moves");
    fleet.has_what_was_written(&written).await?;
    fleet.is_alike_on_all_nodes().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_changes_under_load_costs_no_connection_and_no_row() -> Result<()> {
    changes_cost_no_connection_and_no_row(Duration::from_secs(20)).await
}

/// A minute, or `SOAK_SECONDS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn soak_a_fleet_that_changes_under_load_costs_no_connection_and_no_row() -> Result<()> {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    changes_cost_no_connection_and_no_row(Duration::from_secs(seconds.unwrap_or(60))).await
}
