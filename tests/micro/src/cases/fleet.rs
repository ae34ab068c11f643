//! A made-up fleet: groups with labels and tenants as a cluster has them, and as many CNs as a case asks for.

use shunt_proto::cn::{Cn, CnGroup, CnId, CnState, DEFAULT_WEIGHT};
use shunt_proto::label::Labels;
use shunt_proto::snapshot::{Entry, Object, RoutingSnapshot, Version, digest, entry_hash};
use shunt_proto::tenant::Tenant;
use std::sync::Arc;

/// The tenant that cases log in as. One CN in five is its own.
pub(super) const TENANT: &str = "acme";

/// The labels of a group, and its tenant.
type Group = (&'static [(&'static str, &'static str)], Option<&'static str>);

/// CNs are dealt to the groups in turn, so each has a tenth of the fleet.
const GROUPS: [Group; 10] = [
    (&[("workload", "tp")], Some(TENANT)),
    (&[("workload", "ap")], Some(TENANT)),
    (&[("workload", "tp")], Some("globex")),
    (&[("workload", "ap")], Some("g*")),
    (&[("workload", "tp")], None),
    (&[("workload", "ap"), ("workload", "etl")], None),
    (&[("workload", "tp"), ("tier", "gold")], Some("initech")),
    (&[("workload", "tp"), ("tier", "gold")], None),
    (&[], None),
    (&[("tier", "silver")], None),
];

/// Labels out of keys and values.
pub(super) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in pairs {
        labels.add(key, value).expect("these are labels");
    }
    labels
}

fn entry(object: Object, revision: u64) -> Entry {
    let key = object.key();
    // In place of the stored bytes, which the digest does not look into.
    let hash = entry_hash(&key, revision, key.as_bytes());
    Entry { object, mod_revision: revision, hash }
}

/// CN number `n`, as written at `revision`.
fn cn(n: usize, revision: u64) -> Entry {
    let cn = Cn {
        name: CnId::new(&format!("cn-{n:05}")).expect("this is a name"),
        address: format!("10.{}.{}.{}:3306", n / 65_536, n / 256 % 256, n % 256),
        group: Some(format!("group-{}", n % GROUPS.len())),
        own_labels: Labels::new(),
        zone: format!("zone-{}", n % 3),
        weight: DEFAULT_WEIGHT,
        state: CnState::Working,
        remove_when_empty: false,
        drain: None,
    };
    entry(Object::Cn(Arc::new(cn)), revision)
}

/// The entries of a fleet of `cns` CNs, with its groups and its tenant.
pub(super) fn entries(cns: usize) -> Vec<Entry> {
    let groups = GROUPS.iter().enumerate().map(|(n, (pairs, tenant))| {
        let group = CnGroup {
            name: format!("group-{n}"),
            labels: labels(pairs),
            tenant: tenant.map(str::to_owned),
            replicas: 0,
        };
        entry(Object::Group(Arc::new(group)), 1)
    });
    let tenant = Tenant { default_labels: labels(&[("workload", "tp")]), ..Tenant::undeclared(TENANT) };
    let tenant = entry(Object::Tenant(Arc::new(tenant)), 1);
    groups.chain([tenant]).chain((0..cns).map(|n| cn(n, 1))).collect()
}

/// The version of a state of `entries` at `revision`.
pub(super) fn version<'a>(revision: u64, entries: impl IntoIterator<Item = &'a Entry>) -> Version {
    Version { store_id: "store".to_owned(), revision, digest: digest(entries) }
}

/// A fleet of `cns` CNs.
pub(super) fn snapshot(cns: usize) -> RoutingSnapshot {
    let entries = entries(cns);
    RoutingSnapshot::from_entries(version(1, &entries), entries).expect("the digest is theirs")
}

/// `older` with `changed` of its CNs, spread over all of them, written anew.
pub(super) fn rewritten(older: &RoutingSnapshot, changed: usize) -> RoutingSnapshot {
    let every = older.cns().count() / changed;
    let mut n = 0;
    let rewrite = |(_, old): (&str, &Entry)| {
        let Object::Cn(_) = old.object else { return old.clone() };
        n += 1;
        if (n - 1) % every == 0 { cn(n - 1, 2) } else { old.clone() }
    };
    let entries: Vec<Entry> = older.entries().map(rewrite).collect();
    RoutingSnapshot::from_entries(version(2, &entries), entries).expect("the digest is theirs")
}
