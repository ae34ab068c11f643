//! One cell of the table, run: a session moves, a fault happens at a step, and whoever can tell what came of it is asked.
//!
//! Must not know: what is to come of it.

use crate::gate::{AFTER, Gate, Plan, REST, Side};
use crate::stand::{login, seen, setup};
use crate::table::{Fault, On, Outcome, Sees, Step};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use shunt_harness::{ErrPacket, Group, Login, MariaDb, Param, Raw, Shunt, command, eventually, within};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a session is.
const STATE: &str = "SELECT @v, @@time_zone, LAST_INSERT_ID(), DATABASE()";

/// What came of a cell, as all who can tell it say.
pub(crate) type Seen = (Outcome, On, Sees);

/// A Shunt in front of two names of one CN, each behind a gate, and who uses it.
pub(crate) struct Lane<'a> {
    cn: &'a MariaDb,
    shunt: Arc<Shunt>,
    old: Gate,
    new: Gate,
    plan: Arc<Plan>,
    login: Login,
}

/// A session, and its statement.
struct Session {
    raw: Raw,
    statement: shunt_harness::response::Prepared,
    whole: Vec<Vec<Option<String>>>,
}

/// What is counted and noted of moves.
#[derive(Debug, Default, Clone, PartialEq)]
struct Told {
    moved: f64,
    failed: f64,
    pinned: f64,
    gone: f64,
}

impl Told {
    fn of(&self, outcome: Outcome) -> f64 {
        match outcome {
            Outcome::Moved => self.moved,
            Outcome::Failed => self.failed,
            Outcome::Pinned => self.pinned,
            Outcome::Gone => self.gone,
        }
    }

    fn sum(&self) -> f64 {
        self.moved + self.failed + self.pinned + self.gone
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Moved => "moved",
        Outcome::Failed => "failed",
        Outcome::Pinned => "pinned",
        Outcome::Gone => "gone",
    }
}

async fn is_set(flag: &watch::Sender<bool>, what: &str) -> Result<()> {
    let mut flag = flag.subscribe();
    let set = tokio::time::timeout(shunt_harness::patience(), flag.wait_for(|set| *set)).await;
    set.with_context(|| format!("{what}: never"))?.map(drop).context("no flag")
}

/// Orders a session to the new CN, or back.
fn order(shunt: &Arc<Shunt>, id: u32, to: &'static str) -> JoinHandle<Result<Value>> {
    let shunt = Arc::clone(shunt);
    tokio::spawn(async move {
        let said = shunt.try_ctl(&["-o", "json", "session", "move", &id.to_string(), "--to", to]).await?;
        let told: Value = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
        ensure!(said.status.success() == (told["outcome"] == "moved"), "{said:?}");
        Ok(told)
    })
}

impl<'a> Lane<'a> {
    pub(crate) async fn start(cn: &'a MariaDb, user: &str) -> Result<Lane<'a>> {
        cn.account(user, "%", "app").await?;
        let plan = Plan::new(user);
        let old = Gate::before(cn.address(), Side::Old, Arc::clone(&plan)).await?;
        let new = Gate::before(cn.address(), Side::New, Arc::clone(&plan)).await?;
        let group = Group::named("shared").cn("old", old.address()).cn("new", new.address());
        let setup = setup().group(group).set("limits.cn_connect", "1s");
        let setup = setup.set("policy.migrate.freeze_deadline", "1s");
        // What a session is, a cell begins by asking.
        let setup = setup.set("policy.migrate.settle_after", "1h");
        let shunt = setup.set("policy.migrate.last_result_grace", "0s").standalone().await?;
        seen(&shunt).await;
        let login = Login::user(user).password("app").database(crate::stand::DATABASE);
        Ok(Lane { cn, shunt: Arc::new(shunt), old, new, plan, login })
    }

    /// A session with something of each kind on the old CN, which was on the new one before: both are of use, and all of
    /// it is known.
    async fn session(&self) -> Result<Session> {
        let mut raw = login(&self.shunt, &self.login).await?;
        raw.run("SET @v = 'kept', time_zone = '+03:00', last_insert_id = 9").await?;
        let statement = raw.prepare("SELECT @v, ?").await?;
        let whole = raw.query(STATE).await?.success()?.rows()?;
        let mut session = Session { raw, statement, whole };
        for to in ["new", "old"] {
            // After a fault a CN is avoided until it was asked, and one that fails again and again for longer.
            within(Duration::from_secs(20), async || {
                if self.shown(&session.raw).await?["cn"] != to {
                    let told = order(&self.shunt, session.raw.connection_id(), to).await??;
                    ensure!(told["outcome"] == "moved", "{told}");
                }
                anyhow::Ok(())
            })
            .await?;
            if to == "new" {
                session.is_whole().await?;
            }
        }
        Ok(session)
    }

    async fn shown(&self, raw: &Raw) -> Result<Value> {
        self.shunt.ctl(&["session", "get", &raw.connection_id().to_string()]).await
    }

    async fn is_there(&self, id: u32) -> Result<bool> {
        Ok(self.shunt.try_ctl(&["session", "get", &id.to_string()]).await?.status.success())
    }

    async fn told(&self) -> Result<Told> {
        let text = self.shunt.planes[0].metrics().await?;
        let of = |outcome: &str| {
            let name = format!("shunt_data_moves_total{{outcome=\"{outcome}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).context(name)
        };
        Ok(Told { moved: of("moved")?, failed: of("failed")?, pinned: of("pinned")?, gone: of("gone")? })
    }

    /// How often the log says that a move of `id` ended, and how.
    fn logged(&self, id: u32) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for file in ["standalone.out", "standalone.err"] {
            let text = std::fs::read_to_string(self.shunt.folder().join(file))?;
            let id = format!("id={id} ");
            let lines = text.lines().filter(|line| line.contains(" move ") && line.contains(&id));
            let outcome = |line: &str| Some(line.split("outcome=\"").nth(1)?.split('"').next()?.to_owned());
            all.extend(lines.filter_map(outcome));
        }
        Ok(all)
    }

    /// Runs a cell.
    pub(crate) async fn run(&self, step: Step, fault: Fault) -> Result<Seen> {
        let session = self.session().await?;
        let id = session.raw.connection_id();
        let (before, logged) = (self.told().await?, self.logged(id)?.len());
        self.plan.arm(step, fault);
        let ran = self.play(session, step, fault).await;
        self.plan.disarm();
        let happened = self.plan.happened.load(Ordering::SeqCst);
        self.old.open();
        self.new.open();
        let (outcome, on, sees) = ran?;
        ensure!(happened, "the step was never reached");
        let orders = if fault == Fault::SecondOrder { 2.0 } else { 1.0 };
        eventually("it is counted once", async || {
            let now = self.told().await?;
            ensure!(now.sum() - before.sum() == orders, "{before:?}, then {now:?}");
            let second = if orders > 1.0 && outcome == Outcome::Failed { 1.0 } else { 0.0 };
            ensure!(now.of(outcome) - before.of(outcome) == 1.0 + second, "{before:?}, then {now:?}");
            anyhow::Ok(())
        })
        .await;
        let lines = self.logged(id)?;
        let mine = lines[logged..].iter().filter(|line| *line == word(outcome)).count();
        ensure!(lines.len() - logged == orders as usize && mine >= 1, "in the log: {:?}", &lines[logged..]);
        eventually("nothing is left", async || {
            let mut root = self.cn.root().await?;
            let sql = format!(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{}'",
                self.login.user
            );
            let left = root.value(sql).await?;
            ensure!(left == "0", "{left} connections");
            root.quit().await
        })
        .await;
        Ok((outcome, on, sees))
    }

    /// Orders the session to move, lets the fault happen, and looks at what came of it. The session is closed then.
    async fn play(&self, mut session: Session, step: Step, fault: Fault) -> Result<Seen> {
        let id = session.raw.connection_id();
        let is_busy = matches!(step, Step::StandBy | Step::Rest);
        if is_busy {
            session.raw.send(&command::query(REST)).await?;
            is_set(&self.plan.is_busy, "the statement is under way").await?;
        }
        let ordered = order(&self.shunt, id, "new");
        if is_busy {
            is_set(&self.plan.is_prepared, "the statements are prepared ahead").await?;
        }
        let mut client = Some(session);
        match step {
            Step::StandBy => self.stand_by(&mut client, fault, id).await?,
            Step::Rest => {
                self.plan.may_rest.send_replace(true);
                self.act(&mut client, step, fault, id).await?;
            }
            Step::After => {}
            _ => self.act(&mut client, step, fault, id).await?,
        }
        let told = ordered.await??;
        let outcome = match told["outcome"].as_str().unwrap_or_default() {
            "moved" => Outcome::Moved,
            "failed" => Outcome::Failed,
            "pinned" => Outcome::Pinned,
            "gone" => Outcome::Gone,
            _ => bail!("{told}"),
        };
        if let Some(session) = &client
            && fault != Fault::SecondOrder
            && self.is_there(id).await?
        {
            let shown = self.shown(&session.raw).await?;
            // A session that outlives its CN shows that last.
            let last = &shown["lastMove"];
            let outlived = outcome == Outcome::Failed && last["outcome"] == "moved";
            ensure!(last["outcome"] == told["outcome"] || outlived, "{last}, and told {told}");
        }
        if step == Step::After
            && let Some(session) = &mut client
        {
            session.raw.send(&command::query(AFTER)).await?;
            self.act(&mut client, step, fault, id).await?;
        }
        let talked = if fault == Fault::ClientTalking { 2 } else { 0 };
        let pending = usize::from(is_busy || step == Step::After);
        let (on, sees) = self.look(client, id, pending, talked).await.with_context(|| told.to_string())?;
        Ok((outcome, on, sees))
    }

    /// What happens while nothing is said to the new CN.
    async fn stand_by(&self, client: &mut Option<Session>, fault: Fault, id: u32) -> Result<()> {
        match fault {
            Fault::Hung => {
                self.plan.happened.store(true, Ordering::SeqCst);
                self.new.hang();
            }
            Fault::CnDead => {
                self.plan.happened.store(true, Ordering::SeqCst);
                self.new.die();
            }
            Fault::Slow => {
                self.plan.happened.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            Fault::ClientGone | Fault::ClientTalking | Fault::SecondOrder => {
                self.plan.happened.store(true, Ordering::SeqCst);
                self.plan.reached.send_replace(true);
                self.act(client, Step::StandBy, fault, id).await?;
            }
            Fault::Refused | Fault::Closed | Fault::ErrorReply | Fault::WrongReply => {
                self.plan.unasked(fault)
            }
        }
        self.plan.may_rest.send_replace(true);
        Ok(())
    }

    /// What the client or an operator does once the step is reached; then the CN goes on.
    async fn act(&self, client: &mut Option<Session>, step: Step, fault: Fault, id: u32) -> Result<()> {
        if !matches!(fault, Fault::ClientGone | Fault::ClientTalking | Fault::SecondOrder) {
            return Ok(());
        }
        is_set(&self.plan.reached, "the step").await?;
        match fault {
            Fault::ClientGone => {
                *client = None;
                if step < Step::AskOld {
                    eventually("it left", async || {
                        ensure!(!self.is_there(id).await?, "it is there");
                        anyhow::Ok(())
                    })
                    .await;
                }
            }
            Fault::ClientTalking => {
                let raw = &mut client.as_mut().context("no client")?.raw;
                for n in 1..=2 {
                    raw.send(&command::query(format!("SELECT CONCAT(@v, {n})"))).await?;
                }
            }
            _ => {
                let mut second = order(&self.shunt, id, "new");
                // One that is being moved hears of it behind that.
                let early =
                    if step < Step::AskOld { Duration::from_secs(30) } else { Duration::from_millis(100) };
                let told = match tokio::time::timeout(early, &mut second).await {
                    Ok(told) => told??,
                    Err(_) => {
                        self.plan.released.send_replace(true);
                        second.await??
                    }
                };
                ensure!(told["outcome"] == "failed", "the second order: {told}");
            }
        }
        self.plan.released.send_replace(true);
        Ok(())
    }

    /// What the client sees, and where the session is then. It is closed.
    async fn look(
        &self,
        client: Option<Session>,
        id: u32,
        pending: usize,
        talked: usize,
    ) -> Result<(On, Sees)> {
        let Some(mut session) = client else {
            eventually("it left", async || {
                ensure!(!self.is_there(id).await?, "it is there");
                anyhow::Ok(())
            })
            .await;
            return Ok((On::Closed, Sees::Nothing));
        };
        let mut sees = Sees::Nothing;
        if pending > 0 {
            match session.raw.receive().await {
                Ok(response) => {
                    if let Some(err) = response.err() {
                        sees = Sees::Err(err.code);
                    }
                }
                Err(_) => return self.closed(session, id).await,
            }
        }
        for n in 1..=talked {
            let said = session.raw.receive().await?.success()?.rows()?;
            ensure!(said == [[Some(format!("kept{n}"))]], "answer {n}: {said:?}");
        }
        if let Err(error) = session.is_whole().await {
            if error.is::<ErrPacket>() || self.is_there(id).await? {
                return Err(error);
            }
            return self.closed(session, id).await;
        }
        let on = match self.shown(&session.raw).await?["cn"].as_str() {
            Some("old") => On::Old,
            Some("new") => On::New,
            other => bail!("on {other:?}"),
        };
        session.raw.quit().await?;
        Ok((on, sees))
    }

    async fn closed(&self, mut session: Session, id: u32) -> Result<(On, Sees)> {
        session.raw.closed().await?;
        eventually("it is gone", async || {
            ensure!(!self.is_there(id).await?, "it is there");
            anyhow::Ok(())
        })
        .await;
        Ok((On::Closed, Sees::Close))
    }
}

impl Session {
    /// It is what it was.
    async fn is_whole(&mut self) -> Result<()> {
        let now = self.raw.query(STATE).await?.success()?.rows()?;
        ensure!(now == self.whole, "{now:?}, not {:?}", self.whole);
        let answer = self.raw.execute(self.statement, &[Param::Long(7)]).await?.success()?;
        let results = answer.results()?;
        let row = results.first().and_then(|set| set.rows.first()).context("no row")?;
        ensure!(row.ends_with(&[&b"\x04kept"[..], &7_i32.to_le_bytes()].concat()), "its statement: {row:?}");
        Ok(())
    }
}
