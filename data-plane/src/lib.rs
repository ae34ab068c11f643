//! Shunt's data plane.
//!
//! [`run`] wires it, in reading order: the last good routing state, the control plane's stream, probes of the CNs, the
//! workers, and the listener. `session::serve` is a session from accept to close: read that first.
//!
//! Absent on purpose: any decision about the cluster. It routes by the state that it was given.

mod accounts;
mod cn;
mod code;
pub mod config;
mod engine;
mod hangs;
mod health;
mod http;
mod ids;
mod kill;
mod listener;
mod metrics;
mod newest;
mod plane;
mod rebalance;
mod routing;
mod service;
mod session;
mod sessions;
mod socket;
mod wire;
mod worker;

use anyhow::Context as _;
use code::Code;
pub use config::Config;
use engine::mysql::catalog::Catalogs;
use ids::SessionIds;
use kill::Elsewhere;
use listener::Bell;
use metrics::Metrics;
use newest::Newest;
use plane::Plane;
use routing::{Routing, client::Client, state_file};
use service::Service;
use session::inbox::{Farewell, Order};
use sessions::Which;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use worker::Workers;

/// Where a data plane listens, once it does: ports that were asked for as 0 are known here.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// For MySQL clients.
    pub mysql: SocketAddr,
    /// For `/livez`, `/readyz` and `/metrics`.
    pub admin: SocketAddr,
}

/// Runs a data plane until `shutdown`, and then to the end of its last session or of its patience. Tells `bound` where
/// it listens.
///
/// # Errors
/// What keeps it from starting: a folder that cannot be written, an address that is taken. And a task that ended and
/// must not have.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    bound: Option<oneshot::Sender<Bound>>,
) -> anyhow::Result<()> {
    let state = config.state.clone();
    std::fs::create_dir_all(&state).with_context(|| format!("make folder {}", state.display()))?;
    let listen = |address| listener::bind(address).with_context(|| format!("listen on {address}"));
    let mysql = listen(config.listen)?;
    let admin = TcpListener::from_std(listen(config.admin)?)?;
    let addresses = Bound { mysql: mysql.local_addr()?, admin: admin.local_addr()? };
    let most = listener::most_sessions(config.limits.sessions);
    if config.io == config::Io::IoUring {
        shunt_ring::probe().context("mysql.io is io_uring, which this kernel does not let us use")?;
    }

    let refuses_loopback =
        !addresses.mysql.ip().is_loopback() && !config.cn_proxy_protocol && !config.allow_loopback_cns;
    let (routing, to_probe) = Routing::new(refuses_loopback);
    let runtime = tokio::runtime::Handle::current();
    let newest = Newest::new(Arc::clone(&routing), config.limits.cn_connect, runtime.clone());
    let service = Service::new(config.cn_account.clone(), config.limits, Arc::clone(&routing), runtime);
    let code = Code::new(Arc::clone(&routing), service.clone());
    let (workers, mailboxes) = Workers::new(config.workers);
    let (elsewhere, kills) = Elsewhere::new();
    let (asks, plans_asked) = rebalance::plan::Asks::new();
    let limits = config.limits;
    let plane = Arc::new(Plane {
        id: own_id(&state.join("id"))?,
        routing: Arc::clone(&routing),
        accounts: accounts::Accounts::default(),
        service: service.clone(),
        newest,
        code,
        ids: SessionIds::open(state.join("session-ids")),
        workers,
        elsewhere,
        rebalance: asks,
        metrics: Metrics::new(),
        catalogs: Catalogs::default(),
        config,
    });
    load_state(&plane, &state.join("routing"));

    let mut tasks = JoinSet::new();
    carry_sessions(&mut tasks, &plane, mailboxes)?;
    own(&mut tasks, "health", health::run(routing, service, to_probe));
    let client = Client::new(Arc::clone(&plane), kills, state.join("routing"));
    own(&mut tasks, "routing client", client.run());
    own(&mut tasks, "code", code::run(Arc::clone(&plane)));
    own(&mut tasks, "hangs", hangs::run(Arc::clone(&plane)));
    own(&mut tasks, "rebalance", rebalance::run(Arc::clone(&plane), plans_asked));
    let stop_http = CancellationToken::new();
    let accepting = Arc::new(AtomicBool::new(false));
    let status = http::Status {
        plane: Arc::clone(&plane),
        ending: shutdown.clone(),
        accepting: Arc::clone(&accepting),
    };
    let http = http::run(status, admin, stop_http.clone());
    own(&mut tasks, "http", async {
        if let Err(error) = http.await {
            tracing::error!(%error, "serve http");
        }
    });
    if let Some(bound) = bound {
        // Who does not listen does not want to know.
        let _ = bound.send(addresses);
    }
    tracing::info!(mysql = %addresses.mysql, admin = %addresses.admin, id = plane.id, most, "data plane");

    let bell = Bell::new()?;
    let serve = serve(&plane, mysql, &bell, most, &accepting, &shutdown, limits);
    tokio::select! {
        ended = serve => ended?,
        Some(ended) = tasks.join_next() => {
            anyhow::bail!("task {} ended", ended.unwrap_or("that panicked"));
        }
    }
    stop_http.cancel();
    Ok(())
}

/// Runs `task` as long as the process: its end is the process's, and is told by `name`.
fn own(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        name
    });
}

/// Starts a thread for each worker, and a task that ends when the thread does.
fn carry_sessions(
    tasks: &mut JoinSet<&'static str>,
    plane: &Arc<Plane>,
    mailboxes: Vec<worker::Mailbox>,
) -> std::io::Result<()> {
    for (n, mailbox) in mailboxes.into_iter().enumerate() {
        let plane = Arc::clone(plane);
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new().name(format!("worker-{n}")).spawn(move || {
            let run = worker::run(plane, mailbox);
            // The process is ending where nobody hears it.
            let _ = ended.send(run);
        })?;
        own(tasks, "worker", async {
            if let Ok(Err(error)) = end.await {
                tracing::error!(%error, "start a worker's runtime");
            }
        });
    }
    Ok(())
}

/// The data plane's id: random at its first start, then kept.
fn own_id(file: &Path) -> anyhow::Result<String> {
    if let Ok(text) = std::fs::read_to_string(file) {
        let id = text.trim();
        if shunt_proto::cn::check_name(id).is_ok() {
            return Ok(id.to_owned());
        }
    }
    let id = format!("dp-{:016x}", rand::random::<u64>());
    ids::write_whole(file, format!("{id}\n").as_bytes())
        .with_context(|| format!("write {}", file.display()))?;
    Ok(id)
}

fn load_state(plane: &Plane, file: &Path) {
    match state_file::read(file) {
        Ok(Some(snapshot)) => {
            let revision = snapshot.version().revision;
            tracing::info!(revision, file = %file.display(), "routing by the last good state");
            plane.routing.publish(&Arc::new(snapshot));
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the last good state is left aside");
        }
    }
}

/// Accepts while there is routing state and no shutdown, then ends the sessions.
async fn serve(
    plane: &Arc<Plane>,
    mysql: std::net::TcpListener,
    bell: &Bell,
    most: usize,
    accepting: &AtomicBool,
    shutdown: &CancellationToken,
    limits: config::Limits,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut snapshots = plane.routing.watch();
    let accept = async {
        // The sender is part of the plane.
        let _ = snapshots.wait_for(Option::is_some).await;
        plane.ids.assigned().await;
        accepting.store(true, Ordering::Release);
        listener::spawn(Arc::clone(plane), mysql, most, bell).await.context("the listener's thread")
    };
    let end = async {
        shutdown.cancelled().await;
        tracing::info!(delay = ?limits.drain_delay, "shutting down: not ready any more");
        tokio::time::sleep(limits.drain_delay).await;
        bell.ring();
        stop.cancel();
        Ok(())
    };
    tokio::select! {
        ended = async { tokio::try_join!(accept, end) } => drop(ended?),
        () = async { shutdown.cancelled().await; stop.cancelled().await } => {}
    }
    end_sessions(plane, limits.shutdown).await;
    Ok(())
}

/// Closes each session when it rests; at the end of `patience`, all that are left.
async fn end_sessions(plane: &Plane, patience: Duration) {
    let all = Which::default();
    let began = plane.workers.sessions();
    plane.workers.order(&all, &Order::Close(Farewell::Shutdown)).await;
    let until = Instant::now() + patience;
    while plane.workers.sessions() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (cut, more) = plane.workers.list(&all, 1000).await;
    for session in &cut {
        tracing::warn!(
            id = session.id,
            tenant = session.tenant,
            user = session.user,
            client = session.client,
            cn = session.cn,
            pinned = session.pinned.join(", "),
            "cut at the end of the shutdown's patience"
        );
    }
    plane.workers.order(&all, &Order::Kill).await;
    let until = Instant::now() + Duration::from_secs(5);
    while plane.workers.sessions() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::info!(sessions = began, cut = cut.len(), more, "shut down");
}
