//! Accepting clients, and nothing else: no work for a single client is done here.

use crate::cn::{finish, set_options};
use crate::plane::Plane;
use crate::session::welcome::refuse_full;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Files that are not sessions': logs, the state file, gRPC, HTTP, connections that are being made or refused.
const SPARE_FILES: u64 = 128;

/// Files of a session.
const FILES_PER_SESSION: u64 = 2;

/// How long accepting rests after it failed: the cause (no more files, no memory) does not pass by trying.
const REST: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted, as far as the kernel allows (net.core.somaxconn). Where it answers with
/// SYN cookies, a client that finds no room waits for a greeting that never comes.
const BACKLOG: i32 = 65_535;

/// Listens on `address`. What is accepted has the options of every connection: the kernel copies the listener's.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    set_options(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Ends a listener's thread, at the latest when it is dropped.
#[derive(Debug)]
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A bell that was not rung.
    ///
    /// # Errors
    /// No more files.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?)))
    }

    /// Ends it.
    pub(crate) fn ring(&self) {
        // It fails only where it was rung 2^64 times.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// Accepts until `bell` rings, on a thread of its own: the runtime never hears of a client's socket before its worker
/// does.
pub(crate) fn spawn(
    plane: Arc<Plane>,
    listener: TcpListener,
    most: usize,
    bell: &Bell,
) -> tokio::task::JoinHandle<()> {
    let bell = Arc::clone(&bell.0);
    tokio::task::spawn_blocking(move || {
        while waits(&listener, &bell) {
            match accept(&listener) {
                Ok((socket, client)) => give_to_a_worker(&plane, socket, client, most),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "accept");
                    rest(&bell);
                }
            }
        }
    })
}

/// Waits for a client. False where the bell rang.
fn waits(listener: &TcpListener, bell: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
    // A signal interrupts it: then it is looked at again.
    let _ = poll(&mut fds, None);
    fds[1].revents().is_empty()
}

/// Waits for [`REST`], or until the bell rings.
fn rest(bell: &OwnedFd) {
    let rest = Timespec { tv_sec: 0, tv_nsec: REST.subsec_nanos().into() };
    let _ = poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&rest));
}

fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, client) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let client = client.and_then(|client| SocketAddr::try_from(client).ok());
    Ok((socket.into(), client.ok_or(io::ErrorKind::ConnectionAborted)?))
}

fn give_to_a_worker(plane: &Plane, socket: TcpStream, client: SocketAddr, most: usize) {
    if plane.workers.sessions() + finish::finishing() >= most {
        plane.metrics.no_room();
        refuse_full(socket);
    } else {
        plane.workers.accept(socket, client);
    }
}

/// Whether an accept failed because that client left again.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Raises the soft limit on files to the hard one, and says how many sessions fit: at most `asked`, where that is
/// not 0.
pub(crate) fn most_sessions(asked: u32) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "raise the limit on files");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let fit = files.saturating_sub(SPARE_FILES) / FILES_PER_SESSION;
    let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
    if asked == 0 { fit } else { fit.min(asked as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;

    #[test]
    fn what_is_accepted_has_the_options_of_every_connection() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let bell = Bell::new().unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(waits(&listener, &bell.0));
        let (socket, from) = accept(&listener).unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        let options = SockRef::from(&socket);
        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        bell.ring();
        assert!(!waits(&listener, &bell.0));
    }
}
