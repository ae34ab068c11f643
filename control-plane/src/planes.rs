//! The data planes: which are connected to this replica and to others, what each of them reported last, and the way to ask
//! those that are here.
//!
//! Of one id the highest incarnation counts, and of its reports the highest sequence, to whichever replica it reported:
//! so every replica knows the whole, and none counts one twice. What a data plane reported stays for [`STALE`] after its
//! stream ended, because its sessions most likely still live; then it is dropped.
//!
//! Must not know: tonic, the store, what is done with the counts.

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
    /// 0: it has not reported yet.
    pub(crate) sequence: u64,
    /// The revision that every worker of it picks by.
    pub(crate) revision: u64,
    /// By name.
    pub(crate) cns: BTreeMap<String, OnCn>,
    /// What it says of every other CN.
    pub(crate) rest: Health,
    /// Sessions by tenant.
    pub(crate) tenants: BTreeMap<String, u32>,
}

impl Report {
    /// The CNs that are down for it.
    pub(crate) fn down(&self) -> BTreeSet<&str> {
        self.cns.iter().filter(|(_, on)| on.health == Health::Down).map(|(name, _)| name.as_str()).collect()
    }
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
    /// Of its last report, wherever it sent that.
    pub(crate) sequence: u64,
}

/// What a data plane reported last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) incarnation: u64,
    pub(crate) version: String,
    /// The newest state that it acknowledged.
    pub(crate) acked: u64,
    pub(crate) refused: String,
    pub(crate) report: Arc<Report>,
    pub(crate) seen: SystemTime,
}

/// The same, to another replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) replica: String,
    pub(crate) told: Told,
}

impl Told {
    /// Whether it says the same, but for when.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let Self { incarnation, version, acked, refused, report, seen: _ } = self;
        let said = (&report.revision, &report.cns, &report.tenants);
        (incarnation, version, acked, refused)
            == (&other.incarnation, &other.version, &other.acked, &other.refused)
            && said == (&other.report.revision, &other.report.cns, &other.report.tenants)
    }
}

/// Where a data plane can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Here,
    /// At this replica.
    Elsewhere(String),
    Nowhere,
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
    /// How often a CN came up or went down for one that is connected.
    edges: u64,
    totals: Option<Arc<Totals>>,
}

#[derive(Debug)]
struct Plane {
    told: Told,
    /// Of the last report that it had sent when its stream began: what others heard up to that is older than the stream.
    sequence: u64,
    /// The revision at which the store had its block of session ids; 0: it has not been claimed yet.
    claimed: u64,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Connected {
        stream: u64,
        asks: mpsc::Sender<Asked>,
        superseded: CancellationToken,
    },
    /// It is connected to another replica.
    Elsewhere {
        replica: String,
    },
    Gone {
        since: Instant,
    },
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
        let Newcomer { id, incarnation, version, revision, sequence } = newcomer;
        let mut inner = self.inner.lock();
        inner.streams += 1;
        let stream = inner.streams;
        let mut report = Arc::default();
        if let Some(before) = inner.planes.get_mut(&id) {
            if before.told.incarnation > incarnation {
                return Err(Error::OlderIncarnation { id, incarnation, newest: before.told.incarnation });
            }
            if let Link::Connected { superseded, .. } = &before.link {
                superseded.cancel();
            }
            // The same process: what it reported still holds until it reports again.
            if before.told.incarnation == incarnation {
                report = std::mem::take(&mut before.told.report);
            }
        }
        let (sender, asks) = mpsc::channel(WAITING);
        let superseded = CancellationToken::new();
        let link = Link::Connected { stream, asks: sender, superseded: superseded.clone() };
        let told = Told {
            incarnation,
            version,
            acked: revision,
            refused: String::new(),
            report,
            seen: SystemTime::now(),
        };
        let plane = Plane { told, sequence, claimed: 0, link };
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

    /// Where that one can be asked.
    pub(crate) fn whereabouts(&self, id: &str) -> Whereabouts {
        match self.inner.lock().planes.get(id).map(|plane| &plane.link) {
            Some(Link::Connected { .. }) => Whereabouts::Here,
            Some(Link::Elsewhere { replica }) => Whereabouts::Elsewhere(replica.clone()),
            Some(Link::Gone { .. }) | None => Whereabouts::Nowhere,
        }
    }

    /// Takes in what a data plane reported last to another replica; none: nothing is known of that any more.
    pub(crate) fn heard(&self, id: &str, heard: Option<Heard>) {
        let mut inner = self.inner.lock();
        let down = |inner: &Inner| {
            let plane = inner.planes.get(id).filter(|plane| plane.connected());
            plane
                .map(|plane| plane.told.report.down().into_iter().map(str::to_owned).collect::<BTreeSet<_>>())
        };
        let before = down(&inner);
        let changed = match (inner.planes.get_mut(id), heard) {
            (Some(plane), Some(heard)) => plane.heard(heard),
            (None, Some(heard)) => {
                inner.planes.insert(id.to_owned(), Plane::elsewhere(heard));
                true
            }
            (Some(plane), None) if matches!(plane.link, Link::Elsewhere { .. }) => {
                plane.link = Link::Gone { since: Instant::now() };
                true
            }
            (_, None) => false,
        };
        if changed {
            inner.edges += u64::from(down(&inner) != before);
            self.tell(inner);
        }
    }

    /// These are the data planes that the store knows at revision `seen`: what is known of any other is over. One that is
    /// connected here all the same is to come again, for its session ids may be given to another one.
    pub(crate) fn are_stored(&self, seen: u64, stored: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        let before = inner.planes.len();
        inner.planes.retain(|id, plane| {
            if let Link::Connected { superseded, .. } = &plane.link {
                if plane.claimed != 0 && plane.claimed <= seen && !stored(id) {
                    superseded.cancel();
                }
                return true;
            }
            stored(id)
        });
        if inner.planes.len() != before {
            self.tell(inner);
        }
    }

    /// The store is at an older state than it was: nobody has acknowledged what comes from now on.
    pub(crate) fn went_back(&self) {
        let mut inner = self.inner.lock();
        for plane in inner.planes.values_mut() {
            plane.told.acked = 0;
            Arc::make_mut(&mut plane.told.report).revision = 0;
        }
        self.tell(inner);
    }

    /// Differs whenever a CN came up or went down for a data plane that is connected, or one came or went that says so.
    pub(crate) fn edges(&self) -> u64 {
        self.inner.lock().edges
    }

    /// The CNs that are down for some that is connected.
    pub(crate) fn down(&self) -> BTreeSet<String> {
        let inner = self.inner.lock();
        let connected = inner.planes.values().filter(|plane| plane.connected());
        connected.flat_map(|plane| plane.told.report.down()).map(str::to_owned).collect()
    }

    /// What those that are connected here reported last, by id.
    pub(crate) fn told(&self) -> BTreeMap<String, Told> {
        let inner = self.inner.lock();
        let here =
            inner.planes.iter().filter(|(_, plane)| plane.is_here() && plane.told.report.sequence != 0);
        here.map(|(id, plane)| (id.clone(), plane.told.clone())).collect()
    }

    /// The ids of those that are connected, here or to another replica.
    pub(crate) fn connected(&self) -> Vec<String> {
        let inner = self.inner.lock();
        inner.planes.iter().filter(|(_, plane)| plane.connected()).map(|(id, _)| id.clone()).collect()
    }

    /// The ids of those that are gone, and had sessions.
    pub(crate) fn silent(&self) -> Vec<String> {
        let inner = self.inner.lock();
        let had = |plane: &Plane| plane.told.report.cns.values().any(|cn| cn.sessions > 0);
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
            Link::Connected { .. } | Link::Elsewhere { .. } => true,
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
            sessions: plane.told.report.cns.values().fold(0, |sum, cn| sum.saturating_add(cn.sessions)),
            revision: plane.told.report.revision.max(plane.told.acked),
            version: plane.told.version.clone(),
            refused: plane.told.refused.clone(),
            seen: plane.told.seen,
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
            for (name, cn) in &plane.told.report.cns {
                add(&mut totals.cns, name, cn.sessions);
                totals.sessions = totals.sessions.saturating_add(cn.sessions);
            }
            for (name, sessions) in &plane.told.report.tenants {
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
        health(inner.planes.iter().filter(|(_, plane)| plane.connected()).map(|(id, plane)| {
            let on = plane.told.report.cns.get(cn);
            let (health, reason) =
                on.map_or((plane.told.report.rest, ""), |on| (on.health, on.reason.as_str()));
            Said { plane: id, health, reason }
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
            let none = plane.told.report.cns.get(cn).is_none_or(|on| on.sessions == 0);
            let behind = plane.told.acked < revision
                || plane.told.report.revision < revision
                || plane.told.report.sequence == 0;
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
            let (before, was_connected) = (Arc::clone(&plane.told.report), plane.connected());
            change(plane);
            plane.told.seen = SystemTime::now();
            let is_other =
                !Arc::ptr_eq(&plane.told.report, &before) && plane.told.report.down() != before.down();
            let is_edge = is_other || plane.connected() != was_connected;
            inner.edges += u64::from(is_edge);
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
    fn elsewhere(Heard { replica, told }: Heard) -> Self {
        Self { told, sequence: 0, claimed: 0, link: Link::Elsewhere { replica } }
    }

    /// To this replica or another one.
    const fn connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. } | Link::Elsewhere { .. })
    }

    const fn is_here(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }

    /// Another replica heard this of it. True where that is news.
    fn heard(&mut self, heard: Heard) -> bool {
        let here = (self.told.incarnation, self.told.report.sequence.max(self.sequence));
        let there = (heard.told.incarnation, heard.told.report.sequence);
        if let Link::Connected { superseded, .. } = &self.link {
            if there <= here {
                return false;
            }
            // It reports there by now: nobody is at the other end of this stream any more.
            superseded.cancel();
        } else if there < here {
            return false;
        }
        let is_there = matches!(&self.link, Link::Elsewhere { replica } if *replica == heard.replica);
        let is_same = is_there && self.told.says_the_same(&heard.told);
        *self = Self::elsewhere(heard);
        !is_same
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
            refused.clone_into(&mut plane.told.refused);
            if refused.is_empty() {
                plane.told.acked = revision;
            }
        });
    }

    /// It counted.
    pub(crate) fn reported(&self, report: Report) {
        self.planes.change(self, |plane| {
            if report.sequence >= plane.told.report.sequence {
                plane.told.report = Arc::new(report);
            }
        });
    }

    /// The store has its block of session ids, at this revision.
    pub(crate) fn claimed(&self, revision: u64) {
        self.planes.change(self, |plane| plane.claimed = revision);
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.planes.change(self, |plane| plane.link = Link::Gone { since: Instant::now() });
    }
}

#[cfg(test)]
mod tests;
