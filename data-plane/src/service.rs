//! Questions to the CNs by the service account: whether one serves, what a user's hashes are, and KILL.
//!
//! One task for each CN holds at most one connection and answers one question after the other: a thousand clients that
//! vanish cost a thousand KILLs on one connection, not a thousand logins. The connection is closed when it idles.
//! KILLs have a task of their own, because a CN may take seconds for one, and logins wait for the other questions.
//!
//! Must not know: clients' sessions beyond the ids of their connections.

use crate::accounts;
use crate::cn::{self, CnConnection, CnError, Column, Identity, Password};
use crate::config::{CnAccount, Limits};
use crate::engine::mysql::dialect::Dialect;
use crate::routing::{Baseline, Routing};
use crate::socket::By;
use mysql_wire::capability::DEPRECATE_EOF;
use mysql_wire::native::{Stage1, Stage2};
use mysql_wire::reply;
use mysql_wire::track::{Subscription, Transaction, Variables, is_on};
use parking_lot::Mutex;
use shunt_proto::cn::CnId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Questions that may wait for a CN's task; more are refused.
const QUEUE: usize = 4096;

/// The readiness statement: a Galera node out of its primary component says yes to nearly everything but this.
pub(crate) const READY: &str = "DO 1";

/// How long a KILL may take. MariaDB tries for two seconds to wake a statement that is in its way (many SLEEPs that
/// are killed at once are in each other's way).
const KILL: Duration = Duration::from_secs(5);

/// How long a connection is kept without a question.
const IDLE: Duration = Duration::from_secs(30);

/// A question.
enum Question {
    /// Whether it lets somebody in and serves, and what it says of itself.
    Probe,
    /// The same, on a connection that may be there already.
    Check,
    /// The native hashes that the user may have.
    Hashes(Vec<u8>),
    /// Whether there is stored code that may touch a session's state unseen.
    Code,
    /// End a connection, or its statement.
    Kill(Target),
}

/// Which of a CN's tasks answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// What somebody waits for.
    Asking,
    /// What may take long.
    Killing,
}

impl Question {
    const fn lane(&self) -> Lane {
        match self {
            Self::Probe | Self::Check | Self::Hashes(_) | Self::Code => Lane::Asking,
            Self::Kill(_) => Lane::Killing,
        }
    }
}

/// A connection on a CN that is to be killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The id that the CN gave it.
    pub(crate) connection_id: u32,
    /// The port that the CN sees it come from: a connection that was given the same id later has another one.
    pub(crate) port: u16,
    /// Only its statement.
    pub(crate) query_only: bool,
}

/// An answer.
#[derive(Debug)]
enum Answer {
    Serves(Baseline),
    Hashes(Vec<Stage2>),
    /// Whether there is.
    Code(bool),
    /// Whether there was something to kill.
    Killed(bool),
}

type Asked = (Question, oneshot::Sender<Result<Answer, CnError>>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// No `cn_account` is configured.
    #[error("no cn_account is configured")]
    NoAccount,
    /// Too many questions wait, or the CN left.
    #[error("the CN cannot be asked now")]
    Busy,
    /// The CN's fault, or its refusal.
    #[error(transparent)]
    Cn(#[from] CnError),
}

/// The tasks of all CNs.
type Tasks = HashMap<(CnId, Lane), mpsc::Sender<Asked>>;

/// Asks CNs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    account: Option<Arc<CnAccount>>,
    limits: Limits,
    routing: Arc<Routing>,
    tasks: Arc<Mutex<Tasks>>,
    runtime: tokio::runtime::Handle,
}

impl Service {
    /// A service whose tasks run on `runtime`.
    pub(crate) fn new(
        account: Option<CnAccount>,
        limits: Limits,
        routing: Arc<Routing>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { account: account.map(Arc::new), limits, routing, tasks: Arc::default(), runtime }
    }

    /// Whether there is an account to ask with.
    pub(crate) const fn has_account(&self) -> bool {
        self.account.is_some()
    }

    /// Logs in to `cn` and runs the readiness statement.
    pub(crate) async fn probe(&self, cn: &CnId) -> Result<Baseline, ServiceError> {
        self.serves(cn, Question::Probe).await
    }

    /// Runs the readiness statement on `cn`, without a login where there is a connection.
    pub(crate) async fn check(&self, cn: &CnId) -> Result<Baseline, ServiceError> {
        self.serves(cn, Question::Check).await
    }

    async fn serves(&self, cn: &CnId, question: Question) -> Result<Baseline, ServiceError> {
        match self.ask(cn, question).await? {
            Answer::Serves(baseline) => Ok(baseline),
            Answer::Hashes(_) | Answer::Code(_) | Answer::Killed(_) => Err(ServiceError::Busy),
        }
    }

    /// Every native hash that `user` may have, the anonymous accounts' included.
    pub(crate) async fn hashes(&self, cn: &CnId, user: &[u8]) -> Result<Vec<Stage2>, ServiceError> {
        match self.ask(cn, Question::Hashes(user.to_vec())).await? {
            Answer::Hashes(hashes) => Ok(hashes),
            Answer::Serves(_) | Answer::Code(_) | Answer::Killed(_) => Err(ServiceError::Busy),
        }
    }

    /// Whether there is code in the database that `cn` serves which may touch a session's state, and no tracker tells.
    pub(crate) async fn has_code(&self, cn: &CnId) -> Result<bool, ServiceError> {
        match self.ask(cn, Question::Code).await? {
            Answer::Code(has) => Ok(has),
            Answer::Serves(_) | Answer::Hashes(_) | Answer::Killed(_) => Err(ServiceError::Busy),
        }
    }

    /// Kills `target`. False where it is gone already.
    pub(crate) async fn kill(&self, cn: &CnId, target: Target) -> Result<bool, ServiceError> {
        match self.ask(cn, Question::Kill(target)).await? {
            Answer::Killed(killed) => Ok(killed),
            Answer::Serves(_) | Answer::Hashes(_) | Answer::Code(_) => Err(ServiceError::Busy),
        }
    }

    async fn ask(&self, cn: &CnId, question: Question) -> Result<Answer, ServiceError> {
        let account = self.account.clone().ok_or(ServiceError::NoAccount)?;
        let (answer, answered) = oneshot::channel();
        self.task(cn, question.lane(), account)
            .try_send((question, answer))
            .map_err(|_| ServiceError::Busy)?;
        Ok(answered.await.map_err(|_| ServiceError::Busy)??)
    }

    fn task(&self, cn: &CnId, lane: Lane, account: Arc<CnAccount>) -> mpsc::Sender<Asked> {
        let key = (cn.clone(), lane);
        let mut tasks = self.tasks.lock();
        if let Some(task) = tasks.get(&key).filter(|task| !task.is_closed()) {
            return task.clone();
        }
        let (sender, questions) = mpsc::channel(QUEUE);
        let link = Link {
            cn: cn.clone(),
            account,
            limits: self.limits,
            routing: Arc::clone(&self.routing),
            connection: None,
            asked_at: String::new(),
            told: None,
        };
        self.runtime.spawn(link.run(questions));
        tasks.insert(key, sender.clone());
        tasks.retain(|_, task| !task.is_closed());
        sender
    }
}

/// How often the same lack of a right is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The connection to one CN.
struct Link {
    /// The last lack of a right that was told, and when.
    told: Option<(u16, Instant)>,
    cn: CnId,
    account: Arc<CnAccount>,
    limits: Limits,
    routing: Arc<Routing>,
    connection: Option<(String, CnConnection)>,
    /// Where it was asked last.
    asked_at: String,
}

impl Link {
    async fn run(mut self, mut questions: mpsc::Receiver<Asked>) {
        loop {
            match tokio::time::timeout(IDLE, questions.recv()).await {
                Ok(Some((question, answer))) => {
                    if answer.is_closed() {
                        continue;
                    }
                    // Who asked may have left meanwhile.
                    let _ = answer.send(self.answer(question).await);
                }
                Ok(None) => break,
                Err(_) if questions.is_empty() => {
                    questions.close();
                    break;
                }
                Err(_) => {}
            }
        }
        if let Some((_, connection)) = self.connection.take() {
            connection.quit().await;
        }
    }

    /// Answers within a bound: to connect, and as long again to be answered.
    async fn answer(&mut self, question: Question) -> Result<Answer, CnError> {
        // A probe is of a login, so that it sees what a login would see.
        if matches!(question, Question::Probe)
            && let Some((_, connection)) = self.connection.take()
        {
            connection.quit().await;
        }
        // Whoever logs in waits for this: one that is to be avoided is not waited for.
        if matches!(question, Question::Hashes(_)) && self.routing.is_down(&self.cn) {
            return Err(CnError::Avoided);
        }
        let kept = self.connection.is_some();
        let answer = match self.try_once(&question).await {
            // What was kept may have died of age.
            Err(CnError::Read(_) | CnError::Write(_)) if kept => self.try_once(&question).await,
            answer => answer,
        };
        // A KILL that takes long says nothing about the CN: it is its victim that does not let go.
        let slow_kill = matches!((&question, &answer), (Question::Kill(_), Err(CnError::Timeout(_))));
        if let Err(error) = &answer
            && error.puts_cn_down()
            && !slow_kill
        {
            self.routing.failed(&self.cn, &self.asked_at, &error.to_string());
        }
        answer
    }

    async fn try_once(&mut self, question: &Question) -> Result<Answer, CnError> {
        let limit = match question.lane() {
            Lane::Asking => self.limits.cn_connect * 2,
            Lane::Killing => self.limits.cn_connect + KILL,
        };
        let answer = tokio::time::timeout(limit, async {
            let mut connection = self.connection().await?;
            let answer = ask(&mut connection.1, question).await;
            let lost = matches!(&answer, Err(error) if !matches!(error, CnError::Refused(_)));
            if !lost {
                self.connection = Some(connection);
            }
            answer
        })
        .await
        .unwrap_or(Err(CnError::Timeout(limit)));
        if let Err(CnError::Refused(err)) = &answer {
            self.tell_of_grants(question, err.code);
        }
        answer
    }

    async fn connection(&mut self) -> Result<(String, CnConnection), CnError> {
        let address = self.routing.address(&self.cn).unwrap_or_default();
        self.asked_at.clone_from(&address);
        if let Some(kept) = self.connection.take().filter(|(to, _)| *to == address) {
            return Ok(kept);
        }
        let greeted = cn::dial(&address, self.limits.cn_connect, None, By::Epoll).await?;
        let identity = Identity {
            user: self.account.user.clone().into_bytes(),
            database: None,
            collation: 45,
            capabilities: DEPRECATE_EOF,
            max_packet: 1 << 24,
            attributes: vec![(b"program_name".to_vec(), b"shunt".to_vec())],
        };
        let password = match self.account.password.as_str() {
            "" => Password::Empty,
            password => Password::Known(Stage1::of(password.as_bytes())),
        };
        let connection = greeted.log_in(&identity, password).await.map_err(|error| match error {
            // There is no client who could answer for it.
            CnError::OnlyTheClient(err) => CnError::Refused(err),
            error => error,
        })?;
        Ok((address, connection))
    }

    /// A lack of a grant, or a wrong password, is told by name.
    fn tell_of_grants(&mut self, question: &Question, code: u16) {
        if self.told.is_some_and(|(told, at)| told == code && at.elapsed() < TELL_AGAIN) {
            return;
        }
        self.told = Some((code, Instant::now()));
        let (cn, user) = (&self.cn, &self.account.user);
        let dialect = self.connection.as_ref().map(|(_, connection)| dialect(connection));
        let [hashes, sessions, code_grant] = dialect.unwrap_or_default().grants();
        if matches!(question, Question::Code) && matches!(code, 1142 | 1227) {
            let lacks = "cn_account lacks a grant";
            return tracing::info!(%cn, user, "{lacks}: {code_grant}: more sessions end with a CN that dies");
        }
        match code {
            1045 => tracing::error!(%cn, user, "cn_account is refused: check its user and password_file"),
            1142 => tracing::error!(%cn, user, "cn_account lacks a grant: {hashes}"),
            1095 | 1227 => tracing::error!(%cn, user, "cn_account lacks a grant: {sessions}"),
            _ => {}
        }
    }
}

async fn ask(connection: &mut CnConnection, question: &Question) -> Result<Answer, CnError> {
    match question {
        Question::Probe | Question::Check => probe(connection).await.map(Answer::Serves),
        Question::Hashes(user) => hashes(connection, user).await.map(Answer::Hashes),
        Question::Code => has_code(connection).await.map(Answer::Code),
        Question::Kill(target) => kill(connection, target).await.map(Answer::Killed),
    }
}

async fn probe(connection: &mut CnConnection) -> Result<Baseline, CnError> {
    let mut ask = connection.ask(true);
    ask.execute(READY).await?;
    let rows = ask
        .rows(
            "SELECT @@global.session_track_system_variables, @@global.session_track_schema, \
             @@global.session_track_state_change, @@global.session_track_transaction_info",
        )
        .await?;
    let subscription = match rows.first().map(Vec::as_slice) {
        Some([Some(variables), Some(schema), Some(state), Some(transaction)]) => Some(Subscription {
            variables: Variables::parse(variables),
            schema: is_on(schema),
            state: is_on(state),
            transaction: Transaction::parse(transaction),
        }),
        _ => None,
    };
    // A server that has no such variable is no Galera node.
    let wsrep = connection.ask(true).rows("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'").await?;
    let galera = wsrep.iter().any(|row| matches!(&row[..], [_, Some(value)] if is_on(value)));
    Ok(Baseline::new(&connection.greeting, subscription, galera))
}

fn dialect(connection: &CnConnection) -> Dialect {
    Dialect::of(&connection.greeting.version, connection.greeting.capabilities)
}

async fn hashes(connection: &mut CnConnection, user: &[u8]) -> Result<Vec<Stage2>, CnError> {
    let dialect = dialect(connection);
    let hex: String = user.iter().map(|byte| format!("{byte:02x}")).collect();
    let rows = connection.ask(true).rows(&dialect.accounts(&hex)).await?;
    let hashes = |row: &Vec<Column>| match (dialect, &row[..]) {
        (Dialect::MariaDb, [Some(privileges)]) => accounts::hashes(privileges),
        (Dialect::MySql, [Some(plugin), Some(stored)]) => accounts::hash_of(plugin, stored),
        _ => Vec::new(),
    };
    Ok(rows.iter().flat_map(hashes).collect())
}

async fn has_code(connection: &mut CnConnection) -> Result<bool, CnError> {
    let dialect = dialect(connection);
    let grants = connection.ask(true).rows("SHOW GRANTS").await?;
    for any_of in dialect.rights_to_see_code() {
        let sees = |grant: &Vec<u8>| {
            let grant = String::from_utf8_lossy(grant);
            any_of.iter().any(|right| gives(&grant, right))
        };
        if !grants.iter().flatten().flatten().any(sees) {
            // Who may not see it finds none.
            return Err(CnError::Refused(lacks(any_of.first().copied().unwrap_or_default())));
        }
    }
    let rows = connection.ask(true).rows(&dialect.code()).await?;
    Ok(rows.first().and_then(|row| row.first()?.as_deref()) != Some(b"0"))
}

async fn kill(connection: &mut CnConnection, target: &Target) -> Result<bool, CnError> {
    let Target { connection_id, port, query_only } = target;
    let found = connection
        .ask(true)
        .rows(&format!(
            "SELECT 1 FROM information_schema.processlist WHERE id = {connection_id} AND host LIKE '%:{port}'"
        ))
        .await?;
    if found.is_empty() {
        // Who may not see other users' sessions finds nothing either.
        return if sees_sessions(connection).await? {
            Ok(false)
        } else {
            Err(CnError::Refused(lacks("PROCESS")))
        };
    }
    let query = if *query_only { "QUERY " } else { "" };
    match connection.ask(true).execute(&format!("KILL {query}{connection_id}")).await {
        Ok(_) => Ok(true),
        Err(CnError::Refused(err)) if err.code == 1094 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the service account sees the sessions of all users.
async fn sees_sessions(connection: &mut CnConnection) -> Result<bool, CnError> {
    let grants = connection.ask(true).rows("SHOW GRANTS").await?;
    Ok(grants.iter().flatten().flatten().any(|grant| gives(&String::from_utf8_lossy(grant), "PROCESS")))
}

/// Whether `grant` gives this right on everything.
fn gives(grant: &str, wanted: &str) -> bool {
    let Some((rights, _)) = grant.strip_prefix("GRANT ").and_then(|grant| grant.split_once(" ON *.* TO "))
    else {
        return false;
    };
    rights.split(", ").any(|right| right == wanted || right == "ALL PRIVILEGES")
}

/// In the words of a CN.
fn lacks(right: &str) -> reply::Err {
    let message =
        format!("Access denied; you need (at least one of) the {right} privilege(s) for this operation");
    reply::Err::new(1227, "42000", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_see_sessions_is_read_out_of_grants() {
        for (grant, expected) in [
            ("GRANT PROCESS, CONNECTION ADMIN ON *.* TO `shunt`@`%` IDENTIFIED BY PASSWORD '*1'", true),
            ("GRANT ALL PRIVILEGES ON *.* TO `root`@`127.%` WITH GRANT OPTION", true),
            ("GRANT CONNECTION ADMIN ON *.* TO `shunt`@`%`", false),
            ("GRANT ALL PRIVILEGES ON `shop`.* TO `shunt`@`%`", false),
            ("GRANT `PROCESS` TO `shunt`@`%`", false),
            ("GRANT SELECT ON `mysql`.`global_priv` TO `shunt`@`%`", false),
        ] {
            assert_eq!(gives(grant, "PROCESS"), expected, "{grant}");
        }
    }
}
