//! Apply, by a running control plane: all or nothing, and what prune does while sessions live.

use crate::control::{Control, FakePlane, eventually, refused};
use shunt_proto::pb;
use tempfile::tempdir;
use tonic::{Code, Status};

const TWO: &str = "groups: [ { name: tp, labels: { workload: tp }, tenant: acme, cns: [
  { name: cn-1, address: 'h:1' }, { name: cn-2, address: 'h:2' } ] } ]
tenants: [ { name: acme, max_sessions: 9 } ]";
const ONE: &str = "groups: [ { name: tp, labels: { workload: tp }, tenant: acme, cns: [
  { name: cn-1, address: 'h:1' } ] } ]";

fn told(result: Result<pb::ApplyResponse, Status>) -> Vec<String> {
    let changes = result.unwrap().changes;
    changes.into_iter().map(|change| format!("{} {}", change.object, change.what)).collect()
}

#[tokio::test]
async fn once_and_again() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let first = control.apply(TWO, false).await.unwrap();
    assert_eq!(first.changes.len(), 4);
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    assert_eq!(plane.state.version().revision, first.revision);
    let again = control.apply(TWO, true).await.unwrap();
    assert_eq!((again.changes.len(), again.revision), (0, first.revision));
    assert!(plane.silence().await, "nothing has changed");
    control.stop().await;
}

#[tokio::test]
async fn all_or_nothing() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.apply(TWO, false).await.unwrap();
    let before = control.cns().list_cns(pb::ListCnsRequest::default()).await.unwrap().into_inner();
    let yaml = "groups:
  - { name: new, cns: [ { name: cn-3, address: 'h:3' }, { name: cn-4, address: 'h:1' } ] }";
    refused(control.apply(yaml, false).await, Code::AlreadyExists, "ADDRESS_IN_USE");
    let yaml =
        "groups: [ { name: new, cns: [ { name: cn-3, address: 'h:3' }, { name: cn-1, address: 'h:1' } ] } ]";
    refused(control.apply(yaml, false).await, Code::FailedPrecondition, "CN_IN_OTHER_GROUP");
    let status = refused(control.apply(ONE, false).await, Code::FailedPrecondition, "CNS_LEFT_OUT");
    assert!(status.message().contains("cn-2") && status.message().contains("prune"), "{status:?}");
    let cns: Vec<String> = (0..100).map(|i| format!("{{ name: c{i}, address: 'x:{}' }}", i + 1)).collect();
    let yaml = format!("groups: [ {{ name: many, cns: [ {} ] }} ]", cns.join(", "));
    let status = refused(control.apply(&yaml, false).await, Code::InvalidArgument, "TOO_MANY_CHANGES");
    assert!(status.message().contains("101") && status.message().contains("100"), "{status:?}");
    let after = control.cns().list_cns(pb::ListCnsRequest::default()).await.unwrap().into_inner();
    assert_eq!(before, after);
    // What the YAML reader would not let through.
    let group = |name: &str, cns: Vec<pb::Cn>| pb::apply_request::Group {
        group: Some(pb::CnGroup { name: name.into(), ..Default::default() }),
        cns,
        keep_cns: false,
    };
    let cn = |name: &str, group: &str, address: &str| pb::Cn {
        name: name.into(),
        group: group.into(),
        address: address.into(),
        ..Default::default()
    };
    for groups in [
        vec![group("a", vec![]), group("a", vec![])],
        vec![group("a", vec![cn("x", "", "x:1"), cn("x", "", "x:2")])],
        vec![group("a", vec![cn("x", "", "x:1")]), group("b", vec![cn("x", "", "x:2")])],
        vec![group("a", vec![cn("x", "b", "x:1")])],
        vec![group("", vec![])],
    ] {
        let request = pb::ApplyRequest { groups, ..Default::default() };
        refused(control.cluster().apply(request).await, Code::InvalidArgument, "INVALID");
    }
    control.stop().await;
}

#[tokio::test]
async fn a_pruned_cn_without_sessions_goes_at_once() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.apply(TWO, false).await.unwrap();
    assert_eq!(told(control.apply(ONE, true).await), ["cn/cn-2 removed"]);
    refused(control.find("cn-2").await, Code::NotFound, "CN_NOT_FOUND");
    control.stop().await;
}

#[tokio::test]
async fn a_pruned_cn_with_sessions_goes_when_all_have_said_that_it_is_empty() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.apply(TWO, false).await.unwrap();
    let mut one = FakePlane::new(control.channel(), "dp-1").await;
    let mut two = FakePlane::new(control.channel(), "dp-2").await;
    one.report(&[("cn-2", 2)]).await;
    two.report(&[]).await;
    eventually("counted", || async { control.find("cn-2").await.unwrap().sessions == 2 }).await;
    assert_eq!(told(control.apply(ONE, true).await), ["cn/cn-2 draining"]);
    let leaving = control.find("cn-2").await.unwrap();
    assert_eq!((leaving.state(), leaving.remove_when_empty), (pb::cn::State::Draining, true));
    assert!(told(control.apply(ONE, true).await).is_empty(), "that is so already");
    assert!(told(control.apply(ONE, false).await).is_empty());
    // Zero, but by the state before the drain: a login may be on its way.
    one.report(&[("cn-2", 0)]).await;
    one.take().await;
    two.see().await;
    eventually("counted", || async { control.find("cn-2").await.unwrap().sessions == 0 }).await;
    one.report(&[("cn-2", 0)]).await;
    // The other one has not acknowledged yet. More than the time between two looks at it.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(control.find("cn-2").await.is_ok(), "a data plane may still send a session there");
    two.ack("").await;
    two.report(&[]).await;
    eventually("it is gone", || async { control.find("cn-2").await.is_err() }).await;
    control.stop().await;
}

#[tokio::test]
async fn a_pruned_cn_can_come_back() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.apply(TWO, false).await.unwrap();
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    plane.report(&[("cn-2", 2)]).await;
    eventually("counted", || async { control.find("cn-2").await.unwrap().sessions == 2 }).await;
    control.apply(ONE, true).await.unwrap();
    assert_eq!(told(control.apply(TWO, false).await), ["cn/cn-2 updated"]);
    let back = control.find("cn-2").await.unwrap();
    assert_eq!((back.state(), back.remove_when_empty), (pb::cn::State::Working, false));
    control.stop().await;
}

#[tokio::test]
async fn after_a_restart_data_planes_are_waited_for() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.apply(TWO, false).await.unwrap();
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    plane.report(&[("cn-2", 2)]).await;
    eventually("counted", || async { control.find("cn-2").await.unwrap().sessions == 2 }).await;
    control.apply(ONE, true).await.unwrap();
    assert_eq!(plane.take().await, crate::control::Took::Delta { changed: 1 });
    let state = plane.state.clone();
    drop(plane);
    control.stop().await;
    let control = Control::start(folder.path()).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(control.find("cn-2").await.is_ok(), "dp-1 has not come back yet, and may have sessions there");
    let mut plane = FakePlane::hello(control.channel(), "dp-1", 2, state).await.unwrap();
    plane.report(&[]).await;
    eventually("it is gone", || async { control.find("cn-2").await.is_err() }).await;
    control.stop().await;
}
