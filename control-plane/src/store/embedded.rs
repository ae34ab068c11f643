//! The store in a file, for one machine: redb, durable at each commit, one process at a time.
//!
//! A bounded part of the history stays in memory, so that a watch can go on from a revision; one that fell behind it
//! is told to load again, as etcd tells after a compaction. Rows hold opaque bytes: revision, lease, value.

use super::{Batch, Change, Item, Loaded, Outcome, Store, StoreError, Txn, Watch, Write, check};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Key → revision of the write, lease (both eight bytes, big endian), value.
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
/// `revision` → eight bytes, big endian.
const META: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("meta");
const REVISION: &[u8] = b"revision";

/// How many batches of changes, and how many bytes of them, a watch can be behind.
const HISTORY: usize = 4096;
const HISTORY_BYTES: usize = 16 * 1024 * 1024;

/// The shortest lease, as etcd has it.
const MIN_LEASE: Duration = Duration::from_secs(2);

/// A store in a folder of this machine.
pub struct Embedded {
    shared: Arc<Shared>,
    expiry: AbortHandle,
}

struct Shared {
    path: PathBuf,
    /// None: closed. Held over each commit, so that history is in the order of revisions.
    database: Mutex<Option<Database>>,
    history: Mutex<History>,
    /// What watches wait for.
    head: watch::Sender<Head>,
    leases: Mutex<HashMap<i64, Lease>>,
    leases_changed: Notify,
}

#[derive(Clone, Copy)]
struct Head {
    revision: u64,
    closed: bool,
}

struct Lease {
    ttl: Duration,
    ends: Instant,
}

/// The last changes.
struct History {
    /// Changes up to here are gone.
    floor: u64,
    bytes: usize,
    batches: VecDeque<Batch>,
}

impl Embedded {
    /// Opens the store in `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: another process has it, or the file is not a store, or cannot be written.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("control.redb");
        let shared = blocking({
            let folder = folder.to_owned();
            move || {
                std::fs::create_dir_all(&folder).map_err(|error| {
                    StoreError::Unusable(format!("make the store's folder {}: {error}", folder.display()))
                })?;
                Shared::open(path)
            }
        })
        .await?;
        let shared = Arc::new(shared);
        let expiry = tokio::spawn(expire(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, expiry })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

#[async_trait]
impl Store for Embedded {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.load()).await
    }

    async fn read(&self, key: &str) -> Result<Option<Item>, StoreError> {
        let (shared, key) = (Arc::clone(&self.shared), key.to_owned());
        blocking(move || shared.read(&key)).await
    }

    async fn watch(&self, revision: u64) -> Result<Box<dyn Watch>, StoreError> {
        let changed = self.shared.head.subscribe();
        let head = *changed.borrow();
        if head.closed {
            return Err(closed());
        }
        // A revision that is not there yet is of a store that was put back.
        if revision > head.revision || revision < self.shared.history.lock().floor {
            return Err(StoreError::Compacted(revision));
        }
        Ok(Box::new(Follow { shared: Arc::clone(&self.shared), at: revision, changed }))
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        check(&txn)?;
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.commit(&txn)).await
    }

    async fn lease(&self, ttl: Duration) -> Result<i64, StoreError> {
        let ttl = ttl.max(MIN_LEASE);
        let mut leases = self.shared.leases.lock();
        let id = loop {
            let id = i64::from(rand::random::<u32>()) + 1;
            if !leases.contains_key(&id) {
                break id;
            }
        };
        leases.insert(id, Lease { ttl, ends: Instant::now() + ttl });
        drop(leases);
        self.shared.leases_changed.notify_one();
        Ok(id)
    }

    async fn keep_alive(&self, lease: i64) -> Result<(), StoreError> {
        let mut leases = self.shared.leases.lock();
        let found = leases.get_mut(&lease).ok_or(StoreError::NoLease(lease))?;
        found.ends = Instant::now() + found.ttl;
        Ok(())
    }

    async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.shared.leases.lock().remove(&lease);
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.end_leases(&[lease])).await
    }

    async fn close(&self) {
        self.expiry.abort();
        let shared = Arc::clone(&self.shared);
        let done = blocking(move || {
            shared.head.send_modify(|head| head.closed = true);
            match shared.database.lock().take().map(Database::close) {
                Some(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
                _ => Ok(()),
            }
        });
        if let Err(error) = done.await {
            tracing::warn!(%error, "close the store");
        }
    }
}

/// A watch that reads the history at its own pace.
struct Follow {
    shared: Arc<Shared>,
    at: u64,
    changed: watch::Receiver<Head>,
}

#[async_trait]
impl Watch for Follow {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if self.changed.borrow_and_update().closed {
                return Err(closed());
            }
            let newer = self.shared.history.lock().after(self.at)?;
            if let Some(batch) = newer {
                self.at = batch.revision;
                return Ok(batch);
            }
            self.changed.changed().await.map_err(|_| closed())?;
        }
    }
}

impl History {
    fn push(&mut self, batch: Batch) {
        self.bytes += size(&batch);
        self.batches.push_back(batch);
        while self.batches.len() > HISTORY || self.bytes > HISTORY_BYTES {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.floor = oldest.revision;
        }
    }

    /// All changes after `revision` in one batch; none where there are none.
    fn after(&self, revision: u64) -> Result<Option<Batch>, StoreError> {
        if revision < self.floor {
            return Err(StoreError::Compacted(revision));
        }
        let first = self.batches.partition_point(|batch| batch.revision <= revision);
        let mut merged: Option<Batch> = None;
        for batch in self.batches.range(first..) {
            match &mut merged {
                Some(merged) => {
                    merged.revision = batch.revision;
                    merged.changes.extend(batch.changes.iter().cloned());
                }
                None => merged = Some(batch.clone()),
            }
        }
        Ok(merged)
    }
}

fn size(batch: &Batch) -> usize {
    let one = |change: &Change| 64 + change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
    64 + batch.changes.iter().map(one).sum::<usize>()
}

impl Shared {
    fn open(path: PathBuf) -> Result<Self, StoreError> {
        let unusable = |error: &dyn std::fmt::Display| {
            StoreError::Unusable(format!("open the store {}: {error}", path.display()))
        };
        // Checked as a whole, because redb may panic over a file that was damaged from outside.
        let database = match Builder::new().set_check_integrity_on_open(true).create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(unusable(&"another process has it open (one shunt-control per folder)"));
            }
            Err(error) => return Err(unusable(&error)),
        };
        let revision = prepare(&database).map_err(|error| unusable(&error))?;
        Ok(Self {
            path,
            database: Mutex::new(Some(database)),
            history: Mutex::new(History { floor: revision, bytes: 0, batches: VecDeque::new() }),
            head: watch::Sender::new(Head { revision, closed: false }),
            leases: Mutex::default(),
            leases_changed: Notify::new(),
        })
    }

    fn load(&self) -> Result<Loaded, StoreError> {
        self.with(|database| {
            let read = database.begin_read()?;
            let revision = number(read.open_table(META)?.get(REVISION)?.map(|v| v.value().to_vec()));
            let mut items = Vec::new();
            for row in read.open_table(ROWS)?.iter()? {
                let (key, row) = row?;
                items.push(item(key.value(), row.value()));
            }
            Ok(Loaded { revision, items })
        })
    }

    fn read(&self, key: &str) -> Result<Option<Item>, StoreError> {
        self.with(|database| {
            let rows = database.begin_read()?.open_table(ROWS)?;
            Ok(rows.get(key.as_bytes())?.map(|row| item(key.as_bytes(), row.value())))
        })
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        {
            let leases = self.leases.lock();
            let gone = txn.then.iter().find_map(|write| match write {
                Write::Put { lease: Some(lease), .. } if !leases.contains_key(lease) => Some(*lease),
                _ => None,
            });
            if let Some(lease) = gone {
                return Err(StoreError::NoLease(lease));
            }
        }
        let database = self.database.lock();
        let database = database.as_ref().ok_or_else(closed)?;
        let done = write(database, |rows, _| {
            let holds = |(key, revision): &(String, u64)| -> Result<bool, redb::Error> {
                let row = rows.get(key.as_bytes())?;
                Ok(row.map_or(0, |row| item(&[], row.value()).mod_revision) == *revision)
            };
            for condition in &txn.when {
                if !holds(condition)? {
                    return Ok(None);
                }
            }
            Ok(Some(txn.then.clone()))
        });
        match done.map_err(|error| self.failed(&error))? {
            Some(batch) => {
                let revision = batch.revision;
                self.publish(batch);
                Ok(Outcome::Committed(revision))
            }
            None => Ok(Outcome::Conflict),
        }
    }

    /// Takes away the keys that were put under `leases`.
    fn end_leases(&self, leases: &[i64]) -> Result<(), StoreError> {
        let database = self.database.lock();
        let database = database.as_ref().ok_or_else(closed)?;
        let done = write(database, |rows, _| {
            let mut writes = Vec::new();
            for row in rows.iter()? {
                let (key, row) = row?;
                if leases.contains(&lease_of(row.value())) {
                    writes.push(Write::Delete { key: text(key.value()) });
                }
            }
            Ok(Some(writes).filter(|writes| !writes.is_empty()))
        });
        if let Some(batch) = done.map_err(|error| self.failed(&error))? {
            self.publish(batch);
        }
        Ok(())
    }

    /// Under the lock of the database.
    fn publish(&self, batch: Batch) {
        if batch.changes.is_empty() {
            return;
        }
        let revision = batch.revision;
        self.history.lock().push(batch);
        self.head.send_modify(|head| head.revision = revision);
    }

    fn with<T>(&self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let database = self.database.lock();
        read(database.as_ref().ok_or_else(closed)?).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &redb::Error) -> StoreError {
        StoreError::Unavailable(format!("{}: {error}", self.path.display()))
    }
}

/// Makes the tables where they are not there. Keys under a lease go: only this process could have kept it alive.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let done = write(database, |rows, _| {
        let mut writes = Vec::new();
        for row in rows.iter()? {
            let (key, row) = row?;
            if lease_of(row.value()) != 0 {
                writes.push(Write::Delete { key: text(key.value()) });
            }
        }
        Ok(Some(writes))
    })?;
    Ok(done.map_or(0, |batch| batch.revision))
}

type Rows<'txn> = redb::Table<'txn, &'static [u8], &'static [u8]>;

/// One durable transaction with the writes that `decide` says, under the next revision. No writes: the revision stays.
fn write(
    database: &Database,
    decide: impl FnOnce(&Rows<'_>, u64) -> Result<Option<Vec<Write>>, redb::Error>,
) -> Result<Option<Batch>, redb::Error> {
    let txn = database.begin_write()?;
    let batch = {
        let mut meta = txn.open_table(META)?;
        let mut rows = txn.open_table(ROWS)?;
        let at = number(meta.get(REVISION)?.map(|value| value.value().to_vec()));
        let Some(writes) = decide(&rows, at)? else { return Ok(None) };
        let mut changes = Vec::new();
        for write in writes {
            changes.extend(done(&mut rows, write, at + 1)?);
        }
        let revision = if changes.is_empty() { at } else { at + 1 };
        meta.insert(REVISION, &revision.to_be_bytes()[..])?;
        Batch { revision, changes }
    };
    txn.commit()?;
    Ok(Some(batch))
}

/// Does one write; what changed by it.
fn done(rows: &mut Rows<'_>, write: Write, revision: u64) -> Result<Option<Change>, redb::Error> {
    match write {
        Write::Put { key, value, lease } => {
            let mut row = revision.to_be_bytes().to_vec();
            row.extend(lease.unwrap_or(0).to_be_bytes());
            row.extend(&value);
            rows.insert(key.as_bytes(), row.as_slice())?;
            Ok(Some(Change { key, value: Some(value), mod_revision: revision }))
        }
        Write::Delete { key } => {
            let was = rows.remove(key.as_bytes())?.is_some();
            Ok(was.then_some(Change { key, value: None, mod_revision: revision }))
        }
    }
}

fn item(key: &[u8], row: &[u8]) -> Item {
    let value = row.get(16..).unwrap_or_default();
    Item {
        key: text(key),
        value: Bytes::copy_from_slice(value),
        mod_revision: number(row.get(..8).map(<[u8]>::to_vec)),
    }
}

fn lease_of(row: &[u8]) -> i64 {
    row.get(8..16).and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_be_bytes)
}

/// Eight bytes, big endian; 0 for anything else.
fn number(bytes: Option<Vec<u8>>) -> u64 {
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".to_owned())
}

/// Ends leases when their time is over.
async fn expire(shared: Arc<Shared>) {
    loop {
        let next = shared.leases.lock().values().map(|lease| lease.ends).min();
        match next {
            Some(ends) => tokio::select! {
                () = tokio::time::sleep_until(ends) => {}
                () = shared.leases_changed.notified() => continue,
            },
            None => {
                shared.leases_changed.notified().await;
                continue;
            }
        }
        let now = Instant::now();
        let mut over = Vec::new();
        shared.leases.lock().retain(|id, lease| {
            let ended = lease.ends <= now;
            if ended {
                over.push(*id);
            }
            !ended
        });
        let ending = Arc::clone(&shared);
        if let Err(error) = blocking(move || ending.end_leases(&over)).await {
            tracing::warn!(%error, "end leases");
        }
    }
}

/// Runs `work`, which waits for the disk, off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(format!("the store's thread ended: {error}"))),
    }
}
