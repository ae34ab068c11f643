//! Which connection id a CN gives now: when a CN closes a session, that tells whether it lives and has not restarted.
//!
//! One question for each CN at a time, shared by everybody who asked before it began: when a CN dies, all of its
//! sessions ask at once.
//!
//! Must not know: sessions.

use crate::cn;
use crate::routing::Routing;
use crate::socket::By;
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
        /// It is the CN's fault, and not this machine's own.
        is_of_the_cn: bool,
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
    match cn::dial(&address, limit, None, By::Epoll).await {
        // The handshake is brought to its end in the background.
        Ok(greeted) => Ok(greeted.greeting.connection_id),
        Err(error) => {
            let (cause, is_of_the_cn) = (error.to_string(), error.puts_cn_down());
            Err(NoAnswer::Failed { address, cause, is_of_the_cn })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mysql_wire::greeting::Greeting;
    use mysql_wire::{capability, native, packet};
    use shunt_proto::cn::{Cn, CnState};
    use shunt_proto::label::Labels;
    use shunt_proto::snapshot::{Entry, Object, RoutingSnapshot, Version, digest};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    fn routing_to(address: &str) -> Arc<Routing> {
        let cn = Cn {
            name: CnId::new("cn-1").unwrap(),
            address: address.to_owned(),
            group: None,
            own_labels: Labels::new(),
            zone: String::new(),
            weight: 100,
            state: CnState::Working,
            remove_when_empty: false,
            drain: None,
        };
        let entries = vec![Entry { object: Object::Cn(Arc::new(cn)), mod_revision: 1, hash: 1 }];
        let version = Version { store_id: "s".into(), revision: 1, digest: digest(&entries) };
        let (routing, _) = Routing::new(false);
        routing.publish(&Arc::new(RoutingSnapshot::from_entries(version, entries).unwrap()));
        routing
    }

    /// A CN that greets each connection with the next id, once it may.
    async fn greet(cn: TcpListener, may: Arc<Semaphore>) {
        for connection_id in 1.. {
            let (mut socket, _) = cn.accept().await.unwrap();
            may.acquire().await.unwrap().forget();
            let greeting = Greeting {
                version: b"10.11".to_vec(),
                connection_id,
                salt: native::salt([7; 20]),
                capabilities: capability::OFFERED,
                collation: 45,
                status: 2,
                plugin: native::PLUGIN.to_vec(),
            };
            let mut bytes = Vec::new();
            packet::write(&mut bytes, 0, &greeting.write());
            socket.write_all(&bytes).await.unwrap();
        }
    }

    #[tokio::test]
    async fn all_who_ask_while_one_is_answered_share_the_next_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let routing = routing_to(&listener.local_addr().unwrap().to_string());
        let may = Arc::new(Semaphore::new(0));
        tokio::spawn(greet(listener, Arc::clone(&may)));
        let newest =
            Arc::new(Newest::new(routing, Duration::from_secs(10), tokio::runtime::Handle::current()));
        let cn = CnId::new("cn-1").unwrap();
        let ask = || {
            let (newest, cn) = (Arc::clone(&newest), cn.clone());
            tokio::spawn(async move { newest.id(&cn).await })
        };
        let first = ask();
        let waits = async |n: usize| {
            // Nobody is left waiting for the question that is under way.
            while newest.waiting.lock().get(&cn).map(Vec::len) != Some(n) {
                tokio::task::yield_now().await;
            }
        };
        waits(0).await;
        let rest: Vec<_> = (0..100).map(|_| ask()).collect();
        waits(100).await;
        may.add_permits(10);
        assert_eq!(first.await.unwrap(), Ok(1));
        for one in rest {
            assert_eq!(one.await.unwrap(), Ok(2), "an id of after it was asked for");
        }
        while !newest.waiting.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_cn_that_cannot_be_asked_says_why_and_one_that_is_gone_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let runtime = tokio::runtime::Handle::current();
        let newest = Newest::new(routing_to(&address), Duration::from_secs(10), runtime);
        let failed = newest.id(&CnId::new("cn-1").unwrap()).await.unwrap_err();
        assert!(matches!(&failed, NoAnswer::Failed { address: at, .. } if *at == address), "{failed}");
        assert_eq!(newest.id(&CnId::new("cn-2").unwrap()).await, Err(NoAnswer::Gone));
    }
}
