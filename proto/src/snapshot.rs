//! The routing state, and how it changes.
//!
//! Both planes hold the same [`RoutingSnapshot`]: the control plane makes it of the store, a data plane of the stream.
//! It changes in one way: [`RoutingSnapshot::apply`], which is pure, and takes a delta whole or not at all.
//!
//! A [`Version`] is the store's id, its revision, and a digest: the wrapping sum over all entries of
//! [`entry_hash`]. Two states with one version are the same state, whichever replica and whichever history they came
//! from: a restored store or a lost event shows as a digest that differs.
//!
//! Must not know: where entries are kept or how they travel.

use crate::cn::{Cn, CnGroup, CnId, RoutedCn};
use crate::tenant::Tenant;
use crate::wire::Policy;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which state it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version {
    /// Made at the store's first start; empty: no state at all.
    pub store_id: String,
    /// The store's revision. Grows with each write.
    pub revision: u64,
    /// Wrapping sum of the entries' hashes.
    pub digest: u64,
}

/// One object of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// `cn/<name>`
    Cn(Arc<Cn>),
    /// `group/<name>`
    Group(Arc<CnGroup>),
    /// `tenant/<name>`
    Tenant(Arc<Tenant>),
    /// `policy`
    Policy(Policy),
}

impl Object {
    /// The key that it is kept under, without the store's prefix.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Cn(cn) => format!("cn/{}", cn.name),
            Self::Group(group) => format!("group/{}", group.name),
            Self::Tenant(tenant) => format!("tenant/{}", tenant.name),
            Self::Policy(_) => "policy".to_owned(),
        }
    }
}

/// An object with what the digest is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The object.
    pub object: Object,
    /// The revision at which it was written last.
    pub mod_revision: u64,
    /// [`entry_hash`] of it, made where the stored bytes are known.
    pub hash: u64,
}

/// What changed between two versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// What it is applied to.
    pub from: Version,
    /// What it makes.
    pub to: Version,
    /// New or changed.
    pub changed: Vec<Entry>,
    /// Keys that are gone.
    pub removed: Vec<String>,
}

/// Why a delta or a set of entries was refused. The state that was there stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is for another state.
    #[error(
        "delta is from revision {from} of store {from_store}, the state is at revision {at} of store {at_store}"
    )]
    NotFrom {
        /// The delta's store.
        from_store: String,
        /// The delta's revision.
        from: u64,
        /// The state's store.
        at_store: String,
        /// The state's revision.
        at: u64,
    },
    /// It goes back.
    #[error("delta goes from revision {from} back to {to}")]
    Older {
        /// The state's revision.
        from: u64,
        /// The delta's.
        to: u64,
    },
    /// After it the state is not what its sender has.
    #[error("digest after revision {revision} is {have:016x}, not {want:016x}")]
    Digest {
        /// The revision.
        revision: u64,
        /// As computed.
        have: u64,
        /// As sent.
        want: u64,
    },
}

/// The whole routing state at one version.
#[derive(Clone, Debug, Default)]
pub struct RoutingSnapshot {
    version: Version,
    entries: BTreeMap<String, Entry>,
    cns: BTreeMap<CnId, Arc<RoutedCn>>,
    label_keys: BTreeSet<String>,
}

impl RoutingSnapshot {
    /// The state of `entries`. The digest of `version` must be theirs.
    ///
    /// # Errors
    /// [`ApplyError::Digest`].
    pub fn from_entries(
        version: Version,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<Self, ApplyError> {
        let entries = entries.into_iter().map(|entry| (entry.object.key(), entry)).collect();
        Self::checked(version, entries)
    }

    /// This state after `delta`.
    ///
    /// # Errors
    /// [`ApplyError`]: the delta is not from this state, goes back, or does not make what its sender has.
    pub fn apply(&self, delta: Delta) -> Result<Self, ApplyError> {
        let Delta { from, to, changed, removed } = delta;
        if from != self.version || to.store_id != self.version.store_id {
            return Err(ApplyError::NotFrom {
                from_store: from.store_id,
                from: from.revision,
                at_store: self.version.store_id.clone(),
                at: self.version.revision,
            });
        }
        if to.revision < from.revision {
            return Err(ApplyError::Older { from: from.revision, to: to.revision });
        }
        let mut entries = self.entries.clone();
        for key in removed {
            entries.remove(&key);
        }
        for entry in changed {
            entries.insert(entry.object.key(), entry);
        }
        Self::checked(to, entries)
    }

    fn checked(version: Version, entries: BTreeMap<String, Entry>) -> Result<Self, ApplyError> {
        let have = digest(entries.values());
        if have != version.digest {
            return Err(ApplyError::Digest { revision: version.revision, have, want: version.digest });
        }
        let mut snapshot = Self { version, entries, ..Self::default() };
        let cns: Vec<Arc<Cn>> = snapshot
            .entries
            .values()
            .filter_map(|entry| match &entry.object {
                Object::Cn(cn) => Some(Arc::clone(cn)),
                _ => None,
            })
            .collect();
        for cn in cns {
            let group = cn.group.as_deref().and_then(|name| snapshot.group(name)).cloned();
            let routed = RoutedCn::new(cn, group.as_deref());
            snapshot.label_keys.extend(routed.labels.keys().map(str::to_owned));
            snapshot.cns.insert(routed.name().clone(), Arc::new(routed));
        }
        Ok(snapshot)
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> &Version {
        &self.version
    }

    /// Its entries, in the order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// The entry of `key`.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Its CNs, in the order of their names.
    pub fn cns(&self) -> impl Iterator<Item = &Arc<RoutedCn>> {
        self.cns.values()
    }

    /// The CN of that name.
    #[must_use]
    pub fn cn(&self, name: &CnId) -> Option<&Arc<RoutedCn>> {
        self.cns.get(name)
    }

    /// The group of that name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Arc<CnGroup>> {
        match &self.entries.get(&format!("group/{name}"))?.object {
            Object::Group(group) => Some(group),
            _ => None,
        }
    }

    /// The tenant of that name; one never declared has no limits.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Cow<'_, Tenant> {
        match self.entries.get(&format!("tenant/{name}")).map(|entry| &entry.object) {
            Some(Object::Tenant(tenant)) => Cow::Borrowed(tenant),
            _ => Cow::Owned(Tenant::undeclared(name)),
        }
    }

    /// The policy; the default one where none was written.
    #[must_use]
    pub fn policy(&self) -> Policy {
        match self.entries.get("policy").map(|entry| &entry.object) {
            Some(Object::Policy(policy)) => policy.clone(),
            _ => Policy::default(),
        }
    }

    /// The keys of all labels on CNs: connection attributes with these keys ask for labels.
    #[must_use]
    pub fn is_label_key(&self, key: &str) -> bool {
        self.label_keys.contains(key)
    }

    /// What changed from `older` to this state.
    #[must_use]
    pub fn delta_from(&self, older: &Self) -> Delta {
        let changed = self
            .entries
            .iter()
            .filter(|(key, entry)| older.entries.get(*key) != Some(entry))
            .map(|(_, entry)| entry.clone())
            .collect();
        let removed = older.entries.keys().filter(|key| !self.entries.contains_key(*key)).cloned().collect();
        Delta { from: older.version.clone(), to: self.version.clone(), changed, removed }
    }
}

/// The wrapping sum of the hashes of `entries`.
pub fn digest<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> u64 {
    entries.into_iter().fold(0, |sum, entry| sum.wrapping_add(entry.hash))
}

/// The hash of an entry: FNV-1a over key, mod revision and stored value, then mixed (the finaliser of MurmurHash3),
/// so that a sum of hashes stays sensitive to each bit.
#[must_use]
pub fn entry_hash(key: &str, mod_revision: u64, value: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let length = u64::try_from(key.len()).unwrap_or(u64::MAX);
    let parts = [&length.to_le_bytes(), key.as_bytes(), &mod_revision.to_le_bytes()[..], value];
    for byte in parts.into_iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
