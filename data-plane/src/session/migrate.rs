//! Moving a session to another CN.
//!
//! The new CN is made ready beside the running session ([`target`]). Then the session is held at its next rest
//! ([`SafePoint`]), its state is asked of the old CN, put into the new one, asked for there again, and the connections
//! are swapped: that is the one point at which the move happens. Whatever fails before leaves the session where it was.
//!
//! What the last statement left for the next one (warnings, a ROW_COUNT) cannot be carried: a session that has it waits
//! for its client's next command, or for `migrate.last_result_grace`.
//!
//! Must not know: why the session moves.

pub(super) mod carry;
pub(crate) mod outcome;
pub(super) mod target;

use super::Session;
use super::close::CloseReason;
use super::command::{TO_RESET, goodbye, within_limit};
use super::failover::verdict;
use super::inbox::MoveOrder;
use super::mirror::left::Counted;
use super::pin::PinReason;
use super::relay::Event;
use super::relay::hold::{Hold, SafePoint};
use crate::cn::CnError;
use crate::engine::mysql::read;
use crate::engine::mysql::write::Prepared;
use crate::sessions;
use carry::on_cn;
use mysql_wire::reply;
use outcome::{Ended, Outcome};
use shunt_proto::cn::CnId;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use target::{Luggage, NoTarget, Target};
use tokio::time::{Instant, sleep_until};

/// How long a session that is ordered to move may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// A move under way.
pub(super) struct Moving {
    order: MoveOrder,
    from: CnId,
    /// Until when it must have found a rest.
    until: Instant,
    /// Since when it has waited for a rest.
    ready: Instant,
    pub(super) stage: Stage,
    /// Where it goes, once that is known.
    to: Option<CnId>,
}

impl Moving {
    /// The new CN is ready, and a rest is waited for.
    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready(..))
    }
}

pub(super) type Making = Pin<Box<dyn Future<Output = Result<Box<Target>, NoTarget>>>>;

pub(super) enum Stage {
    /// The new CN is made ready.
    Making(Making),
    /// It is: a rest is waited for. Set: it rests, and what its last statement left is kept until then.
    Ready(Box<Target>, Option<Instant>),
    /// It moves.
    Under,
}

/// What a session that is to move waits for.
pub(super) enum Wakeup {
    /// Something of its link.
    Event(Event),
    /// The new CN is ready, or is not.
    Made(Result<Box<Target>, NoTarget>),
    /// It waited long enough.
    Due,
}

impl Session {
    /// Begins a move, or says at once why not.
    pub(super) fn begin_move(&mut self, order: MoveOrder) {
        if self.moving.is_some() {
            return self.end_move(order, &self.cn, None, Outcome::Failed("another move is under way".into()));
        }
        let pins = self.pins_for_good() & !PinReason::Transaction.bit();
        if pins != 0 {
            return self.end_move(order, &self.cn, None, Outcome::Pinned(pins));
        }
        let Some(luggage) = self.luggage(Some(self.cn.clone()), order.to.clone()) else {
            let pins = PinReason::CredentialsUnknown.bit();
            return self.end_move(order, &self.cn, None, Outcome::Pinned(pins));
        };
        // It is held when the new CN is ready; for settling, by the move itself.
        self.settles = false;
        self.link.hold(self.hold_of_rehearsal());
        let making = Box::pin(target::make_ready(Rc::clone(&self.worker), luggage));
        let ready = Instant::now();
        let until = ready + self.patience();
        let from = self.cn.clone();
        self.view().show_going(Some(order.to.clone()));
        let stage = Stage::Making(making);
        self.moving = Some(Box::new(Moving { order, from, until, ready, stage, to: None }));
    }

    /// What it goes elsewhere with: not to `from`, or to `to`. `None`: it cannot log in anywhere.
    pub(super) fn luggage(&self, from: Option<CnId>, to: Option<CnId>) -> Option<Luggage> {
        Some(Luggage {
            login: (*self.login).clone(),
            password: self.password?,
            client: self.view().client,
            by: self.link.client.by(),
            from,
            to,
            failed: self.failed_on.clone(),
            several_statements: self.link.mirror.several_statements(),
            statements: self.to_prepare_ahead(),
        })
    }

    /// How long it may take to come to rest.
    fn patience(&self) -> Duration {
        // One that never stays is in no hurry.
        if self.plane().config.restless { PATIENCE * 1000 } else { PATIENCE }
    }

    /// Why it cannot move, whatever its CN says.
    fn pins_for_good(&self) -> u16 {
        let refused = if self.credentials_refused { PinReason::CredentialsRefused.bit() } else { 0 };
        let unknown = if self.password.is_none() { PinReason::CredentialsUnknown.bit() } else { 0 };
        self.link.mirror.certain_pins() | refused | unknown
    }

    /// Waits for what a session that is to move waits for. Cancel safe.
    pub(super) async fn next_while_moving(&mut self) -> Wakeup {
        let worker = Rc::clone(&self.worker);
        let view = Rc::clone(&self.enrolled.view);
        let Some(moving) = &mut self.moving else {
            return Wakeup::Event(self.link.forward(&worker.buffer, &view.inbox).await);
        };
        let forward = self.link.forward(&worker.buffer, &view.inbox);
        match &mut moving.stage {
            Stage::Making(making) => tokio::select! {
                event = forward => Wakeup::Event(event),
                made = making => Wakeup::Made(made),
            },
            Stage::Ready(_, kept_until) => {
                let until = kept_until.map_or(moving.until, |kept_until| kept_until.min(moving.until));
                tokio::select! {
                    event = forward => Wakeup::Event(event),
                    () = sleep_until(until) => Wakeup::Due,
                }
            }
            Stage::Under => Wakeup::Event(forward.await),
        }
    }

    /// The new CN is ready, or is not.
    pub(super) fn made(&mut self, made: Result<Box<Target>, NoTarget>) {
        let patience = self.patience();
        let Some(moving) = &mut self.moving else { return };
        match made {
            Ok(target) => {
                moving.to = Some(target.placed.cn.name().clone());
                moving.ready = Instant::now();
                moving.until = moving.ready + patience;
                moving.stage = Stage::Ready(target, None);
                self.link.hold(Hold::Rest { passed: true });
            }
            Err(error) => {
                moving.to = error.cn().cloned();
                let outcome = match &error {
                    NoTarget::Refused { .. } => {
                        self.credentials_refused = true;
                        tracing::warn!(id = self.view().id, %error, "a session cannot move");
                        Outcome::Pinned(PinReason::CredentialsRefused.bit())
                    }
                    _ => Outcome::Failed(error.to_string()),
                };
                self.finish_move(outcome);
            }
        }
    }

    /// The session rests, and may move.
    pub(super) async fn at_rest(&mut self) -> Result<(), CloseReason> {
        let pins = self.pins_for_good();
        if pins != 0 {
            self.finish_move(Outcome::Pinned(pins));
            return Ok(());
        }
        let left = self.link.mirror.left();
        let is_precious = left.is_precious() || (left.is_late() && self.link.is_shown_changes());
        let kept_until = self.view().idle_since() + self.plane().routing.policy().last_result_grace;
        if is_precious && Instant::now() < kept_until {
            if let Some(Moving { stage: Stage::Ready(_, until), .. }) = self.moving.as_deref_mut() {
                *until = Some(kept_until);
            }
            self.link.hold(Hold::Command);
            return Ok(());
        }
        self.go(kept_until).await
    }

    /// The next command of a session that rests is there.
    pub(super) async fn arrived(&mut self) -> Result<(), CloseReason> {
        if self.moving.as_deref().is_some_and(|moving| self.lets_ask(moving.ready)) {
            return self.go(Instant::now()).await;
        }
        if let Some(Moving { stage: Stage::Ready(_, until), .. }) = self.moving.as_deref_mut() {
            *until = None;
        }
        self.link.let_pass();
        Ok(())
    }

    /// Whether the command that is held back loses nothing by a question in front of it: it would take away what the last
    /// statement left, or it does not read that, and the question has waited since `wanted` for longer than such is kept.
    pub(super) fn lets_ask(&self, wanted: Instant) -> bool {
        let mirror = &self.link.mirror;
        let Some(command) = self.link.held_command() else { return false };
        let is_late = mirror.left().is_late() && self.link.is_shown_changes();
        if !is_late && mirror.is_overwritten_by(command) {
            return true;
        }
        wanted + self.plane().routing.policy().last_result_grace <= Instant::now()
            && !mirror.is_read_by(command)
    }

    /// It waited long enough: for what its last statement left, or for a rest.
    pub(super) async fn due(&mut self) -> Result<(), CloseReason> {
        let kept_until = match self.moving.as_deref() {
            Some(Moving { stage: Stage::Ready(_, kept_until), .. }) => *kept_until,
            _ => None,
        };
        if kept_until.is_some_and(|until| until <= Instant::now()) && self.link.safe_point().is_some() {
            return self.go(Instant::now()).await;
        }
        let pins = self.pins_for_good();
        self.finish_move(match (pins, kept_until) {
            (0, None) => Outcome::Failed(format!("it did not rest within {PATIENCE:?}")),
            (0, Some(_)) => Outcome::Failed("what its last statement left was not read yet".into()),
            (pins, _) => Outcome::Pinned(pins),
        });
        Ok(())
    }

    /// The client begins a transaction while one is open: what ends that one is done for it, and there is a rest.
    pub(super) async fn begins(&mut self) -> Result<(), CloseReason> {
        let commit = "COMMIT AND NO CHAIN NO RELEASE";
        match within_limit(TO_RESET, self.asker().execute(commit)).await {
            Ok(payload) => {
                let status = reply::Ok::read(&payload).map_or(0, |ok| ok.status);
                self.link.mirror.found_status(status);
                self.link.hold(Hold::Rest { passed: true });
                Ok(())
            }
            // What the BEGIN would have been told.
            Err(CnError::Refused(err)) => {
                self.link.drop_held_command();
                self.link.reply(&err.packet(1));
                self.link.let_pass();
                Ok(())
            }
            Err(_) => {
                // Whether the transaction before it was committed, nobody knows.
                self.link.owe(verdict::unknown());
                Err(CloseReason::CnGone)
            }
        }
    }

    /// Moves, if it still rests.
    async fn go(&mut self, kept_until: Instant) -> Result<(), CloseReason> {
        let Some(point) = self.link.safe_point() else {
            self.link.hold(Hold::Rest { passed: true });
            return Ok(());
        };
        let Some(moving) = self.moving.as_deref_mut().filter(|moving| moving.is_ready()) else {
            return Ok(());
        };
        let Stage::Ready(target, _) = std::mem::replace(&mut moving.stage, Stage::Under) else {
            return Ok(());
        };
        self.view().show_moving();
        let outcome = Box::pin(self.migrate(target, point, kept_until)).await?;
        self.finish_move(outcome);
        Ok(())
    }

    /// The move itself. Whatever comes of it, the session has a CN and is at rest.
    async fn migrate(
        &mut self,
        mut target: Box<Target>,
        point: SafePoint,
        kept_until: Instant,
    ) -> Result<Outcome, CloseReason> {
        let begun = Instant::now();
        let state = match self.export(kept_until).await? {
            Ok(state) => state,
            Err(outcome) => {
                target.connection.quit().await;
                return Ok(outcome);
            }
        };
        let limit = self.plane().routing.policy().freeze_deadline;
        let entered = self.enter(&mut target, &state, limit).await;
        let (prepared, counted) = match entered {
            Ok(entered) => entered,
            Err(why) => {
                target.connection.quit().await;
                let selected = self.link.mirror.left().selected();
                self.say(&read::put_back(self.dialect(), state.found_rows, 0, selected)).await?;
                return Ok(Outcome::Failed(why.to_string()));
            }
        };
        self.go_on_there(*target, &point, &prepared, counted);
        self.keep(state);
        Ok(Outcome::Moved(begun.elapsed()))
    }

    /// The session goes on on `target`, which was given its state: the one point at which it is there.
    pub(super) fn go_on_there(
        &mut self,
        target: Target,
        point: &SafePoint,
        prepared: &[Prepared],
        counted: Counted,
    ) {
        let Target { placed, connection, tracks_itself, .. } = target;
        let (to, address) = (placed.cn.name().clone(), connection.stream.socket.local_addr());
        let connection_id = connection.greeting.connection_id;
        let old = self.link.move_to(connection.stream.into_parts(), point);
        self.link.mirror.moved(counted, |id, serial| on_cn(prepared, id, serial));
        self.cn = to.clone();
        self.tracks_itself = tracks_itself;
        if let Some((place, _)) = &mut self.places {
            *place = placed.place;
        }
        let mut facts = self.view().facts.borrow_mut();
        facts.cn = to.to_string();
        facts.cn_connection_id = connection_id;
        facts.moved = true;
        if !self.plane().config.cn_proxy_protocol {
            facts.cn_sees_port = address.map_or(0, |address| address.port());
        }
        drop(facts);
        goodbye(old);
    }

    /// A move that is under way comes to nothing.
    pub(super) fn give_up_move(&mut self, why: &str) {
        if self.moving.is_some() {
            self.finish_move(Outcome::Failed(why.to_owned()));
        }
    }

    /// The session ends: whatever was ordered comes to that.
    pub(super) fn end_moves(&mut self) {
        if self.moving.is_some() {
            self.finish_move(Outcome::Gone);
        }
        while let Some(order) = self.view().inbox.take_move() {
            self.end_move(order, &self.cn, None, Outcome::Gone);
        }
    }

    fn finish_move(&mut self, outcome: Outcome) {
        let Some(moving) = self.moving.take() else { return };
        let Moving { order, from, to, .. } = *moving;
        // Where it was told to go, nobody chose.
        match (&outcome, to.as_ref().filter(|_| order.to.is_none())) {
            (Outcome::Moved(_), _) => self.failed_on.clear(),
            (Outcome::Failed(_), Some(to)) if !self.failed_on.contains(to) => {
                self.failed_on.push(to.clone());
            }
            // It failed on each of them: they are tried again.
            (Outcome::Failed(_), Some(_)) => self.failed_on.clear(),
            _ => {}
        }
        self.end_move(order, &from, to, outcome);
        self.link.hold(self.hold_of_rehearsal());
    }

    /// One outcome, told to all who want to know.
    pub(super) fn end_move(&self, order: MoveOrder, from: &CnId, to: Option<CnId>, outcome: Outcome) {
        let view = self.view();
        let ended = Ended { from: from.clone(), to: to.or(order.to), outcome, at: SystemTime::now() };
        self.plane().metrics.moved(&ended.outcome);
        let reasons = ended.outcome.reasons().join(", ");
        if matches!(ended.outcome, Outcome::Pinned(_)) {
            tracing::debug!(id = view.id, reasons, doubts = self.link.mirror.doubts(), "pinned");
        }
        let (outcome, to) = (ended.outcome.word(), ended.to.as_ref().map(CnId::as_str).unwrap_or_default());
        if self.plane().config.restless {
            tracing::debug!(id = view.id, from = %ended.from, to, outcome, reasons, "move");
        } else {
            tracing::info!(id = view.id, from = %ended.from, to, outcome, reasons, "move");
        }
        view.show_move(&ended);
        if self.moving.is_none() {
            view.show_going(None);
        }
        if let Some(answer) = order.answer {
            // Who ordered it may have left.
            let _ = answer.send(ended);
        }
    }
}

impl sessions::View {
    /// A move ended.
    pub(crate) fn show_move(&self, ended: &Ended) {
        *self.last_move.borrow_mut() = Some(Box::new(ended.clone()));
    }
}
