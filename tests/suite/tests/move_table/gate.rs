//! A CN's gate: it stands between Shunt and a CN, knows by what passes at which step of a move a session is, and lets a
//! fault happen there.
//!
//! Must not know: what is to come of it.

use crate::table::{Fault, Step};
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use shunt_harness::command::query;
use shunt_harness::login::Handshake;
use shunt_harness::packet::Packet;
use shunt_harness::reference::Reference;
use shunt_harness::{Caps, Turn, com};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long an answer takes that takes its time: well below each deadline of a move.
const SLOW: Duration = Duration::from_millis(150);

/// What a session's question begins with by which a CN is asked what the session is.
const ASKS: &str = "SELECT HEX(CONVERT(DATABASE()";

/// The client's statements at whose answers a session rests, and works on its new CN.
pub(crate) const REST: &str = "SELECT 'rest'";
pub(crate) const AFTER: &str = "SELECT 'after'";

/// Which of the two CNs a gate is in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

/// How the CN is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Hung,
    Dead,
}

/// What is to happen, and what has: of one lane, both gates together.
pub(crate) struct Plan {
    user: String,
    armed: Mutex<Option<(Step, Fault)>>,
    /// The step was reached, and waits: its fault is the test's to bring about.
    pub(crate) reached: watch::Sender<bool>,
    pub(crate) released: watch::Sender<bool>,
    /// The session's statement is under way on the old CN.
    pub(crate) is_busy: watch::Sender<bool>,
    /// It may be answered.
    pub(crate) may_rest: watch::Sender<bool>,
    /// Its statements were prepared ahead on the new CN.
    pub(crate) is_prepared: watch::Sender<bool>,
    /// What the new CN says unasked, or closes with.
    unasked: watch::Sender<Option<Fault>>,
    /// The old CN was asked what the session is.
    was_asked: AtomicBool,
    /// The fault happened.
    pub(crate) happened: AtomicBool,
}

impl Plan {
    pub(crate) fn new(user: &str) -> Arc<Self> {
        let flag = || watch::Sender::new(false);
        Arc::new(Self {
            user: user.to_owned(),
            armed: Mutex::new(None),
            reached: flag(),
            released: flag(),
            is_busy: flag(),
            may_rest: flag(),
            is_prepared: flag(),
            unasked: watch::Sender::new(None),
            was_asked: AtomicBool::new(false),
            happened: AtomicBool::new(false),
        })
    }

    /// From now on `fault` happens at `step`, once.
    pub(crate) fn arm(&self, step: Step, fault: Fault) {
        for flag in [&self.reached, &self.released, &self.is_busy, &self.may_rest, &self.is_prepared] {
            flag.send_replace(false);
        }
        self.unasked.send_replace(None);
        self.was_asked.store(false, Ordering::SeqCst);
        self.happened.store(false, Ordering::SeqCst);
        *self.armed.lock() = Some((step, fault));
    }

    /// Nothing happens any more, and nothing waits.
    pub(crate) fn disarm(&self) {
        *self.armed.lock() = None;
        self.unasked.send_replace(None);
        self.released.send_replace(true);
        self.may_rest.send_replace(true);
    }

    /// What the new CN is to do while nothing is asked of it.
    pub(crate) fn unasked(&self, fault: Fault) {
        self.happened.store(true, Ordering::SeqCst);
        self.unasked.send_replace(Some(fault));
    }

    /// The fault that is to happen at `step`. Whoever dials is dialling: all see that one.
    fn fault(&self, step: Step) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let (_, fault) = armed.filter(|(at, _)| *at == step)?;
        if step != Step::Dial {
            *armed = None;
        }
        self.happened.store(true, Ordering::SeqCst);
        Some(fault)
    }
}

/// What becomes of what was asked.
enum Do {
    /// It goes on.
    Pass,
    /// The connection closes.
    Close,
    /// This is said in place of an answer.
    Say(Vec<u8>),
    /// Another answer than that which is given.
    Wrong,
}

/// A gate. It ends with the value.
pub(crate) struct Gate {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub(crate) async fn before(cn: SocketAddr, side: Side, plan: Arc<Plan>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mode = watch::Sender::new(Mode::Open);
        let post = Post { cn, side, plan, mode: mode.clone() };
        let mut tasks = JoinSet::new();
        tasks.spawn(post.accept(listener, address));
        Ok(Self { address, mode, _tasks: tasks })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn hang(&self) {
        self.mode.send_replace(Mode::Hung);
    }

    pub(crate) fn die(&self) {
        self.mode.send_replace(Mode::Dead);
    }

    pub(crate) fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

/// What a gate's tasks know.
#[derive(Clone)]
struct Post {
    cn: SocketAddr,
    side: Side,
    plan: Arc<Plan>,
    mode: watch::Sender<Mode>,
}

/// A server's error as a payload.
fn error(code: u16, sqlstate: &str) -> Vec<u8> {
    [&[0xFF][..], &code.to_le_bytes(), b"#", sqlstate.as_bytes(), b"made up"].concat()
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];

impl Post {
    async fn accept(self, mut listener: TcpListener, address: SocketAddr) {
        let mut connections = JoinSet::new();
        let mut mode = self.mode.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => Some(accepted),
                () = async { drop(mode.wait_for(|mode| *mode == Mode::Dead).await) } => None,
            };
            match accepted {
                Some(Ok((shunt, _))) => drop(connections.spawn(self.clone().serve(shunt))),
                Some(Err(_)) => return,
                None => {
                    drop(listener);
                    let _ = mode.wait_for(|mode| *mode == Mode::Open).await;
                    let Ok(again) = TcpListener::bind(address).await else { return };
                    listener = again;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    }

    async fn serve(self, shunt: TcpStream) {
        let _ = shunt.set_nodelay(true);
        let mut mode = self.mode.subscribe();
        let mut joined = Joined { post: self, shunt, server: None, caps: Caps(0), questions: 0, fresh: true };
        let is_dead = tokio::select! {
            _ = mode.wait_for(|mode| *mode == Mode::Dead) => true,
            _ = joined.run() => false,
        };
        if is_dead {
            let _ = joined.shunt.set_zero_linger();
        }
    }

    /// Waits until the CN does not stand still.
    async fn moves(&self) {
        let _ = self.mode.subscribe().wait_for(|mode| *mode != Mode::Hung).await;
    }

    /// What becomes of `step`, which is reached now.
    async fn at(&self, step: Step) -> Do {
        let Some(fault) = self.plan.fault(step) else { return Do::Pass };
        let refused = match step {
            Step::Dial => Do::Close,
            Step::LogIn => Do::Say(error(1045, "28000")),
            _ => Do::Say(error(1047, "08S01")),
        };
        match fault {
            Fault::Refused => refused,
            Fault::Hung => {
                self.mode.send_replace(Mode::Hung);
                self.moves().await;
                Do::Close
            }
            Fault::Closed => Do::Close,
            Fault::ErrorReply => Do::Say(error(1105, "HY000")),
            Fault::Slow => {
                tokio::time::sleep(SLOW).await;
                Do::Pass
            }
            Fault::WrongReply => Do::Wrong,
            Fault::CnDead => {
                self.mode.send_replace(Mode::Dead);
                std::future::pending().await
            }
            Fault::ClientGone | Fault::ClientTalking | Fault::SecondOrder => {
                self.plan.reached.send_replace(true);
                let _ = self.plan.released.subscribe().wait_for(|released| *released).await;
                Do::Pass
            }
        }
    }
}

/// A connection of Shunt's and its own to the CN.
struct Joined {
    post: Post,
    shunt: TcpStream,
    server: Option<TcpStream>,
    caps: Caps,
    /// How often it was asked what the session is.
    questions: u32,
    /// Nothing was said on it yet.
    fresh: bool,
}

impl Joined {
    async fn run(&mut self) -> Result<()> {
        let greeting = match self.post.side {
            Side::New => self.post.at(Step::Dial).await,
            Side::Old => Do::Pass,
        };
        self.post.moves().await;
        let mut server = TcpStream::connect(self.post.cn).await?;
        server.set_nodelay(true)?;
        let packet = Packet::read(&mut server).await?;
        self.server = Some(server);
        match greeting {
            Do::Pass => self.say(&packet).await?,
            Do::Close => return Ok(()),
            // An error in place of a greeting tells that there are too many.
            Do::Say(_) => return self.say(&Packet { sequence: 0, payload: error(1040, "08004") }).await,
            Do::Wrong => return self.say(&Packet { sequence: 0, payload: vec![9, b'x', 0] }).await,
        }
        let login = Packet::read(&mut self.shunt).await?;
        let handshake = Handshake::decode(&login.payload)?;
        self.caps = handshake.caps;
        if handshake.user != self.post.plan.user {
            return self.pump(&login).await;
        }
        if self.log_in(&login).await? { self.serve().await } else { Ok(()) }
    }

    fn server(&mut self) -> Result<&mut TcpStream> {
        self.server.as_mut().context("no server")
    }

    async fn say(&mut self, packet: &Packet) -> Result<()> {
        self.post.moves().await;
        Ok(self.shunt.write_all(&packet.bytes()).await?)
    }

    async fn pass(&mut self, packet: &Packet) -> Result<()> {
        let bytes = packet.bytes();
        Ok(self.server()?.write_all(&bytes).await?)
    }

    /// A connection of somebody else's: it hangs and dies with the CN, and nothing else.
    async fn pump(&mut self, login: &Packet) -> Result<()> {
        self.pass(login).await?;
        let mut server = self.server.take().context("no server")?;
        let (mut from_server, mut to_server) = server.split();
        let (mut from_shunt, mut to_shunt) = self.shunt.split();
        let up = tokio::io::copy(&mut from_shunt, &mut to_server);
        let post = &self.post;
        let down = async {
            loop {
                let packet = Packet::read(&mut from_server).await?;
                post.moves().await;
                to_shunt.write_all(&packet.bytes()).await?;
            }
        };
        tokio::select! {
            ended = up => Ok(ended.map(drop)?),
            ended = down => ended,
        }
    }

    async fn log_in(&mut self, login: &Packet) -> Result<bool> {
        let step = match self.post.side {
            Side::New => self.post.at(Step::LogIn).await,
            Side::Old => Do::Pass,
        };
        match step {
            Do::Pass => {}
            Do::Close => return Ok(false),
            Do::Say(payload) => return self.say(&Packet { sequence: 2, payload }).await.map(|()| false),
            Do::Wrong => {
                return self.say(&Packet { sequence: 2, payload: vec![5, 5] }).await.map(|()| false);
            }
        }
        self.pass(login).await?;
        loop {
            let packet = Packet::read(self.server()?).await?;
            self.say(&packet).await?;
            match packet.payload.first() {
                Some(0) => return Ok(true),
                Some(0xFE) => {
                    let answer = Packet::read(&mut self.shunt).await?;
                    self.pass(&answer).await?;
                }
                _ => return Ok(false),
            }
        }
    }

    /// One command after the other.
    async fn serve(&mut self) -> Result<()> {
        loop {
            let Some(command) = self.next_command().await? else { return Ok(()) };
            self.post.moves().await;
            let step = self.step(&command.payload);
            if step == Some(Step::Rest) {
                self.post.plan.is_busy.send_replace(true);
                let _ = self.post.plan.may_rest.subscribe().wait_for(|may| *may).await;
            }
            let what = match step {
                Some(step) => self.post.at(step).await,
                None => Do::Pass,
            };
            self.post.moves().await;
            let is_quit = command.payload.first() == Some(&com::QUIT);
            match what {
                Do::Pass => self.answer(&command, false).await?,
                Do::Wrong if is_quit => self.say(&Packet { sequence: 1, payload: OK.to_vec() }).await?,
                Do::Wrong => self.answer(&command, true).await?,
                Do::Close => return Ok(()),
                Do::Say(payload) => self.say(&Packet { sequence: 1, payload }).await?,
            }
            if is_quit {
                return Ok(());
            }
        }
    }

    /// The next command. `None`: there is none any more.
    async fn next_command(&mut self) -> Result<Option<Packet>> {
        let is_there_elsewhere = self.post.side == Side::New && self.questions == 1;
        let mut unasked = self.post.plan.unasked.subscribe();
        let server = self.server.as_mut().context("no server")?;
        let mut byte = [0];
        loop {
            tokio::select! {
                command = Packet::read(&mut self.shunt) => return Ok(command.ok()),
                // It says nothing unasked: it closed.
                _ = server.peek(&mut byte) => return Ok(None),
                fault = until_unasked(&mut unasked, is_there_elsewhere) => {
                    let (sequence, payload) = match fault {
                        Fault::ErrorReply => (0, error(1927, "70100")),
                        Fault::WrongReply => (1, OK.to_vec()),
                        _ => return Ok(None),
                    };
                    self.shunt.write_all(&Packet { sequence, payload }.bytes()).await?;
                    if fault == Fault::ErrorReply {
                        return Ok(None);
                    }
                    self.post.plan.unasked.send_replace(None);
                }
            }
        }
    }

    /// At which step of a move the session is that says this.
    fn step(&mut self, payload: &[u8]) -> Option<Step> {
        let text = String::from_utf8_lossy(payload.get(1..).unwrap_or_default());
        let is_first = std::mem::take(&mut self.fresh);
        let asks = text.contains(ASKS);
        self.questions += u32::from(asks);
        let was_asked = &self.post.plan.was_asked;
        match (self.post.side, payload.first().copied()?) {
            (Side::Old, com::QUIT) => was_asked.load(Ordering::SeqCst).then_some(Step::Swap),
            (Side::Old, _) if text == REST => Some(Step::Rest),
            (Side::Old, _) if asks => {
                was_asked.store(true, Ordering::SeqCst);
                Some(Step::AskOld)
            }
            (Side::Old, _) if text.contains("@`v`") && text.contains("SELECT") => Some(Step::AskOldFurther),
            (Side::New, _) if text == AFTER => Some(Step::After),
            (Side::New, _) if is_first => Some(Step::FirstWords),
            (Side::New, _) if asks && self.questions == 1 => Some(Step::AskNew),
            (Side::New, com::STMT_PREPARE) if !was_asked.load(Ordering::SeqCst) => Some(Step::PrepareAhead),
            (Side::New, _) if asks => Some(Step::ReadBack),
            (Side::New, _) if text.contains("@`v`") && text.starts_with("SET") => Some(Step::Restore),
            _ => None,
        }
    }

    /// The CN's answer to `command`; where that is to be a wrong one, its answer to another.
    async fn answer(&mut self, command: &Packet, is_wrong: bool) -> Result<()> {
        let code = command.payload.first().copied().unwrap_or_default();
        let text = command.payload.get(1..).unwrap_or_default();
        if is_wrong && [REST.as_bytes(), AFTER.as_bytes()].contains(&text) {
            // A packet that no answer has.
            return self.say(&Packet { sequence: 1, payload: Vec::new() }).await;
        }
        let has_rows = text.starts_with(b"SELECT") || text.windows(11).any(|words| words == b" FOR SELECT");
        let other = query(if has_rows && code == com::QUERY { "DO 0" } else { "SELECT 1" });
        let asked = if is_wrong { Packet { sequence: 0, payload: other } } else { command.clone() };
        self.pass(&asked).await?;
        let mut reference = Reference::new(asked.payload.first().copied().unwrap_or_default(), self.caps);
        while reference.turn() == Turn::Server {
            let packet = Packet::read(self.server()?).await?;
            reference.packet(&packet.payload)?;
            self.say(&packet).await?;
        }
        if self.post.side == Side::New && code == com::STMT_PREPARE {
            self.post.plan.is_prepared.send_replace(true);
        }
        Ok(())
    }
}

/// What a CN is to do unasked, on a connection on which it may.
async fn until_unasked(unasked: &mut watch::Receiver<Option<Fault>>, may: bool) -> Fault {
    loop {
        if let Some(fault) = unasked.borrow_and_update().filter(|_| may) {
            return fault;
        }
        if unasked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
