//! One suite for both stores: what is true of one is true of the other. Then what only one of them can go through.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod etcd;

use shunt_control::store::embedded::Embedded;
use shunt_control::store::etcd::Etcd as EtcdStore;
use shunt_control::store::{Batch, Change, Outcome, SharedStore, Store, StoreError, Txn, Watch, Write};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// A store to be tested, and how its history is dropped.
struct Place {
    store: SharedStore,
    etcd: Option<etcd::Etcd>,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(folder.path()).await.unwrap());
        Self { store, etcd: None, _folder: Some(folder) }
    }

    fn etcd() -> Option<Self> {
        let etcd = etcd::Etcd::start()?;
        let store = Arc::new(EtcdStore::new(&[etcd.endpoint()], "/shunt").unwrap());
        Some(Self { store, etcd: Some(etcd), _folder: None })
    }

    /// Makes the revision before the newest one a thing of the past.
    async fn forget_history(&self) {
        if let Some(etcd) = &self.etcd {
            etcd.compact(self.revision().await);
            return;
        }
        // The embedded store keeps 16 MiB of it.
        for i in 0..300_u16 {
            let value = vec![i.to_le_bytes()[0]; 60 * 1024];
            self.done(Txn::new().put("fill/x", value)).await;
        }
        self.done(Txn::new().delete("fill/x")).await;
    }

    async fn revision(&self) -> u64 {
        self.store.load().await.unwrap().revision
    }

    async fn done(&self, txn: Txn) -> u64 {
        match self.store.commit(txn).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict => panic!("conflict"),
        }
    }

    /// Keys with their values.
    async fn all(&self) -> Vec<(String, String)> {
        let items = self.store.load().await.unwrap().items;
        items.into_iter().map(|item| (item.key, String::from_utf8(item.value.to_vec()).unwrap())).collect()
    }
}

/// The changes up to `revision`, in order.
async fn changes(watch: &mut Box<dyn Watch>, revision: u64) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        let Batch { revision: at, changes } =
            timeout(Duration::from_secs(10), watch.next()).await.expect("no change within 10 s").unwrap();
        assert!(changes.iter().all(|change| change.mod_revision <= at));
        all.extend(changes);
        if at >= revision {
            return all;
        }
    }
}

fn texts(changes: &[Change]) -> Vec<(&str, Option<&str>)> {
    let text = |value| std::str::from_utf8(value).unwrap();
    changes.iter().map(|change| (change.key.as_str(), change.value.as_deref().map(text))).collect()
}

async fn conditions(place: Place) {
    let loaded = place.store.load().await.unwrap();
    assert!(loaded.items.is_empty());
    let one = place.done(Txn::new().when("a", 0).put("a", "1")).await;
    assert!(one > loaded.revision);
    let conflict = |txn| async { assert_eq!(place.store.commit(txn).await.unwrap(), Outcome::Conflict) };
    conflict(Txn::new().when("a", 0).put("a", "2")).await;
    conflict(Txn::new().when("a", one + 1).put("a", "2")).await;
    // One condition of several: nothing of it is done.
    conflict(Txn::new().when("a", one).when("b", 7).put("a", "2").put("b", "2")).await;
    assert_eq!(place.revision().await, one, "a conflict is no write");
    let two = place.done(Txn::new().when("a", one).when("b", 0).put("a", "2").put("b", "2")).await;
    assert!(two > one);
    assert_eq!(place.all().await, [("a".into(), "2".into()), ("b".into(), "2".into())]);
    let item = place.store.read("b").await.unwrap().unwrap();
    assert_eq!((item.mod_revision, &item.value[..]), (two, &b"2"[..]));
    assert_eq!(place.store.read("c").await.unwrap(), None);
    place.done(Txn::new().when("a", two).delete("a").delete("never")).await;
    assert_eq!(place.all().await, [("b".into(), "2".into())]);
    conflict(Txn::new().when("a", two).put("a", "3")).await;
    place.done(Txn::new().when("a", 0).put("a", "3")).await;
}

async fn bytes_are_opaque(place: Place) {
    let all: Vec<u8> = (0..=255).collect();
    place.done(Txn::new().put("all", all.clone()).put("empty", Vec::new())).await;
    assert_eq!(place.store.read("all").await.unwrap().unwrap().value, all);
    assert!(place.store.read("empty").await.unwrap().unwrap().value.is_empty());
}

async fn many_keys(place: Place) {
    // More than a page of etcd's, and in the order of keys.
    for ten in 0..12 {
        let mut txn = Txn::new();
        for one in 0..100 {
            txn = txn.put(&format!("k/{ten:02}{one:02}"), "x".repeat(2000));
        }
        place.done(txn).await;
    }
    let loaded = place.store.load().await.unwrap();
    assert_eq!(loaded.items.len(), 1200);
    assert!(loaded.items.is_sorted_by(|one, other| one.key < other.key));
}

async fn bounds(place: Place) {
    let many =
        |n: usize| (0..n).fold(Txn::new(), |txn, i| txn.when(&format!("k{i}"), 0).put(&format!("k{i}"), "x"));
    place.done(many(128)).await;
    for txn in [
        many(129),
        Txn::new().put("x", vec![0; 64 * 1024 + 1]),
        Txn::new().put("x", "1").put("x", "2"),
        Txn::new().put("x", "1").delete("x"),
    ] {
        let refused = place.store.commit(txn).await;
        assert!(matches!(refused, Err(StoreError::TooLarge(_))), "{refused:?}");
    }
    assert_eq!(place.store.read("x").await.unwrap(), None);
}

async fn watching(place: Place) {
    let begin = place.revision().await;
    let mut early = place.store.watch(begin).await.unwrap();
    let one = place.done(Txn::new().put("a", "1").put("b", "1")).await;
    assert_eq!(texts(&changes(&mut early, one).await), [("a", Some("1")), ("b", Some("1"))]);
    let two = place.done(Txn::new().put("a", "2")).await;
    let three = place.done(Txn::new().delete("b").delete("never")).await;
    assert_eq!(texts(&changes(&mut early, three).await), [("a", Some("2")), ("b", None)]);
    // From the past: all of it again, in order, and nothing twice.
    let mut late = place.store.watch(begin).await.unwrap();
    let seen = changes(&mut late, three).await;
    let revisions: Vec<u64> = seen.iter().map(|change| change.mod_revision).collect();
    assert_eq!(revisions, [one, one, two, three]);
    // From the middle.
    let mut middle = place.store.watch(one).await.unwrap();
    assert_eq!(changes(&mut middle, three).await.len(), 2);
    // From now on: nothing until something happens.
    let mut now = place.store.watch(three).await.unwrap();
    assert!(timeout(Duration::from_millis(200), now.next()).await.is_err());
    let four = place.done(Txn::new().put("c", "1")).await;
    assert_eq!(texts(&changes(&mut now, four).await), [("c", Some("1"))]);
}

async fn lost_history(place: Place) {
    let begin = place.done(Txn::new().put("a", "1")).await;
    // Two, because etcd keeps the revision that its history is dropped up to.
    place.done(Txn::new().put("a", "2")).await;
    place.done(Txn::new().put("a", "2")).await;
    place.forget_history().await;
    let ended = async {
        let mut watch = place.store.watch(begin).await?;
        loop {
            watch.next().await?;
        }
    };
    let ended: Result<(), StoreError> = timeout(Duration::from_secs(10), ended).await.unwrap();
    assert_eq!(ended, Err(StoreError::Compacted(begin)));
    // A load, and on from there.
    let loaded = place.store.load().await.unwrap();
    let mut watch = place.store.watch(loaded.revision).await.unwrap();
    let next = place.done(Txn::new().put("a", "3")).await;
    assert_eq!(texts(&changes(&mut watch, next).await), [("a", Some("3"))]);
}

/// As after a restore from a backup: otherwise such a watch is silent for ever.
async fn a_revision_that_is_not_there_yet(place: Place) {
    let future = place.revision().await + 1000;
    let refused = timeout(Duration::from_secs(10), place.store.watch(future)).await.unwrap();
    assert!(matches!(refused.map(|_| ()), Err(StoreError::Compacted(at)) if at == future));
}

async fn leases(place: Place) {
    let ttl = Duration::from_secs(2);
    let put = |key: &str, lease| Txn {
        when: vec![],
        then: vec![Write::Put { key: key.into(), value: "x".into(), lease: Some(lease) }],
    };
    let (short, kept, ended) = (
        place.store.lease(ttl).await.unwrap(),
        place.store.lease(ttl).await.unwrap(),
        place.store.lease(ttl).await.unwrap(),
    );
    place.done(put("short", short)).await;
    place.done(put("kept", kept)).await;
    place.done(put("freed", ended)).await;
    place.done(Txn::new().put("freed", "by a write without lease")).await;
    let begin = place.done(put("ended", ended)).await;
    place.store.revoke(ended).await.unwrap();
    place.store.revoke(ended).await.unwrap();
    let keys = || async { place.all().await.into_iter().map(|(key, _)| key).collect::<Vec<_>>() };
    assert_eq!(keys().await, ["freed", "kept", "short"]);
    // Kept alive for twice its time, while the other one goes.
    let started = Instant::now();
    while started.elapsed() < 2 * ttl || keys().await.contains(&"short".to_owned()) {
        assert!(started.elapsed() < Duration::from_secs(15), "the lease does not end");
        place.store.keep_alive(kept).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(keys().await, ["freed", "kept"]);
    let mut watch = place.store.watch(begin).await.unwrap();
    let gone = changes(&mut watch, place.revision().await).await;
    assert_eq!(texts(&gone), [("ended", None), ("short", None)]);
    assert!(matches!(place.store.keep_alive(short).await, Err(StoreError::NoLease(_))));
    assert_eq!(place.store.commit(put("late", short)).await, Err(StoreError::NoLease(short)));
}

async fn many_writers(place: Place) {
    place.done(Txn::new().put("n", "0")).await;
    let add = |store: SharedStore| async move {
        for _ in 0..20 {
            loop {
                let at = store.read("n").await.unwrap().unwrap();
                let n: u64 = std::str::from_utf8(&at.value).unwrap().parse().unwrap();
                let txn = Txn::new().when("n", at.mod_revision).put("n", (n + 1).to_string());
                if let Outcome::Committed(_) = store.commit(txn).await.unwrap() {
                    break;
                }
            }
        }
    };
    let writers: Vec<_> = (0..6).map(|_| tokio::spawn(add(Arc::clone(&place.store)))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(place.all().await, [("n".into(), "120".into())]);
}

async fn closing(place: Place) {
    place.done(Txn::new().put("a", "1")).await;
    place.store.close().await;
    assert!(place.store.load().await.is_err());
    assert!(place.store.commit(Txn::new().put("a", "2")).await.is_err());
}

/// Runs one part of the suite on both.
async fn both<F: Future<Output = ()>>(part: impl Fn(Place) -> F) {
    part(Place::embedded().await).await;
    if let Some(place) = tokio::task::spawn_blocking(Place::etcd).await.unwrap() {
        part(place).await;
    }
}

macro_rules! suite {
    ($($part:ident),*) => {
        mod suite {
            $(#[tokio::test]
            async fn $part() {
                super::both(super::$part).await;
            })*
        }
    };
}

suite!(
    conditions,
    bytes_are_opaque,
    many_keys,
    bounds,
    watching,
    lost_history,
    a_revision_that_is_not_there_yet,
    leases,
    many_writers,
    closing
);

async fn open(folder: &Path) -> Result<Embedded, StoreError> {
    Embedded::open(folder).await
}

#[tokio::test]
async fn embedded_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&folder.path().join("made/for/it")).await.unwrap();
    let second = open(&folder.path().join("made/for/it")).await.err().unwrap().to_string();
    assert!(second.contains("another process has it open"), "{second}");
    first.close().await;
    open(&folder.path().join("made/for/it")).await.unwrap();
}

#[tokio::test]
async fn embedded_keeps_everything_but_leases() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    let lease = store.lease(Duration::from_secs(60)).await.unwrap();
    let leased = Write::Put { key: "leased".into(), value: "x".into(), lease: Some(lease) };
    store.commit(Txn::new().put("a", "1")).await.unwrap();
    store.commit(Txn { when: vec![], then: vec![leased] }).await.unwrap();
    let before = store.load().await.unwrap();
    assert_eq!(before.items.len(), 2);
    store.close().await;
    drop(store);
    let after = open(folder.path()).await.unwrap().load().await.unwrap();
    assert_eq!(after.items, before.items[..1]);
    assert_eq!(after.revision, before.revision + 1, "the end of the lease is a change");
}

#[tokio::test]
async fn embedded_tells_of_a_file_that_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    for i in 0..50 {
        store.commit(Txn::new().put(&format!("k{i}"), vec![7; 1000])).await.unwrap();
    }
    store.close().await;
    drop(store);
    let path = folder.path().join("control.redb");
    let good = std::fs::read(&path).unwrap();
    let damage = |from: usize| {
        let mut bad = good.clone();
        bad[from..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        bad
    };
    for bad in [b"no store".to_vec(), good[..good.len() / 3].to_vec(), damage(0), damage(4096)] {
        std::fs::write(&path, &bad).unwrap();
        let refused = open(folder.path()).await.err().expect("a damaged file was opened");
        assert!(matches!(refused, StoreError::Unusable(_) | StoreError::Unavailable(_)), "{refused}");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(open(folder.path()).await.unwrap().load().await.unwrap().items.len(), 50);
}

/// Starts etcd off the runtime's threads.
async fn real_etcd() -> Option<etcd::Etcd> {
    tokio::task::spawn_blocking(etcd::Etcd::start).await.unwrap()
}

#[tokio::test]
async fn etcd_keys_of_others_are_not_seen() {
    let Some(etcd) = real_etcd().await else { return };
    for key in ["/shunt", "/shunt2/a", "/shunt0", "/shun/a", "/shunt/a"] {
        etcd.put(key, "x");
    }
    let store = EtcdStore::new(&[etcd.endpoint()], "/shunt/").unwrap();
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded.items.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(), ["a"]);
    let mut watch = store.watch(loaded.revision).await.unwrap();
    etcd.put("/shunt2/b", "x");
    etcd.put("/shunt/b", "x");
    assert_eq!(timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap().changes[0].key, "b");
}

#[tokio::test]
async fn etcd_a_dead_endpoint_costs_little() {
    let Some(etcd) = real_etcd().await else { return };
    let dead = format!("http://127.0.0.1:{}", etcd::free_port());
    let store = EtcdStore::new(&[dead.clone(), etcd.endpoint(), dead], "/shunt").unwrap();
    let started = Instant::now();
    for i in 0..50 {
        store.commit(Txn::new().put("a", i.to_string())).await.unwrap();
        store.load().await.unwrap();
        store.watch(1).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn etcd_that_hangs_or_dies_ends_calls_and_watches() {
    let Some(mut etcd) = real_etcd().await else { return };
    let store = EtcdStore::new(&[etcd.endpoint()], "/shunt").unwrap();
    let at = store.load().await.unwrap().revision;
    let mut watch = store.watch(at).await.unwrap();
    etcd.signal("-STOP");
    let started = Instant::now();
    let (load, commit) = tokio::join!(store.load(), store.commit(Txn::new().when("a", 0).put("a", "1")));
    assert!(matches!(load, Err(StoreError::Unavailable(_))), "{load:?}");
    assert!(matches!(commit, Err(StoreError::Unknown(_))), "{commit:?}");
    assert!(started.elapsed() < Duration::from_secs(13), "{:?}", started.elapsed());
    let ended = timeout(Duration::from_secs(20), watch.next()).await.expect("the watch is silent for ever");
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    etcd.signal("-CONT");
    let mut watch = store.watch(at).await.unwrap();
    etcd.kill();
    // What it had taken in before it was stopped may be told first.
    let ended = async { while watch.next().await.is_ok() {} };
    timeout(Duration::from_secs(5), ended).await.expect("the watch outlives etcd");
    assert!(matches!(store.commit(Txn::new().put("a", "1")).await, Err(StoreError::Unavailable(_))));
}

/// Passes what clients say to etcd. From the word `lost` on nothing comes back, and a while later, when etcd has long
/// done it, the connection is closed.
async fn answers_get_lost(etcd: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(lossy(client, etcd, Arc::clone(&count)));
        }
    });
    (port, lost)
}

async fn lossy(mut client: TcpStream, etcd: u16, lost: Arc<AtomicUsize>) {
    let mut server = TcpStream::connect(("127.0.0.1", etcd)).await.unwrap();
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    loop {
        tokio::select! {
            n = client.read(&mut up) => {
                let Ok(n @ 1..) = n else { return };
                server.write_all(&up[..n]).await.unwrap();
                if up[..n].windows(4).any(|four| four == b"lost") {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            n = server.read(&mut down) => {
                let Ok(n @ 1..) = n else { return };
                client.write_all(&down[..n]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn etcd_a_write_whose_answer_is_lost_is_read_back() {
    let Some(etcd) = real_etcd().await else { return };
    let direct = EtcdStore::new(&[etcd.endpoint()], "/shunt").unwrap();
    let (port, lost) = answers_get_lost(etcd.port()).await;
    let lossy = EtcdStore::new(&[format!("http://127.0.0.1:{port}"), etcd.endpoint()], "/shunt").unwrap();
    let txn = Txn::new().when("fence", 0).put("fence", "lost").put("cn/cn-1", "x");
    let Ok(Outcome::Committed(revision)) = lossy.commit(txn).await else { panic!("not read back") };
    assert_eq!(lost.load(Ordering::Relaxed), 1);
    assert_eq!(revision, direct.load().await.unwrap().revision, "written twice");
    let fence = direct.read("fence").await.unwrap().unwrap();
    assert_eq!((fence.mod_revision, &fence.value[..]), (revision, &b"lost"[..]));
    // Done once: the next one with the same condition conflicts, the answer lost or not.
    let again = Txn::new().when("fence", 0).put("fence", "lost again");
    let lossy = EtcdStore::new(&[format!("http://127.0.0.1:{port}"), etcd.endpoint()], "/shunt").unwrap();
    let outcome = lossy.commit(again).await;
    assert!(matches!(outcome, Ok(Outcome::Conflict) | Err(StoreError::Unknown(_))), "{outcome:?}");
    assert_eq!(direct.read("fence").await.unwrap().unwrap().mod_revision, revision);
}
