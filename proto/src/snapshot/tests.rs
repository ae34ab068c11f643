use super::*;
use crate::cn::CnState;
use crate::label::Labels;
use crate::pb;
use crate::tenant::OnNoMatch;
use proptest::prelude::*;

/// An object of a small world, with another content for each `n`.
fn object(kind: u8, name: u8, n: u8) -> Object {
    let mut labels = Labels::new();
    labels.add("n", &n.to_string()).unwrap();
    let name = format!("x{name}");
    match kind % 4 {
        0 => Object::Cn(Arc::new(Cn {
            name: CnId::new(&name).unwrap(),
            address: format!("h:{}", n + 1),
            group: n.is_multiple_of(2).then(|| format!("x{}", n % 3)),
            own_labels: labels,
            zone: String::new(),
            weight: 1 + u32::from(n),
            state: if n.is_multiple_of(3) { CnState::Draining } else { CnState::Working },
            remove_when_empty: false,
            drain: None,
        })),
        1 => Object::Group(Arc::new(CnGroup { name, labels, tenant: None, replicas: n.into() })),
        2 => Object::Tenant(Arc::new(Tenant {
            name,
            default_labels: labels,
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            max_sessions: n.into(),
            on_no_match: if n.is_multiple_of(2) { OnNoMatch::Reject } else { OnNoMatch::Unlabelled },
            suspended: n.is_multiple_of(5),
        })),
        _ => Object::Policy(Policy { moves_per_second: 1 + u32::from(n), ..Policy::default() }),
    }
}

fn entry(object: Object, mod_revision: u64) -> Entry {
    let hash = entry_hash(&object.key(), mod_revision, format!("{object:?}").as_bytes());
    Entry { object, mod_revision, hash }
}

/// The state of these entries at a revision.
fn state(revision: u64, entries: impl IntoIterator<Item = Entry>) -> RoutingSnapshot {
    // The last of a key counts, as in a store.
    let entries: BTreeMap<String, Entry> = entries.into_iter().map(|e| (e.object.key(), e)).collect();
    let version = Version { store_id: "s".into(), revision, digest: digest(entries.values()) };
    RoutingSnapshot::from_entries(version, entries.into_values()).unwrap()
}

fn any_state(revision: u64) -> impl Strategy<Value = RoutingSnapshot> {
    let one = (0_u8..4, 0_u8..4, 0_u8..8, 1..=revision);
    prop::collection::vec(one, 0..12).prop_map(move |all| {
        state(revision, all.into_iter().map(|(kind, name, n, at)| entry(object(kind, name, n), at)))
    })
}

/// All that can be seen of it.
fn seen(snapshot: &RoutingSnapshot) -> (Version, Vec<(String, Entry)>, Vec<RoutedCn>, bool) {
    (
        snapshot.version().clone(),
        snapshot.entries().map(|(key, entry)| (key.to_owned(), entry.clone())).collect(),
        snapshot.cns().map(|cn| cn.as_ref().clone()).collect(),
        snapshot.is_label_key("n"),
    )
}

/// As it travels.
fn through_the_wire(delta: &Delta) -> Delta {
    let bytes = prost::Message::encode_to_vec(&pb::Delta::from(delta));
    let message: pb::Delta = prost::Message::decode(&bytes[..]).unwrap();
    message.try_into().unwrap()
}

proptest! {
    #[test]
    fn a_delta_makes_the_newer_state(older in any_state(5), newer in any_state(9)) {
        let delta = newer.delta_from(&older);
        let made = older.apply(through_the_wire(&delta)).unwrap();
        prop_assert_eq!(seen(&made), seen(&newer));
        // Nothing in it that is the same on both sides.
        for entry in &delta.changed {
            prop_assert_ne!(older.entry(&entry.object.key()), Some(entry));
        }
        for key in &delta.removed {
            prop_assert!(older.entry(key).is_some() && newer.entry(key).is_none());
        }
    }

    #[test]
    fn step_by_step_or_at_once(one in any_state(3), two in any_state(5), three in any_state(9)) {
        let stepped = one.apply(two.delta_from(&one)).unwrap().apply(three.delta_from(&two)).unwrap();
        let at_once = one.apply(three.delta_from(&one)).unwrap();
        prop_assert_eq!(seen(&stepped), seen(&at_once));
    }

    #[test]
    fn the_order_in_a_delta_does_not_matter(
        older in any_state(5), newer in any_state(9), seed in any::<u64>(),
    ) {
        let mut delta = newer.delta_from(&older);
        let straight = older.apply(delta.clone()).unwrap();
        delta.changed.sort_by_key(|entry| entry.hash ^ seed);
        delta.removed.reverse();
        prop_assert_eq!(seen(&older.apply(delta).unwrap()), seen(&straight));
    }

    #[test]
    fn a_delta_from_another_state_is_refused(
        older in any_state(5), other in any_state(5), newer in any_state(9),
    ) {
        prop_assume!(older.version() != other.version());
        let refused = other.apply(newer.delta_from(&older)).unwrap_err();
        prop_assert!(matches!(refused, ApplyError::NotFrom { .. }), "{}", refused);
    }

    #[test]
    fn an_older_one_is_refused(newer in any_state(9), older in any_state(5)) {
        let refused = newer.apply(older.delta_from(&newer)).unwrap_err();
        prop_assert_eq!(refused, ApplyError::Older { from: 9, to: 5 });
    }

    /// One entry less, one more, one of another revision, or a digest off by a bit.
    #[test]
    fn what_does_not_make_the_senders_state_is_refused(
        older in any_state(5), newer in any_state(9), bit in 0_u32..64, which in any::<prop::sample::Index>(),
    ) {
        let good = newer.delta_from(&older);
        let mut bad = vec![Delta { to: Version { digest: good.to.digest ^ (1_u64 << bit), ..good.to.clone() }, ..good.clone() }];
        let mut more = good.clone();
        more.changed.push(entry(object(2, 77, 1), 9));
        bad.push(more);
        if !good.changed.is_empty() {
            let at = which.index(good.changed.len());
            let mut less = good.clone();
            less.changed.remove(at);
            bad.push(less);
            let mut changed = good.clone();
            changed.changed[at].hash = changed.changed[at].hash.wrapping_add(1);
            bad.push(changed);
        }
        if !good.removed.is_empty() {
            let mut kept = good.clone();
            kept.removed.remove(which.index(good.removed.len()));
            bad.push(kept);
        }
        let before = seen(&older);
        for delta in bad {
            let refused = older.apply(delta).unwrap_err();
            prop_assert!(matches!(refused, ApplyError::Digest { revision: 9, .. }), "{}", refused);
        }
        prop_assert_eq!(seen(&older), before, "the state that was there stays");
    }

    #[test]
    fn each_bit_counts_in_a_hash(value in prop::collection::vec(any::<u8>(), 1..40), bit in any::<prop::sample::Index>()) {
        let hash = entry_hash("cn/x", 7, &value);
        let mut other = value.clone();
        let bit = bit.index(value.len() * 8);
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert_ne!(entry_hash("cn/x", 7, &other), hash);
        prop_assert_ne!(entry_hash("cn/x", 8, &value), hash);
        prop_assert_ne!(entry_hash("cn/y", 7, &value), hash);
    }
}

#[test]
fn a_delta_of_another_store_is_refused() {
    let at = state(5, [entry(object(0, 1, 1), 3)]);
    let other = Version { store_id: "t".into(), ..at.version().clone() };
    for (from, to) in [(other.clone(), other.clone()), (at.version().clone(), other)] {
        let refused = at.apply(Delta { from, to, ..Delta::default() }).unwrap_err();
        assert!(matches!(refused, ApplyError::NotFrom { .. }), "{refused}");
    }
}

#[test]
fn nothing_new_makes_the_same_state_of_a_newer_revision() {
    let at = state(5, [entry(object(0, 1, 1), 3)]);
    let to = Version { revision: 9, ..at.version().clone() };
    let newer = at.apply(Delta { from: at.version().clone(), to: to.clone(), ..Delta::default() }).unwrap();
    assert_eq!(*newer.version(), to);
    assert!(newer.entries().eq(at.entries()));
}

#[test]
fn entries_that_are_not_of_their_version_are_refused() {
    let entries = [entry(object(0, 1, 1), 3)];
    let version = Version { store_id: "s".into(), revision: 5, digest: digest(&entries) ^ 1 };
    assert!(matches!(RoutingSnapshot::from_entries(version, entries), Err(ApplyError::Digest { .. })));
}

#[test]
fn labels_follow_their_group() {
    let group = |labels: &str| {
        let mut all = Labels::new();
        all.add("workload", labels).unwrap();
        Object::Group(Arc::new(CnGroup {
            name: "g".into(),
            labels: all,
            tenant: Some("acme".into()),
            replicas: 0,
        }))
    };
    let cn = Object::Cn(Arc::new(Cn {
        name: CnId::new("cn-1").unwrap(),
        address: "h:1".into(),
        group: Some("g".into()),
        own_labels: Labels::new(),
        zone: String::new(),
        weight: 100,
        state: CnState::Working,
        remove_when_empty: false,
        drain: None,
    }));
    let before = state(3, [entry(group("tp"), 2), entry(cn.clone(), 3)]);
    let after = state(4, [entry(group("ap"), 4), entry(cn, 3)]);
    let delta = after.delta_from(&before);
    assert_eq!(delta.changed.len(), 1, "the CN itself has not changed");
    let made = before.apply(delta).unwrap();
    let cn = made.cn(&CnId::new("cn-1").unwrap()).unwrap();
    assert_eq!((cn.labels.to_string().as_str(), cn.tenant.as_deref()), ("workload=ap", Some("acme")));
    assert!(made.is_label_key("workload") && !made.is_label_key("n"));
}
