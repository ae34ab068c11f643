//! A session from accept to close. Read [`serve`] first.
//!
//! One task owns both sockets all the time; whoever wants something of the session leaves an order in its inbox.
//!
//! Must not know: packets beyond whole commands, why this CN.

pub(crate) mod close;
mod command;
pub(crate) mod failover;
pub(crate) mod inbox;
pub(crate) mod login;
pub(crate) mod migrate;
pub(crate) mod mirror;
pub(crate) mod pin;
mod rehearsal;
pub(crate) mod relay;
pub(crate) mod settle;
pub(crate) mod welcome;

use crate::cn::Password;
use crate::ids::SessionIds;
use crate::plane::Plane;
use crate::routing::{Place, TenantPlace};
use crate::sessions::{Enrolled, State, View};
use crate::socket::{By, Socket};
use crate::wire::PacketStream;
use crate::worker::Worker;
use close::{CloseReason, Closed};
use failover::verdict::How;
use inbox::{Farewell, Order};
use migrate::{Moving, Wakeup};
use relay::hold::Hold;
use relay::{Event, Link};
use settle::Kept;
use shunt_proto::cn::CnId;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use tokio::time::Instant;

/// Carries a client from its first byte to its last.
pub(crate) async fn serve(worker: Rc<Worker>, socket: TcpStream, client: SocketAddr, by: By) {
    let plane = Rc::clone(&worker);
    let plane = &plane.plane;
    let begun = Instant::now();
    let Some(id) = OwnId::open(&plane.ids) else {
        return welcome::refuse_full(socket);
    };
    let socket = match Socket::accepted(socket, by) {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%client, %error, "take over an accepted connection"),
    };
    let enrolled = worker.sessions.enrol(id.id, client);
    if let Some(order) = &*worker.closing.borrow() {
        enrolled.view.inbox.put(order.clone());
    }
    let mut stream = PacketStream::new(socket);
    // What a session does seldom is boxed: else each would hold the room for it all its life.
    let logged_in = Box::pin(welcome::log_in(plane, &mut stream, &enrolled.view)).await;
    let closed = match logged_in {
        Ok(welcomed) => {
            plane.metrics.logged_in();
            close_if_suspended(plane, &enrolled.view);
            let mut session = Session::new(Rc::clone(&worker), enrolled, stream, welcomed);
            let reason = session.run().await;
            Box::pin(session.close(reason)).await
        }
        Err(reason) => {
            plane.metrics.not_logged_in(&reason);
            Closed::in_login(&enrolled.view, reason)
        }
    };
    plane.metrics.closed(&closed);
    closed.log(begun.elapsed());
}

/// A tenant that was suspended while this login was under way: the order to close its sessions came too early.
fn close_if_suspended(plane: &Plane, view: &View) {
    let tenant = view.facts.borrow().tenant.clone();
    let suspended = plane.routing.snapshot().is_some_and(|snapshot| snapshot.tenant(&tenant).suspended);
    if suspended {
        view.inbox.put(Order::Close(Farewell::Suspended(tenant)));
    }
}

/// An id of this data plane's, given back when the session is gone.
struct OwnId<'a> {
    ids: &'a SessionIds,
    id: u32,
}

impl<'a> OwnId<'a> {
    fn open(ids: &'a SessionIds) -> Option<Self> {
        Some(Self { ids, id: ids.open_one()? })
    }
}

impl Drop for OwnId<'_> {
    fn drop(&mut self) {
        self.ids.close(self.id);
    }
}

/// A session that is logged in.
struct Session {
    worker: Rc<Worker>,
    /// Its place in the table of sessions.
    enrolled: Enrolled,
    link: Link,
    cn: CnId,
    /// Given up before what is due to the CN at the end, which may take a while.
    places: Option<(Place, TenantPlace)>,
    /// What its login asked for, for a new one (COM_CHANGE_USER).
    login: Box<welcome::Kept>,
    password: Option<Password>,
    /// Each connection to this CN must switch the trackers on.
    tracks_itself: bool,
    /// It is to be closed when it rests.
    farewell: Option<Farewell>,
    /// It is to move.
    moving: Option<Box<Moving>>,
    /// CNs to which it could not move since it did last: others are tried first.
    failed_on: Vec<CnId>,
    /// A CN did not let its user in: others are not tried.
    credentials_refused: bool,
    /// What is known of it should its CN be lost.
    kept: Kept,
    /// It is to be settled when it rests.
    settles: bool,
    /// Since when it has not been for what its last statements left, if that is so.
    unsettled_since: Option<Instant>,
}

impl Session {
    fn new(
        worker: Rc<Worker>,
        enrolled: Enrolled,
        client: PacketStream,
        welcomed: welcome::Welcomed,
    ) -> Self {
        let welcome::Welcomed { admitted, tenant, login, responses, mirror } = welcomed;
        let view = Rc::clone(&enrolled.view);
        // Its first command may be a KILL of itself: it is no login any more.
        view.show(State::Idle, mirror.pins(), 0);
        let totals = Rc::clone(&worker.totals);
        let cn = admitted.connection.stream.into_parts();
        let link =
            Link::new(client.into_parts(), cn, responses, mirror, view, totals, Rc::clone(&worker.settling));
        Self {
            worker,
            enrolled,
            link,
            cn: admitted.cn.name().clone(),
            places: Some((admitted.place, tenant)),
            login,
            password: admitted.password,
            tracks_itself: admitted.tracks_itself,
            farewell: None,
            moving: None,
            credentials_refused: false,
            failed_on: Vec::new(),
            kept: Kept::default(),
            settles: false,
            unsettled_since: None,
        }
    }

    fn plane(&self) -> &Plane {
        &self.worker.plane
    }

    fn view(&self) -> &View {
        &self.enrolled.view
    }

    /// Forwards, and sees to what forwarding cannot, until the session ends.
    async fn run(&mut self) -> CloseReason {
        let worker = Rc::clone(&self.worker);
        let view = Rc::clone(&self.enrolled.view);
        if worker.plane.config.restless || worker.plane.config.mortal {
            self.link.hold(Hold::Rest { passed: true });
        }
        loop {
            let wakeup = match self.moving {
                Some(_) => Box::pin(self.next_while_moving()).await,
                None => Wakeup::Event(self.link.forward(&worker.buffer, &view.inbox).await),
            };
            let seen = match Box::pin(self.see_to(wakeup)).await {
                Err(CloseReason::CnGone) => Box::pin(self.cn_is_gone()).await,
                Err(CloseReason::CnHangs) => Box::pin(self.outlive(How::Hangs)).await,
                seen => seen,
            };
            if let Err(reason) = seen {
                return reason;
            }
        }
    }

    /// Whether a new CN is ready for it, and only a rest is waited for.
    fn is_to_move(&self) -> bool {
        self.moving.as_deref().is_some_and(Moving::is_ready)
    }

    /// Sees to what forwarding cannot.
    async fn see_to(&mut self, wakeup: Wakeup) -> Result<(), CloseReason> {
        let event = match wakeup {
            Wakeup::Event(event) => event,
            Wakeup::Made(made) => {
                self.made(made);
                return Ok(());
            }
            Wakeup::Due => return self.due().await,
        };
        match event {
            Event::Intercepted(packet) => self.intercepted(&packet).await.map_err(within_a_command),
            Event::Retrack => self.retrack().await,
            Event::Ask => self.ask_for_parse(login::ASK).await.map(drop),
            Event::Suspect(code) => {
                tracing::warn!(cn = %self.cn, code, "a session heard that its cn is unwell: the cn is asked");
                self.plane().routing.suspect(&self.cn);
                Ok(())
            }
            Event::Order(Order::Close(farewell)) => {
                self.link.tell_rest();
                self.farewell = Some(farewell);
                Ok(())
            }
            Event::Order(Order::Kill) => Err(CloseReason::Killed),
            Event::Order(Order::LeaveOrEnd(cn)) => {
                let must = self.cn == cn && self.plane().routing.is_draining(&cn);
                if must { Err(CloseReason::Killed) } else { Ok(()) }
            }
            Event::Order(Order::Move) => {
                while let Some(order) = self.view().inbox.take_move() {
                    self.begin_move(order);
                }
                Ok(())
            }
            Event::Order(Order::Settle) => self.settle_or_wait().await,
            Event::Order(Order::CnIsUseless { cn, is_silent }) => self.cn_is_useless(&cn, is_silent).await,
            Event::Rest if self.is_to_move() => self.at_rest().await,
            Event::Arrived if self.is_to_move() => self.arrived().await,
            Event::Rest if self.settles => self.settle_at_rest().await,
            Event::Arrived if self.settles => self.settle_before_command().await,
            Event::Rest => self.rehearse_at_rest().await,
            Event::Arrived => self.rehearse_a_death().await,
            Event::Begin => self.begins().await,
            Event::AtRest => match self.farewell.take() {
                Some(farewell) => Err(CloseReason::Farewell(farewell)),
                None => Ok(()),
            },
            Event::ClientGone => Err(CloseReason::ClientGone),
            Event::Violation(violation) => Err(CloseReason::Violation(violation)),
            Event::CnGone => Err(CloseReason::CnGone),
            Event::Desync(desync) => Err(CloseReason::Desync(desync)),
        }
    }
}

/// A CN that is gone while a command of ours stands in place of the client's: nobody knows what came of it.
fn within_a_command(reason: CloseReason) -> CloseReason {
    if matches!(reason, CloseReason::CnGone) { CloseReason::CnDied } else { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// It is most of what an idle session costs. Whatever is awaited in it and not boxed adds to it for good.
    #[test]
    fn a_session_s_task_is_small() {
        let bytes = size(serve);
        assert!(bytes <= 2304, "{bytes} bytes");
    }
}
