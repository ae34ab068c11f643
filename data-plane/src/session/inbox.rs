//! What others want of a session: its task looks into its inbox whenever it waits for its sockets.
//!
//! An inbox belongs to the session's worker: orders from elsewhere are brought by a message to that worker.

use super::migrate::outcome::Ended;
use shunt_proto::cn::CnId;
use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};
use tokio::sync::oneshot;

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Close at the next safe point, and tell the client this.
    Close(Farewell),
    /// Close now.
    Kill,
    /// Close now if it is on this CN, and that drains still: it may have left meanwhile.
    LeaveOrEnd(CnId),
    /// It is time to be settled.
    Settle,
    /// This CN says nothing to anybody, or that it cannot serve: see whether it serves this session.
    CnIsUseless { cn: CnId, is_silent: bool },
    /// Move: the inbox has the particulars.
    Move,
}

/// A wish that a session moves.
#[derive(Debug)]
pub(crate) struct MoveOrder {
    /// To this CN; else to the one that has the fewest sessions of those that it may use.
    pub(crate) to: Option<CnId>,
    /// Who is told what came of it; dropped when the session ends before.
    pub(crate) answer: Option<oneshot::Sender<Ended>>,
}

/// What a client is told when its session is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The tenant is suspended.
    Suspended(String),
    /// The data plane shuts down.
    Shutdown,
}

/// Orders that wait. A later one takes the place of an earlier one, but nothing takes the place of a kill.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    order: RefCell<Option<Order>>,
    moves: RefCell<Vec<MoveOrder>>,
    full: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Inbox {
    /// Leaves an order.
    pub(crate) fn put(&self, order: Order) {
        let mut waiting = self.order.borrow_mut();
        // What may come to nothing takes the place of nothing.
        let yields = matches!(order, Order::LeaveOrEnd(_) | Order::Settle | Order::CnIsUseless { .. })
            && waiting.is_some();
        if *waiting != Some(Order::Kill) && !yields {
            *waiting = Some(order);
        }
        self.ring();
    }

    /// Leaves a wish that the session moves.
    pub(crate) fn put_move(&self, order: MoveOrder) {
        self.moves.borrow_mut().push(order);
        self.ring();
    }

    /// Takes one.
    pub(crate) fn take_move(&self) -> Option<MoveOrder> {
        self.moves.borrow_mut().pop()
    }

    fn ring(&self) {
        self.full.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Takes an order; without one, `cx` is woken by the next.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Option<Order> {
        if self.full.replace(false) {
            let order = self.order.borrow_mut().take();
            let moves = !self.moves.borrow().is_empty();
            self.full.set(order.is_some() && moves);
            if order.is_some() || moves {
                return Some(order.unwrap_or(Order::Move));
            }
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        None
    }
}
