//! Random sessions: from a seed, a list of steps over the whole surface of the protocol, each
//! deterministic on a fresh database (`random_sql::SETUP`).
//!
//! It only makes the steps; `differential` runs them and compares.

use crate::caps::Caps;
use crate::command::{self, Execute, Param, com};
use crate::random_sql as sql;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// A place for a prepared statement: its id differs from run to run.
pub type Slot = usize;

/// How many statements a session keeps.
const SLOTS: usize = 4;

/// One thing that the client does.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A payload as it is.
    Command(Vec<u8>),
    /// A query that may ask for a file of these chunks.
    Upload(String, Vec<Vec<u8>>),
    /// Prepares a statement into a slot.
    Prepare(Slot, String),
    /// Executes the statement of a slot.
    Execute(Slot, Vec<Param>, Execute),
    /// Executes it for several rows.
    Bulk(Slot, Vec<Vec<Param>>),
    /// Sends a part of a parameter.
    LongData(Slot, u16, Vec<u8>),
    /// Fetches rows.
    Fetch(Slot, u32),
    /// COM_STMT_RESET.
    Reset(Slot),
    /// COM_STMT_CLOSE.
    Close(Slot),
    /// COM_CHANGE_USER.
    ChangeUser {
        /// User.
        user: &'static str,
        /// Password.
        password: &'static str,
        /// Database, or none.
        database: Option<String>,
        /// The plugin that the client names.
        plugin: &'static str,
    },
    /// These in one write.
    Pipeline(Vec<Vec<u8>>),
    /// COM_QUIT.
    Quit,
}

/// A session to run.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where it came from.
    pub seed: u64,
    /// Its database.
    pub database: String,
    /// DEPRECATE_EOF.
    pub deprecate_eof: bool,
    /// SESSION_TRACK.
    pub session_track: bool,
    /// What is done.
    pub steps: Vec<Step>,
}

/// The accounts of random sessions, with their passwords.
pub const ACCOUNTS: &[(&str, &str)] = &[("diff_one", "one"), ("diff_two", "two"), ("diff_none", "")];

/// What the server at hand can do, which a generator must know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surface {
    /// COM_STMT_BULK_EXECUTE is negotiated.
    pub bulk: bool,
    /// The trackers are on globally, so that both runs are told everything.
    pub trackers: bool,
    /// Sessions move. A server that is sent long data for a parameter that had a value of another type before shows
    /// parts of that value, which nobody can carry.
    pub moves: bool,
}

struct Statement {
    params: usize,
    sent: bool,
}

struct Generator<'a> {
    rng: StdRng,
    database: &'a str,
    surface: Surface,
    session_track: bool,
    statements: [Option<Statement>; SLOTS],
    steps: Vec<Step>,
}

/// A server resets a session whose COM_CHANGE_USER it refused; behind Shunt it stays what it was, whether it moves or not.
fn end_at_a_refusal(steps: &mut Vec<Step>) {
    let is_refused = |step: &Step| match step {
        Step::ChangeUser { password, database, .. } => {
            *password == "wrong" || database.as_deref() == Some("nope_db")
        }
        _ => false,
    };
    if let Some(at) = steps.iter().position(is_refused) {
        steps.truncate(at + 1);
    }
}

impl Session {
    /// The session of a seed. Its capabilities are the seed's last two bits.
    pub fn from_seed(seed: u64, surface: Surface) -> Self {
        let database = format!("diff_{seed}");
        let (deprecate_eof, session_track) = (seed & 1 != 0, seed & 2 != 0);
        let mut generator = Generator {
            rng: StdRng::seed_from_u64(seed),
            database: &database,
            surface,
            session_track,
            statements: Default::default(),
            steps: Vec::new(),
        };
        let length = generator.rng.random_range(10..=25);
        while generator.steps.len() < length {
            generator.step();
        }
        // A few sessions carry something over 16 MiB, each way; it takes time, and most where it goes by another way each
        // time.
        let one_in = if surface.moves { 65 } else { 16 };
        if (seed / 4).is_multiple_of(one_in) {
            generator.big();
        }
        if surface.moves {
            end_at_a_refusal(&mut generator.steps);
        }
        generator.steps.push(Step::Quit);
        let steps = generator.steps;
        Self { seed, database, deprecate_eof, session_track, steps }
    }

    /// The two capabilities in the words of the table.
    pub fn capabilities(&self) -> Caps {
        Caps::NONE.set(Caps::DEPRECATE_EOF, self.deprecate_eof).set(Caps::SESSION_TRACK, self.session_track)
    }
}

impl Generator<'_> {
    fn one_of(&mut self, from: &[&str]) -> String {
        sql::one_of(&mut self.rng, from, self.database)
    }

    fn query(&mut self, from: &[&str]) {
        let text = self.one_of(from);
        self.steps.push(Step::Command(command::query(text)));
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..12 => self.query(sql::ROWS),
            12..19 => self.query(sql::WRITES),
            19..24 => self.query(sql::ERRORS),
            24..26 => self.query(sql::CUT),
            26..30 => self.query(sql::SETS),
            30..34 => self.query(sql::TRANSACTIONS),
            34..38 => self.query(sql::CALLS),
            38..42 => self.query(sql::HOLDS),
            42..46 => self.warnings_and_after(),
            46..50 => self.query(sql::AFTER),
            50..57 => self.multi(),
            57..62 => self.upload(),
            62..84 => self.statement(),
            84..96 => self.lesser(),
            96..98 if self.session_track => {
                self.query(sql::SUBSCRIPTIONS);
                // Whoever follows the subscription may have to ask for it, which counts as a result.
                self.steps.push(Step::Command(command::query("SELECT 1")));
            }
            96..98 => self.query(sql::SETS),
            _ => self.pipeline(),
        }
    }

    fn warnings_and_after(&mut self) {
        self.query(sql::WARNINGS);
        self.query(sql::AFTER);
    }

    /// Several statements in one query, now and then with an error or an upload among them.
    fn multi(&mut self) {
        let lists =
            [sql::ROWS, sql::WRITES, sql::SETS, sql::CALLS, sql::AFTER, sql::WARNINGS, sql::TRANSACTIONS];
        let mut parts: Vec<_> = (0..self.rng.random_range(2..5))
            .map(|_| {
                let list = lists.choose(&mut self.rng).expect("not empty");
                // A comment to the end of the line would swallow what follows.
                self.one_of(list).replace('#', "/*c*/ #\n").replace("-- tail", "-- tail\n")
            })
            .collect();
        if self.rng.random_bool(0.3) {
            parts.push(self.one_of(sql::ERRORS));
        }
        if self.rng.random_bool(0.1) {
            parts.push(self.one_of(sql::CUT));
        }
        let with_file = self.rng.random_bool(0.1);
        if with_file {
            parts.push("LOAD DATA LOCAL INFILE 'm' INTO TABLE l (a)".into());
            parts.push(self.one_of(sql::AFTER));
        }
        let text = parts.join(if self.rng.random_bool(0.5) { ";" } else { " ; " });
        self.steps.push(Step::Upload(text, if with_file { vec![b"7001\n".to_vec()] } else { Vec::new() }));
    }

    fn upload(&mut self) {
        let base = self.rng.random_range(0..1000) * 10;
        let chunk = |from: u32, to: u32| -> Vec<u8> {
            (from..to).flat_map(|i| format!("{i}\tvalue {i}\n").into_bytes()).collect()
        };
        let good = vec![chunk(base, base + 4), chunk(base + 4, base + 9)];
        let load = |what: &str| format!("LOAD DATA LOCAL INFILE '/any/file' {what}");
        let (text, file) = match self.rng.random_range(0..8) {
            0 | 1 => (load("INTO TABLE l"), good),
            2 => (load("INTO TABLE l"), Vec::new()),
            3 => (
                load("REPLACE INTO TABLE l FIELDS TERMINATED BY ','"),
                vec![b"1,a\nx,b\n3\n4,5,6\n".to_vec()],
            ),
            4 => (load("INTO TABLE nope"), good),
            5 => (load("INTO TABLE l (a, @s) SET s = (SELECT id FROM t)"), good),
            6 => (load("INTO TABLE l"), vec![chunk(0, 2000); 3]),
            _ => (load("INTO TABLE u (id, v)"), vec![b"1\t1\n500\t\\N\n501\n".to_vec()]),
        };
        self.steps.push(Step::Upload(text, file));
    }

    fn pipeline(&mut self) {
        let lists = [sql::ROWS, sql::WRITES, sql::SETS, sql::ERRORS, sql::AFTER, sql::CALLS];
        let payloads = (0..self.rng.random_range(2..7))
            .map(|i| match i % 3 {
                2 => vec![com::PING],
                _ => {
                    let list = lists.choose(&mut self.rng).expect("not empty");
                    let text = self.one_of(list);
                    // A file cannot be asked for in a pipeline.
                    command::query(if text.contains("LOCAL INFILE") { "DO 1".into() } else { text })
                }
            })
            .collect();
        self.steps.push(Step::Pipeline(payloads));
    }

    // === commands beside queries and statements ===

    fn lesser(&mut self) {
        let step = match self.rng.random_range(0..20) {
            0 | 1 => Step::Command(vec![com::PING]),
            2 => Step::Command(vec![com::STATISTICS]),
            3 => Step::Command(command::with(com::INIT_DB, self.database.as_bytes())),
            4 => Step::Command(command::with(com::INIT_DB, b"nope_db")),
            5 => Step::Command(command::with(com::INIT_DB, b"information_schema")),
            6 => Step::Command(command::field_list("t", if self.rng.random() { "%" } else { "" })),
            7 | 8 => Step::Command(command::field_list("nope", "")),
            9 => Step::Command(command::set_option(self.rng.random_range(0..2))),
            10 => Step::Command(command::set_option(0)),
            11 => Step::Command(command::set_option(9)),
            12 => Step::Command(vec![com::RESET_CONNECTION]),
            13 => Step::Command(command::with(com::PROCESS_KILL, &4_000_000_000_u32.to_le_bytes())),
            14 => Step::Command(vec![com::PROCESS_INFO]),
            15 => Step::Command(vec![
                *[0x05, 0x06, 0x0B, 0x0F, 0x1D, 0x50].choose(&mut self.rng).expect("not empty"),
            ]),
            n @ (16 | 17) => {
                let step = self.change_user(n == 17);
                self.steps.push(step);
                // And who is it now? (What FOUND_ROWS() is at once, differs: it can be that of before.)
                Step::Command(command::query("SELECT CURRENT_USER(), DATABASE(), @a, @@sql_mode"))
            }
            _ => Step::Command(command::query(self.one_of(sql::AFTER))),
        };
        self.steps.push(step);
    }

    fn change_user(&mut self, wrong: bool) -> Step {
        let (user, password) = *ACCOUNTS.choose(&mut self.rng).expect("not empty");
        let database = match self.rng.random_range(0..4) {
            0 => None,
            1 if wrong => Some("nope_db".into()),
            _ => Some(self.database.to_owned()),
        };
        let refused = wrong && database.as_deref() != Some("nope_db");
        let password = if refused { "wrong" } else { password };
        let plugin = if self.rng.random_bool(0.2) { "unknown_plugin" } else { crate::login::NATIVE };
        Step::ChangeUser { user, password, database, plugin }
    }

    // === prepared statements ===

    fn statement(&mut self) {
        let slot = self.rng.random_range(0..SLOTS);
        let Some(params) = self.statements[slot].as_ref().map(|statement| statement.params) else {
            return self.prepare(slot);
        };
        match self.rng.random_range(0..16) {
            0 => self.prepare(slot),
            1 | 2 => self.long_data(slot, params),
            3..=6 => self.cursor(slot, params),
            7 => self.steps.push(Step::Reset(slot)),
            8 | 9 => self.close(slot, params),
            10 => self.steps.push(Step::Fetch(slot, 3)),
            11 if self.surface.bulk => self.bulk(slot),
            _ => {
                let omit_types =
                    self.statements[slot].as_ref().is_some_and(|s| s.sent) && self.rng.random_bool(0.3);
                self.execute(slot, params, Execute { cursor: false, omit_types });
            }
        }
    }

    /// Closes a statement; now and then it is used once more, which is an error.
    fn close(&mut self, slot: Slot, params: usize) {
        self.steps.push(Step::Close(slot));
        match self.rng.random_range(0..5) {
            0 | 1 => self.steps.push(Step::Reset(slot)),
            2 => self.execute(slot, params, Execute::default()),
            3 => self.steps.push(Step::Fetch(slot, 3)),
            _ => {}
        }
        self.statements[slot] = None;
    }

    fn prepare(&mut self, slot: Slot) {
        if self.rng.random_bool(0.12) {
            let text = self.one_of(sql::UNPREPARABLE);
            self.steps.push(Step::Command(command::prepare(text)));
            return;
        }
        let list = match self.rng.random_range(0..10) {
            0 | 1 => sql::PREPARED_CALLS,
            2..=4 => sql::PREPARED_ROWS,
            _ => sql::PREPARED,
        };
        let text = self.one_of(list);
        let params = text.matches('?').count();
        if self.statements[slot].is_some() {
            self.steps.push(Step::Close(slot));
        }
        self.steps.push(Step::Prepare(slot, text));
        self.statements[slot] = Some(Statement { params, sent: false });
        if self.rng.random_bool(0.8) {
            self.execute(slot, params, Execute::default());
        }
    }

    fn execute(&mut self, slot: Slot, params: usize, how: Execute) {
        let values = match how.omit_types {
            // Values of the types that were bound last: repeat the last execution.
            true => self.last_values(slot),
            false => Some((0..params).map(|_| param(&mut self.rng)).collect()),
        };
        let Some(values) = values else { return };
        self.steps.push(Step::Execute(slot, values, how));
        if let Some(statement) = &mut self.statements[slot] {
            statement.sent = true;
        }
    }

    fn last_values(&self, slot: Slot) -> Option<Vec<Param>> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Execute(other, values, _) if *other == slot => Some(values.clone()),
            _ => None,
        })
    }

    fn long_data(&mut self, slot: Slot, params: usize) {
        if params == 0 {
            return self.execute(slot, params, Execute::default());
        }
        if self.surface.moves && self.statements[slot].as_ref().is_some_and(|statement| statement.sent) {
            return self.prepare(slot);
        }
        let parameter = self.rng.random_range(0..params);
        for _ in 0..self.rng.random_range(1..4) {
            let length = *[0, 1, 10, 70_000].choose(&mut self.rng).expect("not empty");
            let data = vec![b'0' + (length % 10) as u8; length];
            self.steps.push(Step::LongData(slot, parameter as u16, data));
        }
        if self.rng.random_bool(0.1) {
            return self.steps.push(Step::Reset(slot));
        }
        let mut values: Vec<_> = (0..params).map(|_| param(&mut self.rng)).collect();
        values[parameter] = Param::Sent;
        self.steps.push(Step::Execute(slot, values, Execute::default()));
        if let Some(statement) = &mut self.statements[slot] {
            statement.sent = false; // the long data is gone with this execution
        }
    }

    /// Opens a cursor, fetches, and sometimes does something in between.
    fn cursor(&mut self, slot: Slot, params: usize) {
        self.execute(slot, params, Execute { cursor: true, omit_types: false });
        for i in 0..self.rng.random_range(1..5) {
            match self.rng.random_range(0..8) {
                n if i == 0 => self.steps.push(Step::Fetch(slot, n)),
                0 => self.steps.push(Step::Command(vec![com::PING])),
                1 => self.query(sql::ROWS),
                2 => self.steps.push(Step::Fetch(slot, 100_000)),
                n => self.steps.push(Step::Fetch(slot, n)),
            }
        }
        if self.rng.random_bool(0.3) {
            self.steps.push(Step::Reset(slot));
        }
    }

    fn bulk(&mut self, slot: Slot) {
        self.steps.push(Step::Close(slot));
        self.steps.push(Step::Prepare(slot, "INSERT INTO u VALUES (?, ?)".into()));
        // To long data that follows, a bulk is what an execution is.
        self.statements[slot] = Some(Statement { params: 2, sent: self.surface.moves });
        let base = self.rng.random_range(0..50);
        let rows =
            |n: i32| (0..n).map(|i| vec![Param::Long(base + i), Param::Long(base + 500 + i)]).collect();
        let n = self.rng.random_range(1..20);
        self.steps.push(Step::Bulk(slot, rows(n)));
        if self.rng.random() {
            self.steps.push(Step::Bulk(slot, rows(2))); // duplicates
        }
    }

    /// A row, a command and a part of a file over 16 MiB.
    fn big(&mut self) {
        let at = self.steps.len() / 2;
        let length =
            *[0xFF_FFFB_usize, 0xFF_FFFA, 0xFF_FFFF, 0x100_0100].choose(&mut self.rng).expect("not empty");
        self.steps.insert(at, Step::Command(command::query(format!("SELECT REPEAT('a', {length}), 1"))));
        let text = "b".repeat(0xFF_FFFF - "\u{3}SELECT LENGTH('')".len() + self.rng.random_range(0..3) - 1);
        self.steps.insert(at, Step::Command(command::query(format!("SELECT LENGTH('{text}')"))));
        let length = *[0xFF_FFFF, 0x100_0000, 0x1FF_FFFE].choose(&mut self.rng).expect("not empty");
        let mut file = Vec::with_capacity(length + 300_000);
        for row in 50_000.. {
            file.extend(format!("{row}\t{}\n", "c".repeat(200_000)).into_bytes());
            if file.len() >= length {
                break;
            }
        }
        file.truncate(length);
        *file.last_mut().expect("not empty") = b'\n';
        let load = "LOAD DATA LOCAL INFILE 'big' INTO TABLE l (a, @rest) SET s = LENGTH(@rest)";
        self.steps.insert(at, Step::Upload(load.into(), vec![file, b"49999\tsmall\n".to_vec()]));
    }
}

/// A parameter of any type.
fn param(rng: &mut StdRng) -> Param {
    let n: i32 = rng.random_range(-5..200);
    match rng.random_range(0..18) {
        0 => Param::Null,
        1 => Param::Tiny(n as i8),
        2 => Param::Short(n as i16),
        3 => Param::LongLong(i64::from(n) << 33),
        4 => Param::Unsigned(u64::MAX - 7),
        5 => Param::Float(n as f32 / 2.0),
        6 => Param::Double(f64::from(n) * 1e9),
        7 => Param::Decimal(format!("{n}.25")),
        8 => Param::Blob(vec![0, 0xFF, 0xFE, n as u8]),
        9 => Param::Date(2020, 2, 29),
        10 => Param::DateTime(2020, 2, 29, 23, 59, 58, 123_456),
        11 => Param::Time(true, 3, 4, 5, 6, 7),
        12 | 13 => Param::Text("a text €".into()),
        14 => Param::Text("x".repeat(300)),
        _ => Param::Long(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_session() {
        let surface = Surface { bulk: true, ..Surface::default() };
        for seed in 4..64 {
            let one = Session::from_seed(seed, surface);
            assert_eq!(one.steps, Session::from_seed(seed, surface).steps);
            assert!(one.steps.len() > 10);
        }
        assert_ne!(Session::from_seed(9, surface).steps, Session::from_seed(5, surface).steps);
    }
}
