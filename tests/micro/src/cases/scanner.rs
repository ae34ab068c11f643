//! The hot path: a session's two scanners with its mirror listening, as they are in a data plane. Sockets are not here:
//! a burst begins as bytes in memory.

use super::data_plane::session::mirror::Mirror;
use super::packets::{self, End, Row};
use super::{Case, count};
use mysql_wire::request::Requests;
use mysql_wire::response::Responses;
use mysql_wire::sql::{self, Hints};
use mysql_wire::track::Subscription;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "request/query",
        about: "COM_QUERY, a point select",
        run: || asked(1, &packets::query(packets::POINT)),
    },
    Case {
        name: "request/query-4k",
        about: "COM_QUERY, an INSERT of 4 KiB",
        run: || asked(1, &packets::query(&packets::insert())),
    },
    Case {
        name: "request/execute",
        about: "COM_STMT_EXECUTE, a point select",
        run: || asked(1, &packets::execute()),
    },
    Case {
        name: "request/pipelined-16",
        about: "16 point selects in one burst",
        run: || asked(16, &packets::query(packets::POINT).repeat(16)),
    },
    Case {
        name: "response/point-text",
        about: "one row, text, ended by an OK",
        run: || result(Row::Text, 1, End::Ok),
    },
    Case {
        name: "response/point-text-eof",
        about: "one row, text, with EOF packets",
        run: || result(Row::Text, 1, End::Eof),
    },
    Case {
        name: "response/point-binary",
        about: "one row, binary, ended by an OK",
        run: || result(Row::Binary, 1, End::Ok),
    },
    Case {
        name: "response/point-binary-eof",
        about: "one row, binary, with EOF packets",
        run: || result(Row::Binary, 1, End::Eof),
    },
    Case {
        name: "response/rows-1000",
        about: "121 KiB of rows in one burst",
        run: || result(Row::Text, 1000, End::Eof),
    },
    Case { name: "response/rows-1000-bursts", about: "the same in bursts of 64 KiB", run: bursts },
    Case { name: "response/ok", about: "an OK with no changes", run: || done(false, true, 11) },
    Case {
        name: "response/ok-shown",
        about: "an OK with three changes, one of them shown",
        run: || done(true, true, 39),
    },
    Case {
        name: "response/ok-stripped",
        about: "an OK with three changes, none of them shown",
        run: || done(true, false, 11),
    },
    Case { name: "response/err", about: "an ERR", run: err },
    Case { name: "session/point-text", about: "a whole point select, text", run: || point(Row::Text) },
    Case {
        name: "session/point-binary",
        about: "a whole point select, prepared",
        run: || point(Row::Binary),
    },
    Case { name: "sql/hints", about: "the words of a point select", run: || hints(packets::POINT) },
    Case { name: "sql/hints-4k", about: "the words of 4 KiB", run: || hints(&packets::insert()) },
];

/// Bytes of a burst.
const BURST: usize = 64 * 1024;

/// A session, without its sockets.
struct Wire {
    requests: Requests,
    responses: Responses,
    mirror: Mirror,
}

impl Wire {
    /// Of a client whose results end so and who is shown changes or not, with a statement that it prepared.
    fn new(end: End, shown: bool) -> Self {
        let shown = shown.then(Subscription::default);
        let responses = Responses::new(end == End::Ok, shown);
        let mut wire = Self { requests: Requests::default(), responses, mirror: Mirror::new(None) };
        wire.ask(&mut packets::prepare());
        wire.answer(&mut packets::prepared(end));
        wire
    }

    fn ask(&mut self, bytes: &mut [u8]) {
        let len = bytes.len();
        let taken = self.requests.advance(bytes, &mut self.mirror).expect("commands are sound");
        assert_eq!(taken, (len, None));
    }

    /// Takes all of `burst`, and gives how many bytes of it go to the client.
    fn answer(&mut self, burst: &mut [u8]) -> usize {
        let advanced = self.responses.advance(burst, &mut self.requests, &mut self.mirror);
        let advanced = advanced.expect("answers are sound");
        assert_eq!(advanced.held, burst.len());
        advanced.forward
    }

    /// Takes `bytes` in bursts, what one burst holds at the front of the next.
    fn answer_in_bursts(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut forwarded) = (0, 0);
        while at < bytes.len() {
            let end = bytes.len().min(at + BURST);
            let advanced = self.responses.advance(&mut bytes[at..end], &mut self.requests, &mut self.mirror);
            let advanced = advanced.expect("answers are sound");
            at += advanced.held;
            forwarded += advanced.forward;
        }
        forwarded
    }
}

/// `n` commands in one burst. They are answered before the next burst.
fn asked(n: usize, commands: &[u8]) {
    let mut wire = Wire::new(End::Eof, false);
    let mut answers = packets::result(Row::Text, 1, End::Eof).repeat(n);
    let prepare = |wire: &mut Wire| {
        if wire.requests.awaited() > 0 {
            wire.answer(&mut answers);
        }
        commands.to_vec()
    };
    let work = |wire: &mut Wire, mut commands: Vec<u8>| {
        wire.ask(&mut commands);
        commands
    };
    count(&mut wire, prepare, work);
    assert_eq!(wire.requests.awaited(), n);
}

/// The answer to one command, of which `kept` bytes go to the client.
fn answered(wire: &mut Wire, command: &[u8], answer: &[u8], kept: usize) {
    let prepare = |wire: &mut Wire| {
        wire.ask(&mut command.to_vec());
        answer.to_vec()
    };
    let work = |wire: &mut Wire, mut answer: Vec<u8>| (wire.answer(&mut answer), answer);
    let (forwarded, _) = count(wire, prepare, work);
    assert_eq!(forwarded, kept);
    assert!(wire.requests.is_idle(), "the response is whole");
}

fn result(row: Row, n: usize, end: End) {
    let answer = packets::result(row, n, end);
    answered(&mut Wire::new(end, true), &packets::point(row), &answer, answer.len());
}

fn done(with_changes: bool, shown: bool, kept: usize) {
    let update = packets::query("UPDATE sbtest1 SET k=k+1 WHERE id=504215");
    answered(&mut Wire::new(End::Ok, shown), &update, &packets::done(with_changes), kept);
}

fn err() {
    let answer = packets::err();
    answered(&mut Wire::new(End::Ok, true), &packets::point(Row::Text), &answer, answer.len());
}

fn bursts() {
    let mut wire = Wire::new(End::Eof, true);
    let answer = packets::result(Row::Text, 1000, End::Eof);
    let prepare = |wire: &mut Wire| {
        wire.ask(&mut packets::point(Row::Text));
        answer.clone()
    };
    let work = |wire: &mut Wire, mut answer: Vec<u8>| (wire.answer_in_bursts(&mut answer), answer);
    let (forwarded, _) = count(&mut wire, prepare, work);
    assert_eq!(forwarded, answer.len());
    assert!(wire.requests.is_idle(), "the response is whole");
}

fn point(row: Row) {
    let mut wire = Wire::new(End::Eof, true);
    let (command, answer) = (packets::point(row), packets::result(row, 1, End::Eof));
    let work = |wire: &mut Wire, (mut command, mut answer): (Vec<u8>, Vec<u8>)| {
        wire.ask(&mut command);
        (wire.answer(&mut answer), command, answer)
    };
    let (forwarded, ..) = count(&mut wire, |_| (command.clone(), answer.clone()), work);
    assert_eq!(forwarded, answer.len());
    assert!(wire.requests.is_idle(), "the response is whole");
}

fn hints(text: &str) {
    let hints = count(&mut (), |_| text.as_bytes(), |_, text| sql::hints(text, true));
    assert_eq!(hints.state(), Hints::none());
}
