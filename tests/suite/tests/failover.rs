//! CNs that die and CNs that hang, and what the clients of the sessions on them see.
//!
//! Two servers with the same accounts and tables stand for CNs that share their storage, where no row matters that one
//! of them wrote.

#[path = "failover/busy.rs"]
mod busy;
#[path = "failover/crowd.rs"]
mod crowd;
#[path = "failover/farewell.rs"]
mod farewell;
#[path = "failover/fleet.rs"]
mod fleet;
#[path = "failover/halves.rs"]
mod halves;
#[path = "failover/idle.rs"]
mod idle;
#[path = "failover/owed.rs"]
mod owed;
#[path = "failover/puppet.rs"]
mod puppet;
#[path = "failover/quorum.rs"]
mod quorum;
#[path = "failover/rows.rs"]
mod rows;
#[path = "failover/silent.rs"]
mod silent;
mod stand;
#[path = "failover/under_way.rs"]
mod under_way;

use anyhow::{Context as _, Result, ensure};
use puppet::Puppet;
use shunt_harness::mariadb::Options;
use shunt_harness::{Group, MariaDb, Raw, Setup, Shunt, eventually};
use stand::{app, login, metric, own_cn, seen, setup, shown};

/// Two servers with the same tables.
struct Two {
    cns: [MariaDb; 2],
}

impl Two {
    async fn start() -> Result<Self> {
        // They are killed, and must have their data whole.
        let options =
            || Options::new().arg("--innodb-doublewrite=1").arg("--innodb-flush-log-at-trx-commit=2");
        let cns = [own_cn(options()).await?, own_cn(options()).await?];
        for cn in &cns {
            cn.run(&["CREATE TABLE suite.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)"]).await?;
        }
        Ok(Self { cns })
    }

    /// Shunt in front of both, set up by `with` besides.
    async fn shunt(&self, with: impl FnOnce(Setup) -> Setup) -> Result<Shunt> {
        let shunt = self.shunt_before_what_is_left(with).await?;
        seen(&shunt).await;
        Ok(shunt)
    }

    /// The same, where one of them may be down.
    async fn shunt_before_what_is_left(&self, with: impl FnOnce(Setup) -> Setup) -> Result<Shunt> {
        let [one, two] = &self.cns;
        let group = Group::named("shared").cn("cn-1", one.address()).cn_by_name("cn-2", two.address());
        with(setup().group(group)).standalone().await
    }

    /// Starts again what was killed, and waits until Shunt uses it.
    async fn revive(&mut self, shunt: &Shunt) -> Result<()> {
        for (n, cn) in self.cns.iter_mut().enumerate().filter(|(_, cn)| !cn.runs()) {
            // Before that, what is told of it is that it is up.
            eventually("it is told to be down", async || {
                let cn = shunt.ctl(&["cn", "get", &format!("cn-{}", n + 1)]).await?;
                ensure!(cn["health"] == "down", "{cn}");
                anyhow::Ok(())
            })
            .await;
            cn.restart().await?;
        }
        seen(shunt).await;
        Ok(())
    }

    /// The CN that a session is on.
    async fn of(&mut self, shunt: &Shunt, session: &Raw) -> Result<&mut MariaDb> {
        let on = shown(shunt, session).await?["cn"].as_str().context("no cn")?.to_owned();
        Ok(&mut self.cns[usize::from(on == "cn-2")])
    }
}

/// Two names of one server, whose connections are in the test's hand.
struct Puppets {
    shunt: Shunt,
    puppets: [Puppet; 2],
    _cn: MariaDb,
}

impl Puppets {
    async fn start() -> Result<Self> {
        let cn = own_cn(Options::new()).await?;
        cn.run(&["CREATE TABLE suite.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)"]).await?;
        let puppets = [Puppet::before(cn.address()).await?, Puppet::before(cn.address()).await?];
        let group = Group::named("shared").cn("cn-1", puppets[0].address).cn("cn-2", puppets[1].address);
        let shunt = setup().group(group).standalone().await?;
        seen(&shunt).await;
        Ok(Self { shunt, puppets, _cn: cn })
    }

    /// The CN that a session is on.
    async fn of(&self, session: &Raw) -> Result<&Puppet> {
        Ok(&self.puppets[usize::from(shown(&self.shunt, session).await?["cn"] == "cn-2")])
    }

    /// And the other one.
    async fn other(&self, session: &Raw) -> Result<&Puppet> {
        Ok(&self.puppets[usize::from(shown(&self.shunt, session).await?["cn"] == "cn-1")])
    }
}

/// Waits until all of a session's state is known.
async fn settled(shunt: &Shunt, session: &Raw) {
    eventually("settled", async || {
        let shown = shown(shunt, session).await?;
        ensure!(shown["settled"] == true, "{shown}");
        anyhow::Ok(())
    })
    .await;
}

/// Waits until that is so of all, who are so many.
async fn all_settled(shunt: &Shunt, sessions: usize) {
    eventually("all are settled", async || {
        let listed = shunt.ctl(&["session", "list"]).await?;
        let all = listed["sessions"].as_array().context("no list")?;
        let left = all.iter().filter(|session| session["settled"] != true).count();
        ensure!(all.len() == sessions && left == 0, "{left} of {} are not", all.len());
        anyhow::Ok(())
    })
    .await;
}

/// Waits until CNs were asked so often what a session is, and all of it was known then.
async fn asked(shunt: &Shunt, times: f64) {
    eventually(&format!("{times} asked"), async || {
        let n = metric(shunt, 0, "shunt_data_settled_total", "known").await?;
        ensure!(n >= times, "{n}");
        anyhow::Ok(())
    })
    .await;
}

/// Waits until so many failovers ended so.
async fn failed_over(shunt: &Shunt, outcome: &str, times: f64) {
    eventually(&format!("{times} {outcome}"), async || {
        let n = metric(shunt, 0, "shunt_data_failovers_total", &format!("\"{outcome}\"")).await?;
        ensure!(n == times, "{n}");
        anyhow::Ok(())
    })
    .await;
}

/// So many sessions on the CN that `session` is on: of twice as many and one, half are.
async fn beside(shunt: &Shunt, session: &Raw, n: usize) -> Result<Vec<Raw>> {
    let on = shown(shunt, session).await?["cn"].clone();
    let mut all = Vec::new();
    for _ in 0..2 * n + 1 {
        all.push(login(shunt, &app()).await?);
    }
    let mut beside = Vec::new();
    for one in all {
        if shown(shunt, &one).await?["cn"] == on {
            beside.push(one);
        }
    }
    ensure!(beside.len() >= n, "{} on {on}", beside.len());
    beside.truncate(n);
    Ok(beside)
}
