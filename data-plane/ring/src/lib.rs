//! Sockets over io_uring for a thread that runs a tokio runtime of its own.
//!
//! What the sockets of a thread want is put into a queue that the kernel is shown once, when the runtime is about to
//! sleep: all that is read and written in a turn costs one call. The runtime goes on sleeping where it always does, in
//! `epoll_wait`; whatever completes wakes it there. A socket that waits for its peer holds no buffer: the kernel takes
//! one of the thread's when bytes have come.
//!
//! A runtime uses it like this:
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let runtime = tokio::runtime::Builder::new_current_thread()
//!     .enable_all()
//!     .on_thread_park(shunt_ring::submit)
//!     .on_thread_unpark(shunt_ring::complete)
//!     .build()?;
//! runtime.block_on(async {
//!     let _ring = shunt_ring::Installed::new()?;
//!     let mut socket = shunt_ring::Socket::connect("127.0.0.1:3306".parse().unwrap()).await?;
//!     tokio::io::AsyncWriteExt::write_all(&mut socket, b"hello").await
//! })
//! # }
//! ```
//!
//! Must not know: what the bytes mean.

mod buffers;
mod ring;
mod slot;
mod socket;

pub use ring::{Installed, complete, is_installed, probe, submit};
pub use socket::Socket;
