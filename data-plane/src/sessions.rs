//! The sessions of one worker, and what is shown of each.
//!
//! A table belongs to its worker's thread: a session enrols with a guard, shows what it is at in cells of its own, and
//! finds orders in its inbox. Nobody else touches it; listing and orders come as messages to the worker.
//!
//! Must not know: packets, decisions.

use crate::rebalance::Seen;
use crate::session::inbox::{Inbox, Order};
use crate::session::migrate::outcome::Ended;
use crate::session::pin::PinReason;
use shunt_proto::cn::CnId;
use shunt_proto::label::Labels;
use shunt_proto::pb;
use shunt_proto::tenant::Request;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;
use tokio::time::Instant;

/// What a session is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Login,
    Idle,
    Active,
    Transaction,
    Moving,
}

/// Who a session is and where, known once it is logged in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) tenant: String,
    pub(crate) user: String,
    pub(crate) cn: String,
    pub(crate) cn_connection_id: u32,
    /// The port that the CN sees it come from.
    pub(crate) cn_sees_port: u16,
    /// Why this CN.
    pub(crate) why: String,
    /// Its password is not known: it cannot log in anywhere else.
    pub(crate) credentials_unknown: bool,
    /// It moved since its login.
    pub(crate) moved: bool,
    /// The labels that it asked for.
    pub(crate) labels: Labels,
}

/// What is shown of a session.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) id: u32,
    pub(crate) client: SocketAddr,
    started: SystemTime,
    state: Cell<State>,
    idle_since: Cell<Instant>,
    pins: Cell<u16>,
    queries: Cell<u32>,
    pub(crate) facts: RefCell<Facts>,
    pub(crate) inbox: Inbox,
    pub(crate) last_move: RefCell<Option<Box<Ended>>>,
    /// A move of it is under way, to this CN where it was told one.
    moving: RefCell<Option<Option<CnId>>>,
    /// It waits to be settled.
    pub(crate) is_queued: Cell<bool>,
    /// It does so for a moment that it was given.
    pub(crate) is_parked: Cell<bool>,
    /// Something happened since all of its state was known.
    is_unsettled: Cell<bool>,
    /// What its CN said when it was asked last cannot be on another CN, or is not known.
    is_tied: Cell<bool>,
}

impl View {
    /// Shows what it is at now.
    pub(crate) fn show(&self, state: State, pins: u16, queries: u32) {
        if self.state.replace(state) != state || self.queries.get() != queries {
            self.idle_since.set(Instant::now());
        }
        self.pins.set(pins);
        self.queries.set(queries);
    }

    /// Whether anything happened since all of its state was known.
    pub(crate) fn show_unsettled(&self, is_unsettled: bool) {
        self.is_unsettled.set(is_unsettled);
    }

    /// Whether its CN said, when it was asked last, what cannot be on another one.
    pub(crate) fn show_tied(&self, is_tied: bool) {
        self.is_tied.set(is_tied);
    }

    /// It is between two CNs.
    pub(crate) fn show_moving(&self) {
        self.state.set(State::Moving);
    }

    /// A move of it is under way, to `to` where it was told so; `None`: none is.
    pub(crate) fn show_going(&self, to: Option<Option<CnId>>) {
        *self.moving.borrow_mut() = to;
    }

    /// Since when it has been at what it is at.
    pub(crate) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// As the API tells it.
    pub(crate) fn to_pb(&self, data_plane: &str) -> pb::Session {
        use pb::session_state::State as Pb;
        let facts = self.facts.borrow();
        let state = match self.state.get() {
            State::Login => Pb::Login,
            State::Idle => Pb::Idle,
            State::Active => Pb::Active,
            State::Transaction => Pb::Transaction,
            State::Moving => Pb::Moving,
        };
        let unknown = if facts.credentials_unknown { PinReason::CredentialsUnknown.bit() } else { 0 };
        let words = PinReason::words_of(self.pins.get() | unknown);
        let idle = matches!(state, Pb::Idle | Pb::Transaction).then(|| self.idle_since.get().elapsed());
        pb::Session {
            id: self.id,
            tenant: facts.tenant.clone(),
            user: facts.user.clone(),
            client: self.client.to_string(),
            cn: facts.cn.clone(),
            data_plane: data_plane.to_owned(),
            state: state.into(),
            pinned: words.into_iter().map(str::to_owned).collect(),
            started: Some(self.started.into()),
            idle: idle.and_then(|idle| prost_types::Duration::try_from(idle).ok()),
            last_move: self.last_move.borrow().as_ref().map(|ended| ended.to_last_move()),
            cn_connection_id: facts.cn_connection_id,
            why: facts.why.clone(),
            queries: self.queries.get(),
            settled: !(self.is_unsettled.get() || self.is_tied.get() || facts.credentials_unknown),
        }
    }
}

/// Which sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Which {
    /// 0: any.
    pub(crate) id: u32,
    /// Empty: any.
    pub(crate) cn: String,
    /// Empty: any.
    pub(crate) tenant: String,
    /// Only greater ids.
    pub(crate) after: u32,
}

impl Which {
    /// Whether every session is meant, those that come too.
    pub(crate) const fn is_all(&self) -> bool {
        self.id == 0 && self.cn.is_empty() && self.tenant.is_empty() && self.after == 0
    }

    fn takes(&self, view: &View) -> bool {
        let facts = view.facts.borrow();
        (self.id == 0 || self.id == view.id)
            && (self.cn.is_empty() || self.cn == facts.cn)
            && (self.tenant.is_empty() || self.tenant == facts.tenant)
    }
}

/// The sessions of a worker.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    views: RefCell<BTreeMap<u32, Rc<View>>>,
}

impl Sessions {
    /// Enters a session; it leaves when the guard is dropped.
    pub(crate) fn enrol(self: &Rc<Self>, id: u32, client: SocketAddr) -> Enrolled {
        let view = Rc::new(View {
            id,
            client,
            started: SystemTime::now(),
            state: Cell::new(State::Login),
            idle_since: Cell::new(Instant::now()),
            pins: Cell::new(0),
            queries: Cell::new(0),
            facts: RefCell::default(),
            inbox: Inbox::default(),
            last_move: RefCell::default(),
            moving: RefCell::default(),
            is_queued: Cell::new(false),
            is_parked: Cell::new(false),
            is_unsettled: Cell::new(false),
            is_tied: Cell::new(false),
        });
        self.views.borrow_mut().insert(id, Rc::clone(&view));
        Enrolled { sessions: Rc::clone(self), view }
    }

    /// The first `limit` of those that `which` takes, in the order of ids.
    pub(crate) fn list(&self, which: &Which, limit: usize) -> Vec<Rc<View>> {
        let views = self.views.borrow();
        let from = (std::ops::Bound::Excluded(which.after), std::ops::Bound::Unbounded);
        views
            .range(from)
            .map(|(_, view)| view)
            .filter(|view| which.takes(view))
            .take(limit)
            .cloned()
            .collect()
    }

    /// All that are logged in, as whoever moves sessions must know them.
    pub(crate) fn census(&self) -> Vec<Seen> {
        let views = self.views.borrow();
        let logged_in = views.values().filter(|view| view.state() != State::Login);
        logged_in
            .map(|view| {
                let facts = view.facts.borrow();
                let request = Request { tenant: facts.tenant.clone(), labels: facts.labels.clone() };
                let is_idle = view.state() == State::Idle && view.pins.get() == 0;
                let moving = view.moving.borrow().clone();
                let is_moving = moving.is_some();
                Seen {
                    id: view.id,
                    request,
                    cn: facts.cn.clone(),
                    is_idle,
                    is_pinned: view.pins.get() != 0,
                    is_moving,
                    going_to: moving.flatten(),
                }
            })
            .collect()
    }

    /// The session of `id`.
    pub(crate) fn find(&self, id: u32) -> Option<Rc<View>> {
        self.views.borrow().get(&id).cloned()
    }

    /// Leaves `order` with every session that `which` takes. Returns how many these are.
    pub(crate) fn order(&self, which: &Which, order: &Order) -> usize {
        let views = self.list(which, usize::MAX);
        for view in &views {
            view.inbox.put(order.clone());
        }
        views.len()
    }
}

/// A session's place in the table.
#[derive(Debug)]
pub(crate) struct Enrolled {
    sessions: Rc<Sessions>,
    pub(crate) view: Rc<View>,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.sessions.views.borrow_mut().remove(&self.view.id);
    }
}
