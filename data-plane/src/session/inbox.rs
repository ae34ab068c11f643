//! What others want of a session: its task looks into its inbox whenever it waits for its sockets.
//!
//! An inbox belongs to the session's worker: orders from elsewhere are brought by a message to that worker.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Close at the next safe point, and tell the client this.
    Close(Farewell),
    /// Close now.
    Kill,
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
    full: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Inbox {
    /// Leaves an order.
    pub(crate) fn put(&self, order: Order) {
        let mut waiting = self.order.borrow_mut();
        if *waiting != Some(Order::Kill) {
            *waiting = Some(order);
        }
        self.full.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Takes an order; without one, `cx` is woken by the next.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Option<Order> {
        if self.full.replace(false) {
            return self.order.borrow_mut().take();
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        None
    }
}
