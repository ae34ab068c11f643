//! A raw MySQL client: it logs in with chosen capabilities, sends any payload, and reads whole
//! responses packet for packet as `reference` delimits them.
//!
//! It does nothing by itself: no reconnect, no retry, no statement of its own.

use crate::caps::Caps;
use crate::command::{self, Execute, Param, com};
use crate::decode::ErrPacket;
use crate::login::{CACHING_SHA2, Greeting, Login, NATIVE, auth_switch, caching_sha2, native};
use crate::packet::{Packet, split};
use crate::reference::{Reference, Role, Turn};
use crate::response::{Prepared, Response};
use anyhow::{Context as _, Result, bail};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

/// No response in a test is longer; one that is would eat the machine's memory.
const MAX_RESPONSE: usize = 256 << 20;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToServer,
    /// From the server.
    ToClient,
}

/// A packet of a recorded session.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Which way it went.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
    /// What it was, for packets of the server.
    pub role: Option<Role>,
    /// Whose turn it was after it, for packets of the server.
    pub turn: Turn,
    /// The command that begins with it, for packets of the client.
    pub begins: Option<u8>,
}

/// A session of the raw client.
pub struct Raw {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// The server's greeting.
    pub greeting: Greeting,
    /// What both sides agreed to.
    pub caps: Caps,
    /// The server's packet that ended the login.
    pub welcome: Packet,
    /// Packets of the server in the login, the greeting included.
    pub login_packets: Vec<Packet>,
    salt: Vec<u8>,
    next_sequence: u8,
    pending: VecDeque<u8>,
    patience: Duration,
    recording: Option<Vec<Recorded>>,
}

async fn in_time<T>(patience: Duration, what: &str, work: impl Future<Output = io::Result<T>>) -> Result<T> {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: nothing for {patience:?}"),
    }
}

impl Raw {
    /// Connects and logs in.
    ///
    /// # Errors
    /// No connection; or the server refused, and then the error is (downcast) an `ErrPacket`.
    pub async fn login(address: SocketAddr, login: &Login) -> Result<Self> {
        let mut raw = Self::connect(address, login).await?;
        let response = login.response(&raw.greeting);
        raw.next_sequence = 1;
        raw.write(&response).await?;
        raw.authenticate(&login.password).await?;
        Ok(raw)
    }

    /// Connects and reads the greeting, and says nothing yet. The error is an `ErrPacket` if the
    /// server greets with one.
    ///
    /// # Errors
    /// No connection, or no greeting.
    pub async fn connect(address: SocketAddr, login: &Login) -> Result<Self> {
        let stream = in_time(login.patience, "connect", dial(address, login)).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(64 * 1024, reader);
        let packet = in_time(login.patience, "read the greeting", Packet::read(&mut reader)).await?;
        if packet.payload.first() == Some(&0xFF) {
            return Err(ErrPacket::decode(&packet.payload)?.into());
        }
        let greeting = Greeting::decode(&packet.payload)?;
        Ok(Self {
            reader,
            writer,
            caps: login.negotiate(greeting.caps),
            salt: greeting.salt.clone(),
            greeting,
            welcome: packet.clone(),
            login_packets: vec![packet],
            next_sequence: 1,
            pending: VecDeque::new(),
            patience: login.patience,
            recording: None,
        })
    }

    /// Reads up to the end of a login whose answer was sent.
    ///
    /// # Errors
    /// The server refused: an `ErrPacket`.
    pub async fn authenticate(&mut self, password: &str) -> Result<()> {
        loop {
            let packet = self.read_packet().await?;
            self.login_packets.push(packet.clone());
            match packet.payload.first() {
                Some(0x00) => {
                    self.welcome = packet;
                    return Ok(());
                }
                Some(0xFF) => return Err(ErrPacket::decode(&packet.payload)?.into()),
                // The password was in the cache of caching_sha2_password: an OK follows.
                Some(0x01) if packet.payload == [1, 3] => {}
                Some(0xFE) => self.answer_switch(&packet.payload, password).await?,
                _ => bail!("not a packet of a login: {:02x?}", packet.payload),
            }
        }
    }

    async fn answer_switch(&mut self, payload: &[u8], password: &str) -> Result<()> {
        let (plugin, salt) = auth_switch(payload)?;
        let answer = match plugin.as_str() {
            NATIVE => native(password, &salt),
            CACHING_SHA2 => caching_sha2(password, &salt),
            _ => bail!("the server asks for {plugin}"),
        };
        self.salt = salt;
        self.write(&answer).await
    }

    /// The id that the server gave in its greeting.
    pub fn connection_id(&self) -> u32 {
        self.greeting.connection_id
    }

    /// The client's own address.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.writer.local_addr()
    }

    /// What the server gave to sign last.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// A command was sent and not answered yet.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Records packets from now on.
    pub fn record(&mut self) {
        self.recording = Some(Vec::new());
    }

    /// What was recorded.
    pub fn recorded(&mut self) -> Vec<Recorded> {
        self.recording.take().unwrap_or_default()
    }

    /// How long any one packet is waited for.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    // === sending and receiving ===

    /// Sends a command, and does not wait for its response.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.next_sequence = 0;
        let first = payload.first().copied().unwrap_or(0xFF);
        if Reference::new(first, self.caps).turn() != Turn::Nobody {
            self.pending.push_back(first);
        }
        self.write_packets(payload, Some(first)).await
    }

    /// Receives the response to the oldest command that was sent and not answered. A file that the
    /// server asks for is refused (an empty upload).
    ///
    /// # Errors
    /// The connection failed, or the server sent what no server may.
    pub async fn receive(&mut self) -> Result<Response> {
        self.receive_with(&[], "").await
    }

    /// Receives the response to a command whose bytes were sent as they are.
    ///
    /// # Errors
    /// The connection failed, or the server sent what no server may.
    pub async fn receive_for(&mut self, command: u8) -> Result<Response> {
        self.pending.push_back(command);
        self.receive().await
    }

    /// As `receive`; a file that the server asks for consists of these chunks, and an authentication
    /// is answered with this password.
    ///
    /// # Errors
    /// The connection failed, or the server sent what no server may.
    pub async fn receive_with(&mut self, file: &[Vec<u8>], password: &str) -> Result<Response> {
        let command = self.pending.pop_front().context("no command waits for a response")?;
        let mut reference = Reference::new(command, self.caps);
        let mut packets = Vec::new();
        let mut size = 0;
        loop {
            match reference.turn() {
                Turn::Nobody => break,
                Turn::Client => {
                    match reference.roles().last() {
                        Some(Role::FileRequest) => self.upload(file).await?,
                        _ => self.answer_switch(last_payload(&packets), password).await?,
                    }
                    reference.client_done();
                }
                Turn::Server => {
                    let packet = self.read_packet().await.with_context(|| {
                        format!(
                            "in the response to {}, after {:?}",
                            command::name(command),
                            tail(reference.roles())
                        )
                    })?;
                    let role = reference.packet(&packet.payload)?;
                    self.note(Direction::ToClient, &packet, Some(role), reference.turn(), None);
                    size += packet.payload.len() + 4;
                    if size > MAX_RESPONSE {
                        bail!("a response to {} of over {MAX_RESPONSE} bytes", command::name(command));
                    }
                    packets.push(packet);
                }
            }
        }
        let shape = reference.shape();
        Ok(Response { command, caps: self.caps, packets, roles: reference.roles().to_vec(), shape })
    }

    async fn upload(&mut self, chunks: &[Vec<u8>]) -> Result<()> {
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            self.write(chunk).await?;
        }
        self.write(&[]).await
    }

    /// Sends a command and receives its response.
    ///
    /// # Errors
    /// The connection failed, or the server sent what no server may.
    pub async fn command(&mut self, payload: &[u8]) -> Result<Response> {
        self.send(payload).await?;
        self.receive().await
    }

    /// Sends several commands in one write and receives their responses.
    ///
    /// # Errors
    /// The connection failed, or the server sent what no server may.
    pub async fn pipeline(&mut self, payloads: &[Vec<u8>]) -> Result<Vec<Response>> {
        let mut bytes = Vec::new();
        for payload in payloads {
            let first = payload.first().copied().unwrap_or(0xFF);
            let answered = Reference::new(first, self.caps).turn();
            if answered != Turn::Nobody {
                self.pending.push_back(first);
            }
            for (i, packet) in split(payload, 0).into_iter().enumerate() {
                self.note(Direction::ToServer, &packet, None, Turn::Server, (i == 0).then_some(first));
                bytes.extend(packet.bytes());
            }
        }
        self.send_bytes(&bytes).await?;
        let mut responses = Vec::new();
        while !self.pending.is_empty() {
            responses.push(self.receive().await?);
        }
        Ok(responses)
    }

    /// Writes one payload as packets, numbered on from the last packet.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn write(&mut self, payload: &[u8]) -> Result<()> {
        self.write_packets(payload, None).await
    }

    async fn write_packets(&mut self, payload: &[u8], mut begins: Option<u8>) -> Result<()> {
        for packet in split(payload, self.next_sequence) {
            self.next_sequence = packet.sequence.wrapping_add(1);
            self.note(Direction::ToServer, &packet, None, Turn::Server, begins.take());
            self.send_bytes(&packet.bytes()).await?;
        }
        Ok(())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        in_time(self.patience, "write", self.writer.write_all(bytes)).await
    }

    /// Reads one packet, whatever it is.
    ///
    /// # Errors
    /// The connection failed or ended.
    pub async fn read_packet(&mut self) -> Result<Packet> {
        let packet = in_time(self.patience, "read a packet", Packet::read(&mut self.reader)).await?;
        self.next_sequence = packet.sequence.wrapping_add(1);
        Ok(packet)
    }

    fn note(
        &mut self,
        direction: Direction,
        packet: &Packet,
        role: Option<Role>,
        turn: Turn,
        begins: Option<u8>,
    ) {
        if let Some(recording) = &mut self.recording {
            recording.push(Recorded { direction, packet: packet.clone(), role, turn, begins });
        }
    }

    // === commands by name ===

    /// COM_QUERY.
    ///
    /// # Errors
    /// The connection failed. An ERR of the server is a response.
    pub async fn query(&mut self, sql: impl AsRef<[u8]>) -> Result<Response> {
        self.command(&command::query(sql)).await
    }

    /// COM_QUERY that must not fail.
    ///
    /// # Errors
    /// The connection failed, or the response was an ERR.
    pub async fn run(&mut self, sql: impl AsRef<[u8]>) -> Result<Response> {
        let sql = sql.as_ref();
        self.query(sql).await?.success().with_context(|| String::from_utf8_lossy(sql).into_owned())
    }

    /// COM_QUERY with one value in its answer.
    ///
    /// # Errors
    /// The connection failed, the response was an ERR, or has no value.
    pub async fn value(&mut self, sql: impl AsRef<[u8]>) -> Result<String> {
        self.run(sql).await?.value()
    }

    /// COM_QUERY that uploads a file of these chunks if the server asks for one.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn query_with_file(&mut self, sql: &str, file: &[Vec<u8>]) -> Result<Response> {
        self.send(&command::query(sql)).await?;
        self.receive_with(file, "").await
    }

    /// COM_STMT_PREPARE that must not fail.
    ///
    /// # Errors
    /// The connection failed, or the response was an ERR.
    pub async fn prepare(&mut self, sql: impl AsRef<[u8]>) -> Result<Prepared> {
        self.command(&command::prepare(sql)).await?.prepared()
    }

    /// COM_STMT_EXECUTE.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn execute(&mut self, statement: Prepared, params: &[Param]) -> Result<Response> {
        self.command(&command::execute(statement.id, params, Execute::default())).await
    }

    /// COM_PING.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn ping(&mut self) -> Result<Response> {
        self.command(&[com::PING]).await
    }

    /// COM_CHANGE_USER; an authentication switch is answered.
    ///
    /// # Errors
    /// The connection failed. A refusal is a response.
    pub async fn change_user(&mut self, login: &Login) -> Result<Response> {
        self.send(&login.change_user(self.caps, &self.salt)).await?;
        self.receive_with(&[], &login.password).await
    }

    // === ending ===

    /// COM_QUIT, and waits for the server to close.
    ///
    /// # Errors
    /// The server did not close.
    pub async fn quit(mut self) -> Result<()> {
        self.send(&[com::QUIT]).await?;
        self.closed().await
    }

    /// Waits until the server closes, and expects nothing before that.
    ///
    /// # Errors
    /// A packet came instead, or nothing at all.
    pub async fn closed(&mut self) -> Result<()> {
        match tokio::time::timeout(self.patience, Packet::read(&mut self.reader)).await {
            Ok(Ok(packet)) => bail!("a packet instead of a close: {:02x?}", packet.payload),
            Ok(Err(_)) => Ok(()),
            Err(_) => bail!("not closed for {:?}", self.patience),
        }
    }

    /// Waits until the server closes. Where it has a last word, that is an ERR.
    ///
    /// # Errors
    /// Another packet came, or nothing at all.
    pub async fn ends(&mut self) -> Result<()> {
        match self.read_packet().await {
            Ok(packet) if packet.payload.first() == Some(&0xFF) => self.closed().await,
            Ok(packet) => bail!("a packet: {:02x?}", packet.payload),
            Err(error) if format!("{error:#}").contains("nothing for") => bail!("it is not closed"),
            Err(_) => Ok(()),
        }
    }

    /// Closes the connection with a reset.
    ///
    /// # Errors
    /// The socket was gone.
    pub fn abort(self) -> Result<()> {
        let stream = self.reader.into_inner().reunite(self.writer)?;
        stream.set_zero_linger()?;
        drop(stream);
        Ok(())
    }
}

async fn dial(address: SocketAddr, login: &Login) -> io::Result<TcpStream> {
    let Some(from) = login.from else { return TcpStream::connect(address).await };
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address).await
}

fn last_payload(packets: &[Packet]) -> &[u8] {
    packets.last().map(|packet| packet.payload.as_slice()).unwrap_or_default()
}

fn tail(roles: &[Role]) -> &[Role] {
    &roles[roles.len().saturating_sub(8)..]
}
