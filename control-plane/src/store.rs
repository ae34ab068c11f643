//! Where intent is kept: load all of it, watch it from a revision, change it by compare-and-set, hold leases.
//!
//! [`embedded`] keeps it in a file for one machine, [`etcd`] in a cluster. Both behave alike and pass one suite
//! (`tests/store_suite.rs`). Values are opaque bytes; each write has a revision that never repeats.
//!
//! Must not know: what the facts are for.

pub mod embedded;
pub mod etcd;

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// The most conditions, and the most writes, of one transaction: etcd's default.
pub const MAX_TXN: usize = 128;

/// The largest value, in bytes. A transaction of [`MAX_TXN`] of them need not fit: etcd takes 1.5 MiB in all.
pub const MAX_VALUE: usize = 64 * 1024;

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or answered that it cannot.
    #[error("reach the store: {0}")]
    Unavailable(String),
    /// It did not answer in time whether a write was done, and it could not be found out.
    #[error("learn whether the write was done: {0}")]
    Unknown(String),
    /// The history from that revision on is gone, or the store went back behind it: load again.
    #[error("watch from revision {0}: no longer in the store's history")]
    Compacted(u64),
    /// The transaction is larger than the store takes.
    #[error("transaction is too large: {0}")]
    TooLarge(String),
    /// There is no such lease (any more).
    #[error("lease {0} is gone")]
    NoLease(i64),
    /// It cannot be used by this process, now or ever.
    #[error("{0}")]
    Unusable(String),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Without the store's prefix.
    pub key: String,
    /// As it was written.
    pub value: Bytes,
    /// The revision of that write.
    pub mod_revision: u64,
}

/// All that is in the store at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The revision.
    pub revision: u64,
    /// In the order of their keys.
    pub items: Vec<Item>,
}

/// A key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Without the store's prefix.
    pub key: String,
    /// None: deleted.
    pub value: Option<Bytes>,
    /// The revision at which it changed.
    pub mod_revision: u64,
}

/// Changes in the order in which they were made. Those of one revision are never in two batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The last revision in it.
    pub revision: u64,
    /// What changed.
    pub changes: Vec<Change>,
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key, under a lease where one is given.
    Put {
        /// Without the store's prefix.
        key: String,
        /// The new value.
        value: Bytes,
        /// The lease with which it goes.
        lease: Option<i64>,
    },
    /// Takes a key away. One that is not there is no error.
    Delete {
        /// Without the store's prefix.
        key: String,
    },
}

/// Writes that are done all or none, and only if each named key is at the given revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Keys with the revision of their last write; 0: not there.
    pub when: Vec<(String, u64)>,
    /// No key twice.
    pub then: Vec<Write>,
}

impl Txn {
    /// A transaction without conditions and writes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// On condition that `key` was last written at `mod_revision`; 0: is not there.
    #[must_use]
    pub fn when(mut self, key: &str, mod_revision: u64) -> Self {
        self.when.push((key.to_owned(), mod_revision));
        self
    }

    /// Sets `key`.
    #[must_use]
    pub fn put(mut self, key: &str, value: impl Into<Bytes>) -> Self {
        self.then.push(Write::Put { key: key.to_owned(), value: value.into(), lease: None });
        self
    }

    /// Sets `key` for as long as `lease` lives.
    #[must_use]
    pub fn put_under(mut self, lease: i64, key: &str, value: impl Into<Bytes>) -> Self {
        self.then.push(Write::Put { key: key.to_owned(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Takes `key` away.
    #[must_use]
    pub fn delete(mut self, key: &str) -> Self {
        self.then.push(Write::Delete { key: key.to_owned() });
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, durably, at this revision.
    Committed(u64),
    /// A condition did not hold: nothing was done.
    Conflict,
}

/// A stream of batches. Dropping it ends the watch.
#[async_trait]
pub trait Watch: Send {
    /// The next changes. Cancel safe.
    ///
    /// # Errors
    /// [`StoreError`]: the watch is over, load again.
    async fn next(&mut self) -> Result<Batch, StoreError>;
}

/// A place for intent. Every call ends within a bounded time.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// `embedded` or `etcd`.
    fn kind(&self) -> &'static str;

    /// All keys at one revision.
    async fn load(&self) -> Result<Loaded, StoreError>;

    /// One key, as it is now (linearizable).
    async fn read(&self, key: &str) -> Result<Option<Item>, StoreError>;

    /// Changes after `revision`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] where that revision is no longer in the history, or not yet: the store went back.
    async fn watch(&self, revision: u64) -> Result<Box<dyn Watch>, StoreError>;

    /// Does a transaction, once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was done. [`StoreError::Unknown`]: that is not certain.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// A new lease. Its keys go when it was not kept alive for `ttl` (at least; whole seconds, at least two).
    async fn lease(&self, ttl: Duration) -> Result<i64, StoreError>;

    /// Starts the lease's time again.
    ///
    /// # Errors
    /// [`StoreError::NoLease`]: too late, its keys are gone.
    async fn keep_alive(&self, lease: i64) -> Result<(), StoreError>;

    /// Ends a lease: its keys go now. One that is gone is no error.
    async fn revoke(&self, lease: i64) -> Result<(), StoreError>;

    /// Writes what is to be written and lets go of the place. No call succeeds afterwards.
    async fn close(&self);
}

/// A store that is shared.
pub type SharedStore = Arc<dyn Store>;

/// Refuses what one of the two stores would refuse.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    if txn.when.len() > MAX_TXN || txn.then.len() > MAX_TXN {
        return Err(StoreError::TooLarge(format!("more than {MAX_TXN} conditions or writes")));
    }
    let mut keys = std::collections::BTreeSet::new();
    for write in &txn.then {
        let (Write::Put { key, .. } | Write::Delete { key }) = write;
        if !keys.insert(key) {
            return Err(StoreError::TooLarge(format!("key {key} is written twice")));
        }
        if let Write::Put { value, .. } = write
            && value.len() > MAX_VALUE
        {
            return Err(StoreError::TooLarge(format!("value of {key} has {} bytes", value.len())));
        }
    }
    Ok(())
}
