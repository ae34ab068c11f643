//! Hears what data planes report to other replicas. Only what changed is read anew.
//!
//! Must not know: how it is written.

use crate::cluster::{ClusterWatch, Stored, View};
use crate::planes::{Heard, OnCn, Planes, Report, Told};
use shunt_proto::cn::Health;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;
use tokio_util::sync::CancellationToken;

/// Hears until `over`.
pub(crate) async fn run(
    cluster: ClusterWatch,
    planes: Arc<Planes>,
    replica: String,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let mut views = cluster.views();
    let mut ear = Ear { planes, replica, seen: Arc::default() };
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        ear.hear(view);
        tokio::select! {
            () = over.cancelled() => return Ok(()),
            changed = views.changed() => changed?,
        }
    }
}

struct Ear {
    planes: Arc<Planes>,
    replica: String,
    seen: Arc<View>,
}

impl Ear {
    fn hear(&mut self, view: Arc<View>) {
        if view.seen < self.seen.seen {
            // The store was restored from a copy: what was acknowledged was another state.
            self.planes.went_back();
        }
        for id in changed(&self.seen, &view) {
            self.planes.heard(&id, newest(&view, &id, &self.replica));
        }
        if !Arc::ptr_eq(&view.planes, &self.seen.planes) {
            self.planes.are_stored(view.seen, |id| view.planes.contains_key(id));
        }
        self.seen = view;
    }
}

/// The data planes of which any part changed from `old` to `new`; all of them where replicas came or went.
fn changed(old: &View, new: &View) -> BTreeSet<String> {
    let all = old.reports.values().chain(new.reports.values());
    if !old.replicas.keys().eq(new.replicas.keys()) {
        return all.map(|stored| stored.report.data_plane.clone()).collect();
    }
    if Arc::ptr_eq(&old.reports, &new.reports) {
        return BTreeSet::new();
    }
    let is_in = |view: &View, key: &String, stored: &Arc<Stored>| {
        view.reports.get(key).is_some_and(|other| Arc::ptr_eq(other, stored))
    };
    let gone = old.reports.iter().filter(|(key, stored)| !is_in(new, key, stored));
    let come = new.reports.iter().filter(|(key, stored)| !is_in(old, key, stored));
    gone.chain(come).map(|(_, stored)| stored.report.data_plane.clone()).collect()
}

/// The newest report of a data plane to any replica but `myself`.
fn newest(view: &View, id: &str, myself: &str) -> Option<Heard> {
    let replicas = view.replicas.keys().filter(|replica| *replica != myself);
    let heard = replicas.filter_map(|replica| whole(view, replica, id));
    heard
        .max_by_key(|(at, heard)| (heard.told.incarnation, heard.told.report.sequence, *at))
        .map(|(_, heard)| heard)
}

/// What a data plane reported to that replica, with the revision at which it was written. None: nothing, not all of it, or
/// to another store.
fn whole(view: &View, replica: &str, id: &str) -> Option<(u64, Heard)> {
    let part = |n| view.reports.get(&crate::keys::report_key(replica, id, n));
    let stored = part(0)?;
    let head = &stored.report;
    if head.store_id != view.snapshot.version().store_id {
        return None;
    }
    let mut report = Report {
        sequence: head.sequence,
        revision: head.revision,
        rest: Health::Up,
        cns: BTreeMap::new(),
        tenants: BTreeMap::new(),
    };
    for n in 1..=usize::try_from(head.parts).ok()? {
        let part = &part(n)?.report;
        let down = |name: &String| part.down.get(name);
        let unknown: BTreeSet<&String> = part.unknown.iter().collect();
        let names = part.sessions.keys().chain(part.down.keys()).chain(&part.unknown);
        for name in names {
            let (health, reason) = match down(name) {
                Some(reason) => (Health::Down, reason.clone()),
                None if unknown.contains(name) => (Health::Unknown, String::new()),
                None => (Health::Up, String::new()),
            };
            let sessions = part.sessions.get(name).copied().unwrap_or(0);
            report.cns.insert(name.clone(), OnCn { sessions, health, reason });
        }
        report.tenants.extend(part.tenants.iter().map(|(name, sessions)| (name.clone(), *sessions)));
    }
    let told = Told {
        incarnation: head.incarnation,
        version: head.version.clone(),
        acked: head.acknowledged,
        refused: head.refused.clone(),
        report: Arc::new(report),
        seen: head.at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or(SystemTime::UNIX_EPOCH),
    };
    Some((stored.mod_revision, Heard { replica: replica.to_owned(), told }))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The data planes of which it looks at again what they reported.
    pub(crate) fn looked_at(old: &View, new: &View) -> BTreeSet<String> {
        changed(old, new)
    }

    /// What a replica makes of a view.
    pub(crate) fn heard(view: &View, id: &str, myself: &str) -> Option<Heard> {
        newest(view, id, myself)
    }
}
