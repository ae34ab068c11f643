//! Whether this machine does something else meanwhile: what a thread gets of a core that wants all of it.
//!
//! Must not know: cases.

use anyhow::{Context as _, Result};
use std::fs;
use std::time::Duration;
use tokio::time::Instant;

/// Less of a core than this is shared with somebody.
const MINE: f64 = 0.85;

/// How long is looked.
const LOOK: Duration = Duration::from_millis(200);

/// Whether every core is there for whoever wants it now.
///
/// # Errors
/// The kernel does not count.
pub(crate) fn is_calm() -> Result<bool> {
    let cores = std::thread::available_parallelism()?.get();
    let threads: Vec<_> = (0..cores).map(|_| std::thread::spawn(share)).collect();
    let mut least = 1.0_f64;
    for thread in threads {
        least = least.min(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    }
    Ok(least >= MINE)
}

/// The part of a core that this thread gets while it does nothing but ask what time it is.
fn share() -> Result<f64> {
    let (began, before) = (Instant::now(), on_cpu()?);
    while began.elapsed() < LOOK {}
    Ok((on_cpu()? - before) as f64 / began.elapsed().as_nanos() as f64)
}

/// Nanoseconds that this thread ran.
fn on_cpu() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("the kernel has no schedstat")?;
    text.split_whitespace().next().context("an empty schedstat")?.parse().context("schedstat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_with_two_who_want_it_all_is_shared() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let others: Vec<_> = (0..2 * cores).map(|_| std::thread::spawn(share)).collect();
        let calm = is_calm().unwrap();
        assert!(others.into_iter().all(|other| other.join().unwrap().unwrap() < 1.0));
        assert!(!calm);
    }
}
