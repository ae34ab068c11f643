//! Sockets of a ring, against sockets of the kernel's.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use common::{bytes, pair, poll_once, with_ring};
use shunt_ring::Socket;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::spawn_local;

/// What a thread does beside the ring's.
async fn elsewhere<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(what).await.unwrap()
}

#[test]
fn bytes_pass_both_ways_in_their_order_whatever_their_number() {
    with_ring(|| async {
        for size in [1, 100, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 1 << 20, 40 << 20] {
            let (mut socket, mut peer) = pair().await;
            let sent = bytes(size);
            let echo = elsewhere(move || {
                let mut copy = peer.try_clone().unwrap();
                std::thread::spawn(move || std::io::copy(&mut peer, &mut copy))
            })
            .await;
            let (mut read, mut write) = tokio::io::split(&mut socket);
            let write = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let read = async { read.read_to_end(&mut back).await.unwrap() };
            tokio::join!(write, read);
            assert!(back == sent, "{size} bytes came back otherwise");
            drop(socket);
            elsewhere(move || echo.join()).await.unwrap().ok();
        }
    });
}

#[test]
fn a_small_reader_gets_a_burst_in_pieces() {
    with_ring(|| async {
        let (mut socket, mut peer) = pair().await;
        let sent = bytes(40_000);
        peer.write_all(&sent).unwrap();
        drop(peer);
        let mut back = Vec::new();
        let mut piece = [0; 7];
        loop {
            match socket.read(&mut piece).await.unwrap() {
                0 => break,
                n => back.extend_from_slice(&piece[..n]),
            }
        }
        assert!(back == sent);
    });
}

#[test]
fn a_read_that_is_given_up_loses_nothing() {
    with_ring(|| async {
        let (mut socket, mut peer) = pair().await;
        let mut buffer = [0; 16];
        let nothing = tokio::time::timeout(Duration::from_millis(5), socket.read(&mut buffer)).await;
        assert!(nothing.is_err());
        peer.write_all(b"late").unwrap();
        assert_eq!(socket.read(&mut buffer).await.unwrap(), 4);
        assert_eq!(&buffer[..4], b"late");
    });
}

#[test]
fn more_sockets_than_buffers_are_read_all_also_those_that_wait_for_their_reader() {
    with_ring(|| async {
        let mut pairs = Vec::new();
        for _ in 0..600 {
            let (mut socket, peer) = pair().await;
            // Armed, and then not read for a while.
            let mut none = [0; 1];
            assert!(poll_once(socket.read(&mut none)).await.is_none());
            pairs.push((socket, peer));
        }
        for (i, (_, peer)) in pairs.iter_mut().enumerate() {
            peer.write_all(&bytes(i + 1)).unwrap();
        }
        // One more is served while 600 hold what came to them.
        let (mut socket, mut peer) = pair().await;
        peer.write_all(b"me too").unwrap();
        let mut six = [0; 6];
        socket.read_exact(&mut six).await.unwrap();
        assert_eq!(&six, b"me too");
        for (i, (socket, peer)) in pairs.into_iter().enumerate() {
            let (mut socket, mut back) = (socket, Vec::new());
            drop(peer);
            socket.read_to_end(&mut back).await.unwrap();
            assert!(back == bytes(i + 1), "socket {i}");
        }
    });
}

#[test]
fn more_is_under_way_in_one_turn_than_the_kernel_has_room_to_tell_of() {
    const PAIRS: usize = 3000;
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    with_ring(|| async {
        let mut pairs = Vec::new();
        for _ in 0..PAIRS {
            let (socket, mut peer) = pair().await;
            // What is to be read is there before anybody asks.
            peer.write_all(b"here").unwrap();
            pairs.push((socket, peer));
        }
        // 6,000 completions before any of them is looked at.
        let mut waiting: Vec<_> = pairs.iter_mut().map(|(socket, _)| Echo::new(socket)).collect();
        for echo in &mut waiting {
            assert!(poll_once(echo).await.is_none(), "it was told at once");
        }
        for echo in waiting {
            echo.await;
        }
        for (_, peer) in &mut pairs {
            let mut told = [0; 4];
            peer.read_exact(&mut told).unwrap();
            assert_eq!(&told, b"here");
        }
    });
}

/// Says something, and waits for as much.
struct Echo<'a>(Pin<Box<dyn Future<Output = ()> + 'a>>);

impl<'a> Echo<'a> {
    fn new(socket: &'a mut Socket) -> Self {
        Self(Box::pin(async move {
            socket.write_all(b"here").await.unwrap();
            let mut heard = [0; 4];
            socket.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"here");
        }))
    }
}

impl Future for Echo<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[test]
fn what_was_flushed_arrives_whole_also_behind_a_drop() {
    with_ring(|| async {
        // Of many sizes: with some of them the end is what the kernel has no room for.
        for size in (1 << 20..8 << 20).step_by(512 << 10) {
            let (mut socket, mut peer) = pair().await;
            let sent = bytes(size);
            let slow = elsewhere(move || {
                std::thread::spawn(move || {
                    let mut heard = Vec::new();
                    peer.read_to_end(&mut heard).map(|_| heard)
                })
            });
            let write = async {
                socket.write_all(&sent).await.unwrap();
                socket.flush().await.unwrap();
                drop(socket);
            };
            let (slow, ()) = tokio::join!(slow, write);
            let heard = elsewhere(move || slow.join()).await.unwrap().unwrap();
            assert!(heard == sent, "{size} bytes arrived otherwise");
        }
    });
}

#[test]
fn a_flush_waits_for_a_peer_that_takes_nothing() {
    with_ring(|| async {
        let (mut socket, mut peer) = pair().await;
        let stuck = vec![7; 32 << 20];
        let write = tokio::time::timeout(Duration::from_millis(50), socket.write_all(&stuck)).await;
        assert!(write.is_err(), "the kernel took 32 MiB");
        assert!(poll_once(socket.flush()).await.is_none());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all.len())
        });
        socket.flush().await.unwrap();
        drop(socket);
        assert!(elsewhere(move || reader.join()).await.unwrap().unwrap() > 0);
    });
}

#[test]
fn what_was_written_before_the_drop_arrives_and_then_the_end() {
    with_ring(|| async {
        let (mut socket, mut peer) = pair().await;
        let mut none = [0; 1];
        assert!(poll_once(socket.read(&mut none)).await.is_none());
        socket.write_all(b"goodbye").await.unwrap();
        drop(socket);
        let heard = elsewhere(move || {
            let mut heard = Vec::new();
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            peer.read_to_end(&mut heard).map(|_| heard)
        });
        assert_eq!(heard.await.unwrap(), b"goodbye");
    });
}

#[test]
fn a_peer_that_closes_or_resets_is_heard() {
    with_ring(|| async {
        let (mut socket, peer) = pair().await;
        let heard = spawn_local(async move {
            let mut none = [0; 8];
            socket.read(&mut none).await
        });
        drop(peer);
        assert_eq!(heard.await.unwrap().unwrap(), 0);

        let (mut socket, peer) = pair().await;
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        let heard = spawn_local(async move {
            let mut none = [0; 8];
            let read = socket.read(&mut none).await;
            // And writing to it does not end the process.
            let written = loop {
                if let Err(error) = socket.write_all(b"x").await {
                    break error;
                }
                tokio::task::yield_now().await;
                shunt_ring::submit();
            };
            (read, written)
        });
        drop(peer);
        let (read, _written) = heard.await.unwrap();
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn nobody_there_is_an_error() {
    with_ring(|| async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refused = Socket::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_busy_task_does_not_keep_others_from_their_bytes() {
    with_ring(|| async {
        let (mut socket, mut peer) = pair().await;
        let busy = spawn_local(async {
            loop {
                // As a session does that has more to do than a turn allows.
                shunt_ring::submit();
                tokio::task::yield_now().await;
            }
        });
        let mut buffer = [0; 4];
        peer.write_all(b"ping").unwrap();
        socket.read_exact(&mut buffer).await.unwrap();
        busy.abort();
    });
}

#[test]
fn on_another_thread_a_socket_fails_and_nothing_is_touched() {
    with_ring(|| async {
        let (mut socket, mut peer) = pair().await;
        let error = socket.write_all(b"here").await.err();
        assert!(error.is_none());
        let socket = elsewhere(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let failed = runtime.block_on(socket.write_all(b"there")).unwrap_err();
            assert_eq!(failed.kind(), std::io::ErrorKind::Other);
            socket
        })
        .await;
        let mut here = [0; 4];
        let here = elsewhere(move || peer.read_exact(&mut here).map(|()| here)).await.unwrap();
        assert_eq!(&here, b"here");
        drop(socket);
    });
}
