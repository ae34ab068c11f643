//! Ids of sessions: the connection ids that clients are given.
//!
//! A data plane has a block of 2^20 ids of its own, between 2^30 and 2^31: some drivers read them signed. An id is used
//! again late, so that a KILL that comes late meets nobody: first those that were never used, and once many are closed,
//! the one closed longest. How far they were used is kept on disk, so that a restart does not begin anew.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use tokio::sync::Notify;

/// Ids of a block.
pub(crate) const BLOCK: u32 = 1 << 20;

/// The first id of all blocks.
pub(crate) const FIRST: u32 = 1 << 30;

/// Whether `id` is of some data plane; all others are the CNs' own.
pub(crate) const fn is_ours(id: u32) -> bool {
    id >= FIRST && id < 2 * FIRST
}

/// From so many closed ids on, the one closed longest is used again: they take 4 bytes each.
const MOST_CLOSED: usize = 1 << 17;

/// The file is written once for so many ids.
const STEP: u32 = 1024;

/// The ids of this data plane.
#[derive(Debug)]
pub(crate) struct SessionIds {
    state: Mutex<State>,
    file: Option<PathBuf>,
    assigned: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The block; 0: none as yet.
    first: u32,
    /// The next id that was never used.
    fresh: u32,
    /// Those used before this start and not since, the oldest first: all closed.
    before: Range<u32>,
    /// The file says that those below it were used.
    written: u32,
    /// Used and closed, in the order of closing.
    closed: VecDeque<u32>,
}

impl SessionIds {
    /// The ids as `file` left them.
    pub(crate) fn open(file: PathBuf) -> Self {
        let ids = Self { state: Mutex::default(), file: Some(file), assigned: Notify::new() };
        if let Some((first, used)) = ids.read() {
            let mut state = ids.state.lock();
            state.first = first;
            state.fresh = used;
            state.before = first..used;
            state.written = used;
        }
        ids
    }

    fn read(&self) -> Option<(u32, u32)> {
        let text = std::fs::read_to_string(self.file.as_ref()?).ok()?;
        let (first, used) = text.trim().split_once(' ')?;
        let (first, used): (u32, u32) = (first.parse().ok()?, used.parse().ok()?);
        let valid = first >= FIRST && first.is_multiple_of(BLOCK) && first < 2 * FIRST;
        (valid && (first..=first + (BLOCK - 1)).contains(&used)).then_some((first, used))
    }

    /// The first id of the block; 0: none was given yet.
    pub(crate) fn first(&self) -> u32 {
        self.state.lock().first
    }

    /// Whether `id` is of this block.
    pub(crate) fn owns(&self, id: u32) -> bool {
        let first = self.first();
        first != 0 && (first..=first + (BLOCK - 1)).contains(&id)
    }

    /// The control plane gives this block. Ids that are in use stay so.
    pub(crate) fn assign(&self, first: u32) {
        let mut state = self.state.lock();
        if state.first != first {
            *state =
                State { first, fresh: first, before: first..first, written: first, closed: VecDeque::new() };
            self.write(&state);
        }
        self.assigned.notify_waiters();
    }

    /// Waits for a block.
    pub(crate) async fn assigned(&self) {
        loop {
            let assigned = self.assigned.notified();
            if self.first() != 0 {
                return;
            }
            assigned.await;
        }
    }

    /// An id for a new session; `None` where there is no block, or all are in use.
    pub(crate) fn open_one(&self) -> Option<u32> {
        let mut state = self.state.lock();
        if state.first == 0 {
            return None;
        }
        if state.closed.len() >= MOST_CLOSED {
            return state.closed.pop_front();
        }
        if state.fresh - state.first < BLOCK {
            let id = state.fresh;
            state.fresh += 1;
            if state.fresh > state.written {
                state.written = (state.fresh + STEP).min(state.first + (BLOCK - 1));
                self.write(&state);
            }
            return Some(id);
        }
        state.before.next().or_else(|| state.closed.pop_front())
    }

    /// The session of `id` is closed.
    pub(crate) fn close(&self, id: u32) {
        let mut state = self.state.lock();
        let first = state.first;
        if (first..=first + (BLOCK - 1)).contains(&id) {
            state.closed.push_back(id);
        }
    }

    /// A file that cannot be written costs only that a restart begins anew.
    fn write(&self, state: &State) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write_whole(file, format!("{} {}\n", state.first, state.written).as_bytes()) {
            tracing::warn!(file = %file.display(), %error, "write session ids");
        }
    }
}

/// Writes a file so that it is there whole, or as it was before.
pub(crate) fn write_whole(file: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let beside = file.with_extension("new");
    let mut new = std::fs::File::create(&beside)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    std::fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_closed_longest_comes_first_again_when_all_were_used() {
        let folder = tempfile::tempdir().unwrap();
        let ids = SessionIds::open(folder.path().join("ids"));
        assert_eq!(ids.open_one(), None, "no block yet");
        ids.assign(FIRST);
        let all: Vec<u32> = std::iter::from_fn(|| ids.open_one()).collect();
        assert_eq!((all[0], all.len()), (FIRST, BLOCK as usize));
        for id in [FIRST + 9, FIRST + 3] {
            ids.close(id);
        }
        assert_eq!(
            [ids.open_one(), ids.open_one(), ids.open_one()],
            [Some(FIRST + 9), Some(FIRST + 3), None]
        );
    }

    /// However many sessions come and go: what is kept of them is bounded, and no id comes again soon.
    #[test]
    fn ids_of_sessions_that_are_gone_take_a_bounded_room() {
        let folder = tempfile::tempdir().unwrap();
        let ids = SessionIds::open(folder.path().join("ids"));
        ids.assign(FIRST);
        let mut closed_at = std::collections::HashMap::new();
        for n in 0..2 * MOST_CLOSED + 10_000 {
            let id = ids.open_one().unwrap();
            if let Some(before) = closed_at.insert(id, n) {
                assert!(n - before >= MOST_CLOSED, "{id} again after {}", n - before);
            }
            ids.close(id);
            assert!(ids.state.lock().closed.len() <= MOST_CLOSED);
        }
    }

    #[test]
    fn a_restart_at_the_end_of_the_block_still_has_all_its_ids() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids");
        std::fs::write(&file, format!("{FIRST} {}", FIRST + BLOCK - 1)).unwrap();
        let ids = SessionIds::open(file);
        let all: std::collections::HashSet<u32> = std::iter::from_fn(|| ids.open_one()).collect();
        assert_eq!(all.len(), BLOCK as usize);
    }

    #[test]
    fn a_restart_goes_on_behind_what_was_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids");
        let ids = SessionIds::open(file.clone());
        ids.assign(FIRST + BLOCK);
        let used = ids.open_one().unwrap();
        ids.close(used);
        let again = SessionIds::open(file.clone());
        assert_eq!(again.first(), FIRST + BLOCK);
        assert!(again.open_one().unwrap() > used);
        std::fs::write(&file, "garbage").unwrap();
        assert_eq!(SessionIds::open(file).first(), 0);
    }
}
