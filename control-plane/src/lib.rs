//! Shunt's control plane: keeps the intent in a store, and streams routing state to the data planes over gRPC.
//!
//! A fact reaches a data plane in one way only: store → watch (`follow.rs`) → `cluster.rs` → snapshot or delta
//! (`feed.rs`) → stream (`grpc/stream.rs`). [`run`] wires that up, in this order, and owns every task.
//!
//! Absent on purpose: MySQL, data planes' decisions, keys of clients.

mod apply;
mod asking;
mod avoid;
mod blocks;
mod cluster;
mod config;
mod edit;
mod error;
mod explain;
mod feed;
mod follow;
mod grpc;
mod health;
mod history;
mod http;
mod intent;
mod keys;
mod metrics;
mod orders;
mod peers;
mod planes;
mod reconcile;
mod replica;
mod reports;
mod seed;
pub mod store;

pub use config::{Config, StoreConfig};

use anyhow::Context as _;
use follow::Standing;
use prometheus_client::registry::Registry;
use shunt_proto::intent::Intent;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::SharedStore;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long streams and calls may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Where a control plane listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// gRPC.
    pub api: SocketAddr,
    /// HTTP.
    pub admin: SocketAddr,
}

/// Runs a control plane until `shutdown`, and ends it in order: `/readyz` fails, streams and calls end, the store is
/// closed. `bound` is told where it listens as soon as it does; being ready is told by `/readyz`.
///
/// # Errors
/// It cannot listen, cannot use its store, or one of its tasks died.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    bound: Option<oneshot::Sender<Bound>>,
) -> anyhow::Result<()> {
    let Config { api, advertise, admin, store, seeds } = config;
    let api = listen(api).await.context("gRPC")?;
    let admin = listen(admin).await.context("HTTP")?;
    let at = Bound { api: api.local_addr()?, admin: admin.local_addr()? };
    let store = open(store).await?;
    tracing::info!(grpc = %at.api, http = %at.admin, store = store.kind(), "control plane is listening");
    let address = advertise.unwrap_or_else(|| at.api.to_string());
    let mut running = Running::start(api, admin, store, seeds, &address);
    if let Some(bound) = bound {
        let _ = bound.send(at);
    }
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        died = running.died() => Err(died),
    };
    tracing::info!("control plane is stopping");
    running.stop().await;
    tracing::info!("control plane has stopped");
    ended
}

/// All that runs, and what ends it.
struct Running {
    store: SharedStore,
    tasks: Tasks,
    calls: JoinHandle<Result<(), tonic::transport::Error>>,
    streams: TaskTracker,
    end: Ends,
}

/// In this order: first it is not ready any more, then streams and calls end, then what they were made of.
#[derive(Clone, Default)]
struct Ends {
    ready: CancellationToken,
    calls: CancellationToken,
    all: CancellationToken,
}

impl Running {
    fn start(api: TcpListener, admin: TcpListener, store: SharedStore, seeds: Intent, address: &str) -> Self {
        let end = Ends::default();
        let (writer, cluster) = cluster::Cluster::new();
        let myself = (store.kind() == "etcd").then(|| myself(address));
        let me = myself.as_ref().map(|myself| myself.id.clone());
        let (standing_sender, standing) = watch::channel(Standing::Starting(String::new()));
        let (replica, leadership) =
            replica::Replica::new(Arc::clone(&store), cluster.clone(), standing.clone(), myself);
        let edits = Arc::new(edit::Edits::new(Arc::clone(&store), cluster.clone()));
        let planes = planes::Planes::new();
        let mut registry = Registry::with_prefix("shunt_control");
        let metrics = metrics::Metrics::new(&mut registry);
        let (seeded_sender, seeded) = watch::channel(false);
        let (avoided_sender, avoided) = watch::channel(Arc::default());
        let streams = TaskTracker::new();
        let seen = http::Seen {
            cluster: cluster.clone(),
            planes: Arc::clone(&planes),
            standing: standing.clone(),
            seeded,
            metrics: metrics.clone(),
            registry: Arc::new(registry),
            stopping: end.ready.clone(),
        };
        let (router, health) = grpc::router(grpc::Api {
            cluster: cluster.clone(),
            edits: Arc::clone(&edits),
            planes: Arc::clone(&planes),
            asking: asking::Asking::new(cluster.clone(), Arc::clone(&planes)),
            avoided,
            standing: standing.clone(),
            store_kind: store.kind(),
            metrics,
            started: SystemTime::now(),
            replica: me.clone(),
            shutdown: end.calls.clone(),
            streams: streams.clone(),
        });

        let mut tasks = Tasks::default();
        let over = || end.all.clone();
        tasks.spawn("follow the store", follow::run(Arc::clone(&store), writer, standing_sender, over()));
        if let (Some(replica), Some(me)) = (replica, me) {
            tasks.spawn("keep this replica's place", replica.run(over()));
            let (seen, all) = (cluster.clone(), Arc::clone(&planes));
            let tell = reports::tell(Arc::clone(&store), seen, all, me.clone(), leadership.clone(), over());
            tasks.spawn("share reports", tell);
            let hear = reports::hear::run(cluster.clone(), Arc::clone(&planes), me, over());
            tasks.spawn("hear reports", hear);
        }
        let avoid = avoid::run(cluster.clone(), Arc::clone(&planes), avoided_sender, over());
        tasks.spawn("gather health", avoid);
        let edits_of_leader = Arc::clone(&edits);
        tasks.spawn("reconcile", reconcile::run(cluster, edits_of_leader, planes, leadership, over()));
        tasks.spawn("tell health", tell_health(health, standing.clone(), over()));
        tasks.spawn("seed", seed::run(edits, seeds, standing, seeded_sender, over()));
        tasks.spawn("serve HTTP", serve_http(admin, seen, over()));
        // Its own handle: it ends before the others.
        let calls = end.calls.clone();
        let serve = router.serve_with_incoming_shutdown(incoming(api), calls.cancelled_owned());
        Self { store, tasks, calls: tokio::spawn(serve), streams, end }
    }

    /// Waits until something ended that should not have. Cancel safe.
    async fn died(&mut self) -> anyhow::Error {
        tokio::select! {
            died = self.tasks.died() => died,
            served = &mut self.calls => match served {
                Ok(Ok(())) => anyhow::anyhow!("serve gRPC: ended"),
                Ok(Err(error)) => anyhow::Error::new(error).context("serve gRPC"),
                Err(error) => anyhow::Error::new(error).context("serve gRPC"),
            },
        }
    }

    async fn stop(self) {
        let Self { store, mut tasks, mut calls, streams, end } = self;
        end.ready.cancel();
        end.calls.cancel();
        streams.close();
        if tokio::time::timeout(ENDING, streams.wait()).await.is_err() {
            tracing::warn!(streams = streams.len(), "streams were cut off");
        }
        // A client that keeps its connection does not keep this process.
        if !calls.is_finished() && tokio::time::timeout(ENDING, &mut calls).await.is_err() {
            calls.abort();
            tracing::warn!("calls were cut off");
        }
        end.all.cancel();
        tasks.end().await;
        store.close().await;
    }
}

async fn serve_http(listener: TcpListener, seen: http::Seen, over: CancellationToken) -> anyhow::Result<()> {
    let serve = axum::serve(listener, http::router(seen)).into_future();
    tokio::select! {
        () = over.cancelled() => Ok(()),
        served = serve => Ok(served?),
    }
}

/// The tasks that must live as long as the process does.
#[derive(Default)]
struct Tasks(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.0.spawn(async move { (name, task.await) });
    }

    /// Waits for the first that ends: none should. Cancel safe.
    async fn died(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            Some(Ok((name, Ok(())))) => anyhow::anyhow!("{name}: ended"),
            Some(Ok((name, Err(error)))) => error.context(name),
            Some(Err(error)) => anyhow::Error::new(error).context("a background task"),
            None => std::future::pending().await,
        }
    }

    /// Waits for all to end, for a while.
    async fn end(&mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(ENDING, all).await.is_err() {
            self.0.shutdown().await;
        }
    }
}

/// This process, for the other replicas.
fn myself(address: &str) -> shunt_proto::pb::Replica {
    shunt_proto::pb::Replica {
        id: format!("cp-{:016x}", rand::random::<u64>()),
        api: address.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: Some(SystemTime::now().into()),
        leader: false,
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

async fn open(config: StoreConfig) -> anyhow::Result<SharedStore> {
    Ok(match config {
        StoreConfig::Embedded(folder) => Arc::new(store::embedded::Embedded::open(&folder).await?),
        StoreConfig::Etcd { endpoints, prefix } => Arc::new(store::etcd::Etcd::new(&endpoints, &prefix)?),
    })
}

/// Connections, for as long as there is a listener: a lack of files is waited out, and ends nothing.
fn incoming(listener: TcpListener) -> impl futures::Stream<Item = std::io::Result<TcpStream>> {
    futures::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    // Frames are whole when they are written.
                    let _ = connection.set_nodelay(true);
                    return Some((Ok(connection), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a gRPC connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}

/// Tells gRPC's health service: serving once the store was read, from then on from memory whatever the store does.
async fn tell_health(
    health: tonic_health::server::HealthReporter,
    mut standing: watch::Receiver<Standing>,
    over: CancellationToken,
) -> anyhow::Result<()> {
    use tonic_health::ServingStatus;
    for service in grpc::SERVICES {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    tokio::select! {
        () = over.cancelled() => return Ok(()),
        read = standing.wait_for(|standing| *standing == Standing::InStep) => { read?; }
    }
    for service in grpc::SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    over.cancelled().await;
    Ok(())
}
