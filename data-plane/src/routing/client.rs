//! The stream to a control replica: routing state in, acknowledgements, reports and answers out.
//!
//! Any replica will do. When a stream ends another is tried, and what is held already is named, so that only what
//! changed comes. While there is none, everything goes on by the last good state.
//!
//! Must not know: sessions beyond what it passes on.

use super::state_file;
use crate::kill::{self, Asked, Outcome};
use crate::plane::Plane;
use crate::session::inbox::Order;
use crate::sessions::Which;
use shunt_proto::cn::CnId;
use shunt_proto::pb;
use shunt_proto::pb::control_frame::Frame as Down;
use shunt_proto::pb::data_plane_frame::Frame as Up;
use shunt_proto::pb::routing_service_client::RoutingServiceClient;
use shunt_proto::snapshot::{Delta, Entry, RoutingSnapshot};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Frames on their way to the control plane.
const QUEUE: usize = 256;

/// Sessions in one answer: a frame stays well below what gRPC takes.
const PER_ANSWER: usize = 1000;

/// Entries of a snapshot that is still coming, at most.
const MOST_ENTRIES: usize = 1_000_000;

/// The first pause before a new try, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A report goes out at least so often, changed or not.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The routing client, between two streams.
pub(crate) struct Client {
    plane: Arc<Plane>,
    incarnation: u64,
    sequence: u64,
    file: PathBuf,
    kills: mpsc::Receiver<Asked>,
    endpoints: Vec<String>,
}

impl Client {
    pub(crate) fn new(plane: Arc<Plane>, kills: mpsc::Receiver<Asked>, file: PathBuf) -> Self {
        let since_epoch = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let incarnation = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        let endpoints = plane.config.control.clone();
        Self { plane, incarnation, sequence: 0, file, kills, endpoints }
    }

    /// Keeps a stream open, for ever.
    pub(crate) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut next = rand::random_range(0..self.endpoints.len().max(1));
        loop {
            let Some(endpoint) = self.endpoints.get(next % self.endpoints.len().max(1)).cloned() else {
                return;
            };
            let begun = Instant::now();
            let ended = self.stream(&endpoint).await;
            // Nobody tells when that ends.
            self.plane.routing.avoid(&std::collections::BTreeSet::new());
            self.plane.metrics.control_connected(false);
            match ended {
                Ok(()) => tracing::info!(endpoint, "control plane ended the stream"),
                Err(error) => tracing::warn!(endpoint, %error, "control plane"),
            }
            if begun.elapsed() > Duration::from_secs(10) {
                pause = FIRST_PAUSE;
            }
            next += 1;
            let jitter = rand::random_range(0.5..1.5);
            self.rest(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits; a KILL for elsewhere that comes meanwhile is answered at once.
    async fn rest(&mut self, pause: Duration) {
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return,
                Some(asked) = self.kills.recv() => {
                    let _ = asked.answer.send(Outcome::Unreachable("no control plane is connected".into()));
                }
            }
        }
    }

    async fn stream(&mut self, endpoint: &str) -> Result<(), tonic::Status> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let (up, frames) = mpsc::channel(QUEUE);
        up.try_send(self.hello()).map_err(|_| tonic::Status::internal("queue"))?;
        let down =
            RoutingServiceClient::new(channel).connect(ReceiverStream::new(frames)).await?.into_inner();
        Stream { client: self, up, chunks: Vec::new(), kills: HashMap::new(), next_kill: 1 }.run(down).await
    }

    fn hello(&self) -> pb::DataPlaneFrame {
        let plane = &self.plane;
        let have = plane.routing.snapshot().map(|snapshot| snapshot.version().into());
        let hello = pb::Hello {
            data_plane_id: plane.id.clone(),
            incarnation: self.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            have,
            first_session_id: plane.ids.first(),
            zone: plane.config.zone.clone(),
            sequence: self.sequence,
        };
        pb::DataPlaneFrame { frame: Some(Up::Hello(hello)) }
    }
}

/// One open stream.
struct Stream<'a> {
    client: &'a mut Client,
    up: mpsc::Sender<pb::DataPlaneFrame>,
    /// Entries of a snapshot whose last chunk has not come.
    chunks: Vec<pb::Entry>,
    /// KILLs that await their outcome.
    kills: HashMap<u64, oneshot::Sender<Outcome>>,
    next_kill: u64,
}

impl Stream<'_> {
    async fn run(mut self, mut down: tonic::Streaming<pb::ControlFrame>) -> Result<(), tonic::Status> {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut answers = JoinSet::new();
        let mut last_report = None;
        let mut edges = self.client.plane.routing.edges();
        loop {
            tokio::select! {
                frame = down.next() => {
                    let Some(frame) = frame else { return Ok(()) };
                    match frame?.frame {
                        Some(Down::Welcome(welcome)) => {
                            let pause = Duration::from_millis(welcome.report_interval_ms.clamp(20, 60_000).into());
                            every = tokio::time::interval(pause);
                            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                            self.welcomed(&welcome);
                        }
                        Some(Down::Snapshot(snapshot)) => self.snapshot(snapshot).await?,
                        Some(Down::Delta(delta)) => self.delta(delta).await?,
                        Some(Down::Order(order)) => {
                            let (plane, up) = (Arc::clone(&self.client.plane), self.up.clone());
                            while answers.try_join_next().is_some() {}
                            if answers.len() < QUEUE {
                                answers.spawn(answer(plane, order, up));
                            }
                        }
                        Some(Down::Killed(killed)) => self.killed(killed),
                        Some(Down::Avoid(pb::Avoid { cns })) => {
                            self.client.plane.routing.avoid(&cns.into_iter().collect());
                        }
                        None => {}
                    }
                }
                _ = every.tick() => self.report(&mut last_report).await?,
                // Others are to be spared what this one found out.
                Ok(()) = edges.changed() => self.report(&mut last_report).await?,
                Some(asked) = self.client.kills.recv() => self.kill(asked).await?,
            }
        }
    }

    async fn send(&self, frame: Up) -> Result<(), tonic::Status> {
        let frame = pb::DataPlaneFrame { frame: Some(frame) };
        self.up.send(frame).await.map_err(|_| tonic::Status::unavailable("stream closed"))
    }

    fn welcomed(&self, welcome: &pb::Welcome) {
        let plane = &self.client.plane;
        plane.ids.assign(welcome.first_session_id);
        plane.metrics.control_connected(true);
        tracing::info!(
            resumed = welcome.resumed,
            block = welcome.first_session_id,
            "control plane connected"
        );
    }

    async fn snapshot(&mut self, snapshot: pb::Snapshot) -> Result<(), tonic::Status> {
        if self.chunks.len() + snapshot.entries.len() > MOST_ENTRIES {
            return Err(tonic::Status::resource_exhausted("snapshot has too many entries"));
        }
        self.chunks.extend(snapshot.entries);
        if !snapshot.last {
            return Ok(());
        }
        let chunks = std::mem::take(&mut self.chunks);
        let version: shunt_proto::snapshot::Version = snapshot.version.unwrap_or_default().into();
        let revision = version.revision;
        let applied = chunks
            .iter()
            .map(Entry::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
            .and_then(|entries| {
                RoutingSnapshot::from_entries(version, entries).map_err(|error| error.to_string())
            });
        self.applied(revision, applied).await
    }

    async fn delta(&mut self, delta: pb::Delta) -> Result<(), tonic::Status> {
        let revision = delta.to.as_ref().map_or(0, |to| to.revision);
        let have = self.client.plane.routing.snapshot().unwrap_or_default();
        let applied = Delta::try_from(delta)
            .map_err(|error| error.to_string())
            .and_then(|delta| have.apply(delta).map_err(|error| error.to_string()));
        self.applied(revision, applied).await
    }

    /// A frame was applied whole, or refused: the last good state stays then.
    async fn applied(
        &mut self,
        revision: u64,
        applied: Result<RoutingSnapshot, String>,
    ) -> Result<(), tonic::Status> {
        let refused = match applied {
            Ok(snapshot) => {
                self.client.publish(snapshot).await;
                String::new()
            }
            Err(error) => {
                tracing::error!(revision, error, "routing state refused: the last good one stays");
                error
            }
        };
        self.send(Up::Ack(pb::Ack { revision, refused })).await
    }

    async fn report(&mut self, last: &mut Option<(Instant, pb::Report)>) -> Result<(), tonic::Status> {
        let report = self.client.report();
        let changed = match last {
            Some((at, last)) => {
                at.elapsed() >= HEARTBEAT
                    || (report.revision, &report.cns, &report.tenants)
                        != (last.revision, &last.cns, &last.tenants)
            }
            None => true,
        };
        if !changed {
            return Ok(());
        }
        self.client.sequence += 1;
        *last = Some((Instant::now(), report.clone()));
        self.send(Up::Report(report)).await
    }

    async fn kill(&mut self, asked: Asked) -> Result<(), tonic::Status> {
        self.kills.retain(|_, answer| !answer.is_closed());
        let id = self.next_kill;
        self.next_kill += 1;
        let Asked { session_id, query_only, asker, answer } = asked;
        self.kills.insert(id, answer);
        self.send(Up::Kill(pb::Kill { id, session_id, query_only, asker: Some(asker) })).await
    }

    fn killed(&mut self, killed: pb::Killed) {
        if let Some(answer) = self.kills.remove(&killed.id) {
            let _ = answer.send(Outcome::from_pb(killed.outcome()));
        }
    }
}

impl Client {
    /// Makes `snapshot` the newest, here and on disk, and closes the sessions of tenants that are suspended by it.
    async fn publish(&self, snapshot: RoutingSnapshot) {
        let snapshot = Arc::new(snapshot);
        self.plane.routing.publish(&snapshot);
        self.plane.catalogs.retain(|cn| snapshot.cn(cn).is_some());
        let (file, written) = (self.file.clone(), Arc::clone(&snapshot));
        let write = tokio::task::spawn_blocking(move || state_file::write(&file, &written)).await;
        if let Ok(Err(error)) = write {
            tracing::error!(file = %self.file.display(), %error, "write the routing state");
        }
        self.plane.close_suspended(&snapshot).await;
    }

    fn report(&self) -> pb::Report {
        let (revision, cns, tenants) = self.plane.routing.counts();
        let cns = cns
            .into_iter()
            .map(|count| pb::CnReport {
                cn: count.cn.to_string(),
                sessions: count.sessions,
                health: pb::cn::Health::from(count.health).into(),
                reason: count.reason,
            })
            .collect();
        let tenants =
            tenants.into_iter().map(|(tenant, sessions)| pb::TenantReport { tenant, sessions }).collect();
        pb::Report { sequence: self.sequence + 1, revision, cns, tenants }
    }
}

/// Does what the control plane asks for, and answers.
async fn answer(plane: Arc<Plane>, order: pb::Order, up: mpsc::Sender<pb::DataPlaneFrame>) {
    use pb::order::Order as Asks;
    let mut answer = pb::Answer { id: order.id, ..pb::Answer::default() };
    match order.order {
        Some(Asks::List(list)) => {
            let which = Which { id: list.session_id, cn: list.cn, tenant: list.tenant, after: list.after };
            let limit = match list.limit as usize {
                0 => PER_ANSWER,
                limit => limit.min(PER_ANSWER),
            };
            (answer.sessions, answer.more) = plane.workers.list(&which, limit).await;
        }
        Some(Asks::Move(order)) => answer.moved = Some(ordered_move(&plane, &order).await),
        Some(Asks::Rebalance(order)) => answer.plan = plane.rebalance.rebalance(order.dry_run).await,
        Some(Asks::Kill(order)) => answer.set_killed(ordered_kill(&plane, &order).await.to_pb()),
        None => {}
    }
    let frame = pb::DataPlaneFrame { frame: Some(Up::Answer(answer)) };
    // A stream that ended has no use for it.
    let _ = up.send(frame).await;
}

/// A move by an operator.
async fn ordered_move(plane: &Plane, order: &pb::order::MoveOrder) -> pb::Moved {
    let to = (!order.to.is_empty()).then(|| CnId::new(&order.to));
    let to = match to.transpose() {
        Ok(to) => to,
        Err(error) => {
            let outcome = pb::moved::Outcome::Failed.into();
            return pb::Moved { outcome, reasons: vec![error.to_string()], ..pb::Moved::default() };
        }
    };
    match plane.workers.move_one(order.session_id, to).await {
        Some(ended) => ended.to_pb(),
        None => pb::Moved { outcome: pb::moved::Outcome::Gone.into(), ..pb::Moved::default() },
    }
}

/// A KILL by an operator, or by a client of another data plane. An operator's closes the session in any case.
async fn ordered_kill(plane: &Plane, order: &pb::order::KillOrder) -> Outcome {
    let Some(target) = plane.workers.find(order.session_id).await else { return Outcome::Unknown };
    let outcome = kill::here(plane, &target, order.query_only, order.asker.as_ref()).await;
    if order.asker.is_none() && !order.query_only {
        let which = Which { id: order.session_id, ..Which::default() };
        if plane.workers.order(&which, &Order::Kill).await > 0 {
            return Outcome::Done;
        }
    }
    outcome
}
