//! The stream to the data planes, by a fake one: snapshot, deltas, resuming, refusing, KILLs, ends.

use crate::control::{Control, FakePlane, Took, eventually, refused};
use shunt_proto::pb::{self, control_frame::Frame, data_plane_frame::Frame as Say, killed::Outcome};
use shunt_proto::snapshot::{RoutingSnapshot, Version};
use std::time::Duration;
use tempfile::tempdir;
use tokio::time::timeout;
use tonic::Code;

const FIRST: u32 = 1 << 30;
const BLOCK: u32 = 1 << 20;

#[tokio::test]
async fn a_snapshot_and_then_deltas() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.group("tp", "workload=tp", "acme").await;
    control.cn("cn-1", "127.0.0.1:13306", "tp").await;
    let mut plane = FakePlane::hello(control.channel(), "dp-1", 1, RoutingSnapshot::default()).await.unwrap();
    assert!(!plane.welcome.resumed);
    assert_eq!(plane.welcome.first_session_id, FIRST);
    assert!(plane.welcome.report_interval_ms > 0);
    assert_eq!(plane.take().await, Took::Snapshot);
    let cn = plane.state.cns().next().unwrap();
    assert_eq!((cn.name().as_str(), cn.tenant.as_deref()), ("cn-1", Some("acme")));
    assert!(plane.silence().await, "there is no news");
    control.label("cn-1", "workload=ap").await;
    assert_eq!(plane.take().await, Took::Delta { changed: 1 });
    assert_eq!(plane.state.cns().next().unwrap().labels.to_string(), "workload=ap");
    control.cns().delete_cn(pb::DeleteCnRequest { name: "cn-1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(plane.take().await, Took::Delta { changed: 0 });
    assert_eq!(plane.state.cns().count(), 0);
    eventually("acknowledged", || async {
        control.data_planes().await["dp-1"].revision == plane.state.version().revision
    })
    .await;
    control.stop().await;
}

#[tokio::test]
async fn an_empty_store_is_a_state_too() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let plane = FakePlane::new(control.channel(), "dp-1").await;
    assert_eq!(plane.state.entries().count(), 0);
    assert!(!plane.state.version().store_id.is_empty());
    control.stop().await;
}

#[tokio::test]
async fn what_it_has_is_resumed_after_a_restart_of_either_end() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "127.0.0.1:13306", "").await;
    let plane = FakePlane::new(control.channel(), "dp-1").await;
    let state = plane.state.clone();
    drop(plane);
    // Nothing new: nothing is sent.
    let mut plane = FakePlane::hello(control.channel(), "dp-1", 2, state.clone()).await.unwrap();
    assert!(plane.welcome.resumed);
    assert_eq!(plane.welcome.first_session_id, FIRST, "its block stays");
    assert!(plane.silence().await);
    drop(plane);
    control.label("cn-1", "a=1").await;
    control.label("cn-1", "a=2").await;
    let mut plane = FakePlane::hello(control.channel(), "dp-1", 3, state).await.unwrap();
    assert!(plane.welcome.resumed);
    assert_eq!(plane.take().await, Took::Delta { changed: 1 });
    let state = plane.state.clone();
    control.stop().await;
    // A control plane that never saw that version go by: the digest says that it is the same state.
    let control = Control::start(folder.path()).await;
    let mut plane = FakePlane::hello(control.channel(), "dp-1", 4, state).await.unwrap();
    assert!(plane.welcome.resumed);
    control.cn("cn-2", "127.0.0.1:13307", "").await;
    while plane.state.cns().count() < 2 {
        assert!(matches!(plane.take().await, Took::Delta { .. }));
    }
    control.stop().await;
}

#[tokio::test]
async fn what_it_has_and_nobody_knows_is_replaced() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "127.0.0.1:13306", "").await;
    let right = FakePlane::new(control.channel(), "dp-0").await.state;
    let have = right.version().clone();
    for (id, wrong) in [
        ("dp-1", Version { digest: have.digest ^ 1, ..have.clone() }),
        ("dp-2", Version { store_id: "another".into(), ..have.clone() }),
        ("dp-3", Version { revision: have.revision + 100, ..have.clone() }),
    ] {
        let hello = FakePlane::hello_with(control.channel(), id, 1, right.clone(), Some(wrong));
        let mut plane = hello.await.unwrap();
        assert!(!plane.welcome.resumed, "{id}");
        assert_eq!(plane.take().await, Took::Snapshot, "{id}");
        assert_eq!(*plane.state.version(), have);
    }
    control.stop().await;
}

#[tokio::test]
async fn what_it_refuses_is_shown_and_replaced() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "127.0.0.1:13306", "").await;
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    control.label("cn-1", "a=1").await;
    assert_eq!(plane.see().await, Took::Delta { changed: 1 });
    plane.ack("digest differs").await;
    eventually("the refusal shows", || async {
        control.data_planes().await["dp-1"].refused == "digest differs"
    })
    .await;
    assert!(control.http("/metrics").await.1.contains("frames_refused_total 1\n"));
    assert_eq!(plane.see().await, Took::Snapshot);
    plane.ack("no room on the disk").await;
    assert!(plane.silence().await, "it would be refused again");
    control.label("cn-1", "a=2").await;
    assert_eq!(plane.take().await, Took::Snapshot);
    eventually("it is forgotten", || async { control.data_planes().await["dp-1"].refused.is_empty() }).await;
    control.label("cn-1", "a=3").await;
    assert_eq!(plane.take().await, Took::Delta { changed: 1 });
    control.stop().await;
}

#[tokio::test]
async fn one_that_is_slow_gets_one_merged_delta() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    for i in 0..5 {
        control.cn(&format!("cn-{i}"), &format!("127.0.0.1:{}", 13300 + i), "").await;
    }
    let mut slow = FakePlane::new(control.channel(), "slow").await;
    let mut fast = FakePlane::new(control.channel(), "fast").await;
    for round in 0..20 {
        for i in 0..5 {
            control.label(&format!("cn-{i}"), &format!("round=r{round}")).await;
            fast.take().await;
        }
    }
    // The first was under way when the others came.
    assert_eq!(slow.take().await, Took::Delta { changed: 1 });
    assert_eq!(slow.take().await, Took::Delta { changed: 5 });
    assert_eq!(slow.state.version(), fast.state.version());
    assert!(slow.silence().await);
    control.stop().await;
}

#[tokio::test]
async fn a_large_state_comes_in_chunks() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    for ten in 0..12 {
        let cns: Vec<String> = (0..99)
            .map(|i| format!("{{ name: c-{ten}-{i}, address: '{}:{}' }}", "h".repeat(240), ten * 100 + i + 1))
            .collect();
        let yaml = format!("groups: [ {{ name: g{ten}, cns: [ {} ] }} ]", cns.join(", "));
        control.apply(&yaml, false).await.unwrap();
    }
    let mut plane = FakePlane::hello(control.channel(), "dp-1", 1, RoutingSnapshot::default()).await.unwrap();
    let mut chunks = 0;
    loop {
        let Some(Frame::Snapshot(chunk)) = plane.next().await.unwrap() else { panic!("no snapshot") };
        assert!(prost::Message::encoded_len(&chunk) <= 256 * 1024);
        chunks += 1;
        if chunk.last {
            break;
        }
    }
    assert!(chunks > 1);
    control.stop().await;
}

#[tokio::test]
async fn the_newest_start_of_a_data_plane_wins() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let state = RoutingSnapshot::default;
    let mut old = FakePlane::hello(control.channel(), "dp-1", 5, state()).await.unwrap();
    let older = FakePlane::hello(control.channel(), "dp-1", 4, state()).await;
    let told = refused(older, Code::AlreadyExists, "DATA_PLANE_SUPERSEDED");
    assert!(told.message().contains("newer incarnation 5"), "{told:?}");
    let new = FakePlane::hello(control.channel(), "dp-1", 6, state()).await.unwrap();
    assert_eq!(new.welcome.first_session_id, old.welcome.first_session_id);
    let end = loop {
        match old.next().await {
            Ok(frame) => assert!(frame.is_some(), "it ended without a reason"),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(end), Code::AlreadyExists, "DATA_PLANE_SUPERSEDED");
    assert!(control.data_planes().await["dp-1"].connected);
    control.stop().await;
}

#[tokio::test]
async fn blocks_of_ids_are_kept_and_given_back() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let one = FakePlane::new(control.channel(), "dp-1").await;
    let two = FakePlane::new(control.channel(), "dp-2").await;
    assert_eq!((one.welcome.first_session_id, two.welcome.first_session_id), (FIRST, FIRST + BLOCK));
    let planes = control.data_planes().await;
    assert_eq!(planes["dp-2"].first_session_id, FIRST + BLOCK);
    assert_eq!(planes["dp-2"].version, "1.2.3");
    // One that leaves gives its block back; one that only hangs up does not.
    one.say(Say::Leave(pb::Leave {})).await;
    drop(two);
    eventually("dp-1 is forgotten", || async { !control.data_planes().await.contains_key("dp-1") }).await;
    eventually("dp-2 is gone", || async { !control.data_planes().await["dp-2"].connected }).await;
    let three = FakePlane::new(control.channel(), "dp-3").await;
    assert_eq!(three.welcome.first_session_id, FIRST);
    let forget = |id: &str| {
        let request = pb::ForgetDataPlaneRequest { id: id.into() };
        let mut cluster = control.cluster();
        async move { cluster.forget_data_plane(request).await }
    };
    refused(forget("dp-3").await, Code::FailedPrecondition, "DATA_PLANE_CONNECTED");
    refused(forget("dp-9").await, Code::NotFound, "DATA_PLANE_NOT_FOUND");
    forget("dp-2").await.unwrap();
    let four = FakePlane::new(control.channel(), "dp-4").await;
    assert_eq!(four.welcome.first_session_id, FIRST + BLOCK);
    control.stop().await;
    // The store knows them after a restart.
    let control = Control::start(folder.path()).await;
    assert_eq!(control.data_planes().await.keys().collect::<Vec<_>>(), ["dp-3", "dp-4"]);
    let again = FakePlane::new(control.channel(), "dp-4").await;
    assert_eq!(again.welcome.first_session_id, FIRST + BLOCK);
    control.stop().await;
}

#[tokio::test]
async fn counts_and_health_are_shown() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.group("tp", "workload=tp", "acme").await;
    control.cn("cn-1", "127.0.0.1:13306", "tp").await;
    control.cn("cn-2", "127.0.0.1:13307", "tp").await;
    let tenant = pb::Tenant { name: "acme".into(), ..Default::default() };
    control.tenants().create_tenant(pb::CreateTenantRequest { tenant: Some(tenant) }).await.unwrap();
    let mut one = FakePlane::new(control.channel(), "dp-1").await;
    let mut two = FakePlane::new(control.channel(), "dp-2").await;
    one.report(&[("cn-1", 3)]).await;
    let down = |sessions| pb::CnReport {
        cn: "cn-1".into(),
        sessions,
        health: pb::cn::Health::Down.into(),
        reason: "connection refused".into(),
    };
    let acme = pb::TenantReport { tenant: "acme".into(), sessions: 5 };
    two.report_all(vec![down(4)], vec![acme]).await;
    eventually("all is counted", || async { control.find("cn-1").await.unwrap().sessions == 7 }).await;
    let cn = control.find("cn-1").await.unwrap();
    assert_eq!(cn.health(), pb::cn::Health::Down);
    assert_eq!(cn.health_reason, "connection refused (data plane dp-2)");
    assert_eq!(control.find("cn-2").await.unwrap().health(), pb::cn::Health::Unknown);
    let group = control.groups().get_group(pb::GetGroupRequest { name: "tp".into() }).await.unwrap();
    let group = group.into_inner();
    assert_eq!((group.sessions, group.working, group.cns.len()), (7, 1, 2));
    let tenant = control.tenants().get_tenant(pb::GetTenantRequest { name: "acme".into() }).await.unwrap();
    assert_eq!(tenant.into_inner().sessions, 5);
    let status = control.cluster().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.sessions, status.cns, status.cns_up, status.groups), (7, 2, 1, 1));
    assert_eq!(status.store, "embedded");
    assert_eq!(control.data_planes().await["dp-1"].sessions, 3);
    // Its counts outlive its stream; what it said of a CN's health does not.
    drop(two);
    eventually("dp-2 is gone", || async { !control.data_planes().await["dp-2"].connected }).await;
    let cn = control.find("cn-1").await.unwrap();
    assert_eq!((cn.sessions, cn.health()), (7, pb::cn::Health::Unknown));
    control.stop().await;
}

fn session(id: u32, user: &str, cn: &str) -> pb::Session {
    pb::Session { id, user: user.into(), cn: cn.into(), tenant: "acme".into(), ..pb::Session::default() }
}

#[tokio::test]
async fn sessions_are_asked_from_the_data_planes() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mut one = FakePlane::new(control.channel(), "dp-1").await;
    let mut two = FakePlane::new(control.channel(), "dp-2").await;
    one.sessions = (0..7).map(|i| session(FIRST + i, "ann", "cn-1")).collect();
    two.sessions = (0..5).map(|i| session(FIRST + BLOCK + i, "bob", "cn-2")).collect();
    tokio::spawn(one.serve());
    tokio::spawn(two.serve());
    let mut ids = Vec::new();
    let mut request = pb::ListSessionsRequest { page_size: 5, ..Default::default() };
    loop {
        let page = control.sessions().list_sessions(request.clone()).await.unwrap().into_inner();
        assert!(page.sessions.len() <= 5 && page.unanswered.is_empty());
        ids.extend(page.sessions.iter().map(|session| session.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let all: Vec<u32> = (0..7).map(|i| FIRST + i).chain((0..5).map(|i| FIRST + BLOCK + i)).collect();
    assert_eq!(ids, all);
    let of = pb::ListSessionsRequest { cn: "cn-2".into(), ..Default::default() };
    assert_eq!(control.sessions().list_sessions(of).await.unwrap().into_inner().sessions.len(), 5);
    let find = |id| {
        let mut sessions = control.sessions();
        async move { sessions.get_session(pb::GetSessionRequest { id }).await }
    };
    assert_eq!(find(FIRST + BLOCK + 1).await.unwrap().into_inner().user, "bob");
    refused(find(FIRST + 9).await, Code::NotFound, "SESSION_NOT_FOUND");
    refused(find(FIRST + 2 * BLOCK).await, Code::NotFound, "SESSION_NOT_FOUND");
    refused(find(7).await, Code::NotFound, "SESSION_NOT_FOUND");
    let kill = |id| {
        let mut sessions = control.sessions();
        async move { sessions.kill_session(pb::KillSessionRequest { id, query_only: false }).await }
    };
    kill(FIRST + 2).await.unwrap();
    refused(kill(FIRST + 2).await, Code::NotFound, "SESSION_NOT_FOUND");
    control.stop().await;
}

#[tokio::test]
async fn a_data_plane_that_does_not_answer_is_named() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mut good = FakePlane::new(control.channel(), "good").await;
    good.sessions = vec![session(FIRST, "ann", "cn-1")];
    tokio::spawn(good.serve());
    let mute = FakePlane::new(control.channel(), "mute").await;
    let mut gone = FakePlane::new(control.channel(), "gone").await;
    gone.report(&[("cn-1", 2)]).await;
    eventually("it is counted", || async { control.data_planes().await["gone"].sessions == 2 }).await;
    drop(gone);
    eventually("it is gone", || async { !control.data_planes().await["gone"].connected }).await;
    let began = tokio::time::Instant::now();
    let request = pb::ListSessionsRequest::default();
    let list = control.sessions().list_sessions(request).await.unwrap().into_inner();
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    assert_eq!((list.sessions.len(), list.unanswered), (1, vec!["gone".to_owned(), "mute".to_owned()]));
    let request = pb::RebalanceRequest { dry_run: true };
    let plan = control.sessions().rebalance(request).await.unwrap().into_inner();
    let parts: Vec<_> = plan.parts.iter().map(|part| (part.sessions, part.why.as_str())).collect();
    assert_eq!((parts, plan.left_out, plan.dry_run), (vec![(1, "dry run: true")], 1, true));
    assert_eq!(plan.unanswered, ["gone", "mute"]);
    let id = mute.welcome.first_session_id + 1;
    let found = control.sessions().get_session(pb::GetSessionRequest { id }).await;
    refused(found, Code::Unavailable, "DATA_PLANE_UNANSWERED");
    control.stop().await;
}

#[tokio::test]
async fn a_kill_finds_its_session_on_another_data_plane() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mut owner = FakePlane::new(control.channel(), "owner").await;
    let block = owner.welcome.first_session_id;
    owner.sessions = vec![session(block + 1, "ann", "cn-1"), session(block + 2, "bob", "cn-1")];
    tokio::spawn(owner.serve());
    let mute = FakePlane::new(control.channel(), "mute").await;
    let mut other = FakePlane::new(control.channel(), "other").await;
    let ann = || Some(pb::Asker { tenant: "acme".into(), user: "ann".into(), may_kill_others: false });
    for (n, session_id, asker, outcome) in [
        (1, block + 1, ann(), Outcome::Done),
        (2, block + 1, ann(), Outcome::Unknown),
        (3, block + 2, ann(), Outcome::Denied),
        // Only an operator may without saying who, and an operator is no data plane.
        (4, block + 2, None, Outcome::Denied),
        (5, 77, ann(), Outcome::Unknown),
        (6, mute.welcome.first_session_id, ann(), Outcome::Unreachable),
        (7, FIRST + 900 * BLOCK, ann(), Outcome::Unknown),
    ] {
        other.say(Say::Kill(pb::Kill { id: n, session_id, query_only: false, asker })).await;
        let Some(Frame::Killed(killed)) = other.next().await.unwrap() else { panic!("no answer") };
        assert_eq!((killed.id, killed.outcome()), (n, outcome), "{n}");
    }
    control.stop().await;
}

#[tokio::test]
async fn what_is_no_hello_ends_the_stream() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let bad_id = pb::Hello { data_plane_id: "../x".into(), ..Default::default() };
    for first in [Say::Hello(bad_id), Say::Ack(pb::Ack::default())] {
        let (_say, mut frames) = FakePlane::raw(control.channel(), first).await.unwrap();
        let end = timeout(Duration::from_secs(5), frames.message()).await.unwrap();
        refused(end, Code::InvalidArgument, "PROTOCOL");
    }
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    plane.say(Say::Hello(pb::Hello::default())).await;
    refused(plane.next().await, Code::InvalidArgument, "PROTOCOL");
    // Answers that nobody asked for, and reports about nothing, harm nobody.
    let mut plane = FakePlane::new(control.channel(), "dp-2").await;
    plane.say(Say::Answer(pb::Answer { id: 99, ..Default::default() })).await;
    plane.report(&[("no-such-cn", u32::MAX), ("nor-this", u32::MAX)]).await;
    eventually("counted", || async { control.data_planes().await["dp-2"].sessions == u32::MAX }).await;
    control.stop().await;
}

#[tokio::test]
async fn many_questions_and_kills_stay_bounded() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mute = FakePlane::new(control.channel(), "mute").await;
    let mut other = FakePlane::new(control.channel(), "other").await;
    let asker = Some(pb::Asker { user: "ann".into(), ..Default::default() });
    for id in 0..300 {
        let session_id = mute.welcome.first_session_id + 1;
        other.say(Say::Kill(pb::Kill { id, session_id, query_only: false, asker: asker.clone() })).await;
    }
    for _ in 0..300 {
        let Some(Frame::Killed(killed)) = other.next().await.unwrap() else { panic!("no answer") };
        assert_eq!(killed.outcome(), Outcome::Unreachable);
    }
    control.stop().await;
}

#[tokio::test]
async fn shutting_down_ends_streams_and_says_so_first() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    control.shut_down();
    let end = loop {
        match plane.next().await {
            Ok(frame) => assert!(frame.is_some(), "it ended without a reason"),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(end), Code::Unavailable, "STOPPING");
    drop(plane);
    control.stop().await;
    // And it can start again at once, in the same folder.
    Control::start(folder.path()).await.stop().await;
}

/// What one data plane found out the others hear at once, and hear when it is over.
#[tokio::test]
async fn a_cn_that_is_down_for_one_is_avoided_by_all() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    for (cn, port) in [("cn-1", 1), ("cn-2", 2), ("cn-3", 3)] {
        control.cn(cn, &format!("127.0.0.1:{port}"), "").await;
    }
    let mut one = FakePlane::new(control.channel(), "dp-1").await;
    let mut other = FakePlane::new(control.channel(), "dp-2").await;
    for (down, avoided) in [(&["cn-2"][..], &["cn-2"][..]), (&["cn-2", "cn-3"], &[]), (&["cn-3"], &["cn-3"])]
    {
        one.report_down(down).await;
        for plane in [&mut one, &mut other] {
            assert_eq!(plane.avoids().await, avoided, "{down:?}");
        }
    }
    // Who comes later hears it too, and when it goes that is nobody's word any more.
    let mut late = FakePlane::new(control.channel(), "dp-3").await;
    assert_eq!(late.avoids().await, ["cn-3"]);
    drop(one);
    assert!(other.avoids().await.is_empty() && late.avoids().await.is_empty());
    control.stop().await;
}
