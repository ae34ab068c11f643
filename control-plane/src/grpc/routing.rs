//! `RoutingService`: a data plane says hello, is given its block of session ids, and is fed.

use super::stream::Stream;
use super::{Api, status::status};
use crate::blocks;
use crate::edit::Done;
use crate::error::Error;
use crate::feed::Feed;
use crate::planes::{Enrolled, Newcomer};
use shunt_proto::pb::{self, control_frame::Frame, data_plane_frame};
use shunt_proto::snapshot::Version;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// How long a data plane may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// How often a data plane is to report when something changed.
const REPORT_INTERVAL_MS: u32 = 1000;
/// Frames that are ready for the transport. More would only be older when they arrive.
const READY: usize = 2;

#[async_trait]
impl pb::routing_service_server::RoutingService for Api {
    type ConnectStream = ReceiverStream<Result<pb::ControlFrame, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::DataPlaneFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        if self.shutdown.is_cancelled() {
            return Err(status(&Error::Stopping));
        }
        let (sender, frames) = mpsc::channel(READY);
        let api = self.clone();
        let from = request.remote_addr().map_or_else(String::new, |address| address.to_string());
        let incoming = request.into_inner();
        // Its own task, because what the data plane says is to be heard while it does not listen.
        self.streams.spawn(async move {
            if let Err(error) = serve(&api, incoming, &sender, &from).await {
                let _ = tokio::time::timeout(Duration::from_secs(1), sender.send(Err(status(&error)))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// Serves a data plane until either end ends it.
async fn serve(
    api: &Api,
    mut incoming: Streaming<pb::DataPlaneFrame>,
    outgoing: &mpsc::Sender<Result<pb::ControlFrame, Status>>,
    from: &str,
) -> Result<(), Error> {
    let Some(hello) = hello(api, &mut incoming).await? else { return Ok(()) };
    let pb::Hello {
        data_plane_id: id,
        incarnation,
        version,
        have,
        first_session_id: before,
        zone: _,
        sequence,
    } = hello;
    shunt_proto::cn::check_name(&id).map_err(|problem| Error::Protocol(format!("data plane's {problem}")))?;
    let version: String = version.chars().filter(|c| !c.is_control()).take(64).collect();

    // Before the store was read there is nothing to tell, and an empty state would be a lie.
    let view = api.view()?;
    let feed = Feed::new(have.map(Version::from));
    // What it has counts as acknowledged only where it is a state of this store.
    let revision = feed.resumes(&view).unwrap_or(0);
    let newcomer = Newcomer { id: id.clone(), incarnation, version: version.clone(), revision, sequence };
    let mut enrolled = api.planes.enrol(newcomer)?;
    let block = match claim(api, &enrolled, &version, before).await {
        Ok(block) => block,
        Err(error) => {
            drop(enrolled);
            // One that the store does not know leaves no trace, however many of its kind come.
            if !api.cluster.view().planes.contains_key(&id) {
                api.planes.forget(&id);
            }
            return Err(error);
        }
    };
    if before != 0 && before != block {
        tracing::warn!(data_plane = id, before, block, "its block of session ids is another one's by now");
    }
    let resumed = feed.resumes(&*api.view()?).is_some();
    let welcome = pb::Welcome { first_session_id: block, report_interval_ms: REPORT_INTERVAL_MS, resumed };
    tracing::info!(data_plane = id, from, incarnation, version, resumed, block, "data plane connected");
    let ended =
        Stream::new(api, &mut enrolled, feed, Frame::Welcome(welcome)).run(&mut incoming, outgoing).await;
    let why = ended.as_ref().map_or_else(ToString::to_string, |why| (*why).to_owned());
    tracing::info!(data_plane = id, from, why, "data plane disconnected");
    ended.map(|_| ())
}

/// The first frame; none: it hung up.
async fn hello(api: &Api, incoming: &mut Streaming<pb::DataPlaneFrame>) -> Result<Option<pb::Hello>, Error> {
    let first = tokio::select! {
        () = api.shutdown.cancelled() => return Err(Error::Stopping),
        first = tokio::time::timeout(HELLO, incoming.message()) => first,
    };
    match first {
        Ok(Ok(Some(pb::DataPlaneFrame { frame: Some(data_plane_frame::Frame::Hello(hello)) }))) => {
            Ok(Some(hello))
        }
        Ok(Ok(Some(_))) => Err(Error::Protocol("the first frame is not a hello".to_owned())),
        Ok(Ok(None) | Err(_)) => Ok(None),
        Err(_) => Err(Error::Protocol(format!("no hello within {} s", HELLO.as_secs()))),
    }
}

/// The data plane's block of session ids.
async fn claim(api: &Api, enrolled: &Enrolled, version: &str, before: u32) -> Result<u32, Error> {
    let id = enrolled.id();
    let claimed = api.edits.make(|view| blocks::claim(view, id, version, before));
    tokio::select! {
        () = api.shutdown.cancelled() => Err(Error::Stopping),
        () = enrolled.superseded.cancelled() => Err(Error::Superseded(id.to_owned())),
        claimed = tokio::time::timeout(super::CALL, claimed) => match claimed {
            Ok(claimed) => {
                let Done { answer, view } = claimed?;
                enrolled.claimed(view.seen);
                Ok(answer)
            }
            Err(_) => Err(Error::Late(super::CALL.as_secs())),
        },
    }
}
