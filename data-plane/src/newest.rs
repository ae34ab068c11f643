//! Which connection id a CN gives now: when a CN closes a session, that tells whether it lives and has not restarted.
//!
//! One question for each CN at a time, shared by everybody who asked before it began: when a CN dies, all of its
//! sessions ask at once.
//!
//! Must not know: sessions.

use crate::cn;
use crate::routing::Routing;
use parking_lot::Mutex;
use shunt_proto::cn::CnId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The id, or why there is none.
type Answer = Result<u32, NoAnswer>;

/// Why a CN does not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// It is no longer part of the routing state.
    #[error("is no longer part of the cluster")]
    Gone,
    /// It could not be asked at this address.
    #[error("{cause}")]
    Failed {
        /// Where it was asked.
        address: String,
        /// Why not.
        cause: String,
    },
}

/// Those who wait for the next question to each CN that is being asked.
type Waiting = Arc<Mutex<HashMap<CnId, Vec<oneshot::Sender<Answer>>>>>;

/// Asks CNs.
pub(crate) struct Newest {
    routing: Arc<Routing>,
    limit: Duration,
    waiting: Waiting,
    runtime: tokio::runtime::Handle,
}

impl Newest {
    /// Asks on `runtime`; a CN may take `limit` to greet.
    pub(crate) fn new(routing: Arc<Routing>, limit: Duration, runtime: tokio::runtime::Handle) -> Self {
        Self { routing, limit, waiting: Arc::default(), runtime }
    }

    /// The id that `cn` gives a connection that is made after this was called.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(crate) async fn id(&self, cn: &CnId) -> Answer {
        let (answer, answered) = oneshot::channel();
        if self.is_first(cn, answer) {
            let (routing, waiting) = (Arc::clone(&self.routing), Arc::clone(&self.waiting));
            self.runtime.spawn(ask_while_somebody_waits(cn.clone(), routing, self.limit, waiting));
        }
        // The task answers everybody; it ends early only with the process.
        answered.await.unwrap_or(Err(NoAnswer::Gone))
    }

    /// Waits for the next question to `cn`. True where nobody asks it yet.
    fn is_first(&self, cn: &CnId, answer: oneshot::Sender<Answer>) -> bool {
        let mut waiting = self.waiting.lock();
        let is_asked = waiting.contains_key(cn);
        waiting.entry(cn.clone()).or_default().push(answer);
        !is_asked
    }
}

async fn ask_while_somebody_waits(cn: CnId, routing: Arc<Routing>, limit: Duration, waiting: Waiting) {
    loop {
        let asking = {
            let mut waiting = waiting.lock();
            match waiting.get_mut(&cn).map(std::mem::take) {
                Some(asking) if !asking.is_empty() => asking,
                _ => {
                    waiting.remove(&cn);
                    return;
                }
            }
        };
        let answer = ask(&cn, &routing, limit).await;
        for one in asking {
            // Who asked may have left.
            let _ = one.send(answer.clone());
        }
    }
}

async fn ask(cn: &CnId, routing: &Routing, limit: Duration) -> Answer {
    let address = routing.address(cn).ok_or(NoAnswer::Gone)?;
    match cn::dial(&address, limit, None).await {
        // The handshake is brought to its end in the background.
        Ok(greeted) => Ok(greeted.greeting.connection_id),
        Err(error) => Err(NoAnswer::Failed { address, cause: error.to_string() }),
    }
}
