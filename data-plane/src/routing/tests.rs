use super::*;
use shunt_proto::cn::{Cn, CnState};
use shunt_proto::label::Labels;
use shunt_proto::snapshot::{Entry, Object, Version, digest};

/// Where every CN is.
const AT: &str = "127.0.0.1:3306";

fn snapshot(revision: u64, names: &[&str]) -> Arc<RoutingSnapshot> {
    let entries: Vec<Entry> = names
        .iter()
        .map(|name| Entry {
            object: Object::Cn(Arc::new(Cn {
                name: CnId::new(name).unwrap(),
                address: AT.into(),
                group: None,
                own_labels: Labels::new(),
                zone: String::new(),
                weight: 100,
                state: CnState::Working,
                remove_when_empty: false,
                drain: None,
            })),
            mod_revision: revision,
            hash: 1,
        })
        .collect();
    let version = Version { store_id: "s".into(), revision, digest: digest(&entries) };
    Arc::new(RoutingSnapshot::from_entries(version, entries).unwrap())
}

fn baseline() -> Baseline {
    let version = b"x".to_vec();
    Baseline { version, capabilities: 0, collation: 45, subscription: None, may_be_galera: true }
}

fn request() -> Request {
    Request { tenant: "sys".into(), labels: Labels::new() }
}

fn sessions(routing: &Routing) -> Vec<u32> {
    routing.counts().1.iter().map(|cn| cn.sessions).collect()
}

#[test]
fn places_count_until_they_are_dropped() {
    let (routing, _probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1", "cn-2"]));
    let places: Vec<_> = (0..10).map(|_| routing.place(&request(), &[]).unwrap()).collect();
    assert_eq!(sessions(&routing), [5, 5]);
    drop(places);
    assert_eq!(sessions(&routing), [0, 0]);
}

#[test]
fn a_cn_that_failed_is_avoided_until_a_probe_succeeds() {
    let (routing, mut probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1", "cn-2"]));
    assert!(probes.try_recv().is_ok() && probes.try_recv().is_ok(), "new CNs are probed");
    let cn_1 = CnId::new("cn-1").unwrap();
    routing.failed(&cn_1, AT, "closed");
    assert_eq!(probes.try_recv().unwrap(), cn_1);
    for _ in 0..4 {
        assert_eq!(routing.place(&request(), &[]).unwrap().cn.name().as_str(), "cn-2");
    }
    let baseline = baseline();
    assert!(routing.succeeded(&cn_1, AT, baseline));
    let names: Vec<_> = (0..2).map(|_| routing.place(&request(), &[]).unwrap()).collect();
    assert!(names.iter().any(|placed| *placed.cn.name() == cn_1));
}

#[tokio::test(start_paused = true)]
async fn a_cn_that_fails_again_and_again_is_down_for_longer_each_time() {
    let (routing, _probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1"]));
    let cn_1 = CnId::new("cn-1").unwrap();
    let baseline = baseline();
    for held_ms in [0, 200, 400, 800, 1600, 3000, 3000] {
        routing.failed(&cn_1, AT, "full");
        if held_ms > 0 {
            tokio::time::advance(Duration::from_millis(held_ms - 1)).await;
            assert!(!routing.succeeded(&cn_1, AT, baseline.clone()), "up before {held_ms} ms");
            assert!(routing.is_down(&cn_1));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(routing.succeeded(&cn_1, AT, baseline.clone()), "down after {held_ms} ms");
    }
    // One that was well for a while begins anew.
    tokio::time::advance(SOON).await;
    routing.failed(&cn_1, AT, "full");
    assert!(routing.succeeded(&cn_1, AT, baseline));
}

#[test]
fn a_cn_that_is_slow_is_used_only_where_there_is_no_other_until_it_answers() {
    let (routing, mut probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1", "cn-2"]));
    assert!(probes.try_recv().is_ok() && probes.try_recv().is_ok(), "new CNs are probed");
    let [cn_1, cn_2] = ["cn-1", "cn-2"].map(|name| CnId::new(name).unwrap());
    routing.doubt(&cn_1, AT, "slow");
    routing.doubt(&cn_1, AT, "slow");
    assert!(probes.try_recv().is_ok() && probes.try_recv().is_err(), "it is asked once");
    let places: Vec<_> = (0..10).map(|_| routing.place(&request(), &[]).unwrap()).collect();
    assert_eq!(sessions(&routing), [0, 10]);
    // It is not down: where there is no other, it serves, and so do the less loaded of several.
    let tried = std::slice::from_ref(&cn_2);
    assert_eq!(*routing.place(&request(), tried).unwrap().cn.name(), cn_1);
    routing.doubt(&cn_2, AT, "slow");
    assert_eq!(*routing.place(&request(), &[]).unwrap().cn.name(), cn_1);
    let baseline = baseline();
    assert!(routing.succeeded(&cn_1, AT, baseline));
    assert_eq!(*routing.place(&request(), &[]).unwrap().cn.name(), cn_1);
    drop(places);
}

#[test]
fn what_is_heard_of_where_a_cn_was_says_nothing_of_where_it_is() {
    let (routing, _probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1"]));
    let cn_1 = CnId::new("cn-1").unwrap();
    let baseline = baseline();
    routing.doubt(&cn_1, "127.0.0.1:3307", "slow");
    assert!(!routing.is_avoided(&cn_1));
    routing.failed(&cn_1, "127.0.0.1:3307", "closed");
    assert!(!routing.is_down(&cn_1));
    assert!(!routing.succeeded(&cn_1, "127.0.0.1:3307", baseline.clone()));
    routing.seen(&cn_1, "127.0.0.1:3307", baseline.clone());
    assert!(routing.baseline(&cn_1).is_none());
    routing.seen(&cn_1, AT, baseline);
    assert!(routing.baseline(&cn_1).is_some());
}

#[test]
fn tried_ones_are_not_tried_again() {
    let (routing, _probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1"]));
    let tried = [CnId::new("cn-1").unwrap()];
    assert!(matches!(routing.place(&request(), &tried), Err(Refusal::NoneUsable { .. })));
}

#[test]
fn a_cn_that_is_gone_is_forgotten_with_its_last_session() {
    let (routing, _probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1"]));
    let placed = routing.place(&request(), &[]).unwrap();
    routing.publish(&snapshot(2, &["cn-2"]));
    assert_eq!(sessions(&routing), [1, 0]);
    drop(placed);
    assert_eq!(sessions(&routing), [0]);
}

#[test]
fn a_limit_is_exact_and_freed() {
    let (routing, _probes) = Routing::new(false);
    let tenant = Tenant { max_sessions: 2, ..Tenant::undeclared("acme") };
    let one = routing.enter(&tenant).unwrap();
    let _two = routing.enter(&tenant).unwrap();
    assert!(matches!(routing.enter(&tenant), Err(Refusal::Limit { max: 2, .. })));
    assert!(routing.is_full(&tenant).is_some());
    drop(one);
    assert!(routing.enter(&tenant).is_ok());
    assert_eq!(routing.counts().2, [("acme".to_owned(), 1)]);
}

#[test]
fn loopback_cns_stay_unused_behind_an_open_listener() {
    let (routing, _probes) = Routing::new(true);
    routing.publish(&snapshot(1, &["cn-1"]));
    assert!(routing.place(&request(), &[]).is_err());
    assert!(routing.counts().1[0].reason.contains("cn_proxy_protocol"));
}

#[test]
fn a_cn_that_is_down_for_another_data_plane_is_used_where_there_is_no_other() {
    let (routing, mut probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1", "cn-2"]));
    while probes.try_recv().is_ok() {}
    let cn_1 = CnId::new("cn-1").unwrap();
    let named: BTreeSet<String> = ["cn-1".to_owned()].into();
    routing.avoid(&named);
    routing.avoid(&named);
    assert_eq!(probes.try_recv().as_ref(), Ok(&cn_1), "it is asked itself");
    assert!(probes.try_recv().is_err(), "once");
    let places: Vec<_> = (0..4).map(|_| routing.place(&request(), &[]).unwrap()).collect();
    assert_eq!(sessions(&routing), [0, 4]);
    let last = routing.place(&request(), &[CnId::new("cn-2").unwrap()]).unwrap();
    assert_eq!(last.cn.name(), &cn_1, "there is no other");
    drop((places, last));
    routing.avoid(&BTreeSet::new());
    let places: Vec<_> = (0..4).map(|_| routing.place(&request(), &[]).unwrap()).collect();
    assert_eq!(sessions(&routing), [2, 2]);
    drop(places);
}

#[tokio::test]
async fn whoever_reports_hears_at_once_that_a_cn_went_down_or_came_up() {
    let (routing, _probes) = Routing::new(false);
    routing.publish(&snapshot(1, &["cn-1"]));
    let cn = CnId::new("cn-1").unwrap();
    let mut edges = routing.edges();
    routing.failed(&cn, AT, "it died");
    assert!(edges.has_changed().unwrap());
    edges.mark_unchanged();
    routing.failed(&cn, AT, "it is dead yet");
    assert!(!edges.has_changed().unwrap());
    assert!(routing.succeeded(&cn, AT, baseline()));
    assert!(edges.has_changed().unwrap());
}
