//! sysbench as one of the fleet's applications: found, run beside a test, and what it said at the end.
//!
//! Must not know: Shunt.

use anyhow::{Context as _, Result, ensure};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// Whether it is there. Where it has to be and is not, that is an error.
pub(crate) fn is_installed() -> Result<bool> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join("sysbench").is_file());
    let required = std::env::var_os("SHUNT_TEST_REQUIRE").is_some();
    ensure!(is_there || !required, "sysbench is not installed: deploy/local/install.sh sysbench");
    Ok(is_there)
}

/// The tables that it works on.
pub(crate) const TABLES: usize = 4;

/// The one error that it is to pass over: what Galera answers to the later of two transactions that met.
pub(crate) const MET: u16 = 1213;

fn command(verb: &str, address: SocketAddr, user: &str, password: &str) -> Command {
    let mut command = Command::new("sysbench");
    command
        .args(["oltp_read_write", "--db-driver=mysql", "--mysql-db=shop", "--mysql-ssl=off"])
        .args(["--table-size=5000", "--rand-type=uniform", "--db-ps-mode=auto", "--events=0"])
        .arg(format!("--tables={TABLES}"))
        .arg(format!("--mysql-host={}", address.ip()))
        .arg(format!("--mysql-port={}", address.port()))
        .arg(format!("--mysql-user={user}"))
        .arg(format!("--mysql-password={password}"))
        .arg(format!("--mysql-ignore-errors={MET}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).arg(verb);
    command
}

/// Makes the tables.
pub(crate) async fn prepare(address: SocketAddr, user: &str, password: &str) -> Result<()> {
    let output = command("prepare", address, user, password).output().await.context("sysbench")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Reads and writes in transactions, by prepared statements.
pub(crate) fn start(
    address: SocketAddr,
    user: &str,
    password: &str,
    connections: usize,
    lasts: Duration,
) -> Result<Child> {
    let mut command = command("run", address, user, password);
    command.arg(format!("--threads={connections}")).arg(format!("--time={}", lasts.as_secs()));
    command.spawn().context("sysbench")
}

/// What it did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) transactions: u64,
    /// How often it was answered [`MET`], and tried again.
    pub(crate) met: u64,
    pub(crate) reconnects: u64,
}

/// Waits until it has ended, which it does early at any other error.
pub(crate) async fn ended(child: Child) -> Result<Done> {
    let output = child.wait_with_output().await?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && !said.contains("FATAL"), "{}: {said}", output.status);
    let number = |label: &str| -> Result<u64> {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(label));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        Ok(word.with_context(|| format!("no {label} in {said}"))?.parse()?)
    };
    Ok(Done {
        transactions: number("transactions:")?,
        met: number("ignored errors:")?,
        reconnects: number("reconnects:")?,
    })
}
