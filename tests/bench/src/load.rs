//! The load generator: many connections over few threads, each sends its next command when the last was answered.
//!
//! For what sysbench cannot do: logins, very large rows and statements, and as little work of its own as possible, so
//! that the proxy is the limit.

use crate::latency::Latency;
use crate::response::Responses;
use crate::sample::Load as Done;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use futures::future::try_join_all;
use shunt_harness::login::{Greeting, Login};
use shunt_harness::packet::{Packet, split};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What to load, and with what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Load {
    /// Where the MySQL server, or what is in front of it, listens.
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// Connections at once.
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: u32,
    /// Threads that they are spread over.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: u32,
    /// For how long, where --logins does not say how many; a query is asked once at least.
    #[arg(long, default_value_t = 4)]
    pub(crate) seconds: u32,
    /// What each asks, again and again.
    #[arg(long, default_value = "SELECT 1")]
    pub(crate) statement: String,
    /// Insert rows of so many bytes into bench.upload, in place of --statement.
    #[arg(long)]
    pub(crate) insert_bytes: Option<usize>,
    /// Connect, log in, ask once and say goodbye, again and again.
    #[arg(long)]
    pub(crate) login: bool,
    /// Log in so often, all connections together, and then end.
    #[arg(long, requires = "login")]
    pub(crate) logins: Option<u64>,
}

/// Puts the load on.
///
/// # Errors
/// A connection failed, or the server refused something.
pub(crate) fn run(load: &Load) -> Result<Done> {
    let threads = load.threads.clamp(1, load.connections.max(1));
    let running: Vec<_> = (0..threads)
        .map(|n| {
            let (load, share) = (load.clone(), share(load, n, threads));
            std::thread::spawn(move || {
                tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(share.run(&load))
            })
        })
        .collect();
    let mut all = Tally::default();
    for thread in running {
        let tally = thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))??;
        all.add(&tally);
    }
    Ok(Done { queries: all.queries, seconds: all.seconds, p99_ms: all.latency.percentile(0.99) })
}

/// A thread's part of the load.
struct Share {
    connections: u32,
    logins: Option<u64>,
}

fn share(load: &Load, n: u32, of: u32) -> Share {
    let part = |whole: u64| whole / u64::from(of) + u64::from(u64::from(n) < whole % u64::from(of));
    let connections = u32::try_from(part(load.connections.into())).unwrap_or(u32::MAX);
    Share { connections, logins: load.logins.map(part) }
}

/// What was counted.
#[derive(Default)]
struct Tally {
    queries: u64,
    seconds: f64,
    latency: Latency,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.queries += other.queries;
        self.seconds = self.seconds.max(other.seconds);
        self.latency.add(&other.latency);
    }

    fn record(&mut self, began: Instant) -> Instant {
        let now = Instant::now();
        self.queries += 1;
        self.latency.record(now - began);
        now
    }
}

impl Share {
    async fn run(&self, load: &Load) -> Result<Tally> {
        let slots = 0..self.connections;
        let began;
        let tallies = if load.login {
            began = Instant::now();
            let quotas = slots.map(|n| self.logins.map(|all| quota(all, n, self.connections)));
            try_join_all(quotas.map(|quota| log_in_again_and_again(load, quota))).await?
        } else {
            let clients = try_join_all(slots.map(|_| Client::log_in(load.address))).await?;
            began = Instant::now();
            try_join_all(clients.into_iter().map(|client| query_again_and_again(load, client))).await?
        };
        let mut all = Tally::default();
        tallies.iter().for_each(|tally| all.add(tally));
        all.seconds = began.elapsed().as_secs_f64();
        Ok(all)
    }
}

fn quota(all: u64, n: u32, of: u32) -> u64 {
    all / u64::from(of) + u64::from(u64::from(n) < all % u64::from(of))
}

async fn query_again_and_again(load: &Load, mut client: Client) -> Result<Tally> {
    let command = match load.insert_bytes {
        Some(bytes) => query(&insert(bytes)),
        None => query(load.statement.as_bytes()),
    };
    let mut tally = Tally::default();
    let mut now = Instant::now();
    let until = now + Duration::from_secs(load.seconds.into());
    loop {
        client.ask(&command).await?;
        now = tally.record(now);
        if now >= until {
            break;
        }
    }
    client.quit().await?;
    Ok(tally)
}

async fn log_in_again_and_again(load: &Load, quota: Option<u64>) -> Result<Tally> {
    let command = query(load.statement.as_bytes());
    let mut tally = Tally::default();
    let mut now = Instant::now();
    let until = now + Duration::from_secs(load.seconds.into());
    while quota.map_or_else(|| now < until, |quota| tally.queries < quota) {
        let mut client = Client::log_in(load.address).await?;
        client.ask(&command).await?;
        client.quit().await?;
        now = tally.record(now);
    }
    Ok(tally)
}

fn insert(bytes: usize) -> Vec<u8> {
    let mut statement = b"INSERT INTO bench.upload VALUES ('".to_vec();
    statement.resize(statement.len() + bytes, b'x');
    statement.extend_from_slice(b"')");
    statement
}

/// The bytes of a COM_QUERY.
fn query(statement: &[u8]) -> Vec<u8> {
    let payload = [&[0x03], statement].concat();
    split(&payload, 0).iter().flat_map(Packet::bytes).collect()
}

/// A session as user `app`, password `app`.
pub(crate) struct Client {
    stream: TcpStream,
    responses: Responses,
    buffer: Vec<u8>,
}

/// What is read at once.
const BUFFER: usize = 64 << 10;

impl Client {
    /// Connects and logs in.
    ///
    /// # Errors
    /// No connection, or a refusal.
    pub(crate) async fn log_in(address: SocketAddr) -> Result<Self> {
        let mut stream =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let greeting = Packet::read(&mut stream).await.context("read the greeting")?;
        if greeting.payload.first() == Some(&0xFF) {
            bail!("refused: {}", String::from_utf8_lossy(&greeting.payload));
        }
        let response = Login::user("app").password("app").response(&Greeting::decode(&greeting.payload)?);
        stream.write_all(&Packet { sequence: 1, payload: response }.bytes()).await?;
        let answer = Packet::read(&mut stream).await.context("read the answer to the login")?;
        ensure!(answer.payload.first() == Some(&0), "refused: {}", String::from_utf8_lossy(&answer.payload));
        Ok(Self { stream, responses: Responses::new(), buffer: Vec::new() })
    }

    /// Sends a command and reads its response to the end.
    ///
    /// # Errors
    /// The connection failed, or the response is an ERR.
    pub(crate) async fn ask(&mut self, command: &[u8]) -> Result<()> {
        self.buffer.resize(BUFFER, 0);
        self.stream.write_all(command).await?;
        loop {
            let n = self.stream.read(&mut self.buffer).await?;
            ensure!(n > 0, "closed in the middle of a response");
            if self.responses.push(&self.buffer[..n])? {
                return Ok(());
            }
        }
    }

    /// Says goodbye and leaves.
    ///
    /// # Errors
    /// The connection failed.
    pub(crate) async fn quit(mut self) -> Result<()> {
        Ok(self.stream.write_all(&[1, 0, 0, 0, 1]).await?)
    }

    /// Gives the buffer back: for a session that will idle.
    pub(crate) fn shrink(&mut self) {
        self.buffer = Vec::new();
    }
}

/// The bytes of what an idle session asks once, before it idles.
pub(crate) fn hello() -> Vec<u8> {
    query(b"SELECT 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(connections: u32, logins: Option<u64>) -> Load {
        Load {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            connections,
            threads: 1,
            seconds: 1,
            statement: "SELECT 1".into(),
            insert_bytes: None,
            login: logins.is_some(),
            logins,
        }
    }

    #[test]
    fn nothing_is_lost_when_the_load_is_spread() {
        let load = load(7, Some(100));
        let shares: Vec<_> = (0..3).map(|n| share(&load, n, 3)).collect();
        assert_eq!(shares.iter().map(|share| share.connections).collect::<Vec<_>>(), [3, 2, 2]);
        assert_eq!(shares.iter().filter_map(|share| share.logins).sum::<u64>(), 100);
        assert_eq!((0..3).map(|n| quota(100, n, 3)).sum::<u64>(), 100);
    }

    #[test]
    fn a_statement_over_sixteen_mebibytes_is_cut_into_packets() {
        let command = query(&insert(1 << 24));
        assert_eq!(&command[..5], &[0xFF, 0xFF, 0xFF, 0, 3]);
        assert_eq!(command[4 + 0xFF_FFFF + 3], 1);
    }

    #[test]
    fn nobody_there_is_an_error() {
        run(&load(1, None)).unwrap_err();
    }
}
