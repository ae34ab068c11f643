use super::*;
use shunt_proto::cn::{Cn, CnGroup};
use shunt_proto::snapshot::{Entry, Object, Version, digest, entry_hash};
use shunt_proto::tenant::OnNoMatch;
use std::collections::HashMap;
use std::sync::Arc;

/// `workload=tp,tier=gold|silver`
fn labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, values) = pair.split_once('=').unwrap();
        for value in values.split('|') {
            labels.add(key, value).unwrap();
        }
    }
    labels
}

fn group(name: &str, with: &str, tenant: &str) -> Object {
    let tenant = Some(tenant.to_owned()).filter(|tenant| !tenant.is_empty());
    Object::Group(Arc::new(CnGroup { name: name.into(), labels: labels(with), tenant, replicas: 0 }))
}

fn cn(name: &str, group: &str, state: CnState, weight: u32) -> Object {
    Object::Cn(Arc::new(Cn {
        name: CnId::new(name).unwrap(),
        address: format!("{name}:3306"),
        group: Some(group.into()),
        own_labels: Labels::new(),
        zone: String::new(),
        weight,
        state,
        remove_when_empty: false,
        drain: None,
    }))
}

/// Two groups of tenant acme, one of anybody with labels, one without.
fn cluster() -> RoutingSnapshot {
    use CnState::{Draining, Pending, Working};
    let suspended = Tenant { name: "late".into(), suspended: true, ..Tenant::default() };
    let limited = Tenant { name: "many".into(), max_sessions: 3, ..Tenant::default() };
    let near =
        Tenant { name: "near".into(), allow: vec!["10.0.0.0/8".parse().unwrap()], ..Tenant::default() };
    let strict = Tenant { name: "strict".into(), on_no_match: OnNoMatch::Reject, ..Tenant::default() };
    let acme = Tenant { name: "acme".into(), default_labels: labels("workload=tp"), ..Tenant::default() };
    let tenants = [suspended, limited, near, strict, acme].map(|tenant| Object::Tenant(Arc::new(tenant)));
    let objects = [
        group("acme-tp", "workload=tp", "acme"),
        group("acme-ap", "workload=ap", "acme"),
        group("any-tp", "workload=tp", ""),
        group("shared", "", ""),
        cn("a1", "acme-tp", Working, 100),
        cn("a2", "acme-tp", Working, 200),
        cn("a3", "acme-tp", Draining, 100),
        cn("p1", "acme-ap", Pending, 100),
        cn("t1", "any-tp", Working, 100),
        cn("s1", "shared", Working, 100),
    ];
    let entries: Vec<Entry> = objects
        .into_iter()
        .chain(tenants)
        .map(|object| Entry { hash: entry_hash(&object.key(), 1, b""), object, mod_revision: 1 })
        .collect();
    let version = Version { store_id: "s".into(), revision: 1, digest: digest(&entries) };
    RoutingSnapshot::from_entries(version, entries).unwrap()
}

struct Case {
    tenant: &'static str,
    labels: &'static str,
    client: &'static str,
    down: &'static [&'static str],
    matched: &'static [&'static str],
    pick: &'static str,
    /// Code and a part of the text.
    refused: Option<(u16, &'static str)>,
}

const CASE: Case =
    Case { tenant: "sys", labels: "", client: "", down: &[], matched: &[], pick: "", refused: None };

#[test]
fn a_table_of_logins() {
    let counts = HashMap::from([("a1", 5), ("a2", 8), ("t1", 0), ("s1", 9)]);
    for case in [
        // The default tenant without labels: CNs without labels.
        Case { matched: &["s1"], pick: "s1", ..CASE },
        Case { labels: "workload=tp", matched: &["t1"], pick: "t1", ..CASE },
        // Default labels count; 8 on a weight of 200 are less than 5 on 100.
        Case { tenant: "acme", matched: &["a1", "a2"], pick: "a2", ..CASE },
        Case { tenant: "acme", down: &["a2"], matched: &["a1"], pick: "a1", ..CASE },
        Case { tenant: "acme", down: &["a1", "a2"], matched: &["t1"], pick: "t1", ..CASE },
        Case { tenant: "acme", down: &["a1", "a2", "t1"], matched: &["s1"], pick: "s1", ..CASE },
        Case {
            tenant: "acme",
            down: &["a1", "a2", "t1", "s1"],
            refused: Some((1105, "every CN that carries the labels workload=tp is draining or down")),
            ..CASE
        },
        // Its only CN is pending: CNs without labels.
        Case { tenant: "acme", labels: "workload=ap", matched: &["s1"], pick: "s1", ..CASE },
        Case {
            tenant: "strict",
            labels: "workload=ap",
            refused: Some((1105, "no CN carries the labels workload=ap")),
            ..CASE
        },
        Case { tenant: "strict", labels: "workload=tp", matched: &["t1"], pick: "t1", ..CASE },
        // The match is told beside the refusal.
        Case { tenant: "late", matched: &["s1"], refused: Some((4151, "tenant late is suspended")), ..CASE },
        Case { tenant: "many", matched: &["s1"], refused: Some((1040, "its limit of 3 sessions")), ..CASE },
        Case {
            tenant: "near",
            client: "127.0.0.1",
            matched: &["s1"],
            refused: Some((1130, "address 127.0.0.1 is not on the allow list of tenant near")),
            ..CASE
        },
        Case { tenant: "near", client: "10.1.2.3", matched: &["s1"], pick: "s1", ..CASE },
        Case { tenant: "near", client: "::ffff:10.1.2.3", matched: &["s1"], pick: "s1", ..CASE },
        Case { tenant: "near", matched: &["s1"], pick: "s1", ..CASE },
    ] {
        let login = Login {
            tenant: case.tenant.into(),
            labels: labels(case.labels),
            client: (!case.client.is_empty()).then(|| case.client.parse().unwrap()),
        };
        let told = explain(&cluster(), &login, 3, |cn| Known {
            sessions: counts.get(cn.name().as_str()).copied().unwrap_or(0),
            health: if case.down.contains(&cn.name().as_str()) { Health::Down } else { Health::Up },
        });
        let what = format!("{} {} down {:?}: {told:?}", case.tenant, case.labels, case.down);
        let matched: Vec<&str> = told.matched.iter().map(CnId::as_str).collect();
        assert_eq!(matched, case.matched, "{what}");
        assert_eq!(told.pick.as_ref().map_or("", CnId::as_str), case.pick, "{what}");
        match (&told.refusal, case.refused) {
            (Some(refusal), Some((code, text))) => {
                assert_eq!(refusal.code(), code, "{what}");
                assert!(refusal.to_string().contains(text), "{what}");
                assert!(told.summary.contains(text), "{what}");
            }
            (None, None) => assert!(told.summary.contains(case.pick), "{what}"),
            other => panic!("{other:?} in {what}"),
        }
        assert_eq!(told.candidates.len(), 6);
        for candidate in &told.candidates {
            assert_eq!(candidate.chosen, candidate.reason.is_empty(), "{candidate:?}");
        }
    }
}

#[test]
fn each_cn_says_why_not() {
    let login = Login { tenant: "acme".into(), labels: Labels::new(), client: None };
    let told = explain(&cluster(), &login, 0, |cn| Known {
        sessions: 0,
        health: if cn.name().as_str() == "a1" { Health::Down } else { Health::Unknown },
    });
    let reasons: Vec<(&str, &str)> =
        told.candidates.iter().map(|c| (c.cn.as_str(), c.reason.as_str())).collect();
    assert_eq!(
        reasons,
        [
            ("a1", "is down"),
            ("a2", ""),
            ("a3", "is draining"),
            ("p1", "carries workload=ap"),
            ("s1", "is a CN without labels, and a CN of the tenant with the labels is usable"),
            ("t1", "is a CN with the labels and no tenant, and a CN of the tenant with the labels is usable"),
        ]
    );
    assert_eq!(
        told.summary,
        "tenant acme asking for workload=tp gets a CN of the tenant with the labels: a2, the only one usable"
    );
}
