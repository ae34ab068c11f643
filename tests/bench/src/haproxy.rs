//! HAProxy in front of one CN, as one would set it up for MySQL: mode tcp, two threads, patient with sessions that
//! idle.

use anyhow::{Context as _, Result, ensure};
use shunt_harness::{Process, free_port, within};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::net::TcpStream;

/// A running HAProxy.
pub(crate) struct HaProxy {
    process: Process,
    address: SocketAddr,
}

impl HaProxy {
    /// Starts it; its configuration and its log are in `folder`.
    ///
    /// # Errors
    /// It is not installed, or did not come up.
    pub(crate) async fn start(cn: SocketAddr, folder: &Path) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = folder.join("haproxy.cfg");
        fs::write(&file, configuration(address, cn, connections(crate::files::hard_limit())))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let mut process = Process::start("haproxy", command, folder, Some(folder))?;
        within(Duration::from_secs(10), async || {
            if let Some(status) = process.ended()? {
                return Ok(Err(anyhow::anyhow!("haproxy ended ({status}):\n{}", process.output())));
            }
            TcpStream::connect(address).await.context("connect to haproxy").map(|_| Ok(()))
        })
        .await??;
        ensure!(process.ended()?.is_none(), "haproxy ended:\n{}", process.output());
        Ok(Self { process, address })
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// As many as the files allow, each with two of them.
fn connections(files: u64) -> u64 {
    (files.saturating_sub(200) / 2).min(20_000)
}

fn configuration(listen: SocketAddr, cn: SocketAddr, connections: u64) -> String {
    format!(
        "global
    nbthread 2
    maxconn {connections}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen mysql
    bind {listen}
    maxconn {connections}
    server cn-1 {cn}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_as_many_connections_as_its_files_allow() {
        assert_eq!(connections(20_000), 9900);
        assert_eq!(connections(1_048_576), 20_000);
        assert_eq!(connections(100), 0);
    }
}
