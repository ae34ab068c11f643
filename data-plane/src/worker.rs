//! Workers: one thread each, with a runtime of its own, that carries its sessions whole.
//!
//! Both connections of a session live on one worker. A worker is reached by messages only; nothing of a session is
//! shared between threads.
//!
//! Must not know: MySQL.

use crate::config::Io;
use crate::kill::Found;
use crate::plane::Plane;
use crate::rebalance::Seen;
use crate::session::inbox::{MoveOrder, Order};
use crate::session::migrate::outcome::Ended;
use crate::session::relay::{BURST, Buffer};
use crate::session::serve;
use crate::session::settle::queue::{self, Settling};
use crate::sessions::{Sessions, State, Which};
use crate::socket::By;
use shunt_proto::cn::CnId;
use shunt_proto::pb;
use shunt_ring::Installed;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::LocalOptions;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// What a worker is asked for.
pub(crate) enum Message {
    /// Carry this client.
    Accept(std::net::TcpStream, SocketAddr, Seat),
    /// List sessions, so many at most.
    List(Which, usize, oneshot::Sender<Vec<pb::Session>>),
    /// Find one for a KILL.
    Find(u32, oneshot::Sender<Option<Found>>),
    /// Leave an order with some.
    Order(Which, Order, oneshot::Sender<usize>),
    /// Move one to this CN, or to the best one.
    Move(u32, Option<CnId>, oneshot::Sender<Option<Ended>>),
    /// Move these, each to this CN or to the best one. Whose they are not passes over them.
    MoveAll(Arc<[(u32, Option<CnId>)]>),
    /// All sessions that are logged in.
    Census(oneshot::Sender<Vec<Seen>>),
    /// How much was moved so far.
    Totals(oneshot::Sender<Moved>),
}

/// What the sessions of a worker moved, as plain numbers of its thread.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) from_client: Cell<u64>,
    pub(crate) from_cn: Cell<u64>,
    pub(crate) queries: Cell<u64>,
}

/// [`Totals`] as they were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) from_client: u64,
    pub(crate) from_cn: u64,
    pub(crate) queries: u64,
}

/// What the sessions of a worker share.
pub(crate) struct Worker {
    pub(crate) plane: Arc<Plane>,
    pub(crate) sessions: Rc<Sessions>,
    pub(crate) buffer: Buffer,
    pub(crate) totals: Rc<Totals>,
    /// Sessions that are to be settled.
    pub(crate) settling: Rc<Settling>,
    /// Sessions that may be rebuilt at once, after their CN was lost.
    pub(crate) rebuilds: Semaphore,
    /// What every session is told, those that begin from now on too.
    pub(crate) closing: RefCell<Option<Order>>,
}

/// A session's place on a worker: counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// Whether its worker carries no other session.
    fn is_alone(&self) -> bool {
        self.0.load(Ordering::Acquire) == 1
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All workers, from outside.
#[derive(Clone)]
pub(crate) struct Workers {
    workers: Arc<[One]>,
}

struct One {
    messages: mpsc::UnboundedSender<Message>,
    sessions: Arc<AtomicUsize>,
}

/// The other ends of [`Workers`], one for each thread.
pub(crate) type Mailbox = mpsc::UnboundedReceiver<Message>;

/// Sessions of a worker that are rebuilt at once: a CN that takes over is not buried.
const REBUILDS: usize = 16;

/// Shorter than most limits that a login has.
const TICK: Duration = Duration::from_millis(500);

/// How long a worker may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(2);

impl Workers {
    /// `n` workers, which are yet to run.
    pub(crate) fn new(n: usize) -> (Self, Vec<Mailbox>) {
        let (workers, mailboxes): (Vec<One>, Vec<Mailbox>) = (0..n.max(1))
            .map(|_| {
                let (messages, mailbox) = mpsc::unbounded_channel();
                (One { messages, sessions: Arc::default() }, mailbox)
            })
            .unzip();
        (Self { workers: workers.into() }, mailboxes)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Sessions on all workers, logins included.
    pub(crate) fn sessions(&self) -> usize {
        self.workers.iter().map(|one| one.sessions.load(Ordering::Acquire)).sum()
    }

    /// Gives a client to the worker with the fewest: spread evenly when they are few, too.
    pub(crate) fn accept(&self, socket: std::net::TcpStream, client: SocketAddr) {
        let Some(one) = self.workers.iter().min_by_key(|one| one.sessions.load(Ordering::Acquire)) else {
            return;
        };
        one.sessions.fetch_add(1, Ordering::AcqRel);
        let seat = Seat(Arc::clone(&one.sessions));
        // A worker ends only with the process.
        let _ = one.messages.send(Message::Accept(socket, client, seat));
    }

    /// The first `limit` sessions that `which` takes, in the order of ids, and whether there are more.
    pub(crate) async fn list(&self, which: &Which, limit: usize) -> (Vec<pb::Session>, bool) {
        let all = self.ask(|answer| Message::List(which.clone(), limit + 1, answer)).await;
        let mut sessions: Vec<pb::Session> = all.into_iter().flatten().collect();
        sessions.sort_by_key(|session| session.id);
        let more = sessions.len() > limit;
        sessions.truncate(limit);
        (sessions, more)
    }

    /// The session of `id`, where it is logged in.
    pub(crate) async fn find(&self, id: u32) -> Option<Found> {
        self.ask(|answer| Message::Find(id, answer)).await.into_iter().flatten().next()
    }

    /// Leaves an order with every session that `which` takes; returns how many these are.
    pub(crate) async fn order(&self, which: &Which, order: &Order) -> usize {
        self.ask(|answer| Message::Order(which.clone(), order.clone(), answer)).await.into_iter().sum()
    }

    /// Moves the session of `id`. `None` where there is none, or where it ended before.
    pub(crate) async fn move_one(&self, id: u32, to: Option<CnId>) -> Option<Ended> {
        let mut answers = Vec::new();
        for one in self.workers.iter() {
            let (answer, answered) = oneshot::channel();
            if one.messages.send(Message::Move(id, to.clone(), answer)).is_ok() {
                answers.push(answered);
            }
        }
        // All but one worker do not have it, and say so at once.
        for answered in answers {
            if let Ok(Some(ended)) = answered.await {
                return Some(ended);
            }
        }
        None
    }

    /// All sessions that are logged in.
    pub(crate) async fn census(&self) -> Vec<Seen> {
        self.ask(Message::Census).await.into_iter().flatten().collect()
    }

    /// Tells sessions to move; what comes of it, shows in them.
    pub(crate) fn move_all(&self, orders: Vec<(u32, Option<CnId>)>) {
        if orders.is_empty() {
            return;
        }
        let orders: Arc<[_]> = orders.into();
        for one in self.workers.iter() {
            // A worker ends only with the process.
            let _ = one.messages.send(Message::MoveAll(Arc::clone(&orders)));
        }
    }

    /// What all workers moved so far.
    pub(crate) async fn moved(&self) -> Moved {
        let all = self.ask(Message::Totals).await;
        all.into_iter().fold(Moved::default(), |sum, one| Moved {
            from_client: sum.from_client + one.from_client,
            from_cn: sum.from_cn + one.from_cn,
            queries: sum.queries + one.queries,
        })
    }

    async fn ask<T>(&self, message: impl Fn(oneshot::Sender<T>) -> Message) -> Vec<T> {
        let mut answers = Vec::new();
        for one in self.workers.iter() {
            let (answer, answered) = oneshot::channel();
            if one.messages.send(message(answer)).is_ok() {
                answers.push(answered);
            }
        }
        let mut all = Vec::new();
        for answered in answers {
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answered).await {
                all.push(answer);
            }
        }
        all
    }
}

/// Carries sessions until the mailbox closes, on the thread that calls it.
pub(crate) fn run(plane: Arc<Plane>, mut mailbox: Mailbox) -> std::io::Result<()> {
    let_others_finish();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(shunt_ring::submit)
        .on_thread_unpark(shunt_ring::complete)
        .build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker {
        plane,
        sessions: Rc::default(),
        buffer: Rc::new(RefCell::new(vec![0; BURST])),
        totals: Rc::default(),
        settling: Rc::default(),
        rebuilds: Semaphore::new(REBUILDS),
        closing: RefCell::default(),
    });
    runtime.block_on(async move {
        let _ring = ring(worker.plane.config.io);
        tokio::task::spawn_local(tick());
        tokio::task::spawn_local(queue::run(Arc::clone(&worker.plane), Rc::clone(&worker.settling)));
        while let Some(message) = mailbox.recv().await {
            worker.take(message);
            // Messages that come without a pause keep the thread from sleeping.
            shunt_ring::submit();
        }
    });
    Ok(())
}

/// The ring of this thread's sockets, where they are to have one and the kernel lets them.
fn ring(io: Io) -> Option<Installed> {
    if io == Io::Epoll {
        return None;
    }
    let ring = Installed::new();
    ring.inspect_err(|error| tracing::info!(%error, "no io_uring here: sockets are waited for by epoll")).ok()
}

/// Asks the scheduler not to interrupt others for this thread (SCHED_BATCH). Where cores are shared and busy, a worker
/// that interrupts whoever writes to it, for each single message, forwards them one by one; one that waits its turn
/// finds several. Where a core is free it runs at once, as before. docs/speed.md has the figures.
fn let_others_finish() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id, thread_schedule_policy,
    };
    // Whoever set a policy or a niceness for the process knows better.
    let by_default = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    let is_default = thread_schedule_policy().is_ok_and(|policy| policy == by_default);
    if !is_default || rustix::process::getpriority_process(None) != Ok(0) {
        return;
    }
    let batch = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    // The value of the system's own is the niceness: 0, as it was.
    let niceness = ThreadPriority::Os(Default::default());
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), niceness, batch) {
        tracing::debug!(?error, "ask for SCHED_BATCH");
    }
}

/// Wakes a worker now and then. A timer that is the first to run out wakes the runtime that sets it, by a call to the
/// kernel; behind this one those of a login are not the first.
async fn tick() {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
    }
}

impl Worker {
    // Who asked may have left: its answer is dropped then.
    fn take(self: &Rc<Self>, message: Message) {
        match message {
            Message::Accept(socket, client, seat) => self.accept(socket, client, seat),
            Message::List(which, limit, answer) => {
                let views = self.sessions.list(&which, limit);
                let _ = answer.send(views.iter().map(|view| view.to_pb(&self.plane.id)).collect());
            }
            Message::Find(id, answer) => {
                let _ = answer.send(self.find(id));
            }
            Message::Order(which, order, answer) => {
                if which.is_all() {
                    *self.closing.borrow_mut() = Some(order.clone());
                }
                let _ = answer.send(self.sessions.order(&which, &order));
            }
            Message::Move(id, to, answer) => {
                let Some(view) = self.sessions.find(id).filter(|view| view.state() != State::Login) else {
                    let _ = answer.send(None);
                    return;
                };
                let (told, tells) = oneshot::channel();
                view.inbox.put_move(MoveOrder { to, answer: Some(told) });
                tokio::task::spawn_local(async move {
                    // The session may end before.
                    let _ = answer.send(tells.await.ok());
                });
            }
            Message::MoveAll(orders) => {
                for (id, to) in orders.iter() {
                    if let Some(view) = self.sessions.find(*id).filter(|view| view.state() != State::Login) {
                        view.show_going(Some(to.clone()));
                        view.inbox.put_move(MoveOrder { to: to.clone(), answer: None });
                    }
                }
            }
            Message::Census(answer) => {
                let _ = answer.send(self.sessions.census());
            }
            Message::Totals(answer) => {
                let Totals { from_client, from_cn, queries } = &*self.totals;
                let moved =
                    Moved { from_client: from_client.get(), from_cn: from_cn.get(), queries: queries.get() };
                let _ = answer.send(moved);
            }
        }
    }

    fn accept(self: &Rc<Self>, socket: std::net::TcpStream, client: SocketAddr, seat: Seat) {
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let by = By::of_session(worker.plane.config.io, seat.is_alone());
            serve(worker, socket, client, by).await;
            // A goodbye may still be in the queue when nobody waits for this session any more.
            shunt_ring::submit();
            drop(seat);
        });
    }

    fn find(&self, id: u32) -> Option<Found> {
        let view = self.sessions.find(id).filter(|view| view.state() != State::Login)?;
        let facts = view.facts.borrow();
        Some(Found {
            tenant: facts.tenant.clone(),
            user: facts.user.clone(),
            cn: facts.cn.clone(),
            connection_id: facts.cn_connection_id,
            port: facts.cn_sees_port,
        })
    }
}
