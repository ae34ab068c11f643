//! What a thread's ring knows of one socket: what is under way, what has come, who waits.
//!
//! Must not know: the ring. Nothing here calls the kernel.

use socket2::SockAddr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The side of a socket that is read.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Nobody asked.
    Idle,
    /// The kernel waits for bytes.
    UnderWay,
    /// Bytes came, and are in a buffer of the thread's.
    Came(Piece),
    /// As before, but the buffer was needed for others.
    Moved {
        /// The bytes.
        bytes: Box<[u8]>,
        /// How many of them were read.
        read: usize,
    },
    /// The peer closed its side.
    Closed,
    /// It failed: the kernel's number.
    Failed(i32),
}

/// Bytes in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which buffer.
    pub(crate) buffer: u16,
    /// How many bytes it has.
    pub(crate) len: usize,
    /// How many of them were read.
    pub(crate) read: usize,
}

/// The side of a socket that is written.
#[derive(Debug)]
pub(crate) enum Writing {
    /// Whatever was written is with the kernel.
    Idle,
    /// The kernel takes these bytes, from the first that it did not take yet.
    UnderWay {
        /// The bytes: the kernel reads them, they must not move or end before it said that it is done.
        bytes: Vec<u8>,
        /// How many of them it took.
        taken: usize,
    },
    /// It connects, to an address that the kernel reads.
    Connecting(Box<SockAddr>),
    /// It failed: the kernel's number.
    Failed(i32),
}

/// A socket. It ends when nobody has it any more and nothing is under way.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) reading: Reading,
    pub(crate) reader: Option<Waker>,
    pub(crate) writing: Writing,
    pub(crate) writer: Option<Waker>,
    /// There was more than a buffer holds: it is looked for by a call of its own.
    pub(crate) has_more: bool,
    /// Its owner has dropped it.
    pub(crate) is_left: bool,
}

/// Remembers who waits, without a new waker where it is the same as before.
pub(crate) fn wait(waiting: &mut Option<Waker>, waker: &Waker) {
    match waiting {
        Some(waiting) => waiting.clone_from(waker),
        none => *none = Some(waker.clone()),
    }
}

impl Slot {
    pub(crate) const fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            reading: Reading::Idle,
            reader: None,
            writing: Writing::Idle,
            writer: None,
            has_more: false,
            is_left: false,
        }
    }

    /// Whether the kernel still has to say something of it.
    pub(crate) const fn is_under_way(&self) -> bool {
        matches!(self.reading, Reading::UnderWay)
            || matches!(self.writing, Writing::UnderWay { .. } | Writing::Connecting(_))
    }

    /// Until nothing is under way on the side that is written.
    pub(crate) fn poll_written(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.writing {
            Writing::Idle => Poll::Ready(Ok(())),
            Writing::Failed(error) => Poll::Ready(Err(io::Error::from_raw_os_error(error))),
            Writing::UnderWay { .. } | Writing::Connecting(_) => {
                wait(&mut self.writer, cx.waker());
                Poll::Pending
            }
        }
    }

    /// What was read or failed without a buffer: the result of a receive.
    pub(crate) fn received(&mut self, result: Result<Option<Piece>, i32>) {
        self.reading = match result {
            Ok(Some(piece)) => Reading::Came(piece),
            Ok(None) => Reading::Closed,
            Err(error) if is_for_now(error) => Reading::Idle,
            // No buffer was free: its reader reads without one.
            Err(error) if error == rustix::io::Errno::NOBUFS.raw_os_error() => {
                self.has_more = true;
                Reading::Idle
            }
            Err(error) => Reading::Failed(error),
        };
    }

    /// The kernel took `n` more bytes, or none ever again. What it has still to take, if anything: from where.
    pub(crate) fn sent(&mut self, result: Result<usize, i32>) -> Sent {
        let Writing::UnderWay { bytes, taken } = &mut self.writing else { return Sent::Over(None) };
        match result {
            Ok(n) => *taken += n,
            Err(error) if is_for_now(error) => {}
            Err(error) => {
                self.writing = Writing::Failed(error);
                return Sent::Over(None);
            }
        }
        if *taken < bytes.len() {
            return Sent::More;
        }
        let bytes = std::mem::take(bytes);
        self.writing = Writing::Idle;
        Sent::Over(Some(bytes))
    }

    /// It is connected, or not.
    pub(crate) fn connected(&mut self, result: Result<usize, i32>) {
        self.writing = match result {
            Ok(_) => Writing::Idle,
            Err(error) => Writing::Failed(error),
        };
    }
}

/// What is left to do behind a send.
pub(crate) enum Sent {
    /// The rest is to be sent.
    More,
    /// Nothing; the memory can be used again, where there is some.
    Over(Option<Vec<u8>>),
}

/// The kernel was interrupted: it is asked again.
fn is_for_now(error: i32) -> bool {
    let error = io::Error::from_raw_os_error(error).kind();
    matches!(error, io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
