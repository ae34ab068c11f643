//! What a load is put on: a CN, HAProxy in front of it and Shunt in front of it, and which of the three is meant.
//!
//! Must not know: cases and loads.

use crate::haproxy::HaProxy;
use crate::sample;
use crate::sysbench;
use anyhow::{Context as _, Result, ensure};
use shunt_harness::mariadb::Options;
use shunt_harness::{MariaDb, Process, Setup, Shunt, free_port, within};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Whose figures they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The CN itself.
    Direct,
    /// HAProxy in front of it.
    HaProxy,
    /// Shunt in front of it.
    Shunt,
}

impl Subject {
    /// In the order of a round.
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::HaProxy, Self::Shunt];

    /// Its name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::HaProxy => "haproxy",
            Self::Shunt => "shunt",
        }
    }
}

/// Which kind of CN is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CnKind {
    /// A real MariaDB.
    MariaDb,
    /// One that answers at once.
    Fake,
}

enum Cn {
    MariaDb(MariaDb),
    Fake { address: SocketAddr, _process: Process },
}

/// A CN and what is in front of it, all running. They end with the value.
pub(crate) struct Stand {
    kind: CnKind,
    // In front first: they end before the CN does.
    haproxy: HaProxy,
    shunt: Shunt,
    cn: Cn,
    io: Via,
    folder: TempDir,
}

/// What Shunt waits for sockets by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Via {
    /// As shipped.
    #[default]
    Auto,
    /// Never by io_uring.
    Epoll,
    /// Always by io_uring.
    #[value(name = "io_uring")]
    IoUring,
}

impl Via {
    /// The word of the configuration.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Epoll => "epoll",
            Self::IoUring => "io_uring",
        }
    }
}

impl Stand {
    /// Starts everything.
    ///
    /// # Errors
    /// Something is not installed or not built, or did not come up.
    pub(crate) async fn start(kind: CnKind, io: Via) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("shunt-bench-").tempdir_in("/var/tmp")?;
        let cn = match kind {
            CnKind::MariaDb => Cn::MariaDb(mariadb().await?),
            CnKind::Fake => fake(&folder).await?,
        };
        let haproxy = HaProxy::start(cn.address(), folder.path()).await?;
        let shunt = shunt(cn.address(), io).await?;
        Ok(Self { kind, haproxy, shunt, cn, io, folder })
    }

    /// Which kind of CN is behind.
    pub(crate) const fn kind(&self) -> CnKind {
        self.kind
    }

    /// Starts what is in front anew: for memory to be seen from the beginning.
    ///
    /// # Errors
    /// It did not come up.
    pub(crate) async fn fresh_proxies(&mut self) -> Result<()> {
        self.haproxy = HaProxy::start(self.cn.address(), self.folder.path()).await?;
        self.shunt = shunt(self.cn.address(), self.io).await?;
        Ok(())
    }

    /// Where a subject takes clients.
    pub(crate) fn address(&self, subject: Subject) -> SocketAddr {
        match subject {
            Subject::Direct => self.cn.address(),
            Subject::HaProxy => self.haproxy.address(),
            Subject::Shunt => self.shunt.address(),
        }
    }

    /// The process in front of the CN, if there is one. Shunt's is the data plane.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn pid(&mut self, subject: Subject) -> Result<Option<u32>> {
        Ok(match subject {
            Subject::Direct => None,
            Subject::HaProxy => Some(self.haproxy.id()),
            Subject::Shunt => Some(self.shunt.plane("data-1").process()?.id()),
        })
    }

    /// Waits until at most so many sessions are left on the CN: those that were closed are gone, everywhere.
    ///
    /// # Errors
    /// They are not, in a minute.
    pub(crate) async fn settle(&self) -> Result<()> {
        let Cn::MariaDb(cn) = &self.cn else { return Ok(()) };
        let count = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
        within(Duration::from_secs(60), async || {
            let mut root = cn.root().await?;
            let left = root.value(count).await?;
            root.quit().await?;
            ensure!(left == "0", "{left} sessions are still there");
            Ok(())
        })
        .await
    }
}

impl Cn {
    fn address(&self) -> SocketAddr {
        match self {
            Self::MariaDb(server) => server.address(),
            Self::Fake { address, .. } => *address,
        }
    }
}

/// A server with the tables of all cases.
async fn mariadb() -> Result<MariaDb> {
    let server = server(&["--innodb-buffer-pool-size=256M", "--innodb-log-file-size=64M"]).await?;
    server.fresh_database("bench").await?;
    // What is inserted is parsed and thrown away: the way there is measured, not the disk.
    server.run(&["CREATE TABLE bench.upload (data LONGBLOB) ENGINE=BLACKHOLE"]).await?;
    sample::output(&sysbench::prepare(server.address()), Duration::from_secs(120)).await?;
    Ok(server)
}

/// A server with an application's account and Shunt's own, tracking like one of `make up`.
///
/// # Errors
/// It is not installed, or did not come up.
pub(crate) async fn server(more: &[&str]) -> Result<MariaDb> {
    let options = Options::new()
        .arg("--max-connections=9800")
        .arg("--table-open-cache=2000")
        .arg("--thread-cache-size=256")
        .arg("--back-log=1000")
        .arg("--plugin-load-add=ha_blackhole")
        .arg("--session-track-schema=ON")
        .arg("--session-track-state-change=ON")
        .arg("--session-track-transaction-info=CHARACTERISTICS");
    let server = more.iter().fold(options, |options, one| options.arg(*one)).start().await?;
    server.service_account().await?;
    Ok(server)
}

async fn fake(folder: &TempDir) -> Result<Cn> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["fake", "--listen", &address.to_string()]);
    let process = Process::start("fake-cn", command, folder.path(), None)?;
    within(Duration::from_secs(10), async || {
        tokio::net::TcpStream::connect(address).await.context("connect to the fake CN")
    })
    .await?;
    Ok(Cn::Fake { address, _process: process })
}

/// Shunt as a user runs it: its two programs, default settings, the service account.
async fn shunt(cn: SocketAddr, io: Via) -> Result<Shunt> {
    Setup::new().cn("cn-1", cn).cn_account("shunt", "shunt").set("mysql.io", io.word()).planes(1).await
}
