//! What is served beside gRPC, for operators' tools: `/livez`, `/readyz`, `/metrics`.

use crate::cluster::ClusterWatch;
use crate::follow::Standing;
use crate::metrics::Metrics;
use crate::planes::Planes;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Seen {
    pub(crate) cluster: ClusterWatch,
    pub(crate) planes: Arc<Planes>,
    pub(crate) standing: watch::Receiver<Standing>,
    /// Whether the configuration's intent was looked at: before that an empty store is not yet what it is to be.
    pub(crate) seeded: watch::Receiver<bool>,
    pub(crate) metrics: Metrics,
    pub(crate) registry: Arc<Registry>,
    /// Cancelled when this process begins to stop.
    pub(crate) stopping: CancellationToken,
}

/// The routes.
pub(crate) fn router(seen: Seen) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(seen)
}

/// Ready: in step with the store, an empty one too. Else the text says why not.
async fn readyz(State(seen): State<Seen>) -> (StatusCode, String) {
    let why = if seen.stopping.is_cancelled() {
        "stopping".to_owned()
    } else {
        match &*seen.standing.borrow() {
            Standing::InStep if *seen.seeded.borrow() => return (StatusCode::OK, "ready\n".to_owned()),
            Standing::InStep => "the store has not been filled yet".to_owned(),
            Standing::Starting(why) if why.is_empty() => "the store has not been read yet".to_owned(),
            Standing::Starting(why) => format!("the store has not been read yet: {why}"),
            Standing::Behind(why) => format!("not in step with the store: {why}"),
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

async fn metrics(State(seen): State<Seen>) -> impl IntoResponse {
    seen.metrics.look(&seen.cluster, &seen.planes, &seen.standing);
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &seen.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
