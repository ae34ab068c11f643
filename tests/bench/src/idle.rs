//! Sessions that idle: opened, asked one thing each, and held until somebody says that it is enough.

use crate::load::{Client, hello};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::io::Read as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// What to hold.
#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    /// Where the MySQL server, or what is in front of it, listens.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// How many sessions.
    #[arg(long)]
    pub(crate) sessions: u32,
}

/// Logins at once while the sessions are opened.
const AT_ONCE: usize = 32;

/// Opens the sessions, prints `holding N`, and closes them when standard input ends.
///
/// # Errors
/// A session could not be opened, or was closed on us.
pub(crate) fn run(idle: &Idle) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let open = stream::iter(0..idle.sessions).map(async |_| {
            let mut client = Client::log_in(idle.address).await?;
            client.ask(&hello()).await?;
            client.shrink();
            anyhow::Ok(client)
        });
        let clients: Vec<_> = open.buffer_unordered(AT_ONCE).try_collect().await?;
        println!("holding {}", clients.len());
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        for client in clients {
            client.quit().await.context("a session did not last")?;
        }
        Ok(())
    })
}

/// Idle sessions that another process holds, as long as this value lives.
pub(crate) struct Held {
    child: Child,
}

impl Held {
    /// Opens so many sessions at `address`.
    ///
    /// # Errors
    /// One could not be opened.
    pub(crate) async fn open(address: SocketAddr, sessions: u32) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["idle", "--address", &address.to_string(), "--sessions", &sessions.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut line = String::new();
        let read = async { BufReader::new(stdout).read_line(&mut line).await };
        tokio::time::timeout(Duration::from_secs(180), read)
            .await
            .with_context(|| format!("{sessions} sessions were not opened in time"))??;
        ensure!(line.trim() == format!("holding {sessions}"), "idle sessions: {line:?}");
        Ok(Self { child })
    }

    /// Closes them.
    ///
    /// # Errors
    /// One of them had not lasted.
    pub(crate) async fn close(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        match tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => bail!("idle sessions: {status:?}"),
            Err(_) => bail!("idle sessions did not close in time"),
        }
    }
}
