//! The configuration's groups, tenants and policy: they fill an empty store, once. On a filled one that differs a log
//! line says so, and the store counts.

use crate::apply;
use crate::cluster::View;
use crate::edit::{Edit, Edits};
use crate::error::Error;
use crate::follow::Standing;
use shunt_proto::intent::Intent;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Objects that the log line names.
const NAMED: usize = 10;
/// Between two tries while the store does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What became of the seeds.
enum Seeded {
    Filled(usize),
    Same,
    Differs(String),
}

/// Fills an empty store, tells `done` when that is settled, and then only waits for `over`.
pub(crate) async fn run(
    edits: Arc<Edits>,
    seeds: Intent,
    standing: watch::Receiver<Standing>,
    done: watch::Sender<bool>,
    over: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = over.cancelled() => return Ok(()),
        () = fill(&edits, &seeds, standing) => {}
    }
    done.send_replace(true);
    over.cancelled().await;
    Ok(())
}

/// Returns when the store was found filled, or was filled.
async fn fill(edits: &Edits, seeds: &Intent, mut standing: watch::Receiver<Standing>) {
    loop {
        if standing.wait_for(|standing| *standing == Standing::InStep).await.is_err() {
            // The follower is gone: the process ends.
            std::future::pending::<()>().await;
        }
        match edits.make(|view| seeded(view, seeds)).await {
            Ok(done) => {
                match done.answer {
                    Seeded::Filled(objects) => tracing::info!(objects, "empty store was filled"),
                    Seeded::Same => {}
                    Seeded::Differs(what) => {
                        tracing::warn!(what, "store differs from the configuration; the store counts");
                    }
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "fill the empty store");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn seeded(view: &View, seeds: &Intent) -> Result<(Edit, Seeded), Error> {
    if seeds.is_empty() {
        return Ok((Edit::new(), Seeded::Same));
    }
    // As if each CN had sessions: what is planned is only told, never done.
    let plan = apply::plan(view, seeds, true, |_| 1);
    if view.snapshot.entries().next().is_none() {
        let (edit, changes) = plan?;
        return Ok((edit, Seeded::Filled(changes.len())));
    }
    let differs = match plan {
        Ok((_, changes)) if changes.is_empty() => return Ok((Edit::new(), Seeded::Same)),
        Ok((_, changes)) => {
            let named: Vec<&str> = changes.iter().take(NAMED).map(|change| change.object.as_str()).collect();
            let more = changes.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}", named.join(", "))
        }
        Err(error) => error.to_string(),
    };
    Ok((Edit::new(), Seeded::Differs(differs)))
}
