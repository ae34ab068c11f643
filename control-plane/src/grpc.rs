//! The calls and the stream. What comes in is turned into domain types at the door, and errors into statuses on the
//! way out; in between nothing here decides anything.
//!
//! Must not know: etcd, redb.

mod cluster;
mod cn;
mod group;
mod mask;
mod page;
mod peer;
mod routing;
mod session;
mod shown;
mod status;
mod stream;
mod tenant;

use crate::asking::Asking;
use crate::cluster::{ClusterWatch, View};
use crate::edit::{Edit, Edits};
use crate::error::Error;
use crate::follow::Standing;
use crate::metrics::Metrics;
use crate::planes::Planes;
use shunt_proto::pb;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status};

/// A call answers within this, or says UNAVAILABLE.
const CALL: Duration = Duration::from_secs(14);

/// What is taken in one message. A report of 10,000 CNs and as many tenants is below 2 MiB.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What calls work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) cluster: ClusterWatch,
    pub(crate) edits: Arc<Edits>,
    pub(crate) planes: Arc<Planes>,
    pub(crate) asking: Asking,
    /// CNs that data planes are to avoid.
    pub(crate) avoided: watch::Receiver<Arc<BTreeSet<String>>>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) store_kind: &'static str,
    pub(crate) metrics: Metrics,
    pub(crate) started: SystemTime,
    /// The id of this replica; none: there is but one.
    pub(crate) replica: Option<String>,
    /// Ends the streams.
    pub(crate) shutdown: CancellationToken,
    /// Owns the tasks of the streams.
    pub(crate) streams: TaskTracker,
}

impl Api {
    /// Bounds and counts a call, and makes its status.
    async fn answer<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Response<T>, Status> {
        let result = match tokio::time::timeout(CALL, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Late(CALL.as_secs())),
        };
        let result = result.map(Response::new).map_err(|error| status::status(&error));
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.metrics.called(call, code);
        result
    }

    /// The view, once the store was read.
    fn view(&self) -> Result<Arc<View>, Error> {
        let view = self.cluster.view();
        if view.synced() {
            return Ok(view);
        }
        Err(Error::NotSynced(match &*self.standing.borrow() {
            Standing::Starting(why) | Standing::Behind(why) => why.clone(),
            Standing::InStep => String::new(),
        }))
    }

    /// Makes an edit, and returns the view that includes it.
    async fn edit(&self, decide: impl Fn(&View) -> Result<Edit, Error>) -> Result<Arc<View>, Error> {
        self.view()?;
        Ok(self.edits.make(|view| Ok((decide(view)?, ()))).await?.view)
    }
}

/// The server with all its services. Health is told by the returned reporter.
pub(crate) fn router(api: Api) -> (tonic::transport::server::Router, tonic_health::server::HealthReporter) {
    use pb::{
        cluster_service_server::ClusterServiceServer, cn_service_server::CnServiceServer,
        group_service_server::GroupServiceServer, peer_service_server::PeerServiceServer,
        routing_service_server::RoutingServiceServer, session_service_server::SessionServiceServer,
        tenant_service_server::TenantServiceServer,
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .tcp_nodelay(true)
        .add_service(health)
        .add_service(reflection().build_v1().expect(DESCRIPTORS_ARE_VALID))
        .add_service(reflection().build_v1alpha().expect(DESCRIPTORS_ARE_VALID))
        .add_service(CnServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(GroupServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(TenantServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(SessionServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(ClusterServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(PeerServiceServer::new(api.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(RoutingServiceServer::new(api).max_decoding_message_size(MAX_MESSAGE));
    (router, reporter)
}

const DESCRIPTORS_ARE_VALID: &str = "the build wrote valid descriptors";

/// Encoded, because the decoded form drops options. With google.rpc's, so that details of errors can be printed.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        // Both versions describe both: a tool may ask one for the other.
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
}

/// The services whose health is told, and the whole server under the empty name.
pub(crate) const SERVICES: [&str; 8] = [
    "",
    "shunt.v1.CnService",
    "shunt.v1.GroupService",
    "shunt.v1.TenantService",
    "shunt.v1.SessionService",
    "shunt.v1.ClusterService",
    "shunt.v1.RoutingService",
    "shunt.v1.PeerService",
];
