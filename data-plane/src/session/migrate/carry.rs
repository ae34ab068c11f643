//! What a session is, out of its old CN and into a new one.
//!
//! Must not know: why the session moves, when it may.

use super::outcome::Outcome;
use super::target::{self, Target};
use crate::cn::CnError;
use crate::cn::converse::Said;
use crate::engine::mysql::catalog::Catalog;
use crate::engine::mysql::dialect::Dialect;
use crate::engine::mysql::read::{self, State, Unreadable};
use crate::engine::mysql::write::{self, Prepared, Script, ToPrepare, ToRestore};
use crate::hangs;
use crate::session::Session;
use crate::session::close::CloseReason;
use crate::session::mirror::Mirror;
use crate::session::mirror::left::Counted;
use crate::session::mirror::statements::{Statement, Under};
use crate::session::pin::PinReason;
use mysql_wire::reply;
use mysql_wire::sql::Hints;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why a session's state is not in the new one.
#[derive(Debug, thiserror::Error)]
pub(in crate::session) enum NoEntry {
    /// The CN did not answer.
    #[error(transparent)]
    Cn(CnError),
    /// It could not be put there, or is not what it was.
    #[error("{0}")]
    Wrong(String),
}

/// How long a CN may take to say what a session is: many times what it takes one that is buried in work.
const TO_SAY: Duration = Duration::from_secs(20);

impl Session {
    /// The statements that can be prepared again now, in the order in which they were prepared.
    pub(super) fn to_prepare_ahead(&self) -> Vec<ToPrepare> {
        let all = self.link.mirror.statements();
        // Those that are prepared by SQL may be given up by it at any time, which no close undoes.
        let ahead = all.into_iter().filter(|(_, statement)| statement.name.is_none());
        ahead.filter_map(|(id, statement)| to_prepare(id, statement)).collect()
    }

    /// The statements that are not among `prepared`, in the order in which they were prepared; the one that was prepared
    /// last comes last in any case, for it has a second name. `None` where one cannot be prepared again.
    fn to_prepare(&self, prepared: &[Prepared]) -> Option<Vec<ToPrepare>> {
        let all = self.link.mirror.statements();
        let is_there = |id: u32, serial: u32| prepared.iter().any(|(at, of, _)| (*at, *of) == (id, serial));
        let is_missing = |(id, one): &&(u32, &Statement)| !is_there(*id, one.serial);
        let mut missing: Vec<_> = all.iter().filter(is_missing).copied().collect();
        let last = all.iter().rev().find(|(_, statement)| statement.name.is_none());
        if let Some(last) = last
            && missing.iter().any(|(_, statement)| statement.name.is_none())
            && !missing.iter().any(|(id, _)| *id == last.0)
        {
            missing.push(*last);
        }
        missing.into_iter().map(|(id, statement)| to_prepare(id, statement)).collect()
    }

    /// Whether a statement was prepared without a default database, and another in one: a new session begins without, and
    /// cannot be without any more once it had one. DATABASE() would be another in the first.
    fn has_some_without_database(&self) -> bool {
        let all = self.link.mirror.statements();
        let with = all.iter().filter(|(_, statement)| statement.context.database.is_some()).count();
        0 < with && with < all.len()
    }

    /// Asks the old CN for the session's state. `Err`: why it stays, where it is as it was.
    pub(in crate::session) async fn export(
        &mut self,
        kept_until: Instant,
    ) -> Result<Result<State, Outcome>, CloseReason> {
        let selected = self.link.mirror.left().selected();
        let dialect = self.dialect();
        if !dialect.leaves_warnings() && self.link.mirror.left().has_warnings() && Instant::now() < kept_until
        {
            // To ask how many there are would take them away.
            return Ok(Err(Outcome::Failed("its last statement left warnings".into())));
        }
        let mut first = None;
        // What the last statement left is asked before anything else, for all else uses it up.
        if self.link.mirror.left().may_have_warnings() || self.known_catalog().is_none() {
            let said = self.say(&read::first_questions(dialect)).await?;
            let (found_rows, warnings) = match read::read_first(&said) {
                Ok(read) => read,
                Err(unreadable) => return Ok(Err(self.not_read(&said, &unreadable))),
            };
            self.link.mirror.found_warnings(warnings > 0);
            first = Some((found_rows, warnings));
            if warnings > 0 && Instant::now() < kept_until {
                self.say(&read::put_back(dialect, found_rows, warnings, selected)).await?;
                return Ok(Err(Outcome::Failed("its last statement left warnings".into())));
            }
        }
        let found_rows = first.and_then(|(found_rows, _)| found_rows);
        let Some(catalog) = self.catalog().await? else {
            self.say(&read::put_back(dialect, found_rows, 0, selected)).await?;
            return Ok(Err(Outcome::Failed("the CN does not tell its variables".into())));
        };
        let connection_id = self.view().facts.borrow().cn_connection_id;
        // The values of its user variables take a second question, once their names are known: most often they are those of
        // the last time, and the question is asked ahead.
        let ahead = self.kept.further_question();
        let mut questions = read::questions(&catalog, connection_id);
        questions.extend(ahead.clone());
        let mut said = self.say(&questions).await?;
        let answer_ahead = ahead.is_some().then(|| said.pop()).flatten();
        let mut state = match read::read(&catalog, &said) {
            Ok(state) => state,
            Err(unreadable) => {
                let asked = read::read_first(&said).ok().and_then(|(found_rows, _)| found_rows);
                let found_rows = if first.is_some() { found_rows } else { asked };
                self.say(&read::put_back(dialect, found_rows, 0, selected)).await?;
                return Ok(Err(self.not_read(&said, &unreadable)));
            }
        };
        if let Some((found_rows, warnings)) = first {
            (state.found_rows, state.warnings) = (found_rows, warnings);
        }
        if let Some(question) = state.further_question() {
            let said = match answer_ahead.filter(|_| ahead.as_ref() == Some(&question)) {
                Some(said) => Some(said),
                None => self.say(&[question]).await?.into_iter().next(),
            };
            if let Err(unreadable) = said.as_ref().map_or(Ok(()), |said| state.read_further(said)) {
                self.say(&read::put_back(dialect, state.found_rows, 0, selected)).await?;
                return Ok(Err(Outcome::Failed(unreadable.to_string())));
            }
        }
        let pins = self.take_in(&catalog, &mut state);
        if pins != 0 {
            // The warnings are gone: nobody was to read them any more.
            self.say(&read::put_back(dialect, state.found_rows, 0, selected)).await?;
            return Ok(Err(Outcome::Pinned(pins)));
        }
        Ok(Ok(state))
    }

    /// What the CN said becomes what is known of the session. Gives why it cannot move.
    fn take_in(&mut self, catalog: &Catalog, state: &mut State) -> u16 {
        let mirror = &mut self.link.mirror;
        mirror.found_status(state.status);
        mirror.found_warnings(state.warnings > 0);
        mirror.found_database(state.facts.database.as_deref());
        let value = |name: &str| state.variables.get(name).cloned().flatten().unwrap_or_default();
        mirror.learn_parse(
            &value("sql_mode"),
            &value("character_set_client"),
            &value("collation_connection"),
        );
        let has_changed = |name: &[u8]| mirror.has_changed(name);
        let mut pins = state.pins(mirror.hints(), has_changed) | mirror.certain_pins();
        if mirror.has_temporary_tables(state.counted) {
            pins |= PinReason::TemporaryTable.bit();
        } else if !mirror.agrees(state.counted) {
            // Something was prepared by SQL that was not seen.
            pins |= PinReason::UnknownState.bit();
        }
        // A plugin was loaded since: what it added was not asked for.
        if mirror.changed().any(|name| !std::str::from_utf8(name).is_ok_and(|name| catalog.has(name))) {
            pins |= PinReason::UnknownState.bit();
        }
        state.unseen = mirror.hints().has(Hints::HIDDEN);
        if !catalog.dialect().takes_types() && has_types(mirror) {
            pins |= PinReason::UnknownState.bit();
        }
        if pins == 0 {
            mirror.settle(state.known(), state.counted);
        }
        if state.lacks_grant && self.plane().catalogs.is_to_tell() {
            let grant = "GRANT SELECT ON performance_schema.*";
            let user = &self.view().facts.borrow().user;
            tracing::warn!(cn = %self.cn, user, "a user lacks a grant: {grant}: its sessions cannot move");
        }
        pins
    }

    /// What becomes of a CN that does not say what it was asked.
    fn not_read(&mut self, said: &[Said], unreadable: &Unreadable) -> Outcome {
        // A transaction that was open after all was ended, which the client is yet to hear.
        if let Some(Said::Err(err)) = said.first() {
            self.link.owe(err.clone());
        }
        Outcome::Failed(unreadable.to_string())
    }

    /// Puts the session's state into the new one. `Err`: why not.
    pub(in crate::session) async fn enter(
        &mut self,
        target: &mut Target,
        state: &State,
        limit: Duration,
    ) -> Result<(Vec<Prepared>, Counted), NoEntry> {
        let missing = self
            .to_prepare(&target.prepared)
            .ok_or_else(|| NoEntry::Wrong("a statement cannot be prepared again".into()))?;
        if self.has_some_without_database() {
            return Err(NoEntry::Wrong(
                "a statement was prepared while there was no default database".into(),
            ));
        }
        let mirror = &self.link.mirror;
        let dialect = target.catalog.dialect();
        if !dialect.takes_types() && has_types(mirror) {
            return Err(NoEntry::Wrong("a statement was executed, whose types cannot be carried".into()));
        }
        let now = mirror.statements();
        let is_again = |id: u32, serial: u32| missing.iter().any(|one| (one.id, one.serial) == (id, serial));
        let is_gone = |id: u32, serial: u32| {
            is_again(id, serial) || !now.iter().any(|(at, one)| (*at, one.serial) == (id, serial))
        };
        let gone = target.prepared.iter().filter(|(id, serial, _)| is_gone(*id, *serial));
        let closed: Vec<u32> = gone.filter_map(|(_, _, on_cn)| on_cn.as_ref().ok().copied()).collect();
        let mut script: Script = write::prepare(dialect, &missing);
        if let Some(several) = mirror.several_statements()
            && target.several_statements != Some(several)
        {
            write::set_several_statements(&mut script, several);
        }
        if dialect.takes_types()
            && !mirror.has_last_statement()
            && (!target.prepared.is_empty() || !missing.is_empty())
        {
            write::forget_last(&mut script);
        }
        let (catalog, fresh) = (Arc::clone(&target.catalog), std::mem::take(&mut target.fresh));
        let to = ToRestore {
            catalog: &catalog,
            state,
            fresh: &fresh,
            old_thread: self.view().facts.borrow().cn_connection_id,
            selected: mirror.left().selected(),
            catches_up: target.is_galera,
            leaves_own: ![Hints::VARIABLES, Hints::HIDDEN].into_iter().any(|hint| mirror.hints().has(hint)),
        };
        let has_changed = |name: &[u8]| mirror.has_changed(name);
        let at = write::restore(&mut script, &to, has_changed)
            .map_err(|wrong| NoEntry::Wrong(wrong.to_string()))?;
        let said = target.run(&script, &closed, limit).await.map_err(NoEntry::Cn)?;
        let mut prepared = script.check(&said).map_err(|wrong| NoEntry::Wrong(wrong.to_string()))?;
        let answers = said.get(at..).unwrap_or_default();
        let counted =
            write::verify(&to, answers, has_changed).map_err(|wrong| NoEntry::Wrong(wrong.to_string()))?;
        if target.connection.stream.has_unread() {
            return Err(NoEntry::Wrong("the CN said more than it was asked".into()));
        }
        prepared.append(&mut target.prepared);
        Ok((prepared, counted))
    }

    /// How the session's CN is asked.
    pub(in crate::session) fn dialect(&self) -> Dialect {
        let baseline = self.plane().routing.baseline(&self.cn);
        baseline.map(|baseline| Dialect::of(&baseline.version, baseline.capabilities)).unwrap_or_default()
    }

    /// The version of the session's CN, as it greeted last.
    fn version(&self) -> Vec<u8> {
        let baseline = self.plane().routing.baseline(&self.cn);
        baseline.map(|baseline| baseline.version.clone()).unwrap_or_default()
    }

    fn known_catalog(&self) -> Option<Arc<Catalog>> {
        self.plane().catalogs.of(&self.cn, &self.version())
    }

    /// The variables that the session's CN has. `None` where it does not say.
    async fn catalog(&mut self) -> Result<Option<Arc<Catalog>>, CloseReason> {
        if let Some(catalog) = self.known_catalog() {
            return Ok(Some(catalog));
        }
        let (cn, version, dialect) = (self.cn.clone(), self.version(), self.dialect());
        let said = self.say(&Catalog::questions(dialect, false)).await?;
        let Ok(catalog) = target::catalog(dialect, &said) else { return Ok(None) };
        self.plane().catalogs.learn(&cn, &version, &catalog);
        Ok(Some(catalog))
    }

    /// Says `commands` to the session's CN, and hears it out.
    pub(in crate::session) async fn say(&mut self, commands: &[Vec<u8>]) -> Result<Vec<Said>, CloseReason> {
        let (worker, cn) = (Rc::clone(&self.worker), self.cn.clone());
        let may_leave = self.may_leave();
        let mut asker = self.asker();
        tokio::select! {
            said = asker.converse(commands) => said.map_err(|_| CloseReason::CnGone),
            // Nobody gets a word out of it: one that is known is not held by that.
            () = hangs::until_silent(&worker.plane, &cn), if may_leave => Err(CloseReason::CnHangs),
            () = tokio::time::sleep(TO_SAY) => Err(CloseReason::CnHangs),
        }
    }

    /// Whether it could go on elsewhere, as far as is known without asking anybody.
    fn may_leave(&self) -> bool {
        let plane = self.plane();
        plane.routing.has_other(&self.login.request, &self.cn)
            && self.is_rebuildable(plane.code.may_be()).is_ok()
    }
}

/// Whether a statement was executed with types, which its client need not send again.
fn has_types(mirror: &Mirror) -> bool {
    mirror.statements().iter().any(|(_, statement)| statement.types.is_some())
}

/// A statement as it is prepared again. `None` where it is not known how.
fn to_prepare(id: u32, statement: &Statement) -> Option<ToPrepare> {
    let Under::Known(parse) = &statement.context.parse else { return None };
    Some(ToPrepare {
        id,
        serial: statement.serial,
        by_sql: statement.name.is_some(),
        text: statement.text.as_ref()?.to_vec(),
        database: statement.context.database.as_ref().map(|database| database.to_vec()),
        sql_mode: parse.sql_mode.to_vec(),
        character_set_client: parse.character_set_client.to_vec(),
        collation_connection: parse.collation_connection.to_vec(),
        params: statement.params,
        types: statement.types.as_ref().map(|types| types.to_vec()),
    })
}

/// What the new CN calls statement `id`.
pub(super) fn on_cn(prepared: &[Prepared], id: u32, serial: u32) -> Result<u32, reply::Err> {
    let found = prepared.iter().find(|(at, of, _)| (*at, *of) == (id, serial));
    let missing =
        || Err(reply::Err::new(1243, "HY000", format!("Unknown prepared statement handler ({id})")));
    found.map_or_else(missing, |(_, _, on_cn)| on_cn.clone())
}
