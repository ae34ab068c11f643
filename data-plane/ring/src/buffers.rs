//! The buffers of a thread that the kernel receives into: it takes one when bytes have come, so that a socket that
//! waits holds none. See io_uring_register_buf_ring(3).

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// The group of all buffers.
pub(crate) const GROUP: u16 = 0;

/// Bytes of a buffer. A burst that is longer is read on by the socket itself, into its reader's memory.
pub(crate) const SIZE: usize = 16 * 1024;

/// Buffers of a thread; a power of two. Where more bursts come at once than there are buffers, the rest is read without
/// one, by a call each.
const COUNT: u16 = 128;

/// The kernel asks for whole pages.
const PAGE: usize = 4096;

/// The buffers, and the ring that tells the kernel which of them are free.
pub(crate) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// The count of all that were ever given back; the kernel compares it to its own.
    tail: u16,
    /// The kernel may still write to it.
    is_leaked: bool,
}

impl Buffers {
    /// Registers buffers with `ring`.
    ///
    /// # Errors
    /// The kernel does not know them (before Linux 5.19).
    pub(crate) fn register(ring: &IoUring) -> io::Result<Self> {
        // SAFETY: neither layout is of 0 bytes.
        let (entries, memory) = unsafe { (alloc_zeroed(entries_layout()), alloc_zeroed(memory_layout())) };
        let entries = found(entries, entries_layout()).cast();
        // The kernel takes one after the other, all of them: they are in memory from the start, and it grows no more.
        let memory = found(memory, memory_layout());
        let mut buffers = Self { entries, memory, tail: 0, is_leaked: false };
        // SAFETY: the entries are `COUNT` of the kernel's, on a page, zeroed; they are freed only after the ring is.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, COUNT, GROUP, 0)? };
        for buffer in 0..COUNT {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer that the kernel filled.
    pub(crate) fn filled(&self, buffer: u16, len: usize) -> &[u8] {
        debug_assert!(buffer < COUNT && len <= SIZE);
        // SAFETY: the buffer lies within the memory, which lives as long as this does, and the kernel, which took it,
        // does not write to it until it is given back; giving back takes `&mut self`.
        unsafe { std::slice::from_raw_parts(self.at(buffer).as_ptr(), len.min(SIZE)) }
    }

    /// Lets the kernel take this buffer again. Each that it took is given back once.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.at(buffer).as_ptr() as u64;
        let slot = usize::from(self.tail & (COUNT - 1));
        // SAFETY: the slot is one of the `COUNT` entries, and free: no more buffers are given back than there are.
        let entry = unsafe { &mut *self.entries.as_ptr().add(slot) };
        entry.set_addr(address);
        entry.set_len(SIZE as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the address of the first entry of a ring that lives. The kernel reads the tail, with acquire, and
        // never writes it.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Leaves the memory to the kernel for good.
    pub(crate) const fn leak(&mut self) {
        self.is_leaked = true;
    }

    fn at(&self, buffer: u16) -> NonNull<u8> {
        let buffer = usize::from(buffer % COUNT);
        // SAFETY: within the memory of `COUNT` buffers.
        unsafe { self.memory.add(buffer * SIZE) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        // SAFETY: allocated with these layouts, in `register`. Whoever holds both drops the ring first.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout());
            dealloc(self.memory.as_ptr(), memory_layout());
        }
    }
}

const fn layout(bytes: usize) -> Layout {
    match Layout::from_size_align(bytes, PAGE) {
        Ok(layout) => layout,
        Err(_) => panic!("a page is a power of two"),
    }
}

const fn entries_layout() -> Layout {
    layout(COUNT as usize * size_of::<BufRingEntry>())
}

const fn memory_layout() -> Layout {
    layout(COUNT as usize * SIZE)
}

fn found(memory: *mut u8, layout: Layout) -> NonNull<u8> {
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
