//! A TCP connection that a thread's ring reads and writes.

use crate::ring::{self, Ring};
use crate::slot::{Reading, Writing, wait};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

/// What is copied and given to the ring. More is written by a call of its own, without a copy.
const COPIED: usize = 4 * 1024;

/// What is copied of a longer write for which the kernel has no room now.
const WAITING: usize = 64 * 1024;

/// A connection of this thread's ring. On any other thread it fails.
///
/// Dropped, it is closed; what was written before is on its way, as far as the kernel has room for it: flush it to be
/// sure that there is.
#[derive(Debug)]
pub struct Socket {
    fd: Arc<OwnedFd>,
    ring: u32,
    key: u32,
}

impl Socket {
    /// Takes a connection into this thread's ring.
    ///
    /// # Errors
    /// The thread has no ring.
    pub fn adopt(stream: std::net::TcpStream) -> io::Result<Self> {
        // A socket that never blocks would make the kernel answer "not now", where it is to wait.
        stream.set_nonblocking(false)?;
        let fd = Arc::new(OwnedFd::from(stream));
        let (ring, key) = ring::adopt(Arc::clone(&fd))?;
        Ok(Self { fd, ring, key })
    }

    /// Connects to `address`, from this thread's ring.
    ///
    /// # Errors
    /// The thread has no ring; no connection.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        let fd = Arc::new(OwnedFd::from(socket));
        let (ring, key) = ring::adopt(Arc::clone(&fd))?;
        let socket = Self { fd, ring, key };
        socket.with(|ring| {
            ring.slot(key).writing = Writing::Connecting(Box::new(SockAddr::from(address)));
            ring.connect(key);
        })?;
        poll_fn(|cx| socket.poll_written(cx)).await?;
        Ok(socket)
    }

    fn with<T>(&self, what: impl FnOnce(&mut Ring) -> T) -> io::Result<T> {
        ring::with(self.ring, what)
    }

    /// Until the kernel has taken what was written, or has connected.
    fn poll_written(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|ring| ring.slot(self.key).poll_written(cx))?
    }

    /// Reads what is there now, by a call of its own. None: nothing is.
    fn receive_now(&self, to: &mut ReadBuf<'_>) -> Option<io::Result<usize>> {
        // SAFETY: nothing is ever made uninitialised.
        let room = unsafe { to.unfilled_mut() };
        match rustix::net::recv(&*self.fd, room, RecvFlags::DONTWAIT) {
            Ok((_, n)) => {
                // SAFETY: the kernel wrote so many.
                unsafe { to.assume_init(n) };
                to.advance(n);
                Some(Ok(n))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// What came, and as much of what is behind it as fits.
    fn read_on(&self, ring: &mut Ring, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let came = ring.read_what_came(self.key, |bytes| {
            let n = bytes.len().min(to.remaining());
            to.put_slice(&bytes[..n]);
            n
        });
        let slot = ring.slot(self.key);
        if !slot.has_more || !matches!(slot.reading, Reading::Idle) || to.remaining() == 0 {
            return if came == 0 { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let room = to.remaining();
        let now = self.receive_now(to);
        // Room was left: there is no more, and the next read waits for it.
        slot.has_more = matches!(now, Some(Ok(n)) if n == room);
        match now {
            None if came == 0 => Poll::Pending,
            None => Poll::Ready(Ok(())),
            Some(Ok(0)) => {
                slot.reading = Reading::Closed;
                Poll::Ready(Ok(()))
            }
            Some(Ok(_)) => Poll::Ready(Ok(())),
            Some(Err(error)) => {
                slot.reading = Reading::Failed(error.raw_os_error().unwrap_or_default());
                if came == 0 { Poll::Ready(Err(error)) } else { Poll::Ready(Ok(())) }
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if to.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // A peer that always has something must not keep the thread for itself.
        let coop = ready!(poll_proceed(cx));
        let this = self.get_mut();
        this.with(|ring| {
            match ring.slot(this.key).reading {
                Reading::Closed => return Poll::Ready(Ok(())),
                Reading::Failed(error) => return Poll::Ready(Err(io::Error::from_raw_os_error(error))),
                Reading::Idle | Reading::Came(_) | Reading::Moved { .. } => {
                    if let Poll::Ready(read) = this.read_on(ring, to) {
                        coop.made_progress();
                        return Poll::Ready(read);
                    }
                    // Before it is asked for: it may come at once.
                    wait(&mut ring.slot(this.key).reader, cx.waker());
                    ring.receive(this.key);
                }
                Reading::UnderWay => wait(&mut ring.slot(this.key).reader, cx.waker()),
            }
            Poll::Pending
        })?
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let coop = ready!(poll_proceed(cx));
        let this = self.get_mut();
        this.with(|ring| {
            ready!(ring.slot(this.key).poll_written(cx))?;
            if bytes.is_empty() {
                return Poll::Ready(Ok(0));
            }
            coop.made_progress();
            if bytes.len() > COPIED {
                match rustix::net::send(&*this.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(n) => return Poll::Ready(Ok(n)),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            let bytes = &bytes[..bytes.len().min(WAITING)];
            ring.send(this.key, bytes);
            Poll::Ready(Ok(bytes.len()))
        })?
    }

    /// Until the kernel has taken what was written: it delivers it then, also when the socket is dropped.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx)
    }

    /// Behind what was written.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What cannot be told any more does not keep it from its end.
        let _ = ready!(self.as_mut().poll_flush(cx));
        Poll::Ready(Ok(rustix::net::shutdown(&*self.fd, Shutdown::Write)?))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // On another thread it stays where it is: it is never dropped there. After its ring it is closed already. Who
        // waited for it is dropped outside.
        drop(self.with(|ring| ring.leave(self.key)));
    }
}
