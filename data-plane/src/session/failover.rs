//! A session outlives its CN: rebuilt on another one from what is known of it.
//!
//! What its client sees of that is decided in one place ([`verdict`]), and what is known of it is [`super::settle::Kept`]
//! and the mirror. What is not known for certain ends the session: a variable that is lost silently is worse.
//!
//! Must not know: how state is read and written.

pub(crate) mod verdict;

use super::Session;
use super::close::CloseReason;
use super::command::within_limit;
use super::inbox::Order;
use super::migrate::carry::NoEntry;
use super::migrate::outcome::{Ended, Outcome};
use super::migrate::target::{NoTarget, make_ready};
use super::pin::PinReason;
use super::relay::cut::UnderWay;
use crate::cn::CnError;
use rand::RngExt as _;
use shunt_proto::cn::CnId;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use verdict::{How, Scene, Verdict, verdict};

/// Between two tries to find a CN, the first time and at most. Each waits a random part more, so that a fleet that
/// returns does not meet all of its sessions at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// CNs that may find the session's state wrong before that is taken for the state's own fault.
const WRONG: u32 = 3;

/// How long a CN may take to take a session over: nobody has another one meanwhile, and a cluster that has lost a node may
/// stand still until it knows.
const TO_ENTER: Duration = Duration::from_secs(10);

/// How a try ended that found no place for the session.
enum Not {
    /// Not now, and why.
    Yet(String),
    /// Its state was refused there.
    There(CnId, String),
    /// Never.
    Ever(String),
}

impl Session {
    /// The CN's connection ended. The session goes on elsewhere, or ends.
    pub(super) async fn cn_is_gone(&mut self) -> Result<(), CloseReason> {
        if self.link.mirror.has_quit() {
            return Err(CloseReason::Quit);
        }
        match self.who_closed().await {
            // Its client reads that next, in place of any answer.
            CloseReason::CnDied if self.link.mirror.said_farewell() => Err(CloseReason::CnDied),
            CloseReason::CnDied => self.outlive(How::Died).await,
            reason => Err(reason),
        }
    }

    /// Nobody gets a word out of the CN (`is_silent`), or it says that it cannot serve: if this session does not either, it
    /// goes on elsewhere.
    pub(super) async fn cn_is_useless(&mut self, cn: &CnId, is_silent: bool) -> Result<(), CloseReason> {
        let has_other = || self.plane().routing.has_other(&self.login.request, cn);
        if self.cn != *cn || self.moving.is_some() || !has_other() || self.can_be_rebuilt().await.is_err() {
            // It may come to itself yet.
            return Ok(());
        }
        let limit = self.plane().config.limits.cn_connect;
        if self.link.is_awaiting() || self.link.is_sending() {
            // A CN that talks tells its client itself. One that does not may yet be working for this one.
            let waits = self.view().idle_since().elapsed() >= limit;
            return if is_silent && waits { self.outlive(How::Hangs).await } else { Ok(()) };
        }
        if !is_silent && self.link.mirror.left().counts_rows() {
            // The question would take it away; it is asked the next time. One that is silent hardly answers.
            return Ok(());
        }
        let mut asker = self.asker();
        let answer = if is_silent {
            within_limit(limit, asker.command(&[mysql_wire::command::PING])).await.map(drop)
        } else {
            within_limit(limit, asker.execute(crate::service::READY)).await.map(drop)
        };
        match answer {
            Ok(()) => Ok(()),
            // What it is in the middle of, that CN may yet say itself.
            Err(CnError::Refused(_)) if self.link.mirror.may_be_in_transaction() => Ok(()),
            Err(_) => self.outlive(How::Hangs).await,
        }
    }

    /// What the session is at.
    fn scene(&self, how: How) -> Scene {
        let mirror = &self.link.mirror;
        Scene {
            how,
            awaited: self.link.awaited(),
            sends: self.link.is_sending(),
            standing: self.link.standing(),
            in_transaction: mirror.is_in_transaction(),
            may_be_in_transaction: mirror.may_be_in_transaction(),
            plain: mirror.is_plain(),
            again: mirror.again().is_some() && !self.link.has_answer_begun(),
        }
    }

    /// The session goes on on another CN, or ends.
    pub(super) async fn outlive(&mut self, how: How) -> Result<(), CloseReason> {
        let begun = Instant::now();
        self.give_up_move("the CN was lost");
        self.settles = false;
        self.link.hold(self.hold_of_rehearsal());
        let from = self.cn.clone();
        let verdict = verdict(&self.scene(how));
        if verdict == Verdict::Close {
            self.tell_of_failover(&from, verdict.word(), begun, "the client is in the middle of a packet");
            return Err(CloseReason::CnDied);
        }
        let rebuilt = match self.can_be_rebuilt().await {
            Ok(()) => {
                self.link.mirror.was_harmless();
                self.rebuild(verdict == Verdict::Again).await
            }
            Err(why) => Err(CloseReason::Lost(why)),
        };
        let under_way = match rebuilt {
            Ok(under_way) => under_way,
            Err(reason) => {
                let why = if let CloseReason::Lost(why) = &reason { why } else { reason.word() };
                self.tell_of_failover(&from, "lost", begun, why);
                return Err(reason);
            }
        };
        self.tell_of_failover(&from, verdict.word(), begun, "");
        self.tell_client_of(verdict, under_way).await
    }

    /// Whether enough is known of the session to rebuild it. `Err`: why not.
    pub(super) async fn can_be_rebuilt(&self) -> Result<(), String> {
        // What is said without asking the CNs comes first.
        self.is_rebuildable(false)?;
        // Of the code of a rehearsal it is known that it touches nothing unseen.
        let may_hide = self.link.mirror.since().ran() && !self.plane().config.mortal;
        self.is_rebuildable(may_hide && self.plane().code.is_there().await)
    }

    /// The same, where there is stored code on the CNs that may touch sessions unseen (`code`), or there is none.
    pub(super) fn is_rebuildable(&self, code: bool) -> Result<(), String> {
        let mirror = &self.link.mirror;
        if self.password.is_none() {
            return Err(PinReason::CredentialsUnknown.words().to_owned());
        }
        let pins = mirror.certain_pins() & !PinReason::Transaction.bit();
        if pins != 0 {
            return Err(PinReason::words_of(pins).join(", "));
        }
        self.is_known()?;
        mirror.since().harmless(code, mirror.may_be_in_transaction()).map_err(str::to_owned)
    }

    /// Rebuilds the session on a CN that it may use, and waits for one if need be. Gives what was under way before.
    async fn rebuild(&mut self, again: bool) -> Result<UnderWay, CloseReason> {
        self.view().show_moving();
        let worker = Rc::clone(&self.worker);
        let limit = self.plane().routing.policy().wait_for_cn;
        let until = Instant::now() + limit;
        let (mut pause, mut wrong) = (FIRST_PAUSE, 0);
        loop {
            let one = worker.rebuilds.acquire().await;
            let tried = self.try_to_rebuild(again).await;
            drop(one);
            let why = match tried {
                Ok(under_way) => return Ok(under_way),
                Err(Not::Ever(why)) => return Err(CloseReason::Lost(why)),
                Err(Not::There(cn, why)) => {
                    self.failed_on.push(cn);
                    wrong += 1;
                    if wrong >= WRONG {
                        return Err(CloseReason::Lost(why));
                    }
                    why
                }
                Err(Not::Yet(why)) => why,
            };
            if Instant::now() >= until {
                return Err(CloseReason::Lost(format!("no CN took it within {limit:?}: {why}")));
            }
            self.wait(pause.mul_f64(rand::rng().random_range(1.0..2.0))).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_to_rebuild(&mut self, again: bool) -> Result<UnderWay, Not> {
        // Its own CN may be back, and is as good as another.
        let luggage = self.luggage(None, None).ok_or_else(|| Not::Ever("credentials unknown".to_owned()))?;
        let mut target = make_ready(Rc::clone(&self.worker), luggage).await.map_err(|error| match error {
            NoTarget::Refused { .. } => Not::Ever(error.to_string()),
            NoTarget::Wrong { cn, wrong } => Not::There(cn, wrong.to_string()),
            NoTarget::NoCn(_) | NoTarget::Unusable { .. } => Not::Yet(error.to_string()),
        })?;
        let state = self.as_known(&target.fresh).map_err(Not::Ever)?;
        let cn = target.placed.cn.name().clone();
        let (prepared, counted) = match self.enter(&mut target, &state, TO_ENTER).await {
            Ok(entered) => entered,
            Err(NoEntry::Cn(error)) => return Err(Not::Yet(format!("{cn}: {error}"))),
            Err(NoEntry::Wrong(why)) => {
                target.connection.quit().await;
                return Err(Not::There(cn, why));
            }
        };
        let (point, under_way) = self.link.cut(again);
        self.go_on_there(*target, &point, &prepared, counted);
        self.keep(state);
        self.failed_on.clear();
        Ok(under_way)
    }

    /// Waits, and watches out for a client that leaves and for an order to end.
    async fn wait(&self, pause: Duration) -> Result<(), CloseReason> {
        let view = self.view();
        let until = Instant::now() + pause;
        loop {
            let order = poll_fn(|cx| view.inbox.poll(cx).map_or(Poll::Pending, Poll::Ready));
            tokio::select! {
                order = order => match order {
                    Order::Kill => return Err(CloseReason::Killed),
                    Order::Close(farewell) => return Err(CloseReason::Farewell(farewell)),
                    Order::Move => while let Some(order) = view.inbox.take_move() {
                        let why = "its CN was lost, and it goes on elsewhere".to_owned();
                        self.end_move(order, &self.cn, None, Outcome::Failed(why));
                    },
                    // It left that CN, or rests nowhere.
                    Order::LeaveOrEnd(_) | Order::Settle | Order::CnIsUseless { .. } => {}
                },
                () = tokio::time::sleep_until(until) => break,
            }
        }
        if self.link.has_client_left() { Err(CloseReason::ClientGone) } else { Ok(()) }
    }

    /// The client is told what it must know.
    async fn tell_client_of(&mut self, verdict: Verdict, under_way: UnderWay) -> Result<(), CloseReason> {
        match (verdict, verdict.err()) {
            (Verdict::Again, _) => self.link.send_again(),
            (Verdict::Owe, Some(err)) => self.link.owe(err),
            (_, Some(err)) => {
                self.link.tell_of_cut(under_way, &err).await.map_err(|_| CloseReason::ClientGone)?;
                // What it sent behind that was sent in the belief that it went well.
                if self.link.has_more() {
                    self.link.owe(err);
                }
            }
            (_, None) => {}
        }
        Ok(())
    }

    /// One line in the log, one count, and what the session shows of it.
    fn tell_of_failover(&self, from: &CnId, outcome: &'static str, begun: Instant, why: &str) {
        let (view, to, took) = (self.view(), &self.cn, begun.elapsed());
        self.plane().metrics.failed_over(outcome, took);
        tracing::info!(id = view.id, %from, %to, outcome, ?took, why, "failover");
        let (outcome, to) = match outcome {
            "lost" | "closed" => (Outcome::Failed(why.to_owned()), None),
            _ => (Outcome::Moved(took), Some(to.clone())),
        };
        view.show_move(&Ended { from: from.clone(), to, outcome, at: SystemTime::now() });
    }
}
