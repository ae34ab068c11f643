//! A way to a CN that takes its time: every byte arrives so much later, both ways, and none waits for another.
//!
//! Must not know: MySQL.

use anyhow::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// The way to one server. It ends with the value.
pub(crate) struct Delayed {
    address: SocketAddr,
    // Ends every task when dropped.
    _tasks: JoinSet<()>,
}

impl Delayed {
    /// To this server, so long each way.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) async fn start(server: SocketAddr, one_way: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while links.try_join_next().is_some() {}
                links.spawn(link(client, server, one_way));
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it begins.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn link(client: TcpStream, server: SocketAddr, one_way: Duration) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(pass(from_client, to_server, one_way), pass(from_server, to_client, one_way));
}

/// Passes bytes on, each when it is due; then the end.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, later: Duration) {
    // What is on the way is bounded by what its sender has unanswered.
    let (sender, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let take = async move {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            if sender.send((Instant::now() + later, bytes[..n].to_vec())).is_err() {
                return;
            }
        }
    };
    let give = async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(take, give);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_a_round_trip_however_many_there_are() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let way = Delayed::start(server.local_addr().unwrap(), Duration::from_millis(100)).await.unwrap();
        let mut client = TcpStream::connect(way.address()).await.unwrap();
        let (mut echo, _) = server.accept().await.unwrap();
        let began = Instant::now();
        for _ in 0..20 {
            client.write_all(b"word").await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut heard = [0; 80];
        echo.read_exact(&mut heard).await.unwrap();
        echo.write_all(&heard).await.unwrap();
        client.read_exact(&mut heard).await.unwrap();
        let took = began.elapsed();
        assert!(heard.ends_with(b"word"));
        // One after the other they would take two seconds there alone.
        assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(1500), "{took:?}");
    }
}
