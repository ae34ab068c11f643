//! Settling: asking a CN what a session is while it rests, so that the death of the CN costs it nothing.
//!
//! What is known of a session is what it was when its CN was asked last ([`Kept`]), and that nothing has touched it since
//! ([`super::mirror::since`]). A session that only logged in need not be asked: another login gives the same.
//!
//! Must not know: what is asked, when it is time ([`queue`]).

pub(crate) mod queue;
mod sets;

use super::Session;
use super::close::CloseReason;
use super::migrate::outcome::Outcome;
use super::pin::PinReason;
use super::relay::hold::Hold;
use crate::engine::mysql::read::{self, State};
use crate::engine::mysql::write::Fresh;
use sets::Shared;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// What is known of a session whose CN cannot be asked.
#[derive(Debug, Default)]
pub(crate) enum Kept {
    /// It is what its login made it.
    #[default]
    AsLoggedIn,
    /// The CN said this.
    Known(Box<Known>),
    /// It cannot be on another CN: one bit for each reason.
    Pinned(u16),
    /// The CN would not say.
    Unknown,
}

/// A session's state, with its variables apart.
#[derive(Debug)]
pub(crate) struct Known {
    state: State,
    variables: Shared,
}

impl Known {
    fn state(&self) -> State {
        let mut state = self.state.clone();
        state.variables = self.variables.whole();
        state
    }
}

impl Kept {
    /// What asked for the values of the user variables that the CN told last, if it was asked.
    pub(super) fn further_question(&self) -> Option<Vec<u8>> {
        match self {
            Self::Known(known) => {
                let client = known.variables.get("character_set_client");
                known.state.further_question_again(client.unwrap_or_default())
            }
            Self::AsLoggedIn | Self::Pinned(_) | Self::Unknown => None,
        }
    }

    /// What comes of asking, in metrics.
    pub(crate) const WORDS: [&'static str; 3] = ["known", "pinned", "failed"];
}

/// How long a CN is not asked that may not answer.
const AVOIDED: Duration = Duration::from_secs(1);

/// Longer than any session lives: while a client rests, its warnings are never asked away.
pub(super) const FOR_GOOD: Duration = Duration::from_secs(365 * 24 * 3600);

impl Session {
    /// It is time to settle this session, if it rests; one that never rests for long does so at its next rest.
    pub(super) async fn settle_or_wait(&mut self) -> Result<(), CloseReason> {
        let config = &self.plane().config;
        // A rehearsal sees to it itself.
        if config.restless || config.mortal {
            return Ok(());
        }
        let is_to_ask = self.link.mirror.since().is_to_ask(self.plane().code.may_be());
        if self.moving.is_some() || self.farewell.is_some() || !is_to_ask {
            return Ok(());
        }
        if self.plane().routing.is_avoided(&self.cn) {
            // It may not answer: that is for its checks to find out.
            self.worker.settling.add(&self.enrolled.view, Some(Instant::now() + AVOIDED));
            return Ok(());
        }
        if self.link.safe_point().is_none() {
            self.settles = true;
            self.link.hold(Hold::Rest { passed: true });
            return Ok(());
        }
        self.settle().await
    }

    /// It rests, and was to be settled then.
    pub(super) async fn settle_at_rest(&mut self) -> Result<(), CloseReason> {
        self.settles = false;
        self.link.hold(Hold::No);
        self.settle().await
    }

    /// Asks the CN what the session is, unless that costs its client something that it may yet read.
    async fn settle(&mut self) -> Result<(), CloseReason> {
        let pins = self.link.mirror.certain_pins();
        if pins != 0 {
            // To ask would tell nothing, and begins the tracker of transactions anew: it forgets locked tables, and is silent
            // then when they are unlocked.
            self.now_keep(Kept::Pinned(pins));
            self.link.settle_was_tried();
            return Ok(());
        }
        let left = self.link.mirror.left();
        let view = &self.enrolled.view;
        let only_insert_id = !self.link.mirror.since().is_unsettled(self.plane().code.may_be());
        let is_late = left.is_late() && self.link.is_shown_changes();
        let kept_until = view.idle_since() + self.plane().routing.policy().last_result_grace;
        let now = Instant::now();
        let is_precious = left.is_precious() && (only_insert_id || now < kept_until);
        if is_precious || is_late || left.has_warnings() {
            self.link.settle_was_tried();
            if !only_insert_id && !left.has_warnings() {
                self.worker.settling.add(view, Some(kept_until));
            }
            let grace = self.plane().routing.policy().last_result_grace;
            if *self.unsettled_since.get_or_insert(now) + grace <= now && !only_insert_id {
                // Its client may never rest for so long: its next command tells whether it reads any of it.
                self.settles = true;
                self.link.hold(Hold::Command);
            }
            return Ok(());
        }
        self.settle_now(now + FOR_GOOD).await
    }

    /// The next command of a session is there that was not settled in time for what its last statement left.
    pub(super) async fn settle_before_command(&mut self) -> Result<(), CloseReason> {
        self.settles = false;
        self.link.hold(Hold::No);
        let lets_ask = self.unsettled_since.is_some_and(|since| self.lets_ask(since));
        if lets_ask && self.link.safe_point().is_some() {
            self.settle_now(Instant::now()).await
        } else {
            Ok(())
        }
    }

    /// Asks the CN what the session is, which rests. Warnings are not asked away before `kept_until`.
    pub(super) async fn settle_now(&mut self, kept_until: Instant) -> Result<(), CloseReason> {
        self.unsettled_since = None;
        let selected = self.link.mirror.left().selected();
        let [known, pinned, failed] = Kept::WORDS;
        let outcome = match self.export(kept_until).await? {
            Ok(state) => {
                self.say(&read::put_back(self.dialect(), state.found_rows, 0, selected)).await?;
                self.keep(state);
                known
            }
            Err(Outcome::Pinned(pins)) => {
                self.now_keep(Kept::Pinned(pins));
                self.link.mirror.settled();
                pinned
            }
            // It has warnings, which stay; or the CN would not say.
            Err(Outcome::Failed(why)) => {
                tracing::debug!(id = self.view().id, why, "settle");
                self.now_keep(Kept::Unknown);
                failed
            }
            Err(Outcome::Moved(_) | Outcome::Gone) => failed,
        };
        self.plane().metrics.settled(outcome);
        self.link.settle_was_tried();
        Ok(())
    }

    /// What is known of the session from now on, which shows in it.
    pub(super) fn now_keep(&mut self, kept: Kept) {
        self.view().show_tied(matches!(kept, Kept::Pinned(_) | Kept::Unknown));
        self.kept = kept;
    }

    /// This is what the session is.
    pub(super) fn keep(&mut self, mut state: State) {
        let variables = self.worker.settling.sets.share(std::mem::take(&mut state.variables));
        self.now_keep(Kept::Known(Box::new(Known { state, variables })));
        self.unsettled_since = None;
        self.link.mirror.settled();
    }

    /// Whether what is known of the session is enough, for all that ran since. `Err`: why not.
    pub(super) fn is_known(&self) -> Result<(), String> {
        let mirror = &self.link.mirror;
        let insert_id = match &self.kept {
            Kept::AsLoggedIn => 0,
            Kept::Known(known) => known.state.facts.insert_id,
            Kept::Pinned(pins) => return Err(PinReason::words_of(*pins).join(", ")),
            Kept::Unknown => return Err("its state is not known".to_owned()),
        };
        if mirror.database().is_none() {
            return Err("its default database is not known".to_owned());
        }
        let ran = mirror.since().ran();
        if ran && insert_id != 0 {
            return Err("its insert_id may be used up".to_owned());
        }
        let seeds = [&b"rand_seed1"[..], b"rand_seed2"];
        if ran && seeds.iter().any(|name| mirror.has_changed(name)) {
            return Err("its client set rand_seed, which runs on with every use".to_owned());
        }
        Ok(())
    }

    /// What is known of the session now, for a CN on which a login gave it `fresh`. `Err`: why too little is.
    pub(super) fn as_known(&self, fresh: &Fresh) -> Result<State, String> {
        let mirror = &self.link.mirror;
        let database = mirror.database().ok_or("its default database is not known")?;
        let mut state = match &self.kept {
            Kept::AsLoggedIn => State::of(&fresh.facts, &fresh.variables),
            Kept::Known(known) => known.state(),
            Kept::Pinned(_) | Kept::Unknown => return Err("its state is not known".to_owned()),
        };
        let since = mirror.since();
        if since.ran() {
            // What is used, and what was used up, by every statement.
            state.found_rows = None;
            state.facts.rand_seed = fresh.facts.rand_seed;
        }
        if since.used_next_transaction() {
            state.next_transaction.clear();
        }
        if mirror.insert_id() != 0 {
            state.facts.last_insert_id = mirror.insert_id();
        }
        if matches!(self.kept, Kept::AsLoggedIn) || state.facts.database != database {
            // The database brings its own.
            let variables = Rc::make_mut(&mut state.variables);
            variables.retain(|name, _| !matches!(&**name, "collation_database" | "character_set_database"));
        }
        state.facts.database = database;
        // What a login's OK says of it is from before `init_connect`.
        if let Some(commits_itself) = mirror.commits_itself() {
            state.facts.autocommit = commits_itself;
        }
        // The CN that it was on when it was asked numbered the session; its client did not.
        if !mirror.has_changed(b"pseudo_thread_id") {
            state.facts.thread = u64::from(self.view().facts.borrow().cn_connection_id);
        }
        state.warnings = 0;
        Ok(state)
    }
}
