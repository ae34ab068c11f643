//! Every parser on damaged input: none may panic, loop, or tell two ways of cutting the same bytes apart.
//!
//! Each target runs for FUZZ_SECONDS (20 unless told), all of them at once, from valid samples that a seeded generator
//! damages. A target that fails prints the seed and the bytes. On stable Rust there is no coverage to guide it: the
//! samples have to reach deep.

use mysql_wire::capability::OFFERED;
use mysql_wire::command::{self, Shape};
use mysql_wire::greeting::Greeting;
use mysql_wire::login::{AuthSwitch, ChangeUser, First, Login};
use mysql_wire::packet;
use mysql_wire::reply;
use mysql_wire::request::{Command, Pending, Requested, Requests, Stop};
use mysql_wire::response::{Answered, Responses};
use mysql_wire::track::{self, Change, Subscription};
use mysql_wire::{native, sql};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shunt_proto::snapshot::{Delta, Entry, RoutingSnapshot, Version, entry_hash};
use shunt_proto::yaml::Document;
use shunt_proto::{intent, json, pb};
use std::time::{Duration, SystemTime};

/// A parser, by name, with samples that it takes whole.
struct Target {
    name: &'static str,
    samples: Vec<Vec<u8>>,
    run: fn(&[u8], &mut StdRng),
}

fn seconds() -> u64 {
    std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Some bytes changed, taken out, doubled or put in.
fn damaged(sample: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 if at < bytes.len() => {
                bytes.remove(at);
            }
            2 => bytes.insert(at, rng.random()),
            3 => bytes.truncate(at),
            _ => {
                let from = rng.random_range(0..=at);
                let again = bytes[from..at].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes.truncate(1 << 16);
    bytes
}

/// Runs a target until its time is over; returns how often.
fn fuzz(target: &Target, until: SystemTime) -> u64 {
    let mut n = 0;
    while SystemTime::now() < until {
        for _ in 0..100 {
            let mut rng = StdRng::seed_from_u64(n);
            let sample = &target.samples[rng.random_range(0..target.samples.len())];
            let bytes = damaged(sample, &mut rng);
            let ran =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (target.run)(&bytes, &mut rng)));
            assert!(ran.is_ok(), "{} fails on seed {n}: {bytes:02x?}", target.name);
            n += 1;
        }
    }
    n
}

#[test]
fn fuzz_no_parser_falls_over_damaged_input() {
    let until = SystemTime::now() + Duration::from_secs(seconds());
    std::thread::scope(|scope| {
        let runs: Vec<_> = targets()
            .into_iter()
            .map(|target| scope.spawn(move || (target.name, fuzz(&target, until))))
            .collect();
        for run in runs {
            let (name, n) = run.join().expect("a target that failed told how");
            println!("{name}: {n} inputs");
            assert!(n > 0, "{name} never ran");
        }
    });
}

fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "greeting",
            samples: vec![greeting().write()],
            run: |bytes, _| drop(Greeting::read(bytes)),
        },
        Target { name: "login", samples: vec![login().write()], run: |bytes, _| drop(First::read(bytes)) },
        Target {
            name: "change of user",
            samples: vec![change_user().write()],
            run: |bytes, rng| {
                drop(ChangeUser::read(bytes, rng.random()));
                drop(AuthSwitch::read(bytes));
            },
        },
        Target {
            name: "replies",
            samples: replies(),
            run: |bytes, _| {
                let _ = (reply::Ok::read(bytes), reply::Err::read(bytes));
            },
        },
        Target {
            name: "session-state changes",
            samples: vec![changes()],
            run: |bytes, _| {
                let _ = track::read(bytes, |_| {});
                let _ = Subscription::default().filter(bytes);
            },
        },
        Target {
            name: "SQL",
            samples: statements(),
            run: |bytes, rng| {
                let _ = (sql::kill(bytes), sql::begins_with_kill(bytes), sql::hints(bytes, rng.random()));
            },
        },
        Target { name: "requests", samples: vec![requests()], run: cut_requests },
        Target { name: "responses", samples: vec![responses()], run: cut_responses },
        Target {
            name: "responses with EOF",
            samples: vec![responses_with_eof()],
            run: cut_responses_with_eof,
        },
        Target {
            name: "YAML",
            samples: vec![CONFIG.to_vec()],
            run: |bytes, _| {
                if let Ok(document) = Document::parse("fuzz.yaml", bytes) {
                    let read = intent::Intent::read(&document.root());
                    drop(document.finish(read));
                }
            },
        },
        Target {
            name: "stored JSON",
            samples: vec![
                br#"{"name":"cn-1","address":"127.0.0.1:1","ownLabels":{"a":["b"]},"state":"working"}"#
                    .to_vec(),
            ],
            run: |bytes, _| {
                if let Ok(cn) = json::from_stored::<pb::Cn>(bytes) {
                    drop(shunt_proto::cn::Cn::try_from(&cn));
                }
                drop(json::from_stored::<pb::Tenant>(bytes));
            },
        },
        Target {
            name: "routing entries",
            samples: vec![entry()],
            run: |bytes, _| {
                if let Ok(entry) = <pb::Entry as prost::Message>::decode(bytes) {
                    drop(Entry::try_from(&entry));
                }
            },
        },
        Target { name: "deltas", samples: vec![delta()], run: apply_delta },
        Target {
            name: "asking for labels",
            samples: vec![b"acme:app:role?workload=tp,zone=a".to_vec(), b"workload=tp".to_vec()],
            run: |bytes, _| {
                let text = String::from_utf8_lossy(bytes);
                let mut labels = shunt_proto::label::Labels::new();
                for (key, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
                    drop(labels.add(key, value));
                }
                assert!(labels.to_string().len() < 1 << 16, "labels are bounded");
            },
        },
    ]
}

const CONFIG: &[u8] = b"groups:\n  - { name: tp, labels: { workload: [tp] }, tenant: acme, replicas: 2,\n      cns: [ { name: cn-1, address: 127.0.0.1:1 } ] }\ntenants:\n  - { name: acme, allow: [10.0.0.0/8], max_sessions: 5, on_no_match: reject }\npolicy: { migrate: { settle_after: 50ms } }\n";

fn greeting() -> Greeting {
    Greeting {
        version: b"5.5.5-10.11.6-MariaDB".to_vec(),
        connection_id: 7,
        salt: native::salt([9; 20]),
        capabilities: OFFERED,
        collation: 45,
        status: 2,
        plugin: native::PLUGIN.to_vec(),
    }
}

fn login() -> Login {
    Login {
        capabilities: OFFERED,
        max_packet: 1 << 24,
        collation: 45,
        user: b"acme:app?workload=tp".to_vec(),
        auth: vec![1; 20],
        database: Some(b"shop".to_vec()),
        plugin: Some(native::PLUGIN.to_vec()),
        attributes: vec![(b"_os".to_vec(), b"linux".to_vec())],
    }
}

fn change_user() -> ChangeUser {
    ChangeUser {
        user: b"app".to_vec(),
        auth: vec![1; 20],
        database: Some(b"shop".to_vec()),
        collation: 45,
        plugin: Some(native::PLUGIN.to_vec()),
        attributes: vec![(b"a".to_vec(), b"b".to_vec())],
    }
}

fn changes() -> Vec<u8> {
    [
        &b"\x00\x0f\x0aautocommit\x03OFF"[..],
        b"\x01\x03\x02db",
        b"\x02\x011",
        b"\x05\x09\x08T_______",
        b"\x04\x01\x00",
    ]
    .concat()
}

fn replies() -> Vec<Vec<u8>> {
    let changes = changes();
    let ok = reply::Ok {
        header: 0,
        affected: 3,
        insert_id: 900,
        status: 0x4002,
        warnings: 1,
        info: b"Rows",
        changes: &changes,
    };
    vec![ok.write(), reply::Err::new(1045, "28000", "Access denied").write()]
}

fn statements() -> Vec<Vec<u8>> {
    [
        "/* x */ KILL HARD QUERY 1073741824;",
        "SELECT @a:=GET_LOCK('x',1), @@version -- c",
        "CREATE TEMPORARY TABLE t SELECT 1",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn one(seq: u8, payload: &[u8], out: &mut Vec<u8>) {
    packet::write(out, seq, payload);
}

/// A client's stream: queries, prepares, executions, a close, a ping.
fn requests() -> Vec<u8> {
    let mut out = Vec::new();
    for payload in [
        &b"\x03SELECT 1"[..],
        b"\x16SELECT ?",
        b"\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00",
        b"\x19\x01\x00\x00\x00",
        b"\x0e",
        b"\x03LOAD DATA LOCAL INFILE 'x' INTO TABLE t",
    ] {
        one(0, payload, &mut out);
    }
    out
}

/// A CN's answers to a query, a prepare, an execution, a ping and another query.
fn responses() -> Vec<u8> {
    let mut out = Vec::new();
    let definition = b"\x03def\x00\x00\x00\x011\x00\x0c?\x00\x01\x00\x00\x00\x03\x81\x00\x00\x00\x00";
    let end = b"\xfe\x00\x00\x02\x00\x00\x00";
    for (seq, payload) in [
        (1, &b"\x01"[..]),
        (2, definition),
        (3, b"\x011"),
        (4, end),
        (1, b"\x00\x01\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00"),
        (2, definition),
        (3, definition),
        (1, b"\x01"),
        (2, definition),
        (3, b"\x00\x00\x01\x00\x00\x00"),
        (4, end),
        (1, b"\x00\x00\x00\x02\x00\x00\x00"),
        (1, &replies()[1]),
    ] {
        one(seq, payload, &mut out);
    }
    out
}

/// The same without DEPRECATE_EOF: two results, a prepare, a cursor and its rows, fields, text, an option.
fn responses_with_eof() -> Vec<u8> {
    let mut out = Vec::new();
    let definition = b"\x03def\x00\x00\x00\x011\x00\x0c?\x00\x01\x00\x00\x00\x03\x81\x00\x00\x00\x00";
    let (end, more) = (b"\xfe\x00\x00\x02\x40", b"\xfe\x00\x00\x0a\x00");
    let (cursor, last) = (b"\xfe\x00\x00\x42\x00", b"\xfe\x00\x00\x82\x00");
    for (seq, payload) in [
        (1, &b"\x01"[..]),
        (2, definition),
        (3, more),
        (4, b"\x011"),
        (5, more),
        (6, &replies()[0]),
        (1, b"\x00\x01\x00\x00\x00\x01\x00\x01\x00\x00\x00\x00"),
        (2, definition),
        (3, end),
        (4, definition),
        (5, end),
        (1, b"\x01"),
        (2, definition),
        (3, cursor),
        (1, b"\x00\x00\x01\x00\x00\x00"),
        (2, last),
        (1, definition),
        (2, end),
        (1, b"Uptime: 7"),
        (1, end),
    ] {
        one(seq, payload, &mut out);
    }
    out
}

/// Writes down what it hears.
#[derive(Default, PartialEq, Eq, Debug)]
struct Heard(Vec<String>);

impl Requested for Heard {
    fn command(&mut self, command: Command<'_>) -> Option<u32> {
        self.0.push(format!("command {:#x}", command.code));
        None
    }

    fn more(&mut self, _: &[u8]) {}

    fn look(&self, _: u32) -> usize {
        0
    }
}

impl Answered for Heard {
    fn ok(&mut self, _: &Pending, ok: &reply::Ok<'_>) {
        self.0.push(format!("ok {}", ok.status));
    }

    fn eof(&mut self, _: &Pending, status: u16, _: u16) {
        self.0.push(format!("eof {status}"));
    }

    fn err(&mut self, _: Option<&Pending>, code: u16) {
        self.0.push(format!("err {code}"));
    }

    fn change(&mut self, change: Change<'_>) {
        self.0.push(format!("{change:?}"));
    }

    fn prepared(&mut self, statement: u32, columns: u16, params: u16) -> u32 {
        self.0.push(format!("prepared {statement} {columns} {params}"));
        statement
    }

    fn done(&mut self, pending: &Pending) {
        self.0.push(format!("done {:#x}", pending.code));
    }
}

/// Pieces of `bytes`, cut anywhere.
fn pieces<'a>(bytes: &'a [u8], rng: &mut StdRng) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rng.random_range(1..=rest.len().min(40)));
        pieces.push(piece);
        rest = later;
    }
    pieces
}

/// What of a client's stream is forwarded, what is heard, and where it stops.
fn forward_requests(pieces: &[&[u8]]) -> (Vec<u8>, Heard, Option<Stop>) {
    let (mut requests, mut heard) = (Requests::default(), Heard::default());
    let (mut held, mut forwarded, mut stopped) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        held.extend_from_slice(piece);
        let Ok((taken, stop)) = requests.advance(&mut held, &mut heard) else { break };
        forwarded.extend(held.drain(..taken));
        stopped = stop.filter(|stop| *stop != Stop::Partial);
        if stopped.is_some() {
            break;
        }
    }
    (forwarded, heard, stopped)
}

fn cut_requests(bytes: &[u8], rng: &mut StdRng) {
    let whole = forward_requests(&[bytes]);
    let cut = forward_requests(&pieces(bytes, rng));
    // What a stream that breaks the protocol had before may be forwarded or not; commands are heard alike.
    assert!(whole.1.0.starts_with(&cut.1.0) || cut.1.0.starts_with(&whole.1.0), "{whole:?} {cut:?}");
    assert_eq!(whole.2, cut.2);
}

const ASK: &[&[u8]] =
    &[b"\x03SELECT 1", b"\x16SELECT ?", b"\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00", b"\x0e", b"\x03x"];

/// What the answers of [`responses_with_eof`] answer.
const ASK_WITH_EOF: &[&[u8]] = &[
    b"\x03SELECT 1; SELECT 1",
    b"\x16SELECT ?",
    b"\x17\x01\x00\x00\x00\x01\x01\x00\x00\x00",
    b"\x1c\x01\x00\x00\x00\x05\x00\x00\x00",
    b"\x04t\x00",
    b"\x09",
    b"\x1b\x00\x00",
];

fn asked(ask: &[&[u8]]) -> Requests {
    let mut requests = Requests::default();
    let mut stream = Vec::new();
    for payload in ask {
        one(0, payload, &mut stream);
    }
    let taken = requests.advance(&mut stream, &mut Heard::default()).map(|(taken, _)| taken);
    assert_eq!(taken, Ok(stream.len()));
    assert_eq!(command::kind(command::PING), command::Kind::Forward(Shape::Simple));
    requests
}

fn forward_responses(pieces: &[&[u8]], deprecate_eof: bool) -> (Vec<u8>, Heard, bool) {
    let ask = if deprecate_eof { ASK } else { ASK_WITH_EOF };
    let (mut requests, mut heard) = (asked(ask), Heard::default());
    // Edited either way: all changes are taken out, or those that the client did not subscribe to.
    let mut responses = Responses::new(deprecate_eof, (!deprecate_eof).then(Subscription::default));
    let (mut held, mut forwarded) = (Vec::new(), Vec::new());
    for piece in pieces {
        held.extend_from_slice(piece);
        match responses.advance(&mut held, &mut requests, &mut heard) {
            Ok(advanced) => {
                forwarded.extend_from_slice(&held[..advanced.forward]);
                held.drain(..advanced.held);
            }
            Err(_) => return (Vec::new(), heard, false),
        }
    }
    (forwarded, heard, true)
}

fn cut_responses(bytes: &[u8], rng: &mut StdRng) {
    cut_either(bytes, rng, true);
}

fn cut_responses_with_eof(bytes: &[u8], rng: &mut StdRng) {
    cut_either(bytes, rng, false);
}

/// The samples reach their ends: else nothing behind the first packet would be tried.
#[test]
fn the_samples_of_responses_are_whole() {
    for (sample, deprecate_eof, answered) in
        [(responses(), true, ASK.len()), (responses_with_eof(), false, ASK_WITH_EOF.len())]
    {
        let (forwarded, heard, good) = forward_responses(&[&sample], deprecate_eof);
        let done = heard.0.iter().filter(|event| event.starts_with("done")).count();
        assert!(good && done == answered && !forwarded.is_empty(), "{deprecate_eof}: {heard:?}");
    }
}

fn cut_either(bytes: &[u8], rng: &mut StdRng, deprecate_eof: bool) {
    let whole = forward_responses(&[bytes], deprecate_eof);
    let cut = forward_responses(&pieces(bytes, rng), deprecate_eof);
    assert_eq!((&whole.1, whole.2), (&cut.1, cut.2), "heard otherwise when cut");
    if whole.2 {
        assert_eq!(whole.0, cut.0, "forwarded otherwise when cut");
    }
}

/// A change of one CN's address, and a tenant that goes.
fn delta() -> Vec<u8> {
    let version = |revision, digest| pb::Version { store_id: "store".into(), revision, digest };
    let entry = <pb::Entry as prost::Message>::decode(entry().as_slice()).expect("a whole entry");
    let from = before();
    let delta = pb::Delta {
        from: Some(version(1, from.version().digest)),
        to: Some(version(2, entry.hash)),
        changed: vec![entry],
        removed: vec!["tenant/acme".into()],
    };
    prost::Message::encode_to_vec(&delta)
}

/// What a delta is applied to.
fn before() -> RoutingSnapshot {
    let tenant = pb::Tenant { name: "acme".into(), ..pb::Tenant::default() };
    let (key, hash) = ("tenant/acme".to_owned(), entry_hash("tenant/acme", 1, b""));
    let entry = pb::Entry { key, mod_revision: 1, hash, value: Some(pb::entry::Value::Tenant(tenant)) };
    let version = Version { store_id: "store".into(), revision: 1, digest: hash };
    let entry = Entry::try_from(&entry).expect("a whole entry");
    RoutingSnapshot::from_entries(version, [entry]).expect("a whole state")
}

/// Applied or refused, and what is applied is what its version says.
fn apply_delta(bytes: &[u8], _: &mut StdRng) {
    let Ok(delta) = <pb::Delta as prost::Message>::decode(bytes) else { return };
    let Ok(delta) = Delta::try_from(delta) else { return };
    let to = delta.to.clone();
    if let Ok(after) = before().apply(delta) {
        assert_eq!(after.version(), &to);
        let digest = after.entries().fold(0_u64, |sum, (_, entry)| sum.wrapping_add(entry.hash));
        assert_eq!(digest, to.digest);
    }
}

#[test]
fn the_sample_of_a_delta_is_whole() {
    let delta = <pb::Delta as prost::Message>::decode(delta().as_slice()).unwrap();
    let after = before().apply(Delta::try_from(delta).unwrap()).unwrap();
    assert_eq!((after.cns().count(), after.entries().count()), (1, 1));
}

fn entry() -> Vec<u8> {
    let cn = pb::Cn {
        name: "cn-1".into(),
        address: "127.0.0.1:1".into(),
        group: "tp".into(),
        ..pb::Cn::default()
    };
    let entry =
        pb::Entry { key: "cn/cn-1".into(), mod_revision: 3, hash: 9, value: Some(pb::entry::Value::Cn(cn)) };
    prost::Message::encode_to_vec(&entry)
}
