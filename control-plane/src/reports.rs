//! What data planes report, shared between replicas through the store: each writes what its own said, and hears the rest.
//!
//! Every count and heartbeat would wear a store out. So only what changed is written, once a second while that is little,
//! and within a budget of bytes where it is much: then each count is older, and none is lost. A CN that went down or came
//! up is written first, and at once.
//!
//! A data plane's report is a head (`…/0`, with how many parts follow) and parts. All of it is written in one transaction
//! that compares the head's revision: what comes late, because a member of etcd stood still, changes nothing.
//!
//! Must not know: what is done with the counts.

pub(crate) mod hear;

use crate::cluster::{ClusterWatch, View};
use crate::keys;
use crate::planes::{Planes, Told};
use crate::replica::Leadership;
use crate::store::{MAX_TXN, Outcome, SharedStore, StoreError, Txn};
use shunt_proto::cn::Health;
use shunt_proto::{json, pb};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Bytes that all replicas write in a second, over time, and that one may write at once. It is 4 GiB a day: a store that
/// keeps an hour of history holds 170 MiB.
const RATE: f64 = 48.0 * 1024.0;
const BURST: f64 = 512.0 * 1024.0;

/// How often it is looked what changed.
const EVERY: Duration = Duration::from_secs(1);
/// How long edges are gathered.
const EDGES: Duration = Duration::from_millis(100);
/// What did not change is written again after this, so that it is seen not to be old.
const REFRESH: Duration = Duration::from_secs(30);

/// Bytes of a part, about: well below what the store takes of a value.
const PART: usize = 40 * 1024;
/// Characters of why a CN is down.
const REASON: usize = 100;
/// Writes and bytes of one transaction, about, where more than one data plane is in it.
const WRITES: usize = MAX_TXN / 2;
const BYTES: usize = 256 * 1024;

/// Writes what the data planes of this replica report, under its lease, until `over`.
pub(crate) async fn tell(
    store: SharedStore,
    cluster: ClusterWatch,
    planes: Arc<Planes>,
    replica: String,
    leadership: Leadership,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let mut teller = Teller::new(store, planes, replica);
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = teller.planes.changes();
    let mut edges = teller.planes.edges();
    loop {
        tokio::select! {
            () = over.cancelled() => return Ok(()),
            _ = every.tick() => {}
            Ok(()) = changes.changed() => {
                if teller.planes.edges() == edges {
                    continue;
                }
                tokio::time::sleep(EDGES).await;
            }
        }
        edges = teller.planes.edges();
        let Some(lease) = leadership.lease() else { continue };
        let view = cluster.view();
        let told = tokio::select! {
            () = over.cancelled() => return Ok(()),
            told = teller.tell(lease, &view) => told,
        };
        if let Err(error) = told {
            tracing::debug!(%error, "write what data planes report");
        }
    }
}

/// Bytes that may be written.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn earn(&mut self, rate: f64) {
        let now = Instant::now();
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * rate).min(BURST);
        self.at = now;
    }
}

/// What is in the store of a data plane.
struct Written {
    /// None: it is to be taken away, or nobody knows what was written.
    told: Option<Told>,
    /// Of its head; none: it must be asked for.
    revision: Option<u64>,
    parts: usize,
    at: Instant,
}

struct Teller {
    store: SharedStore,
    planes: Arc<Planes>,
    replica: String,
    lease: Option<i64>,
    written: BTreeMap<String, Written>,
    allowance: Allowance,
}

/// What is to be written of a data plane; no values: it is taken away.
struct Due {
    id: String,
    told: Option<Told>,
    values: Vec<Vec<u8>>,
}

impl Due {
    fn new(id: String, told: Option<Told>, store_id: &str) -> Self {
        let values = told.as_ref().map(|told| values(&id, told, store_id)).unwrap_or_default();
        Self { id, told, values }
    }

    fn bytes(&self) -> usize {
        self.values.iter().map(Vec::len).sum()
    }
}

impl Teller {
    fn new(store: SharedStore, planes: Arc<Planes>, replica: String) -> Self {
        let allowance = Allowance { left: BURST, at: Instant::now() };
        Self { store, planes, replica, lease: None, written: BTreeMap::new(), allowance }
    }

    /// Writes what is to be written now, the most urgent first.
    async fn tell(&mut self, lease: i64, view: &View) -> Result<(), StoreError> {
        if self.lease != Some(lease) {
            // Whatever was under the old one is gone, or goes.
            (self.lease, self.written) = (Some(lease), BTreeMap::new());
        }
        let told = self.planes.told();
        self.find_strays(view, &told);
        let replicas = u32::try_from(view.replicas.len().max(1)).unwrap_or(u32::MAX);
        self.allowance.earn(RATE / f64::from(replicas));
        let store_id = &view.snapshot.version().store_id;
        // Each is put into words when its turn comes, which for some is not now.
        let due = self.due(told).into_iter().map(|(id, told)| Due::new(id, told, store_id));
        let mut due = due.peekable();
        while self.allowance.left > 0.0 && due.peek().is_some() {
            let mut now: Vec<Due> = Vec::new();
            let (mut writes, mut bytes) = (0, 0);
            while let Some(next) = due.peek() {
                let parts = self.written.get(&next.id).map_or(0, |written| written.parts);
                let more = next.values.len().max(parts);
                if !now.is_empty() && (writes + more > WRITES || bytes + next.bytes() > BYTES) {
                    break;
                }
                (writes, bytes) = (writes + more, bytes + next.bytes());
                now.extend(due.next());
            }
            self.allowance.left -= f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
            self.write(lease, now).await?;
        }
        Ok(())
    }

    /// Writes these, all or none. Where that is not certain, or others were there, the store is asked the next time.
    async fn write(&mut self, lease: i64, now: Vec<Due>) -> Result<(), StoreError> {
        let mut txn = Txn::new();
        for due in &now {
            let (revision, before) = self.at(due).await?;
            let key = |n| keys::report_key(&self.replica, &due.id, n);
            txn = txn.when(&key(0), revision);
            txn = (due.values.len()..before).fold(txn, |txn, n| txn.delete(&key(n)));
            let values = due.values.iter().enumerate();
            txn = values.fold(txn, |txn, (n, value)| txn.put_under(lease, &key(n), value.clone()));
            // Until it is known what came of it.
            let parts = before.max(due.values.len());
            let unsure = Written { told: None, revision: None, parts, at: Instant::now() };
            self.written.insert(due.id.clone(), unsure);
        }
        let revision = match self.store.commit(txn).await {
            Ok(Outcome::Committed(revision)) => revision,
            Ok(Outcome::Conflict) => return Ok(()),
            Err(StoreError::TooLarge(problem)) => {
                for due in now {
                    tracing::warn!(
                        data_plane = due.id,
                        problem,
                        "what it reports is too large for the store"
                    );
                    // Not again until it changes.
                    let at = Instant::now();
                    self.written.insert(due.id, Written { told: due.told, revision: None, parts: 0, at });
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for Due { id, told, values } in now {
            if values.is_empty() {
                self.written.remove(&id);
                continue;
            }
            let at = Instant::now();
            self.written.insert(id, Written { told, revision: Some(revision), parts: values.len(), at });
        }
        Ok(())
    }

    /// The revision of its head, and how many parts may be there.
    async fn at(&self, due: &Due) -> Result<(u64, usize), StoreError> {
        let Some(written) = self.written.get(&due.id) else { return Ok((0, 0)) };
        let revision = match written.revision {
            Some(revision) => revision,
            None => {
                let head = self.store.read(&keys::report_key(&self.replica, &due.id, 0)).await?;
                head.map_or(0, |head| head.mod_revision)
            }
        };
        Ok((revision, written.parts))
    }

    /// Finds what the store has of this replica, and should not have: of a data plane that is not here, and was not known
    /// to be written.
    fn find_strays(&mut self, view: &View, told: &BTreeMap<String, Told>) {
        let mine = keys::reports_of(&self.replica);
        let kept = view.reports.range(mine.clone()..).map_while(|(key, _)| key.strip_prefix(&mine));
        let mut strays: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, n) in kept.filter_map(|kept| kept.split_once('/')) {
            if !told.contains_key(id) && !self.written.contains_key(id) {
                let parts = n.parse::<usize>().map_or(1, |n| n.saturating_add(1)).min(MAX_TXN);
                let most = strays.entry(id).or_default();
                *most = (*most).max(parts);
            }
        }
        for (id, parts) in strays {
            let stray = Written { told: None, revision: None, parts, at: Instant::now() };
            self.written.insert(id.to_owned(), stray);
        }
    }

    /// What is to be written, in this order: what others are to avoid, what changed, what is not here any more, what would
    /// look old; the oldest first.
    fn due(&self, told: BTreeMap<String, Told>) -> Vec<(String, Option<Told>)> {
        let mut due = Vec::new();
        for id in self.written.keys().filter(|id| !told.contains_key(*id)) {
            due.push(((2, None), (id.clone(), None)));
        }
        for (id, told) in told {
            let before = self.written.get(&id);
            let urgency = match before.and_then(|written| Some((written, written.told.as_ref()?))) {
                None => 0,
                Some((_, before)) if before.report.down() != told.report.down() => 0,
                Some((_, before)) if !before.says_the_same(&told) => 1,
                Some((written, _)) if written.at.elapsed() >= REFRESH => 3,
                Some(_) => continue,
            };
            let at = before.map(|written| written.at);
            due.push(((urgency, at), (id, Some(told))));
        }
        due.sort_by_key(|(urgency, _)| *urgency);
        due.into_iter().map(|(_, due)| due).collect()
    }
}

/// As it is written: the head, and parts of what it counts. A CN that has no session and is up is left out.
fn values(id: &str, told: &Told, store_id: &str) -> Vec<Vec<u8>> {
    let report = &told.report;
    let mut parts = vec![pb::KeptReport::default()];
    let mut size = 0;
    let mut part = |parts: &mut Vec<pb::KeptReport>, bytes: usize| {
        if size + bytes > PART && size > 0 {
            parts.push(pb::KeptReport::default());
            size = 0;
        }
        size += bytes;
    };
    for (name, on) in &report.cns {
        let reason: String = on.reason.chars().take(REASON).collect();
        if on.sessions == 0 && on.health == Health::Up {
            continue;
        }
        // Quotes, a number, and what JSON makes of odd characters.
        part(&mut parts, 2 * json_len(name) + json_len(&reason) + 24);
        let Some(part) = parts.last_mut() else { continue };
        if on.sessions > 0 {
            part.sessions.insert(name.clone(), on.sessions);
        }
        match on.health {
            Health::Up => {}
            Health::Unknown => part.unknown.push(name.clone()),
            Health::Down => drop(part.down.insert(name.clone(), reason)),
        }
    }
    for (name, sessions) in &report.tenants {
        part(&mut parts, json_len(name) + 16);
        if let Some(part) = parts.last_mut() {
            part.tenants.insert(name.clone(), *sessions);
        }
    }
    let head = pb::KeptReport {
        data_plane: id.to_owned(),
        incarnation: told.incarnation,
        sequence: report.sequence,
        version: told.version.clone(),
        acknowledged: told.acked,
        revision: report.revision,
        refused: told.refused.chars().take(500).collect(),
        at: Some(told.seen.into()),
        store_id: store_id.to_owned(),
        parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
        ..pb::KeptReport::default()
    };
    let parts = parts.into_iter().map(|part| pb::KeptReport { data_plane: id.to_owned(), ..part });
    std::iter::once(head).chain(parts).map(|value| json::to_stored(&value)).collect()
}

/// At most.
fn json_len(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { 2 } else { 6 * c.len_utf16() }).sum()
}

#[cfg(test)]
mod tests;
