//! Files: what is dropped is closed, whatever was under way. One test alone in its process, which counts its files.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use common::{bytes, pair, poll_once, with_ring};
use shunt_ring::Socket;
use socket2::{Domain, Type};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until no more files are open than `most`.
async fn closed(most: usize) {
    let closed = async {
        while open_files() > most {
            tokio::task::yield_now().await;
            shunt_ring::submit();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("files are left");
}

#[test]
fn what_is_dropped_is_closed() {
    with_ring(|| async {
        peers_that_take_nothing().await;
        connections_that_are_given_up().await;
        sockets_of_which_nothing_was_asked().await;
    });
}

async fn peers_that_take_nothing() {
    let before = open_files();
    let mut peers = Vec::new();
    let stuck = bytes(32 << 20);
    for _ in 0..50 {
        let (mut socket, peer) = pair().await;
        let write = tokio::time::timeout(Duration::from_millis(20), socket.write_all(&stuck)).await;
        assert!(write.is_err(), "the kernel took 32 MiB");
        let mut none = [0; 1];
        assert!(poll_once(socket.read(&mut none)).await.is_none());
        drop(socket);
        peers.push(peer);
    }
    closed(before + peers.len()).await;
}

async fn connections_that_are_given_up() {
    // A backlog that is full lets a connection wait.
    let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let before = open_files();
    for _ in 0..5 {
        let connect = Socket::connect(address);
        assert!(tokio::time::timeout(Duration::from_millis(20), connect).await.is_err(), "it connected");
    }
    closed(before).await;
}

async fn sockets_of_which_nothing_was_asked() {
    let before = open_files();
    for _ in 0..50 {
        drop(pair().await);
    }
    closed(before).await;
}
