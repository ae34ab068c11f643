//! The cases: what is run on what, and which targets its figures have.

use crate::judge::Bound;
use crate::moving::Moving;
use crate::stand::CnKind;
use crate::sysbench::Sysbench;

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its name: of its files, and for `CASE=`.
    pub(crate) name: String,
    /// What it is, for the list.
    pub(crate) about: String,
    /// Part of a quick run.
    pub(crate) quick: bool,
    /// What it runs on.
    pub(crate) cn: CnKind,
    /// What it does.
    pub(crate) work: Work,
    /// What is asked of its figures.
    pub(crate) targets: Vec<(What, Bound)>,
}

/// What a case does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// sysbench, direct and through each proxy by turns.
    Sysbench(Sysbench),
    /// The load generator, likewise: arguments of its own, and how to count.
    Generator(Vec<String>, Count),
    /// So many sessions idle, beside a busy one.
    Idle(u32),
    /// Logins, and what stays of them in memory.
    Logins,
    /// Sessions that go elsewhere, on a fleet of its own.
    Moving(Moving),
}

/// In what the generator's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Queries a second.
    Queries,
    /// Logins a second.
    Logins,
    /// Statements or rows a second, of so many MiB each.
    MiB(u32),
}

impl Count {
    /// The unit of the figure.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Queries => "queries/s",
            Self::Logins => "logins/s",
            Self::MiB(_) => "MiB/s",
        }
    }

    /// The figure, of so many a second.
    pub(crate) fn value(self, per_second: f64) -> f64 {
        match self {
            Self::Queries | Self::Logins => per_second,
            Self::MiB(each) => per_second * f64::from(each),
        }
    }
}

/// Which figure a target is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Throughput, as a ratio to HAProxy's.
    Throughput,
    /// CPU per query in the proxy, as a ratio to HAProxy's.
    Cpu,
    /// KiB of resident memory for each idle session.
    KibPerSession,
    /// Percent that idle sessions cost a busy one beside them.
    PercentLost,
    /// KiB of resident memory that logins left behind.
    KibGrown,
    /// Milliseconds that a move took between two commands, as Shunt tells.
    Pause,
    /// Milliseconds that a client waited for an answer while its session moved.
    PauseSeen,
    /// The same while nothing moves: what the machine does to it.
    WaitStill,
    /// Round trips to a CN within a pause, of a session in which nothing was set.
    RoundTrips,
    /// The same of one that has variables of its own.
    RoundTripsFurnished,
    /// Moves a second.
    MovesPerSecond,
    /// Seconds of a drain that is given ten.
    Drain,
    /// Seconds of a drain that is given no time.
    DrainByDefault,
    /// Seconds until a CN that joined has its share.
    Join,
    /// Seconds until every session of a CN that was killed was answered.
    Failover,
}

impl What {
    /// In words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Throughput => "throughput ÷ HAProxy's",
            Self::Cpu => "CPU per query ÷ HAProxy's",
            Self::KibPerSession => "KiB a session",
            Self::PercentLost => "% lost by a busy session",
            Self::KibGrown => "KiB grown",
            Self::Pause => "ms, 99 % of pauses",
            Self::PauseSeen => "ms, 99 % of a client's waits",
            Self::WaitStill => "ms, the same, nothing moves",
            Self::RoundTrips => "round trips to a CN",
            Self::RoundTripsFurnished => "the same, variables set",
            Self::MovesPerSecond => "moves a second",
            Self::Drain => "s until drained, --timeout 10s",
            Self::DrainByDefault => "s until drained, no --timeout",
            Self::Join => "s until even",
            Self::Failover => "s until all were answered",
        }
    }
}

/// All cases, in the order of a whole run.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend([("text", false), ("prepared", true)].iter().flat_map(|(mode, prepared)| {
        [1, 16, 32, 64, 256].map(|connections| point(mode, *prepared, connections))
    }));
    cases.extend([10, 100, 1000, 10_000].map(range));
    cases.push(large_row("row-64m", CnKind::MariaDb));
    cases.push(large_insert("insert-1m", CnKind::MariaDb));
    cases.push(login("login", CnKind::MariaDb));
    cases.push(read_write());
    cases.extend([1000, 9000].map(idle));
    cases.extend([1, 32, 256].map(fake_point));
    cases.push(large_row("fake-row-64m", CnKind::Fake));
    cases.push(large_insert("fake-insert-1m", CnKind::Fake));
    cases.push(login("fake-login", CnKind::Fake));
    cases.push(memory());
    cases.extend(moving());
    cases
}

/// What is asked of every case that has no target of its own.
const FLOOR: (What, Bound) = (What::Throughput, Bound::AtLeast(0.95));

fn point(mode: &str, prepared: bool, connections: u32) -> Case {
    let targets = match connections {
        1 => vec![(What::Throughput, Bound::AtLeast(1.0)), (What::Cpu, Bound::AtMost(1.0))],
        32 => vec![(What::Throughput, Bound::AtLeast(1.1)), (What::Cpu, Bound::AtMost(0.8))],
        256 => vec![(What::Throughput, Bound::AtLeast(1.0)), (What::Cpu, Bound::AtMost(0.9))],
        _ => vec![FLOOR],
    };
    let sysbench = Sysbench {
        script: "oltp_point_select",
        options: Vec::new(),
        connections,
        prepared,
        deadlocks: false,
    };
    Case {
        name: format!("point-{mode}-{connections}"),
        about: format!("point selects, {mode}, {connections} connections (sysbench)"),
        quick: matches!((prepared, connections), (false, 1 | 32 | 256) | (true, 32)),
        cn: CnKind::MariaDb,
        work: Work::Sysbench(sysbench),
        targets,
    }
}

fn range(rows: u32) -> Case {
    let mut options: Vec<String> =
        ["--skip-trx=on", "--point-selects=0", "--sum-ranges=0", "--order-ranges=0", "--distinct-ranges=0"]
            .map(str::to_owned)
            .into();
    options.push(format!("--range-size={rows}"));
    let script = "oltp_read_only";
    Case {
        name: format!("range-{rows}"),
        about: format!("ranges of {rows} rows, text, 16 connections (sysbench)"),
        quick: rows == 1000,
        cn: CnKind::MariaDb,
        work: Work::Sysbench(Sysbench {
            script,
            options,
            connections: 16,
            prepared: false,
            deadlocks: false,
        }),
        targets: vec![(What::Throughput, Bound::AtLeast(1.0)), (What::Cpu, Bound::AtMost(1.0))],
    }
}

fn large_row(name: &str, cn: CnKind) -> Case {
    // Repeated twice over: MariaDB copies one piece after the other, and 64 Mi pieces of one byte take long.
    let statement = format!("SELECT REPEAT(REPEAT('x', 1024), {})", 64 << 10);
    Case {
        name: name.to_owned(),
        about: "results of one row of 64 MiB, 1 connection".to_owned(),
        quick: false,
        cn,
        work: Work::Generator(vec!["--statement".to_owned(), statement], Count::MiB(64)),
        targets: vec![FLOOR],
    }
}

fn large_insert(name: &str, cn: CnKind) -> Case {
    let arguments = ["--connections", "4", "--insert-bytes", "1048576"].map(str::to_owned);
    Case {
        name: name.to_owned(),
        about: "inserts of 1 MiB, thrown away there; 4 connections".to_owned(),
        quick: false,
        cn,
        work: Work::Generator(arguments.into(), Count::MiB(1)),
        targets: vec![FLOOR],
    }
}

fn login(name: &str, cn: CnKind) -> Case {
    let arguments = ["--connections", "16", "--login"].map(str::to_owned);
    Case {
        name: name.to_owned(),
        about: "connect, log in, SELECT 1, quit; 16 at once".to_owned(),
        quick: true,
        cn,
        work: Work::Generator(arguments.into(), Count::Logins),
        targets: vec![(What::Throughput, Bound::AtLeast(0.8))],
    }
}

fn read_write() -> Case {
    let sysbench = Sysbench {
        script: "oltp_read_write",
        options: Vec::new(),
        connections: 16,
        prepared: true,
        deadlocks: true,
    };
    Case {
        name: "read-write".to_owned(),
        about: "transactions that read and write, prepared, 16 connections (sysbench)".to_owned(),
        quick: true,
        cn: CnKind::MariaDb,
        work: Work::Sysbench(sysbench),
        targets: vec![FLOOR],
    }
}

fn idle(sessions: u32) -> Case {
    let targets = match sessions {
        9000 => vec![(What::KibPerSession, Bound::AtMost(8.0)), (What::PercentLost, Bound::Below(3.0))],
        _ => Vec::new(),
    };
    Case {
        name: format!("idle-{sessions}"),
        about: format!(
            "{sessions} idle sessions: their memory, and point selects of 1 connection beside them"
        ),
        quick: sessions == 1000,
        cn: CnKind::MariaDb,
        work: Work::Idle(sessions),
        targets,
    }
}

fn fake_point(connections: u32) -> Case {
    let arguments =
        ["--connections", &connections.to_string(), "--statement", "SELECT c FROM sbtest1 WHERE id=1"]
            .map(str::to_owned);
    Case {
        name: format!("fake-point-{connections}"),
        about: format!("one row of one column, {connections} connections"),
        quick: connections == 32,
        cn: CnKind::Fake,
        work: Work::Generator(arguments.into(), Count::Queries),
        targets: vec![FLOOR],
    }
}

fn memory() -> Case {
    Case {
        name: "memory-logins".to_owned(),
        about: "LOGINS logins (100,000; quick: 5,000), and the memory that stays".to_owned(),
        quick: true,
        cn: CnKind::Fake,
        work: Work::Logins,
        targets: vec![(What::KibGrown, Bound::AtMost(1024.0))],
    }
}

/// The cases of sessions that go elsewhere.
fn moving() -> [Case; 7] {
    let case = |name: &str, about: &str, moving, targets: &[(What, Bound)]| Case {
        name: name.to_owned(),
        about: about.to_owned(),
        quick: moving != Moving::Barrier,
        cn: if moving == Moving::Rate { CnKind::Fake } else { CnKind::MariaDb },
        work: Work::Moving(moving),
        targets: targets.to_vec(),
    };
    let at_most = |what, most| [(what, Bound::AtMost(most))];
    [
        case(
            "pause",
            "moves of a busy session by hand, between two MariaDB servers",
            Moving::Pause,
            &at_most(What::Pause, 5.0),
        ),
        case(
            "pause-round-trips",
            "the same with CNs 60 ms away: round trips in a pause",
            Moving::RoundTrips,
            &at_most(What::RoundTrips, 2.0),
        ),
        case(
            "pause-galera",
            "moves of a session that writes, between two Galera nodes: with the barrier",
            Moving::Barrier,
            &[],
        ),
        case(
            "moves",
            "a drain as fast as it can be, with one core for the data plane",
            Moving::Rate,
            &[(What::MovesPerSecond, Bound::AtLeast(1000.0))],
        ),
        case(
            "drain",
            "2,000 idle sessions (quick: 500) leave a CN",
            Moving::Drain,
            &at_most(What::Drain, 10.0),
        ),
        case(
            "scale-out",
            "a CN joins two that have 2,000 idle sessions (quick: 600)",
            Moving::Join,
            &at_most(What::Join, 10.0),
        ),
        case(
            "failover",
            "a CN with 500 idle sessions is killed",
            Moving::Failover,
            &at_most(What::Failover, 1.0),
        ),
    ]
}

/// The sysbench point select of one busy connection.
pub(crate) fn one_busy() -> Sysbench {
    Sysbench {
        script: "oltp_point_select",
        options: Vec::new(),
        connections: 1,
        prepared: false,
        deadlocks: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_one_each_and_make_files() {
        let cases = all();
        let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
        assert_eq!(names.len(), cases.len());
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')));
    }

    #[test]
    fn every_proxied_case_is_asked_something() {
        for case in all().iter().filter(|case| !["idle-1000", "pause-galera"].contains(&&*case.name)) {
            assert!(!case.targets.is_empty(), "{}", case.name);
        }
    }

    #[test]
    fn a_large_row_counts_by_its_size() {
        assert_eq!(Count::MiB(64).value(2.0), 128.0);
        assert_eq!(Count::Queries.value(2.0), 2.0);
    }
}
