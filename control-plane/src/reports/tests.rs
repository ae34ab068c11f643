use super::hear::tests::{heard, looked_at};
use super::*;
use crate::cluster::Stored;
use crate::keys::Value;
use crate::planes::{OnCn, Report};
use crate::store::embedded::Embedded;
use crate::store::{MAX_VALUE, Store as _};
use proptest::prelude::*;
use std::time::SystemTime;

const STORE: &str = "a-store";

fn told() -> impl Strategy<Value = Told> {
    let health = prop::sample::select(vec![Health::Up, Health::Unknown, Health::Down]);
    let on = (0..9_u32, health, "[a-z \"\\\\é]{0,100}").prop_map(|(sessions, health, reason)| {
        let reason = if health == Health::Down { reason } else { String::new() };
        OnCn { sessions, health, reason }
    });
    let cns = prop::collection::btree_map("cn-[0-9]{1,4}", on, 0..1500);
    let tenants = prop::collection::btree_map("[a-z]{1,63}", 0..9_u32, 0..900);
    (1..9_u64, 1..9_u64, cns, tenants, "[ -~]{0,20}").prop_map(
        |(incarnation, sequence, cns, tenants, refused)| Told {
            incarnation,
            version: "0.1.0".into(),
            acked: sequence,
            refused,
            report: Arc::new(Report { sequence, revision: sequence, cns, rest: Health::Up, tenants }),
            seen: SystemTime::UNIX_EPOCH + Duration::from_secs(sequence),
        },
    )
}

/// What a store shows that holds these, by replica and data plane.
fn view(all: &[(&str, &str, &Told)]) -> View {
    let version = shunt_proto::snapshot::Version { store_id: STORE.into(), ..Default::default() };
    let snapshot = shunt_proto::snapshot::RoutingSnapshot::from_entries(version, Vec::new()).unwrap();
    let mut view = View { snapshot: Arc::new(snapshot), ..View::default() };
    for (revision, (replica, plane, told)) in (1..).zip(all) {
        Arc::make_mut(&mut view.replicas).insert((*replica).to_owned(), pb::Replica::default());
        for (n, value) in values(plane, told, STORE).into_iter().enumerate() {
            assert!(value.len() <= MAX_VALUE, "{} bytes", value.len());
            let key = keys::report_key(replica, plane, n);
            let Ok(Value::Report(report)) = keys::read(&key, 1, &value) else { panic!("{key}") };
            let stored = Stored { report: *report, mod_revision: revision };
            Arc::make_mut(&mut view.reports).insert(key, Arc::new(stored));
        }
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_one_replica_tells_another_hears(mut told in told()) {
        let view = view(&[("cp-1", "dp-1", &told)]);
        prop_assert_eq!(heard(&view, "dp-1", "cp-1"), None, "its own");
        let heard = heard(&view, "dp-1", "cp-2").unwrap();
        // What is up and has no session is not told.
        Arc::make_mut(&mut told.report).cns.retain(|_, on| on.sessions > 0 || on.health != Health::Up);
        prop_assert_eq!(heard.replica, "cp-1");
        prop_assert_eq!(heard.told, told);
    }
}

fn counted(incarnation: u64, sequence: u64, sessions: u32) -> Told {
    let on = OnCn { sessions, ..OnCn::default() };
    let cns = BTreeMap::from([("cn-1".to_owned(), on)]);
    Told {
        incarnation,
        version: String::new(),
        acked: 1,
        refused: String::new(),
        report: Arc::new(Report { sequence, revision: 1, cns, ..Report::default() }),
        seen: SystemTime::UNIX_EPOCH,
    }
}

/// The longest names and reasons that there are, of as many CNs as a large fleet has, all of them down.
#[test]
fn no_part_is_larger_than_the_store_takes() {
    let on = |n| {
        let reason = "\u{1}".repeat(200);
        (format!("{n:063}"), OnCn { sessions: 7, health: Health::Down, reason })
    };
    let mut told = counted(1, 1, 0);
    Arc::make_mut(&mut told.report).cns = (0..10_000).map(on).collect();
    let values = values("dp-1", &told, STORE);
    assert!(values.iter().all(|value| value.len() <= MAX_VALUE));
}

#[test]
fn of_one_that_changed_its_replica_the_newest_report_counts() {
    let (old, new) = (counted(1, 7, 3), counted(1, 8, 5));
    let (before, restarted) = (counted(1, 900, 3), counted(2, 1, 5));
    for (one, other) in [(&old, &new), (&before, &restarted)] {
        for order in [
            [("cp-1", "dp-1", one), ("cp-2", "dp-1", other)],
            [("cp-1", "dp-1", other), ("cp-2", "dp-1", one)],
        ] {
            let heard = heard(&view(&order), "dp-1", "cp-3").unwrap();
            assert_eq!(heard.told.report.cns["cn-1"].sessions, 5);
        }
    }
}

#[test]
fn half_a_report_and_one_of_another_store_are_none() {
    let told = counted(1, 7, 3);
    let mut half = view(&[("cp-1", "dp-1", &told)]);
    Arc::make_mut(&mut half.reports).remove("report/cp-1/dp-1/1");
    assert_eq!(heard(&half, "dp-1", "cp-2"), None);
    let mut other = view(&[("cp-1", "dp-1", &told)]);
    for stored in Arc::make_mut(&mut other.reports).values_mut() {
        Arc::make_mut(stored).report.store_id = "another".into();
    }
    assert_eq!(heard(&other, "dp-1", "cp-2"), None);
}

/// A replica with a store of its own, in which it writes.
struct Desk {
    teller: Teller,
    store: Arc<Embedded>,
    lease: i64,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(folder.path()).await.unwrap());
        let lease = store.lease(Duration::from_secs(60)).await.unwrap();
        let teller = Teller::new(Arc::clone(&store) as SharedStore, Planes::new(), "cp-1".into());
        Self { teller, store, lease, _folder: folder }
    }

    /// The keys that it wrote, and what is in them.
    async fn kept(&self) -> BTreeMap<String, pb::KeptReport> {
        let items = self.store.load().await.unwrap().items;
        let report = |value: &[u8]| json::from_stored::<pb::KeptReport>(value).unwrap();
        items.iter().map(|item| (item.key.clone(), report(&item.value))).collect()
    }

    /// The view that the store's state makes.
    async fn view(&self) -> View {
        let mut view = View::default();
        for item in self.store.load().await.unwrap().items {
            let Ok(Value::Report(report)) = keys::read(&item.key, item.mod_revision, &item.value) else {
                continue;
            };
            let stored = Stored { report: *report, mod_revision: item.mod_revision };
            Arc::make_mut(&mut view.reports).insert(item.key, Arc::new(stored));
        }
        view
    }
}

fn report(sequence: u64, sessions: u32) -> Report {
    counted(1, sequence, sessions).report.as_ref().clone()
}

#[tokio::test]
async fn what_changed_is_written_and_what_is_gone_is_taken_away() {
    let mut desk = Desk::new().await;
    let planes = Arc::clone(&desk.teller.planes);
    let newcomer = |id: &str| crate::planes::Newcomer {
        id: id.into(),
        incarnation: 1,
        version: String::new(),
        revision: 0,
        sequence: 0,
    };
    let one = planes.enrol(newcomer("dp-1")).unwrap();
    let two = planes.enrol(newcomer("dp-2")).unwrap();
    one.reported(report(1, 3));
    two.reported(report(1, 4));
    desk.teller.tell(desk.lease, &View::default()).await.unwrap();
    let kept = desk.kept().await;
    assert_eq!(kept["report/cp-1/dp-2/1"].sessions, [("cn-1".to_owned(), 4)].into());
    assert_eq!(kept.len(), 4);

    // The same again is not written; what changed is.
    two.reported(report(2, 4));
    one.reported(report(2, 5));
    desk.teller.tell(desk.lease, &View::default()).await.unwrap();
    let kept = desk.kept().await;
    assert_eq!((kept["report/cp-1/dp-1/0"].sequence, kept["report/cp-1/dp-2/0"].sequence), (2, 1));

    // It does not know what it wrote: it asks, and writes all the same.
    for written in desk.teller.written.values_mut() {
        (written.told, written.revision) = (None, None);
    }
    one.reported(report(3, 6));
    desk.teller.tell(desk.lease, &View::default()).await.unwrap();
    assert_eq!(desk.kept().await["report/cp-1/dp-1/1"].sessions["cn-1"], 6);

    // Somebody who stood still writes what it was told to long ago.
    let late = values("dp-1", &counted(1, 1, 99), "");
    let txn = Txn::new().put_under(desk.lease, "report/cp-1/dp-1/0", late[0].clone());
    desk.store.commit(txn).await.unwrap();
    one.reported(report(4, 7));
    for _ in 0..2 {
        desk.teller.tell(desk.lease, &View::default()).await.unwrap();
    }
    let kept = desk.kept().await;
    assert_eq!((kept["report/cp-1/dp-1/0"].sequence, kept["report/cp-1/dp-1/1"].sessions["cn-1"]), (4, 7));

    // One that leaves is taken away, also where nobody remembers that it was written.
    drop(one);
    desk.teller.written.remove("dp-1");
    let view = desk.view().await;
    desk.teller.tell(desk.lease, &view).await.unwrap();
    let kept = desk.kept().await;
    assert!(kept.keys().all(|key| key.starts_with("report/cp-1/dp-2/")), "{:?}", kept.keys());
    drop(two);
    desk.teller.tell(desk.lease, &view).await.unwrap();
    assert!(desk.kept().await.is_empty());
    desk.store.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_went_down_is_written_first_and_what_looks_old_last() {
    let store =
        Arc::new(crate::store::etcd::Etcd::new(&["http://127.0.0.1:1".to_owned()], "/shunt").unwrap());
    let mut teller = Teller::new(store, Planes::new(), "cp-1".into());
    for id in ["dp-1", "dp-2", "dp-3", "dp-4"] {
        let told = Some(counted(1, 1, 3));
        teller.written.insert(id.into(), Written { told, revision: Some(1), parts: 2, at: Instant::now() });
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let due = |teller: &Teller, now: &BTreeMap<String, Told>| {
        teller.due(now.clone()).into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    let mut now: BTreeMap<_, _> =
        ["dp-1", "dp-2", "dp-3", "dp-4"].map(|id| (id.to_owned(), counted(1, 2, 3))).into();
    assert!(due(&teller, &now).is_empty());
    now.insert("dp-1".into(), counted(1, 2, 4));
    now.insert("dp-2".into(), counted(1, 2, 5));
    Arc::make_mut(&mut now.get_mut("dp-3").unwrap().report).cns.get_mut("cn-1").unwrap().health =
        Health::Down;
    now.remove("dp-4");
    assert_eq!(due(&teller, &now), ["dp-3", "dp-1", "dp-2", "dp-4"]);
    let same = now.keys().map(|id| (id.clone(), counted(1, 2, 3))).collect();
    tokio::time::advance(REFRESH).await;
    assert_eq!(due(&teller, &same), ["dp-4", "dp-1", "dp-2", "dp-3"]);
}

#[test]
fn what_changed_is_looked_at_and_all_of_it_where_a_replica_came_or_went() {
    let (one, two) = (counted(1, 7, 3), counted(1, 7, 4));
    let both = view(&[("cp-1", "dp-1", &one), ("cp-1", "dp-2", &two)]);
    assert!(looked_at(&both, &both.clone()).is_empty());
    let mut changed = both.clone();
    let key = "report/cp-1/dp-2/1";
    let stored = Stored::clone(&both.reports[key]);
    Arc::make_mut(&mut changed.reports).insert(key.to_owned(), Arc::new(stored));
    assert_eq!(looked_at(&both, &changed), ["dp-2".to_owned()].into());
    // What it reported is there before it is.
    let mut before = both.clone();
    Arc::make_mut(&mut before.replicas).clear();
    assert_eq!(heard(&before, "dp-1", "cp-2"), None);
    assert_eq!(looked_at(&before, &both).len(), 2);
}
