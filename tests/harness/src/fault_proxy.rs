//! A small TCP proxy between a client and a server that can be told to misbehave: slow, black hole,
//! reset, half open, or changing what the server says.
//!
//! For tests only; it is no model of Shunt.

use crate::packet::Packet;
use anyhow::Result;
use parking_lot::Mutex;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a link does with bytes, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Passes them on.
    #[default]
    None,
    /// Passes them on after this long.
    Delay(Duration),
    /// Takes them and passes nothing on; connections stay open. Those accepted from now on, too, and
    /// they never reach the server.
    BlackHole,
    /// Ends every connection with a reset, those accepted from now on at once.
    Reset,
    /// The client's side closes for the server, the server's stays open for the client: what the
    /// client sends is lost, and it hears nothing of it.
    HalfOpen,
}

/// Changes a packet of the server. It is given the number of the packet on its connection; `None`
/// drops the packet.
pub type Mutation = Arc<dyn Fn(usize, Packet) -> Option<Packet> + Send + Sync>;

/// A proxy in front of one server. It ends with the value.
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    accepted: Arc<Mutex<usize>>,
    // Ends every task when dropped.
    _tasks: JoinSet<()>,
}

impl FaultProxy {
    /// In front of this server.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        Self::start_with(server, None).await
    }

    /// In front of this server, changing what it says.
    ///
    /// # Errors
    /// No port is free.
    pub async fn mutating(server: SocketAddr, mutation: Mutation) -> Result<Self> {
        Self::start_with(server, Some(mutation)).await
    }

    async fn start_with(server: SocketAddr, mutation: Option<Mutation>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let accepted = Arc::new(Mutex::new(0));
        let counter = accepted.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                *counter.lock() += 1;
                while links.try_join_next().is_some() {}
                links.spawn(link(client, server, faults.clone(), mutation.clone()));
            }
        });
        Ok(Self { address, fault, accepted, _tasks: tasks })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Misbehaves like this from now on, on connections there are and on new ones.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many connections were accepted.
    pub fn accepted(&self) -> usize {
        *self.accepted.lock()
    }
}

async fn link(
    client: TcpStream,
    server: SocketAddr,
    faults: watch::Receiver<Fault>,
    mutation: Option<Mutation>,
) {
    let fault = *faults.borrow();
    match fault {
        Fault::Reset => {
            let _ = client.set_zero_linger();
            return;
        }
        Fault::BlackHole => return swallow(client, faults.clone()).await,
        _ => {}
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // A reset must reach both ends, whenever it is asked for.
    let _ = (client.set_zero_linger(), server.set_zero_linger());
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, faults.clone(), Side::Client);
    let down = async {
        match mutation {
            Some(mutation) => mutate(from_server, to_client, mutation).await,
            None => pump(from_server, to_client, faults.clone(), Side::Server).await,
        }
    };
    let reset = async {
        // Without a sender nobody asks.
        if faults.clone().wait_for(|fault| *fault == Fault::Reset).await.is_err() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        () = reset => {}
    }
}

/// Takes everything and says nothing, until a reset.
async fn swallow(mut client: TcpStream, mut faults: watch::Receiver<Fault>) {
    let mut bytes = [0; 4096];
    let reading = async { while client.read(&mut bytes).await.is_ok_and(|n| n > 0) {} };
    tokio::select! {
        () = reading => {}
        _ = faults.wait_for(|fault| *fault == Fault::Reset) => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Passes bytes on one way. An end of the stream is passed on as such (a FIN).
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: watch::Receiver<Fault>, side: Side) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        let fault = *faults.borrow();
        match fault {
            Fault::None => {}
            Fault::Delay(delay) => tokio::time::sleep(delay).await,
            Fault::BlackHole => continue,
            Fault::Reset => return,
            Fault::HalfOpen if side == Side::Client => {
                let _ = to.shutdown().await;
                // The client's bytes are taken and lost.
                while from.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
                return;
            }
            Fault::HalfOpen => continue,
        }
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
    let fault = *faults.borrow();
    match fault {
        Fault::None | Fault::Delay(_) => {
            let _ = to.shutdown().await;
        }
        // Nobody hears of the end.
        _ => pending().await,
    }
}

async fn mutate(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mutation: Mutation) {
    let mut number = 0;
    while let Ok(packet) = Packet::read(&mut from).await {
        if let Some(packet) = mutation(number, packet)
            && to.write_all(&packet.bytes()).await.is_err()
        {
            return;
        }
        number += 1;
    }
    let _ = to.shutdown().await;
}
