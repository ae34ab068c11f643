//! Whether there is code on the CNs that may touch a session's state unseen: a trigger or a stored function that sets a
//! user variable, takes a lock or generates an id does so in a statement that says nothing of it, and no tracker tells.
//!
//! CNs share their storage: what one of them has, all have. Where nobody may look, there may be some.
//!
//! Must not know: sessions.

use crate::plane::Plane;
use crate::routing::Routing;
use crate::service::Service;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an answer holds for whoever must know.
const FRESH: Duration = Duration::from_secs(2);

/// How often it is asked while nobody must know.
const ROUND: Duration = Duration::from_secs(60);

/// How long an answer holds while no CN gives another: longer than a round.
const OLD: Duration = Duration::from_secs(90);

/// CNs that are asked before it is given up.
const TRIES: usize = 3;

/// What is known of the code.
pub(crate) struct Code {
    routing: Arc<Routing>,
    service: Service,
    may_be: AtomicBool,
    /// When a CN said so.
    said: Mutex<Option<Instant>>,
}

impl Code {
    /// Nothing is known yet.
    pub(crate) fn new(routing: Arc<Routing>, service: Service) -> Self {
        Self { routing, service, may_be: AtomicBool::new(true), said: Mutex::default() }
    }

    /// Whether there may be some, as far as is known.
    pub(crate) fn may_be(&self) -> bool {
        self.may_be.load(Ordering::Relaxed)
    }

    /// Whether there is some now. One question, shared by all who ask meanwhile.
    pub(crate) async fn is_there(&self) -> bool {
        let mut said = self.said.lock().await;
        if said.is_some_and(|at| at.elapsed() < FRESH) {
            return self.may_be();
        }
        let mut found = None;
        for cn in self.routing.any().iter().take(TRIES) {
            match self.service.has_code(cn.name()).await {
                Ok(has) => {
                    found = Some(has);
                    break;
                }
                Err(error) => tracing::debug!(cn = %cn.name(), %error, "ask for stored code"),
            }
        }
        // Where no CN says anything now, what one said a moment ago is as good.
        let may_be = match (found, *said) {
            (Some(has), _) => has,
            (None, Some(at)) if at.elapsed() < OLD => return self.may_be(),
            (None, _) => true,
        };
        self.may_be.store(may_be, Ordering::Relaxed);
        *said = found.map(|_| Instant::now());
        may_be
    }
}

/// Asks now and then, as long as the process lives.
pub(crate) async fn run(plane: Arc<Plane>) {
    let code = &plane.code;
    let mut rounds = tokio::time::interval(ROUND);
    let mut snapshots = code.routing.watch();
    loop {
        tokio::select! {
            _ = rounds.tick() => {}
            // There are CNs to ask, or others.
            changed = snapshots.changed() => if changed.is_err() { return },
        }
        if code.service.has_account() {
            code.is_there().await;
        }
    }
}
