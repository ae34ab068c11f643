//! What is counted, by name. The registry is passed in; labels have few values, none chosen by a client.

use crate::cluster::ClusterWatch;
use crate::follow::Standing;
use crate::planes::Planes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use shunt_proto::cn::Health;
use shunt_proto::snapshot::Object;
use tokio::sync::watch;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    call: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// What this process counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    calls: Family<Call, Counter>,
    frames: Family<Kind, Counter>,
    refused: Counter,
    in_step: Gauge,
    revision: Gauge,
    objects: Family<Kind, Gauge>,
    cns_down: Gauge,
    data_planes: Gauge,
    sessions: Gauge,
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let r = registry;
        r.register("calls", "Calls answered, by their status code", metrics.calls.clone());
        r.register(
            "frames_sent",
            "State sent to data planes: snapshot chunks, deltas",
            metrics.frames.clone(),
        );
        r.register("frames_refused", "Frames of state that data planes refused", metrics.refused.clone());
        r.register("store_in_step", "1: what is known is what the store holds", metrics.in_step.clone());
        r.register("revision", "Revision of the routing state", metrics.revision.clone());
        r.register("objects", "Objects of the routing state", metrics.objects.clone());
        r.register("cns_down", "CNs that a data plane says are down", metrics.cns_down.clone());
        r.register("data_planes", "Data planes that are connected", metrics.data_planes.clone());
        r.register("sessions", "Sessions that data planes reported", metrics.sessions.clone());
        metrics
    }

    /// A call was answered.
    pub(crate) fn called(&self, call: &'static str, code: tonic::Code) {
        self.calls.get_or_create(&Call { call, code: word(code) }).inc();
    }

    /// A frame of state was sent.
    pub(crate) fn sent(&self, kind: &'static str) {
        self.frames.get_or_create(&Kind { kind }).inc();
    }

    /// A data plane refused state.
    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    /// Takes what is known now into the gauges.
    pub(crate) fn look(&self, cluster: &ClusterWatch, planes: &Planes, standing: &watch::Receiver<Standing>) {
        let snapshot = cluster.snapshot();
        let mut counts = [("cn", 0_i64), ("group", 0), ("tenant", 0)];
        let mut down = 0;
        for (_, entry) in snapshot.entries() {
            let at = match &entry.object {
                Object::Cn(cn) => {
                    down += i64::from(planes.health(cn.name.as_str()).0 == Health::Down);
                    0
                }
                Object::Group(_) => 1,
                Object::Tenant(_) => 2,
                Object::Policy(_) => continue,
            };
            counts[at].1 += 1;
        }
        for (kind, count) in counts {
            self.objects.get_or_create(&Kind { kind }).set(count);
        }
        self.cns_down.set(down);
        self.revision.set(i64::try_from(snapshot.version().revision).unwrap_or(i64::MAX));
        self.data_planes.set(i64::try_from(planes.connected().len()).unwrap_or(i64::MAX));
        self.sessions.set(planes.totals().sessions.into());
        self.in_step.set(i64::from(*standing.borrow() == Standing::InStep));
    }
}

/// As the API's users know it.
const fn word(code: tonic::Code) -> &'static str {
    use tonic::Code as C;
    match code {
        C::Ok => "OK",
        C::Cancelled => "CANCELLED",
        C::Unknown => "UNKNOWN",
        C::InvalidArgument => "INVALID_ARGUMENT",
        C::DeadlineExceeded => "DEADLINE_EXCEEDED",
        C::NotFound => "NOT_FOUND",
        C::AlreadyExists => "ALREADY_EXISTS",
        C::PermissionDenied => "PERMISSION_DENIED",
        C::ResourceExhausted => "RESOURCE_EXHAUSTED",
        C::FailedPrecondition => "FAILED_PRECONDITION",
        C::Aborted => "ABORTED",
        C::OutOfRange => "OUT_OF_RANGE",
        C::Unimplemented => "UNIMPLEMENTED",
        C::Internal => "INTERNAL",
        C::Unavailable => "UNAVAILABLE",
        C::DataLoss => "DATA_LOSS",
        C::Unauthenticated => "UNAUTHENTICATED",
    }
}
