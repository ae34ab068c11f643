//! Probes of CNs: one that failed is avoided until the service account can log in to it and it runs the readiness
//! statement.
//!
//! Must not know: what made it fail.

use crate::routing::Routing;
use crate::service::{Service, ServiceError};
use shunt_proto::cn::CnId;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Probes that run at once.
const AT_ONCE: usize = 64;

/// The first pause between two probes of a CN that is down, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Probes each CN that arrives until it serves, or is gone. Ends when `to_probe` does.
pub(crate) async fn run(
    routing: Arc<Routing>,
    service: Service,
    mut to_probe: mpsc::UnboundedReceiver<CnId>,
) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut probes = JoinSet::new();
    let mut probed = HashSet::new();
    loop {
        tokio::select! {
            cn = to_probe.recv() => {
                let Some(cn) = cn else { return };
                if probed.insert(cn.clone()) {
                    let (routing, permits) = (Arc::clone(&routing), Arc::clone(&permits));
                    probes.spawn(until_it_serves(cn, routing, service.clone(), permits));
                }
            }
            Some(ended) = probes.join_next() => {
                let Ok(cn) = ended else { return };
                probed.remove(&cn);
                // It failed again between its last probe and now.
                if routing.is_down(&cn) {
                    probed.insert(cn.clone());
                    let (routing, permits) = (Arc::clone(&routing), Arc::clone(&permits));
                    probes.spawn(until_it_serves(cn, routing, service.clone(), permits));
                }
            }
        }
    }
}

/// Probes `cn` until it serves, or is gone from the routing state. Gives it back.
async fn until_it_serves(cn: CnId, routing: Arc<Routing>, service: Service, permits: Arc<Semaphore>) -> CnId {
    let mut pause = FIRST_PAUSE;
    while routing.address(&cn).is_some() {
        let Ok(permit) = permits.acquire().await else { break };
        let probed = service.probe(&cn).await;
        drop(permit);
        match probed {
            Ok(baseline) => {
                routing.succeeded(&cn, baseline);
                break;
            }
            // Nothing but a client's login can tell then: it may cost one of them a try.
            Err(ServiceError::NoAccount) => {
                tokio::time::sleep(LONGEST_PAUSE).await;
                routing.try_again(&cn);
                break;
            }
            Err(error) => {
                tracing::debug!(%cn, %error, "probe");
                routing.failed(&cn, &error.to_string());
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    cn
}
