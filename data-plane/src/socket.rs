//! A connection of a session, or to a CN: over the ring of a worker's thread, or over a runtime's epoll.
//!
//! Must not know: MySQL.

use crate::config::Io;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};

/// A TCP connection.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over the runtime that it was made in. Any thread may use it.
    Polled(TcpStream),
    /// Over the ring of the thread that it was made on, which alone may use it.
    Ringed(shunt_ring::Socket),
}

/// By what a connection is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The ring of the thread that makes it, which alone may use it.
    Ring,
    /// The runtime's epoll. Any thread may use it.
    Epoll,
}

impl By {
    /// What serves a new session of this thread best: the ring, where there are others whose calls it shares. A session
    /// that is alone gets nothing from it, and is woken a little later.
    pub(crate) fn of_session(asked: Io, is_alone: bool) -> Self {
        let ring = shunt_ring::is_installed() && (asked == Io::IoUring || !is_alone);
        if ring { Self::Ring } else { Self::Epoll }
    }
}

impl Socket {
    /// Takes a connection that was accepted, and never blocks, for this thread.
    ///
    /// # Errors
    /// The runtime cannot take it.
    pub(crate) fn accepted(stream: std::net::TcpStream, by: By) -> io::Result<Self> {
        match by {
            By::Ring => shunt_ring::Socket::adopt(stream).map(Self::Ringed),
            By::Epoll => TcpStream::from_std(stream).map(Self::Polled),
        }
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// The name is not known; none of its addresses takes a connection: the last one's error.
    pub(crate) async fn connect(address: &str, by: By) -> io::Result<Self> {
        if by == By::Epoll {
            return TcpStream::connect(address).await.map(Self::Polled);
        }
        let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
        for address in lookup_host(address).await? {
            match shunt_ring::Socket::connect(address).await {
                Ok(socket) => return Ok(Self::Ringed(socket)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// By what it is waited for.
    pub(crate) const fn by(&self) -> By {
        match self {
            Self::Polled(_) => By::Epoll,
            Self::Ringed(_) => By::Ring,
        }
    }

    /// This end of it.
    ///
    /// # Errors
    /// It is not connected any more.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(self).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Ringed(socket) => Pin::new(socket).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Polled(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Ringed(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(socket) => Pin::new(socket).poll_flush(cx),
            Self::Ringed(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Ringed(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Polled(socket) => socket.as_fd(),
            Self::Ringed(socket) => socket.as_fd(),
        }
    }
}
