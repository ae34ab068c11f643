//! The end of a session: why it ended, what its client and its CN see of it, and the line in the log.

use super::Session;
use super::inbox::Farewell;
use crate::newest::NoAnswer;
use crate::service::{ServiceError, Target};
use crate::sessions::View;
use crate::socket::Socket;
use crate::wire::ReadError;
use mysql_wire::command;
use mysql_wire::packet;
use mysql_wire::reply;
use mysql_wire::request::Violation;
use mysql_wire::response::Desync;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long a client that was told goodbye may take to read it.
const LINGER: Duration = Duration::from_secs(2);

/// How long a CN may take to kill what a client left.
const KILL: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum CloseReason {
    /// The client sent COM_QUIT.
    Quit,
    /// The client left without it.
    ClientGone,
    /// The client left in its login.
    InLogin(ReadError),
    /// The login was refused.
    Denied(reply::Err),
    /// The client broke the protocol.
    Violation(Violation),
    /// The CN's connection ended; why is not known yet.
    CnGone,
    /// The CN does not answer a question of ours; its connection is open.
    CnHangs,
    /// The CN closed this session on purpose.
    ClosedByCn,
    /// The CN died, or stopped answering.
    CnDied,
    /// The CN was lost, and the session could not go on elsewhere; why not.
    Lost(String),
    /// The CN said what nobody asked for.
    Desync(Desync),
    /// Closed at rest, with a word.
    Farewell(Farewell),
    /// By an order, or at the end of a shutdown's patience.
    Killed,
}

impl CloseReason {
    /// The word that metrics and the log use.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::ClientGone | Self::InLogin(_) => "client_gone",
            Self::Denied(_) => "denied",
            Self::Violation(_) => "client_violation",
            Self::CnGone | Self::CnHangs | Self::CnDied | Self::Lost(_) => "cn_died",
            Self::ClosedByCn => "closed_by_cn",
            Self::Desync(_) => "cn_violation",
            Self::Farewell(Farewell::Suspended(_)) => "suspended",
            Self::Farewell(Farewell::Shutdown) => "shutdown",
            Self::Killed => "killed",
        }
    }

    /// More than the word, where there is more.
    fn detail(&self) -> String {
        match self {
            Self::InLogin(error) => error.to_string(),
            Self::Denied(err) => format!("{} {}", err.code, String::from_utf8_lossy(&err.message)),
            Self::Violation(violation) => violation.to_string(),
            Self::Desync(desync) => desync.to_string(),
            Self::Lost(why) => why.clone(),
            _ => String::new(),
        }
    }
}

/// A session that ended: one line in the log.
pub(crate) struct Closed {
    id: u32,
    client: String,
    tenant: String,
    user: String,
    cn: String,
    why: String,
    queries: u32,
    from_client: u64,
    from_cn: u64,
    pub(crate) was_logged_in: bool,
    pub(crate) reason: CloseReason,
}

impl Closed {
    /// Of a session that was never logged in.
    pub(crate) fn in_login(view: &View, reason: CloseReason) -> Self {
        Self {
            id: view.id,
            client: view.client.to_string(),
            tenant: String::new(),
            user: String::new(),
            cn: String::new(),
            why: String::new(),
            queries: 0,
            from_client: 0,
            from_cn: 0,
            was_logged_in: false,
            reason,
        }
    }

    /// Writes the line. What did not log in is told quietly: anybody can do that a thousand times a second.
    pub(crate) fn log(&self, lasted: Duration) {
        let Self { id, client, tenant, user, cn, why, queries, from_client, from_cn, reason, .. } = self;
        let (ended, detail) = (reason.word(), reason.detail());
        if self.was_logged_in {
            tracing::info!(
                id,
                client,
                tenant,
                user,
                cn,
                why,
                ?lasted,
                from_client,
                from_cn,
                queries,
                ended,
                detail,
                "session"
            );
        } else {
            tracing::debug!(id, client, ?lasted, ended, detail, "login");
        }
    }
}

impl Session {
    /// Ends the session: its client and its CN see what is due to them.
    pub(super) async fn close(mut self, reason: CloseReason) -> Closed {
        let reason = match reason {
            // Drivers say goodbye on a connection whose query they gave up: its answer is awaited by nobody.
            CloseReason::ClientGone if self.link.mirror.has_quit() && !self.link.is_awaiting() => {
                CloseReason::Quit
            }
            reason => reason,
        };
        self.end_moves();
        self.tell_client(&reason).await;
        self.places = None;
        self.leave_cn(&reason).await;
        let view = self.view();
        let facts = view.facts.borrow();
        Closed {
            id: view.id,
            client: view.client.to_string(),
            tenant: facts.tenant.clone(),
            user: facts.user.clone(),
            cn: facts.cn.clone(),
            why: facts.why.clone(),
            queries: self.link.mirror.queries(),
            from_client: self.link.passed.from_client,
            from_cn: self.link.passed.from_cn,
            was_logged_in: true,
            reason,
        }
    }

    /// Whether the CN closed this session, or died. One that answers, and whose connection ids go on from where they
    /// were, closed it.
    pub(super) async fn who_closed(&self) -> CloseReason {
        let own = self.view().facts.borrow().cn_connection_id;
        let plane = self.plane();
        if plane.routing.is_down(&self.cn) {
            return CloseReason::CnDied;
        }
        match plane.newest.id(&self.cn).await {
            Ok(newest) if newest > own => CloseReason::ClosedByCn,
            Ok(_) | Err(NoAnswer::Gone) => CloseReason::CnDied,
            Err(NoAnswer::Failed { address, cause, is_of_the_cn }) => {
                if is_of_the_cn {
                    plane.routing.failed(&self.cn, &address, &cause);
                }
                CloseReason::CnDied
            }
        }
    }

    /// What the client reads last.
    async fn tell_client(&mut self, reason: &CloseReason) {
        let err = match reason {
            CloseReason::Farewell(Farewell::Suspended(tenant)) => {
                reply::Err::new(4151, "HY000", format!("tenant {tenant} is suspended"))
            }
            CloseReason::Farewell(Farewell::Shutdown) => {
                reply::Err::new(1053, "08S01", "Server shutdown in progress")
            }
            CloseReason::Killed if self.link.is_at_packet() => {
                reply::Err::new(1053, "08S01", "Server shutdown in progress")
            }
            CloseReason::Violation(Violation::OutOfOrder(_)) if self.link.is_at_packet() => {
                reply::Err::new(1156, "08S01", "Got packets out of order")
            }
            // A server says nothing at all: so does a session that only waited.
            CloseReason::Lost(why) if self.link.is_awaiting() && self.link.is_at_packet() => {
                reply::Err::new(1053, "08S01", format!("the CN was lost, and the session with it: {why}"))
            }
            CloseReason::CnDied if self.link.is_awaiting() && self.link.is_at_packet() => reply::Err::new(
                1053,
                "08S01",
                "the CN was lost while the statement ran: whether it took effect is unknown",
            ),
            _ => return,
        };
        let mut bytes = Vec::new();
        packet::write(&mut bytes, self.link.next_seq(), &err.write());
        let farewell = async {
            self.link.client.write_all(&bytes).await?;
            self.link.client.shutdown().await
        };
        if tokio::time::timeout(LINGER, farewell).await.is_ok_and(|done| done.is_ok()) {
            linger(&mut self.link.client).await;
        }
    }

    /// What the CN sees: a goodbye, or a KILL of what still runs for nobody.
    async fn leave_cn(&mut self, reason: &CloseReason) {
        if matches!(
            reason,
            CloseReason::CnDied | CloseReason::Lost(_) | CloseReason::ClosedByCn | CloseReason::Quit
        ) {
            return;
        }
        if !self.link.is_awaiting() {
            if self.link.is_at_command() {
                let mut cn = self.link.cn_peer();
                let goodbye = cn.write(0, &[command::QUIT]);
                // A CN that takes nothing sees the connection close.
                let _ = tokio::time::timeout(LINGER, goodbye).await;
            }
            return;
        }
        let facts = self.view().facts.borrow().clone();
        let target =
            Target { connection_id: facts.cn_connection_id, port: facts.cn_sees_port, query_only: false };
        // The connection stays open until then: its id cannot be another session's.
        match tokio::time::timeout(KILL, self.plane().service.kill(&self.cn, target)).await {
            Ok(Ok(_)) => self.plane().metrics.orphan_killed(),
            Ok(Err(ServiceError::NoAccount)) => {}
            Ok(Err(error)) => tracing::warn!(cn = %self.cn, %error, "kill what a vanished client left"),
            Err(_) => tracing::warn!(cn = %self.cn, "kill what a vanished client left: no answer"),
        }
    }
}

/// Reads what a client sends to a closed session, for a while: a reset would take the last word away from it.
async fn linger(client: &mut Socket) {
    let mut thrown_away = [0; 1024];
    let read = async {
        while matches!(client.read(&mut thrown_away).await, Ok(1..)) {
            // One that sends without a pause must not keep the thread for itself.
            shunt_ring::submit();
            tokio::task::yield_now().await;
        }
    };
    let _ = tokio::time::timeout(LINGER, read).await;
}
