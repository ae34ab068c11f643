//! The sessions of a worker that are to be settled, and when: each when it has rested for `migrate.settle_after`, one that
//! never does at its next rest after a fifth of a second, and no CN is asked for too many at once.
//!
//! Must not know: what settling is.

use crate::engine::mysql::read::Variables;
use crate::plane::Plane;
use crate::session::inbox::Order;
use crate::sessions::{State, View};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// How long a session may work without a rest before it is settled in passing.
const BUSY: Duration = Duration::from_millis(200);

/// How often a session that works is looked at again.
const AGAIN: Duration = Duration::from_millis(100);

/// Sessions of one CN that a data plane settles in a second, all its workers together, and how many at once.
const RATE: f64 = 200.0;
const BURST: f64 = 32.0;

/// Sets of variables that are looked through for one that is the same.
const MOST_SETS: usize = 256;

/// One that waits.
#[derive(Debug)]
struct Waiting {
    view: Weak<View>,
    since: Instant,
    due: Instant,
}

/// How many sessions of a CN may be settled now.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

/// The queue of a worker.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    waiting: RefCell<VecDeque<Waiting>>,
    arrived: Notify,
    after: Cell<Duration>,
    /// There may be code on the CNs that touches state unseen.
    code: Cell<bool>,
    allowances: RefCell<HashMap<String, Allowance>>,
    sets: RefCell<Vec<Weak<Variables>>>,
}

impl Settling {
    /// `view` is to be settled: when it has rested, or at `due` where that is given. Once until that is done.
    pub(crate) fn add(&self, view: &Rc<View>, due: Option<Instant>) {
        if view.is_queued.replace(true) {
            return;
        }
        let since = Instant::now();
        let due = due.unwrap_or(since + self.after.get());
        self.waiting.borrow_mut().push_back(Waiting { view: Rc::downgrade(view), since, due });
        self.arrived.notify_one();
    }

    /// Whether there may be code on the CNs that touches state unseen, as was known a moment ago.
    pub(crate) const fn code_may_be(&self) -> bool {
        self.code.get()
    }

    /// `variables`, shared with the sessions that have the same.
    pub(crate) fn shared(&self, variables: &Rc<Variables>) -> Rc<Variables> {
        let mut sets = self.sets.borrow_mut();
        sets.retain(|set| set.strong_count() > 0);
        if let Some(same) = sets.iter().filter_map(Weak::upgrade).find(|set| set == variables) {
            return same;
        }
        if sets.len() < MOST_SETS {
            sets.push(Rc::downgrade(variables));
        }
        Rc::clone(variables)
    }

    /// Looks at all that wait: tells those whose time it is, and gives when the next one's is.
    fn look(&self, now: Instant, rate: f64) -> Option<Instant> {
        let mut waiting = self.waiting.borrow_mut();
        let mut next: Option<Instant> = None;
        for _ in 0..waiting.len() {
            let Some(mut one) = waiting.pop_front() else { break };
            let Some(view) = one.view.upgrade() else { continue };
            if one.due <= now {
                match self.due(&view, &one, now, rate) {
                    None => {
                        view.is_queued.set(false);
                        view.inbox.put(Order::Settle);
                        continue;
                    }
                    Some(due) => one.due = due,
                }
            }
            next = Some(next.map_or(one.due, |next| next.min(one.due)));
            waiting.push_back(one);
        }
        next
    }

    /// When to look at it again; `None`: it is told now.
    fn due(&self, view: &View, one: &Waiting, now: Instant, rate: f64) -> Option<Instant> {
        let rested = view.idle_since() + self.after.get();
        match view.state() {
            State::Idle if rested > now => return Some(rested),
            State::Idle => {}
            State::Moving | State::Login => return Some(now + AGAIN),
            State::Active | State::Transaction if now.duration_since(one.since) < BUSY => {
                return Some(now + AGAIN);
            }
            // It will be when it comes to rest.
            State::Active | State::Transaction => {}
        }
        let mut allowances = self.allowances.borrow_mut();
        let cn = &view.facts.borrow().cn;
        let fresh = || Allowance { left: BURST, at: now };
        let allowance = allowances.entry(cn.clone()).or_insert_with(fresh);
        let earned = now.duration_since(allowance.at).as_secs_f64() * rate;
        (allowance.left, allowance.at) = ((allowance.left + earned).min(BURST), now);
        if allowance.left < 1.0 {
            return Some(now + Duration::from_secs_f64((1.0 - allowance.left) / rate));
        }
        allowance.left -= 1.0;
        None
    }
}

/// Tells sessions of `settling` when it is their time, as long as the worker lives.
pub(crate) async fn run(plane: std::sync::Arc<Plane>, settling: Rc<Settling>) {
    let rate = RATE / plane.workers.len() as f64;
    let mut policy_at: Option<Instant> = None;
    loop {
        let now = Instant::now();
        if policy_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
            settling.after.set(plane.routing.policy().settle_after);
            settling.code.set(plane.code.may_be());
            settling.allowances.borrow_mut().retain(|_, one| now.duration_since(one.at) < BUSY);
            policy_at = Some(now);
        }
        match settling.look(now, rate) {
            Some(next) => {
                let next = next.max(now + Duration::from_millis(1));
                let long = next > now + AGAIN;
                tokio::select! {
                    () = sleep_until(next) => {}
                    // It may be due before.
                    () = settling.arrived.notified(), if long => {}
                }
            }
            None => settling.arrived.notified().await,
        }
    }
}
