//! Checks of the CNs: one that fails is avoided until the service account can log in to it and it runs the readiness
//! statement.
//!
//! Each CN is checked every second, so that one that died or hangs while nobody uses it is known before a client pays
//! for it. Where there are many, each is checked more seldom.
//!
//! Must not know: what made a CN fail, sessions.

use crate::cn::CnError;
use crate::routing::{Heard, Routing};
use crate::service::{Service, ServiceError};
use shunt_proto::cn::CnId;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

/// What a Galera node says that is out of its primary component, or is catching up.
const NOT_READY: u16 = 1047;

/// Probes that run at once.
const AT_ONCE: usize = 64;

/// The first pause between two probes of a CN that is down, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Between two rounds of checks.
const ROUND: Duration = Duration::from_secs(1);

/// CNs that are checked in a round.
const IN_A_ROUND: usize = 128;

/// Checks CNs, and probes each that arrives until it serves, or is gone. Ends when `to_probe` does.
pub(crate) async fn run(
    routing: Arc<Routing>,
    service: Service,
    mut to_probe: mpsc::UnboundedReceiver<CnId>,
) {
    let mut checks = Checks { routing, service, busy: HashSet::new(), tasks: JoinSet::new(), last: None };
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut rounds = rounds();
    loop {
        tokio::select! {
            cn = to_probe.recv() => match cn {
                Some(cn) => checks.probe(cn, &permits),
                None => return,
            },
            Some(ended) = checks.tasks.join_next() => {
                let Ok(cn) = ended else { return };
                checks.busy.remove(&cn);
                // It failed, or was slow, in the check, or again between its last probe and now.
                if checks.routing.is_avoided(&cn) && checks.routing.address(&cn).is_some() {
                    checks.probe(cn, &permits);
                }
            }
            _ = rounds.tick(), if checks.service.has_account() => checks.round(),
        }
    }
}

fn rounds() -> Interval {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    rounds
}

/// The checks and probes that run.
struct Checks {
    routing: Arc<Routing>,
    service: Service,
    /// CNs that are being asked.
    busy: HashSet<CnId>,
    tasks: JoinSet<CnId>,
    /// The last CN of the last round, where there were more than a round takes.
    last: Option<CnId>,
}

impl Checks {
    fn probe(&mut self, cn: CnId, permits: &Arc<Semaphore>) {
        if self.routing.is_refused(&cn) || !self.busy.insert(cn.clone()) {
            return;
        }
        let (routing, service) = (Arc::clone(&self.routing), self.service.clone());
        self.tasks.spawn(until_it_serves(cn, routing, service, Arc::clone(permits)));
    }

    /// Checks the next CNs in the order of names, of those that are not down.
    fn round(&mut self) {
        let mut cns = self.routing.not_down();
        let from = self.last.take().map_or(0, |last| cns.partition_point(|cn| *cn <= last));
        cns.rotate_left(from);
        if cns.len() > IN_A_ROUND {
            cns.truncate(IN_A_ROUND);
            self.last = cns.last().cloned();
        }
        for cn in cns {
            if self.busy.insert(cn.clone()) {
                self.tasks.spawn(check(cn, Arc::clone(&self.routing), self.service.clone()));
            }
        }
    }
}

/// Asks `cn` once whether it serves. Gives it back.
async fn check(cn: CnId, routing: Arc<Routing>, service: Service) -> CnId {
    let address = routing.address(&cn).unwrap_or_default();
    match service.check(&cn).await {
        Ok(baseline) => routing.seen(&cn, &address, baseline),
        // One that cannot serve was noted where it was asked.
        Err(error) => {
            tracing::debug!(%cn, %error, "check");
            routing.heard(&cn, &address, heard(&error));
        }
    }
    cn
}

/// Probes `cn` until it serves, or is gone from the routing state. Gives it back.
async fn until_it_serves(cn: CnId, routing: Arc<Routing>, service: Service, permits: Arc<Semaphore>) -> CnId {
    let mut pause = FIRST_PAUSE;
    while let Some(address) = routing.address(&cn) {
        let Ok(permit) = permits.acquire().await else { break };
        let probed = service.probe(&cn).await;
        drop(permit);
        if let Err(error) = &probed {
            routing.heard(&cn, &address, heard(error));
        }
        match probed {
            Ok(baseline) => {
                if routing.succeeded(&cn, &address, baseline) {
                    break;
                }
            }
            Err(error) if says_nothing(&error) => {
                tracing::debug!(%cn, %error, "probe");
                if routing.is_avoided(&cn) {
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    routing.try_again(&cn);
                }
                break;
            }
            Err(ServiceError::Cn(error)) if error.puts_cn_down() => {
                tracing::debug!(%cn, %error, "probe");
                routing.failed(&cn, &address, &error.to_string());
            }
            // Nothing was heard of the CN: too many questions wait, or this machine has no files or ports left.
            Err(error) => tracing::debug!(%cn, %error, "probe"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    cn
}

/// What a CN said that did not say that it serves.
fn heard(error: &ServiceError) -> Heard {
    match error {
        ServiceError::Cn(CnError::Timeout(_) | CnError::Slow(_)) => Heard::Nothing,
        ServiceError::Cn(CnError::Connect(error)) if error.kind() == std::io::ErrorKind::TimedOut => {
            Heard::Nothing
        }
        ServiceError::Cn(CnError::Refused(err)) if err.code == NOT_READY => Heard::NotReady,
        _ => Heard::Else,
    }
}

/// Without an account, or with one that the CN refuses, nothing but a client's login can tell: it may cost one of them
/// a try.
fn says_nothing(error: &ServiceError) -> bool {
    match error {
        ServiceError::NoAccount => true,
        ServiceError::Cn(error @ CnError::Refused(_)) => !error.puts_cn_down(),
        ServiceError::Cn(_) | ServiceError::Busy => false,
    }
}
