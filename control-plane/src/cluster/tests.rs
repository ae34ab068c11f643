use super::*;
use crate::store::{Change, Item};
use shunt_proto::cn::CnId;

fn item(key: &str, mod_revision: u64, json: &str) -> Item {
    Item { key: key.into(), value: json.to_owned().into(), mod_revision }
}

fn change(key: &str, mod_revision: u64, json: Option<&str>) -> Change {
    Change { key: key.into(), value: json.map(|json| json.to_owned().into()), mod_revision }
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch { revision: changes.iter().map(|change| change.mod_revision).max().unwrap(), changes }
}

const CN: &str = r#"{"name":"cn-1","address":"127.0.0.1:1","group":"tp"}"#;
const GROUP: &str = r#"{"name":"tp","labels":{"workload":["tp"]},"tenant":"acme"}"#;

fn names(watch: &ClusterWatch) -> Vec<String> {
    watch.snapshot().cns().map(|cn| cn.name().to_string()).collect()
}

#[test]
fn the_store_becomes_a_snapshot() {
    let (mut cluster, watch) = Cluster::new();
    assert!(!watch.view().synced());
    let items = vec![item("cn/cn-1", 3, CN), item("group/tp", 2, GROUP), item("meta/fence", 3, "x")];
    cluster.reset("s", Loaded { revision: 9, items }).unwrap();
    let view = watch.view();
    assert!(view.synced());
    assert_eq!((view.seen, view.fence, view.snapshot.version().revision), (9, 3, 9));
    let cn = view.snapshot.cn(&CnId::new("cn-1").unwrap()).unwrap();
    assert_eq!(cn.tenant.as_deref(), Some("acme"));
    assert_eq!(view.mod_revision("cn/cn-1"), 3);
    assert_eq!(view.mod_revision("cn/cn-2"), 0);
}

#[test]
fn a_bad_value_leaves_the_last_good_one() {
    let (mut cluster, watch) = Cluster::new();
    let items = vec![item("cn/cn-1", 3, CN), item("group/tp", 2, GROUP), item("cn/cn-2", 4, "{")];
    cluster.reset("s", Loaded { revision: 4, items }).unwrap();
    assert_eq!(names(&watch), ["cn-1"]);
    let version = watch.snapshot().version().clone();
    cluster.apply(&batch(vec![change("cn/cn-1", 5, Some("garbage"))]));
    assert_eq!(names(&watch), ["cn-1"]);
    assert_eq!(*watch.snapshot().version(), version, "nothing that counts has changed");
    assert_eq!(watch.view().seen, 5);
    // So that it can be written over.
    assert_eq!(watch.view().mod_revision("cn/cn-1"), 5);
    cluster.apply(&batch(vec![change("cn/cn-1", 6, Some(CN))]));
    assert_eq!(watch.view().mod_revision("cn/cn-1"), 6);
    cluster.apply(&batch(vec![change("cn/cn-1", 7, Some("x")), change("cn/cn-1", 8, None)]));
    assert!(names(&watch).is_empty());
    assert_eq!(watch.view().mod_revision("cn/cn-1"), 0);
}

#[test]
fn a_reload_keeps_the_last_good_value_too() {
    let (mut cluster, watch) = Cluster::new();
    let good = vec![item("cn/cn-1", 3, CN), item("group/tp", 2, GROUP)];
    cluster.reset("s", Loaded { revision: 3, items: good }).unwrap();
    let bad = vec![item("cn/cn-1", 9, "?"), item("group/tp", 2, GROUP)];
    cluster.reset("s", Loaded { revision: 9, items: bad }).unwrap();
    assert_eq!(names(&watch), ["cn-1"]);
}

#[test]
fn a_cn_without_its_group_serves_nobody() {
    let (mut cluster, watch) = Cluster::new();
    cluster.reset("s", Loaded { revision: 3, items: vec![item("cn/cn-1", 3, CN)] }).unwrap();
    assert!(names(&watch).is_empty());
    cluster.apply(&batch(vec![change("group/tp", 4, Some(GROUP))]));
    assert_eq!(names(&watch), ["cn-1"]);
    cluster.apply(&batch(vec![change("group/tp", 5, None)]));
    assert!(names(&watch).is_empty());
}

#[test]
fn another_store_is_not_taken() {
    let (mut cluster, watch) = Cluster::new();
    let items = vec![item("cn/cn-1", 3, CN), item("group/tp", 2, GROUP)];
    cluster.reset("s", Loaded { revision: 3, items }).unwrap();
    assert!(cluster.reset("other", Loaded { revision: 1, items: vec![] }).is_err());
    assert_eq!(names(&watch), ["cn-1"]);
}

#[test]
fn what_is_no_routing_state_makes_no_snapshot() {
    let (mut cluster, watch) = Cluster::new();
    cluster.reset("s", Loaded { revision: 3, items: vec![item("group/tp", 2, GROUP)] }).unwrap();
    let mut snapshots = watch.snapshots();
    snapshots.mark_unchanged();
    let plane = r#"{"id":"dp-1","firstSessionId":1073741824}"#;
    cluster.apply(&batch(vec![change("dp/dp-1", 4, Some(plane)), change("meta/fence", 4, Some("y"))]));
    assert!(!snapshots.has_changed().unwrap());
    assert_eq!(watch.view().seen, 4);
    assert_eq!(watch.view().planes["dp-1"].kept.first_session_id, 1 << 30);
    cluster.apply(&batch(vec![change("dp/dp-1", 5, None)]));
    assert!(watch.view().planes.is_empty());
}

#[test]
fn history_leads_from_any_version_to_the_newest() {
    let (mut cluster, watch) = Cluster::new();
    cluster.reset("s", Loaded { revision: 2, items: vec![item("group/tp", 2, GROUP)] }).unwrap();
    let mut seen = vec![watch.snapshot()];
    for (revision, value) in [(3, Some(CN)), (4, None), (5, Some(CN))] {
        cluster.apply(&batch(vec![change("cn/cn-1", revision, value)]));
        seen.push(watch.snapshot());
    }
    let newest = watch.snapshot();
    for old in seen {
        let delta = watch.view().history.delta(old.version(), &newest).unwrap();
        let made = old.apply(delta).unwrap();
        assert_eq!(made.version(), newest.version());
        assert!(made.entries().eq(newest.entries()));
    }
    let mut unknown = newest.version().clone();
    unknown.revision -= 1;
    unknown.digest ^= 1;
    assert!(watch.view().history.delta(&unknown, &newest).is_none());
    let later = Version { revision: 99, ..newest.version().clone() };
    assert!(watch.view().history.delta(&later, &newest).is_none());
}

#[test]
fn a_store_that_went_back_makes_a_new_beginning() {
    let (mut cluster, watch) = Cluster::new();
    let items = vec![item("group/tp", 2, GROUP), item("cn/cn-1", 9, CN)];
    cluster.reset("s", Loaded { revision: 9, items }).unwrap();
    let old = watch.snapshot();
    cluster.reset("s", Loaded { revision: 5, items: vec![item("group/tp", 2, GROUP)] }).unwrap();
    assert_eq!(watch.view().seen, 5);
    assert_eq!(watch.snapshot().version().revision, 5);
    assert!(watch.view().history.delta(old.version(), &watch.snapshot()).is_none());
}
