//! A data plane's stream once it was welcomed: what it says is taken in, what it is to know and to answer goes out.
//!
//! One loop, no queues that grow: state is one frame set at a time ([`Feed`]), questions are bounded, and a data plane
//! that does not read is not read from once enough waits for it.

use super::Api;
use crate::blocks;
use crate::error::Error;
use crate::feed::Feed;
use crate::orders;
use crate::planes::{Answer, Asked, Enrolled, OnCn, Report};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use shunt_proto::cn::Health;
use shunt_proto::pb::{self, control_frame::Frame, data_plane_frame, killed::Outcome};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

/// Questions that a data plane has not answered yet.
const ASKED: usize = 64;
/// A data plane's KILLs that are under way.
const KILLS: usize = 64;
/// Frames that wait for a data plane to read; with more, it is not read from either.
const OUTBOX: usize = 256;

/// CNs, and tenants, of one report. All of them are kept.
const REPORTED: usize = 50_000;

type Incoming = Streaming<pb::DataPlaneFrame>;
type Outgoing = mpsc::Sender<Result<pb::ControlFrame, Status>>;

/// A stream and what is under way on it.
pub(super) struct Stream<'a> {
    api: &'a Api,
    enrolled: &'a mut Enrolled,
    feed: Feed,
    outbox: VecDeque<Frame>,
    asked: HashMap<u64, oneshot::Sender<Answer>>,
    orders: u64,
    kills: FuturesUnordered<BoxFuture<'static, pb::Killed>>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(api: &'a Api, enrolled: &'a mut Enrolled, feed: Feed, welcome: Frame) -> Self {
        Self {
            api,
            enrolled,
            feed,
            outbox: VecDeque::from([welcome]),
            asked: HashMap::new(),
            orders: 0,
            kills: FuturesUnordered::new(),
        }
    }

    /// Runs until the data plane hangs up (then says how), a newer stream of it comes, or this process stops.
    pub(super) async fn run(
        mut self,
        incoming: &mut Incoming,
        outgoing: &Outgoing,
    ) -> Result<&'static str, Error> {
        let mut snapshots = self.api.cluster.snapshots();
        let mut avoided = self.api.avoided.clone();
        // A new stream begins with none.
        let mut told = Arc::<BTreeSet<String>>::default();
        loop {
            snapshots.mark_unchanged();
            for frame in self.feed.next(&self.api.cluster.view()) {
                self.count(&frame);
                self.outbox.push_back(frame);
            }
            let newest = Arc::clone(&avoided.borrow_and_update());
            if newest != told {
                self.avoid(&newest);
                told = newest;
            }
            let heard = tokio::select! {
                () = self.api.shutdown.cancelled() => return Err(Error::Stopping),
                () = self.enrolled.superseded.cancelled() => {
                    return Err(Error::Superseded(self.enrolled.id().to_owned()));
                }
                () = outgoing.closed() => return Ok("its connection closed"),
                permit = outgoing.reserve(), if !self.outbox.is_empty() => {
                    if let (Ok(permit), Some(frame)) = (permit, self.outbox.pop_front()) {
                        permit.send(Ok(pb::ControlFrame { frame: Some(frame) }));
                    }
                    continue;
                }
                Some(asked) = self.enrolled.asks.recv(), if self.can_ask() => {
                    self.ask(asked);
                    continue;
                }
                Some(killed) = self.kills.next(), if !self.kills.is_empty() => {
                    self.outbox.push_back(Frame::Killed(killed));
                    continue;
                }
                Ok(()) = snapshots.changed() => continue,
                Ok(()) = avoided.changed() => continue,
                frame = incoming.message(), if self.outbox.len() < OUTBOX => frame,
            };
            match heard {
                Ok(Some(pb::DataPlaneFrame { frame: Some(data_plane_frame::Frame::Leave(_)) })) => {
                    self.leave().await?;
                    return Ok("it left");
                }
                Ok(Some(frame)) => self.hear(frame)?,
                Ok(None) => return Ok("it hung up"),
                Err(_) => return Ok("its connection broke"),
            }
        }
    }

    /// In place of what it was told before, where that has not gone out yet.
    fn avoid(&mut self, cns: &BTreeSet<String>) {
        self.outbox.retain(|frame| !matches!(frame, Frame::Avoid(_)));
        self.outbox.push_back(Frame::Avoid(pb::Avoid { cns: cns.iter().cloned().collect() }));
    }

    fn count(&self, frame: &Frame) {
        match frame {
            Frame::Snapshot(_) => self.api.metrics.sent("snapshot"),
            Frame::Delta(_) => self.api.metrics.sent("delta"),
            _ => {}
        }
    }

    fn can_ask(&mut self) -> bool {
        if self.asked.len() >= ASKED {
            // Those whose asker has given up.
            self.asked.retain(|_, answer| !answer.is_closed());
        }
        self.asked.len() < ASKED && self.outbox.len() < OUTBOX
    }

    fn ask(&mut self, Asked { ask, answer }: Asked) {
        if answer.is_closed() {
            return;
        }
        self.orders += 1;
        self.asked.insert(self.orders, answer);
        let order = pb::Order { id: self.orders, order: Some(orders::order_of(ask)) };
        self.outbox.push_back(Frame::Order(order));
    }

    /// Takes in what the data plane says. What a newer release may say and this one does not know is left alone.
    fn hear(&mut self, frame: pb::DataPlaneFrame) -> Result<(), Error> {
        use data_plane_frame::Frame as Heard;
        match frame.frame {
            Some(Heard::Ack(pb::Ack { revision, refused })) => self.acked(revision, &refused),
            Some(Heard::Report(report)) => self.enrolled.reported(report_from_pb(report)?),
            Some(Heard::Answer(answer)) => self.answered(answer),
            Some(Heard::Kill(kill)) => self.kill(kill),
            Some(Heard::Hello(_)) => return Err(Error::Protocol("a second hello".to_owned())),
            Some(Heard::Leave(_)) | None => {}
        }
        Ok(())
    }

    fn acked(&mut self, revision: u64, refused: &str) {
        let refused: String = refused.chars().take(500).collect();
        if !refused.is_empty() {
            self.api.metrics.refused();
            tracing::warn!(data_plane = self.enrolled.id(), revision, refused, "data plane refused state");
        }
        self.feed.acked(revision, !refused.is_empty());
        self.enrolled.acked(revision, &refused);
    }

    fn answered(&mut self, answer: pb::Answer) {
        // None: its asker has given up, or it was never asked.
        let Some(asker) = self.asked.remove(&answer.id) else { return };
        let _ = asker.send(orders::answer_of(answer));
    }

    /// A client's KILL of a session of another data plane. Without an asker it would be an operator's, and those do
    /// not come from a data plane.
    fn kill(&mut self, kill: pb::Kill) {
        let pb::Kill { id, session_id, query_only, asker } = kill;
        let refused = match &asker {
            None => Some(Outcome::Denied),
            Some(_) if self.kills.len() >= KILLS => Some(Outcome::Unreachable),
            Some(_) => None,
        };
        if let Some(outcome) = refused {
            self.outbox.push_back(Frame::Killed(pb::Killed { id, outcome: outcome.into() }));
            return;
        }
        let asking = self.api.asking.clone();
        let order = pb::order::KillOrder { session_id, query_only, asker };
        self.kills.push(Box::pin(async move {
            let (outcome, _) = asking.kill(order).await;
            pb::Killed { id, outcome: outcome.into() }
        }));
    }

    /// It stops and has no session: its block is free.
    async fn leave(&mut self) -> Result<(), Error> {
        let id = self.enrolled.id().to_owned();
        let released = self.api.edits.make(|view| Ok((blocks::release(view, &id)?, ())));
        match tokio::time::timeout(super::CALL, released).await {
            Ok(Ok(_)) | Ok(Err(Error::NotFound(..))) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Late(super::CALL.as_secs())),
        }
    }
}

fn report_from_pb(report: pb::Report) -> Result<Report, Error> {
    if report.cns.len() > REPORTED || report.tenants.len() > REPORTED {
        return Err(Error::Protocol(format!("a report of more than {REPORTED} CNs or tenants")));
    }
    let on = |on: pb::CnReport| {
        let health = on.health().into();
        let reason = on.reason.chars().take(200).collect();
        (on.cn, OnCn { sessions: on.sessions, health, reason })
    };
    Ok(Report {
        sequence: report.sequence,
        revision: report.revision,
        cns: report.cns.into_iter().map(on).collect(),
        rest: Health::Unknown,
        tenants: report.tenants.into_iter().map(|tenant| (tenant.tenant, tenant.sessions)).collect(),
    })
}
