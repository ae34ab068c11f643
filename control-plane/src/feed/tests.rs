use super::*;
use crate::cluster::{Cluster, ClusterWatch};
use crate::store::{Batch, Change, Loaded};
use shunt_proto::snapshot::{Delta, Entry};

struct Store {
    cluster: Cluster,
    watch: ClusterWatch,
    revision: u64,
}

impl Store {
    fn new() -> Self {
        let (mut cluster, watch) = Cluster::new();
        cluster.reset("s", Loaded { revision: 1, items: vec![] }).unwrap();
        Self { cluster, watch, revision: 1 }
    }

    fn cn(&mut self, name: &str, zone: &str) {
        self.revision += 1;
        let json = format!(r#"{{"name":"{name}","address":"h:1","zone":"{zone}"}}"#);
        self.cluster.apply(&Batch {
            revision: self.revision,
            changes: vec![Change {
                key: format!("cn/{name}"),
                value: Some(json.into()),
                mod_revision: self.revision,
            }],
        });
    }
}

/// Takes frames as a data plane does.
fn take(state: &mut RoutingSnapshot, frames: Vec<Frame>) -> &'static str {
    let mut entries: Vec<Entry> = Vec::new();
    let mut kind = "nothing";
    for frame in frames {
        match frame {
            Frame::Delta(delta) => {
                *state = state.apply(Delta::try_from(delta).unwrap()).unwrap();
                kind = "delta";
            }
            Frame::Snapshot(chunk) => {
                assert!(prost::Message::encoded_len(&chunk) <= 256 * 1024);
                assert_ne!(kind, "snapshot", "chunks after the last");
                entries.extend(chunk.entries.iter().map(|entry| Entry::try_from(entry).unwrap()));
                if chunk.last {
                    let version = chunk.version.unwrap().into();
                    *state = RoutingSnapshot::from_entries(version, std::mem::take(&mut entries)).unwrap();
                    kind = "snapshot";
                }
            }
            other => panic!("{other:?}"),
        }
    }
    kind
}

#[test]
fn a_snapshot_first_and_merged_deltas_then() {
    let mut store = Store::new();
    store.cn("cn-1", "a");
    let mut state = RoutingSnapshot::default();
    let mut feed = Feed::new(None);
    assert_eq!(feed.resumes(&store.watch.view()), None);
    assert_eq!(take(&mut state, feed.next(&store.watch.view())), "snapshot");
    for i in 0..50 {
        store.cn("cn-1", &format!("z{i}"));
        store.cn("cn-2", &format!("z{i}"));
        assert_eq!(take(&mut state, feed.next(&store.watch.view())), "nothing", "not acknowledged");
    }
    feed.acked(1, false);
    assert!(feed.next(&store.watch.view()).is_empty(), "that was not what was sent");
    feed.acked(state.version().revision, false);
    let frames = feed.next(&store.watch.view());
    let Frame::Delta(delta) = &frames[0] else { panic!("not a delta") };
    assert_eq!((frames.len(), delta.changed.len()), (1, 2));
    take(&mut state, frames);
    assert_eq!(state.version(), store.watch.snapshot().version());
    feed.acked(state.version().revision, false);
    assert!(feed.next(&store.watch.view()).is_empty());
}

#[test]
fn what_is_known_is_resumed() {
    let mut store = Store::new();
    store.cn("cn-1", "a");
    let have = store.watch.snapshot().version().clone();
    let mut state = store.watch.snapshot().as_ref().clone();
    let mut feed = Feed::new(Some(have.clone()));
    assert_eq!(feed.resumes(&store.watch.view()), Some(have.revision));
    assert!(feed.next(&store.watch.view()).is_empty());
    store.cn("cn-2", "a");
    let mut feed = Feed::new(Some(have.clone()));
    assert_eq!(feed.resumes(&store.watch.view()), Some(have.revision));
    assert_eq!(take(&mut state, feed.next(&store.watch.view())), "delta");
    for other in [
        Version { digest: have.digest ^ 1, ..have.clone() },
        Version { store_id: "t".into(), ..have.clone() },
        Version { revision: 99, ..have },
    ] {
        let mut feed = Feed::new(Some(other));
        assert_eq!(feed.resumes(&store.watch.view()), None);
        assert_eq!(take(&mut RoutingSnapshot::default(), feed.next(&store.watch.view())), "snapshot");
    }
}

#[test]
fn a_refused_delta_is_followed_by_a_snapshot_and_that_by_silence() {
    let mut store = Store::new();
    store.cn("cn-1", "a");
    let mut state = RoutingSnapshot::default();
    let mut feed = Feed::new(Some(store.watch.snapshot().version().clone()));
    store.cn("cn-1", "b");
    let frames = feed.next(&store.watch.view());
    assert!(matches!(frames[0], Frame::Delta(_)));
    feed.acked(store.revision, true);
    assert_eq!(take(&mut state, feed.next(&store.watch.view())), "snapshot");
    feed.acked(store.revision, true);
    assert!(feed.next(&store.watch.view()).is_empty(), "it would be refused again");
    store.cn("cn-1", "c");
    assert_eq!(take(&mut state, feed.next(&store.watch.view())), "snapshot");
    feed.acked(store.revision, false);
    store.cn("cn-1", "d");
    assert_eq!(take(&mut state, feed.next(&store.watch.view())), "delta");
}

#[test]
fn large_states_come_in_chunks() {
    let mut store = Store::new();
    let changes = (0..2000).map(|i| Change {
        key: format!("cn/cn-{i}"),
        value: Some(format!(r#"{{"name":"cn-{i}","address":"{}:1"}}"#, "h".repeat(200)).into()),
        mod_revision: 2,
    });
    store.cluster.apply(&Batch { revision: 2, changes: changes.collect() });
    let mut state = RoutingSnapshot::default();
    let frames = Feed::new(None).next(&store.watch.view());
    assert!(frames.len() > 1, "{}", frames.len());
    assert_eq!(take(&mut state, frames), "snapshot");
    assert_eq!(state.version(), store.watch.snapshot().version());
}
