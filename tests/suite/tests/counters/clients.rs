//! Clients that come, work and leave in every way there is, and what each of them holds when it rests.
//!
//! Must not know: what operators do, but for which sessions they kill.

use crate::stand::{app, app_as};
use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use shunt_harness::{Raw, command};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Clients at once, and the most sessions that each has.
const CLIENTS: usize = 8;
const MOST: usize = 6;

/// A session, and the number that it was given.
struct Session {
    raw: Raw,
    n: u32,
}

/// The sessions that there are, and those that somebody kills.
#[derive(Default)]
struct Known {
    there: BTreeSet<u32>,
    condemned: BTreeSet<u32>,
}

/// What clients hold while they rest.
#[derive(Default)]
pub(crate) struct Held {
    of: Vec<Vec<Session>>,
    came: u32,
}

impl Held {
    /// The ids of all sessions.
    pub(crate) fn ids(&self) -> BTreeSet<u32> {
        self.of.iter().flatten().map(|session| session.raw.connection_id()).collect()
    }

    /// How many came so far.
    pub(crate) const fn came(&self) -> u32 {
        self.came
    }

    /// Each is the one that it was.
    pub(crate) async fn are_whole(&mut self) -> Result<()> {
        for session in self.of.iter_mut().flatten() {
            session.is_whole().await?;
        }
        Ok(())
    }
}

/// Clients at work.
pub(crate) struct Clients {
    running: JoinSet<Result<(Vec<Session>, u32)>>,
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
    came: u32,
}

impl Clients {
    /// They go on with what they hold.
    pub(crate) fn start(addresses: &[SocketAddr], held: Held, rng: &mut StdRng) -> Self {
        let known = Known { there: held.ids(), ..Known::default() };
        let (known, stop) = (Arc::new(Mutex::new(known)), Arc::new(AtomicBool::new(false)));
        let mut running = JoinSet::new();
        let mut of = held.of.into_iter();
        for _ in 0..CLIENTS {
            let client = Client {
                addresses: addresses.to_vec(),
                sessions: of.next().unwrap_or_default(),
                came: 0,
                rng: StdRng::seed_from_u64(rng.random()),
                known: Arc::clone(&known),
            };
            let stop = Arc::clone(&stop);
            running.spawn(client.run(stop));
        }
        Self { running, known, stop, came: held.came }
    }

    /// Some session's id.
    pub(crate) async fn any_id(&self, rng: &mut StdRng) -> Option<u32> {
        self.known.lock().await.there.iter().choose(rng).copied()
    }

    /// Some session's id, which is going to be killed.
    pub(crate) async fn condemn(&self, rng: &mut StdRng) -> Option<u32> {
        let mut known = self.known.lock().await;
        let id = known.there.iter().choose(rng).copied()?;
        known.condemned.insert(id);
        Some(id)
    }

    /// Has them rest, between two commands. What was to be killed, they let go.
    pub(crate) async fn rest(mut self) -> Result<Held> {
        self.stop.store(true, Ordering::Release);
        let mut held = Held { of: Vec::new(), came: self.came };
        while let Some(ended) = self.running.join_next().await {
            let (sessions, came) = ended??;
            held.of.push(sessions);
            held.came += came;
        }
        let known = self.known.lock().await;
        for sessions in &mut held.of {
            sessions.retain(|session| !known.condemned.contains(&session.raw.connection_id()));
        }
        Ok(held)
    }
}

struct Client {
    addresses: Vec<SocketAddr>,
    sessions: Vec<Session>,
    came: u32,
    rng: StdRng,
    known: Arc<Mutex<Known>>,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Result<(Vec<Session>, u32)> {
        while !stop.load(Ordering::Acquire) {
            let of = self.sessions.len();
            match self.rng.random_range(0..10) {
                0..2 if of < MOST => self.comes().await?,
                2 if of > 0 => self.leaves().await?,
                _ if of > 0 => self.works().await?,
                _ => self.comes().await?,
            }
            // Operators take their time, too.
            tokio::time::sleep(std::time::Duration::from_millis(self.rng.random_range(0..10))).await;
        }
        Ok((self.sessions, self.came))
    }

    async fn comes(&mut self) -> Result<()> {
        let address = self.addresses[self.rng.random_range(0..self.addresses.len())];
        let login = if self.rng.random() { app() } else { app_as("app?workload=ap") };
        let mut raw = Raw::login(address, &login).await.context("a login")?;
        let n = self.rng.random_range(0..1_000_000);
        raw.run(format!("SET @n = {n}")).await.context("a session that just came")?;
        self.known.lock().await.there.insert(raw.connection_id());
        self.sessions.push(Session { raw, n });
        self.came += 1;
        Ok(())
    }

    async fn leaves(&mut self) -> Result<()> {
        let Session { mut raw, .. } =
            self.sessions.swap_remove(self.rng.random_range(0..self.sessions.len()));
        let id = raw.connection_id();
        self.known.lock().await.there.remove(&id);
        let left = match self.rng.random_range(0..4) {
            0 => raw.quit().await,
            1 => raw.abort(),
            2 => match raw.send(&command::query("SELECT SLEEP(0.2)")).await {
                Ok(()) => raw.abort(),
                Err(error) => Err(error),
            },
            _ => {
                drop(raw);
                Ok(())
            }
        };
        self.unless_killed(id, left).await
    }

    async fn works(&mut self) -> Result<()> {
        let at = self.rng.random_range(0..self.sessions.len());
        let session = &mut self.sessions[at];
        let id = session.raw.connection_id();
        let done = match self.rng.random_range(0..4) {
            0 => session.in_a_transaction().await,
            1 => session.renumber(self.rng.random_range(0..1_000_000)).await,
            _ => session.is_whole().await,
        };
        if done.is_err() {
            self.known.lock().await.there.remove(&id);
            self.sessions.swap_remove(at);
        }
        self.unless_killed(id, done).await
    }

    /// What went wrong, unless it did because somebody killed the session.
    async fn unless_killed(&self, id: u32, done: Result<()>) -> Result<()> {
        if done.is_err() && self.known.lock().await.condemned.contains(&id) {
            return Ok(());
        }
        done.with_context(|| format!("session {id}"))
    }
}

impl Session {
    async fn is_whole(&mut self) -> Result<()> {
        let known = self.raw.value("SELECT @n").await?;
        ensure!(known == self.n.to_string(), "it is {known}, not {}", self.n);
        Ok(())
    }

    async fn renumber(&mut self, n: u32) -> Result<()> {
        self.raw.run(format!("SET @n = {n}")).await?;
        self.n = n;
        Ok(())
    }

    async fn in_a_transaction(&mut self) -> Result<()> {
        for sql in ["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"] {
            self.raw.run(sql).await?;
        }
        Ok(())
    }
}
