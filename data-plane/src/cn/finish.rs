//! A handshake with a CN that is not at its end, and how it gets there when nobody needs it any more.
//!
//! A client that vanishes in the middle of a relayed login, a probe, a login that ran out of time: each would leave a
//! connection that a server counts as a connect error. It is answered to its end in the background instead: with an
//! answer that fits no account, which a server counts only as a refused login.

use crate::wire::{Packet, PacketStream, ReadError};
use mysql_wire::capability::{self, OFFERED};
use mysql_wire::command;
use mysql_wire::login::Login;
use mysql_wire::reply;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a CN may take to end a handshake that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many such handshakes there are. Each holds a file: the listener counts them as sessions.
static FINISHING: AtomicUsize = AtomicUsize::new(0);

/// How many handshakes are brought to their end now.
pub(crate) fn finishing() -> usize {
    FINISHING.load(Ordering::Relaxed)
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// The greeting is not read.
    BeforeGreeting,
    /// The login is due.
    Login,
    /// An answer with this sequence number is due.
    Answer(u8),
    /// The CN's.
    Cn,
    /// It is at its end.
    Over,
}

/// A connection in its handshake. Dropped, it is brought to its end in the background.
#[derive(Debug)]
pub(crate) struct Unfinished(Option<Handshake>);

#[derive(Debug)]
struct Handshake {
    stream: PacketStream,
    turn: Turn,
}

impl Unfinished {
    pub(crate) const fn before_greeting(stream: PacketStream) -> Self {
        Self(Some(Handshake { stream, turn: Turn::BeforeGreeting }))
    }

    fn handshake(&mut self) -> &mut Handshake {
        self.0.as_mut().expect("taken only at the end")
    }

    /// The greeting was read.
    pub(crate) fn greeted(&mut self) {
        self.handshake().turn = Turn::Login;
    }

    /// The CN ended it.
    pub(crate) fn end(&mut self) {
        self.handshake().turn = Turn::Over;
    }

    /// The connection, logged in.
    pub(crate) fn into_stream(mut self) -> PacketStream {
        self.0.take().expect("taken only here and in drop").stream
    }

    pub(crate) async fn read(&mut self, max: usize) -> Result<Packet, ReadError> {
        self.handshake().read(max).await
    }

    pub(crate) async fn write(&mut self, seq: u8, payload: &[u8]) -> io::Result<()> {
        self.handshake().write(seq, payload).await
    }
}

impl Handshake {
    async fn read(&mut self, max: usize) -> Result<Packet, ReadError> {
        let packet = self.stream.read(max).await.inspect_err(|_| self.turn = Turn::Over)?;
        if matches!(self.turn, Turn::Cn) {
            self.turn = Turn::Answer(packet.seq.wrapping_add(1));
        }
        Ok(packet)
    }

    async fn write(&mut self, seq: u8, payload: &[u8]) -> io::Result<()> {
        self.stream.write(seq, payload).await.inspect_err(|_| self.turn = Turn::Over)?;
        self.turn = Turn::Cn;
        Ok(())
    }

    /// Answers until the CN ends it.
    async fn finish(mut self) -> Result<(), ReadError> {
        loop {
            match self.turn {
                Turn::BeforeGreeting => {
                    let packet = self.read(1 << 20).await?;
                    let refused = packet.payload.first() == Some(&reply::ERR);
                    self.turn = if refused { Turn::Over } else { Turn::Login };
                }
                Turn::Login => self.write(1, &nobody()).await?,
                Turn::Answer(seq) => self.write(seq, &[]).await?,
                Turn::Cn => {
                    let packet = self.read(1 << 20).await?;
                    match packet.payload.first() {
                        Some(&reply::OK) => {
                            self.write(0, &[command::QUIT]).await?;
                            self.turn = Turn::Over;
                        }
                        Some(&reply::ERR) => self.turn = Turn::Over,
                        _ => {}
                    }
                }
                Turn::Over => return Ok(()),
            }
        }
    }
}

/// A login of an account that nobody has.
fn nobody() -> Vec<u8> {
    Login {
        capabilities: capability::for_cn(OFFERED, OFFERED),
        max_packet: 1 << 24,
        collation: 45,
        user: b"shunt_nobody".to_vec(),
        auth: Vec::new(),
        database: None,
        plugin: Some(mysql_wire::native::PLUGIN.to_vec()),
        attributes: Vec::new(),
    }
    .write()
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(handshake) = self.0.take().filter(|handshake| !matches!(handshake.turn, Turn::Over)) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        FINISHING.fetch_add(1, Ordering::Relaxed);
        runtime.spawn(async move {
            // Whatever comes of it, nobody waits for it.
            let _ = tokio::time::timeout(PATIENCE, handshake.finish()).await;
            FINISHING.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
