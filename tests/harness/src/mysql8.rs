//! A scripted CN that is a MySQL 8, as its documentation says that one is: it greets as one, lets in accounts of
//! `mysql_native_password` and `caching_sha2_password`, keeps a small model of each session, and answers the statements
//! by which a session is used and read. It reads SQL as SQL, and knows no question of Shunt's by its text: what MySQL 8
//! would refuse, MariaDB's own statements and tables among it, is refused in MySQL's words, and unexpected.
//!
//! No MySQL was measured for it: where the documentation says little, it is strict.

mod eval;
mod reply;
mod session;
mod sql;
mod statements;
mod tables;
mod value;

pub use session::{State, Statement};
pub use value::{Kind, Value};

use crate::caps::Caps;
use crate::command::com;
use crate::decode::{Cursor, ErrPacket};
use crate::fake_cn::{err_payload, error};
use crate::login::{CACHING_SHA2, Handshake, NATIVE, caching_sha2, native};
use crate::packet::{MAX_PAYLOAD, Packet, split};
use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;
use session::Session;
use sha1::{Digest as _, Sha1};
use statements::Reply;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// How an account shows its password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `mysql_native_password`
    Native,
    /// `caching_sha2_password`, with the password in the server's cache.
    CachingSha2,
}

/// An account.
#[derive(Clone, Debug)]
struct Account {
    name: String,
    password: String,
    plugin: Plugin,
    /// It may read all of the performance schema.
    reads_performance_schema: bool,
    /// It may read accounts, and set what others may not.
    is_service: bool,
}

impl Account {
    /// The native hash of its password, as `mysql.user` has it.
    fn stored(&self) -> String {
        let stage2 = Sha1::digest(Sha1::digest(self.password.as_bytes()));
        stage2.iter().fold("*".to_owned(), |hex, byte| format!("{hex}{byte:02X}"))
    }
}

#[derive(Clone, Debug)]
struct Settings {
    accounts: Vec<Account>,
    roles: Vec<String>,
    grants: Vec<String>,
    refuses: HashMap<String, ErrPacket>,
    instruments_locks: bool,
    knows_threads: bool,
    takes_hints: bool,
}

struct Shared {
    settings: Mutex<Settings>,
    sessions: Mutex<BTreeMap<u32, Arc<Mutex<Session>>>>,
    /// The port that each connection comes from.
    ports: Mutex<BTreeMap<u32, u16>>,
    connections: Mutex<HashMap<u32, AbortHandle>>,
    received: Mutex<Vec<(String, String)>>,
    unexpected: Mutex<Vec<String>>,
}

/// A running one. It ends with the value, and panics then if anything was unexpected.
pub struct Mysql8 {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// The version that it greets with.
pub const VERSION: &str = "8.0.36";

impl Mysql8 {
    /// With the accounts `shunt` (password `secret`, the service account), `app` (`app`), `poor` (`poor`), which may not
    /// read the tables of locks and of user variables, and `sha` (`sha`), whose plugin is `caching_sha2_password`; all may
    /// use the roles `clerk` and `auditor`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let account = |name: &str, password: &str, plugin, reads_performance_schema| Account {
            name: name.into(),
            password: password.into(),
            plugin,
            reads_performance_schema,
            is_service: name == "shunt",
        };
        let settings = Settings {
            accounts: vec![
                account("shunt", "secret", Plugin::Native, true),
                account("app", "app", Plugin::Native, true),
                account("poor", "poor", Plugin::Native, false),
                account("sha", "sha", Plugin::CachingSha2, true),
            ],
            roles: ["clerk", "auditor"].map(str::to_owned).into(),
            grants: [
                "GRANT PROCESS, SHOW_ROUTINE, TRIGGER ON *.* TO `shunt`@`%`",
                "GRANT CONNECTION_ADMIN ON *.* TO `shunt`@`%`",
                "GRANT SELECT ON `mysql`.`user` TO `shunt`@`%`",
            ]
            .map(str::to_owned)
            .into(),
            refuses: HashMap::new(),
            instruments_locks: true,
            knows_threads: true,
            takes_hints: true,
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            sessions: Mutex::default(),
            ports: Mutex::default(),
            connections: Mutex::default(),
            received: Mutex::default(),
            unexpected: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, address.port(), shared.clone()));
        Ok(Self { address, shared, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the sessions of a user are that are open now.
    pub fn sessions(&self, user: &str) -> Vec<State> {
        let sessions = self.shared.sessions.lock();
        let all = sessions.values().map(|session| session.lock());
        all.filter(|session| session.user == user).map(|session| session.state()).collect()
    }

    /// From now on no session may set this variable.
    pub fn refuse(&self, variable: &str, code: u16, message: &str) {
        self.shared.settings.lock().refuses.insert(variable.into(), error(code, "HY000", message));
    }

    /// Whether metadata locks are instrumented.
    pub fn instrument_locks(&self, are: bool) {
        self.shared.settings.lock().instruments_locks = are;
    }

    /// Whether it has PS_CURRENT_THREAD_ID(), as from 8.0.16 on.
    pub fn know_threads(&self, knows: bool) {
        self.shared.settings.lock().knows_threads = knows;
    }

    /// Whether it takes SET_VAR hints; else it passes them over, as MySQL does those that it cannot take.
    pub fn take_hints(&self, takes: bool) {
        self.shared.settings.lock().takes_hints = takes;
    }

    /// The grants that SHOW GRANTS shows.
    pub fn grant(&self, grants: &[&str]) {
        self.shared.settings.lock().grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
    }

    /// The texts that a user sent so far.
    pub fn received(&self, user: &str) -> Vec<String> {
        let received = self.shared.received.lock();
        received.iter().filter(|(by, _)| by == user).map(|(_, text)| text.clone()).collect()
    }

    /// What was unexpected so far: a text that it does not know, with its answer. Forgotten then.
    pub fn take_unexpected(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.unexpected.lock())
    }
}

impl Drop for Mysql8 {
    fn drop(&mut self) {
        let unexpected = self.take_unexpected();
        if !std::thread::panicking() {
            assert!(unexpected.is_empty(), "the scripted MySQL 8 did not expect {unexpected:#?}");
        }
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    // No two CNs give the same ids.
    let mut id = u32::from(port) << 8;
    while let Ok((stream, from)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        id += 1;
        let shared = shared.clone();
        shared.ports.lock().insert(id, from.port());
        let gone = Gone { id, shared: shared.clone() };
        let connection = connections.spawn(async move {
            let gone = gone;
            let _ = stream.set_nodelay(true);
            let shared = gone.shared.clone();
            // A peer that leaves is no error of the test.
            let _ = Connection { stream, id: gone.id, shared, caps: Caps::NONE }.serve().await;
        });
        shared.connections.lock().insert(id, connection);
    }
}

/// A connection that ends, however it does.
struct Gone {
    id: u32,
    shared: Arc<Shared>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.shared.ports.lock().remove(&self.id);
        self.shared.sessions.lock().remove(&self.id);
    }
}

/// What MySQL 8.0 offers, without TLS, compression, query attributes and optional metadata. `LONG_PASSWORD` says that it
/// is not MariaDB.
fn caps() -> Caps {
    Caps(0x81FF_F7FF).without(Caps::SSL | Caps::COMPRESS)
}

struct Connection {
    stream: TcpStream,
    id: u32,
    shared: Arc<Shared>,
    caps: Caps,
}

impl Connection {
    async fn serve(&mut self) -> Result<()> {
        let Some((session, sequence)) = self.login().await? else { return Ok(()) };
        let session = Arc::new(Mutex::new(session));
        self.shared.sessions.lock().insert(self.id, session.clone());
        let welcome = reply::ok(&mut session.lock(), self.caps, 0, 0, 0);
        self.send(&[welcome], sequence).await?;
        loop {
            let (payload, _) = self.read().await?;
            if payload.first() == Some(&com::QUIT) {
                return Ok(());
            }
            let answer = self.answer(&mut session.lock(), &payload);
            self.send(&answer, 1).await?;
        }
    }

    /// Who is let in, and the number of the packet that says so.
    async fn login(&mut self) -> Result<Option<(Session, u8)>> {
        let salt: Vec<u8> = (0..20).map(|n| b'a' + ((self.id as u8).wrapping_add(n) % 26)).collect();
        // The default plugin of MySQL 8.
        self.send(&[greeting(self.id, &salt)], 0).await?;
        let (payload, mut sequence) = self.read().await?;
        let collation = payload.get(8).copied().unwrap_or_default();
        let handshake = Handshake::decode(&payload)?;
        self.caps = handshake.caps;
        let accounts = self.shared.settings.lock().accounts.clone();
        let account = accounts.iter().find(|account| account.name == handshake.user);
        let (plugin, password) = match account {
            Some(Account { plugin: Plugin::Native, password, .. }) => (NATIVE, password.as_str()),
            Some(Account { plugin: Plugin::CachingSha2, password, .. }) => (CACHING_SHA2, password.as_str()),
            None => (CACHING_SHA2, ""),
        };
        let mut answer = handshake.answer.clone();
        if handshake.plugin != plugin {
            let mut switch = vec![0xFE];
            switch.extend_from_slice(plugin.as_bytes());
            switch.push(0);
            switch.extend_from_slice(&salt);
            switch.push(0);
            self.send(&[switch], sequence.wrapping_add(1)).await?;
            (answer, sequence) = self.read().await?;
        }
        let expected = if plugin == NATIVE { native(password, &salt) } else { caching_sha2(password, &salt) };
        if account.is_none() || answer != expected {
            let text =
                format!("Access denied for user '{}'@'127.0.0.1' (using password: YES)", handshake.user);
            self.send(&[err_payload(&error(1045, "28000", &text))], sequence.wrapping_add(1)).await?;
            return Ok(None);
        }
        if plugin == CACHING_SHA2 {
            // fast_auth_success: the password is in the cache.
            self.send(&[vec![1, 3]], sequence.wrapping_add(1)).await?;
            sequence = sequence.wrapping_add(1);
        }
        let session = Session::new(self.id, &handshake.user, handshake.database, collation.into());
        Ok(Some((session, sequence.wrapping_add(1))))
    }

    fn answer(&self, session: &mut Session, payload: &[u8]) -> Vec<Vec<u8>> {
        let body = payload.get(1..).unwrap_or_default();
        let text = String::from_utf8_lossy(body).into_owned();
        let code = payload.first().copied().unwrap_or(0xFF);
        let caps = self.caps;
        let answered = match code {
            com::QUERY => {
                self.shared.received.lock().push((session.user.clone(), text.clone()));
                statements::run(session, &self.shared, &text, Vec::new())
            }
            com::PING => {
                session.state.warnings = 0;
                Ok(Reply::Ok { affected: 0, insert_id: 0 })
            }
            com::INIT_DB => {
                session.use_database(&text);
                Ok(Reply::Ok { affected: 0, insert_id: 0 })
            }
            com::RESET_CONNECTION => {
                session.reset();
                Ok(Reply::Ok { affected: 0, insert_id: 0 })
            }
            com::SET_OPTION => return vec![vec![0xFE, 0, 0, 2, 0]],
            com::STMT_CLOSE => {
                let id = body.first_chunk().map(|id| u32::from_le_bytes(*id)).unwrap_or_default();
                session.prepared.remove(&id);
                return Vec::new();
            }
            com::STMT_PREPARE => match statements::prepare(session, &text) {
                Ok((id, columns, params)) => return reply::prepared(session, caps, id, columns, params),
                Err(err) => Err(err),
            },
            com::STMT_EXECUTE => self.execute(session, body),
            _ => Err(error(1047, "08S01", "Unknown command")),
        };
        match answered {
            Ok(Reply::Ok { affected, insert_id }) => {
                vec![reply::ok(session, caps, 0, affected, insert_id)]
            }
            Ok(Reply::Rows(rows)) => reply::rows(session, caps, &rows, code == com::STMT_EXECUTE),
            Err(err) => {
                let is_strange = matches!(err.code, 1047 | 1064 | 1109 | 1146 | 1193 | 1238 | 1243 | 1305);
                if is_strange {
                    let name = crate::command::name(code);
                    self.shared.unexpected.lock().push(format!("{name} {text}: {err:?}"));
                }
                vec![err_payload(&err)]
            }
        }
    }

    /// COM_STMT_EXECUTE. Types hold until others are sent; the server that has none has no use for the values.
    fn execute(&self, session: &mut Session, body: &[u8]) -> session::Sql<Reply> {
        let malformed = || error(1210, "HY000", "Incorrect arguments to mysqld_stmt_execute");
        let mut at = Cursor::new(body);
        let id = at.u32().map_err(|_| malformed())?;
        let unknown = || error(1243, "HY000", &format!("Unknown prepared statement handler ({id})"));
        let statement = session.prepared.get_mut(&id).ok_or_else(unknown)?;
        let read = params(statement, &mut at).map_err(|_| malformed())?;
        let text = statement.text.clone();
        statements::run(session, &self.shared, &text, read)
    }

    async fn send(&mut self, payloads: &[Vec<u8>], first: u8) -> Result<()> {
        let (mut bytes, mut next) = (Vec::new(), first);
        for payload in payloads {
            for packet in split(payload, next) {
                next = packet.sequence.wrapping_add(1);
                bytes.extend(packet.bytes());
            }
        }
        Ok(self.stream.write_all(&bytes).await?)
    }

    async fn read(&mut self) -> Result<(Vec<u8>, u8)> {
        let mut payload = Vec::new();
        loop {
            let packet = Packet::read(&mut self.stream).await?;
            payload.extend_from_slice(&packet.payload);
            ensure!(payload.len() <= 64 << 20, "more than a scripted CN takes");
            if packet.payload.len() < MAX_PAYLOAD {
                return Ok((payload, packet.sequence));
            }
        }
    }
}

/// The values of an execute, behind its statement's id.
fn params(statement: &mut Statement, at: &mut Cursor<'_>) -> Result<Vec<Value>> {
    at.take(5)?;
    if statement.params == 0 {
        return Ok(Vec::new());
    }
    let nulls = at.take(statement.params.div_ceil(8))?;
    if at.u8()? == 1 {
        let pairs = at.take(2 * statement.params)?.chunks_exact(2);
        statement.types = Some(pairs.map(|pair| [pair[0], pair[1]]).collect());
    }
    let types = statement.types.as_ref().context("no types were ever sent")?;
    let mut values = Vec::new();
    for (n, [kind, sign]) in types.iter().enumerate() {
        values.push(match kind {
            _ if nulls[n / 8] & 1 << (n % 8) != 0 => Value::null(),
            8 if *sign == 0x80 => Value::of(Kind::Unsigned, Some(&at.int(8)?.to_string())),
            8 => Value::of(Kind::Int, Some(&at.int(8)?.cast_signed().to_string())),
            252..=254 => Value::text(at.lenenc_bytes()?, "utf8mb4_0900_ai_ci"),
            other => bail!("a parameter of type {other}"),
        });
    }
    Ok(values)
}

fn greeting(id: u32, salt: &[u8]) -> Vec<u8> {
    let mut payload = vec![10];
    payload.extend_from_slice(VERSION.as_bytes());
    payload.push(0);
    payload.extend(id.to_le_bytes());
    payload.extend_from_slice(&salt[..8]);
    payload.push(0);
    payload.extend(&caps().base().to_le_bytes()[..2]);
    // utf8mb4_0900_ai_ci
    payload.push(255);
    payload.extend(2_u16.to_le_bytes());
    payload.extend(&caps().base().to_le_bytes()[2..]);
    payload.push(21);
    payload.extend([0; 10]);
    payload.extend_from_slice(&salt[8..]);
    payload.push(0);
    payload.extend_from_slice(CACHING_SHA2.as_bytes());
    payload.push(0);
    payload
}
