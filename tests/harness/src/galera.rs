//! A Galera cluster of three real MariaDB servers, out of `deploy/local/cluster.sh`; it ends with the
//! value.

use crate::ports::free_ports;
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many nodes it has.
pub const NODES: u16 = 3;

/// A running cluster.
pub struct Galera {
    folder: PathBuf,
    port: u16,
}

fn script(arguments: &[&str]) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/cluster.sh");
    let output = Command::new(script).args(arguments).output().context("run cluster.sh")?;
    ensure!(output.status.success(), "cluster.sh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Galera {
    /// Starts all nodes, and waits until each is of use.
    ///
    /// # Errors
    /// No MariaDB with Galera is installed, or a node did not come up.
    pub async fn start() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(format!("/var/tmp/shunt-galera-{name}"));
        // Each node takes a port, and what is 100, 200 and 300 above.
        let above: Vec<u16> = (0..4).flat_map(|n| (0..NODES).map(move |node| n * 100 + node)).collect();
        let cluster = Self { folder, port: free_ports(&above) };
        let (dir, base) = (cluster.folder.display().to_string(), cluster.port.to_string());
        tokio::task::spawn_blocking(move || {
            let nodes = NODES.to_string();
            script(&["up", "--dir", &dir, "--base-port", &base, "--nodes", &nodes, "--name", &name])
        })
        .await??;
        Ok(cluster)
    }

    /// Where a node takes clients: the first is 1.
    pub fn node(&self, n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port + n - 1))
    }

    /// The password of an account: `shunt`, `app` or `admin`.
    ///
    /// # Errors
    /// There is no such account.
    pub fn password(&self, user: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("passwords").join(user))?.trim().to_owned())
    }

    /// Stops a node where it is: its connections stay, nothing answers.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self, n: u16) -> Result<()> {
        self.signal(n, Signal::STOP)
    }

    /// Lets a node go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self, n: u16) -> Result<()> {
        self.signal(n, Signal::CONT)
    }

    /// Kills a node at once (SIGKILL); its data stays.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill(&self, n: u16) -> Result<()> {
        let (node, dir) = (n.to_string(), self.folder.display().to_string());
        tokio::task::spawn_blocking(move || script(&["kill-node", &node, "--dir", &dir])).await?
    }

    fn signal(&self, n: u16, signal: Signal) -> Result<()> {
        let pid = std::fs::read_to_string(self.folder.join(format!("cn-{n}/pid")))?;
        let pid = Pid::from_raw(pid.trim().parse()?).context("no process id")?;
        kill_process(pid, signal).with_context(|| format!("signal cn-{n}"))
    }
}

impl Drop for Galera {
    fn drop(&mut self) {
        for node in 1..=NODES {
            let _ = self.thaw(node);
        }
        if let Err(error) = script(&["down", "--dir", &self.folder.display().to_string()]) {
            eprintln!("{error:#}");
        }
    }
}
