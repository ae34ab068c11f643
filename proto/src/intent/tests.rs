use super::*;
use crate::yaml::{Document, Problems};
use std::time::Duration;

fn read(text: &str) -> Result<Intent, Problems> {
    let document = Document::parse("f", text.as_bytes())?;
    let intent = Intent::read(&document.root());
    document.finish(intent)
}

const WHOLE: &str = "
groups:
  - { name: tp, labels: { workload: [tp] }, tenant: acme, replicas: 2,
      cns: [ { name: cn-1, address: 127.0.0.1:13306 }, { name: cn-2, address: 127.0.0.1:13307, weight: 50, zone: b,
               labels: { workload: [], tier: [gold, silver] } } ] }
  - { name: shared, cns: [ { name: cn-3, address: 'db.example:3306' } ] }
tenants:
  - { name: acme, default_labels: { workload: tp }, allow: [127.0.0.0/8, '::1'], max_sessions: 1000,
      on_no_match: reject, suspended: true }
  - { name: other, allow: 10.0.0.1 }
policy: { rebalance: { moves_per_second: 100 }, migrate: { settle_after: 20ms } }
";

#[test]
fn a_whole_intent_is_read() {
    let Intent { groups, tenants, policy } = read(WHOLE).unwrap();
    let [tp, shared] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!((tp.group.tenant.as_deref(), tp.group.replicas), (Some("acme"), 2));
    assert_eq!(tp.group.labels.to_string(), "workload=tp");
    assert_eq!(shared.group.labels, Labels::new());
    let cn = &tp.cns[1];
    assert_eq!((cn.weight, cn.zone.as_str(), cn.group.as_deref()), (50, "b", Some("tp")));
    assert_eq!(tp.group.labels.overlaid(&cn.own_labels).to_string(), "tier=gold|silver");
    assert_eq!(tp.cns[0].weight, 100);
    assert_eq!(shared.cns[0].address, "db.example:3306");
    let acme = &tenants[0];
    assert_eq!(acme.default_labels.to_string(), "workload=tp");
    assert_eq!(acme.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.0/8", "::1/128"]);
    assert_eq!((acme.max_sessions, acme.on_no_match, acme.suspended), (1000, OnNoMatch::Reject, true));
    assert_eq!(tenants[1].allow.len(), 1);
    let policy = policy.unwrap();
    assert_eq!((policy.moves_per_second, policy.settle_after), (100, Duration::from_millis(20)));
    assert_eq!(policy.wait_for_cn, Policy::default().wait_for_cn);
}

#[test]
fn the_call_says_what_the_file_says() {
    let intent = read(WHOLE).unwrap();
    let call = intent.to_apply(true);
    assert!(call.prune);
    for (wanted, group) in intent.groups.iter().zip(&call.groups) {
        assert_eq!(CnGroup::try_from(group.group.as_ref().unwrap()).as_ref(), Ok(&wanted.group));
        assert_eq!(group.keep_cns, wanted.keep_cns);
        let cns: Vec<Cn> = group.cns.iter().map(|cn| cn.try_into().unwrap()).collect();
        assert_eq!(cns, wanted.cns);
    }
    let tenants: Vec<Tenant> = call.tenants.iter().map(|tenant| tenant.try_into().unwrap()).collect();
    assert_eq!(tenants, intent.tenants);
    assert_eq!(call.policy.as_ref().map(Policy::try_from), intent.policy.map(Ok));
}

#[test]
fn what_is_not_named_is_not_spoken_of() {
    let intent = read("groups: []\ntenants:\npolicy: {}\n").unwrap();
    assert!(intent.is_empty());
    assert_eq!(intent.to_apply(false), pb::ApplyRequest::default());
}

#[test]
fn a_group_without_a_list_keeps_its_cns() {
    let groups = read("groups: [ { name: a }, { name: b, cns: [] }, { name: c, cns: } ]\n").unwrap().groups;
    assert_eq!(groups.iter().map(|group| group.keep_cns).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn every_problem_has_its_line() {
    let text = "groups:
- name: tp
  labels: { tenant: x, 'a b': y, workload: ['a,b', ok], empty: [], none: }
  tenant: 'a b'
  replicas: -1
  cns:
  - { name: cn-1, address: 127.0.0.1:1 }
  - { name: cn-1, address: 127.0.0.1:1 }
  - { name: cn-2, address: 127.0.0.1, weight: 20000 }
  - { name: 'no name', adress: 127.0.0.1:2, weight: 0 }
  - cn-5
- { name: tp }
- labels: {}
tenants:
- { name: acme, allow: [10.0.0.0/33, 1.2.3.4], on_no_match: maybe, suspended: 1, max_sessions: many }
- { name: acme, default_labels: [a] }
policy:
  rebalance: { moves_per_second: 0, tolerance: 2 }
  migrate: { settle_after: 2h, wait_for_cn: 90m, freeze: 1s }
";
    let wanted = [
        r#"f:3:21: groups[0].labels.tenant: label key "tenant" is set by the tenant of the group, not as a label"#,
        r#"f:3:31: groups[0].labels."a b": label key "a b" is not 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', '/'"#,
        r#"f:3:45: groups[0].labels.workload[0]: value "a,b" of label workload is not 1 to 63 printable characters without ',', '=' and '?'"#,
        "f:3:64: groups[0].labels.empty: has no value",
        "f:3:72: groups[0].labels.none: has no value",
        "f:4:11: groups[0].tenant: is longer than 63 bytes or not printable",
        r#"f:5:13: groups[0].replicas: "-1" is not a whole number from 0 to 4294967295"#,
        "f:8:13: groups[0].cns[1].name: CN cn-1 is there twice, first in line 7",
        "f:8:28: groups[0].cns[1].address: address 127.0.0.1:1 is there twice, first in line 7",
        r#"f:9:28: groups[0].cns[2].address: "127.0.0.1" is not an address such as 127.0.0.1:3306"#,
        "f:9:47: groups[0].cns[2].weight: 20000 is over 10000",
        "f:10:5: groups[0].cns[3].address: is missing",
        r#"f:10:13: groups[0].cns[3].name: name "no name" is not 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.', beginning with a letter or a digit"#,
        "f:10:24: groups[0].cns[3].adress: unknown key (did you mean address?)",
        "f:10:53: groups[0].cns[3].weight: 0 is not 1 to 10000",
        r#"f:11:5: groups[0].cns[4]: "cn-5" is not a section"#,
        "f:12:11: groups[1].name: group tp is there twice, first in line 2",
        "f:13:3: groups[2].name: is missing",
        r#"f:15:25: tenants[0].allow[0]: "10.0.0.0/33" is not an address or a network"#,
        r#"f:15:61: tenants[0].on_no_match: "maybe" is not one of: unlabelled, reject"#,
        r#"f:15:79: tenants[0].suspended: "1" is not true or false"#,
        r#"f:15:96: tenants[0].max_sessions: "many" is not a whole number from 0 to 4294967295"#,
        "f:16:11: tenants[1].name: tenant acme is there twice, first in line 15",
        "f:16:33: tenants[1].default_labels: is a list, not a section",
        "f:18:34: policy.rebalance.moves_per_second: 0 is not 1 to 100000",
        "f:18:48: policy.rebalance.tolerance: 2 is not between 0 and 1",
        "f:19:28: policy.migrate.settle_after: is not between 0 and 1 h",
        "f:19:45: policy.migrate.wait_for_cn: is not between 0 and 1 h",
        "f:19:50: policy.migrate.freeze: unknown key",
    ];
    let problems = read(text).unwrap_err().to_string();
    let found: Vec<&str> = problems.lines().collect();
    assert_eq!(found, wanted);
}
