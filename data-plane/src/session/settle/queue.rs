//! The sessions of a worker that are to be settled, and when: each when it has rested for `migrate.settle_after`, one that
//! never does at its next rest after a fifth of a second, and no CN is asked for too many at once.
//!
//! Must not know: what settling is.

use super::sets::Sets;
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

/// Between two looks: each is at all that wait.
const PACE: Duration = Duration::from_millis(10);

/// Sessions of one CN that a data plane settles in a second, all its workers together, and how many at once.
const RATE: f64 = 200.0;
const BURST: f64 = 32.0;

/// One that waits.
#[derive(Debug)]
struct Waiting {
    view: Weak<View>,
    since: Instant,
    due: Instant,
    /// It waits for a moment that it was given, and not for a rest.
    is_parked: bool,
    /// Its turn on its CN is `due`.
    has_turn: bool,
}

/// How many sessions of a CN may be settled now; below 0: how many have their turn before the next one.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// What it is by now.
    fn earn(&mut self, now: Instant, rate: f64) {
        let earned = now.duration_since(self.at).as_secs_f64() * rate;
        (self.left, self.at) = ((self.left + earned).min(BURST), now);
    }

    /// Takes one. `Some`: when it is due.
    fn take(&mut self, now: Instant, rate: f64) -> Option<Instant> {
        self.earn(now, rate);
        self.left -= 1.0;
        (self.left < 0.0).then(|| now + Duration::from_secs_f64(-self.left / rate))
    }
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
    /// What is known of those that were settled.
    pub(super) sets: Sets,
}

impl Settling {
    /// `view` is to be settled: when it has rested, or at `due` where that is given. Once until that is done; one that waits
    /// for its `due` does so no longer when it is to be settled without one.
    pub(crate) fn add(&self, view: &Rc<View>, due: Option<Instant>) {
        if view.is_queued.replace(true) {
            if due.is_none() && view.is_parked.replace(false) {
                self.arrived.notify_one();
            }
            return;
        }
        view.is_parked.set(due.is_some());
        let since = Instant::now();
        let due = due.unwrap_or(since + self.after.get());
        self.waiting.borrow_mut().push_back(Waiting {
            view: Rc::downgrade(view),
            since,
            due,
            is_parked: view.is_parked.get(),
            has_turn: false,
        });
        self.arrived.notify_one();
    }

    /// Whether there may be code on the CNs that touches state unseen, as was known a moment ago.
    pub(crate) const fn code_may_be(&self) -> bool {
        self.code.get()
    }

    /// Looks at all that wait: tells those whose time it is, and gives when the next one's is.
    fn look(&self, now: Instant, rate: f64) -> Option<Instant> {
        let mut waiting = self.waiting.borrow_mut();
        let mut next: Option<Instant> = None;
        for _ in 0..waiting.len() {
            let Some(mut one) = waiting.pop_front() else { break };
            let Some(view) = one.view.upgrade() else { continue };
            if one.is_parked && !view.is_parked.get() {
                // What it waited for is not there any more.
                (one.is_parked, one.since, one.due) = (false, now, now + self.after.get());
            }
            if one.due <= now {
                match self.due(&view, &mut one, now, rate) {
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
    fn due(&self, view: &View, one: &mut Waiting, now: Instant, rate: f64) -> Option<Instant> {
        let rested = view.idle_since() + self.after.get();
        let is_busy = now.duration_since(one.since) >= BUSY;
        match view.state() {
            // One that is met at a rest each time may be as busy as any.
            State::Idle if rested > now && !is_busy => return Some(rested),
            State::Moving | State::Login => return Some(now + AGAIN),
            State::Active | State::Transaction if !is_busy => return Some(now + AGAIN),
            // It will be when it comes to rest.
            State::Idle | State::Active | State::Transaction => {}
        }
        if one.has_turn {
            return None;
        }
        let mut allowances = self.allowances.borrow_mut();
        let cn = &view.facts.borrow().cn;
        let due = match allowances.get_mut(cn) {
            Some(allowance) => allowance.take(now, rate),
            None => {
                allowances.insert(cn.clone(), Allowance { left: BURST - 1.0, at: now });
                None
            }
        };
        // Each waits for its turn once, and is not looked at before.
        one.has_turn = due.is_some();
        due
    }
}

/// Tells sessions of `settling` when it is their time, as long as the worker lives.
pub(crate) async fn run(plane: std::sync::Arc<Plane>, settling: Rc<Settling>) {
    let rate = RATE / plane.workers.len() as f64;
    let mut tidied = Instant::now();
    loop {
        let now = Instant::now();
        // It may be another since those that wait came.
        settling.after.set(plane.routing.policy().settle_after);
        settling.code.set(plane.code.may_be());
        if now.duration_since(tidied) >= Duration::from_secs(1) {
            settling.allowances.borrow_mut().retain(|_, one| {
                one.earn(now, rate);
                one.left < BURST
            });
            tidied = now;
        }
        match settling.look(now, rate) {
            Some(next) => {
                let next = next.max(now + PACE);
                let long = next > now + AGAIN;
                tokio::select! {
                    () = sleep_until(next) => {}
                    // It may be due before.
                    () = settling.arrived.notified(), if long => {}
                }
            }
            None => settling.arrived.notified().await,
        }
        // However many come.
        sleep_until(now + PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::{Enrolled, Sessions};

    fn resting(n: u32, settling: &Settling) -> Vec<Enrolled> {
        let sessions = Rc::new(Sessions::default());
        let address = "127.0.0.1:1".parse().unwrap();
        let enrolled: Vec<Enrolled> = (1..=n).map(|id| sessions.enrol(id, address)).collect();
        for one in &enrolled {
            one.view.show(State::Idle, 0, 0);
            settling.add(&one.view, None);
            settling.add(&one.view, None);
        }
        enrolled
    }

    fn told(sessions: &[Enrolled]) -> usize {
        sessions.iter().filter(|one| !one.view.is_queued.get()).count()
    }

    #[test]
    fn a_cn_is_asked_at_a_rate_and_each_session_has_its_turn_once() {
        let settling = Settling::default();
        let sessions = resting(100, &settling);
        let now = Instant::now() + Duration::from_millis(1);
        let next = settling.look(now, 10.0);
        assert_eq!(told(&sessions), BURST as usize);
        assert!(next.is_some_and(|next| next > now), "{next:?}");
        settling.look(now + Duration::from_secs(1), 10.0);
        assert_eq!(told(&sessions), BURST as usize + 10);
        assert!(settling.look(now + Duration::from_secs(10), 10.0).is_none());
        assert_eq!(told(&sessions), 100);
    }

    #[test]
    fn one_that_is_met_at_a_short_rest_each_time_is_told_like_one_that_works() {
        let settling = Settling::default();
        settling.after.set(Duration::from_secs(60));
        let sessions = resting(1, &settling);
        let now = Instant::now() + settling.after.get();
        for n in 1..100 {
            sessions[0].view.show(State::Idle, 0, n);
            if settling.look(now, 10.0).is_none() {
                break;
            }
        }
        assert_eq!(told(&sessions), 1);
    }

    #[test]
    fn one_that_waits_for_long_is_told_sooner_when_that_is_wanted() {
        let settling = Settling::default();
        let table = Rc::new(Sessions::default());
        let one = table.enrol(1, "127.0.0.1:1".parse().unwrap());
        one.view.show(State::Idle, 0, 0);
        let now = Instant::now() + Duration::from_secs(1);
        settling.add(&one.view, Some(now + Duration::from_secs(3600)));
        assert!(settling.look(now, 10.0).is_some_and(|next| next > now + Duration::from_secs(3000)));
        settling.add(&one.view, None);
        assert!(settling.look(now, 10.0).is_none() && !one.view.is_queued.get());
    }

    #[test]
    fn one_that_works_is_told_after_a_while_and_one_that_is_gone_is_forgotten() {
        let settling = Settling::default();
        let mut sessions = resting(2, &settling);
        sessions.iter().for_each(|one| one.view.show(State::Transaction, 0, 1));
        let now = Instant::now() + Duration::from_millis(1);
        assert!(settling.look(now, 10.0).is_some());
        assert_eq!(told(&sessions), 0);
        sessions.truncate(1);
        assert!(settling.look(now + BUSY * 2, 10.0).is_none());
        assert_eq!(told(&sessions), 1);
    }
}
