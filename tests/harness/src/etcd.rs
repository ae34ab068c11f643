//! A real etcd cluster on loopback: started, its members killed, stopped and started again, and asked for what it keeps.

use crate::eventually::{patience, within};
use crate::http;
use crate::ports::free_port;
use crate::process::Process;
use anyhow::{Context as _, Result, ensure};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A cluster.
pub struct Etcd {
    members: Vec<Member>,
    // Last, so that it is removed after the processes have ended.
    folder: TempDir,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Process>,
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

impl Etcd {
    /// Starts so many members.
    ///
    /// # Errors
    /// etcd is not installed, or its cluster does not come up.
    pub async fn start(members: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("shunt-etcd-").tempdir_in("/var/tmp")?;
        let member =
            |n| Member { name: format!("etcd-{n}"), client: free_port(), peer: free_port(), process: None };
        let mut etcd = Self { members: (1..=members).map(member).collect(), folder };
        for n in 0..members {
            etcd.launch(n)?;
        }
        for n in 0..members {
            etcd.healthy(n).await?;
        }
        Ok(etcd)
    }

    /// Where its clients connect, member by member.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| url(member.client)).collect()
    }

    fn launch(&mut self, n: usize) -> Result<()> {
        let cluster: Vec<_> = self.members.iter().map(|m| format!("{}={}", m.name, url(m.peer))).collect();
        let folder = self.folder.path();
        let member = &mut self.members[n];
        let command = command(member, &cluster.join(","), folder);
        member.process = Some(Process::start(&member.name, command, folder, Some(folder))?);
        Ok(())
    }

    /// Waits until a member answers for a cluster that has a leader.
    async fn healthy(&self, n: usize) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.members[n].client));
        within(patience(), async || {
            let (status, body) = http::get(address, "/health").await?;
            ensure!(status == 200, "etcd is not healthy: {status} {body}");
            Ok(())
        })
        .await
    }

    /// Kills a member at once.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        self.members[n].process.take().context("it does not run")?.kill()
    }

    /// Starts a member again that was killed, with what it has.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn revive(&mut self, n: usize) -> Result<()> {
        self.launch(n)?;
        self.healthy(n).await
    }

    /// The member that leads.
    ///
    /// # Errors
    /// None does.
    pub fn leader(&self) -> Result<usize> {
        for (n, member) in self.members.iter().enumerate().filter(|(_, member)| member.process.is_some()) {
            let said = self.ctl(&member.client, &["endpoint", "status", "-w", "json"])?;
            let status: serde_json::Value = serde_json::from_str(&said)?;
            let status = &status[0]["Status"];
            if status["leader"] == status["header"]["member_id"] {
                return Ok(n);
            }
        }
        anyhow::bail!("no member leads")
    }

    /// What `etcdctl get` prints of all keys that begin so, key and value in turns.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn get(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        let member = self.members.iter().find(|member| member.process.is_some()).context("no member runs")?;
        let said = self.ctl(&member.client, &["get", "--prefix", prefix])?;
        let lines: Vec<_> = said.lines().collect();
        Ok(lines
            .chunks(2)
            .map(|pair| (pair[0].to_owned(), (*pair.last().unwrap_or(&"")).to_owned()))
            .collect())
    }

    fn ctl(&self, client: &u16, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(url(*client)).args(arguments);
        let output = command.output().context("etcdctl")?;
        ensure!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn command(member: &Member, cluster: &str, folder: &Path) -> Command {
    let mut command = Command::new("etcd");
    command
        .args(["--name", &member.name, "--log-outputs", "stderr", "--logger", "zap"])
        .arg("--data-dir")
        .arg(folder.join(format!("{}.data", member.name)))
        .args(["--listen-client-urls", &url(member.client), "--advertise-client-urls", &url(member.client)])
        .args(["--listen-peer-urls", &url(member.peer), "--initial-advertise-peer-urls", &url(member.peer)])
        .args(["--initial-cluster", cluster, "--auto-compaction-retention", "1h"])
        // Debian's unit sets these for its own etcd.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}
