//! Its life: an empty store, seeds, a restart, a store that is not there, the same over etcd.

use crate::control::{Control, FakePlane, Took, eventually, labels, refused, shown, store};
use crate::etcd::{self, Etcd};
use shunt_control::StoreConfig;
use shunt_control::store::Txn;
use shunt_proto::intent::Intent;
use shunt_proto::pb;
use tempfile::tempdir;
use tonic::Code;

const SEEDS: &str =
    "groups: [ { name: tp, labels: { workload: tp }, cns: [ { name: cn-1, address: 'h:1' } ] } ]
tenants: [ { name: acme } ]
policy: { rebalance: { moves_per_second: 7 } }";

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.apply(SEEDS, false).await.unwrap();
    control.label("cn-1", "tier=gold").await;
    let plane = FakePlane::new(control.channel(), "dp-1").await;
    let all = async |control: &Control| {
        (
            control.cns().list_cns(pb::ListCnsRequest::default()).await.unwrap().into_inner(),
            control.groups().list_groups(pb::ListGroupsRequest::default()).await.unwrap().into_inner(),
            control.tenants().list_tenants(pb::ListTenantsRequest::default()).await.unwrap().into_inner(),
            control.cluster().get_policy(pb::GetPolicyRequest {}).await.unwrap().into_inner(),
        )
    };
    let before = all(&control).await;
    drop(plane);
    control.stop().await;
    let control = Control::start(folder.path()).await;
    assert_eq!(all(&control).await, before, "etags included");
    assert!(!control.data_planes().await["dp-1"].connected);
    control.stop().await;
}

#[tokio::test]
async fn seeds_fill_an_empty_store_and_no_other() {
    let folder = tempdir().unwrap();
    let control = Control::seeded(folder.path(), SEEDS).await;
    assert_eq!(shown(&control.find("cn-1").await.unwrap().labels), "workload=tp");
    let policy = control.cluster().get_policy(pb::GetPolicyRequest {}).await.unwrap().into_inner();
    assert_eq!(policy.rebalance.unwrap().moves_per_second, 7);
    control.label("cn-1", "workload=ap").await;
    control.stop().await;
    let more = SEEDS.replace("name: tp", "name: other").replace("workload: tp", "workload: xx");
    let control = Control::seeded(folder.path(), &more).await;
    assert_eq!(shown(&control.find("cn-1").await.unwrap().labels), "workload=ap", "the store counts");
    let other = control.groups().get_group(pb::GetGroupRequest { name: "other".into() }).await;
    refused(other, Code::NotFound, "GROUP_NOT_FOUND");
    control.stop().await;
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let second = shunt_control::run(
        shunt_control::Config {
            api: ([127, 0, 0, 1], 0).into(),
            advertise: None,
            admin: ([127, 0, 0, 1], 0).into(),
            store: StoreConfig::Embedded(folder.path().to_owned()),
            seeds: Intent::default(),
        },
        tokio_util::sync::CancellationToken::new(),
        None,
    );
    let error = format!("{:#}", second.await.unwrap_err());
    assert!(error.contains("another process has it open"), "{error}");
    control.stop().await;
}

#[tokio::test]
async fn a_stored_value_that_cannot_be_read_is_left_out_and_can_be_replaced() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "h:1", "").await;
    control.stop().await;
    let other = store(folder.path()).await;
    let orphan = r#"{"name":"cn-3","address":"h:3","group":"gone"}"#;
    let txn = Txn::new().put("cn/cn-2", "{ no json").put("cn/cn-3", orphan).put("cn/cn-4", "[]");
    other.commit(txn).await.unwrap();
    other.close().await;
    drop(other);
    let control = Control::start(folder.path()).await;
    let list = control.cns().list_cns(pb::ListCnsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.cns.len(), 1);
    control.cn("cn-2", "h:2", "").await;
    control.cn("cn-3", "h:3", "").await;
    let gone = pb::DeleteCnRequest { name: "cn-4".into(), ..Default::default() };
    control.cns().delete_cn(gone.clone()).await.unwrap();
    refused(control.cns().delete_cn(gone).await, Code::NotFound, "CN_NOT_FOUND");
    assert_eq!(control.label("cn-2", "a=1").await.own_labels.len(), 1);
    control.stop().await;
}

#[tokio::test]
async fn a_store_of_a_newer_release_is_left_alone() {
    let folder = tempdir().unwrap();
    let other = store(folder.path()).await;
    other.commit(Txn::new().put("meta/store", r#"{"id":"x","schema":2}"#)).await.unwrap();
    other.close().await;
    drop(other);
    let config = shunt_control::Config {
        api: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        admin: ([127, 0, 0, 1], 0).into(),
        store: StoreConfig::Embedded(folder.path().to_owned()),
        seeds: Intent::default(),
    };
    let ended = shunt_control::run(config, tokio_util::sync::CancellationToken::new(), None).await;
    let error = format!("{:#}", ended.unwrap_err());
    assert!(error.contains("schema 2"), "{error}");
}

#[tokio::test]
async fn without_a_store_it_says_so_and_waits() {
    let port = etcd::free_port();
    let endpoints = vec![format!("http://127.0.0.1:{port}")];
    let store = StoreConfig::Etcd { endpoints, prefix: "/shunt".into() };
    let control = Control::run(store, Intent::default()).await;
    assert_eq!(control.http("/livez").await.0, 200);
    let (status, why) = control.http("/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("has not been read yet"), "{why}");
    refused(control.find("cn-1").await, Code::Unavailable, "STORE_NOT_SYNCED");
    let hello = FakePlane::hello(control.channel(), "dp-1", 1, Default::default()).await;
    refused(hello, Code::Unavailable, "STORE_NOT_SYNCED");
    let mut health = tonic_health::pb::health_client::HealthClient::new(control.channel());
    let answer = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::NotServing);
    let status = control.cluster().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(!status.store_problem.is_empty());
    control.stop().await;
}

#[tokio::test]
async fn metrics_have_bounded_labels() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "h:1", "").await;
    let _ = control.find("no-such-cn").await;
    let (status, text) = control.http("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "shunt_control_calls_total{call=\"CreateCn\",code=\"OK\"} 1",
        "shunt_control_calls_total{call=\"GetCn\",code=\"NOT_FOUND\"} 1",
        "shunt_control_store_in_step 1",
        "shunt_control_objects{kind=\"cn\"} 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("no-such-cn"));
    control.stop().await;
}

/// The whole road over etcd, with its death and return in the middle.
#[tokio::test]
async fn over_etcd() {
    let Some(etcd) = tokio::task::spawn_blocking(Etcd::start).await.unwrap() else { return };
    let config = || StoreConfig::Etcd { endpoints: vec![etcd.endpoint()], prefix: "/shunt".into() };
    let control = Control::run(config(), Intent::default()).await;
    control.ready().await;
    control.apply(SEEDS, false).await.unwrap();
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    control.label("cn-1", "tier=gold").await;
    assert_eq!(plane.take().await, Took::Delta { changed: 1 });
    // What is written beside it goes the same road; what is no JSON stays out.
    etcd.put("/shunt/cn/cn-7", r#"{"name":"cn-7","address":"h:7"}"#);
    assert_eq!(plane.take().await, Took::Delta { changed: 1 });
    etcd.put("/shunt/cn/cn-7", "no json");
    etcd.put("/shunt/tenant/t", r#"{"name":"t","maxSessions":4}"#);
    plane.take().await;
    assert_eq!(plane.state.tenant("t").max_sessions, 4);
    assert_eq!(control.find("cn-7").await.unwrap().address, "h:7");
    // Without etcd: reads and streams go on, writes say so, and it is not ready.
    etcd.signal("-STOP");
    let set = pb::LabelCnRequest { name: "cn-1".into(), set: labels("tier=x"), ..Default::default() };
    let status = control.cns().label_cn(set).await.expect_err("there is no store");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(control.find("cn-1").await.is_ok());
    let again = FakePlane::hello(control.channel(), "dp-1", 2, plane.state.clone()).await.unwrap();
    assert!(again.welcome.resumed);
    etcd.signal("-CONT");
    control.ready().await;
    // What became of the write that was not answered, a new one counts from there.
    eventually("writes go on", || async {
        let set = pb::LabelCnRequest { name: "cn-1".into(), set: labels("tier=y"), ..Default::default() };
        control.cns().label_cn(set).await.is_ok()
    })
    .await;
    assert_eq!(shown(&control.find("cn-1").await.unwrap().own_labels), "tier=y");
    drop((plane, again));
    control.stop().await;
    // Another replica finds everything.
    let control = Control::run(config(), Intent::default()).await;
    control.ready().await;
    assert_eq!(shown(&control.find("cn-1").await.unwrap().own_labels), "tier=y");
    control.stop().await;
}

/// Two replicas on one etcd: what one validated the other cannot break, and each sees what the other wrote.
#[tokio::test]
async fn two_replicas_write_at_the_same_time() {
    let Some(etcd) = tokio::task::spawn_blocking(Etcd::start).await.unwrap() else { return };
    let config = || StoreConfig::Etcd { endpoints: vec![etcd.endpoint()], prefix: "/shunt".into() };
    let one = Control::run(config(), Intent::default()).await;
    let two = Control::run(config(), Intent::default()).await;
    one.ready().await;
    two.ready().await;
    let create = |control: &Control, i: usize| {
        let mut cns = control.cns();
        let cn = pb::Cn { name: format!("cn-{i}"), address: "h:1".into(), ..Default::default() };
        tokio::spawn(async move { cns.create_cn(pb::CreateCnRequest { cn: Some(cn) }).await })
    };
    let calls: Vec<_> = (0..10).map(|i| create(if i % 2 == 0 { &one } else { &two }, i)).collect();
    let mut created = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => created += 1,
            Err(status) => {
                refused(Err::<(), _>(status), Code::AlreadyExists, "ADDRESS_IN_USE");
            }
        }
    }
    assert_eq!(created, 1);
    let [a, b] = [FakePlane::new(one.channel(), "dp-1").await, FakePlane::new(two.channel(), "dp-2").await];
    assert_ne!(a.welcome.first_session_id, b.welcome.first_session_id);
    assert_eq!(a.state.version(), b.state.version());
    // A data plane changes the replica, and is resumed there.
    let moved = FakePlane::hello(two.channel(), "dp-1", 2, a.state.clone()).await.unwrap();
    assert!(moved.welcome.resumed);
    assert_eq!(moved.welcome.first_session_id, a.welcome.first_session_id);
    one.stop().await;
    two.stop().await;
}

/// A restored etcd has the same ids and an older revision, and goes on from there with another content.
#[tokio::test]
async fn an_etcd_that_is_restored_under_it() {
    let Some(mut etcd) = tokio::task::spawn_blocking(Etcd::start).await.unwrap() else { return };
    let store = StoreConfig::Etcd { endpoints: vec![etcd.endpoint()], prefix: "/shunt".into() };
    let control = Control::run(store, Intent::default()).await;
    control.ready().await;
    control.cn("cn-1", "h:1", "").await;
    let (mut etcd, copy) = tokio::task::spawn_blocking(move || {
        let copy = etcd.backup();
        (etcd, copy)
    })
    .await
    .unwrap();
    let put = async |name: &str, port: u16| {
        eventually("a CN is written", || async {
            let cn = pb::Cn { name: name.into(), address: format!("h:{port}"), ..Default::default() };
            control.cns().create_cn(pb::CreateCnRequest { cn: Some(cn) }).await.is_ok()
        })
        .await;
    };
    put("after-the-backup", 2).await;
    put("and-this", 3).await;
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    assert_eq!(plane.state.cns().count(), 3);
    let before = plane.state.version().clone();
    let _etcd = tokio::task::spawn_blocking(move || {
        etcd.restore(&copy);
        etcd
    })
    .await
    .unwrap();
    // The data plane is told of the older state as a whole, and of what is written on top of it.
    assert_eq!(plane.take().await, Took::Snapshot);
    assert_eq!(plane.state.cns().count(), 1);
    assert!(plane.state.version().revision < before.revision);
    put("after-the-restore", 4).await;
    while plane.state.cns().count() < 2 {
        plane.take().await;
    }
    let names: Vec<String> = plane.state.cns().map(|cn| cn.name().to_string()).collect();
    assert_eq!(names, ["after-the-restore", "cn-1"]);
    // A data plane that missed all of that, and holds what was lost: its digest is nobody's.
    let late = FakePlane::hello_with(control.channel(), "dp-2", 1, Default::default(), Some(before)).await;
    assert!(!late.unwrap().welcome.resumed);
    control.stop().await;
}
