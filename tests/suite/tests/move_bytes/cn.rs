//! A CN that says its answers to a client byte by byte, as far as a test lets it, and notes what its client asked. What it
//! says comes of a real server, and so does whatever Shunt asks for itself.
//!
//! Must not know: when a session moves.

use crate::conversation::{Kind, kind};
use anyhow::{Context as _, Result};
use parking_lot::{Mutex, MutexGuard};
use shunt_harness::login::Handshake;
use shunt_harness::packet::Packet;
use shunt_harness::reference::Reference;
use shunt_harness::{Caps, Turn, com};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a new session is asked last before its statements are prepared.
const LAST_QUESTION: &str = "SELECT @@sql_big_selects";

/// What both CNs of a lane know, and the test: of the commands that were sent in one go, in the order of their coming.
#[derive(Default)]
struct Note {
    /// Its client has a statement prepared.
    has_statement: bool,
    /// What of a statement's life its client says now: Shunt may say the rest, for itself.
    says: Option<Kind>,
    /// What the client asked, of either CN.
    asked: Vec<Vec<u8>>,
}

pub(crate) struct Stage {
    user: String,
    note: Mutex<Note>,
    /// So many bytes of the answers may be said.
    pub(crate) may: watch::Sender<usize>,
    /// So many were, and so many answers are whole.
    pub(crate) said: watch::Sender<(usize, usize)>,
    /// So often a CN was made ready for the session.
    pub(crate) ready: watch::Sender<usize>,
}

impl Stage {
    pub(crate) fn new(user: &str) -> Arc<Self> {
        Arc::new(Self {
            user: user.to_owned(),
            note: Mutex::default(),
            may: watch::Sender::new(usize::MAX),
            said: watch::Sender::new((0, 0)),
            ready: watch::Sender::new(0),
        })
    }

    fn note(&self) -> MutexGuard<'_, Note> {
        self.note.lock()
    }

    /// More is asked; the client has a statement prepared, or has not, and prepares it or closes it. Gives what it asked
    /// before.
    pub(crate) fn begin(&self, has_statement: bool, says: Option<Kind>, may: usize) -> Vec<Vec<u8>> {
        self.said.send_replace((0, 0));
        self.may.send_replace(may);
        let mut note = self.note();
        (note.has_statement, note.says) = (has_statement, says);
        std::mem::take(&mut note.asked)
    }

    /// What the client asked since.
    pub(crate) fn asked(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.note().asked)
    }

    /// Whether `payload` is the client's.
    fn is_clients(&self, payload: &[u8]) -> bool {
        let mut note = self.note();
        let is_new = |asked: &[Vec<u8>]| !asked.iter().any(|one| one.first() == payload.first());
        let is_clients = match kind(payload) {
            Kind::Own => true,
            // Shunt prepares it again, and closes it, on a new CN: later than its client does.
            // And closes one that was prepared ahead of the move and is bound to something else since, or gone.
            said @ (Kind::Prepare | Kind::Close) => note.says == Some(said) && is_new(&note.asked),
            Kind::Other => false,
        };
        if is_clients {
            let mut payload = payload.to_vec();
            if matches!(payload.first(), Some(&com::STMT_EXECUTE | &com::STMT_CLOSE)) {
                // Each CN has a number of its own for a statement.
                payload[1..5].fill(0);
            }
            note.asked.push(payload);
        }
        is_clients
    }
}

/// A CN. It ends with the value.
pub(crate) struct Cn {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Cn {
    pub(crate) async fn before(server: SocketAddr, stage: Arc<Stage>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((shunt, _)) = listener.accept().await {
                let stage = Arc::clone(&stage);
                connections.spawn(async move { drop(serve(shunt, server, stage).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, _tasks: tasks })
    }
}

async fn serve(mut shunt: TcpStream, server: SocketAddr, stage: Arc<Stage>) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    shunt.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shunt.write_all(&Packet::read(&mut server).await?.bytes()).await?;
    let login = Packet::read(&mut shunt).await?;
    server.write_all(&login.bytes()).await?;
    let handshake = Handshake::decode(&login.payload)?;
    if handshake.user != stage.user {
        tokio::io::copy_bidirectional(&mut shunt, &mut server).await?;
        return Ok(());
    }
    loop {
        let packet = Packet::read(&mut server).await?;
        shunt.write_all(&packet.bytes()).await?;
        match packet.payload.first() {
            Some(0) => break,
            Some(0xFE) => server.write_all(&Packet::read(&mut shunt).await?.bytes()).await?,
            _ => return Ok(()),
        }
    }
    loop {
        let command = Packet::read(&mut shunt).await?;
        server.write_all(&command.bytes()).await?;
        if command.payload.first() == Some(&com::QUIT) {
            return Ok(());
        }
        let is_clients = stage.is_clients(&command.payload);
        let bytes = answer(&mut server, &command.payload, handshake.caps).await?;
        if is_clients {
            say(&mut shunt, &bytes, &stage).await?;
        } else {
            shunt.write_all(&bytes).await?;
            let text = String::from_utf8_lossy(&command.payload);
            let is_last = match stage.note().has_statement {
                true => command.payload.first() == Some(&com::STMT_PREPARE),
                false => text.contains(LAST_QUESTION),
            };
            stage.ready.send_modify(|ready| *ready += usize::from(is_last));
        }
    }
}

/// The server's answer to a command.
async fn answer(server: &mut TcpStream, command: &[u8], caps: Caps) -> Result<Vec<u8>> {
    let mut reference = Reference::new(*command.first().context("no command")?, caps);
    let mut bytes = Vec::new();
    while reference.turn() == Turn::Server {
        let packet = Packet::read(server).await?;
        reference.packet(&packet.payload)?;
        bytes.extend(packet.bytes());
    }
    Ok(bytes)
}

/// Says an answer to the client, as far as it may.
async fn say(shunt: &mut TcpStream, bytes: &[u8], stage: &Stage) -> Result<()> {
    let mut rest = bytes;
    let mut may = stage.may.subscribe();
    while !rest.is_empty() {
        let said = stage.said.borrow().0;
        let now = rest.len().min(may.borrow_and_update().saturating_sub(said));
        shunt.write_all(&rest[..now]).await?;
        rest = &rest[now..];
        stage.said.send_modify(|(said, _)| *said += now);
        if !rest.is_empty() {
            may.changed().await?;
        }
    }
    stage.said.send_modify(|(_, whole)| *whole += 1);
    Ok(())
}
