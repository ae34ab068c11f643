//! What a client waits while its session moves: as Shunt tells it, and as a client sees it that asks one thing after the
//! other.

use super::{Told, percentile};
use crate::case::What;
use crate::fleet::{Cns, Fleet};
use crate::rounds::Plan;
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use shunt_harness::Raw;
use shunt_proto::pb;
use shunt_proto::pb::session_service_client::SessionServiceClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

const COMMAND: &str = "shunt.v1.SessionService/MoveSession";

/// What an application's sessions have.
const FURNISHED: [&str; 2] =
    ["SET NAMES utf8mb4, time_zone = '+00:00', @a = 1, @b = 'two'", "SET sql_mode = 'ANSI'"];

/// A client that asks one thing after the other.
struct Busy {
    id: u32,
    /// Orders come by a connection that is there: to start a program for each takes the cores for longer than a move.
    orders: SessionServiceClient<Channel>,
    seen: Arc<Seen>,
    running: JoinHandle<Result<()>>,
}

/// What it sees.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    /// The longest that it waited for one, in nanoseconds.
    longest: AtomicU64,
    stop: AtomicBool,
}

impl Busy {
    async fn start(fleet: &Fleet, mut session: Raw, statement: &'static str) -> Result<Self> {
        let channel = Channel::from_shared(format!("http://{}", fleet.shunt.api()))?.connect().await?;
        let seen = Arc::new(Seen::default());
        let (id, all) = (session.connection_id(), Arc::clone(&seen));
        let running = tokio::spawn(async move {
            while !all.stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                session.run(statement).await?;
                let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                all.longest.fetch_max(took, Ordering::Relaxed);
                all.answers.fetch_add(1, Ordering::Relaxed);
            }
            session.quit().await
        });
        Ok(Self { id, orders: SessionServiceClient::new(channel), seen, running })
    }

    /// The longest that the client waits while nothing moves, in milliseconds: what the machine does to it.
    async fn stays(&self) -> Result<f64> {
        self.seen.longest.store(0, Ordering::Relaxed);
        // As long as a move takes, about.
        for _ in 0..8 {
            self.orders.clone().get_session(pb::GetSessionRequest { id: self.id }).await?;
        }
        Ok(self.seen.longest.load(Ordering::Relaxed) as f64 / 1e6)
    }

    /// Orders a move: the pause that Shunt tells of, and the longest that the client waited meanwhile, in milliseconds.
    async fn moves(&self) -> Result<(f64, f64)> {
        self.seen.longest.store(0, Ordering::Relaxed);
        let order = pb::MoveSessionRequest { id: self.id, to: String::new() };
        let told = self.orders.clone().move_session(order).await?.into_inner();
        ensure!(told.outcome() == pb::moved::Outcome::Moved, "{told:?}");
        // What it waited for is answered by then.
        let answers = self.seen.answers.load(Ordering::Relaxed);
        while self.seen.answers.load(Ordering::Relaxed) < answers + 2 {
            ensure!(!self.running.is_finished(), "the session did not last");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let pause = told.pause.and_then(|pause| Duration::try_from(pause).ok()).context("no pause")?;
        let longest = self.seen.longest.load(Ordering::Relaxed) as f64 / 1e6;
        Ok((pause.as_secs_f64() * 1000.0, longest))
    }

    async fn stop(self) -> Result<()> {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.running.await?
    }
}

/// What so many moves gave, in milliseconds.
#[derive(Default)]
struct Pauses {
    /// As Shunt tells them.
    told: Vec<f64>,
    /// What the client waited.
    seen: Vec<f64>,
    /// What it waited just before, while nothing moved.
    still: Vec<f64>,
}

async fn pauses(fleet: &Fleet, furnish: &[&str], statement: &'static str, moves: u32) -> Result<Pauses> {
    let mut session = fleet.open(1).await?.pop().context("a session")?;
    for sql in furnish {
        session.run(sql).await?;
    }
    let busy = Busy::start(fleet, session, statement).await?;
    // Each CN has met it then.
    for _ in 0..4 {
        busy.moves().await?;
    }
    let mut all = Pauses::default();
    for _ in 0..moves {
        all.still.push(busy.stays().await?);
        let (pause, longest) = busy.moves().await?;
        all.told.push(pause);
        all.seen.push(longest);
    }
    busy.stop().await?;
    Ok(all)
}

/// The percentiles of rounds of moves.
async fn rounds(fleet: &Fleet, statement: &'static str, rounds: u32, moves: u32) -> Result<Vec<Told>> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        all.push(pauses(fleet, &FURNISHED, statement, moves).await?);
    }
    let at = |part, of: fn(&Pauses) -> &[f64]| -> Vec<f64> {
        all.iter().map(|pauses| percentile(of(pauses), part)).collect()
    };
    let told = |what, name, of: fn(&Pauses) -> &[f64]| Told {
        what,
        values: at(0.99, of),
        unit: "ms",
        name,
        more: json!({ "p50_values": at(0.5, of), "moves": rounds * moves }),
    };
    Ok(vec![
        told(What::Pause, "", |pauses| &pauses.told),
        told(What::PauseSeen, "-seen", |pauses| &pauses.seen),
        told(What::WaitStill, "-still", |pauses| &pauses.still),
    ])
}

/// On loopback, between two CNs that share nothing.
///
/// # Errors
/// A session did not move.
pub(super) async fn on_loopback(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let fleet = Fleet::start(Cns::mariadb(2).await?, 2, plan.io, |setup| setup).await?;
    let told = rounds(&fleet, "SELECT 1", plan.rounds, if plan.quick { 100 } else { 300 }).await?;
    Ok((told, COMMAND.to_owned()))
}

/// The same between nodes that share their rows, where the new one has to catch up with what its session wrote.
///
/// # Errors
/// A session did not move.
pub(super) async fn with_a_barrier(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let galera = shunt_harness::Galera::start().await?;
    let fleet = Fleet::start(Cns::Galera(galera), 2, plan.io, |setup| setup).await?;
    let mut session = fleet.open(1).await?.pop().context("a session")?;
    session.run("CREATE TABLE written (id BIGINT AUTO_INCREMENT PRIMARY KEY)").await?;
    session.quit().await?;
    let told = rounds(&fleet, "INSERT INTO written VALUES ()", plan.rounds, 100).await?;
    Ok((told, COMMAND.to_owned()))
}

/// One way to a CN that is far away.
const FAR: Duration = Duration::from_millis(30);

/// Before CNs that are far away: what is more of the pause than on loopback, in round trips to a CN.
///
/// # Errors
/// A session did not move.
pub(super) async fn far_away(plan: &Plan) -> Result<(Vec<Told>, String)> {
    let near = Fleet::start(Cns::mariadb(2).await?, 2, plan.io, |setup| setup).await?;
    let moves = if plan.quick { 10 } else { 30 };
    let kinds: [(What, &'static str, &[&str]); 2] =
        [(What::RoundTrips, "", &[]), (What::RoundTripsFurnished, "-furnished", &FURNISHED)];
    let mut at_home = Vec::new();
    for (_, _, furnish) in kinds {
        at_home.push(percentile(&pauses(&near, furnish, "SELECT 1", moves).await?.told, 0.5));
    }
    drop(near);
    let far = Fleet::start(Cns::far(FAR).await?, 2, plan.io, |setup| setup).await?;
    let mut told = Vec::new();
    for ((what, name, furnish), near) in kinds.into_iter().zip(at_home) {
        let pauses = pauses(&far, furnish, "SELECT 1", moves).await?.told;
        let trip = 2.0 * FAR.as_secs_f64() * 1000.0;
        let trips: Vec<f64> = pauses.iter().map(|pause| (pause - near) / trip).collect();
        // What is left beside whole ones is work, and timers of the way there.
        let values = trips.iter().map(|trips| trips.round()).collect();
        let more = json!({ "round_trip_ms": trip, "near_ms": near, "moves": moves, "unrounded": trips });
        told.push(Told { what, values, unit: "round trips", name, more });
    }
    Ok((told, COMMAND.to_owned()))
}
