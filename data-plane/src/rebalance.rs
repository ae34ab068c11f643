//! Which of this data plane's sessions are to go elsewhere, and how fast.
//!
//! A session leaves a CN that it may not use any more: one that is drained, that was relabelled, or that was only the
//! fallback for one that is back. And when a CN joins (it is new, works again after a drain, or is up again), sessions of
//! others fill it up to its share. Both are decided by the same function as a login ([`route`], [`tier`]), by what this data
//! plane counts itself: where each data plane evens out its own sessions, all of them together are even.
//!
//! The decisions are pure ([`decide`]); [`run`] acts on them, at the rate that the policy allows. A session that cannot move
//! is tried again later and later. Imbalance that merely grew is nobody's reason to move here, unless an operator asks for
//! it ([`plan`]).
//!
//! Must not know: packets, how a session moves.

mod decide;
pub(crate) mod plan;

pub(crate) use decide::Seen;

use crate::plane::Plane;
use crate::session::inbox::Order;
use crate::sessions::Which;
use decide::{Fill, To, filling, hurry, leaving};
use shunt_proto::cn::{CnId, CnState, Drain};
use shunt_proto::label::Labels;
use shunt_proto::snapshot::RoutingSnapshot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

/// Between two rounds while there is something to move, and while there is nothing.
const ROUND: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(1);

/// Moves that are under way at once.
const AT_ONCE: usize = 128;

/// How long a CN that joined is filled with sessions that were not movable at first.
const FILLED_FOR: Duration = Duration::from_secs(60);

/// How long a session that did not move is left alone, the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A session that is closed takes a moment to be gone.
const FORCED_AGAIN: Duration = Duration::from_secs(5);

/// What is remembered between rounds.
#[derive(Default)]
struct Work {
    /// The CNs that sessions could use at the last round, and which sessions; absent before the first.
    usable: Option<BTreeMap<CnId, For>>,
    /// CNs that joined, and when.
    joined: BTreeMap<CnId, Instant>,
    /// Since when CNs are known to be drained, and how.
    draining: BTreeMap<CnId, (Instant, Option<Drain>)>,
    /// When what was left on those was closed last.
    forced: BTreeMap<CnId, Instant>,
    /// Sessions that were told to move, and have not.
    told: HashMap<u32, Told>,
    /// Moves that the rate allows now.
    allowance: f64,
    at: Option<Instant>,
    /// The revision of the last round.
    revision: u64,
    /// Some session is not where it is to be.
    is_pending: bool,
    /// Something moves, or may be told to at the next round.
    is_busy: bool,
}

/// A session that was told to move.
#[derive(Debug)]
struct Told {
    /// The CN that it is to leave.
    from: String,
    /// How often.
    times: u32,
    /// Before when not again, counted from when it was last seen at it.
    until: Instant,
}

/// Whose sessions a CN takes: its labels, and its tenant.
type For = (Labels, Option<String>);

/// How long a session is left alone that did not move `times` times.
fn pause(times: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(times.saturating_sub(1).min(10))).min(LONGEST_PAUSE)
}

/// Moves sessions that are to go elsewhere, as long as the process lives.
pub(crate) async fn run(plane: Arc<Plane>, mut asked: mpsc::Receiver<plan::Asked>) {
    let mut snapshots = plane.routing.watch();
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work::default();
    loop {
        tokio::select! {
            _ = rounds.tick(), if work.is_busy => {}
            changed = snapshots.changed(), if !work.is_busy => if changed.is_err() { return },
            () = tokio::time::sleep(IDLE), if !work.is_busy => {}
            Some(asked) = asked.recv() => work.plan(&plane, asked).await,
        }
        work.round(&plane).await;
    }
}

impl Work {
    /// Plans for an operator, and has it carried out if that is wanted.
    async fn plan(&mut self, plane: &Plane, asked: plan::Asked) {
        let Some(snapshot) = plane.routing.snapshot() else { return };
        let usable = plane.routing.usable();
        let sessions = plane.workers.census().await;
        let plan = plan::plan(&snapshot, |cn| !usable.contains(cn), &sessions);
        if !asked.is_dry_run {
            let now = Instant::now();
            self.joined.extend(plan.filled.iter().map(|cn| (cn.clone(), now)));
            // Those that are left alone for a while are asked anew: they may rest now.
            self.told.clear();
            self.is_pending = true;
        }
        // Who asked may have left.
        let _ = asked.answer.send(plan.to_pb(&plane.id));
    }

    async fn round(&mut self, plane: &Plane) {
        let Some(snapshot) = plane.routing.snapshot() else { return };
        let now = Instant::now();
        let usable = plane.routing.usable();
        let is_new = self.revision != snapshot.version().revision
            || self.usable.as_ref().is_none_or(|before| !before.keys().eq(&usable));
        if !is_new && !self.is_pending && self.draining.is_empty() {
            return;
        }
        self.notice(&snapshot, &usable, now);
        self.revision = snapshot.version().revision;
        self.force(plane, now).await;
        let sessions = plane.workers.census().await;
        let is_down = |cn: &CnId| !usable.contains(cn);
        let leaving: Vec<u32> =
            leaving(&snapshot, is_down, &sessions).into_iter().map(|(id, _)| id).collect();
        let joined: BTreeSet<CnId> = self.joined.keys().cloned().collect();
        // Those that are left alone now do not stand in the way of others.
        self.remember(&sessions, now);
        let alone = self.told.iter().filter(|(_, told)| told.until > now).map(|(id, _)| *id);
        let alone: BTreeSet<u32> = alone.collect();
        let not_these = leaving.iter().chain(&alone).copied().collect();
        let filling = filling(&snapshot, is_down, &sessions, Fill::These(&joined), &not_these);
        let wanted: Vec<(u32, To)> = leaving
            .into_iter()
            .map(|id| (id, None))
            .chain(filling.into_iter().map(|(id, to, _)| (id, Some(to))))
            .collect();
        self.is_pending =
            !wanted.is_empty() || !alone.is_empty() || sessions.iter().any(|seen| seen.is_moving);
        if !self.is_pending {
            // Full, as far as it can be.
            self.joined.clear();
        }
        let rate = self.rate(plane, &sessions, now);
        let orders = self.tell(&sessions, wanted, rate, now);
        for to in orders.iter().filter_map(|(_, to)| to.as_ref()) {
            // As long as it fills, it goes on filling.
            self.joined.entry(to.clone()).and_modify(|since| *since = now);
        }
        plane.workers.move_all(orders);
    }

    /// Moves a second: what the policy allows, or what drains need to be over in time.
    fn rate(&self, plane: &Plane, sessions: &[Seen], now: Instant) -> f64 {
        let needed = self.draining.iter().map(|(name, (since, drain))| {
            let timeout = drain.and_then(|drain| drain.timeout);
            let left = sessions.iter().filter(|seen| seen.cn == name.as_str()).count();
            // One whose time is over is in no hurry any more.
            let time_left = timeout.and_then(|timeout| timeout.checked_sub(now.duration_since(*since)));
            time_left.map_or(0.0, |time_left| hurry(left, time_left))
        });
        f64::from(plane.routing.policy().moves_per_second).max(needed.sum())
    }

    /// Notes which CNs joined, and which are drained.
    fn notice(&mut self, snapshot: &RoutingSnapshot, usable: &BTreeSet<CnId>, now: Instant) {
        let whose = |cn: &CnId| snapshot.cn(cn).map(|cn| (cn.labels.clone(), cn.tenant.clone()));
        let usable: BTreeMap<CnId, For> =
            usable.iter().filter_map(|cn| Some((cn.clone(), whose(cn)?))).collect();
        if let Some(before) = &self.usable {
            // One that takes others' sessions now is new to these.
            for (cn, _) in usable.iter().filter(|(cn, whose)| before.get(*cn) != Some(whose)) {
                self.joined.insert(cn.clone(), now);
            }
        }
        self.joined.retain(|cn, since| usable.contains_key(cn) && now.duration_since(*since) < FILLED_FOR);
        self.usable = Some(usable);
        let drained = |cn: &CnId| snapshot.cn(cn).is_some_and(|cn| cn.cn.state == CnState::Draining);
        self.draining.retain(|cn, _| drained(cn));
        self.forced.retain(|cn, _| drained(cn));
        for cn in snapshot.cns().filter(|cn| cn.cn.state == CnState::Draining) {
            let known = self.draining.get(cn.name()).is_some_and(|(_, drain)| *drain == cn.cn.drain);
            if !known {
                // A drain that is ordered anew has its time from now.
                self.draining.insert(cn.name().clone(), (now, cn.cn.drain));
                self.forced.remove(cn.name());
            }
        }
    }

    /// Ends what is left on CNs whose time is over, where their operator wants that.
    async fn force(&mut self, plane: &Plane, now: Instant) {
        for (name, (since, drain)) in &self.draining {
            let Some(timeout) = drain.filter(|drain| drain.force).and_then(|drain| drain.timeout) else {
                continue;
            };
            let again = self.forced.get(name).is_some_and(|at| now.duration_since(*at) < FORCED_AGAIN);
            if now.duration_since(*since) < timeout || again {
                continue;
            }
            self.forced.insert(name.clone(), now);
            let which = Which { cn: name.to_string(), ..Which::default() };
            let ended = plane.workers.order(&which, &Order::LeaveOrEnd(name.clone())).await;
            if ended > 0 {
                tracing::warn!(cn = %name, sessions = ended, "the drain's time is over: what is left is closed");
            }
        }
    }

    /// Takes as many of `wanted` as may be told to move now.
    fn tell(&mut self, sessions: &[Seen], wanted: Vec<(u32, To)>, rate: f64, now: Instant) -> Vec<(u32, To)> {
        let passed = self.at.map_or(ROUND, |at| now.duration_since(at)).min(Duration::from_secs(1));
        self.at = Some(now);
        // A moment's worth is kept, so that a round that comes late loses nothing.
        self.allowance = (self.allowance + rate * passed.as_secs_f64()).min((rate / 5.0).max(1.0));
        let by_id: HashMap<u32, &Seen> = sessions.iter().map(|seen| (seen.id, seen)).collect();
        let moving = sessions.iter().filter(|seen| seen.is_moving).count();
        self.is_busy = moving > 0;
        let mut room = AT_ONCE.saturating_sub(moving);
        let mut orders = Vec::new();
        for (id, to) in wanted {
            let Some(seen) = by_id.get(&id).filter(|seen| !seen.is_moving) else { continue };
            if self.told.get(&id).is_some_and(|told| told.until > now) {
                continue;
            }
            self.is_busy = true;
            if room == 0 || self.allowance < 1.0 {
                break;
            }
            let new = || Told { from: seen.cn.clone(), times: 0, until: now };
            let told = self.told.entry(id).or_insert_with(new);
            told.times += 1;
            told.until = now + pause(told.times);
            self.allowance -= 1.0;
            room -= 1;
            orders.push((id, to));
        }
        orders
    }

    /// Keeps in mind those that were told to move and are where they were, for as long as that may be of use: one that is
    /// left alone for a while is not wanted meanwhile.
    fn remember(&mut self, sessions: &[Seen], now: Instant) {
        let by_id: HashMap<u32, &Seen> = sessions.iter().map(|seen| (seen.id, seen)).collect();
        self.told.retain(|id, told| {
            let Some(seen) = by_id.get(id).filter(|seen| seen.cn == told.from) else { return false };
            if seen.is_moving {
                told.until = now + pause(told.times);
            }
            now < told.until + LONGEST_PAUSE
        });
    }
}

#[cfg(test)]
mod tests;
