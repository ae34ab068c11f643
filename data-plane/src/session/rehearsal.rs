//! Rehearsals, for tests alone: sessions that move whenever they can, and sessions whose CN seems to die whenever that
//! may cost their clients nothing.
//!
//! Must not know: how a session moves, how it is rebuilt.

use super::Session;
use super::close::CloseReason;
use super::failover::verdict::How;
use super::inbox::MoveOrder;
use super::migrate::{Moving, Stage};
use super::relay::hold::Hold;
use super::settle;
use tokio::time::Instant;

impl Session {
    /// A session of a rehearsal rests.
    pub(super) async fn rehearse_at_rest(&mut self) -> Result<(), CloseReason> {
        let config = &self.plane().config;
        match (config.restless, config.mortal) {
            (true, _) => return self.move_again().await,
            // What it may lose, its next command says.
            (false, true) => self.link.hold(Hold::Command),
            // Nobody waits for it any more.
            (false, false) => self.link.hold(Hold::No),
        }
        Ok(())
    }

    /// A session that is never to stay anywhere rests: it moves, before its client's next command is looked at.
    async fn move_again(&mut self) -> Result<(), CloseReason> {
        if self.moving.is_some() {
            // It is told when the new CN is ready.
            self.link.let_pass();
            return Ok(());
        }
        self.begin_move(MoveOrder { to: None, answer: None });
        if let Some(Moving { stage: Stage::Making(making), .. }) = self.moving.as_deref_mut() {
            let made = making.await;
            self.made(made);
        }
        match self.moving {
            Some(_) => self.at_rest().await,
            None => {
                self.link.let_pass();
                Ok(())
            }
        }
    }

    /// The next command of a session that rests is there: unless it reads what cannot be known, the CN seems dead to it.
    pub(super) async fn rehearse_a_death(&mut self) -> Result<(), CloseReason> {
        if !self.plane().config.mortal {
            self.link.hold(self.hold_of_rehearsal());
            return Ok(());
        }
        let mirror = &self.link.mirror;
        let is_late = mirror.left().is_late() && self.link.is_shown_changes();
        let may_die = !is_late
            && !mirror.left().has_warnings()
            && self.link.held_command().is_some_and(|command| mirror.is_overwritten_by(command));
        if may_die && self.link.safe_point().is_some() {
            let since = mirror.since();
            // FOUND_ROWS outlives all but a SELECT.
            let selects = self.link.held_command().is_some_and(|command| {
                command.body.get(..6).is_some_and(|word| word.eq_ignore_ascii_case(b"SELECT"))
            });
            if since.is_to_ask(false) || !selects || self.is_known().is_err() {
                self.settle_now(Instant::now() + settle::FOR_GOOD).await?;
            }
            if self.can_be_rebuilt().await.is_ok() {
                self.outlive(How::Died).await?;
            }
        }
        self.link.let_pass();
        Ok(())
    }

    /// How a session is held that is not to move: in a rehearsal, for its next rest.
    pub(super) fn hold_of_rehearsal(&self) -> Hold {
        let config = &self.plane().config;
        if config.restless || config.mortal { Hold::Rest { passed: false } } else { Hold::No }
    }
}
