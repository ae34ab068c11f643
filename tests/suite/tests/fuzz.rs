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
use shunt_proto::snapshot::Entry;
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

/// Writes down what it hears.
#[derive(Default, PartialEq, Eq, Debug)]
struct Heard(Vec<String>);

impl Requested for Heard {
    fn command(&mut self, command: Command<'_>) {
        self.0.push(format!("command {:#x}", command.code));
    }

    fn more(&mut self, _: &[u8]) {}
}

impl Answered for Heard {
    fn ok(&mut self, _: &Pending, ok: &reply::Ok<'_>) {
        self.0.push(format!("ok {}", ok.status));
    }

    fn eof(&mut self, _: &Pending, status: u16) {
        self.0.push(format!("eof {status}"));
    }

    fn err(&mut self, _: Option<&Pending>, code: u16) {
        self.0.push(format!("err {code}"));
    }

    fn change(&mut self, change: Change<'_>) {
        self.0.push(format!("{change:?}"));
    }

    fn prepared(&mut self, statement: u32, columns: u16, params: u16) {
        self.0.push(format!("prepared {statement} {columns} {params}"));
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
        let Ok((taken, stop)) = requests.advance(&held, &mut heard) else { break };
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

fn asked() -> Requests {
    let mut requests = Requests::default();
    let ask = [
        &b"\x03SELECT 1"[..],
        b"\x16SELECT ?",
        b"\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00",
        b"\x0e",
        b"\x03x",
    ];
    let mut stream = Vec::new();
    for payload in ask {
        one(0, payload, &mut stream);
    }
    let taken = requests.advance(&stream, &mut Heard::default()).map(|(taken, _)| taken);
    assert_eq!(taken, Ok(stream.len()));
    assert_eq!(command::kind(command::PING), command::Kind::Forward(Shape::Simple));
    requests
}

fn forward_responses(pieces: &[&[u8]]) -> (Vec<u8>, Heard, bool) {
    let (mut requests, mut heard) = (asked(), Heard::default());
    let mut responses = Responses::new(true, None);
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
    let whole = forward_responses(&[bytes]);
    let cut = forward_responses(&pieces(bytes, rng));
    assert_eq!((&whole.1, whole.2), (&cut.1, cut.2), "heard otherwise when cut");
    if whole.2 {
        assert_eq!(whole.0, cut.0, "forwarded otherwise when cut");
    }
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
