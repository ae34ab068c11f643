//! The ring of a thread: its queue, what completes in it, and the sockets that it knows.
//!
//! [`submit`] and [`complete`] are called by the thread's runtime, before and after it sleeps.

use crate::buffers::{Buffers, GROUP, SIZE};
use crate::slot::{Piece, Reading, Sent, Slot, Writing};
use io_uring::types::{CancelBuilder, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::net::SendFlags;
use slab::Slab;
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What may wait in the queue until the kernel is shown it.
const QUEUE: u32 = 256;

/// What may be complete and not looked at; beyond it the kernel keeps it in memory of its own.
const COMPLETIONS: u32 = 4096;

/// Shown to the kernel at once, when so much waits: the first of a long turn are not to wait for the last.
const AT_ONCE: usize = 32;

/// Memory of writes that is kept for the next ones.
const SPARE: usize = 64;

/// "Do not try, wait": who was answered just now has nothing to say yet (IORING_RECVSEND_POLL_FIRST).
const POLL_FIRST: u16 = 1;

/// Which of the two sides of a socket completed; the lowest bits of what the kernel gives back.
const READ: u64 = 0;
const WRITE: u64 = 1;
/// Something that nobody waits for.
const CANCEL: u64 = 2;
const SIDES: u32 = 2;

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// Rings are numbered: a socket knows its own.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A thread's ring.
pub(crate) struct Ring {
    number: u32,
    // Before the buffers, so that it ends before they do.
    ring: IoUring,
    buffers: Buffers,
    slots: Slab<Slot>,
    /// Those whose bytes came since the last sleep, and may not have been read.
    came: Vec<u32>,
    /// Those of whose bytes the kernel took a part only.
    unsent: Vec<u32>,
    /// Memory of writes that are over.
    spare: Vec<Vec<u8>>,
    /// Who is to be woken as soon as the ring is not borrowed any more.
    woken: Vec<Waker>,
}

/// The ring of this thread, as long as it is kept. Sockets that are still there when it is dropped fail.
pub struct Installed {
    // Wakes the runtime for what completes.
    _watched: AsyncFd<OwnedFd>,
    /// It is of this thread.
    _here: std::marker::PhantomData<*const ()>,
}

impl Installed {
    /// Makes the ring of this thread, in its runtime.
    ///
    /// # Errors
    /// The kernel is too old for it (Linux 6.0) or does not let this process have one; the thread has one already.
    pub fn new() -> io::Result<Self> {
        let ring = Ring::new()?;
        // SAFETY: the ring's own, open while the ring is borrowed here.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.ring.as_raw_fd()) };
        let fd = fd.try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` always gives the same file, which is open as long as it is.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        RING.with_borrow_mut(|here| {
            if here.is_some() {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            *here = Some(ring);
            Ok(())
        })?;
        Ok(Self { _watched: watched, _here: std::marker::PhantomData })
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // Elsewhere than in the borrow: wakers that are dropped may drop sockets.
        drop(RING.with_borrow_mut(Option::take));
    }
}

/// Whether the kernel would let this process have rings.
///
/// # Errors
/// As [`Installed::new`].
pub fn probe() -> io::Result<()> {
    Ring::new().map(drop)
}

/// Whether this thread has a ring.
#[must_use]
pub fn is_installed() -> bool {
    RING.with_borrow(Option::is_some)
}

/// Shows the kernel what waits in this thread's queue, and wakes whoever it answers. Before a thread sleeps, and
/// whenever it will not for long.
pub fn submit() {
    with_here(|ring| {
        ring.free_buffers();
        ring.send_rest();
        ring.show();
        ring.take_completed();
    });
}

/// Wakes those whose reads and writes are complete. After a thread slept.
pub fn complete() {
    with_here(|ring| {
        ring.take_completed();
        ring.send_rest();
    });
}

/// Does something with this thread's ring, if it has one, and wakes who is to be woken.
fn with_here(what: impl FnOnce(&mut Ring)) {
    let mut woken = RING.with_borrow_mut(|ring| {
        let Some(ring) = ring else { return Vec::new() };
        what(ring);
        std::mem::take(&mut ring.woken)
    });
    if woken.is_empty() {
        return;
    }
    for waker in woken.drain(..) {
        waker.wake();
    }
    RING.with_borrow_mut(|ring| {
        // The memory is used again.
        if let Some(ring) = ring.as_mut().filter(|ring| ring.woken.is_empty()) {
            ring.woken = woken;
        }
    });
}

/// Does something with the ring that is numbered so, which must be this thread's.
///
/// # Errors
/// It is not: a socket is used on a thread that is not its own, or after its ring.
pub(crate) fn with<T>(number: u32, what: impl FnOnce(&mut Ring) -> T) -> io::Result<T> {
    // A socket may be dropped when the thread has ended already.
    let done = RING.try_with(|ring| match &mut *ring.borrow_mut() {
        Some(ring) if ring.number == number => Some(what(ring)),
        _ => None,
    });
    done.ok().flatten().ok_or_else(|| io::Error::other("a socket of another thread's ring"))
}

/// Puts a socket into this thread's ring: the ring's number, and the socket's within it.
///
/// # Errors
/// This thread has no ring.
pub(crate) fn adopt(fd: Arc<OwnedFd>) -> io::Result<(u32, u32)> {
    RING.with_borrow_mut(|ring| {
        let ring = ring.as_mut().ok_or_else(|| io::Error::other("this thread has no ring"))?;
        let key = ring.slots.insert(Slot::new(fd));
        Ok((ring.number, u32::try_from(key).map_err(io::Error::other)?))
    })
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may write to the buffers, and read what is to be written, until everything is given up.
        let all = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        if !matches!(all, Ok(())) && !matches!(&all, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            std::mem::forget(std::mem::take(&mut self.slots));
            self.buffers.leak();
        }
    }
}

impl Ring {
    fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // One thread uses it, and is not interrupted for what completes: it looks when it is about to sleep.
        builder.setup_single_issuer().setup_coop_taskrun().setup_submit_all().setup_cqsize(COMPLETIONS);
        let ring = builder.build(QUEUE)?;
        let buffers = Buffers::register(&ring)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            number,
            ring,
            buffers,
            slots: Slab::new(),
            came: Vec::new(),
            unsent: Vec::new(),
            spare: Vec::new(),
            woken: Vec::new(),
        })
    }

    pub(crate) fn slot(&mut self, key: u32) -> &mut Slot {
        &mut self.slots[key as usize]
    }

    /// Lets the kernel wait for bytes of a socket.
    pub(crate) fn receive(&mut self, key: u32) {
        let slot = &mut self.slots[key as usize];
        slot.reading = Reading::UnderWay;
        let entry = opcode::Recv::new(Fd(slot.fd.as_raw_fd()), std::ptr::null_mut(), SIZE as u32)
            .ioprio(POLL_FIRST)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(user_data(key, READ));
        self.push(&entry);
    }

    /// Writes bytes that are kept until the kernel took them. Nothing else may be under way.
    pub(crate) fn send(&mut self, key: u32, bytes: &[u8]) {
        let mut memory = self.spare.pop().unwrap_or_default();
        memory.extend_from_slice(bytes);
        self.slots[key as usize].writing = Writing::UnderWay { bytes: memory, taken: 0 };
        self.send_on(key);
    }

    fn send_on(&mut self, key: u32) {
        let slot = &self.slots[key as usize];
        let Writing::UnderWay { bytes, taken } = &slot.writing else { return };
        let rest = &bytes[*taken..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fd(slot.fd.as_raw_fd()), rest.as_ptr(), len)
            .flags(SendFlags::NOSIGNAL.bits().cast_signed())
            .build()
            .user_data(user_data(key, WRITE));
        self.push(&entry);
    }

    /// Connects a socket to the address that its slot holds.
    pub(crate) fn connect(&mut self, key: u32) {
        let slot = &self.slots[key as usize];
        let Writing::Connecting(address) = &slot.writing else { return };
        let entry = opcode::Connect::new(Fd(slot.fd.as_raw_fd()), address.as_ptr().cast(), address.len())
            .build()
            .user_data(user_data(key, WRITE));
        self.push(&entry);
    }

    /// Its owner dropped it: what is under way is given up, behind what was to be written.
    pub(crate) fn leave(&mut self, key: u32) -> (Option<Waker>, Option<Waker>) {
        let slot = &mut self.slots[key as usize];
        slot.is_left = true;
        let wakers = (slot.reader.take(), slot.writer.take());
        if slot.is_under_way() {
            let cancel = CancelBuilder::fd(Fd(slot.fd.as_raw_fd())).all();
            let entry = opcode::AsyncCancel2::new(cancel).build().user_data(user_data(key, CANCEL));
            self.push(&entry);
        } else {
            self.forget(key);
        }
        wakers
    }

    /// Takes a socket that is left out. Nothing is under way.
    fn forget(&mut self, key: u32) {
        let slot = self.slots.remove(key as usize);
        if let Reading::Came(piece) = slot.reading {
            self.buffers.give_back(piece.buffer);
        }
    }

    /// Copies what came of a socket to `to`, as much as fits. How much that was; 0 where nothing came.
    pub(crate) fn read_what_came(&mut self, key: u32, mut copy: impl FnMut(&[u8]) -> usize) -> usize {
        let slot = &mut self.slots[key as usize];
        match &mut slot.reading {
            Reading::Came(piece) => {
                let n = copy(&self.buffers.filled(piece.buffer, piece.len)[piece.read..]);
                piece.read += n;
                if piece.read == piece.len {
                    self.buffers.give_back(piece.buffer);
                    slot.reading = Reading::Idle;
                }
                n
            }
            Reading::Moved { bytes, read } => {
                let n = copy(&bytes[*read..]);
                *read += n;
                if *read == bytes.len() {
                    slot.reading = Reading::Idle;
                }
                n
            }
            _ => 0,
        }
    }

    /// Sends on what the kernel took only a part of.
    fn send_rest(&mut self) {
        for key in std::mem::take(&mut self.unsent) {
            match self.slots.get(key as usize).map(|slot| slot.is_left) {
                Some(false) => self.send_on(key),
                Some(true) => self.give_up_rest(key),
                None => {}
            }
        }
    }

    /// Bytes that nobody read since they came are moved out of their buffers: a peer that takes nothing must not keep
    /// those that all sockets of the thread share.
    fn free_buffers(&mut self) {
        for key in self.came.drain(..) {
            let Some(slot) = self.slots.get_mut(key as usize) else { continue };
            if let Reading::Came(piece) = slot.reading {
                let bytes = self.buffers.filled(piece.buffer, piece.len)[piece.read..].into();
                self.buffers.give_back(piece.buffer);
                slot.reading = Reading::Moved { bytes, read: 0 };
            }
        }
    }

    /// Of a socket that is left the kernel took as much as it had room for: what a closed one would have sent.
    fn give_up_rest(&mut self, key: u32) {
        let slot = &mut self.slots[key as usize];
        slot.writing = Writing::Failed(Errno::CANCELED.raw_os_error());
        if !slot.is_under_way() {
            self.forget(key);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: whatever an entry points to (a buffer's memory, an address) is kept in the slot until the kernel
            // said that it is done with it; receives take the memory of `buffers`, which outlives the ring.
            let pushed = unsafe { self.ring.submission().push(entry) };
            if pushed.is_ok() {
                break;
            }
            self.show();
        }
        if self.ring.submission().len() >= AT_ONCE {
            self.show();
        }
    }

    /// Shows the kernel the queue. What it cannot take now stays in it.
    fn show(&mut self) {
        let overflown = {
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                return;
            }
            queue.cq_overflow()
        };
        // EINTR, EAGAIN (no memory), EBUSY (too much is complete): it is shown again, when room was made.
        let shown = self.ring.submit();
        if overflown || shown.is_err() {
            self.take_completed();
        }
    }

    fn take_completed(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            let data = entry.user_data();
            let key = u32::try_from(data >> SIDES).unwrap_or(u32::MAX);
            match data & ((1 << SIDES) - 1) {
                READ => self.has_read(key, &entry),
                WRITE => self.has_written(key, result(&entry)),
                _ => continue,
            }
            let Some(slot) = self.slots.get_mut(key as usize) else { continue };
            if slot.is_left {
                if !slot.is_under_way() {
                    self.forget(key);
                }
                continue;
            }
            let waiting = if data & WRITE == 0 { &mut slot.reader } else { &mut slot.writer };
            self.woken.extend(waiting.take());
        }
    }

    fn has_read(&mut self, key: u32, entry: &cqueue::Entry) {
        let result = result(entry);
        let buffer = cqueue::buffer_select(entry.flags());
        let Some(slot) = self.slots.get_mut(key as usize) else { return };
        match (result, buffer) {
            (Ok(len @ 1..), Some(buffer)) => {
                slot.received(Ok(Some(Piece { buffer, len, read: 0 })));
                slot.has_more = len == SIZE || cqueue::sock_nonempty(entry.flags());
                self.came.push(key);
            }
            (result, buffer) => {
                slot.received(result.map(|_| None));
                if let Some(buffer) = buffer {
                    self.buffers.give_back(buffer);
                }
            }
        }
    }

    fn has_written(&mut self, key: u32, result: Result<usize, i32>) {
        let Some(slot) = self.slots.get_mut(key as usize) else { return };
        if matches!(slot.writing, Writing::Connecting(_)) {
            return slot.connected(result);
        }
        match slot.sent(result) {
            Sent::More => self.unsent.push(key),
            Sent::Over(Some(mut memory)) if self.spare.len() < SPARE => {
                memory.clear();
                self.spare.push(memory);
            }
            Sent::Over(_) => {}
        }
    }
}

const fn user_data(key: u32, side: u64) -> u64 {
    (key as u64) << SIDES | side
}

fn result(entry: &cqueue::Entry) -> Result<usize, i32> {
    usize::try_from(entry.result()).map_err(|_| -entry.result())
}
