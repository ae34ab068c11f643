//! A CN's connections in the hand of a test: what the CN says unasked, how far it answers, how many log in at once, and
//! that it is gone.
//!
//! Must not know: what Shunt makes of it.

use anyhow::Result;
use parking_lot::Mutex;
use shunt_harness::packet::Packet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Logs in by this name are those of sessions.
const USER: &[u8] = b"app\0";

/// What the test wants of the connections of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    /// Says this.
    Say(Vec<u8>),
    /// Nobody is there any more.
    Die,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    Yes,
    IsToEnd,
    No,
    /// And every connection is closed.
    Over,
}

#[derive(Default)]
struct Notes {
    /// Of the answer to a command with these bytes, so many are passed on, and nothing more.
    cut: Option<(Vec<u8>, usize)>,
    /// Commands of sessions that have these bytes.
    counted: Option<Vec<u8>>,
    count: usize,
    /// How long a login takes, how many are under way, and how many were at most.
    login: Duration,
    logging_in: usize,
    most: usize,
}

/// It ends with the value.
pub(crate) struct Puppet {
    pub(crate) address: SocketAddr,
    deed: watch::Sender<Deed>,
    listens: watch::Sender<Listens>,
    notes: Arc<Mutex<Notes>>,
    _tasks: JoinSet<()>,
}

impl Puppet {
    pub(crate) async fn before(cn: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (deed, notes) = (watch::Sender::new(Deed::Nothing), Arc::new(Mutex::new(Notes::default())));
        let listens = watch::Sender::new(Listens::Yes);
        let post = Post { cn, deed: deed.clone(), notes: Arc::clone(&notes), listens: listens.clone() };
        let mut tasks = JoinSet::new();
        tasks.spawn(post.accept(listener));
        Ok(Self { address, deed, listens, notes, _tasks: tasks })
    }

    /// Says this on every session's connection, unasked.
    pub(crate) fn say(&self, bytes: Vec<u8>) {
        self.deed.send_replace(Deed::Say(bytes));
    }

    /// Nobody listens any more, and every connection closes: in this order, for a CN that greets lives.
    pub(crate) async fn die(&self) {
        self.listens.send_replace(Listens::IsToEnd);
        let mut listens = self.listens.subscribe();
        let _ = listens.wait_for(|listens| *listens == Listens::No).await;
        self.deed.send_replace(Deed::Die);
        let _ = listens.wait_for(|listens| *listens == Listens::Over).await;
    }

    /// The answer to a command that has `bytes` ends after so many.
    pub(crate) fn cut(&self, bytes: &[u8], after: usize) {
        self.notes.lock().cut = Some((bytes.to_vec(), after));
    }

    /// Counts commands that have `bytes`, from now on.
    pub(crate) fn count(&self, bytes: &[u8]) {
        let mut notes = self.notes.lock();
        (notes.counted, notes.count) = (Some(bytes.to_vec()), 0);
    }

    pub(crate) fn counted(&self) -> usize {
        self.notes.lock().count
    }

    /// A session's login takes this long from now on.
    pub(crate) fn logins_take(&self, login: Duration) {
        self.notes.lock().login = login;
    }

    /// How many sessions were logging in at once, at most.
    pub(crate) fn most_logins(&self) -> usize {
        self.notes.lock().most
    }
}

/// What its tasks know.
struct Post {
    cn: SocketAddr,
    deed: watch::Sender<Deed>,
    notes: Arc<Mutex<Notes>>,
    listens: watch::Sender<Listens>,
}

impl Post {
    async fn accept(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let mut ends = self.listens.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = async { drop(ends.wait_for(|listens| *listens == Listens::IsToEnd).await) } => break,
            };
            let Ok((shunt, _)) = accepted else { break };
            let (cn, deeds, notes) = (self.cn, self.deed.subscribe(), Arc::clone(&self.notes));
            connections.spawn(async move { drop(serve(shunt, cn, deeds, &notes).await) });
        }
        drop(listener);
        self.listens.send_replace(Listens::No);
        while connections.join_next().await.is_some() {}
        self.listens.send_replace(Listens::Over);
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len().max(1)).any(|window| window == part)
}

async fn serve(
    mut shunt: TcpStream,
    cn: SocketAddr,
    mut deeds: watch::Receiver<Deed>,
    notes: &Mutex<Notes>,
) -> Result<()> {
    shunt.set_nodelay(true)?;
    let mut cn = TcpStream::connect(cn).await?;
    cn.set_nodelay(true)?;
    shunt.write_all(&Packet::read(&mut cn).await?.bytes()).await?;
    let login = Packet::read(&mut shunt).await?;
    let is_session = has(&login.payload, USER);
    if is_session {
        let takes = {
            let mut notes = notes.lock();
            notes.logging_in += 1;
            notes.most = notes.most.max(notes.logging_in);
            notes.login
        };
        tokio::time::sleep(takes).await;
    }
    cn.write_all(&login.bytes()).await?;
    if is_session {
        let first = Packet::read(&mut cn).await;
        notes.lock().logging_in -= 1;
        shunt.write_all(&first?.bytes()).await?;
    }
    // What was said before is not for this one; but the CN may have died while it logged in.
    if *deeds.borrow_and_update() == Deed::Die {
        return Ok(());
    }
    let (from_shunt, mut to_shunt) = shunt.split();
    let (from_cn, to_cn) = cn.split();
    let left = Mutex::new(usize::MAX);
    tokio::select! {
        ended = up(from_shunt, to_cn, is_session, notes, &left) => ended,
        ended = down(from_cn, &mut to_shunt, is_session, &mut deeds, &left) => ended,
    }
}

async fn up(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    is_session: bool,
    notes: &Mutex<Notes>,
    left: &Mutex<usize>,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        if is_session {
            let mut notes = notes.lock();
            let is_counted = notes.counted.as_ref().is_some_and(|bytes| has(&buffer[..n], bytes));
            notes.count += usize::from(is_counted);
            if let Some((_, after)) = notes.cut.take_if(|(bytes, _)| has(&buffer[..n], bytes)) {
                *left.lock() = after;
            }
        }
        to.write_all(&buffer[..n]).await?;
    }
}

async fn down(
    mut from: ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    is_session: bool,
    deeds: &mut watch::Receiver<Deed>,
    left: &Mutex<usize>,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        tokio::select! {
            n = from.read(&mut buffer) => {
                let n = n?;
                if n == 0 {
                    return Ok(());
                }
                let now = n.min(*left.lock());
                to.write_all(&buffer[..now]).await?;
                let mut left = left.lock();
                *left = left.saturating_sub(if *left == usize::MAX { 0 } else { now });
            }
            changed = deeds.changed() => {
                changed?;
                let deed = deeds.borrow_and_update().clone();
                match deed {
                    Deed::Nothing => {}
                    Deed::Say(bytes) => if is_session { to.write_all(&bytes).await? },
                    Deed::Die => return Ok(()),
                }
            }
        }
    }
}
