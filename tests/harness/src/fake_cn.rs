//! A fake CN: the server's side of the protocol, scripted. It can hang, close and refuse wherever a
//! real server could, and where none ever would, and send what it says in pieces of any size.
//!
//! It records what it received. What its script does not answer is unexpected: the connection is
//! closed, and the test panics when the fake is dropped.

mod answer;

pub(crate) use answer::err_payload;
pub use answer::{Answer, End, error};

use crate::caps::Caps;
use crate::command::{self, com};
use crate::decode::ErrPacket;
use crate::login::{Handshake, NATIVE, native};
use crate::packet::{Packet, split};
use answer::{greeting, housekeeping, ok, usual};
use anyhow::{Result, bail};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What happens to a connection up to the end of its login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// It is let in, with the password right.
    #[default]
    Open,
    /// Accepted, and nothing more is ever said.
    Silent,
    /// So many bytes of the greeting, then nothing.
    SilentInGreeting(usize),
    /// The greeting, and no answer to the login.
    SilentAtLogin,
    /// Closed instead of a greeting.
    Closed,
    /// The greeting; closed when the login was read.
    ClosedAtLogin,
    /// An ERR instead of a greeting: too many connections, host blocked.
    Refused(ErrPacket),
    /// An ERR in answer to the login.
    RefusedLogin(ErrPacket),
    /// Let in; closed right behind the OK.
    ClosedAfterLogin,
    /// Let in; nothing is answered any more.
    SilentAfterLogin,
}

/// A command that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The connection it came on: 1 for the first.
    pub connection: u32,
    /// Who had logged in on it.
    pub user: String,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Received {
    /// The command byte.
    pub fn command(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0xFF)
    }

    /// What is behind the command byte, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.payload.get(1..).unwrap_or_default()).into_owned()
    }
}

/// Answers a command; `None` if it is unexpected.
pub type Script = Arc<dyn Fn(&Received) -> Option<Answer> + Send + Sync>;

struct Settings {
    door: Door,
    piece: Option<usize>,
    greeting_caps: Caps,
    passwords: HashMap<String, String>,
    script: Script,
}

#[derive(Default)]
struct Record {
    received: Vec<Received>,
    logins: Vec<Handshake>,
    accepted: u32,
    open: usize,
    unexpected: Vec<String>,
}

/// A running fake. It ends with the value.
pub struct FakeCn {
    address: SocketAddr,
    settings: Arc<Mutex<Settings>>,
    record: Arc<Mutex<Record>>,
    // Ends every task when dropped.
    _tasks: JoinSet<()>,
}

impl FakeCn {
    /// A fake that lets everybody in and answers by this script. COM_QUIT, and COM_PING,
    /// COM_RESET_CONNECTION and COM_CHANGE_USER that the script does not answer, are seen to.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(script: impl Fn(&Received) -> Option<Answer> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let settings = Arc::new(Mutex::new(Settings {
            door: Door::Open,
            piece: None,
            greeting_caps: usual_caps(),
            passwords: HashMap::new(),
            script: Arc::new(script),
        }));
        let record = Arc::new(Mutex::new(Record::default()));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, settings.clone(), record.clone()));
        Ok(Self { address, settings, record, _tasks: tasks })
    }

    /// A fake that answers what a proxy asks a CN: it may SET, DO and KILL, reads variables as empty,
    /// has all grants, and finds these accounts in `mysql.global_priv`. The rest is for the script.
    ///
    /// # Errors
    /// No port is free.
    pub async fn behind_shunt(
        accounts: &[(&str, &str)],
        script: impl Fn(&Received) -> Option<Answer> + Send + Sync + 'static,
    ) -> Result<Self> {
        let passwords: HashMap<String, String> =
            accounts.iter().map(|(user, password)| ((*user).into(), (*password).into())).collect();
        let known = passwords.clone();
        let fake =
            Self::start(move |received| script(received).or_else(|| housekeeping(received, &known))).await?;
        fake.settings.lock().passwords = passwords;
        Ok(fake)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happens to connections that are accepted from now on.
    pub fn door(&self, door: Door) {
        self.settings.lock().door = door;
    }

    /// Writes in pieces of so many bytes from now on, each in a write of its own.
    pub fn in_pieces(&self, bytes: usize) {
        self.settings.lock().piece = Some(bytes.max(1));
    }

    /// Offers these capabilities to connections that are accepted from now on.
    pub fn offer(&self, caps: Caps) {
        self.settings.lock().greeting_caps = caps;
    }

    /// The commands that arrived so far, COM_QUIT included.
    pub fn received(&self) -> Vec<Received> {
        self.record.lock().received.clone()
    }

    /// The logins that were sent so far.
    pub fn logins(&self) -> Vec<Handshake> {
        self.record.lock().logins.clone()
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> u32 {
        self.record.lock().accepted
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.record.lock().open
    }
}

impl Drop for FakeCn {
    fn drop(&mut self) {
        let unexpected = std::mem::take(&mut self.record.lock().unexpected);
        if !std::thread::panicking() {
            assert!(unexpected.is_empty(), "the fake CN did not expect {unexpected:?}");
        }
    }
}

/// What MariaDB offers, without TLS and compression.
fn usual_caps() -> Caps {
    Caps(0x81FF_F7FE).without(Caps::SSL | Caps::COMPRESS)
}

async fn accept(listener: TcpListener, settings: Arc<Mutex<Settings>>, record: Arc<Mutex<Record>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let number = {
            let mut record = record.lock();
            record.accepted += 1;
            record.open += 1;
            record.accepted
        };
        let connection = Connection { stream, number, settings: settings.clone(), record: record.clone() };
        connections.spawn(connection.serve());
    }
}

struct Connection {
    stream: TcpStream,
    number: u32,
    settings: Arc<Mutex<Settings>>,
    record: Arc<Mutex<Record>>,
}

/// A connection that is over, and nothing is wrong.
enum Over {
    Closed,
    Reset,
}

impl Connection {
    async fn serve(mut self) {
        let _ = self.stream.set_nodelay(true);
        // A peer that leaves is no error of the test.
        if let Ok(Over::Reset) = self.run().await {
            let _ = self.stream.set_zero_linger();
        }
        self.record.lock().open -= 1;
    }

    async fn run(&mut self) -> Result<Over> {
        let door = self.settings.lock().door.clone();
        let Some(handshake) = self.login(&door).await? else { return Ok(Over::Closed) };
        match door {
            Door::ClosedAfterLogin => return Ok(Over::Closed),
            Door::SilentAfterLogin => return self.hang().await,
            _ => {}
        }
        loop {
            let (payload, sequence) = self.read().await?;
            let received = Received { connection: self.number, user: handshake.user.clone(), payload };
            self.record.lock().received.push(received.clone());
            if received.command() == com::QUIT {
                return Ok(Over::Closed);
            }
            let script = self.settings.lock().script.clone();
            let Some(answer) = script(&received).or_else(|| usual(&received)) else {
                let what = format!("{} {:?}", command::name(received.command()), received.text());
                self.record.lock().unexpected.push(what);
                return Ok(Over::Closed);
            };
            if let Some(over) = self.answer(&answer, handshake.caps, sequence).await? {
                return Ok(over);
            }
        }
    }

    async fn login(&mut self, door: &Door) -> Result<Option<Handshake>> {
        let salt: Vec<u8> = (0..20).map(|i| b'a' + ((self.number as u8).wrapping_add(i) % 26)).collect();
        let greeting = greeting(self.number, &salt, self.settings.lock().greeting_caps);
        match door {
            Door::Closed => return Ok(None),
            Door::Silent => return self.hang().await.map(|_| None),
            Door::SilentInGreeting(bytes) => {
                let whole = Packet { sequence: 0, payload: greeting }.bytes();
                self.write(&whole[..(*bytes).min(whole.len())]).await?;
                return self.hang().await.map(|_| None);
            }
            Door::Refused(err) => {
                self.send(&err_payload(err), 0).await?;
                return Ok(None);
            }
            _ => self.send(&greeting, 0).await?,
        }
        let (payload, mut sequence) = self.read().await?;
        let handshake = Handshake::decode(&payload)?;
        self.record.lock().logins.push(handshake.clone());
        let mut answer = handshake.answer.clone();
        match door {
            Door::ClosedAtLogin => return Ok(None),
            Door::SilentAtLogin => return self.hang().await.map(|_| None),
            Door::RefusedLogin(err) => {
                self.send(&err_payload(err), sequence.wrapping_add(1)).await?;
                return Ok(None);
            }
            _ => {}
        }
        if handshake.plugin != NATIVE && handshake.caps.has(Caps::PLUGIN_AUTH) {
            let mut switch = vec![0xFE];
            switch.extend_from_slice(NATIVE.as_bytes());
            switch.push(0);
            switch.extend_from_slice(&salt);
            switch.push(0);
            self.send(&switch, sequence.wrapping_add(1)).await?;
            (answer, sequence) = self.read().await?;
        }
        if !self.admits(&handshake.user, &answer, &salt) {
            let text =
                format!("Access denied for user '{}'@'127.0.0.1' (using password: YES)", handshake.user);
            self.send(&err_payload(&error(1045, "28000", &text)), sequence.wrapping_add(1)).await?;
            return Ok(None);
        }
        self.send(&ok(0x00), sequence.wrapping_add(1)).await?;
        Ok(Some(handshake))
    }

    /// Everybody is let in where no account is known.
    fn admits(&self, user: &str, answer: &[u8], salt: &[u8]) -> bool {
        let settings = self.settings.lock();
        let known = settings.passwords.get(user).map(|password| native(password, salt) == answer);
        known.unwrap_or(settings.passwords.is_empty())
    }

    /// Sends an answer; whether the connection is over then.
    async fn answer(&mut self, answer: &Answer, caps: Caps, sequence: u8) -> Result<Option<Over>> {
        let mut bytes = Vec::new();
        let mut next = sequence.wrapping_add(1);
        for payload in answer.payloads(caps) {
            for packet in split(&payload, next) {
                next = packet.sequence.wrapping_add(1);
                bytes.extend(packet.bytes());
            }
        }
        match answer {
            Answer::After(delay, _) => tokio::time::sleep(*delay).await,
            Answer::Cut(_, length, end) => {
                bytes.truncate(*length);
                self.write(&bytes).await?;
                return match end {
                    End::Hang => self.hang().await.map(Some),
                    End::Close => Ok(Some(Over::Closed)),
                    End::Reset => Ok(Some(Over::Reset)),
                };
            }
            _ => {}
        }
        self.write(&bytes).await?;
        Ok(None)
    }

    /// Says nothing until the peer leaves, and takes what it sends.
    async fn hang(&mut self) -> Result<Over> {
        let mut bytes = [0; 4096];
        while self.stream.read(&mut bytes).await? > 0 {}
        Ok(Over::Closed)
    }

    async fn send(&mut self, payload: &[u8], first: u8) -> Result<()> {
        for packet in split(payload, first) {
            self.write(&packet.bytes()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let piece = self.settings.lock().piece.unwrap_or(usize::MAX);
        for piece in bytes.chunks(piece) {
            self.stream.write_all(piece).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Reads a whole payload, and the number of its last packet.
    async fn read(&mut self) -> Result<(Vec<u8>, u8)> {
        let mut payload = Vec::new();
        loop {
            let packet = Packet::read(&mut self.stream).await?;
            payload.extend_from_slice(&packet.payload);
            if payload.len() > 256 << 20 {
                bail!("more than a fake CN takes");
            }
            if packet.payload.len() < crate::packet::MAX_PAYLOAD {
                return Ok((payload, packet.sequence));
            }
        }
    }
}
