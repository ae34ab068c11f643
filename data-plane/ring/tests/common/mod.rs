//! A runtime with a ring, and connections between it and the kernel's own.

use shunt_ring::{Installed, Socket};
use std::future::Future;
use std::net::{TcpListener, TcpStream};
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::LocalOptions;

/// Runs `what` on a runtime with a ring; not at all where the kernel has none for us.
pub(crate) fn with_ring<F: Future<Output = ()>>(what: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(shunt_ring::submit)
        .on_thread_unpark(shunt_ring::complete)
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let ring = match Installed::new() {
            Ok(ring) => ring,
            Err(error) if std::env::var_os("SHUNT_TEST_REQUIRE").is_none() => {
                return eprintln!("skipped: {error}");
            }
            Err(error) => panic!("no io_uring: {error}"),
        };
        // As much in a turn as a test wants.
        let what = tokio::task::unconstrained(what());
        tokio::time::timeout(Duration::from_secs(60), what).await.expect("it hangs");
        drop(ring);
    });
}

/// A connected pair: the ring's end, and the kernel's.
pub(crate) async fn pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = Socket::connect(listener.local_addr().unwrap()).await.unwrap();
    (socket, listener.accept().unwrap().0)
}

/// Bytes that are wrong in any other order.
pub(crate) fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

/// Polls once: what is ready, if it is.
pub(crate) async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
