use super::*;

fn newcomer(id: &str, incarnation: u64) -> Newcomer {
    Newcomer { id: id.into(), incarnation, version: "1".into(), revision: 0, sequence: 0 }
}

fn report(sequence: u64, revision: u64, cns: &[(&str, u32)]) -> Report {
    let on = |sessions| OnCn { sessions, ..OnCn::default() };
    Report {
        sequence,
        revision,
        cns: cns.iter().map(|(name, sessions)| ((*name).into(), on(*sessions))).collect(),
        rest: Health::Unknown,
        tenants: BTreeMap::from([("acme".into(), cns.iter().map(|(_, n)| n).sum())]),
    }
}

fn on(planes: &Planes, cn: &str) -> u32 {
    planes.totals().cns.get(cn).copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn the_newest_report_counts() {
    let planes = Planes::new();
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    let two = planes.enrol(newcomer("dp-2", 1)).unwrap();
    one.reported(report(2, 5, &[("cn-1", 3)]));
    two.reported(report(1, 5, &[("cn-1", 4), ("cn-2", 1)]));
    assert_eq!((on(&planes, "cn-1"), on(&planes, "cn-2")), (7, 1));
    one.reported(report(1, 5, &[("cn-1", 9)]));
    assert_eq!(on(&planes, "cn-1"), 7, "an older sequence");
    one.reported(report(3, 5, &[]));
    assert_eq!(on(&planes, "cn-1"), 4);
    assert_eq!(planes.totals().tenants["acme"], 5);
    assert_eq!(planes.totals().sessions, 5);
}

#[tokio::test(start_paused = true)]
async fn counts_outlive_the_stream_for_a_while() {
    let planes = Planes::new();
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    one.reported(report(1, 5, &[("cn-1", 3)]));
    drop(one);
    assert!(!planes.is_connected("dp-1"));
    planes.expire(Instant::now() + STALE - Duration::from_millis(1));
    assert_eq!(on(&planes, "cn-1"), 3);
    planes.expire(Instant::now() + STALE);
    assert_eq!(on(&planes, "cn-1"), 0);
    assert!(planes.shown("dp-1").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_newest_incarnation_counts() {
    let planes = Planes::new();
    let old = planes.enrol(newcomer("dp-1", 3)).unwrap();
    old.reported(report(9, 5, &[("cn-1", 3)]));
    let older = planes.enrol(newcomer("dp-1", 2)).unwrap_err();
    assert_eq!(older, Error::OlderIncarnation { id: "dp-1".into(), incarnation: 2, newest: 3 });
    assert!(!old.superseded.is_cancelled());
    // The same process again, before its old connection was found dead: its counts stay.
    let again = planes.enrol(newcomer("dp-1", 3)).unwrap();
    assert!(old.superseded.is_cancelled());
    assert_eq!(on(&planes, "cn-1"), 3);
    // The old stream says nothing any more, not even by its end.
    old.reported(report(10, 5, &[("cn-1", 8)]));
    drop(old);
    assert!(planes.is_connected("dp-1"));
    assert_eq!(on(&planes, "cn-1"), 3);
    // A new process: no session of the old one lives.
    let new = planes.enrol(newcomer("dp-1", 4)).unwrap();
    assert_eq!(on(&planes, "cn-1"), 0);
    new.reported(report(1, 5, &[("cn-1", 1)]));
    assert_eq!(on(&planes, "cn-1"), 1);
    drop(again);
    assert!(planes.is_connected("dp-1"));
}

#[tokio::test(start_paused = true)]
async fn a_cn_is_clear_when_all_have_said_so_since() {
    let planes = Planes::new();
    let clear = |revision| planes.is_clear("cn-1", revision, [].iter());
    assert!(clear(7), "no data plane, no session");
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    assert!(!clear(7), "it has said nothing yet");
    one.reported(report(1, 6, &[("cn-1", 0)]));
    one.acked(7, "");
    assert!(!clear(7), "it counted before it knew");
    one.reported(report(2, 7, &[("cn-1", 2)]));
    assert!(!clear(7));
    one.reported(report(3, 7, &[]));
    assert!(clear(7));
    one.acked(8, "digest differs");
    assert!(!clear(8), "it refused");
    assert_eq!(planes.shown("dp-1").unwrap().refused, "digest differs");
    drop(one);
    assert!(clear(8), "it left, and had none");
    let stored = ["dp-1".to_owned()];
    assert!(!planes.is_clear("cn-1", 8, stored.iter()), "its stream ended: it goes on, and does not know");
}

#[tokio::test(start_paused = true)]
async fn one_that_has_not_come_back_may_have_sessions() {
    let planes = Planes::new();
    let stored = ["dp-1".to_owned()];
    let clear = || planes.is_clear("cn-1", 7, stored.iter());
    assert!(!clear());
    tokio::time::advance(STALE * 2).await;
    planes.expire(Instant::now());
    assert!(!clear(), "however long it is silent");
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    one.acked(7, "");
    one.reported(report(1, 7, &[]));
    assert!(clear());
    drop(one);
    assert!(clear(), "it knows of the drain, and had none");
    tokio::time::advance(STALE * 2).await;
    planes.expire(Instant::now());
    assert!(!clear(), "nobody knows any more what it said");
}

#[tokio::test(start_paused = true)]
async fn asking_has_a_bound() {
    let planes = Planes::new();
    let ask = || planes.ask("dp-1", Ask::List(pb::order::ListSessions::default()));
    assert!(ask().is_none(), "not connected");
    let mut one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    let asked: Vec<_> = std::iter::from_fn(ask).collect();
    assert_eq!(asked.len(), WAITING);
    let first = one.asks.recv().await.unwrap();
    first.answer.send(Answer::Sessions { sessions: vec![], more: false }).unwrap();
    assert!(ask().is_some());
    let mut asked = asked.into_iter();
    assert!(asked.next().unwrap().await.is_ok());
    drop(one);
    assert!(asked.next().unwrap().await.is_err(), "the stream ended");
}

#[tokio::test(start_paused = true)]
async fn the_word_of_one_that_is_gone_holds_no_cn_down() {
    let planes = Planes::new();
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    let down = OnCn { sessions: 1, health: Health::Down, reason: "refused".into() };
    one.reported(Report { sequence: 1, cns: BTreeMap::from([("cn-1".into(), down)]), ..Report::default() });
    assert_eq!(planes.health("cn-1"), (Health::Down, "refused (data plane dp-1)".into()));
    drop(one);
    assert_eq!(planes.health("cn-1").0, Health::Unknown);
    assert_eq!(on(&planes, "cn-1"), 1);
}

fn heard(replica: &str, incarnation: u64, report: Report) -> Option<Heard> {
    let told = Told {
        incarnation,
        version: "1".into(),
        acked: report.revision,
        refused: String::new(),
        report: Arc::new(report),
        seen: SystemTime::UNIX_EPOCH,
    };
    Some(Heard { replica: replica.into(), told })
}

#[tokio::test(start_paused = true)]
async fn what_was_reported_to_others_counts_once() {
    let planes = Planes::new();
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    assert!(planes.told().is_empty(), "it has not counted yet");
    one.reported(report(3, 5, &[("cn-1", 2)]));
    let there = || heard("cp-2", 1, report(9, 5, &[("cn-1", 4)]));
    planes.heard("dp-2", there());
    assert_eq!((on(&planes, "cn-1"), planes.connected().len()), (6, 2));
    assert_eq!(planes.whereabouts("dp-1"), Whereabouts::Here);
    assert_eq!(planes.whereabouts("dp-2"), Whereabouts::Elsewhere("cp-2".into()));
    assert_eq!(planes.told().into_keys().collect::<Vec<_>>(), ["dp-1"], "each replica tells of its own");

    // It comes here, and what it said there is older than its stream, though it has not reported here yet.
    let two = planes.enrol(Newcomer { sequence: 9, ..newcomer("dp-2", 1) }).unwrap();
    planes.heard("dp-2", there());
    assert!(!two.superseded.is_cancelled());
    assert_eq!((on(&planes, "cn-1"), planes.whereabouts("dp-2")), (6, Whereabouts::Here));
    two.reported(report(10, 5, &[("cn-1", 5)]));
    planes.heard("dp-2", there());
    planes.heard("dp-2", None);
    assert_eq!(on(&planes, "cn-1"), 7);

    // It reports there again: the stream that is open here is nobody's any more.
    planes.heard("dp-2", heard("cp-2", 1, report(11, 5, &[("cn-1", 1)])));
    assert!(two.superseded.is_cancelled());
    assert_eq!(on(&planes, "cn-1"), 3);
    drop(two);
    assert_eq!(
        (on(&planes, "cn-1"), planes.connected().len()),
        (3, 2),
        "the end of that stream is not its end"
    );
}

/// A replica that has just begun has not heard what a data plane reported elsewhere: that comes behind the data plane itself.
#[tokio::test(start_paused = true)]
async fn what_was_reported_before_a_stream_began_does_not_end_it() {
    let planes = Planes::new();
    let one = planes.enrol(Newcomer { sequence: 9, ..newcomer("dp-1", 1) }).unwrap();
    planes.heard("dp-1", heard("cp-2", 1, report(9, 5, &[("cn-1", 4)])));
    assert!(!one.superseded.is_cancelled());
    assert_eq!(planes.whereabouts("dp-1"), Whereabouts::Here);
    planes.heard("dp-1", heard("cp-2", 1, report(10, 5, &[("cn-1", 4)])));
    assert!(one.superseded.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn counts_of_a_replica_that_is_gone_stay_for_a_while() {
    let planes = Planes::new();
    let waits = || planes.waits_for("cn-1", 1, [&"dp-1".to_owned()].into_iter());
    planes.heard("dp-1", heard("cp-2", 1, report(1, 5, &[("cn-1", 4)])));
    planes.heard("dp-1", None);
    assert_eq!((on(&planes, "cn-1"), planes.silent()), (4, vec!["dp-1".to_owned()]));
    assert_eq!(waits(), ["dp-1"]);
    planes.expire(Instant::now() + STALE.saturating_sub(Duration::from_millis(1)));
    assert_eq!(on(&planes, "cn-1"), 4);
    planes.expire(Instant::now() + STALE);
    assert_eq!(on(&planes, "cn-1"), 0);
    assert_eq!(waits(), ["dp-1"], "nobody said that it has none");

    // One that left, or was forgotten, is over at once.
    planes.heard("dp-1", heard("cp-2", 1, report(2, 5, &[("cn-1", 4)])));
    planes.heard("dp-1", None);
    planes.are_stored(9, |_| false);
    assert_eq!(on(&planes, "cn-1"), 0);
    assert!(planes.waits_for("cn-1", 1, std::iter::empty()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_was_forgotten_while_it_is_here_has_to_come_again() {
    let planes = Planes::new();
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    planes.are_stored(7, |_| false);
    assert!(!one.superseded.is_cancelled(), "it is yet to claim its block");
    one.claimed(8);
    planes.are_stored(7, |_| false);
    planes.are_stored(8, |_| true);
    assert!(!one.superseded.is_cancelled());
    planes.are_stored(9, |_| false);
    assert!(one.superseded.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_before_the_store_went_back_does_not_count() {
    let planes = Planes::new();
    let one = planes.enrol(newcomer("dp-1", 1)).unwrap();
    one.acked(900, "");
    one.reported(report(1, 900, &[]));
    assert!(planes.is_clear("cn-1", 510, [&"dp-1".to_owned()].into_iter()));
    planes.went_back();
    assert!(!planes.is_clear("cn-1", 510, [&"dp-1".to_owned()].into_iter()));
}

#[tokio::test(start_paused = true)]
async fn what_another_replica_hears_of_a_cn_is_avoided_here_too() {
    let planes = Planes::new();
    let mut down = report(1, 5, &[("cn-1", 4), ("cn-2", 1)]);
    planes.heard("dp-1", heard("cp-2", 1, down.clone()));
    let before = planes.edges();
    down.sequence = 2;
    down.cns.get_mut("cn-1").unwrap().health = Health::Down;
    planes.heard("dp-1", heard("cp-2", 1, down.clone()));
    assert!(planes.edges() != before);
    assert_eq!(planes.down(), ["cn-1".to_owned()].into());
    let before = planes.edges();
    down.sequence = 3;
    planes.heard("dp-1", heard("cp-2", 1, down));
    assert_eq!(planes.edges(), before, "that is known");
    planes.heard("dp-1", None);
    assert!(planes.edges() != before && planes.down().is_empty(), "it is nobody's word any more");
}
