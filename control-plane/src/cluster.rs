//! What is known of the cluster: what the store said goes in, an `Arc<RoutingSnapshot>` comes out.
//!
//! [`Cluster`] has one writer, the follower of the store, and any number of readers through [`ClusterWatch`]. A stored
//! value that cannot be read is kept out with a warning that names its key, and what was last read of it stays; so
//! does a CN whose group is not there, because without its group's labels and tenant it would serve anybody.
//!
//! Must not know: etcd, tonic, who leads.

use crate::history::History;
use crate::keys::{self, KeptPlane, Value};
use crate::store::{Batch, Loaded};
use shunt_proto::pb;
use shunt_proto::snapshot::{Entry, Object, RoutingSnapshot, Version, digest};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A data plane that the store knows, with the revision of its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredPlane {
    pub(crate) kept: KeptPlane,
    pub(crate) mod_revision: u64,
}

/// Who leads, with the revision at which it began: what it writes holds only as long as that is so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) kept: keys::Leader,
    pub(crate) mod_revision: u64,
}

/// A part of what a data plane reported, with the revision of its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) report: pb::KeptReport,
    pub(crate) mod_revision: u64,
}

/// All that was read of the store, at one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Changes only when routing state does.
    pub(crate) snapshot: Arc<RoutingSnapshot>,
    /// How its versions came about.
    pub(crate) history: Arc<History>,
    /// The store's revision; at or after the snapshot's.
    pub(crate) seen: u64,
    /// The revision of `meta/fence`.
    pub(crate) fence: u64,
    /// By id.
    pub(crate) planes: Arc<BTreeMap<String, StoredPlane>>,
    /// By id.
    pub(crate) replicas: Arc<BTreeMap<String, pb::Replica>>,
    pub(crate) leader: Option<Leader>,
    /// What data planes reported to which replica, by key.
    pub(crate) reports: Arc<BTreeMap<String, Arc<Stored>>>,
    /// Revisions of the values that could not be read, by key.
    pub(crate) unreadable: Arc<BTreeMap<String, u64>>,
    /// Revisions of the CNs that are kept out because their group is not there, by key.
    pub(crate) orphans: Arc<BTreeMap<String, u64>>,
}

impl View {
    /// Whether the store was read at all.
    pub(crate) fn synced(&self) -> bool {
        !self.snapshot.version().store_id.is_empty()
    }

    /// The revision of a key's last write; 0: it is not there.
    pub(crate) fn mod_revision(&self, key: &str) -> u64 {
        if let Some(revision) = self.unreadable.get(key).or_else(|| self.orphans.get(key)) {
            return *revision;
        }
        if let Some(plane) = key.strip_prefix("dp/").and_then(|id| self.planes.get(id)) {
            return plane.mod_revision;
        }
        self.snapshot.entry(key).map_or(0, |entry| entry.mod_revision)
    }
}

/// The writer's side.
pub(crate) struct Cluster {
    store_id: String,
    /// The last good value of each key.
    routing: BTreeMap<String, Entry>,
    /// CNs that are kept out of the snapshot, with the revisions of their last good values.
    orphans: Arc<BTreeMap<String, u64>>,
    history: History,
    view: watch::Sender<Arc<View>>,
    snapshot: watch::Sender<Arc<RoutingSnapshot>>,
}

/// The readers' side.
#[derive(Clone)]
pub(crate) struct ClusterWatch {
    view: watch::Receiver<Arc<View>>,
    snapshot: watch::Receiver<Arc<RoutingSnapshot>>,
}

impl ClusterWatch {
    /// What is known now.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Tells each newest view.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The routing state now.
    pub(crate) fn snapshot(&self) -> Arc<RoutingSnapshot> {
        Arc::clone(&self.snapshot.borrow())
    }

    /// Tells each newest routing state.
    pub(crate) fn snapshots(&self) -> watch::Receiver<Arc<RoutingSnapshot>> {
        self.snapshot.clone()
    }

    /// Waits until the view includes `revision` of the store. Cancel safe.
    pub(crate) async fn reached(&self, revision: u64) -> Arc<View> {
        let mut view = self.view.clone();
        let reached = view.wait_for(|view| view.seen >= revision).await.map(|view| Arc::clone(&view));
        match reached {
            Ok(view) => view,
            // The writer is gone: the process ends, and so does whoever waits.
            Err(_) => std::future::pending().await,
        }
    }
}

/// The store is another one than the one that was followed so far.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store says that it is {found}, and was {followed}: its state is not taken; restart to take it")]
pub(crate) struct OtherStore {
    followed: String,
    found: String,
}

impl Cluster {
    /// A cluster of which nothing is known yet.
    pub(crate) fn new() -> (Self, ClusterWatch) {
        let (view, view_watch) = watch::channel(Arc::default());
        let (snapshot, snapshot_watch) = watch::channel(Arc::default());
        let cluster = Self {
            store_id: String::new(),
            routing: BTreeMap::new(),
            orphans: Arc::default(),
            history: History::default(),
            view,
            snapshot,
        };
        (cluster, ClusterWatch { view: view_watch, snapshot: snapshot_watch })
    }

    /// Takes all that the store holds in place of what was known.
    ///
    /// # Errors
    /// [`OtherStore`]: nothing was taken.
    pub(crate) fn reset(&mut self, store_id: &str, loaded: Loaded) -> Result<(), OtherStore> {
        if !self.store_id.is_empty() && self.store_id != store_id {
            return Err(OtherStore { followed: self.store_id.clone(), found: store_id.to_owned() });
        }
        store_id.clone_into(&mut self.store_id);
        let mut last_good = std::mem::take(&mut self.routing);
        let mut view = View { seen: loaded.revision, ..View::default() };
        for item in loaded.items {
            if let Some(good) = last_good.remove(&item.key) {
                self.routing.insert(item.key.clone(), good);
            }
            self.take(&mut view, &item.key, item.mod_revision, Some(&item.value));
        }
        self.publish(view, true);
        Ok(())
    }

    /// Takes changes, in the order in which the store made them.
    pub(crate) fn apply(&mut self, batch: &Batch) {
        let mut view = View::clone(&self.view.borrow());
        view.seen = batch.revision;
        for change in &batch.changes {
            self.take(&mut view, &change.key, change.mod_revision, change.value.as_deref());
        }
        self.publish(view, batch.changes.iter().any(|change| !keys::is_passing(&change.key)));
    }

    /// One key. None: it is gone.
    fn take(&mut self, view: &mut View, key: &str, mod_revision: u64, value: Option<&[u8]>) {
        if view.unreadable.contains_key(key) {
            Arc::make_mut(&mut view.unreadable).remove(key);
        }
        let Some(value) = value else {
            self.routing.remove(key);
            if key == keys::META_FENCE {
                view.fence = 0;
            }
            if key == keys::LEADER {
                view.leader = None;
            }
            if let Some(id) = key.strip_prefix("dp/") {
                Arc::make_mut(&mut view.planes).remove(id);
            }
            if let Some(id) = key.strip_prefix("replica/") {
                Arc::make_mut(&mut view.replicas).remove(id);
            }
            if view.reports.contains_key(key) {
                Arc::make_mut(&mut view.reports).remove(key);
            }
            return;
        };
        match keys::read(key, mod_revision, value) {
            Ok(Value::Routing(entry)) => {
                self.routing.insert(key.to_owned(), entry);
            }
            Ok(Value::Plane(id, kept)) => {
                Arc::make_mut(&mut view.planes).insert(id, StoredPlane { kept, mod_revision });
            }
            Ok(Value::Fence) => view.fence = mod_revision,
            Ok(Value::Leader(kept)) => view.leader = Some(Leader { kept, mod_revision }),
            Ok(Value::Replica(replica)) => {
                Arc::make_mut(&mut view.replicas).insert(replica.id.clone(), *replica);
            }
            Ok(Value::Report(report)) => {
                let stored = Arc::new(Stored { report: *report, mod_revision });
                Arc::make_mut(&mut view.reports).insert(key.to_owned(), stored);
            }
            Ok(Value::Store(_) | Value::Other) => {}
            Err(error) => {
                tracing::warn!(key, mod_revision, problem = %error.problem, "stored value is kept out");
                Arc::make_mut(&mut view.unreadable).insert(key.to_owned(), mod_revision);
            }
        }
    }

    /// Tells the readers. The snapshot is new only if its content is, which it is not where nothing of it was touched.
    fn publish(&mut self, mut view: View, is_touched: bool) {
        if !is_touched {
            self.view.send_replace(Arc::new(view));
            return;
        }
        let entries = self.usable();
        view.orphans = Arc::clone(&self.orphans);
        let at = Arc::clone(&self.snapshot.borrow());
        let version =
            Version { store_id: self.store_id.clone(), revision: view.seen, digest: digest(&entries) };
        let same = at.version().store_id == version.store_id && at.version().digest == version.digest;
        if same && at.version().revision <= version.revision {
            view.snapshot = at;
            view.history = Arc::new(self.history.clone());
            self.view.send_replace(Arc::new(view));
            return;
        }
        let newest = RoutingSnapshot::from_entries(version, entries).expect("the digest is theirs");
        let newest = Arc::new(newest);
        if at.version().revision > newest.version().revision {
            self.history.clear();
        } else {
            self.history.push(&newest.delta_from(&at));
        }
        view.snapshot = Arc::clone(&newest);
        view.history = Arc::new(self.history.clone());
        // First the view: who was told of the snapshot finds its history there.
        self.view.send_replace(Arc::new(view));
        self.snapshot.send_replace(newest);
    }

    /// The entries that count: all but CNs whose group is not there.
    fn usable(&mut self) -> Vec<Entry> {
        let orphan = |entry: &Entry| {
            match &entry.object {
                Object::Cn(cn) => {
                    cn.group.as_ref().filter(|g| !self.routing.contains_key(&format!("group/{g}")))
                }
                _ => None,
            }
            .cloned()
        };
        let mut orphans = BTreeMap::new();
        let mut usable = Vec::with_capacity(self.routing.len());
        for (key, entry) in &self.routing {
            match orphan(entry) {
                Some(group) => {
                    if !self.orphans.contains_key(key) {
                        tracing::warn!(key, group, "CN is kept out: its group is not there");
                    }
                    orphans.insert(key.clone(), entry.mod_revision);
                }
                None => usable.push(entry.clone()),
            }
        }
        self.orphans = Arc::new(orphans);
        usable
    }
}

#[cfg(test)]
mod tests;
