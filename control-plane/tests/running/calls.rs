//! Create, read, list, update and delete, by real calls, and what each refusal says.

use crate::control::{Control, labels, refused, shown};
use shunt_proto::pb;
use tempfile::tempdir;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() })
}

fn cn(name: &str, address: &str) -> pb::Cn {
    pb::Cn { name: name.into(), address: address.into(), ..pb::Cn::default() }
}

async fn create(control: &Control, cn: pb::Cn) -> Result<pb::Cn, tonic::Status> {
    let created = control.cns().create_cn(pb::CreateCnRequest { cn: Some(cn) }).await;
    created.map(tonic::Response::into_inner)
}

async fn update(control: &Control, cn: pb::Cn, paths: Option<&[&str]>) -> Result<pb::Cn, tonic::Status> {
    let request = pb::UpdateCnRequest { cn: Some(cn), update_mask: paths.and_then(mask) };
    control.cns().update_cn(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_cn_from_beginning_to_end() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.group("tp", "workload=tp,tier=gold", "acme").await;
    let wanted = pb::Cn {
        group: "tp".into(),
        own_labels: labels("workload=ap,tier="),
        zone: "a".into(),
        ..cn("cn-1", "db1:3306")
    };
    let created = create(&control, wanted).await.unwrap();
    assert_eq!(shown(&created.labels), "tenant=acme,workload=ap");
    assert_eq!((created.weight, created.state()), (100, pb::cn::State::Working));
    assert!(!created.etag.is_empty());
    assert_eq!(control.find("cn-1").await.unwrap(), created, "a call sees what the one before wrote");

    let changed = pb::Cn { weight: 50, zone: "b".into(), ..cn("cn-1", "") };
    let updated = update(&control, changed, None).await.unwrap();
    assert_eq!((updated.weight, updated.zone.as_str(), updated.address.as_str()), (50, "b", "db1:3306"));
    assert_ne!(updated.etag, created.etag);
    // Only what the mask names.
    let changed = pb::Cn { weight: 7, zone: "c".into(), ..cn("cn-1", "") };
    let updated = update(&control, changed, Some(&["zone"])).await.unwrap();
    assert_eq!((updated.weight, updated.zone.as_str()), (50, "c"));
    // All of it: what is not there is taken away.
    let updated = update(&control, cn("cn-1", "db2:3306"), Some(&["*"])).await.unwrap();
    assert_eq!((updated.weight, updated.group.as_str(), updated.own_labels.len()), (100, "", 0));
    assert_eq!(updated.address, "db2:3306");
    // Nothing new is no write.
    let same = update(&control, updated.clone(), Some(&["*"])).await.unwrap();
    assert_eq!(same, updated);

    let delete = |etag: &str| {
        let request = pb::DeleteCnRequest { name: "cn-1".into(), etag: etag.into(), force: false };
        let mut cns = control.cns();
        async move { cns.delete_cn(request).await }
    };
    refused(delete(&created.etag).await, Code::Aborted, "ETAG_MISMATCH");
    delete(&updated.etag).await.unwrap();
    refused(delete("").await, Code::NotFound, "CN_NOT_FOUND");
    refused(control.find("cn-1").await, Code::NotFound, "CN_NOT_FOUND");
    control.stop().await;
}

#[tokio::test]
async fn what_no_cn_can_be() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "127.0.0.1:13306", "").await;
    for (wanted, code, reason, says) in [
        (cn("cn-1", "h:1"), Code::AlreadyExists, "CN_EXISTS", "CN cn-1 exists already"),
        (cn("cn-2", "127.0.0.1:13306"), Code::AlreadyExists, "ADDRESS_IN_USE", "that of CN cn-1"),
        (
            pb::Cn { group: "no".into(), ..cn("cn-2", "h:1") },
            Code::InvalidArgument,
            "GROUP_NOT_FOUND",
            "group no of CN cn-2 does not exist",
        ),
        (cn("", "h:1"), Code::InvalidArgument, "INVALID", "cn.name"),
        (cn("a b", "h:1"), Code::InvalidArgument, "INVALID", "cn.name"),
        (cn("cn-2", ""), Code::InvalidArgument, "INVALID", "cn.address"),
        (cn("cn-2", "h"), Code::InvalidArgument, "INVALID", "host:port"),
        (cn("cn-2", "h:0"), Code::InvalidArgument, "INVALID", "host:port"),
        (pb::Cn { weight: 10_001, ..cn("cn-2", "h:1") }, Code::InvalidArgument, "INVALID", "weight"),
        (
            pb::Cn { state: pb::cn::State::Draining.into(), ..cn("cn-2", "h:1") },
            Code::InvalidArgument,
            "INVALID",
            "cn.state",
        ),
        (
            pb::Cn { labels: labels("a=1"), own_labels: labels("b=1"), ..cn("cn-2", "h:1") },
            Code::InvalidArgument,
            "INVALID",
            "own_labels only",
        ),
        (
            pb::Cn { own_labels: [("tenant".into(), Default::default())].into(), ..cn("cn-2", "h:1") },
            Code::InvalidArgument,
            "INVALID",
            "\"tenant\"",
        ),
    ] {
        let status = refused(create(&control, wanted).await, code, reason);
        assert!(status.message().contains(says), "{says} in {}", status.message());
        if code == Code::InvalidArgument {
            let violations = status.get_details_bad_request().expect("no BadRequest").field_violations;
            assert_eq!(violations.len(), 1);
        }
    }
    // `labels` in a registration are its own.
    let with = pb::Cn { labels: labels("workload=tp"), ..cn("cn-2", "h:1") };
    assert_eq!(shown(&create(&control, with).await.unwrap().own_labels), "workload=tp");
    control.stop().await;
}

#[tokio::test]
async fn updates_that_make_no_sense() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let one = control.cn("cn-1", "127.0.0.1:13306", "").await;
    control.cn("cn-2", "127.0.0.1:13307", "").await;
    let invalid = async |wanted: pb::Cn, paths: &[&str], says: &str| {
        let status = refused(update(&control, wanted, Some(paths)).await, Code::InvalidArgument, "INVALID");
        assert!(status.message().contains(says), "{}", status.message());
    };
    invalid(cn("cn-1", ""), &["labels"], "own_labels, or use LabelCn").await;
    invalid(cn("cn-1", ""), &["state"], "is an output").await;
    invalid(cn("cn-1", ""), &["nothing"], "is not a field").await;
    invalid(cn("cn-1", ""), &["address"], "host:port").await;
    let taken = update(&control, cn("cn-1", "127.0.0.1:13307"), None).await;
    refused(taken, Code::AlreadyExists, "ADDRESS_IN_USE");
    let nowhere = update(&control, pb::Cn { group: "no".into(), ..cn("cn-1", "") }, None).await;
    refused(nowhere, Code::InvalidArgument, "GROUP_NOT_FOUND");
    refused(update(&control, cn("cn-3", "h:1"), None).await, Code::NotFound, "CN_NOT_FOUND");
    let stale = pb::Cn { etag: "1".into(), zone: "z".into(), ..cn("cn-1", "") };
    refused(update(&control, stale, None).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(control.find("cn-1").await.unwrap(), one, "nothing of it was done");
    control.stop().await;
}

#[tokio::test]
async fn labels_are_set_and_removed_in_one_change() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.group("tp", "workload=tp", "acme").await;
    control.cn("cn-1", "127.0.0.1:13306", "tp").await;
    control.label("cn-1", "workload=ap,tier=gold|silver").await;
    let request = pb::LabelCnRequest {
        name: "cn-1".into(),
        set: labels("tier=bronze,zone=eu"),
        remove: vec!["workload".into(), "never".into()],
        etag: control.find("cn-1").await.unwrap().etag,
    };
    let labelled = control.cns().label_cn(request.clone()).await.unwrap().into_inner();
    assert_eq!(shown(&labelled.own_labels), "tier=bronze,zone=eu");
    assert_eq!(shown(&labelled.labels), "tenant=acme,tier=bronze,workload=tp,zone=eu");
    refused(control.cns().label_cn(request.clone()).await, Code::Aborted, "ETAG_MISMATCH");
    for bad in [
        pb::LabelCnRequest { remove: vec!["tier".into()], ..request.clone() },
        pb::LabelCnRequest { remove: vec!["a b".into()], ..request.clone() },
        pb::LabelCnRequest {
            set: (0..32).map(|i| (format!("k{i}"), Default::default())).collect(),
            etag: String::new(),
            remove: vec![],
            ..request.clone()
        },
    ] {
        refused(control.cns().label_cn(bad).await, Code::InvalidArgument, "INVALID");
    }
    let nobody = pb::LabelCnRequest { name: "cn-9".into(), ..Default::default() };
    refused(control.cns().label_cn(nobody).await, Code::NotFound, "CN_NOT_FOUND");
    control.stop().await;
}

#[tokio::test]
async fn lists_have_pages() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.group("tp", "", "").await;
    for i in 0..7 {
        control.cn(&format!("cn-{i}"), &format!("h:{}", i + 1), if i % 2 == 0 { "tp" } else { "" }).await;
    }
    let mut names = Vec::new();
    let mut request = pb::ListCnsRequest { page_size: 3, ..Default::default() };
    let mut pages = 0;
    loop {
        let page = control.cns().list_cns(request.clone()).await.unwrap().into_inner();
        names.extend(page.cns.into_iter().map(|cn| cn.name));
        pages += 1;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
        // What is deleted while pages are turned takes nothing else along.
        if pages == 1 {
            let gone = pb::DeleteCnRequest { name: "cn-2".into(), ..Default::default() };
            control.cns().delete_cn(gone).await.unwrap();
        }
    }
    assert_eq!((pages, names.len()), (3, 7));
    assert!(names.is_sorted());
    let of = |group: &str| pb::ListCnsRequest { group: group.into(), page_size: 1, ..Default::default() };
    let page = control.cns().list_cns(of("tp")).await.unwrap().into_inner();
    assert_eq!(page.cns[0].name, "cn-0");
    // A token belongs to its list.
    let other = pb::ListCnsRequest { page_token: page.next_page_token.clone(), ..Default::default() };
    refused(control.cns().list_cns(other).await, Code::InvalidArgument, "INVALID");
    for bad in ["x", "00", "zz", "deadbeef"] {
        let request = pb::ListCnsRequest { page_token: bad.into(), ..Default::default() };
        refused(control.cns().list_cns(request).await, Code::InvalidArgument, "INVALID");
        let request = pb::ListSessionsRequest { page_token: bad.into(), ..Default::default() };
        refused(control.sessions().list_sessions(request).await, Code::InvalidArgument, "INVALID");
    }
    let negative = pb::ListCnsRequest { page_size: -1, ..Default::default() };
    refused(control.cns().list_cns(negative).await, Code::InvalidArgument, "INVALID");
    let all = pb::ListCnsRequest { page_size: 100_000, ..Default::default() };
    assert_eq!(control.cns().list_cns(all).await.unwrap().into_inner().cns.len(), 6);
    control.stop().await;
}

#[tokio::test]
async fn a_group_from_beginning_to_end() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let group = control.group("tp", "workload=tp", "acme").await;
    let again = pb::CreateGroupRequest { group: Some(group.clone()) };
    refused(control.groups().create_group(again).await, Code::AlreadyExists, "GROUP_EXISTS");
    control.cn("cn-1", "127.0.0.1:13306", "tp").await;
    let change = |group: pb::CnGroup, paths: Option<&[&str]>| {
        let request = pb::UpdateGroupRequest { group: Some(group), update_mask: paths.and_then(mask) };
        let mut groups = control.groups();
        async move { groups.update_group(request).await.map(tonic::Response::into_inner) }
    };
    let replicas = pb::CnGroup { name: "tp".into(), replicas: 3, ..Default::default() };
    let updated = change(replicas, None).await.unwrap();
    assert_eq!((updated.replicas, shown(&updated.labels).as_str()), (3, "workload=tp"));
    assert_eq!((updated.cns, updated.working), (vec!["cn-1".to_owned()], 1));
    let bare = pb::CnGroup { name: "tp".into(), ..Default::default() };
    let cleared = change(bare.clone(), Some(&["labels", "tenant"])).await.unwrap();
    assert!(cleared.labels.is_empty() && cleared.tenant.is_empty());
    assert_eq!(cleared.replicas, 3);
    assert!(control.find("cn-1").await.unwrap().labels.is_empty(), "its CNs follow");
    let stale = pb::CnGroup { etag: group.etag, ..bare };
    refused(change(stale, Some(&["tenant"])).await, Code::Aborted, "ETAG_MISMATCH");
    // A group whose labels and a CN's own would be too many.
    control.label("cn-1", &(0..20).map(|i| format!("own{i}=v")).collect::<Vec<_>>().join(",")).await;
    let labels = labels(&(0..20).map(|i| format!("of{i}=v")).collect::<Vec<_>>().join(","));
    let many = pb::CnGroup { name: "tp".into(), labels, ..Default::default() };
    let status = refused(change(many, None).await, Code::InvalidArgument, "INVALID");
    assert!(status.message().contains("CN cn-1 would carry more than 32 labels"), "{status:?}");

    let delete = || {
        let mut groups = control.groups();
        async move {
            groups.delete_group(pb::DeleteGroupRequest { name: "tp".into(), ..Default::default() }).await
        }
    };
    let status = refused(delete().await, Code::FailedPrecondition, "GROUP_HAS_CNS");
    assert!(status.message().contains("cn-1"));
    let gone = pb::DeleteCnRequest { name: "cn-1".into(), ..Default::default() };
    control.cns().delete_cn(gone).await.unwrap();
    delete().await.unwrap();
    refused(delete().await, Code::NotFound, "GROUP_NOT_FOUND");
    let find = control.groups().get_group(pb::GetGroupRequest { name: "tp".into() }).await;
    refused(find, Code::NotFound, "GROUP_NOT_FOUND");
    for i in 0..3 {
        control.group(&format!("g{i}"), "", "").await;
    }
    let page = pb::ListGroupsRequest { page_size: 2, ..Default::default() };
    let page = control.groups().list_groups(page).await.unwrap().into_inner();
    let rest = pb::ListGroupsRequest { page_token: page.next_page_token, ..Default::default() };
    let rest = control.groups().list_groups(rest).await.unwrap().into_inner();
    assert_eq!((page.groups.len(), rest.groups.len(), rest.next_page_token.as_str()), (2, 1, ""));
    control.stop().await;
}

#[tokio::test]
async fn a_tenant_from_beginning_to_end() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let wanted = pb::Tenant {
        name: "acme".into(),
        default_labels: labels("workload=tp"),
        allow: vec!["127.0.0.0/8".into(), "::1".into()],
        max_sessions: 10,
        ..Default::default()
    };
    let request = pb::CreateTenantRequest { tenant: Some(wanted.clone()) };
    let created = control.tenants().create_tenant(request.clone()).await.unwrap().into_inner();
    assert_eq!(created.allow, ["127.0.0.0/8", "::1/128"]);
    refused(control.tenants().create_tenant(request).await, Code::AlreadyExists, "TENANT_EXISTS");
    let change = |tenant: pb::Tenant, paths: Option<&[&str]>| {
        let request = pb::UpdateTenantRequest { tenant: Some(tenant), update_mask: paths.and_then(mask) };
        let mut tenants = control.tenants();
        async move { tenants.update_tenant(request).await.map(tonic::Response::into_inner) }
    };
    let bare = pb::Tenant { name: "acme".into(), ..Default::default() };
    let suspended = change(pb::Tenant { suspended: true, ..bare.clone() }, None).await.unwrap();
    assert!(suspended.suspended && suspended.max_sessions == 10);
    let on_no_match = pb::tenant::OnNoMatch::Reject.into();
    let free = change(
        pb::Tenant { on_no_match, ..bare.clone() },
        Some(&["suspended", "allow", "max_sessions", "default_labels", "on_no_match"]),
    );
    let free = free.await.unwrap();
    assert!(!free.suspended && free.allow.is_empty() && free.default_labels.is_empty());
    assert_eq!((free.max_sessions, free.on_no_match()), (0, pb::tenant::OnNoMatch::Reject));
    let stale = pb::Tenant { etag: created.etag, max_sessions: 1, ..bare.clone() };
    refused(change(stale, None).await, Code::Aborted, "ETAG_MISMATCH");
    for bad in [
        pb::Tenant { default_labels: labels("_x=1"), ..bare.clone() },
        pb::Tenant { default_labels: labels("program_name=1"), ..bare.clone() },
        pb::Tenant { default_labels: labels("x="), ..bare.clone() },
        pb::Tenant { allow: vec!["10.0.0.0/33".into()], ..bare.clone() },
        pb::Tenant { on_no_match: 7, ..bare.clone() },
        pb::Tenant {
            allow: (0..9000).map(|i| format!("10.0.{}.{}", i / 250, i % 250)).collect(),
            ..bare.clone()
        },
    ] {
        refused(change(bad, None).await, Code::InvalidArgument, "INVALID");
    }
    let list = control.tenants().list_tenants(pb::ListTenantsRequest::default()).await.unwrap();
    assert_eq!(list.into_inner().tenants, [free]);
    let delete = pb::DeleteTenantRequest { name: "acme".into(), ..Default::default() };
    control.tenants().delete_tenant(delete.clone()).await.unwrap();
    refused(control.tenants().delete_tenant(delete).await, Code::NotFound, "TENANT_NOT_FOUND");
    let find = control.tenants().get_tenant(pb::GetTenantRequest { name: "acme".into() }).await;
    refused(find, Code::NotFound, "TENANT_NOT_FOUND");
    control.stop().await;
}

#[tokio::test]
async fn the_policy_has_defaults_and_is_changed_in_parts() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let read = || {
        let mut cluster = control.cluster();
        async move { cluster.get_policy(pb::GetPolicyRequest {}).await.unwrap().into_inner() }
    };
    let before = read().await;
    assert_eq!(before.rebalance.unwrap().moves_per_second, 200);
    assert_eq!(before.etag, "", "nobody has written it");
    let change = |policy: pb::Policy, paths: Option<&[&str]>| {
        let request = pb::UpdatePolicyRequest { policy: Some(policy), update_mask: paths.and_then(mask) };
        let mut cluster = control.cluster();
        async move { cluster.update_policy(request).await.map(tonic::Response::into_inner) }
    };
    let settle_after = Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 });
    let migrate = pb::policy::Migrate { settle_after, ..Default::default() };
    let part = pb::Policy { migrate: Some(migrate), ..Default::default() };
    let after = change(part.clone(), None).await.unwrap();
    assert_eq!(after.migrate.unwrap().settle_after, settle_after);
    assert_eq!(after.migrate.unwrap().wait_for_cn, before.migrate.unwrap().wait_for_cn);
    assert_eq!(after.rebalance, before.rebalance);
    assert_eq!(read().await, after);
    // A zero that a mask names is meant.
    let zero = Some(prost_types::Duration::default());
    let now = pb::policy::Migrate { last_result_grace: zero, ..Default::default() };
    let now = pb::Policy { migrate: Some(now), etag: after.etag.clone(), ..Default::default() };
    let after = change(now.clone(), Some(&["migrate.last_result_grace"])).await.unwrap();
    assert_eq!(after.migrate.unwrap().last_result_grace, zero);
    refused(change(now, Some(&["migrate.last_result_grace"])).await, Code::Aborted, "ETAG_MISMATCH");
    let bad = pb::policy::Rebalance { tolerance: f64::NAN, moves_per_second: 1 };
    let bad = pb::Policy { rebalance: Some(bad), ..Default::default() };
    refused(change(bad, Some(&["rebalance"])).await, Code::InvalidArgument, "INVALID");
    refused(change(part, Some(&["migrate.nothing"])).await, Code::InvalidArgument, "INVALID");
    control.stop().await;
}

/// What several calls at once validate holds when they are written.
#[tokio::test]
async fn calls_at_the_same_time() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.group("tp", "", "").await;
    let same_address = (0..8).map(|i| {
        let mut cns = control.cns();
        let wanted = pb::Cn { group: "tp".into(), ..cn(&format!("cn-{i}"), "h:1") };
        tokio::spawn(async move { cns.create_cn(pb::CreateCnRequest { cn: Some(wanted) }).await })
    });
    let mut created = 0;
    for call in same_address.collect::<Vec<_>>() {
        match call.await.unwrap() {
            Ok(_) => created += 1,
            Err(status) => {
                refused(Err::<(), _>(status), Code::AlreadyExists, "ADDRESS_IN_USE");
            }
        }
    }
    assert_eq!(created, 1);
    // A label each, of one CN: none is lost.
    let name =
        control.cns().list_cns(pb::ListCnsRequest::default()).await.unwrap().into_inner().cns[0].name.clone();
    let set = (0..16).map(|i| {
        let mut cns = control.cns();
        let set = labels(&format!("k{i}=v"));
        let request = pb::LabelCnRequest { name: name.clone(), set, ..Default::default() };
        tokio::spawn(async move { cns.label_cn(request).await.unwrap() })
    });
    for call in set.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(control.find(&name).await.unwrap().own_labels.len(), 16);
    control.stop().await;
}

#[tokio::test]
async fn a_cn_with_sessions_is_deleted_only_by_force() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cn("cn-1", "127.0.0.1:13306", "").await;
    let mut plane = crate::control::FakePlane::new(control.channel(), "dp-1").await;
    plane.report(&[("cn-1", 2)]).await;
    crate::control::eventually("counted", || async { control.find("cn-1").await.unwrap().sessions == 2 })
        .await;
    let delete = |force| {
        let mut cns = control.cns();
        let request = pb::DeleteCnRequest { name: "cn-1".into(), force, ..Default::default() };
        async move { cns.delete_cn(request).await }
    };
    refused(delete(false).await, Code::FailedPrecondition, "CN_HAS_SESSIONS");
    delete(true).await.unwrap();
    control.stop().await;
}

/// What grpcurl and other tools ask before anything else.
#[tokio::test]
async fn reflection_and_health() {
    use tonic_reflection::pb::{v1, v1alpha};
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(control.channel());
    for service in ["", "shunt.v1.CnService", "shunt.v1.RoutingService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    let symbols = [
        "shunt.v1.CnService",
        "shunt.v1.Explanation",
        "shunt.v1.RoutingService",
        "grpc.health.v1.Health",
        "google.rpc.ErrorInfo",
        "google.protobuf.FieldMask",
    ];
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(control.channel());
    for symbol in symbols {
        use v1::server_reflection_request::MessageRequest;
        let message_request = Some(MessageRequest::FileContainingSymbol(symbol.into()));
        let request = v1::ServerReflectionRequest { message_request, ..Default::default() };
        let answers = client.server_reflection_info(Request::new(tokio_stream::once(request))).await;
        let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response;
        use v1::server_reflection_response::MessageResponse;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{symbol}: {answer:?}");
    }
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(control.channel());
    use v1alpha::server_reflection_request::MessageRequest;
    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let answers = client.server_reflection_info(Request::new(tokio_stream::once(request))).await;
    let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer
    else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for service in ["shunt.v1.ClusterService", "shunt.v1.SessionService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
    control.stop().await;
}

/// Statuses travel in headers, and those have a limit.
#[tokio::test]
async fn what_is_too_long_is_still_refused_properly() {
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    let long = "ä".repeat(100_000);
    refused(control.find(&long).await, Code::NotFound, "CN_NOT_FOUND");
    refused(create(&control, cn("cn-1", &long)).await, Code::InvalidArgument, "INVALID");
    let nowhere = pb::Cn { group: long.clone(), ..cn("cn-1", "h:1") };
    refused(create(&control, nowhere).await, Code::InvalidArgument, "INVALID");
    let request = pb::ListCnsRequest { page_token: long.clone(), ..Default::default() };
    refused(control.cns().list_cns(request).await, Code::InvalidArgument, "INVALID");
    let request = pb::UpdateCnRequest { cn: Some(cn("cn-1", "")), update_mask: mask(&[&long]) };
    refused(control.cns().update_cn(request).await, Code::InvalidArgument, "INVALID");
    control.stop().await;
}
