//! `/livez`, `/readyz` and `/metrics` of the data plane.

use crate::plane::Plane;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What readiness hangs on.
#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) plane: Arc<Plane>,
    /// Set when the process begins to end.
    pub(crate) ending: CancellationToken,
    /// Clients are accepted.
    pub(crate) accepting: Arc<AtomicBool>,
}

/// Serves until `stop`.
pub(crate) async fn run(
    status: Status,
    listener: TcpListener,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready(State(status): State<Status>) -> (StatusCode, String) {
    let not = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));
    if status.ending.is_cancelled() {
        return not("shutting down");
    }
    match status.plane.routing.snapshot() {
        None => not("no routing state yet: no control plane answered, and there is no state on disk"),
        Some(_) if !status.accepting.load(Ordering::Acquire) => not("not accepting yet"),
        Some(snapshot) => {
            let revision = snapshot.version().revision;
            (StatusCode::OK, format!("ready: routing by revision {revision}\n"))
        }
    }
}

async fn metrics(State(status): State<Status>) -> impl IntoResponse {
    let text = status.plane.metrics.encode(&status.plane).await;
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
