use super::decide::count;
use super::*;
use proptest::prelude::*;
use shunt_proto::cn::{Cn, CnGroup};
use shunt_proto::label::Labels;
use shunt_proto::snapshot::{Entry, Object, Version, digest};
use shunt_proto::tenant::Request;

fn labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap();
        labels.add(key, value).unwrap();
    }
    labels
}

/// CNs as `name labels state`, each in a group of its own labels.
pub(super) fn snapshot(cns: &[(&str, &str, CnState)]) -> RoutingSnapshot {
    let mut objects = Vec::new();
    for (name, carried, state) in cns {
        objects.push(Object::Group(Arc::new(CnGroup {
            name: format!("g-{name}"),
            labels: labels(carried),
            tenant: None,
            replicas: 0,
        })));
        objects.push(Object::Cn(Arc::new(Cn {
            name: CnId::new(name).unwrap(),
            address: format!("{name}:1"),
            group: Some(format!("g-{name}")),
            own_labels: Labels::new(),
            zone: String::new(),
            weight: 100,
            state: *state,
            remove_when_empty: false,
            drain: None,
        })));
    }
    let entries: Vec<Entry> =
        objects.into_iter().map(|object| Entry { object, mod_revision: 1, hash: 1 }).collect();
    let version = Version { store_id: "s".into(), revision: 1, digest: digest(&entries) };
    RoutingSnapshot::from_entries(version, entries).unwrap()
}

pub(super) fn session(id: u32, asks: &str, cn: &str, is_idle: bool) -> Seen {
    let request = Request { tenant: "sys".into(), labels: labels(asks) };
    Seen { id, request, cn: cn.into(), is_idle, is_pinned: false, is_moving: false, going_to: None }
}

pub(super) const UP: fn(&CnId) -> bool = |_| false;

#[test]
fn a_session_leaves_what_it_may_not_use_any_more_and_nothing_else() {
    use CnState::{Draining, Working};
    let at = |down: &'static str, cns: &[(&str, &str, CnState)], cn: &str| {
        !leaving(&snapshot(cns), |name| name.as_str() == down, &[session(1, "w=a", cn, true)]).is_empty()
    };
    let both = [("one", "w=a", Working), ("two", "w=a", Working), ("bare", "", Working)];
    assert!(!at("", &both, "one"));
    // Drained, relabelled, gone.
    assert!(at("", &[("one", "w=a", Draining), ("two", "w=a", Working)], "one"));
    assert!(at("", &[("one", "w=b", Working), ("two", "w=a", Working)], "one"));
    assert!(at("", &both, "three"));
    // A fallback, while there is better: and not while that is down.
    assert!(at("", &both, "bare"));
    let only = [("one", "w=a", Working), ("bare", "", Working)];
    assert!(at("", &only, "bare") && !at("one", &only, "bare"));
    // That others see its CN as down is no reason to leave it.
    assert!(!at("one", &both, "one"));
    // There is nowhere to go.
    assert!(!at("", &[("one", "w=a", Draining)], "one"));
    assert!(at("", &[("one", "w=a", Draining), ("bare", "", Working)], "one"));
}

#[test]
fn those_that_rest_leave_first() {
    let cns = [("one", "", CnState::Draining), ("two", "", CnState::Working)];
    let sessions = [session(1, "", "one", false), session(2, "", "one", true), session(3, "", "two", true)];
    let ids: Vec<u32> = leaving(&snapshot(&cns), UP, &sessions).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [2, 1]);
}

fn ids(names: &[&str]) -> BTreeSet<CnId> {
    names.iter().map(|name| CnId::new(name).unwrap()).collect()
}

#[test]
fn a_cn_that_joins_gets_its_share_of_those_that_may_use_it() {
    let cns = [
        ("one", "w=a", CnState::Working),
        ("two", "w=a", CnState::Working),
        ("new", "w=a", CnState::Working),
        ("other", "w=b", CnState::Working),
    ];
    let mut sessions: Vec<Seen> = (0..40).map(|n| session(n, "w=a", "one", n % 2 == 0)).collect();
    sessions.extend((40..60).map(|n| session(n, "w=a", "two", true)));
    sessions.extend((60..90).map(|n| session(n, "w=b", "other", true)));
    let none = BTreeSet::new();
    let moves = filling(&snapshot(&cns), UP, &sessions, Fill::These(&ids(&["new"])), &none);
    assert_eq!(moves.len(), 20);
    // Off the one that has more than its share, and those that rest.
    assert!(moves.iter().all(|(id, to, _)| *id < 40 && id % 2 == 0 && to.as_str() == "new"), "{moves:?}");
    // Nothing joined: nothing moves, however uneven it is.
    assert!(filling(&snapshot(&cns), UP, &sessions, Fill::These(&ids(&[])), &none).is_empty());
    // Those that were told to go there count there already, and are not told again.
    for (id, to, _) in &moves {
        let seen = sessions.iter_mut().find(|seen| seen.id == *id).unwrap();
        (seen.is_moving, seen.going_to) = (true, Some(to.clone()));
    }
    assert!(filling(&snapshot(&cns), UP, &sessions, Fill::These(&ids(&["new"])), &none).is_empty());
}

/// One that moves already, nobody knows where to: it is neither told again nor taken for another's share.
#[test]
fn one_that_moves_is_left_alone() {
    let cns = [("one", "", CnState::Working), ("new", "", CnState::Working)];
    let mut sessions: Vec<Seen> = (0..4).map(|n| session(n, "", "one", n == 3)).collect();
    sessions[3].is_moving = true;
    let moves = filling(&snapshot(&cns), UP, &sessions, Fill::All, &BTreeSet::new());
    assert!(moves.len() == 2 && moves.iter().all(|(id, ..)| *id != 3), "{moves:?}");

    let mut work = Work::default();
    let wanted = (0..4).map(|id| (id, None)).collect();
    let told: Vec<u32> =
        work.tell(&sessions, wanted, 1000.0, Instant::now()).into_iter().map(|(id, _)| id).collect();
    assert_eq!(told, [0, 1, 2]);
}

proptest! {
    /// Whatever the counts are: the CN that joined has its share, nobody falls below its own, no session goes twice.
    #[test]
    fn a_cn_that_joins_never_gets_more_than_its_share(
        counts in proptest::collection::vec(0_u32..60, 1..6), joins in 1_usize..3,
    ) {
        let names: Vec<String> = (0..counts.len() + joins).map(|n| format!("cn-{n}")).collect();
        let cns: Vec<_> = names.iter().map(|name| (name.as_str(), "w=a", CnState::Working)).collect();
        let mut sessions = Vec::new();
        for (n, count) in counts.iter().enumerate() {
            for _ in 0..*count {
                sessions.push(session(sessions.len() as u32, "w=a", &names[n], true));
            }
        }
        let joined: BTreeSet<CnId> = names[counts.len()..].iter().map(|name| CnId::new(name).unwrap()).collect();
        let moves = filling(&snapshot(&cns), UP, &sessions, Fill::These(&joined), &BTreeSet::new());
        let share = sessions.len() / names.len();
        let mut after = sessions.clone();
        let mut moved = BTreeSet::new();
        for (id, to, _) in &moves {
            prop_assert!(moved.insert(*id));
            after[*id as usize].cn = to.to_string();
        }
        let after = count(&after);
        let on = |name: &str| after.get(&CnId::new(name).unwrap()).map_or(0, |count| *count as usize);
        for (n, name) in names.iter().enumerate() {
            if n >= counts.len() {
                // One more where others cannot keep what is left over.
                prop_assert!((share..=share + 1).contains(&on(name)), "{:?}", after);
            } else {
                prop_assert!(on(name) >= share.min(counts[n] as usize), "{:?}", after);
            }
        }
    }
}

#[test]
fn a_drain_is_as_fast_as_its_time_wants() {
    assert_eq!(hurry(300, Duration::from_secs(60)), 10.0);
    assert_eq!(hurry(300, Duration::from_secs(1)), 600.0);
    assert_eq!(hurry(0, Duration::ZERO), 0.0);
    assert!(hurry(1, Duration::ZERO).is_finite());
}

#[test]
fn one_that_does_not_move_is_left_alone_for_longer_each_time_until_it_moves() {
    let mut work = Work::default();
    let began = Instant::now();
    let told_at = |work: &mut Work, cn: &str, ms: u64| {
        let now = began + Duration::from_millis(ms);
        let sessions = [session(1, "", cn, true)];
        work.remember(&sessions, now);
        !work.tell(&sessions, vec![(1, None)], 1000.0, now).is_empty()
    };
    let told: Vec<u64> = (0..80).map(|n| n * 100).filter(|ms| told_at(&mut work, "cn-1", *ms)).collect();
    assert_eq!(told, [0, 500, 1500, 3500, 7500]);
    assert!(told_at(&mut work, "cn-2", 8000), "it moved, and is another's concern now");
    assert!(!told_at(&mut work, "cn-2", 8100));
    assert!(told_at(&mut work, "cn-2", 8500));
}

#[test]
fn no_more_are_told_than_the_rate_allows() {
    let mut work = Work::default();
    let began = Instant::now();
    let sessions: Vec<Seen> = (0..1000).map(|id| session(id, "", "cn-1", true)).collect();
    let mut told = 0;
    for round in 0..=40 {
        let now = began + ROUND * round;
        let wanted = sessions.iter().skip(told).map(|seen| (seen.id, None)).collect();
        told += work.tell(&sessions, wanted, 20.0, now).len();
    }
    // Two seconds, and a moment's worth before.
    assert!((38..=44).contains(&told), "{told} in two seconds");
}

proptest! {
    /// Asked for by hand: nobody is more than one from its share, and nothing moves that need not.
    #[test]
    fn all_are_filled_where_an_operator_asks(counts in proptest::collection::vec(0_u32..60, 2..7)) {
        let names: Vec<String> = (0..counts.len()).map(|n| format!("cn-{n}")).collect();
        let cns: Vec<_> = names.iter().map(|name| (name.as_str(), "", CnState::Working)).collect();
        let mut sessions = Vec::new();
        for (name, count) in names.iter().zip(&counts) {
            for _ in 0..*count {
                sessions.push(session(sessions.len() as u32, "", name, true));
            }
        }
        let moves = filling(&snapshot(&cns), UP, &sessions, Fill::All, &BTreeSet::new());
        let mut after = counts.clone();
        for (id, to, _) in &moves {
            let at = |cn: &str| names.iter().position(|name| name == cn).unwrap();
            after[at(&sessions[*id as usize].cn)] -= 1;
            after[at(to.as_str())] += 1;
        }
        let (least, most) = (*after.iter().min().unwrap(), *after.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{counts:?} became {after:?}");
        let needed: u32 = counts.iter().zip(&after).map(|(before, after)| before.saturating_sub(*after)).sum();
        prop_assert_eq!(moves.len() as u32, needed);
    }
}
