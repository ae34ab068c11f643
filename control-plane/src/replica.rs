//! This process as one of several replicas: its lease, its place in the store, and whether it leads.
//!
//! All that a replica keeps about itself is under one lease: who cannot keep it alive is gone for the others, and leads no
//! more. A leader acts only while its own clock says that the lease lives, and what it writes compares the revision at
//! which it began to lead: one that was stopped and wakes up writes nothing.
//!
//! Must not know: what a leader does.

use crate::cluster::ClusterWatch;
use crate::follow::Standing;
use crate::keys::{self, LEADER};
use crate::store::{Outcome, SharedStore, StoreError, Txn};
use shunt_proto::pb;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How long a replica may be silent before it is gone for the others.
const TTL: Duration = Duration::from_secs(6);
/// How often it says that it lives.
const EVERY: Duration = Duration::from_secs(1);
/// How long before its lease can end a leader stops to act: longer than one transaction may be under way.
const MARGIN: Duration = Duration::from_secs(2);
/// How long giving up its lease may take when it ends.
const RESIGNING: Duration = Duration::from_secs(2);

/// What a replica holds in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whatever it keeps of itself is under this; none: it has none, or has lost it.
    pub(crate) lease: Option<i64>,
    /// It leads.
    pub(crate) leading: Option<Leading>,
}

/// A leadership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leading {
    /// The revision at which it began: the fence of what the leader writes. 0: there are no others to be fenced off.
    pub(crate) fence: u64,
    /// Until when it holds in any case; none: for good.
    until: Option<Instant>,
}

impl Leading {
    /// Of the only replica of a store.
    const ALONE: Self = Self { fence: 0, until: None };

    /// Whether it holds for certain.
    pub(crate) fn holds(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// Whether this replica leads, for whoever acts on it.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<Held>);

impl Leadership {
    /// The leadership, as long as it holds for certain.
    pub(crate) fn now(&self) -> Option<Leading> {
        self.0.borrow().leading.filter(Leading::holds)
    }

    /// Tells that it began or ended.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// One that begins at that revision and holds for good.
    #[cfg(test)]
    pub(crate) fn with(fence: u64) -> Self {
        let leading = Some(Leading { fence, until: None });
        Self(watch::Sender::new(Held { lease: None, leading }).subscribe())
    }

    /// What this replica keeps of itself is under this lease, if it has one.
    pub(crate) fn lease(&self) -> Option<i64> {
        self.0.borrow().lease
    }
}

/// A replica.
pub(crate) struct Replica {
    store: SharedStore,
    cluster: ClusterWatch,
    standing: watch::Receiver<Standing>,
    myself: pb::Replica,
    held: watch::Sender<Held>,
    /// Until when its lease lives in any case.
    until: Instant,
    /// When what it knows was last in step with the store.
    in_step: Instant,
    /// The revision at which it entered.
    entered: u64,
}

impl Replica {
    /// One that has nothing yet. `myself` is how the others know it; none: there are no others, and it leads.
    pub(crate) fn new(
        store: SharedStore,
        cluster: ClusterWatch,
        standing: watch::Receiver<Standing>,
        myself: Option<pb::Replica>,
    ) -> (Option<Self>, Leadership) {
        let alone = Held { lease: None, leading: Some(Leading::ALONE) };
        let held = watch::Sender::new(if myself.is_some() { Held::default() } else { alone });
        let leadership = Leadership(held.subscribe());
        let now = Instant::now();
        let replica = myself.map(|myself| Self {
            store,
            cluster,
            standing,
            myself,
            held,
            until: now,
            in_step: now,
            entered: 0,
        });
        (replica, leadership)
    }

    /// Keeps its place in the store until `over`, and gives it up then.
    pub(crate) async fn run(mut self, over: CancellationToken) -> anyhow::Result<()> {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = over.cancelled() => break,
                _ = every.tick() => {}
            }
            let stepped = tokio::select! {
                () = over.cancelled() => break,
                stepped = self.step() => stepped,
            };
            match stepped {
                Ok(()) => {}
                Err(StoreError::NoLease(_)) => self.lost("its lease ended").await,
                Err(error) => {
                    tracing::debug!(%error, "keep this replica's place");
                    if Instant::now() >= self.until {
                        self.lost("the store does not answer").await;
                    }
                }
            }
        }
        self.lost("it ends").await;
        Ok(())
    }

    /// Says that it lives, enters itself where it is not entered, and leads where nobody does.
    async fn step(&mut self) -> Result<(), StoreError> {
        let view = self.cluster.view();
        if *self.standing.borrow() == Standing::InStep {
            self.in_step = Instant::now();
        }
        if !view.synced() {
            return Ok(());
        }
        if self.in_step.elapsed() > TTL {
            // It may be another store by now, or one that says nothing to us: it is for others to lead.
            self.lost("what it knows is old").await;
            return Ok(());
        }
        let asked = Instant::now();
        let held = self.held.borrow().lease;
        let lease = match held {
            Some(lease) => {
                self.store.keep_alive(lease).await?;
                lease
            }
            None => self.enter().await?,
        };
        self.until = asked + TTL;
        if view.seen >= self.entered && !view.replicas.contains_key(&self.myself.id) {
            return Err(StoreError::NoLease(lease));
        }
        let fence = self.lead(lease).await?;
        let leading = fence.map(|fence| Leading { fence, until: Some(self.until - MARGIN) });
        let led = self.held.borrow().leading.map(|leading| leading.fence);
        if led != fence {
            tracing::info!(replica = self.myself.id, leads = fence.is_some(), "leadership");
        }
        self.held.send_replace(Held { lease: Some(lease), leading });
        Ok(())
    }

    async fn enter(&mut self) -> Result<i64, StoreError> {
        let lease = self.store.lease(TTL).await?;
        // From here on it is given back if anything fails.
        self.held.send_replace(Held { lease: Some(lease), leading: None });
        let value = shunt_proto::json::to_stored(&self.myself);
        let txn = Txn::new().put_under(lease, &keys::replica_key(&self.myself.id), value);
        if let Outcome::Committed(revision) = self.store.commit(txn).await? {
            self.entered = revision;
        }
        tracing::info!(replica = self.myself.id, api = self.myself.api, "replica entered the store");
        Ok(lease)
    }

    /// The revision at which it began to lead; none: another one does.
    async fn lead(&self, lease: i64) -> Result<Option<u64>, StoreError> {
        let mine = keys::Leader { replica: self.myself.id.clone(), lease };
        // As it is, not as it was seen: its own word may not have come back yet.
        let kept = self.store.read(LEADER).await?;
        if let Some(item) = kept {
            let is_mine =
                serde_json::from_slice::<keys::Leader>(&item.value).is_ok_and(|leader| leader == mine);
            return Ok(is_mine.then_some(item.mod_revision));
        }
        let txn = Txn::new().when(LEADER, 0).put_under(lease, LEADER, keys::written_leader(&mine));
        match self.store.commit(txn).await? {
            Outcome::Committed(revision) => Ok(Some(revision)),
            Outcome::Conflict => Ok(None),
        }
    }

    /// It has nothing in the store any more, and gives back what it may have.
    async fn lost(&self, why: &str) {
        let held = self.held.send_replace(Held::default());
        if let Some(lease) = held.lease {
            tracing::info!(replica = self.myself.id, why, "replica leaves the store");
            let _ = timeout(RESIGNING, self.store.revoke(lease)).await;
        }
    }
}
