//! Makes true what was only wanted: deletes CNs that were taken off their group's list when they are empty, and drops
//! counts of data planes that are long gone.
//!
//! Must not know: tonic.

use crate::cluster::{ClusterWatch, View};
use crate::edit::{Edit, Edits};
use crate::planes::Planes;
use shunt_proto::cn::{CnId, CnState};
use shunt_proto::snapshot::Object;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it looks though nothing was told.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks when much is told.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until `shutdown`.
pub(crate) async fn run(
    cluster: ClusterWatch,
    edits: Arc<Edits>,
    planes: Arc<Planes>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = planes.changes();
    let mut snapshots = cluster.snapshots();
    loop {
        planes.expire(Instant::now());
        let due = empty(&cluster.view(), &planes, Instant::now());
        if !due.is_empty() {
            remove(&edits, &planes, &due).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(TICK) => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = snapshots.changed() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// The CNs that are to be removed, and can be.
fn empty(view: &View, planes: &Planes, now: Instant) -> Vec<CnId> {
    let leaving =
        view.snapshot.cns().filter(|cn| cn.cn.remove_when_empty && cn.cn.state == CnState::Draining);
    let clear = |name: &CnId| {
        let since = view.mod_revision(&format!("cn/{name}"));
        planes.is_clear(name.as_str(), since, view.planes.keys(), now)
    };
    leaving.map(|cn| cn.name().clone()).filter(clear).collect()
}

/// Deletes those of `due` that are still to be removed when it is written.
async fn remove(edits: &Edits, planes: &Planes, due: &[CnId]) {
    let done = edits.make(|view| {
        let still = empty(view, planes, Instant::now());
        let mut edit = Edit::new();
        let mut names = Vec::new();
        for cn in due.iter().filter(|cn| still.contains(cn)).take(crate::apply::MAX_CHANGES) {
            if let Some(Object::Cn(cn)) = view.snapshot.entry(&format!("cn/{cn}")).map(|entry| &entry.object)
            {
                edit.delete(Object::Cn(Arc::clone(cn)).key());
                names.push(cn.name.to_string());
            }
        }
        Ok((edit, names))
    });
    match done.await {
        Ok(done) => {
            for cn in done.answer {
                tracing::info!(cn, "removed: it was taken off its group's list and is empty");
            }
        }
        // Tried again at the next tick.
        Err(error) => tracing::debug!(%error, "remove empty CNs"),
    }
}
