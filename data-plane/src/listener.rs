//! Accepting clients, and nothing else: no work for a single client is done here.

use crate::cn::{finish, set_options};
use crate::plane::Plane;
use crate::session::welcome::refuse_full;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Files that are not sessions': logs, the state file, gRPC, HTTP, connections that are being made or refused.
const SPARE_FILES: u64 = 128;

/// Files of a session.
const FILES_PER_SESSION: u64 = 2;

/// How long accepting rests after it failed: the cause (no more files, no memory) does not pass by trying.
const REST: Duration = Duration::from_millis(50);

/// Accepts until `stop`.
pub(crate) async fn run(plane: Arc<Plane>, listener: TcpListener, most: usize, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_the_client(&error) {
                    tracing::error!(%error, "accept");
                    tokio::time::sleep(REST).await;
                }
                continue;
            }
        };
        if plane.workers.sessions() + finish::finishing() >= most {
            plane.metrics.no_room();
            refuse_full(socket);
            continue;
        }
        // A client that is gone already is noticed by its session.
        let _ = set_options(&socket);
        match socket.into_std() {
            Ok(socket) => plane.workers.accept(socket, client),
            Err(error) => tracing::warn!(%client, %error, "hand over an accepted connection"),
        }
    }
}

/// Whether an accept failed because that client left again.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Raises the soft limit on files to the hard one, and says how many sessions fit: at most `asked`, where that is
/// not 0.
pub(crate) fn most_sessions(asked: u32) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "raise the limit on files");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fit = files.saturating_sub(SPARE_FILES) / FILES_PER_SESSION;
    let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
    if asked == 0 { fit } else { fit.min(asked as usize) }
}
