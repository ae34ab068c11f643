//! Makes true what was only wanted: the leader declares CNs drained that are empty, and deletes those that were taken off
//! their group's list; every replica drops counts of data planes that are long gone.
//!
//! Must not know: tonic.

use crate::cluster::{ClusterWatch, View};
use crate::edit::{Edit, Edits};
use crate::error::Error;
use crate::planes::Planes;
use crate::replica::Leadership;
use shunt_proto::cn::{Cn, CnId, CnState};
use shunt_proto::snapshot::Object;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it looks though nothing was told.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks when much is told.
const PAUSE: Duration = Duration::from_millis(100);

/// How long declaring CNs drained may take.
const SETTLING: Duration = Duration::from_secs(5);

/// Runs until `shutdown`.
pub(crate) async fn run(
    cluster: ClusterWatch,
    edits: Arc<Edits>,
    planes: Arc<Planes>,
    mut leadership: Leadership,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = planes.changes();
    let mut snapshots = cluster.snapshots();
    loop {
        planes.expire(Instant::now());
        let due = if leadership.now().is_some() { empty(&cluster.view(), &planes) } else { Vec::new() };
        if !due.is_empty() {
            settle(&edits, &planes, &leadership, &due).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(TICK) => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = snapshots.changed() => {}
            () = leadership.changed() => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// The CNs that drain and are empty: no data plane can have a session there.
fn empty(view: &View, planes: &Planes) -> Vec<CnId> {
    let leaving = view.snapshot.cns().filter(|cn| cn.cn.state == CnState::Draining);
    let clear = |name: &CnId| {
        let since = view.mod_revision(&format!("cn/{name}"));
        planes.is_clear(name.as_str(), since, view.planes.keys())
    };
    leaving.map(|cn| cn.name().clone()).filter(clear).collect()
}

/// Declares those of `due` drained that still drain and are empty when it is written, or deletes those that were only
/// waiting for that.
async fn settle(edits: &Edits, planes: &Planes, leadership: &Leadership, due: &[CnId]) {
    let done = edits.make_leading(leadership, |view| {
        let still = empty(view, planes);
        let mut edit = Edit::new();
        let mut names = Vec::new();
        for cn in due.iter().filter(|cn| still.contains(cn)).take(crate::apply::MAX_CHANGES) {
            if let Some(Object::Cn(cn)) = view.snapshot.entry(&format!("cn/{cn}")).map(|entry| &entry.object)
            {
                if cn.remove_when_empty {
                    edit.delete(Object::Cn(Arc::clone(cn)).key());
                } else {
                    let drained = Cn { state: CnState::Drained, drain: None, ..cn.as_ref().clone() };
                    edit.put(&Object::Cn(Arc::new(drained)));
                }
                names.push((cn.name.to_string(), cn.remove_when_empty));
            }
        }
        Ok((edit, names))
    });
    // It holds up whoever else edits.
    match tokio::time::timeout(SETTLING, done).await.unwrap_or(Err(Error::Late(SETTLING.as_secs()))) {
        Ok(done) => {
            for (cn, is_removed) in done.answer {
                if is_removed {
                    tracing::info!(cn, "removed: it was taken off its group's list and is empty");
                } else {
                    tracing::info!(cn, "drained");
                }
            }
        }
        // Tried again at the next tick.
        Err(error) => tracing::debug!(%error, "settle empty CNs"),
    }
}
