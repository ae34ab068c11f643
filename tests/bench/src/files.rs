//! Limits on open files: thousands of sessions take two files each in a proxy.

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files a process here may have, once it asks for all of them.
pub(crate) fn hard_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises this process's limit to the hard one; what it starts inherits it.
pub(crate) fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where that is refused, the old limit holds, and `ensure_room` has looked at the hard one only: a case that
    // needs more then fails with the kernel's words.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Says beforehand that so many sessions do not fit through a proxy.
///
/// # Errors
/// They do not.
pub(crate) fn ensure_room(sessions: u32) -> Result<()> {
    let (needs, has) = (2 * u64::from(sessions) + 400, hard_limit());
    ensure!(needs <= has, "{sessions} sessions need {needs} files; the limit is {has} (ulimit -Hn)");
    Ok(())
}
