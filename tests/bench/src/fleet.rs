//! Several CNs with Shunt in front, as an operator has them, and what an operator asks of them.
//!
//! Must not know: cases, figures.

use crate::delayed::Delayed;
use crate::stand::{Via, server};
use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;
use shunt_harness::{Galera, Group, Login, MariaDb, Process, Raw, Setup, Shunt, free_port, within};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The CNs of a fleet.
pub(crate) enum Cns {
    /// MariaDB servers that know nothing of each other: each has its own rows.
    MariaDb(Vec<MariaDb>),
    /// The same, each so far away.
    Far(Vec<Delayed>, #[expect(dead_code, reason = "they live as long as what is in front")] Vec<MariaDb>),
    /// Nodes that share their rows.
    Galera(Galera),
    /// CNs that answer at once, and the real one that they are like.
    Fake(Vec<SocketAddr>, #[expect(dead_code, reason = "likewise")] Box<(Vec<Process>, MariaDb, TempDir)>),
}

impl Cns {
    /// So many MariaDB servers.
    ///
    /// # Errors
    /// One did not come up.
    pub(crate) async fn mariadb(n: usize) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..n {
            all.push(server(&[]).await?);
        }
        Ok(Self::MariaDb(all))
    }

    /// Two of them, with so long a way there and as long a way back.
    ///
    /// # Errors
    /// One did not come up.
    pub(crate) async fn far(one_way: Duration) -> Result<Self> {
        let (mut ways, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let server = server(&[]).await?;
            ways.push(Delayed::start(server.address(), one_way).await?);
            servers.push(server);
        }
        Ok(Self::Far(ways, servers))
    }

    /// Two fakes.
    ///
    /// # Errors
    /// One did not come up.
    pub(crate) async fn fake() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir_in("/var/tmp")?;
        let like = server(&[]).await?;
        let (mut addresses, mut processes) = (Vec::new(), Vec::new());
        for n in 1..=2 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["fake", "--listen", &address.to_string()]);
            command.args(["--like", &like.address().to_string()]);
            processes.push(Process::start(&format!("fake-{n}"), command, folder.path(), None)?);
            within(Duration::from_secs(10), async || {
                tokio::net::TcpStream::connect(address).await.context("connect to a fake CN")
            })
            .await?;
            addresses.push(address);
        }
        Ok(Self::Fake(addresses, Box::new((processes, like, folder))))
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::MariaDb(all) => all.iter().map(MariaDb::address).collect(),
            Self::Far(all, _) => all.iter().map(Delayed::address).collect(),
            Self::Galera(cluster) => (1..=2).map(|n| cluster.node(n)).collect(),
            Self::Fake(all, _) => all.clone(),
        }
    }

    fn account(&self) -> Result<String> {
        match self {
            Self::Galera(cluster) => cluster.password("shunt"),
            _ => Ok("shunt".to_owned()),
        }
    }
}

/// A fleet.
pub(crate) struct Fleet {
    // In front first: it ends before the CNs do.
    pub(crate) shunt: Shunt,
    pub(crate) cns: Cns,
    login: Login,
}

/// Logins at once.
const AT_ONCE: usize = 32;

impl Fleet {
    /// Shunt before the first `n` of the CNs, as a user runs it but for what `with` changes.
    ///
    /// # Errors
    /// It did not come up.
    pub(crate) async fn start(
        cns: Cns,
        n: usize,
        io: Via,
        with: impl FnOnce(Setup) -> Setup,
    ) -> Result<Self> {
        let login = match &cns {
            Cns::Galera(cluster) => Login::user("app").password(cluster.password("app")?).database("shop"),
            _ => Login::user("app").password("app"),
        };
        let addresses = cns.addresses();
        let named = (1..).zip(addresses.into_iter().take(n));
        let group = named.fold(Group::named("all"), |group, (n, cn)| group.cn(&format!("cn-{n}"), cn));
        let setup = Setup::new().group(group).cn_account("shunt", &cns.account()?);
        let shunt = with(setup.set("mysql.io", io.word())).planes(1).await?;
        let fleet = Self { shunt, cns, login };
        within(Duration::from_secs(30), async || {
            let listed = fleet.shunt.ctl(&["cn", "list"]).await?;
            let all = listed["cns"].as_array().context("no list")?;
            ensure!(all.iter().all(|cn| cn["health"] == "up"), "not all are up: {listed}");
            Ok(())
        })
        .await?;
        Ok(fleet)
    }

    /// Logs in so often.
    ///
    /// # Errors
    /// A login failed.
    pub(crate) async fn open(&self, n: usize) -> Result<Vec<Raw>> {
        let logins = stream::iter(0..n).map(|_| Raw::login(self.shunt.address(), &self.login));
        logins.buffered(AT_ONCE).try_collect().await.context("log in")
    }

    /// Sessions that each know their number, and that all are in the counts.
    ///
    /// # Errors
    /// One could not be opened.
    pub(crate) async fn open_numbered(&self, n: usize) -> Result<Vec<Raw>> {
        let mut all = self.open(n).await?;
        for (n, session) in all.iter_mut().enumerate() {
            session.run(format!("SET @n = {n}")).await?;
        }
        self.until(Duration::from_secs(30), |counts| counts.values().sum::<u64>() == n as u64).await?;
        Ok(all)
    }

    /// How many sessions `cn list` tells of each CN.
    ///
    /// # Errors
    /// It does not say.
    pub(crate) async fn counts(&self) -> Result<BTreeMap<String, u64>> {
        let listed = self.shunt.ctl(&["cn", "list"]).await?;
        let count = |cn: &Value| {
            let name = cn["name"].as_str().context("no name")?.to_owned();
            Ok((name, cn["sessions"].as_u64().context("no count")?))
        };
        listed["cns"].as_array().context("no list")?.iter().map(count).collect()
    }

    /// Waits until the counts are so.
    ///
    /// # Errors
    /// They are not in time.
    pub(crate) async fn until(
        &self,
        limit: Duration,
        are_so: impl Fn(&BTreeMap<String, u64>) -> bool,
    ) -> Result<()> {
        within(limit, async || {
            let counts = self.counts().await?;
            ensure!(are_so(&counts), "counts: {counts:?}");
            Ok(())
        })
        .await
    }

    /// The sum of a metric's samples with these labels, of the data plane.
    ///
    /// # Errors
    /// It does not say.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let plane = self.shunt.planes.last().context("a data plane")?;
        let text = plane.metrics().await?;
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']) && rest.contains(labels))
        });
        samples.map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<f64>()?)).sum()
    }

    /// The process of the data plane.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn pid(&mut self) -> Result<u32> {
        Ok(self.shunt.plane("data-1").process()?.id())
    }
}

/// Each session is the one that it was.
///
/// # Errors
/// One is another's, or did not last.
pub(crate) async fn are_whole(sessions: &mut [Raw]) -> Result<()> {
    let all = stream::iter(sessions.iter_mut().enumerate()).map(|(n, session)| async move {
        let known = session.value("SELECT @n").await.with_context(|| format!("session {n}"))?;
        ensure!(known == n.to_string(), "session {n} is {known}");
        anyhow::Ok(())
    });
    all.buffer_unordered(AT_ONCE).try_collect().await
}
