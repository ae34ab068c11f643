//! The data planes: which are connected to this replica, what each of them reported last, and the way to ask them.
//!
//! Of one id the highest incarnation counts, and of its reports the highest sequence. What a data plane reported stays
//! for [`STALE`] after its stream ended, because its sessions most likely still live; then it is dropped.
//!
//! Must not know: tonic, what is done with the counts.

use crate::error::Error;
use crate::health::{Said, health};
use parking_lot::Mutex;
use shunt_proto::cn::Health;
use shunt_proto::pb;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long counts of a data plane that is gone stay.
pub(crate) const STALE: Duration = Duration::from_secs(120);
/// Orders that wait for one data plane.
const WAITING: usize = 64;

/// What a data plane counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) sequence: u64,
    /// The revision that every worker of it picks by.
    pub(crate) revision: u64,
    /// By name.
    pub(crate) cns: HashMap<String, OnCn>,
    /// Sessions by tenant.
    pub(crate) tenants: HashMap<String, u32>,
}

/// What a data plane says of one CN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OnCn {
    pub(crate) sessions: u32,
    pub(crate) health: Health,
    pub(crate) reason: String,
}

/// Who says hello.
#[derive(Clone, Debug)]
pub(crate) struct Newcomer {
    pub(crate) id: String,
    pub(crate) incarnation: u64,
    pub(crate) version: String,
    /// What it says that it holds.
    pub(crate) revision: u64,
}

/// What a data plane is asked on its stream.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Sessions, in the order of their ids.
    List(pb::order::ListSessions),
    /// End a session, or its statement.
    Kill(pb::order::KillOrder),
    /// Move a session.
    Move(pb::order::MoveOrder),
    /// Even out its sessions.
    Rebalance(pb::order::Rebalance),
}

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Sessions { sessions: Vec<pb::Session>, more: bool },
    Killed(pb::killed::Outcome),
    Moved(pb::Moved),
    Plan(pb::order::Plan),
}

/// A question on its way. Dropping it unanswered tells the asker.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// How a data plane shows.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) connected: bool,
    pub(crate) sessions: u32,
    pub(crate) revision: u64,
    pub(crate) version: String,
    pub(crate) refused: String,
    pub(crate) seen: SystemTime,
}

/// Sums over all data planes.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Sessions by CN.
    pub(crate) cns: HashMap<String, u32>,
    /// Sessions by tenant.
    pub(crate) tenants: HashMap<String, u32>,
    /// All sessions.
    pub(crate) sessions: u32,
}

/// All data planes that were connected lately.
#[derive(Debug)]
pub(crate) struct Planes {
    inner: Mutex<Inner>,
    /// Tells that something changed.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    planes: BTreeMap<String, Plane>,
    streams: u64,
    totals: Option<Arc<Totals>>,
}

#[derive(Debug)]
struct Plane {
    incarnation: u64,
    version: String,
    acked: u64,
    refused: String,
    report: Report,
    seen: SystemTime,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Connected { stream: u64, asks: mpsc::Sender<Asked>, superseded: CancellationToken },
    Gone { since: Instant },
}

/// A data plane's stream among the [`Planes`]. Dropping it says that the stream ended.
#[derive(Debug)]
pub(crate) struct Enrolled {
    planes: Arc<Planes>,
    id: String,
    stream: u64,
    /// What it is asked.
    pub(crate) asks: mpsc::Receiver<Asked>,
    /// Cancelled when a newer stream of the same data plane has come.
    pub(crate) superseded: CancellationToken,
}

impl Planes {
    /// None yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// Tells that a report, an acknowledgement or a stream came or went.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Takes a stream in, in place of an older one of the same data plane.
    ///
    /// # Errors
    /// [`Error::OlderIncarnation`]: a newer start of it was here.
    pub(crate) fn enrol(self: &Arc<Self>, newcomer: Newcomer) -> Result<Enrolled, Error> {
        let Newcomer { id, incarnation, version, revision } = newcomer;
        let mut inner = self.inner.lock();
        inner.streams += 1;
        let stream = inner.streams;
        let mut report = Report::default();
        if let Some(before) = inner.planes.get_mut(&id) {
            if before.incarnation > incarnation {
                return Err(Error::OlderIncarnation { id, incarnation, newest: before.incarnation });
            }
            if let Link::Connected { superseded, .. } = &before.link {
                superseded.cancel();
            }
            // The same process: what it reported still holds until it reports again.
            if before.incarnation == incarnation {
                report = std::mem::take(&mut before.report);
            }
        }
        let (sender, asks) = mpsc::channel(WAITING);
        let superseded = CancellationToken::new();
        let link = Link::Connected { stream, asks: sender, superseded: superseded.clone() };
        let plane = Plane {
            incarnation,
            version,
            acked: revision,
            refused: String::new(),
            report,
            seen: SystemTime::now(),
            link,
        };
        inner.planes.insert(id.clone(), plane);
        self.tell(inner);
        Ok(Enrolled { planes: Arc::clone(self), id, stream, asks, superseded })
    }

    /// Asks a data plane. None: it is not connected, or has more to answer than it can.
    pub(crate) fn ask(&self, id: &str, ask: Ask) -> Option<oneshot::Receiver<Answer>> {
        let inner = self.inner.lock();
        let Link::Connected { asks, .. } = &inner.planes.get(id)?.link else { return None };
        let (answer, receiver) = oneshot::channel();
        asks.try_send(Asked { ask, answer }).ok()?;
        Some(receiver)
    }

    /// The ids of those that are connected.
    pub(crate) fn connected(&self) -> Vec<String> {
        let inner = self.inner.lock();
        inner.planes.iter().filter(|(_, plane)| plane.connected()).map(|(id, _)| id.clone()).collect()
    }

    /// The ids of those that are gone, and had sessions.
    pub(crate) fn silent(&self) -> Vec<String> {
        let inner = self.inner.lock();
        let had = |plane: &Plane| plane.report.cns.values().any(|cn| cn.sessions > 0);
        let silent = inner.planes.iter().filter(|(_, plane)| !plane.connected() && had(plane));
        silent.map(|(id, _)| id.clone()).collect()
    }

    /// Whether that one is connected.
    pub(crate) fn is_connected(&self, id: &str) -> bool {
        self.inner.lock().planes.get(id).is_some_and(Plane::connected)
    }

    /// Drops what is known of one, unless it is connected.
    pub(crate) fn forget(&self, id: &str) {
        let mut inner = self.inner.lock();
        if inner.planes.get(id).is_some_and(|plane| !plane.connected()) {
            inner.planes.remove(id);
            self.tell(inner);
        }
    }

    /// Drops counts that are too old at `now`.
    pub(crate) fn expire(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let before = inner.planes.len();
        inner.planes.retain(|_, plane| match plane.link {
            Link::Connected { .. } => true,
            Link::Gone { since } => now.saturating_duration_since(since) < STALE,
        });
        if inner.planes.len() != before {
            self.tell(inner);
        }
    }

    /// How one shows; none: it was not here lately.
    pub(crate) fn shown(&self, id: &str) -> Option<Shown> {
        self.inner.lock().planes.get(id).map(|plane| Shown {
            connected: plane.connected(),
            sessions: plane.report.cns.values().fold(0, |sum, cn| sum.saturating_add(cn.sessions)),
            revision: plane.report.revision.max(plane.acked),
            version: plane.version.clone(),
            refused: plane.refused.clone(),
            seen: plane.seen,
        })
    }

    /// Sums over all, those included whose streams ended lately.
    pub(crate) fn totals(&self) -> Arc<Totals> {
        let mut inner = self.inner.lock();
        if let Some(totals) = &inner.totals {
            return Arc::clone(totals);
        }
        let mut totals = Totals::default();
        for plane in inner.planes.values() {
            for (name, cn) in &plane.report.cns {
                add(&mut totals.cns, name, cn.sessions);
                totals.sessions = totals.sessions.saturating_add(cn.sessions);
            }
            for (name, sessions) in &plane.report.tenants {
                add(&mut totals.tenants, name, *sessions);
            }
        }
        let totals = Arc::new(totals);
        inner.totals = Some(Arc::clone(&totals));
        totals
    }

    /// What the connected ones say of a CN, and why it is down.
    pub(crate) fn health(&self, cn: &str) -> (Health, String) {
        let inner = self.inner.lock();
        health(inner.planes.iter().filter(|(_, plane)| plane.connected()).filter_map(|(id, plane)| {
            let on = plane.report.cns.get(cn)?;
            Some(Said { plane: id, health: on.health, reason: &on.reason })
        }))
    }

    /// Whether no data plane can have a session on `cn`, which takes none since `revision`.
    pub(crate) fn is_clear<'a>(
        &self,
        cn: &str,
        revision: u64,
        stored: impl Iterator<Item = &'a String>,
    ) -> bool {
        self.waits_for(cn, revision, stored).is_empty()
    }

    /// The data planes that may have a session on `cn`, which takes none since `revision`: each that the store knows
    /// (`stored`), connected or not, which has not acknowledged that and reported none by it, for it goes on without us;
    /// and each that left, and left some.
    pub(crate) fn waits_for<'a>(
        &self,
        cn: &str,
        revision: u64,
        stored: impl Iterator<Item = &'a String>,
    ) -> Vec<String> {
        let inner = self.inner.lock();
        let stored: BTreeSet<&String> = stored.collect();
        let unknown = stored.iter().copied().filter(|id| !inner.planes.contains_key(*id));
        let may_have = inner.planes.iter().filter(|(id, plane)| {
            let none = plane.report.cns.get(cn).is_none_or(|on| on.sessions == 0);
            let behind = plane.acked < revision || plane.report.revision < revision;
            !none || (behind && (plane.connected() || stored.contains(id)))
        });
        unknown.chain(may_have.map(|(id, _)| id)).cloned().collect()
    }

    /// After a change, with the lock that it was made under.
    fn tell(&self, mut inner: parking_lot::MutexGuard<'_, Inner>) {
        inner.totals = None;
        drop(inner);
        self.changed.send_replace(());
    }

    /// Changes the plane of a stream, if the stream is still its newest.
    fn change(&self, enrolled: &Enrolled, change: impl FnOnce(&mut Plane)) {
        let mut inner = self.inner.lock();
        let Some(plane) = inner.planes.get_mut(&enrolled.id) else { return };
        if matches!(plane.link, Link::Connected { stream, .. } if stream == enrolled.stream) {
            change(plane);
            plane.seen = SystemTime::now();
            self.tell(inner);
        }
    }
}

fn add(sums: &mut HashMap<String, u32>, name: &str, count: u32) {
    match sums.get_mut(name) {
        Some(sum) => *sum = sum.saturating_add(count),
        None => {
            sums.insert(name.to_owned(), count);
        }
    }
}

impl Plane {
    const fn connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }
}

impl Enrolled {
    /// The data plane.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// It applied a frame, or refused it.
    pub(crate) fn acked(&self, revision: u64, refused: &str) {
        self.planes.change(self, |plane| {
            refused.clone_into(&mut plane.refused);
            if refused.is_empty() {
                plane.acked = revision;
            }
        });
    }

    /// It counted.
    pub(crate) fn reported(&self, report: Report) {
        self.planes.change(self, |plane| {
            if report.sequence >= plane.report.sequence {
                plane.report = report;
            }
        });
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.planes.change(self, |plane| plane.link = Link::Gone { since: Instant::now() });
    }
}

#[cfg(test)]
mod tests;
