//! The control plane as a caller sees it: calls with a deadline, lists with all their pages, and failures in words.
//!
//! Must not know: commands, output.

use shunt_proto::pb::cluster_service_client::ClusterServiceClient;
use shunt_proto::pb::cn_service_client::CnServiceClient;
use shunt_proto::pb::group_service_client::GroupServiceClient;
use shunt_proto::pb::session_service_client::SessionServiceClient;
use shunt_proto::pb::tenant_service_client::TenantServiceClient;
use shunt_proto::yaml::Problems;
use std::error::Error;
use std::io;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

/// How long a call may take, connecting included.
const DEADLINE: Duration = Duration::from_secs(15);

/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// How many objects are asked for at a time. The most that a control plane gives.
pub(crate) const PAGE: i32 = 1000;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The file, or what it says.
    #[error("{0}")]
    File(#[from] Problems),
    /// The environment says what cannot be.
    #[error("error: {0}")]
    Environment(String),
    /// No connection.
    #[error("error: UNAVAILABLE: connect to {url}: {cause}")]
    Unreachable { url: String, cause: String },
    /// A connection, but no answer.
    #[error("error: UNAVAILABLE: {url} did not answer within {} s", DEADLINE.as_secs())]
    Silent { url: String },
    /// The control plane says no.
    #[error("error: {}", refusal(.0))]
    Refused(#[from] Box<Status>),
    /// A list that never ends.
    #[error("error: INTERNAL: {url} gives the same page of a list again and again")]
    EndlessList { url: String },
    /// Printing.
    #[error("error: write the answer: {0}")]
    Print(#[from] io::Error),
}

/// A control plane. Connects with its first call.
pub(crate) struct Server {
    url: String,
    channel: Channel,
}

/// A client of one service.
macro_rules! client {
    ($name:ident, $client:ident) => {
        pub(crate) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
        }
    };
}

impl Server {
    /// The control plane at `url`, which was checked.
    pub(crate) fn new(url: String) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| Failure::Unreachable { url: url.clone(), cause: root_cause(&error) })?;
        Ok(Self { channel: endpoint.connect_lazy(), url })
    }

    client!(cns, CnServiceClient);
    client!(groups, GroupServiceClient);
    client!(tenants, TenantServiceClient);
    client!(sessions, SessionServiceClient);
    client!(cluster, ClusterServiceClient);

    /// The answer of `call`, within the deadline.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(DEADLINE, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(status)),
            Err(_) => Err(Failure::Silent { url: self.url.clone() }),
        }
    }

    /// All items of a list. `page` takes the token of a page, and gives its items and the next one's token.
    pub(crate) async fn pages<T>(
        &self,
        mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
    ) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let (items, next) = page(token.clone()).await?;
            all.extend(items);
            if next.is_empty() {
                return Ok(all);
            }
            if next == token {
                return Err(Failure::EndlessList { url: self.url.clone() });
            }
            token = next;
        }
    }

    /// Whether the control plane said it, or the connection broke.
    fn failure(&self, status: Status) -> Failure {
        match status.source() {
            Some(source) => Failure::Unreachable { url: self.url.clone(), cause: root_cause(source) },
            None => Failure::Refused(Box::new(status)),
        }
    }
}

/// The last error of the chain: the one that the system or the peer told.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// A refusal as a sentence, with its code, its reason, and each field that is wrong.
fn refusal(status: &Status) -> String {
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    let mut words = format!("{message} ({}", code_name(status.code()));
    if let Some(info) = status.get_details_error_info().filter(|info| !info.reason.is_empty()) {
        words.push_str(&format!(", {}", info.reason));
    }
    words.push(')');
    for wrong in status.get_details_bad_request().iter().flat_map(|bad| &bad.field_violations) {
        if !message.contains(&wrong.description) {
            words.push_str(&format!("\n  {}: {}", wrong.field, wrong.description));
        }
    }
    words
}

/// The code as gRPC's documents write it.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
