//! The table of routing cases (`proto/src/tenant/cases.yaml`) through the Explain call of a control plane, and what
//! Explain adds to it.

use crate::control::{Control, FakePlane, eventually, labels, refused, store};
use shunt_control::store::Txn;
use shunt_proto::intent::Intent;
use shunt_proto::yaml::{Document, Section};
use shunt_proto::{json, pb};
use std::collections::BTreeSet;
use std::path::Path;
use tempfile::tempdir;
use tonic::Code;

const CASES: &str = include_str!("../../../proto/src/tenant/cases.yaml");

async fn explain(control: &Control, request: pb::ExplainRequest) -> pb::Explanation {
    control.cluster().explain(request).await.unwrap().into_inner()
}

fn texts(section: &Section<'_>, key: &str) -> Vec<String> {
    section.list(key).iter().filter_map(|value| value.text().map(str::to_owned)).collect()
}

/// No call sets a CN pending or draining yet: written as the control plane would.
async fn set_states(folder: &Path, states: &[(String, pb::cn::State)]) {
    let store = store(folder).await;
    for (cn, state) in states {
        let key = format!("cn/{cn}");
        let item = store.read(&key).await.unwrap().unwrap_or_else(|| panic!("{key} is not there"));
        let mut message: pb::Cn = json::from_stored(&item.value).unwrap();
        message.set_state(*state);
        store.commit(Txn::new().put(&key, json::to_stored(&message))).await.unwrap();
    }
    store.close().await;
}

/// Makes these CNs down, and no others.
async fn set_down(control: &Control, plane: &mut FakePlane, all: &BTreeSet<String>, down: &[String]) {
    let report = |cn: &String| pb::CnReport {
        cn: cn.clone(),
        health: if down.contains(cn) { pb::cn::Health::Down } else { pb::cn::Health::Up }.into(),
        ..Default::default()
    };
    plane.report_all(all.iter().map(report).collect(), vec![]).await;
    let up = u32::try_from(all.len() - down.len()).unwrap();
    eventually("the report is taken in", || async {
        let status = control.cluster().get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
        let mut known = true;
        for cn in down {
            known &= control.find(cn).await.unwrap().health() == pb::cn::Health::Down;
        }
        known && status.cns_up == up
    })
    .await;
}

#[tokio::test]
async fn the_table_of_cases() {
    let document = Document::parse("cases.yaml", CASES.as_bytes()).unwrap();
    let root = document.root();
    let intent = Intent::read(&root);
    let folder = tempdir().unwrap();
    let control = Control::start(folder.path()).await;
    control.cluster().apply(intent.to_apply(false)).await.unwrap();
    control.stop().await;
    let states: Vec<(String, pb::cn::State)> = root
        .section("states")
        .entries()
        .into_iter()
        .map(|(cn, state)| (cn.to_owned(), pb::cn::State::from_str_name(state.text().unwrap()).unwrap()))
        .collect();
    set_states(folder.path(), &states).await;
    let control = Control::start(folder.path()).await;
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    let all: BTreeSet<String> =
        intent.groups.iter().flat_map(|group| &group.cns).map(|cn| cn.name.to_string()).collect();
    let mut ran = 0;
    for case in root.list("cases").iter().map(|case| case.section().unwrap()) {
        let mut asked = Vec::new();
        for (key, value) in case.section("labels").entries() {
            let values: Vec<&str> = value.one_or_list().iter().filter_map(|value| value.text()).collect();
            asked.push(format!("{key}={}", values.join("|")));
        }
        set_down(&control, &mut plane, &all, &texts(&case, "down")).await;
        let request = pb::ExplainRequest {
            tenant: case.text("tenant").unwrap(),
            labels: labels(&asked.join(",")),
            ..Default::default()
        };
        let told = explain(&control, request.clone()).await;
        let what = format!("{request:?}: {}", told.summary);
        assert_eq!(told.r#match, texts(&case, "match"), "{what}");
        let refusal = told.refusal.as_ref().map(|refusal| refusal.message.clone());
        assert_eq!(refusal, case.text("refused"), "{what}");
        if let Some(tier) = case.u32("tier") {
            let chosen = told.candidates.iter().filter(|candidate| candidate.chosen);
            assert!(chosen.clone().all(|candidate| candidate.tier == tier), "{what}");
            assert_eq!(chosen.count(), told.r#match.len(), "{what}");
            assert!(told.r#match.contains(&told.pick), "{what}");
        }
        assert_eq!(told.candidates.len(), all.len(), "every CN is told of");
        assert!(told.candidates.iter().all(|c| c.chosen == c.reason.is_empty()), "{what}");
        ran += 1;
    }
    assert!(ran > 40);
    control.stop().await;
}

#[tokio::test]
async fn addresses_limits_and_suspension() {
    let folder = tempdir().unwrap();
    let seeds = "groups: [ { name: g, cns: [ { name: cn-1, address: 'h:1' } ] } ]
tenants:
  - { name: near, allow: [10.0.0.0/8] }
  - { name: late, suspended: true }
  - { name: many, max_sessions: 3 }";
    let control = Control::seeded(folder.path(), seeds).await;
    let mut plane = FakePlane::new(control.channel(), "dp-1").await;
    let many = pb::TenantReport { tenant: "many".into(), sessions: 3 };
    plane.report_all(vec![], vec![many]).await;
    let of = |tenant: &str, client: &str| pb::ExplainRequest {
        tenant: tenant.into(),
        client: client.into(),
        ..Default::default()
    };
    eventually("counted", || async { explain(&control, of("many", "")).await.refusal.is_some() }).await;
    for (request, code, state) in [
        (of("near", "127.0.0.1"), 1130, "HY000"),
        (of("near", "127.0.0.1:5123"), 1130, "HY000"),
        (of("late", ""), 4151, "HY000"),
        (of("many", ""), 1040, "08004"),
    ] {
        let told = explain(&control, request).await;
        let refusal = told.refusal.unwrap();
        assert_eq!((refusal.code, refusal.sqlstate.as_str()), (code, state));
        assert!(told.summary.contains(&refusal.message));
        assert_eq!((told.pick.as_str(), told.r#match.len()), ("", 1));
    }
    for request in [of("near", "10.9.9.9"), of("near", "[::ffff:10.0.0.1]:7"), of("", "")] {
        let told = explain(&control, request).await;
        assert_eq!((told.pick.as_str(), told.refusal), ("cn-1", None));
    }
    assert_eq!(explain(&control, of("", "")).await.tenant, "sys");
    let bad = control.cluster().explain(of("x", "somewhere")).await;
    refused(bad, Code::InvalidArgument, "INVALID");
    control.stop().await;
}
