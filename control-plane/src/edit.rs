//! The one way in which this replica changes intent: look at the view, decide, write on condition that nothing was
//! written since, and answer when the view includes it.
//!
//! Each write compares and renews `meta/fence`. So what was validated against the view (a group exists, an address is
//! free, a block of ids is nobody's) still holds when it is written, whichever replica writes at the same time.
//!
//! Must not know: tonic, etcd.

use crate::cluster::{ClusterWatch, View};
use crate::error::Error;
use crate::keys::{self, KeptPlane, LEADER, META_FENCE};
use crate::replica::Leadership;
use crate::store::{MAX_VALUE, Outcome, SharedStore, Txn, Write};
use bytes::Bytes;
use shunt_proto::snapshot::Object;
use shunt_proto::wire::Invalid;
use std::time::Duration;

/// How often a decision is made again when others wrote first.
const TRIES: usize = 10;
/// How long a conflict waits for the view to show what caused it.
const CATCH_UP: Duration = Duration::from_secs(2);

/// What is to be written. Nothing: what was asked for is so already.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    writes: Vec<Write>,
}

impl Edit {
    /// Nothing to write.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Writes an object.
    pub(crate) fn put(&mut self, object: &Object) {
        self.write(object.key(), Some(keys::written(object).into()));
    }

    /// Writes a data plane.
    pub(crate) fn put_plane(&mut self, id: &str, plane: &KeptPlane) {
        self.write(keys::plane_key(id), Some(keys::written_plane(id, plane).into()));
    }

    /// Takes a key away.
    pub(crate) fn delete(&mut self, key: String) {
        self.write(key, None);
    }

    /// What it writes, by key; none: it takes the key away.
    #[cfg(test)]
    pub(crate) fn written(&self) -> std::collections::BTreeMap<String, Option<Bytes>> {
        let written = |write: &Write| match write {
            Write::Put { key, value, .. } => (key.clone(), Some(value.clone())),
            Write::Delete { key } => (key.clone(), None),
        };
        self.writes.iter().map(written).collect()
    }

    fn write(&mut self, key: String, value: Option<Bytes>) {
        self.writes.push(match value {
            Some(value) => Write::Put { key, value, lease: None },
            None => Write::Delete { key },
        });
    }
}

/// Makes edits, one at a time.
pub(crate) struct Edits {
    store: SharedStore,
    cluster: ClusterWatch,
    /// Edits of this replica would only conflict with each other.
    turn: tokio::sync::Mutex<()>,
}

/// What was decided, and the view after it was written.
pub(crate) struct Done<T> {
    pub(crate) answer: T,
    pub(crate) view: std::sync::Arc<View>,
}

impl Edits {
    /// Edits of what `cluster` shows, in `store`.
    pub(crate) fn new(store: SharedStore, cluster: ClusterWatch) -> Self {
        Self { store, cluster, turn: tokio::sync::Mutex::new(()) }
    }

    /// Decides by the view and writes what was decided, again where others were faster. Returns when the view shows
    /// it. Not cancel safe: what was cut off may be written all the same.
    pub(crate) async fn make<T>(
        &self,
        decide: impl Fn(&View) -> Result<(Edit, T), Error>,
    ) -> Result<Done<T>, Error> {
        self.make_fenced(None, decide).await
    }

    /// The same, by a leader: nothing is written unless it leads still.
    pub(crate) async fn make_leading<T>(
        &self,
        leadership: &Leadership,
        decide: impl Fn(&View) -> Result<(Edit, T), Error>,
    ) -> Result<Done<T>, Error> {
        self.make_fenced(Some(leadership), decide).await
    }

    async fn make_fenced<T>(
        &self,
        leadership: Option<&Leadership>,
        decide: impl Fn(&View) -> Result<(Edit, T), Error>,
    ) -> Result<Done<T>, Error> {
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES {
            let view = self.cluster.view();
            if !view.synced() {
                return Err(Error::NotSynced("it does not answer".to_owned()));
            }
            let (edit, answer) = decide(&view)?;
            if edit.writes.is_empty() {
                return Ok(Done { answer, view });
            }
            let mut txn = txn(&view, edit)?;
            if let Some(leadership) = leadership {
                let leading = leadership.now().ok_or(Error::NotLeading)?;
                if view.leader.as_ref().is_some_and(|leader| leader.mod_revision > leading.fence) {
                    return Err(Error::NotLeading);
                }
                if leading.fence != 0 {
                    txn = txn.when(LEADER, leading.fence);
                }
            }
            match self.store.commit(txn).await? {
                Outcome::Committed(revision) => {
                    return Ok(Done { answer, view: self.cluster.reached(revision).await });
                }
                Outcome::Conflict => {
                    let newer = self.cluster.reached(view.seen + 1);
                    // Without news the conflict comes again, and ends the tries.
                    let _ = tokio::time::timeout(CATCH_UP, newer).await;
                }
            }
        }
        Err(Error::Contended)
    }
}

/// The transaction of an edit that was decided by `view`.
fn txn(view: &View, edit: Edit) -> Result<Txn, Error> {
    let fence = Bytes::from(format!("{:032x}", rand::random::<u128>()));
    // First, because an unanswered transaction is read back by its first key: this value is nobody else's.
    let mut txn = Txn::new().when(META_FENCE, view.fence).put(META_FENCE, fence);
    for write in edit.writes {
        let (Write::Put { key, .. } | Write::Delete { key }) = &write;
        if let Write::Put { value, .. } = &write
            && value.len() > MAX_VALUE
        {
            let problem = format!("has {} bytes, at most {MAX_VALUE} are kept", value.len());
            return Err(Error::Invalid(Invalid::new(key, problem)));
        }
        txn = txn.when(key, view.mod_revision(key));
        txn.then.push(write);
    }
    Ok(txn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::store::Store as _;
    use crate::store::embedded::Embedded;
    use std::sync::Arc;

    /// A store in which a leader began to lead, and another one after it.
    #[tokio::test]
    async fn what_a_leader_of_the_past_decided_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(folder.path()).await.unwrap());
        let (mut cluster, watch) = Cluster::new();
        let plane = KeptPlane { first_session_id: 1 << 30, version: "1".into() };
        let lead = async |replica: &str| {
            let leader = keys::Leader { replica: replica.into(), lease: 1 };
            match store.commit(Txn::new().put(LEADER, keys::written_leader(&leader))).await.unwrap() {
                Outcome::Committed(revision) => revision,
                Outcome::Conflict => unreachable!("without a condition"),
            }
        };
        let decide = |_: &View| {
            let mut edit = Edit::new();
            edit.put_plane("dp-1", &plane);
            Ok((edit, ()))
        };
        let first = lead("cp-1").await;
        let of_first = Leadership::with(first);
        let edits = Edits::new(Arc::clone(&store) as SharedStore, watch);
        cluster.reset("a-store", store.load().await.unwrap()).unwrap();

        // The first one has not heard yet that there is a second one: the store refuses it.
        let second = lead("cp-2").await;
        let written = edits.make_leading(&of_first, decide);
        assert!(
            tokio::time::timeout(Duration::from_millis(500), written).await.is_err(),
            "it is tried again"
        );
        assert_eq!(store.read("dp/dp-1").await.unwrap(), None);
        // It has: it does not even try.
        cluster.reset("a-store", store.load().await.unwrap()).unwrap();
        let refused = edits.make_leading(&of_first, decide).await.err();
        assert_eq!(refused, Some(Error::NotLeading));
        let of_second = Leadership::with(second);
        let written = edits.make_leading(&of_second, decide);
        let _ = tokio::time::timeout(Duration::from_millis(500), written).await;
        assert!(store.read("dp/dp-1").await.unwrap().is_some());
        store.close().await;
    }
}
