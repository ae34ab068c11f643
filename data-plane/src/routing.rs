//! Where sessions can go: the last good snapshot, what is known of each CN, and how many sessions it has.
//!
//! Everything that a pick looks at stands behind one lock, taken once for each login and never by a session that is
//! logged in. A pick and its reservation are one step, so that counts are exact in a burst; a new snapshot is published
//! under the same lock, so that whoever picks after an acknowledgement picks by that snapshot or a newer one.
//!
//! Must not know: sockets, packets, how snapshots arrive.

pub(crate) mod client;
pub(crate) mod pick;
pub(crate) mod state_file;

use mysql_wire::capability::Capabilities;
use mysql_wire::greeting::Greeting;
use mysql_wire::track::Subscription;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use shunt_proto::cn::{CnId, CnState, Health, RoutedCn};
use shunt_proto::snapshot::RoutingSnapshot;
use shunt_proto::tenant::{Match, Refusal, Request, Tenant, Tier, route, unusable};
use shunt_proto::wire::Policy;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Where sessions can go, for all workers.
pub(crate) struct Routing {
    state: Mutex<State>,
    published: watch::Sender<Option<Arc<RoutingSnapshot>>>,
    /// CNs to be probed: down ones, and ones never seen.
    probes: mpsc::UnboundedSender<CnId>,
    /// CNs on loopback are not used, and why.
    refuses_loopback: bool,
    /// Tells that a CN went down or came up.
    edges: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    snapshot: Option<Arc<RoutingSnapshot>>,
    cns: HashMap<CnId, CnView>,
    tenants: HashMap<String, u32>,
    /// CNs that are down for another data plane.
    down_elsewhere: BTreeSet<String>,
    rng: Option<SmallRng>,
}

/// What this data plane knows of a CN.
#[derive(Clone, Debug, Default)]
struct CnView {
    /// Sessions and reservations.
    sessions: u32,
    health: Health,
    reason: String,
    /// It is down by the configuration, whatever it answers.
    refused: bool,
    /// It is avoided, where its tier has another, until a probe succeeds.
    doubted: bool,
    /// Down for another data plane: it comes behind every other of its tier.
    is_down_elsewhere: bool,
    /// When it was up last after being down.
    up_since: Option<Instant>,
    /// How often in a row it failed soon after that: what fails logins need not fail probes.
    relapses: u32,
    /// Whatever a probe says, it is not up before this.
    not_before: Option<Instant>,
    baseline: Option<Arc<Baseline>>,
    /// Since when it is of no use, and whether that is because it says nothing.
    useless: Option<(Instant, bool)>,
}

/// What was heard of a CN that did not say that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Not a word: it is stopped, or its host is gone.
    Nothing,
    /// That it is there, and cannot serve.
    NotReady,
    /// Something else: a connection that was refused, or closed, tells its sessions by itself.
    Else,
}

impl State {
    /// Whether `cn` is known to be down.
    fn is_down(&self, cn: &CnId) -> bool {
        self.cns.get(cn).is_some_and(|view| view.health == Health::Down)
    }

    /// Whether `cn` is to be found at `address` now: what was heard there of late is about it.
    fn is_at(&self, cn: &CnId, address: &str) -> bool {
        let routed = self.snapshot.as_ref().and_then(|snapshot| snapshot.cn(cn));
        routed.is_some_and(|routed| routed.cn.address == address)
    }
}

impl CnView {
    /// What a pick goes by: one that is doubted, here or elsewhere, comes behind every other.
    fn load(&self) -> u32 {
        if self.doubted || self.is_down_elsewhere {
            DOUBTED.saturating_add(self.sessions)
        } else {
            self.sessions
        }
    }

    fn is_avoided(&self) -> bool {
        self.doubted || self.health == Health::Down
    }

    /// It failed: if that was soon after it came up, it stays down for longer than the last time.
    fn relapse(&mut self) {
        let soon = self.up_since.is_some_and(|since| since.elapsed() < SOON);
        self.relapses = if soon { self.relapses + 1 } else { 0 };
        let longer = (FIRST_HOLD * 2_u32.saturating_pow(self.relapses.min(10))).min(LONGEST_HOLD);
        self.not_before = (self.relapses > 0).then(|| Instant::now() + longer);
    }
}

/// More than any load.
const DOUBTED: u32 = u32::MAX - (1 << 24);

/// How long a CN may say that it is not ready before its sessions leave it: a node that joins may be so for a moment.
const NOT_READY_FOR: Duration = Duration::from_secs(1);

/// How soon after coming up a failure is a relapse.
const SOON: Duration = Duration::from_secs(10);

/// Half of how long a CN is held down after the first relapse, and the longest.
const FIRST_HOLD: Duration = Duration::from_millis(100);
const LONGEST_HOLD: Duration = Duration::from_secs(3);

/// What a CN says of itself, once for all sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// The version of its greeting.
    pub(crate) version: Vec<u8>,
    /// What it can do.
    pub(crate) capabilities: Capabilities,
    /// Its default collation, the low byte.
    pub(crate) collation: u8,
    /// The subscription that its globals give a session; unknown without a service account.
    pub(crate) subscription: Option<Subscription>,
    /// It is a node of a Galera cluster, as far as is known: one that is out of its cluster lets everybody in.
    pub(crate) may_be_galera: bool,
}

impl Baseline {
    /// Out of a greeting, and the subscription where it is known.
    pub(crate) fn new(greeting: &Greeting, subscription: Option<Subscription>, may_be_galera: bool) -> Self {
        let Greeting { version, capabilities, collation, .. } = greeting;
        let (version, capabilities, collation) = (version.clone(), *capabilities, *collation);
        Self { version, capabilities, collation, subscription, may_be_galera }
    }
}

/// A CN picked for a session, and its place there, which counts until it is dropped.
pub(crate) struct Placed {
    pub(crate) cn: Arc<RoutedCn>,
    pub(crate) tier: Tier,
    pub(crate) place: Place,
}

/// A session's place on a CN.
pub(crate) struct Place {
    routing: Arc<Routing>,
    cn: CnId,
}

/// A session's place among its tenant's.
pub(crate) struct TenantPlace {
    routing: Arc<Routing>,
    tenant: String,
}

/// What is reported of a CN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CnCount {
    pub(crate) cn: CnId,
    pub(crate) sessions: u32,
    pub(crate) health: Health,
    pub(crate) reason: String,
}

impl Routing {
    /// No routing state as yet. CNs to be probed are sent to the receiver.
    pub(crate) fn new(refuses_loopback: bool) -> (Arc<Self>, mpsc::UnboundedReceiver<CnId>) {
        let (probes, to_probe) = mpsc::unbounded_channel();
        let state = Mutex::new(State { rng: Some(SmallRng::from_rng(&mut rand::rng())), ..State::default() });
        let published = watch::Sender::new(None);
        let edges = watch::Sender::new(());
        (Arc::new(Self { state, published, probes, refuses_loopback, edges }), to_probe)
    }

    /// Tells that a CN went down or came up.
    pub(crate) fn edges(&self) -> watch::Receiver<()> {
        self.edges.subscribe()
    }

    /// These CNs are down for some data plane, and no others. Each that is new among them is asked at once: what it says
    /// itself counts for more.
    pub(crate) fn avoid(&self, cns: &BTreeSet<String>) {
        let mut state = self.state.lock();
        state.down_elsewhere.clone_from(cns);
        for (cn, view) in &mut state.cns {
            let is_down_elsewhere = cns.contains(cn.as_str());
            let was = std::mem::replace(&mut view.is_down_elsewhere, is_down_elsewhere);
            if is_down_elsewhere && !was && view.health != Health::Down {
                // The receiver lives as long as the process.
                let _ = self.probes.send(cn.clone());
            }
        }
    }

    /// Follows the snapshots that are published.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<RoutingSnapshot>>> {
        self.published.subscribe()
    }

    /// The last good snapshot.
    pub(crate) fn snapshot(&self) -> Option<Arc<RoutingSnapshot>> {
        self.state.lock().snapshot.clone()
    }

    /// Takes `snapshot` as the newest. When this returns, every later pick is by it.
    pub(crate) fn publish(&self, snapshot: &Arc<RoutingSnapshot>) {
        let mut state = self.state.lock();
        // A CN that is gone is forgotten when its last session is.
        state.cns.retain(|name, view| view.sessions > 0 || snapshot.cn(name).is_some());
        for cn in snapshot.cns() {
            let moved = state
                .snapshot
                .as_ref()
                .and_then(|old| old.cn(cn.name()))
                .is_some_and(|old| old.cn.address != cn.cn.address);
            let known = state.snapshot.as_ref().is_some_and(|old| old.cn(cn.name()).is_some());
            let is_down_elsewhere = state.down_elsewhere.contains(cn.name().as_str());
            let view = state.cns.entry(cn.name().clone()).or_default();
            if !known || moved {
                *view = CnView { sessions: view.sessions, is_down_elsewhere, ..CnView::default() };
                if self.refuses_loopback && is_loopback(&cn.cn.address) {
                    view.health = Health::Down;
                    view.reason = LOOPBACK.to_owned();
                    view.refused = true;
                    tracing::error!(cn = %cn.name(), "{LOOPBACK}");
                } else {
                    // The receiver lives as long as the process.
                    let _ = self.probes.send(cn.name().clone());
                }
            }
        }
        state.snapshot = Some(Arc::clone(snapshot));
        drop(state);
        self.published.send_replace(Some(Arc::clone(snapshot)));
    }

    /// Counts a session of `tenant`, unless it has as many as it may.
    pub(crate) fn enter(self: &Arc<Self>, tenant: &Tenant) -> Result<TenantPlace, Refusal> {
        let mut state = self.state.lock();
        let count = state.tenants.entry(tenant.name.clone()).or_default();
        if tenant.max_sessions > 0 && *count >= tenant.max_sessions {
            let refusal = Refusal::Limit { tenant: tenant.name.clone(), max: tenant.max_sessions };
            if *count == 0 {
                state.tenants.remove(&tenant.name);
            }
            return Err(refusal);
        }
        *count += 1;
        Ok(TenantPlace { routing: Arc::clone(self), tenant: tenant.name.clone() })
    }

    /// Whether `tenant` has as many sessions as it may, without counting one.
    pub(crate) fn is_full(&self, tenant: &Tenant) -> Option<Refusal> {
        let count = self.state.lock().tenants.get(&tenant.name).copied().unwrap_or(0);
        let full = tenant.max_sessions > 0 && count >= tenant.max_sessions;
        full.then(|| Refusal::Limit { tenant: tenant.name.clone(), max: tenant.max_sessions })
    }

    /// Picks a CN for `request` that is not among `tried`, and reserves a place on it.
    pub(crate) fn place(self: &Arc<Self>, request: &Request, tried: &[CnId]) -> Result<Placed, Refusal> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let empty = Arc::new(RoutingSnapshot::default());
        let snapshot = state.snapshot.as_ref().unwrap_or(&empty);
        let down = |cn: &RoutedCn| tried.contains(cn.name()) || state.is_down(cn.name());
        let matched = route(snapshot, request, down)?;
        Ok(self.reserve(state, &matched))
    }

    /// Picks another CN than `from` (any, where that is absent) for a session of `request`, or `to` where that is among those
    /// it may use, and reserves a place on it. One of `not_these` is picked only where there is no other.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(crate) fn place_elsewhere(
        self: &Arc<Self>,
        request: &Request,
        from: Option<&CnId>,
        to: Option<&CnId>,
        not_these: &[CnId],
    ) -> Result<Placed, String> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let snapshot = state.snapshot.as_ref().ok_or("there is no routing state")?;
        let down = |cn: &RoutedCn| state.is_down(cn.name());
        let mut matched = route(snapshot, request, down).map_err(|refusal| refusal.to_string())?;
        if let Some(to) = to {
            if Some(to) == from {
                return Err(format!("the session is on {to} already"));
            }
            if !matched.cns.iter().any(|cn| cn.name() == to) {
                return Err(format!("{to} is not among the CNs that the session may use now"));
            }
        }
        matched.cns.retain(|cn| Some(cn.name()) != from && to.is_none_or(|to| cn.name() == to));
        if matched.cns.is_empty() {
            return Err("there is no other CN that the session may use now".to_owned());
        }
        if matched.cns.iter().any(|cn| !not_these.contains(cn.name())) {
            matched.cns.retain(|cn| !not_these.contains(cn.name()));
        }
        Ok(self.reserve(state, &matched))
    }

    /// Whether a session of `request` that is on `from` may use another CN now.
    pub(crate) fn has_other(&self, request: &Request, from: &CnId) -> bool {
        let state = self.state.lock();
        let down = |cn: &RoutedCn| state.is_down(cn.name());
        let matched = state.snapshot.as_ref().and_then(|snapshot| route(snapshot, request, down).ok());
        matched.is_some_and(|matched| matched.cns.iter().any(|cn| cn.name() != from))
    }

    /// Picks the least loaded CN of `matched`, and reserves a place on it.
    fn reserve(self: &Arc<Self>, state: &mut State, matched: &Match) -> Placed {
        let load = |cn: &RoutedCn| state.cns.get(cn.name()).map_or(0, CnView::load);
        let rng = state.rng.get_or_insert_with(|| SmallRng::seed_from_u64(0));
        let cn = Arc::clone(pick::least_loaded(&matched.cns, load, rng));
        state.cns.entry(cn.name().clone()).or_default().sessions += 1;
        let place = Place { routing: Arc::clone(self), cn: cn.name().clone() };
        Placed { cn, tier: matched.tier, place }
    }

    /// Whether sessions are to leave `cn`.
    pub(crate) fn is_draining(&self, cn: &CnId) -> bool {
        let state = self.state.lock();
        let routed = state.snapshot.as_ref().and_then(|snapshot| snapshot.cn(cn));
        routed.is_some_and(|routed| routed.cn.state == CnState::Draining)
    }

    /// The CNs that new sessions may use.
    pub(crate) fn usable(&self) -> BTreeSet<CnId> {
        let state = self.state.lock();
        let Some(snapshot) = &state.snapshot else { return BTreeSet::new() };
        let usable = snapshot.cns().filter(|cn| unusable(cn, state.is_down(cn.name())).is_none());
        usable.map(|cn| cn.name().clone()).collect()
    }

    /// The policy of now.
    pub(crate) fn policy(&self) -> Policy {
        self.snapshot().map(|snapshot| snapshot.policy()).unwrap_or_default()
    }

    /// Any CN that may answer a question: working ones that are not down first, in random order.
    pub(crate) fn any(&self) -> Vec<Arc<RoutedCn>> {
        use rand::seq::SliceRandom as _;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(snapshot) = &state.snapshot else { return Vec::new() };
        let mut cns: Vec<_> = snapshot.cns().filter(|cn| !state.is_down(cn.name())).cloned().collect();
        if let Some(rng) = &mut state.rng {
            cns.shuffle(rng);
        }
        cns
    }

    /// Something went wrong on `cn` at `address`: it is avoided until a probe succeeds.
    pub(crate) fn failed(&self, cn: &CnId, address: &str, reason: &str) {
        let mut state = self.state.lock();
        if !state.is_at(cn, address) {
            return;
        }
        let Some(view) = state.cns.get_mut(cn) else { return };
        if view.health == Health::Down {
            return;
        }
        view.health = Health::Down;
        reason.clone_into(&mut view.reason);
        if !std::mem::take(&mut view.doubted) {
            view.relapse();
        }
        drop(state);
        self.edges.send_replace(());
        tracing::warn!(%cn, reason, "cn is down");
        // The receiver lives as long as the process.
        let _ = self.probes.send(cn.clone());
    }

    /// `cn` was slow to let somebody in, which a dead CN is and a busy one too: it is asked, and until it answers it is
    /// used only where there is no other of its tier.
    pub(crate) fn doubt(&self, cn: &CnId, address: &str, reason: &str) {
        let mut state = self.state.lock();
        if !state.is_at(cn, address) {
            return;
        }
        let Some(view) = state.cns.get_mut(cn).filter(|view| !view.doubted && view.health != Health::Down)
        else {
            return;
        };
        view.doubted = true;
        reason.clone_into(&mut view.reason);
        view.relapse();
        drop(state);
        tracing::warn!(%cn, reason, "cn is slow: it is asked");
        // The receiver lives as long as the process.
        let _ = self.probes.send(cn.clone());
    }

    /// A session on `cn` heard something that an unwell CN says. Any user can make a CN say it: so it is only asked.
    pub(crate) fn suspect(&self, cn: &CnId) {
        // The receiver lives as long as the process.
        let _ = self.probes.send(cn.clone());
    }

    /// `cn` at `address` was asked, and this is what was heard.
    pub(crate) fn heard(&self, cn: &CnId, address: &str, heard: Heard) {
        let mut state = self.state.lock();
        if !state.is_at(cn, address) {
            return;
        }
        let Some(view) = state.cns.get_mut(cn) else { return };
        let is_silent = match heard {
            Heard::Nothing => true,
            Heard::NotReady => false,
            Heard::Else => {
                view.useless = None;
                return;
            }
        };
        if view.useless.is_none_or(|(_, was_silent)| was_silent != is_silent) {
            view.useless = Some((Instant::now(), is_silent));
        }
    }

    /// CNs that are of no use to sessions that are on them, and whether they are silent. One that is silent is given
    /// `grace`.
    pub(crate) fn useless(&self, grace: Duration) -> Vec<(CnId, bool)> {
        let state = self.state.lock();
        let all = state.cns.iter().filter_map(|(cn, view)| {
            let (since, is_silent) = view.useless?;
            let grace = if is_silent { grace } else { grace.min(NOT_READY_FOR) };
            (since.elapsed() >= grace).then(|| (cn.clone(), is_silent))
        });
        all.collect()
    }

    /// A probe of `cn` at `address` succeeded. False where it is avoided for a while all the same, or is elsewhere now.
    pub(crate) fn succeeded(&self, cn: &CnId, address: &str, baseline: Baseline) -> bool {
        let mut state = self.state.lock();
        if !state.is_at(cn, address) {
            return false;
        }
        let Some(view) = state.cns.get_mut(cn).filter(|view| !view.refused) else { return true };
        if view.not_before.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        if view.health == Health::Down || view.doubted {
            tracing::info!(%cn, "cn is up");
            view.up_since = Some(Instant::now());
            self.edges.send_replace(());
        }
        view.doubted = false;
        view.useless = None;
        view.health = Health::Up;
        view.reason.clear();
        view.baseline = Some(Arc::new(baseline));
        true
    }

    /// A check of `cn` at `address` succeeded. Whether one that is down is up again only a probe says, which began after
    /// that.
    pub(crate) fn seen(&self, cn: &CnId, address: &str, baseline: Baseline) {
        let mut state = self.state.lock();
        if !state.is_at(cn, address) {
            return;
        }
        let Some(view) = state.cns.get_mut(cn) else { return };
        view.useless = None;
        if view.health != Health::Down {
            view.health = Health::Up;
            view.baseline = Some(Arc::new(baseline));
        }
    }

    /// The CNs that are not known to be down.
    pub(crate) fn not_down(&self) -> Vec<CnId> {
        let state = self.state.lock();
        let Some(snapshot) = &state.snapshot else { return Vec::new() };
        snapshot.cns().map(|cn| cn.name()).filter(|cn| !state.is_down(cn)).cloned().collect()
    }

    /// A session logged in on `cn`, which said so of itself. Kept where nothing better is known.
    pub(crate) fn greeted(&self, cn: &CnId, greeting: &Greeting) {
        let mut state = self.state.lock();
        let Some(view) = state.cns.get_mut(cn) else { return };
        if view.health == Health::Unknown {
            view.health = Health::Up;
        }
        if view.baseline.is_none() {
            view.baseline = Some(Arc::new(Baseline::new(greeting, None, true)));
        }
    }

    /// `cn` may be tried again by a login: nothing else can tell.
    pub(crate) fn try_again(&self, cn: &CnId) {
        let mut state = self.state.lock();
        let avoided = |view: &&mut CnView| view.is_avoided() && !view.refused;
        let Some(view) = state.cns.get_mut(cn).filter(avoided) else { return };
        view.health = Health::Unknown;
        view.doubted = false;
        view.reason.clear();
    }

    /// Whether `cn` is not to be used, whatever it answers.
    pub(crate) fn is_refused(&self, cn: &CnId) -> bool {
        self.state.lock().cns.get(cn).is_some_and(|view| view.refused)
    }

    /// Whether `cn` is down.
    pub(crate) fn is_down(&self, cn: &CnId) -> bool {
        self.state.lock().is_down(cn)
    }

    /// Whether `cn` is avoided, or would be where there is another.
    pub(crate) fn is_avoided(&self, cn: &CnId) -> bool {
        self.state.lock().cns.get(cn).is_some_and(CnView::is_avoided)
    }

    /// Where `cn` is, while it is part of the routing state.
    pub(crate) fn address(&self, cn: &CnId) -> Option<String> {
        self.state.lock().snapshot.as_ref()?.cn(cn).map(|cn| cn.cn.address.clone())
    }

    /// What `cn` said of itself.
    pub(crate) fn baseline(&self, cn: &CnId) -> Option<Arc<Baseline>> {
        self.state.lock().cns.get(cn)?.baseline.clone()
    }

    /// What any CN said of itself, for a greeting: the first in order of names that said something.
    pub(crate) fn any_baseline(&self) -> Option<Arc<Baseline>> {
        let state = self.state.lock();
        let snapshot = state.snapshot.as_ref()?;
        snapshot.cns().find_map(|cn| state.cns.get(cn.name())?.baseline.clone())
    }

    /// Sessions and health of each CN, and sessions of each tenant, by the revision that picks go by.
    pub(crate) fn counts(&self) -> (u64, Vec<CnCount>, Vec<(String, u32)>) {
        let state = self.state.lock();
        let revision = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.version().revision);
        let mut cns: Vec<CnCount> = state
            .cns
            .iter()
            .map(|(cn, view)| CnCount {
                cn: cn.clone(),
                sessions: view.sessions,
                health: view.health,
                reason: view.reason.clone(),
            })
            .collect();
        cns.sort_by(|a, b| a.cn.cmp(&b.cn));
        let mut tenants: Vec<_> = state.tenants.iter().map(|(name, n)| (name.clone(), *n)).collect();
        tenants.sort();
        (revision, cns, tenants)
    }
}

/// Why a loopback CN is not used behind an open listener.
const LOOPBACK: &str = "a CN on loopback behind a MySQL listener that is not loopback would take its clients for \
     local ones: set cn_proxy_protocol: v2, or mysql.allow_loopback_cns: true";

fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => {
            let ip = address.ip().to_canonical();
            ip.is_loopback() || ip.is_unspecified()
        }
        Err(_) => address.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.routing.state.lock();
        let Some(view) = state.cns.get_mut(&self.cn) else { return };
        view.sessions = view.sessions.saturating_sub(1);
        let gone = view.sessions == 0
            && state.snapshot.as_ref().is_some_and(|snapshot| snapshot.cn(&self.cn).is_none());
        if gone {
            state.cns.remove(&self.cn);
        }
    }
}

impl Drop for TenantPlace {
    fn drop(&mut self) {
        let mut state = self.routing.state.lock();
        let Some(count) = state.tenants.get_mut(&self.tenant) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            state.tenants.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests;
