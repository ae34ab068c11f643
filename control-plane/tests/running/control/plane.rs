//! A data plane that is only a stream: follows the state with the real `apply`, answers orders from a list.

use shunt_proto::pb::routing_service_client::RoutingServiceClient;
use shunt_proto::pb::{self, control_frame::Frame, data_plane_frame::Frame as Say};
use shunt_proto::snapshot::{Delta, Entry, RoutingSnapshot, Version};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// What a frame of state was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Took {
    Snapshot,
    Delta {
        /// How many entries changed in it.
        changed: usize,
    },
}

/// A data plane's end of a stream.
#[derive(Debug)]
pub(crate) struct FakePlane {
    pub(crate) welcome: pb::Welcome,
    pub(crate) state: RoutingSnapshot,
    pub(crate) sessions: Vec<pb::Session>,
    say: mpsc::Sender<pb::DataPlaneFrame>,
    frames: Streaming<pb::ControlFrame>,
    sequence: u64,
    chunks: Vec<Entry>,
    /// What it was told to avoid while it waited for something else.
    avoided: Option<Vec<String>>,
}

impl FakePlane {
    /// Says hello with the state that it has, and waits for the welcome.
    pub(crate) async fn hello(
        channel: Channel,
        id: &str,
        incarnation: u64,
        state: RoutingSnapshot,
    ) -> Result<Self, Status> {
        let have = state.version().clone();
        let have = (!have.store_id.is_empty()).then_some(have);
        Self::hello_with(channel, id, incarnation, state, have).await
    }

    /// As [`Self::hello`], saying that it has `have`.
    pub(crate) async fn hello_with(
        channel: Channel,
        id: &str,
        incarnation: u64,
        state: RoutingSnapshot,
        have: Option<Version>,
    ) -> Result<Self, Status> {
        let hello = pb::Hello {
            data_plane_id: id.into(),
            incarnation,
            version: "1.2.3".into(),
            have: have.as_ref().map(Into::into),
            ..pb::Hello::default()
        };
        let (say, mut frames) = Self::raw(channel, Say::Hello(hello)).await?;
        let first = timeout(Duration::from_secs(10), frames.message()).await.expect("no welcome")?;
        let Some(Frame::Welcome(welcome)) = first.and_then(|frame| frame.frame) else {
            panic!("the first frame is no welcome")
        };
        Ok(Self {
            welcome,
            state,
            sessions: Vec::new(),
            say,
            frames,
            sequence: 0,
            chunks: Vec::new(),
            avoided: None,
        })
    }

    /// A stream whose first frame is `first`.
    pub(crate) async fn raw(
        channel: Channel,
        first: Say,
    ) -> Result<(mpsc::Sender<pb::DataPlaneFrame>, Streaming<pb::ControlFrame>), Status> {
        let (say, said) = mpsc::channel(64);
        say.send(pb::DataPlaneFrame { frame: Some(first) }).await.unwrap();
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let frames = RoutingServiceClient::new(channel).connect(said).await?.into_inner();
        Ok((say, frames))
    }

    /// A new one, with the newest state.
    pub(crate) async fn new(channel: Channel, id: &str) -> Self {
        let mut plane = Self::hello(channel, id, 1, RoutingSnapshot::default()).await.unwrap();
        assert_eq!(plane.take().await, Took::Snapshot);
        plane
    }

    pub(crate) async fn say(&self, frame: Say) {
        self.say.send(pb::DataPlaneFrame { frame: Some(frame) }).await.unwrap();
    }

    /// The next frame that is no order; orders are answered.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Status> {
        loop {
            let frame = timeout(Duration::from_secs(10), self.frames.message()).await.expect("no frame")?;
            match frame.map(|frame| frame.frame.expect("an empty frame")) {
                Some(Frame::Order(order)) => self.answer(order).await,
                other => return Ok(other),
            }
        }
    }

    /// Whether nothing comes for a while.
    pub(crate) async fn silence(&mut self) -> bool {
        timeout(Duration::from_millis(300), self.frames.message()).await.is_err()
    }

    /// The next state, which is not acknowledged.
    pub(crate) async fn see(&mut self) -> Took {
        loop {
            match self.next().await.unwrap().expect("the stream ended") {
                Frame::Delta(delta) => {
                    let changed = delta.changed.len();
                    self.state = self.state.apply(Delta::try_from(delta).unwrap()).unwrap();
                    return Took::Delta { changed };
                }
                Frame::Snapshot(pb::Snapshot { version, entries, last }) => {
                    self.chunks.extend(entries.iter().map(|entry| Entry::try_from(entry).unwrap()));
                    if last {
                        let entries = std::mem::take(&mut self.chunks);
                        let version = version.unwrap().into();
                        self.state = RoutingSnapshot::from_entries(version, entries).unwrap();
                        return Took::Snapshot;
                    }
                }
                Frame::Avoid(avoid) => self.avoided = Some(avoid.cns),
                other => panic!("{other:?}"),
            }
        }
    }

    /// What it is told next to avoid.
    pub(crate) async fn avoids(&mut self) -> Vec<String> {
        if let Some(avoided) = self.avoided.take() {
            return avoided;
        }
        match self.next().await.unwrap().expect("the stream ended") {
            Frame::Avoid(avoid) => avoid.cns,
            other => panic!("{other:?}"),
        }
    }

    /// Reports that these CNs are down.
    pub(crate) async fn report_down(&mut self, cns: &[&str]) {
        let down = |cn: &&str| pb::CnReport {
            cn: (*cn).into(),
            health: pb::cn::Health::Down.into(),
            ..pb::CnReport::default()
        };
        self.report_all(cns.iter().map(down).collect(), vec![]).await;
    }

    /// The next state, acknowledged.
    pub(crate) async fn take(&mut self) -> Took {
        let took = self.see().await;
        self.ack("").await;
        took
    }

    /// Acknowledges the state, or refuses it.
    pub(crate) async fn ack(&self, refused: &str) {
        let revision = self.state.version().revision;
        self.say(Say::Ack(pb::Ack { revision, refused: refused.into() })).await;
    }

    /// Reports sessions by CN, by the state's revision.
    pub(crate) async fn report(&mut self, cns: &[(&str, u32)]) {
        let cns = cns.iter().map(|(cn, sessions)| pb::CnReport {
            cn: (*cn).into(),
            sessions: *sessions,
            ..pb::CnReport::default()
        });
        self.report_all(cns.collect(), vec![]).await;
    }

    pub(crate) async fn report_all(&mut self, cns: Vec<pb::CnReport>, tenants: Vec<pb::TenantReport>) {
        self.sequence += 1;
        let revision = self.state.version().revision;
        self.say(Say::Report(pb::Report { sequence: self.sequence, revision, cns, tenants })).await;
    }

    /// Serves orders until the stream ends.
    pub(crate) async fn serve(mut self) {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    async fn answer(&mut self, order: pb::Order) {
        let answer = match order.order.expect("an empty order") {
            pb::order::Order::List(list) => {
                let wanted = |session: &&pb::Session| {
                    (list.session_id == 0 || session.id == list.session_id)
                        && (list.cn.is_empty() || session.cn == list.cn)
                        && (list.tenant.is_empty() || session.tenant == list.tenant)
                        && session.id > list.after
                };
                let all: Vec<_> = self.sessions.iter().filter(wanted).cloned().collect();
                let limit = if list.limit == 0 { all.len() } else { list.limit as usize };
                let more = all.len() > limit;
                let sessions = all.into_iter().take(limit).collect();
                pb::Answer { id: order.id, sessions, more, ..pb::Answer::default() }
            }
            pb::order::Order::Move(order_to_move) => {
                let session = self.sessions.iter_mut().find(|one| one.id == order_to_move.session_id);
                let moved = match session {
                    Some(session) => pb::Moved {
                        outcome: pb::moved::Outcome::Moved.into(),
                        from: std::mem::replace(&mut session.cn, order_to_move.to.clone()),
                        to: order_to_move.to,
                        ..pb::Moved::default()
                    },
                    None => pb::Moved { outcome: pb::moved::Outcome::Gone.into(), ..pb::Moved::default() },
                };
                pb::Answer { id: order.id, moved: Some(moved), ..pb::Answer::default() }
            }
            pb::order::Order::Rebalance(order_to_even_out) => {
                let part = pb::rebalance_plan::Part {
                    sessions: u32::try_from(self.sessions.len()).expect("few sessions"),
                    why: format!("dry run: {}", order_to_even_out.dry_run),
                    ..pb::rebalance_plan::Part::default()
                };
                let plan = pb::order::Plan { parts: vec![part], left_out: 1 };
                pb::Answer { id: order.id, plan: Some(plan), ..pb::Answer::default() }
            }
            pb::order::Order::Kill(kill) => {
                use pb::killed::Outcome;
                let may = |session: &pb::Session| match &kill.asker {
                    None => true,
                    Some(asker) => asker.may_kill_others || asker.user == session.user,
                };
                let outcome = match self.sessions.iter().position(|session| session.id == kill.session_id) {
                    None => Outcome::Unknown,
                    Some(at) if !may(&self.sessions[at]) => Outcome::Denied,
                    Some(at) => {
                        if !kill.query_only {
                            self.sessions.remove(at);
                        }
                        Outcome::Done
                    }
                };
                pb::Answer { id: order.id, killed: outcome.into(), ..pb::Answer::default() }
            }
        };
        self.say(Say::Answer(answer)).await;
    }
}
