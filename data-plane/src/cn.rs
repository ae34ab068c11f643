//! A connection to a CN, from dialling to the first answer after the login.
//!
//! No connection is ever dropped inside its handshake: a server counts that against the host that it came from, and
//! refuses the host after `max_connect_errors` of them. A [`Greeted`] that is not used to its end is brought to an
//! end in the background ([`finish`]).
//!
//! Must not know: clients' sessions, why this CN.

pub(crate) mod converse;
pub(crate) mod finish;
pub(crate) mod proxy_header;

use crate::socket::{By, Socket};
use crate::wire::{Packet, PacketStream, Peer, ReadError};
use finish::Unfinished;
use mysql_wire::capability::{self, Capabilities};
use mysql_wire::command;
use mysql_wire::greeting::Greeting;
use mysql_wire::login::{Attributes, AuthSwitch, Login, MAX_LOGIN};
use mysql_wire::native::{self, Stage1};
use mysql_wire::packet::{self, Fields, Malformed};
use mysql_wire::reply;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// The longest packet that a CN may answer a login or a question with.
const MAX_ANSWER: usize = 1 << 20;

/// The most rows that an answer to a question of ours may have.
const MAX_ROWS: usize = 1000;

/// A plugin that no server has: a server must name its own, with a salt of its own.
const NO_PLUGIN: &[u8] = b"shunt_relays_the_login";

/// Why a CN could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CnError {
    /// It could not be connected to.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// It is down as far as is known, and was not asked.
    #[error("is down")]
    Avoided,
    /// It did not answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It greeted, and did not let the login in within this time: it may only be busy.
    #[error("no answer to a login within {0:?}")]
    Slow(Duration),
    /// The connection ended.
    #[error("connection: {0}")]
    Read(#[from] ReadError),
    /// The connection ended.
    #[error("connection: {0}")]
    Write(#[from] io::Error),
    /// It says what the protocol does not allow.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It lacks something that Shunt cannot do without.
    #[error("server lacks capabilities {0:#x}")]
    Incapable(Capabilities),
    /// It refused.
    #[error("error {} ({}): {}", .0.code, String::from_utf8_lossy(&.0.sqlstate), String::from_utf8_lossy(&.0.message))]
    Refused(reply::Err),
    /// It refused after it had asked for an answer that only the client can give.
    #[error("refused by a plugin that only the client can answer: {}", String::from_utf8_lossy(&.0.message))]
    OnlyTheClient(reply::Err),
}

impl CnError {
    /// Whether another CN of the match is to be tried: the fault is this CN's, not the login's.
    pub(crate) fn is_of_the_cn(&self) -> bool {
        match self {
            Self::Refused(err) | Self::OnlyTheClient(err) => is_cn_fault(err),
            Self::Avoided
            | Self::Connect(_)
            | Self::Timeout(_)
            | Self::Slow(_)
            | Self::Read(_)
            | Self::Write(_)
            | Self::Malformed(_)
            | Self::Incapable(_) => true,
        }
    }

    /// Whether nobody is to be sent there for now. What a CN says to one login (an `init_connect` that fails, 1184)
    /// sends that login elsewhere and concerns no other.
    pub(crate) fn puts_cn_down(&self) -> bool {
        match self {
            Self::Refused(err) | Self::OnlyTheClient(err) => cannot_serve(err),
            // This machine's own: no files, no ports, no memory.
            Self::Connect(error) if matches!(error.raw_os_error(), Some(12 | 23 | 24 | 99 | 105)) => false,
            // Only a question tells whether it is.
            Self::Slow(_) => false,
            other => other.is_of_the_cn(),
        }
    }
}

impl CnError {
    /// Whether the user with this password is not let in, now or later: a wrong password, an account that is locked or
    /// whose password has expired, or that another plugin sees to. All else may pass, too many connections of one user too.
    pub(crate) fn denies(&self) -> bool {
        match self {
            Self::Refused(err) => matches!(err.code, 1045 | 1251 | 1524 | 1698 | 1862 | 4151),
            Self::OnlyTheClient(_) => true,
            _ => false,
        }
    }
}

/// Too many connections, not ready (a Galera node out of its primary component), shutting down, host blocked.
pub(crate) const fn cannot_serve(err: &reply::Err) -> bool {
    matches!(err.code, 1040 | 1047 | 1053 | 1129)
}

/// The CN cannot serve anybody, or ended the connection with an error.
fn is_cn_fault(err: &reply::Err) -> bool {
    // 1043 is about the login that was sent: another CN would say the same, and count it against this host.
    cannot_serve(err) || (err.is_connection_error() && err.code != 1043)
}

/// Who logs in to a CN, and with what.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) user: Vec<u8>,
    pub(crate) database: Option<Vec<u8>>,
    pub(crate) collation: u8,
    /// What the client asked for.
    pub(crate) capabilities: Capabilities,
    pub(crate) max_packet: u32,
    pub(crate) attributes: Attributes,
}

/// What is known of a password.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Password {
    /// There is none.
    Empty,
    /// Its first hash, which is enough.
    Known(Stage1),
}

impl Password {
    fn answer(&self, salt: &[u8]) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::Known(stage1) => stage1.answer(salt).to_vec(),
        }
    }
}

/// Sets what every connection of Shunt has: no delay, and a bound on silence.
pub(crate) fn set_options(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// A CN that greeted.
pub(crate) struct Greeted {
    /// Taken by what brings the handshake to its end.
    unfinished: Option<Unfinished>,
    pub(crate) greeting: Greeting,
}

/// Connects to the CN at `address`, and reads its greeting, within `limit`. `client` is told to it by a PROXY header.
///
/// # Errors
/// [`CnError`]; an ERR in place of the greeting is [`CnError::Refused`].
pub(crate) async fn dial(
    address: &str,
    limit: Duration,
    client: Option<(SocketAddr, SocketAddr)>,
    by: By,
) -> Result<Greeted, CnError> {
    let connect = async {
        let mut socket = Socket::connect(address, by).await.map_err(CnError::Connect)?;
        set_options(&socket).map_err(CnError::Connect)?;
        if let Some((source, destination)) = client {
            socket.write_all(&proxy_header::v2(source, destination)).await?;
        }
        let mut unfinished = Unfinished::before_greeting(PacketStream::new(socket));
        let packet = unfinished.read(MAX_ANSWER).await?;
        if packet.payload.first() == Some(&reply::ERR) {
            unfinished.end();
            return Err(CnError::Refused(reply::Err::read(&packet.payload)?));
        }
        let greeting = Greeting::read(&packet.payload)?;
        unfinished.greeted();
        let lacks = capability::REQUIRED_OF_CN & !greeting.capabilities;
        if lacks != 0 {
            return Err(CnError::Incapable(lacks));
        }
        Ok(Greeted { unfinished: Some(unfinished), greeting })
    };
    tokio::time::timeout(limit, connect).await.map_err(|_| CnError::Timeout(limit))?
}

/// A CN that let someone in.
#[derive(Debug)]
pub(crate) struct CnConnection {
    pub(crate) stream: PacketStream,
    pub(crate) greeting: Greeting,
    /// The payload of the OK that let it in.
    pub(crate) ok: Vec<u8>,
}

impl Greeted {
    /// Logs in with a password that is known.
    ///
    /// # Errors
    /// [`CnError`]; [`CnError::OnlyTheClient`] where the CN chose an account of another plugin.
    pub(crate) async fn log_in(
        mut self,
        identity: &Identity,
        password: Password,
    ) -> Result<CnConnection, CnError> {
        let mut unfinished = self.unfinished.take().expect("taken only here and in relay_login");
        let login = self.login(identity, password.answer(&self.greeting.salt), native::PLUGIN.to_vec());
        unfinished.write(1, &login).await?;
        let mut asked_for_more = false;
        loop {
            let packet = unfinished.read(MAX_ANSWER).await?;
            match packet.payload.first() {
                Some(&reply::OK) => return Ok(self.logged_in(unfinished, packet)),
                Some(&reply::ERR) => {
                    unfinished.end();
                    let err = reply::Err::read(&packet.payload)?;
                    let refused = if asked_for_more { CnError::OnlyTheClient } else { CnError::Refused };
                    return Err(refused(err));
                }
                Some(&0xFE) => {
                    let switch = AuthSwitch::read(&packet.payload)?;
                    // An account may have several plugins, and the server asks for each until one fits.
                    let answer = if switch.plugin == native::PLUGIN {
                        password.answer(&switch.data)
                    } else {
                        asked_for_more = true;
                        Vec::new()
                    };
                    unfinished.write(packet.seq.wrapping_add(1), &answer).await?;
                }
                _ => unfinished.write(packet.seq.wrapping_add(1), &[]).await?,
            }
        }
    }

    fn login(&self, identity: &Identity, auth: Vec<u8>, plugin: Vec<u8>) -> Vec<u8> {
        Login {
            capabilities: capability::for_cn(identity.capabilities, self.greeting.capabilities),
            max_packet: identity.max_packet,
            collation: identity.collation,
            user: identity.user.clone(),
            auth,
            database: identity.database.clone(),
            plugin: Some(plugin),
            attributes: identity.attributes.clone(),
        }
        .write()
    }

    fn logged_in(&self, unfinished: Unfinished, packet: Packet) -> CnConnection {
        CnConnection { stream: unfinished.into_stream(), greeting: self.greeting.clone(), ok: packet.payload }
    }

    /// Lets the client log in itself: what the CN asks goes to the client, what the client answers to the CN.
    /// `seq` is the sequence number of the next packet to the client, and is kept up to date. `with_password` says
    /// whether the client sent one, which shows in the CN's refusal. Where the CN asked for a native password, gives
    /// its salt and the client's answer, from which a hash may be had. The CN's first word must come within `limit`;
    /// the rest may take as long as people do.
    ///
    /// # Errors
    /// [`RelayError`]: whose fault it is.
    pub(crate) async fn relay_login(
        mut self,
        identity: &Identity,
        with_password: bool,
        client: &mut Peer<'_>,
        seq: &mut u8,
        limit: Duration,
    ) -> Result<(CnConnection, Option<NativeAnswer>), RelayError> {
        let mut native_answer = None;
        let mut unfinished = self.unfinished.take().expect("taken only here and in log_in");
        let auth = if with_password { vec![b'x'; native::SALT] } else { Vec::new() };
        let login = self.login(identity, auth, NO_PLUGIN.to_vec());
        unfinished.write(1, &login).await.map_err(CnError::from)?;
        let first = tokio::time::timeout(limit, unfinished.read(MAX_ANSWER)).await;
        let mut packet = first.map_err(|_| CnError::Slow(limit))?.map_err(CnError::from)?;
        loop {
            match packet.payload.first() {
                Some(&reply::OK) => return Ok((self.logged_in(unfinished, packet), native_answer)),
                Some(&reply::ERR) => {
                    unfinished.end();
                    let err = reply::Err::read(&packet.payload).map_err(CnError::from)?;
                    return Err(CnError::Refused(err).into());
                }
                _ => {
                    client.write(*seq, &packet.payload).await.map_err(|e| RelayError::Client(e.into()))?;
                    *seq = seq.wrapping_add(1);
                    // The fast path of caching_sha2_password: an OK follows without an answer.
                    if packet.payload == [1, 3] {
                        packet = unfinished.read(MAX_ANSWER).await.map_err(CnError::from)?;
                        continue;
                    }
                    let mut answer = client.read(MAX_LOGIN).await.map_err(RelayError::Client)?;
                    *seq = answer.seq.wrapping_add(1);
                    let salt = native_salt(&packet.payload);
                    if is_no_answer(salt.is_some(), &answer.payload) {
                        answer.payload = vec![b'x'; native::SALT];
                    }
                    native_answer = salt.map(|salt| (salt, answer.payload.clone()));
                    unfinished
                        .write(packet.seq.wrapping_add(1), &answer.payload)
                        .await
                        .map_err(CnError::from)?;
                    packet = unfinished.read(MAX_ANSWER).await.map_err(CnError::from)?;
                }
            }
        }
    }
}

/// A salt, and the answer to it.
pub(crate) type NativeAnswer = (Vec<u8>, Vec<u8>);

/// The salt of an auth switch to the native plugin.
fn native_salt(payload: &[u8]) -> Option<Vec<u8>> {
    let switch = AuthSwitch::read(payload).ok()?;
    (switch.plugin == native::PLUGIN).then_some(switch.data)
}

/// The longest answer that any plugin's client gives.
const MAX_AUTH: usize = 4096;

/// Whether a server would take `answer` for a broken handshake and count it against this host, and not for a wrong
/// password.
const fn is_no_answer(native: bool, answer: &[u8]) -> bool {
    (native && !matches!(answer.len(), 0 | native::SALT)) || answer.len() > MAX_AUTH
}

/// Why a relayed login ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// By the client.
    #[error("client: {0}")]
    Client(ReadError),
    /// By the CN.
    #[error(transparent)]
    Cn(#[from] CnError),
}

/// A text column; `None` is NULL.
pub(crate) type Column = Option<Vec<u8>>;

/// Questions on a connection on which no command is under way.
pub(crate) struct Asker<'a> {
    peer: Peer<'a>,
    deprecate_eof: bool,
    /// The number of the packet that comes next.
    next: u8,
}

impl CnConnection {
    /// Asks on this connection, which deprecated EOF where `deprecate_eof` says so.
    pub(crate) const fn ask(&mut self, deprecate_eof: bool) -> Asker<'_> {
        Asker { peer: self.stream.peer(), deprecate_eof, next: 1 }
    }

    /// Says goodbye. The CN closes.
    pub(crate) async fn quit(mut self) {
        // A CN that is gone needs no goodbye.
        let _ = self.stream.write(0, &[command::QUIT]).await;
    }
}

impl<'a> Asker<'a> {
    /// Asks on a session's connection.
    pub(crate) const fn new(peer: Peer<'a>, deprecate_eof: bool) -> Self {
        Self { peer, deprecate_eof, next: 1 }
    }

    /// Sends a command whose response is one packet. An ERR is an error.
    ///
    /// # Errors
    /// [`CnError`].
    pub(crate) async fn command(&mut self, payload: &[u8]) -> Result<Vec<u8>, CnError> {
        self.peer.write(0, payload).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Vec<u8>, CnError> {
        let packet = self.peer.read(MAX_ANSWER).await?;
        if packet.payload.first() == Some(&reply::ERR) {
            return Err(CnError::Refused(reply::Err::read(&packet.payload)?));
        }
        Ok(packet.payload)
    }

    /// Runs `sql`, which has no result set.
    ///
    /// # Errors
    /// [`CnError`].
    pub(crate) async fn execute(&mut self, sql: &str) -> Result<Vec<u8>, CnError> {
        self.command(&query(sql)).await
    }

    /// Runs `statements`, which have no result sets and are sent in one go. Their answers are looked at by `may_fail`,
    /// which says of an ERR whether it is to be passed over. Gives the payload of the first OK, where that was the
    /// first statement's.
    ///
    /// # Errors
    /// [`CnError`]; of an ERR the first that may not be.
    pub(crate) async fn run(
        &mut self,
        statements: &[&str],
        may_fail: impl Fn(&reply::Err) -> bool,
    ) -> Result<Option<Vec<u8>>, CnError> {
        let mut bytes = Vec::new();
        for sql in statements {
            packet::write(&mut bytes, 0, &query(sql));
        }
        self.peer.socket.write_all(&bytes).await?;
        let mut first = None;
        for n in 0..statements.len() {
            match self.answer().await {
                Err(CnError::Refused(err)) if may_fail(&err) => {}
                Err(error) => return Err(error),
                Ok(payload) if n == 0 => first = Some(payload),
                Ok(_) => {}
            }
        }
        Ok(first)
    }

    /// Runs `sql`, whose one result set is short.
    ///
    /// # Errors
    /// [`CnError`].
    pub(crate) async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Column>>, CnError> {
        self.peer.write(0, &query(sql)).await?;
        let first = self.answer().await?;
        let columns = Fields::new(&first).lenenc("column count")?;
        if columns == 0 {
            // An OK: there is no result set.
            return Ok(Vec::new());
        }
        let behind = u64::from(!self.deprecate_eof);
        for _ in 0..columns.saturating_add(behind) {
            self.answer().await?;
        }
        let mut rows = Vec::new();
        loop {
            let packet = self.answer().await?;
            // A row that begins so is of 16 MiB or more, which is no answer to a question of ours.
            if packet.first() == Some(&reply::EOF) {
                return Ok(rows);
            }
            let mut fields = Fields::new(&packet);
            let row = (0..columns).map(|_| column(&mut fields)).collect::<Result<_, _>>()?;
            if rows.len() < MAX_ROWS {
                rows.push(row);
            }
        }
    }
}

/// The next column of a row of text.
fn column(fields: &mut Fields<'_>) -> Result<Column, Malformed> {
    if fields.rest().first() == Some(&0xFB) {
        fields.bytes(1, "NULL")?;
        return Ok(None);
    }
    Ok(Some(fields.lenenc_bytes("column")?.to_vec()))
}

/// The payload of a COM_QUERY.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    let mut payload = vec![command::QUERY];
    payload.extend_from_slice(sql.as_bytes());
    payload
}
