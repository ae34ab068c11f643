//! What the data plane counts. Names and labels are a contract: docs/metrics.md lists them.
//!
//! No label has a value that somebody chose who has not logged in.

use crate::plane::Plane;
use crate::session::close::{CloseReason, Closed};
use crate::session::failover::verdict::Verdict;
use crate::session::migrate::outcome::Outcome;
use crate::session::pin::PinReason;
use crate::session::settle::Kept;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use shunt_proto::cn::Health;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCn {
    cn: String,
}

/// A label value out of a list that is closed in the code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl prometheus_client::encoding::EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(self.0)
    }
}

/// The data plane's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    logins: Family<ByResult, Counter>,
    closed: Family<ByReason, Counter>,
    orphans: Counter,
    sessions: Gauge,
    cn_sessions: Family<ByCn, Gauge>,
    cn_up: Family<ByCn, Gauge>,
    revision: Gauge,
    control_connected: Gauge,
    queries: Counter,
    from_clients: Counter,
    from_cns: Counter,
    moves: Family<ByOutcome, Counter>,
    pinned: Family<ByReason, Counter>,
    pause: Histogram,
    settled: Family<ByOutcome, Counter>,
    failovers: Family<ByOutcome, Counter>,
    outlived: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("shunt_data"),
            logins: Family::default(),
            closed: Family::default(),
            orphans: Counter::default(),
            sessions: Gauge::default(),
            cn_sessions: Family::default(),
            cn_up: Family::default(),
            revision: Gauge::default(),
            control_connected: Gauge::default(),
            queries: Counter::default(),
            from_clients: Counter::default(),
            from_cns: Counter::default(),
            moves: Family::default(),
            pinned: Family::default(),
            // 0.1 ms to 3.2 s.
            pause: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            settled: Family::default(),
            failovers: Family::default(),
            // 1 ms to 33 s.
            outlived: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
        };
        let registry = &mut metrics.registry;
        registry.register("logins", "Logins that ended, by how", metrics.logins.clone());
        registry.register("sessions_closed", "Sessions that ended, by why", metrics.closed.clone());
        registry.register(
            "orphans_killed",
            "Statements killed on a CN because their client left",
            metrics.orphans.clone(),
        );
        registry.register("sessions", "Sessions now, logins included", metrics.sessions.clone());
        registry.register("cn_sessions", "Sessions on a CN, logins included", metrics.cn_sessions.clone());
        registry.register("cn_up", "1: the CN is used; 0: it is avoided", metrics.cn_up.clone());
        registry.register("routing_revision", "Revision that picks go by", metrics.revision.clone());
        registry.register(
            "control_connected",
            "1: a control replica's stream is open",
            metrics.control_connected.clone(),
        );
        registry.register("queries", "Commands that were answered", metrics.queries.clone());
        registry.register("bytes_from_clients", "Bytes read from clients", metrics.from_clients.clone());
        registry.register("bytes_from_cns", "Bytes read from CNs", metrics.from_cns.clone());
        registry.register(
            "moves",
            "Moves of sessions that ended, by what came of them",
            metrics.moves.clone(),
        );
        registry.register("moves_pinned", "Moves that could not be, by why", metrics.pinned.clone());
        registry.register(
            "move_pause_seconds",
            "How long a client may have waited in a move",
            metrics.pause.clone(),
        );
        registry.register(
            "settled",
            "Times that a CN was asked what a session is that rests, by what it said",
            metrics.settled.clone(),
        );
        registry.register(
            "failovers",
            "Sessions whose CN was lost, by what their clients saw",
            metrics.failovers.clone(),
        );
        registry.register(
            "failover_seconds",
            "How long it took from the loss of a CN until its session went on, or ended",
            metrics.outlived.clone(),
        );
        metrics.begin_at_zero();
        metrics
    }

    /// Those of moves are told from the beginning: the first of them is a change too.
    fn begin_at_zero(&self) {
        for outcome in Outcome::WORDS {
            drop(self.moves.get_or_create(&ByOutcome { outcome: Word(outcome) }));
        }
        for outcome in Kept::WORDS {
            drop(self.settled.get_or_create(&ByOutcome { outcome: Word(outcome) }));
        }
        for outcome in Verdict::WORDS.into_iter().chain(["lost"]) {
            drop(self.failovers.get_or_create(&ByOutcome { outcome: Word(outcome) }));
        }
        for reason in PinReason::ALL {
            drop(self.pinned.get_or_create(&ByReason { reason: Word(reason.words()) }));
        }
    }

    /// A move ended.
    pub(crate) fn moved(&self, outcome: &Outcome) {
        self.moves.get_or_create(&ByOutcome { outcome: Word(outcome.word()) }).inc();
        match outcome {
            Outcome::Moved(pause) => self.pause.observe(pause.as_secs_f64()),
            Outcome::Pinned(bits) => {
                for reason in PinReason::words_of(*bits) {
                    self.pinned.get_or_create(&ByReason { reason: Word(reason) }).inc();
                }
            }
            Outcome::Failed(_) | Outcome::Gone => {}
        }
    }

    /// A session was settled, or could not be.
    pub(crate) fn settled(&self, outcome: &'static str) {
        self.settled.get_or_create(&ByOutcome { outcome: Word(outcome) }).inc();
    }

    /// A session outlived its CN, or did not.
    pub(crate) fn failed_over(&self, outcome: &'static str, took: Duration) {
        self.failovers.get_or_create(&ByOutcome { outcome: Word(outcome) }).inc();
        self.outlived.observe(took.as_secs_f64());
    }

    fn login(&self, result: &'static str) {
        self.logins.get_or_create(&ByResult { result: Word(result) }).inc();
    }

    pub(crate) fn logged_in(&self) {
        self.login("ok");
    }

    pub(crate) fn not_logged_in(&self, reason: &CloseReason) {
        self.login(match reason {
            CloseReason::Denied(err) if err.code == 1045 => "password",
            CloseReason::Denied(err) if err.code == 1130 => "address",
            CloseReason::Denied(err) if err.code == 1040 => "limit",
            CloseReason::Denied(err) if err.code == 4151 => "suspended",
            CloseReason::Denied(err) if err.code == 1105 => "no_cn",
            CloseReason::Denied(err) if err.code == 1159 => "timeout",
            CloseReason::Denied(_) => "refused",
            _ => "client_gone",
        });
    }

    /// A client was refused because there was no room.
    pub(crate) fn no_room(&self) {
        self.login("no_room");
    }

    pub(crate) fn closed(&self, closed: &Closed) {
        if closed.was_logged_in {
            self.closed.get_or_create(&ByReason { reason: Word(closed.reason.word()) }).inc();
        }
    }

    pub(crate) fn orphan_killed(&self) {
        self.orphans.inc();
    }

    pub(crate) fn control_connected(&self, connected: bool) {
        self.control_connected.set(connected.into());
    }

    /// All metrics as they are now, in Prometheus's text format.
    pub(crate) async fn encode(&self, plane: &Plane) -> String {
        let moved = plane.workers.moved().await;
        let (revision, cns, _) = plane.routing.counts();
        self.sessions.set(i64::try_from(plane.workers.sessions()).unwrap_or(i64::MAX));
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        advance(&self.queries, moved.queries);
        advance(&self.from_clients, moved.from_client);
        advance(&self.from_cns, moved.from_cn);
        // A CN that left takes its rows along.
        self.cn_sessions.clear();
        self.cn_up.clear();
        for count in cns {
            let cn = ByCn { cn: count.cn.to_string() };
            self.cn_sessions.get_or_create(&cn).set(count.sessions.into());
            self.cn_up.get_or_create(&cn).set((count.health != Health::Down).into());
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Brings a counter up to a total that was counted elsewhere.
fn advance(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
