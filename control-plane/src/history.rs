//! Which keys changed from version to version, for a while back: what a data plane's next delta is made of.
//!
//! Only keys are kept. A delta takes the entries out of the newest snapshot, so that a data plane that is far behind
//! gets one merged delta, and memory does not grow with the number of data planes or with how slow they are.

use shunt_proto::snapshot::{Delta, RoutingSnapshot, Version};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// How many changes, and how many keys in all of them, are kept.
const CHANGES: usize = 1024;
const KEYS: usize = 65_536;

/// The last changes of the routing state.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    changes: VecDeque<Changed>,
    keys: usize,
}

#[derive(Clone, Debug)]
struct Changed {
    from: Version,
    keys: Arc<[String]>,
}

impl History {
    /// Notes that `delta` was published.
    pub(crate) fn push(&mut self, delta: &Delta) {
        let keys = delta.changed.iter().map(|entry| entry.object.key()).chain(delta.removed.iter().cloned());
        let keys: Arc<[String]> = keys.collect();
        self.keys += keys.len();
        self.changes.push_back(Changed { from: delta.from.clone(), keys });
        while self.changes.len() > CHANGES || self.keys > KEYS {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.keys -= oldest.keys.len();
        }
    }

    /// Forgets everything: the store went back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What makes `newest` of the state at `from`; none where that cannot be known: a snapshot is needed.
    pub(crate) fn delta(&self, from: &Version, newest: &RoutingSnapshot) -> Option<Delta> {
        let to = newest.version();
        if from.store_id != to.store_id || from.revision > to.revision {
            return None;
        }
        let mut delta = Delta { from: from.clone(), to: to.clone(), ..Delta::default() };
        // The same state, read at another revision: nothing changed in between but keys that are not routing state.
        if from.digest == to.digest {
            return Some(delta);
        }
        let first = self.changes.iter().position(|changed| changed.from == *from)?;
        let keys: BTreeSet<&String> =
            self.changes.range(first..).flat_map(|changed| changed.keys.iter()).collect();
        for key in keys {
            match newest.entry(key) {
                Some(entry) => delta.changed.push(entry.clone()),
                None => delta.removed.push(key.clone()),
            }
        }
        Some(delta)
    }
}
