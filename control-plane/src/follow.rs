//! Follows the store: loads it, watches it, and tells the cluster. Whenever a watch ends, everything is loaded again:
//! that is cheap, and right after a compaction, a restore and a lost connection alike.
//!
//! Must not know: what the facts mean.

use crate::cluster::Cluster;
use crate::keys::{self, META_STORE, SCHEMA, StoreMeta, Value};
use crate::store::{Loaded, Outcome, SharedStore, StoreError, Txn};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How far the follower is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The store has not been read yet, and why.
    Starting(String),
    /// What is known is what the store holds, but for the time that a change travels.
    InStep,
    /// The store does not answer. What is known stays.
    Behind(String),
}

/// Between two tries to read a store that does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Follows `store` until `shutdown`.
///
/// # Errors
/// The store can never be used: its schema is newer than this release.
pub(crate) async fn run(
    store: SharedStore,
    mut cluster: Cluster,
    standing: watch::Sender<Standing>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let ended = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            ended = follow(&store, &mut cluster, &standing) => ended,
        };
        let why = match ended {
            Ended::Lost(why) => why,
            Ended::Compacted => {
                // No fault: load again. Not at once, because a member of etcd that lags behind says it again.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            Ended::Newer(schema) => anyhow::bail!(
                "the store has schema {schema}, and this release knows {SCHEMA}: use a newer release"
            ),
        };
        standing.send_if_modified(|standing| {
            let (worse, log) = match standing {
                Standing::InStep => (Standing::Behind(why.clone()), true),
                Standing::Behind(said) | Standing::Starting(said) if *said == why => return false,
                Standing::Behind(_) => (Standing::Behind(why.clone()), false),
                // Said once at the start, and not again for each way in which it is not there.
                Standing::Starting(said) => (Standing::Starting(why.clone()), said.is_empty()),
            };
            if log {
                tracing::warn!(why, "store is out of reach; what is known of it stays");
            }
            *standing = worse;
            true
        });
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

enum Ended {
    Lost(String),
    /// The history that the watch needs is gone.
    Compacted,
    Newer(u32),
}

/// Loads once, and watches from there as long as it goes.
async fn follow(store: &SharedStore, cluster: &mut Cluster, standing: &watch::Sender<Standing>) -> Ended {
    let lost = |error: StoreError| Ended::Lost(error.to_string());
    let (meta, loaded) = match identified(store).await {
        Ok(found) => found,
        Err(error) => return lost(error),
    };
    if meta.schema > SCHEMA {
        return Ended::Newer(meta.schema);
    }
    let revision = loaded.revision;
    let mut watch = match store.watch(revision).await {
        Ok(watch) => watch,
        Err(StoreError::Compacted(_)) => return Ended::Compacted,
        Err(error) => return lost(error),
    };
    if let Err(other) = cluster.reset(&meta.id, loaded) {
        return Ended::Lost(other.to_string());
    }
    if standing.send_replace(Standing::InStep) != Standing::InStep {
        tracing::info!(store = meta.id, revision, "in step with the store");
    }
    loop {
        match watch.next().await {
            Ok(batch) => cluster.apply(&batch),
            Err(StoreError::Compacted(_)) => return Ended::Compacted,
            Err(error) => return lost(error),
        }
    }
}

/// All of the store, and which one it is. An empty one is given its id.
async fn identified(store: &SharedStore) -> Result<(StoreMeta, Loaded), StoreError> {
    loop {
        let loaded = store.load().await?;
        let meta = loaded.items.iter().find(|item| item.key == META_STORE);
        if let Some(item) = meta {
            return match keys::read(META_STORE, item.mod_revision, &item.value) {
                Ok(Value::Store(meta)) => Ok((meta, loaded)),
                _ => Err(StoreError::Unavailable(format!("{META_STORE} cannot be read"))),
            };
        }
        let meta = StoreMeta { id: format!("{:032x}", rand::random::<u128>()), schema: SCHEMA };
        let txn = Txn::new().when(META_STORE, 0).put(META_STORE, keys::written_store(&meta));
        // Another replica may be first: then its id counts.
        if let Outcome::Committed(_) = store.commit(txn).await? {
            tracing::info!(store = meta.id, "new store");
        }
    }
}
