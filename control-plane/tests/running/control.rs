//! A control plane in this process, on ports of its own, and fake data planes that follow it.

mod plane;

pub(crate) use plane::{FakePlane, Took};

use shunt_control::store::SharedStore;
use shunt_control::store::embedded::Embedded;
use shunt_control::{Bound, Config, StoreConfig};
use shunt_proto::intent::Intent;
use shunt_proto::pb::cluster_service_client::ClusterServiceClient;
use shunt_proto::pb::cn_service_client::CnServiceClient;
use shunt_proto::pb::group_service_client::GroupServiceClient;
use shunt_proto::pb::session_service_client::SessionServiceClient;
use shunt_proto::pb::tenant_service_client::TenantServiceClient;
use shunt_proto::{label::Labels, pb, wire, yaml::Document};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt as _};

/// A control plane.
pub(crate) struct Control {
    pub(crate) bound: Bound,
    channel: Channel,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// Waits for `condition`, which is asked again and again for a while.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Control {
    /// One with its store in `folder`, which is ready.
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::seeded(folder, "groups: []").await
    }

    /// One that fills an empty store with the intent in `yaml`.
    pub(crate) async fn seeded(folder: &Path, yaml: &str) -> Self {
        let document = Document::parse("seeds.yaml", yaml.as_bytes()).unwrap();
        let seeds = Intent::read(&document.root());
        let seeds = document.finish(seeds).unwrap();
        let control = Self::run(StoreConfig::Embedded(folder.to_owned()), seeds).await;
        control.ready().await;
        control
    }

    /// One that may never be ready.
    pub(crate) async fn run(store: StoreConfig, seeds: Intent) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config { api: any, advertise: None, admin: any, store, seeds };
        let (sender, bound) = oneshot::channel();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(shunt_control::run(config, shutdown.clone(), Some(sender)));
        let bound = timeout(Duration::from_secs(10), bound).await.unwrap().expect("it ended at once");
        let channel = Channel::from_shared(format!("http://{}", bound.api)).unwrap().connect_lazy();
        Self { bound, channel, shutdown, running }
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn ready(&self) {
        eventually("ready", || async { self.http("/readyz").await.0 == 200 }).await;
    }

    /// Ends it, and waits for the end.
    pub(crate) async fn stop(self) {
        let Self { channel, shutdown, running, .. } = self;
        drop(channel);
        shutdown.cancel();
        timeout(Duration::from_secs(15), running).await.expect("it does not stop").unwrap().unwrap();
    }

    /// Tells it to end.
    pub(crate) fn shut_down(&self) {
        self.shutdown.cancel();
    }

    /// Status and body of a path.
    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(self.bound.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn cns(&self) -> CnServiceClient<Channel> {
        CnServiceClient::new(self.channel())
    }

    pub(crate) fn groups(&self) -> GroupServiceClient<Channel> {
        GroupServiceClient::new(self.channel())
    }

    pub(crate) fn tenants(&self) -> TenantServiceClient<Channel> {
        TenantServiceClient::new(self.channel())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel())
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel())
    }

    /// Registers a CN.
    pub(crate) async fn cn(&self, name: &str, address: &str, group: &str) -> pb::Cn {
        let cn =
            pb::Cn { name: name.into(), address: address.into(), group: group.into(), ..pb::Cn::default() };
        let request = pb::CreateCnRequest { cn: Some(cn) };
        self.cns().create_cn(request).await.unwrap().into_inner()
    }

    /// Creates a group.
    pub(crate) async fn group(&self, name: &str, with: &str, tenant: &str) -> pb::CnGroup {
        let group = pb::CnGroup {
            name: name.into(),
            labels: labels(with),
            tenant: tenant.into(),
            ..pb::CnGroup::default()
        };
        let request = pb::CreateGroupRequest { group: Some(group) };
        self.groups().create_group(request).await.unwrap().into_inner()
    }

    /// Sets own labels of a CN.
    pub(crate) async fn label(&self, name: &str, with: &str) -> pb::Cn {
        let request = pb::LabelCnRequest { name: name.into(), set: labels(with), ..Default::default() };
        self.cns().label_cn(request).await.unwrap().into_inner()
    }

    pub(crate) async fn find(&self, name: &str) -> Result<pb::Cn, Status> {
        let request = pb::GetCnRequest { name: name.into() };
        self.cns().get_cn(request).await.map(tonic::Response::into_inner)
    }

    /// The data planes, by id.
    pub(crate) async fn data_planes(&self) -> BTreeMap<String, pb::DataPlane> {
        let request = pb::ListDataPlanesRequest::default();
        let planes = self.cluster().list_data_planes(request).await.unwrap().into_inner().data_planes;
        planes.into_iter().map(|plane| (plane.id.clone(), plane)).collect()
    }

    /// What the cluster looks like as YAML says.
    pub(crate) async fn apply(&self, yaml: &str, prune: bool) -> Result<pb::ApplyResponse, Status> {
        let document = Document::parse("apply.yaml", yaml.as_bytes()).unwrap();
        let intent = Intent::read(&document.root());
        let request = document.finish(intent).unwrap().to_apply(prune);
        self.cluster().apply(request).await.map(tonic::Response::into_inner)
    }
}

/// `workload=tp,tier=gold|silver`; `workload=` has no value.
pub(crate) fn labels(text: &str) -> BTreeMap<String, prost_types::ListValue> {
    let mut labels = Labels::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, values) = pair.split_once('=').unwrap();
        labels.declare(key).unwrap();
        for value in values.split('|').filter(|value| !value.is_empty()) {
            labels.add(key, value).unwrap();
        }
    }
    wire::labels_to_pb(&labels)
}

/// Labels as people write them.
pub(crate) fn shown(labels: &BTreeMap<String, prost_types::ListValue>) -> String {
    let word = |value: &prost_types::Value| match &value.kind {
        Some(prost_types::value::Kind::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    let pair = |(key, list): (&String, &prost_types::ListValue)| {
        format!("{key}={}", list.values.iter().map(word).collect::<Vec<_>>().join("|"))
    };
    labels.iter().map(pair).collect::<Vec<_>>().join(",")
}

/// Whether a call was refused with this code and reason, and exactly one `ErrorInfo`.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str) -> Status {
    let status = result.expect_err("was not refused");
    let details = status.get_error_details_vec();
    let infos: Vec<_> = details
        .iter()
        .filter_map(|detail| match detail {
            ErrorDetail::ErrorInfo(info) => Some(info),
            _ => None,
        })
        .collect();
    assert_eq!(infos.len(), 1, "{status:?}");
    let told = (status.code(), infos[0].reason.as_str(), infos[0].domain.as_str());
    assert_eq!(told, (code, reason, "shunt"), "{status:?}");
    status
}

/// The store in `folder`, as somebody else who writes to it while no control plane runs.
pub(crate) async fn store(folder: &Path) -> SharedStore {
    Arc::new(Embedded::open(folder).await.unwrap())
}
