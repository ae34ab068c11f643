//! Shunt's scanner against the plain reference parser, which shares no code with it: real sessions,
//! recorded from a MariaDB, are shown to the scanner in random pieces down to one byte.
//!
//! At every cut the two must agree on how many commands were begun and how many responses are whole,
//! behind every packet on whether an ERR may stand there; and what is forwarded must be, byte for byte,
//! what the client should see.

use anyhow::{Context as _, Result, ensure};
use mysql_wire::command::{Kind, kind};
use mysql_wire::reply;
use mysql_wire::request::{Command, Pending, Requested, Requests, Stop};
use mysql_wire::response::{Answered, Responses};
use mysql_wire::track::{Change, Subscription, Transaction, Variables};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use shunt_harness::caps::Caps;
use shunt_harness::capture::{Capture, capture};
use shunt_harness::decode::{OkPacket, Tracked, status};
use shunt_harness::session_state::OkParts;
use shunt_harness::wire::{Direction, Recorded};
use shunt_harness::{MariaDb, Role, Turn, com};

/// What the scanner told.
#[derive(Default)]
struct Heard {
    commands: Vec<u8>,
    done: usize,
    oks: usize,
    eofs: usize,
    errs: usize,
    prepared: usize,
    changes: Vec<String>,
}

impl Requested for Heard {
    fn command(&mut self, command: Command<'_>) -> Option<u32> {
        self.commands.push(command.code);
        None
    }

    fn more(&mut self, _: &[u8]) {}

    fn look(&self, _: u32) -> usize {
        0
    }
}

impl Answered for Heard {
    fn ok(&mut self, _: &Pending, _: &reply::Ok<'_>) {
        self.oks += 1;
    }

    fn eof(&mut self, _: &Pending, _: u16, _: u16) {
        self.eofs += 1;
    }

    fn err(&mut self, _: Option<&Pending>, _: u16) {
        self.errs += 1;
    }

    fn change(&mut self, change: Change<'_>) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.changes.push(match change {
            Change::Variable { name, value } => format!("{}={}", text(name), text(value)),
            Change::Schema(name) => format!("schema {}", text(name)),
            Change::State => "state".into(),
            Change::Characteristics(sql) => format!("characteristics {}", text(sql)),
            Change::Transaction(letters) => format!("transaction {}", text(letters)),
            Change::Unknown(kind) => format!("type {kind}"),
        });
    }

    fn prepared(&mut self, statement: u32, _: u16, _: u16) -> u32 {
        self.prepared += 1;
        statement
    }

    fn done(&mut self, _: &Pending) {
        self.done += 1;
    }
}

fn told(item: &Tracked) -> String {
    match item {
        Tracked::Variable(name, value) => format!("{name}={value}"),
        Tracked::Schema(name) => format!("schema {name}"),
        Tracked::StateChange(_) => "state".into(),
        Tracked::Characteristics(sql) => format!("characteristics {sql}"),
        Tracked::Transaction(letters) => format!("transaction {letters}"),
        Tracked::Other(kind, _) => format!("type {kind}"),
    }
}

/// What the reference parser says that must have been heard by now.
#[derive(Default)]
struct Expected {
    commands: Vec<u8>,
    done: usize,
    oks: usize,
    eofs: usize,
    errs: usize,
    prepared: usize,
    changes: Vec<String>,
    forwarded: Vec<u8>,
}

impl Expected {
    /// A packet of the server passed; `shown`: the client asked for session tracking.
    fn server(&mut self, recorded: &Recorded, caps: Caps, shown: bool) -> Result<()> {
        let role = recorded.role.context("a packet of the server has a role")?;
        let mut packet = recorded.packet.clone();
        self.done += usize::from(recorded.turn == Turn::Nobody);
        match role {
            Role::Err => self.errs += 1,
            Role::Prepared => self.prepared += 1,
            Role::DefinitionsEnd | Role::ResultEnd | Role::Eof if packet.payload.len() == 5 => {
                self.eofs += 1;
                packet.payload[4] &= !((status::SESSION_STATE_CHANGED >> 8) as u8);
            }
            Role::Ok | Role::ResultEnd | Role::Eof => {
                self.oks += 1;
                self.changes.extend(OkPacket::decode(&packet.payload, caps)?.tracked.iter().map(told));
                if let Some(parts) = OkParts::of(&packet.payload, caps)
                    && (!shown || parts.items.is_empty())
                {
                    packet.payload = parts.without_items();
                }
            }
            _ => {}
        }
        self.forwarded.extend(packet.bytes());
        Ok(())
    }
}

/// Everything that there is.
fn all() -> Subscription {
    Subscription {
        variables: Variables::All,
        schema: true,
        state: true,
        transaction: Transaction::Characteristics,
    }
}

/// How streams are cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Bytewise,
    /// At random, most pieces small.
    Random(u64),
    /// Not at all, within what could be on its way at once.
    Whole,
}

struct Scan {
    requests: Requests,
    responses: Responses,
    heard: Heard,
    expected: Expected,
    forwarded: Vec<u8>,
    rng: StdRng,
    cut: Cut,
}

impl Scan {
    fn new(caps: Caps, shown: bool, cut: Cut) -> Self {
        let seed = if let Cut::Random(seed) = cut { seed } else { 0 };
        Self {
            requests: Requests::default(),
            responses: Responses::new(caps.has(Caps::DEPRECATE_EOF), shown.then(all)),
            heard: Heard::default(),
            expected: Expected::default(),
            forwarded: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            cut,
        }
    }

    fn piece(&mut self) -> usize {
        match self.cut {
            Cut::Bytewise => 1,
            Cut::Whole => usize::MAX,
            Cut::Random(_) if self.rng.random_bool(0.8) => self.rng.random_range(1..40),
            Cut::Random(_) => self.rng.random_range(1..100_000),
        }
    }

    /// A run of the client's packets.
    fn client(&mut self, run: &[Recorded]) -> Result<()> {
        let bytes: Vec<u8> = run.iter().flat_map(|recorded| recorded.packet.bytes()).collect();
        let (mut taken, mut there) = (0, 0);
        while there < bytes.len() {
            there = there.saturating_add(self.piece()).min(bytes.len());
            loop {
                let (now, stop) =
                    self.requests.advance(&mut bytes[taken..there].to_vec(), &mut self.heard)?;
                taken += now;
                let Some(Stop::Intercepted(length)) = stop else {
                    ensure!(stop != Some(Stop::Full), "a recorded session has few commands under way");
                    break;
                };
                self.requests.pass(&bytes[taken..taken + length], &mut self.heard);
                taken += length;
            }
        }
        ensure!(taken == bytes.len(), "{} bytes of the client are left", bytes.len() - taken);
        self.expected.commands.extend(run.iter().filter_map(|recorded| recorded.begins));
        ensure!(self.heard.commands == self.expected.commands, "commands: {:?}", self.heard.commands);
        ensure!(self.requests.is_at_command(), "the next byte begins a command");
        Ok(())
    }

    /// A run of the server's packets.
    fn server(&mut self, run: &[Recorded], caps: Caps, shown: bool) -> Result<()> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for recorded in run {
            bytes.extend(recorded.packet.bytes());
            ends.push(bytes.len());
        }
        let (mut there, mut packets) = (0, 0);
        let mut held: Vec<u8> = Vec::new();
        while there < bytes.len() {
            let next = there.saturating_add(self.piece()).min(bytes.len());
            held.extend_from_slice(&bytes[there..next]);
            there = next;
            let advanced = self.responses.advance(&mut held, &mut self.requests, &mut self.heard)?;
            self.forwarded.extend_from_slice(&held[..advanced.forward]);
            held.drain(..advanced.held);
            while ends.get(packets).is_some_and(|end| *end <= there) {
                self.expected.server(&run[packets], caps, shown)?;
                packets += 1;
            }
            let at = || format!("after {there} bytes of the run, {packets} packets of it");
            self.agree().with_context(at)?;
            if packets > 0 && ends[packets - 1] == there {
                self.agree_on_place(run, packets - 1, caps).with_context(at)?;
            }
            // The two never part again: what was compared is not kept.
            let same = self.forwarded.len().min(self.expected.forwarded.len());
            self.forwarded.drain(..same);
            self.expected.forwarded.drain(..same);
        }
        ensure!(held.is_empty(), "{} bytes are held back", held.len());
        ensure!(self.forwarded.is_empty() && self.expected.forwarded.is_empty(), "bytes are missing");
        Ok(())
    }

    /// May an ERR stand behind this packet, in place of what comes?
    fn agree_on_place(&self, run: &[Recorded], at: usize, caps: Caps) -> Result<()> {
        let recorded = &run[at];
        let next = run.get(at + 1).and_then(|next| next.role);
        let whole = recorded.turn == Turn::Nobody;
        let right = match recorded.role.context("a packet of the server has a role")? {
            _ if next == Some(Role::Continuation) => false,
            // Nobody asks while a file is sent, or in a list of fields.
            Role::FileRequest => return Ok(()),
            Role::Definition | Role::ResultEnd if self.heard.commands.last() == Some(&com::FIELD_LIST) => {
                return Ok(());
            }
            Role::ColumnCount => false,
            Role::Prepared => whole,
            Role::Definition => {
                let rows = caps.has(Caps::DEPRECATE_EOF) && next != Some(Role::Definition);
                whole || (rows && self.heard.commands.last() != Some(&com::STMT_PREPARE))
            }
            Role::DefinitionsEnd => whole || self.heard.commands.last() != Some(&com::STMT_PREPARE),
            _ => true,
        };
        let told = self.responses.is_between_rows() || self.responses.is_before_result();
        ensure!(
            told == right,
            "behind {:?} an ERR may stand: {right}, the scanner says {told}",
            recorded.role
        );
        Ok(())
    }

    fn agree(&self) -> Result<()> {
        let (heard, expected) = (&self.heard, &self.expected);
        ensure!(heard.done == expected.done, "{} responses are whole, not {}", expected.done, heard.done);
        let counts =
            |oks, eofs, errs, prepared| format!("{oks} OK, {eofs} EOF, {errs} ERR, {prepared} prepared");
        let right = counts(expected.oks, expected.eofs, expected.errs, expected.prepared);
        let told = counts(heard.oks, heard.eofs, heard.errs, heard.prepared);
        ensure!(right == told, "{right}; heard {told}");
        ensure!(
            heard.changes == expected.changes,
            "changes: {:?}, heard {:?}",
            expected.changes,
            heard.changes
        );
        let same = self.forwarded.len().min(expected.forwarded.len());
        let differs = (0..same).find(|i| self.forwarded[*i] != expected.forwarded[*i]);
        ensure!(differs.is_none(), "what is forwarded differs at byte {differs:?} from here");
        Ok(())
    }
}

fn scan(capture: &Capture, shown: bool, cut: Cut) -> Result<()> {
    let mut scan = Scan::new(capture.caps, shown, cut);
    for run in capture.runs() {
        match run[0].direction {
            Direction::ToServer => scan.client(run)?,
            Direction::ToClient => scan.server(run, capture.caps, shown)?,
        }
    }
    ensure!(scan.requests.is_idle(), "everything is answered");
    Ok(())
}

/// Records sessions with commands that a data plane forwards.
async fn captures(seeds: &[u64]) -> Result<Vec<Capture>> {
    let cn = MariaDb::start().await?;
    cn.run(&[
        "SET GLOBAL session_track_system_variables = '*'",
        "SET GLOBAL session_track_state_change = ON",
        "SET GLOBAL session_track_transaction_info = 'CHARACTERISTICS'",
    ])
    .await?;
    capture(&cn, seeds, |command| matches!(kind(command), Kind::Forward(_))).await
}

fn every_way(capture: &Capture, cuts: &[Cut]) -> Result<()> {
    for cut in cuts {
        for shown in [false, true] {
            scan(capture, shown, *cut).with_context(|| {
                format!("seed {}, {:?}, shown: {shown}, cut: {cut:?}", capture.seed, capture.caps)
            })?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_scanner_agrees_with_the_reference() -> Result<()> {
    let seeds: Vec<u64> = (64 + 4..64 + 64).collect(); // those with nothing over 16 MiB
    let captures = captures(&seeds).await?;
    let (up, down): (Vec<_>, Vec<_>) = captures
        .iter()
        .map(|capture| (capture.bytes(Direction::ToServer), capture.bytes(Direction::ToClient)))
        .unzip();
    println!("{} bytes up, {} down", up.iter().sum::<usize>(), down.iter().sum::<usize>());
    for capture in &captures {
        let seed = capture.seed;
        every_way(capture, &[Cut::Whole, Cut::Random(seed), Cut::Random(seed + 1000)])?;
        // Byte by byte takes its time.
        if capture.bytes(Direction::ToClient) < 300_000 {
            every_way(capture, &[Cut::Bytewise])?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn packets_over_16_mib_are_hopped_over() -> Result<()> {
    for capture in captures(&[0, 1, 2, 3]).await? {
        ensure!(capture.bytes(Direction::ToClient) > 1 << 24, "nothing over 16 MiB");
        every_way(&capture, &[Cut::Whole, Cut::Random(capture.seed)])?;
    }
    Ok(())
}

/// The comparison notices what is wrong: a scanner that is shown another stream than the reference.
#[tokio::test]
async fn a_scanner_that_misreads_is_noticed() -> Result<()> {
    let captures = captures(&(68..80).collect::<Vec<_>>()).await?;
    let lies: [fn(&mut Recorded) -> bool; 3] = [
        // A column too few.
        |recorded| {
            let counts = recorded.role == Some(Role::ColumnCount) && recorded.packet.payload[0] > 1;
            if counts {
                recorded.packet.payload[0] -= 1;
            }
            counts
        },
        // More results follow, or do not.
        |recorded| {
            let ok = recorded.role == Some(Role::Ok) && recorded.packet.payload.len() == 7;
            if ok {
                recorded.packet.payload[3] ^= status::MORE_RESULTS as u8;
            }
            ok
        },
        // A row that looks like an end.
        |recorded| {
            let row = recorded.role == Some(Role::Row);
            if row {
                recorded.packet.payload = vec![0xFE, 0, 0, 2, 0];
            }
            row
        },
    ];
    for lie in lies {
        let mut told = 0;
        for capture in &captures {
            let mut capture = capture.clone();
            if capture.packets.iter_mut().any(lie) {
                told += 1;
                ensure!(
                    scan(&capture, false, Cut::Bytewise).is_err(),
                    "seed {}: nobody noticed",
                    capture.seed
                );
            }
        }
        ensure!(told > 0, "no session has such a packet");
    }
    Ok(())
}
