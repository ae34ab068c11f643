//! The other replicas: asks one of them for a data plane that is connected there.
//!
//! Must not know: what is asked.

use crate::cluster::ClusterWatch;
use crate::orders;
use crate::planes::{Answer, Ask};
use parking_lot::Mutex;
use shunt_proto::pb::{self, peer_service_client::PeerServiceClient};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// How long a connection to a replica may take.
const CONNECT: Duration = Duration::from_secs(1);

/// How often a connection is asked whether it still leads anywhere.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What is taken in one message: an answer of a data plane.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// The other replicas, by where they are.
pub(crate) struct Peers {
    cluster: ClusterWatch,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Peers {
    /// Those that `cluster` knows.
    pub(crate) fn new(cluster: ClusterWatch) -> Self {
        Self { cluster, channels: Mutex::default() }
    }

    /// Asks `replica` for its data plane. None: it did not answer in time, or does not have it any more.
    pub(crate) async fn ask(&self, replica: &str, plane: &str, ask: Ask, limit: Duration) -> Option<Answer> {
        let channel = self.channel(replica)?;
        let order = pb::Order { id: 0, order: Some(orders::order_of(ask)) };
        let request = pb::AskRequest { data_plane: plane.to_owned(), order: Some(order) };
        let mut client = PeerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        match timeout(limit, client.ask(request)).await {
            Ok(Ok(answer)) => Some(orders::answer_of(answer.into_inner())),
            Ok(Err(status)) => {
                tracing::debug!(replica, plane, %status, "ask a replica");
                None
            }
            Err(_) => None,
        }
    }

    /// The connection to a replica, made with its first use.
    fn channel(&self, replica: &str) -> Option<Channel> {
        let view = self.cluster.view();
        let address = &view.replicas.get(replica)?.api;
        let mut channels = self.channels.lock();
        channels.retain(|at, _| view.replicas.values().any(|replica| replica.api == *at));
        if let Some(channel) = channels.get(address) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        // One that came back under its address does not know the connection.
        let endpoint = endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE / 2);
        let channel = endpoint.keep_alive_while_idle(true).connect_lazy();
        channels.insert(address.clone(), channel.clone());
        Some(channel)
    }
}
