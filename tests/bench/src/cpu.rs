//! What the kernel says a process took: CPU time of its threads, and resident memory.

use anyhow::{Context as _, Result};
use std::collections::HashMap;
use std::fs;

/// CPU time that each thread of a process has had, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuTime(HashMap<u32, u64>);

impl CpuTime {
    /// Of a process now.
    ///
    /// # Errors
    /// The process is gone, or the kernel does not count.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut threads = HashMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("threads of {pid}"))? {
            let task = task?;
            // A thread may end between its listing and here.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let thread = task.file_name().to_string_lossy().parse().context("a thread's id")?;
            threads.insert(thread, on_cpu(&text)?);
        }
        anyhow::ensure!(!threads.is_empty(), "the kernel has no schedstat for {pid}");
        Ok(Self(threads))
    }

    /// Nanoseconds of all threads since `before`. What a thread took that ended meanwhile is not in it.
    pub(crate) fn since(&self, before: &Self) -> u64 {
        self.0
            .iter()
            .map(|(thread, now)| now.saturating_sub(before.0.get(thread).copied().unwrap_or(0)))
            .sum()
    }
}

/// The first of a schedstat's three numbers.
fn on_cpu(schedstat: &str) -> Result<u64> {
    let word = schedstat.split_whitespace().next().context("an empty schedstat")?;
    word.parse().with_context(|| format!("schedstat {schedstat:?}"))
}

/// Resident memory of a process, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it (`VmRSS`).
    pub(crate) rss: u64,
    /// The anonymous part (`RssAnon`): without the program's own text and shared pages.
    pub(crate) anon: u64,
}

impl Memory {
    /// Of a process now.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        Self::read(
            &fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("status of {pid}"))?,
        )
    }

    fn read(status: &str) -> Result<Self> {
        Ok(Self { rss: kib(status, "VmRSS:")?, anon: kib(status, "RssAnon:")? })
    }
}

fn kib(status: &str, label: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(label));
    let word = line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {label}"))?;
    word.parse().with_context(|| format!("{label} {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let status = "Name:\tshunt-data\nVmPeak:\t  900 kB\nVmRSS:\t   15360 kB\nRssAnon:\t    9216 kB\n";
        assert_eq!(Memory::read(status).unwrap(), Memory { rss: 15_360, anon: 9216 });
        Memory::read("Name:\tzombie\n").unwrap_err();
    }

    #[test]
    fn a_thread_that_came_later_counts_whole_and_one_that_is_gone_not_at_all() {
        let before = CpuTime(HashMap::from([(1, 100), (2, 50)]));
        let after = CpuTime(HashMap::from([(1, 130), (3, 7)]));
        assert_eq!(after.since(&before), 37);
        assert_eq!(on_cpu("158341 899669 2\n").unwrap(), 158_341);
        on_cpu("").unwrap_err();
    }

    #[test]
    fn work_of_this_very_process_shows() {
        let me = std::process::id();
        let before = CpuTime::of(me).unwrap();
        let mut sum = 0_u64;
        while CpuTime::of(me).unwrap().since(&before) < 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        assert!(Memory::of(me).unwrap().rss > 0);
    }
}
