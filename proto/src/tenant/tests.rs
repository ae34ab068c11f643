use super::*;
use crate::cn::{Cn, CnGroup, CnId};
use crate::intent::Intent;
use crate::snapshot::{Entry, Object, Version, digest, entry_hash};
use crate::yaml::{Document, Section};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CASES: &str = include_str!("cases.yaml");

/// What a case expects.
#[derive(Debug)]
struct Case {
    request: Request,
    down: Vec<String>,
    /// The tier and the CNs, or the words of the refusal.
    expected: Result<(u32, Vec<String>), String>,
}

fn texts(section: &Section<'_>, key: &str) -> Vec<String> {
    section.list(key).iter().filter_map(|value| value.text().map(str::to_owned)).collect()
}

fn case(section: &Section<'_>) -> Case {
    let mut labels = Labels::new();
    for (key, value) in section.section("labels").entries() {
        for value in value.one_or_list() {
            labels.add(key, value.text().unwrap()).unwrap();
        }
    }
    let found = (section.u32("tier").unwrap_or(0), texts(section, "match"));
    Case {
        request: Request { tenant: section.text("tenant").unwrap(), labels },
        down: texts(section, "down"),
        expected: section.text("refused").map_or(Ok(found), Err),
    }
}

/// The cluster and the cases of the table.
fn table() -> (RoutingSnapshot, Vec<Case>) {
    let document = Document::parse("cases.yaml", CASES.as_bytes()).unwrap();
    let root = document.root();
    let intent = Intent::read(&root);
    let mut states = BTreeMap::new();
    for (cn, state) in root.section("states").entries() {
        let state = match state.text().unwrap() {
            "pending" => CnState::Pending,
            "draining" => CnState::Draining,
            "drained" => CnState::Drained,
            other => panic!("state {other}"),
        };
        states.insert(cn.to_owned(), state);
    }
    let cases = root.list("cases").iter().map(|value| case(&value.section().unwrap())).collect();
    let (intent, cases) = document.finish((intent, cases)).unwrap();
    let mut objects: Vec<Object> = Vec::new();
    for group in intent.groups {
        objects.push(Object::Group(Arc::new(group.group)));
        objects.extend(group.cns.into_iter().map(|cn| {
            let state = states.remove(cn.name.as_str()).unwrap_or(CnState::Working);
            Object::Cn(Arc::new(Cn { state, ..cn }))
        }));
    }
    assert!(states.is_empty(), "states of CNs that are not there: {states:?}");
    objects.extend(intent.tenants.into_iter().map(|tenant| Object::Tenant(Arc::new(tenant))));
    (snapshot(objects), cases)
}

fn snapshot(objects: Vec<Object>) -> RoutingSnapshot {
    let entry = |object: Object| Entry { hash: entry_hash(&object.key(), 1, b""), object, mod_revision: 1 };
    let entries: Vec<Entry> = objects.into_iter().map(entry).collect();
    let version = Version { store_id: "s".into(), revision: 1, digest: digest(&entries) };
    RoutingSnapshot::from_entries(version, entries).unwrap()
}

#[test]
fn the_table_of_cases() {
    let (snapshot, cases) = table();
    assert!(cases.len() > 40);
    for Case { request, down, expected } in cases {
        let is_down = |cn: &RoutedCn| down.iter().any(|name| name == cn.name().as_str());
        let got = match route(&snapshot, &request, is_down) {
            Ok(found) => {
                let names = found.cns.iter().map(|cn| cn.name().to_string()).collect();
                Ok((found.tier as u32, names))
            }
            Err(refusal) => {
                assert_eq!((refusal.code(), refusal.sqlstate()), (1105, "08004"));
                Err(refusal.to_string())
            }
        };
        assert_eq!(got, expected, "{request:?} with {down:?} down");
    }
}

/// For a single CN, what keeps it out is told in words.
#[test]
fn a_mismatch_says_which_one() {
    let (snapshot, _) = table();
    let acme = snapshot.tenant("acme").into_owned();
    let strict = snapshot.tenant("strict").into_owned();
    let asked = |text: &str| {
        let mut labels = Labels::new();
        for (key, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
            labels.add(key, value).unwrap();
        }
        labels
    };
    for (cn, tenant, labels, why) in [
        ("o1", &acme, "workload=batch", "is of tenant own"),
        ("n1", &acme, "workload=tp", "lacks the label workload"),
        ("p1", &acme, "workload=tp", "carries workload=ap"),
        ("t2", &acme, "workload=tp", "has the further label tier"),
        ("s1", &strict, "workload=tp", "has no labels, and tenant strict says on_no_match: reject"),
        ("g1", &Tenant::undeclared("team-1"), "workload=x", "carries workload=ap|tp"),
    ] {
        let cn = snapshot.cn(&CnId::new(cn).unwrap()).unwrap();
        assert_eq!(tier(cn, tenant, &asked(labels)).unwrap_err().to_string(), why);
    }
}

#[test]
fn refusals_have_the_numbers_of_the_contract() {
    let tenant = || "x".to_owned();
    let labels = Labels::new;
    for (refusal, code, state, text) in [
        (
            Refusal::NoCn { tenant: tenant(), labels: labels() },
            1105,
            "08004",
            "no CN carries the labels none (tenant x)",
        ),
        (
            Refusal::NoneUsable { labels: labels(), causes: vec![Unusable::Pending, Unusable::Down] },
            1105,
            "08004",
            "every CN that carries the labels none is pending or down",
        ),
        (Refusal::Suspended { tenant: tenant() }, 4151, "HY000", "tenant x is suspended"),
        (
            Refusal::Address { tenant: tenant(), address: "10.0.0.1".parse().unwrap() },
            1130,
            "HY000",
            "address 10.0.0.1 is not on the allow list of tenant x",
        ),
        (
            Refusal::Limit { tenant: tenant(), max: 7 },
            1040,
            "08004",
            "tenant x has reached its limit of 7 sessions",
        ),
    ] {
        assert_eq!((refusal.code(), refusal.sqlstate(), refusal.to_string().as_str()), (code, state, text));
    }
}

#[test]
fn an_allow_list_takes_networks_addresses_and_ipv4_in_ipv6() {
    let allow = |nets: &[&str]| Tenant {
        allow: nets.iter().map(|net| crate::wire::network(net).unwrap()).collect(),
        ..Tenant::undeclared("x")
    };
    for (nets, address, allowed) in [
        (&[][..], "1.2.3.4", true),
        (&["127.0.0.0/8"], "127.9.9.9", true),
        (&["127.0.0.0/8"], "128.0.0.1", false),
        (&["10.0.0.1"], "10.0.0.1", true),
        (&["10.0.0.1"], "10.0.0.2", false),
        (&["10.0.0.0/8"], "::ffff:10.1.1.1", true),
        (&["fd00::/8"], "fd00::1", true),
        (&["fd00::/8"], "10.0.0.1", false),
        (&["1.0.0.0/8", "::1"], "::1", true),
    ] {
        assert_eq!(allow(nets).allows(address.parse().unwrap()), allowed, "{nets:?} {address}");
    }
}

/// A small world, so that things meet often.
fn any_labels() -> impl Strategy<Value = Labels> {
    let pairs = prop::collection::btree_map("[ab]", prop::collection::btree_set("[xy]|\\*", 1..3), 0..3);
    pairs.prop_map(|pairs| {
        let mut labels = Labels::new();
        for (key, values) in pairs {
            for value in values {
                labels.add(&key, &value).unwrap();
            }
        }
        labels
    })
}

fn any_cn() -> impl Strategy<Value = (Labels, Option<&'static str>, CnState, bool)> {
    let tenant = prop::option::of(prop::sample::select(vec!["t", "u", "*"]));
    let states =
        vec![CnState::Working, CnState::Working, CnState::Pending, CnState::Draining, CnState::Drained];
    (any_labels(), tenant, prop::sample::select(states), any::<bool>())
}

proptest! {
    /// What a match is, said in another way: of the usable CNs that some rule lets in, those of the best rule.
    #[test]
    fn a_match_is_the_first_tier_with_a_usable_cn(
        cns in prop::collection::vec(any_cn(), 0..6), asked in any_labels(), reject in any::<bool>(),
    ) {
        let on_no_match = if reject { OnNoMatch::Reject } else { OnNoMatch::Unlabelled };
        let tenant = Tenant { name: "t".into(), on_no_match, ..Tenant::default() };
        let mut objects = vec![Object::Tenant(Arc::new(tenant))];
        for (i, (labels, tenant, state, _)) in cns.iter().enumerate() {
            let name = format!("c{i}");
            objects.push(Object::Group(Arc::new(CnGroup {
                name: name.clone(), labels: labels.clone(), tenant: tenant.map(str::to_owned), replicas: 0,
            })));
            objects.push(Object::Cn(Arc::new(Cn {
                name: CnId::new(&name).unwrap(), address: "h:1".into(), group: Some(name),
                own_labels: Labels::new(), zone: String::new(), weight: 100, state: *state,
                remove_when_empty: false,
                drain: None,
            })));
        }
        // The rules of the design, one after the other.
        let same_keys = |labels: &Labels| labels.keys().eq(asked.keys());
        let one_fits = |key: &str, values: &std::collections::BTreeSet<String>| {
            asked.values(key).is_some_and(|wanted| values.iter().any(|v| wanted.iter().any(|w| v == "*" || v == w)))
        };
        let carries = |labels: &Labels| same_keys(labels) && labels.iter().all(|(k, v)| one_fits(k, v));
        let rule = |labels: &Labels, tenant: Option<&str>| match tenant {
            Some("t" | "*") if carries(labels) => Some(1),
            Some(_) => None,
            None if carries(labels) => Some(2),
            None if labels.is_empty() && !reject => Some(3),
            None => None,
        };
        let usable: Vec<(usize, u32)> = cns.iter().enumerate()
            .filter(|(_, (_, _, state, down))| *state == CnState::Working && !down)
            .filter_map(|(i, (labels, tenant, ..))| Some((i, rule(labels, *tenant)?)))
            .collect();
        let best = usable.iter().map(|(_, tier)| *tier).min();
        let expected: Vec<String> =
            usable.iter().filter(|(_, tier)| Some(*tier) == best).map(|(i, _)| format!("c{i}")).collect();

        let request = Request { tenant: "t".into(), labels: asked.clone() };
        let down = |cn: &RoutedCn| cns[cn.name().as_str()[1..].parse::<usize>().unwrap()].3;
        match route(&snapshot(objects), &request, down) {
            Ok(found) => {
                let names: Vec<String> = found.cns.iter().map(|cn| cn.name().to_string()).collect();
                prop_assert_eq!((Some(found.tier as u32), names), (best, expected));
            }
            Err(Refusal::NoCn { .. }) => {
                prop_assert!(cns.iter().all(|(labels, tenant, ..)| rule(labels, *tenant).is_none()));
            }
            Err(Refusal::NoneUsable { causes, .. }) => {
                prop_assert_eq!(best, None);
                prop_assert!(!causes.is_empty() && causes.is_sorted());
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
