//! Random sessions against a CN directly, and by another way to it: the answers must be the same,
//! packet for packet, but for ids.
//!
//! `SEEDS=n` runs n seeds (500 unless told), `SEED=x` replays one, `WORKERS=n` that many at once,
//! `SHOW=n` prints up to n differences (3).

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use shunt_harness::caps::Caps;
use shunt_harness::coverage::Coverage;
use shunt_harness::differential::{Way, make_accounts, run, set_up, tear_down};
use shunt_harness::fault_proxy::{FaultProxy, Mutation};
use shunt_harness::packet::Packet;
use shunt_harness::random_session::{Session, Surface};
use shunt_harness::{Group, Login, MariaDb, Raw, Setup, Shape, Shunt, com, patience};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Every cell of the table that must not be empty, under each pair of capabilities.
const REQUIRED: &[(u8, Shape)] = &[
    (com::QUERY, Shape::Ok),
    (com::QUERY, Shape::Err),
    (com::QUERY, Shape::Text),
    (com::QUERY, Shape::CutResult),
    (com::QUERY, Shape::Multi),
    (com::QUERY, Shape::MultiErr),
    (com::QUERY, Shape::Upload),
    (com::QUERY, Shape::UploadErr),
    (com::STMT_PREPARE, Shape::Prepare),
    (com::STMT_PREPARE, Shape::PrepareBare),
    (com::STMT_PREPARE, Shape::Err),
    (com::STMT_EXECUTE, Shape::Ok),
    (com::STMT_EXECUTE, Shape::Err),
    (com::STMT_EXECUTE, Shape::Binary),
    (com::STMT_EXECUTE, Shape::CutResult),
    (com::STMT_EXECUTE, Shape::Multi),
    (com::STMT_EXECUTE, Shape::MultiErr),
    (com::STMT_EXECUTE, Shape::CursorOpen),
    (com::STMT_FETCH, Shape::Fetch),
    (com::STMT_FETCH, Shape::Err),
    (com::STMT_SEND_LONG_DATA, Shape::None),
    (com::STMT_CLOSE, Shape::None),
    (com::STMT_RESET, Shape::Ok),
    (com::STMT_RESET, Shape::Err),
    (com::INIT_DB, Shape::Ok),
    (com::INIT_DB, Shape::Err),
    (com::FIELD_LIST, Shape::FieldList),
    (com::FIELD_LIST, Shape::Err),
    (com::STATISTICS, Shape::Statistics),
    (com::PING, Shape::Ok),
    (com::CHANGE_USER, Shape::SwitchOk),
    (com::CHANGE_USER, Shape::SwitchErr),
    (com::SET_OPTION, Shape::Eof),
    (com::SET_OPTION, Shape::Err),
    (com::RESET_CONNECTION, Shape::Ok),
    (com::PROCESS_INFO, Shape::Text),
    (com::PROCESS_KILL, Shape::Err),
    (com::QUIT, Shape::None),
];

/// Required where bulk execution is negotiated.
const REQUIRED_BULK: &[(u8, Shape)] =
    &[(com::STMT_BULK_EXECUTE, Shape::Ok), (com::STMT_BULK_EXECUTE, Shape::Err)];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// The seeds to run: one, or as many as asked for.
fn seeds(usual: u64) -> Vec<u64> {
    match number("SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEEDS").unwrap_or(usual)).collect(),
    }
}

/// A CN, and another way to it.
struct Comparison<'a> {
    cn: &'a MariaDb,
    directly: Way,
    otherwise: Way,
    surface: Surface,
}

impl<'a> Comparison<'a> {
    async fn new(cn: &'a MariaDb, address: SocketAddr, patience: Duration) -> Result<Self> {
        make_accounts(cn).await?;
        let mut root = cn.root().await?;
        let trackers = root.value("SELECT @@global.session_track_system_variables").await? == "*";
        let offered = Raw::connect(address, &Login::user("app")).await?.greeting.caps;
        let surface = Surface { bulk: offered.has(Caps::MARIADB_BULK), trackers, moves: false };
        let directly = Way { address: cn.address(), offered, patience, moves: false };
        Ok(Self { cn, directly, otherwise: Way { address, ..directly }, surface })
    }

    /// By a way on which sessions move.
    fn with_moves(mut self) -> Self {
        (self.directly.moves, self.otherwise.moves) = (true, true);
        self.surface.moves = true;
        self
    }

    /// Runs a seed both ways: the difference, if there is one.
    async fn seed(&self, seed: u64, coverage: &mut Coverage) -> Result<Option<String>> {
        let session = Session::from_seed(seed, self.surface);
        set_up(self.cn, &session).await?;
        let directly = run(self.directly, &session).await;
        set_up(self.cn, &session).await?;
        let otherwise = run(self.otherwise, &session).await;
        tear_down(self.cn, &session).await?;
        coverage.count(&session, &otherwise);
        let difference = directly.difference(&otherwise).or(directly.unanswered());
        Ok(difference.map(|text| {
            format!("seed {seed} ({:?}) differs (SEED={seed} replays it) {text}", session.capabilities())
        }))
    }

    /// Runs seeds, several at once: what was covered, and the differences.
    async fn run(&self, seeds: Vec<u64>) -> Result<(Coverage, Vec<String>)> {
        let mut coverage = Coverage::default();
        let mut differences = Vec::new();
        let workers = number("WORKERS").unwrap_or(8) as usize;
        let mut runs = futures::stream::iter(seeds)
            .map(|seed| async move {
                let mut coverage = Coverage::default();
                let difference = self.seed(seed, &mut coverage).await?;
                anyhow::Ok((coverage, difference))
            })
            .buffer_unordered(workers);
        while let Some(run) = runs.next().await {
            let (covered, difference) = run?;
            coverage.add(&covered);
            differences.extend(difference);
        }
        Ok((coverage, differences))
    }

    /// Runs seeds: nothing may differ and, if they are many, nothing may be left out.
    async fn must_agree(&self, seeds: Vec<u64>) -> Result<()> {
        let whole = seeds.len() >= if self.surface.moves { 1000 } else { 500 };
        let (coverage, differences) = self.run(seeds).await?;
        println!("{coverage}");
        let first: Vec<_> =
            differences.iter().take(number("SHOW").unwrap_or(3) as usize).map(String::as_str).collect();
        ensure!(differences.is_empty(), "{} sessions differ:\n{}", differences.len(), first.join("\n\n"));
        let required = REQUIRED.iter().chain(REQUIRED_BULK.iter().filter(|_| self.surface.bulk));
        let empty = coverage.empty(required);
        ensure!(!whole || empty.is_empty(), "no session did: {}", empty.join(", "));
        Ok(())
    }
}

/// A CN on which clients are told of every change of state, or of what MariaDB tells by default.
async fn cn(trackers: bool) -> Result<MariaDb> {
    let cn = MariaDb::start().await?;
    if trackers {
        cn.run(&[
            "SET GLOBAL session_track_system_variables = '*'",
            "SET GLOBAL session_track_state_change = ON",
            "SET GLOBAL session_track_transaction_info = 'CHARACTERISTICS'",
        ])
        .await?;
    }
    Ok(cn)
}

/// The comparison itself: a session answers the same twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_does_not_differ_from_itself() -> Result<()> {
    let cn = cn(true).await?;
    Comparison::new(&cn, cn.address(), patience()).await?.must_agree(seeds(100)).await
}

/// A Shunt in front of this CN alone.
async fn shunt(cn: &MariaDb, io: &str) -> Result<Shunt> {
    cn.service_account().await?;
    let setup = Setup::new().cn("cn-1", cn.address()).cn_account("shunt", "shunt");
    setup.set("mysql.io", io).standalone().await
}

/// Through Shunt over io_uring, where the CN tells every client of every change (the trackers are on globally).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shunt_does_not_differ_from_its_cn() -> Result<()> {
    let cn = cn(true).await?;
    let shunt = shunt(&cn, "io_uring").await?;
    Comparison::new(&cn, shunt.address(), patience()).await?.must_agree(seeds(500)).await
}

/// Through Shunt over epoll, where the CN is as MariaDB comes, and Shunt switches the trackers on in each login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shunt_does_not_differ_from_a_cn_as_it_comes() -> Result<()> {
    let cn = cn(false).await?;
    let shunt = shunt(&cn, "epoll").await?;
    Comparison::new(&cn, shunt.address(), patience()).await?.must_agree(seeds(500)).await
}

/// Two names of one CN: a move, and a session that is rebuilt, go to another session of the server that has the data.
async fn rehearsal(of: &str, cn: &MariaDb, io: &str) -> Result<Shunt> {
    cn.service_account().await?;
    let group = Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address());
    let setup = Setup::new().group(group).cn_account("shunt", "shunt").set(&format!("rehearsal.{of}"), true);
    // Nothing may be lost, however long a session is looked at; and a busy machine is no reason to stay.
    let setup =
        setup.set("policy.migrate.last_result_grace", "1h").set("policy.migrate.freeze_deadline", "20s");
    setup.set("mysql.io", io).standalone().await
}

/// What the metrics say whose names begin so: a count for each outcome and reason.
async fn counts(shunt: &mut Shunt, name: &str) -> Result<BTreeMap<String, f64>> {
    let metrics = shunt.plane("standalone").metrics().await?;
    let counts = metrics.lines().filter_map(|line| {
        let (name, count) = line.strip_prefix(name)?.rsplit_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    Ok(counts.collect())
}

/// Of what was tried, nearly all went well.
fn must_be_most(counts: &BTreeMap<String, f64>, well: &str, badly: &str) -> Result<()> {
    for (what, count) in counts {
        println!("{count:>8} {what}");
    }
    let of = |outcome: &str| {
        counts
            .iter()
            .find(|(what, _)| what.contains(&format!("outcome=\"{outcome}\"")))
            .map_or(0.0, |(_, n)| *n)
    };
    let (done, failed) = (of(well), of(badly));
    ensure!(done > 0.0 && done >= 0.95 * (done + failed), "{done} {well}, {failed} {badly}");
    Ok(())
}

/// A session that moves whenever it can, between any two commands, answers what one answers that stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_moves_between_any_two_commands_does_not_differ() -> Result<()> {
    for (trackers, io, half) in [(true, "io_uring", 0), (false, "epoll", 1)] {
        let cn = cn(trackers).await?;
        cn.run(&["INSTALL SONAME 'metadata_lock_info'"]).await?;
        let mut shunt = rehearsal("restless", &cn, io).await?;
        let seeds = seeds(2000).into_iter().filter(|seed| number("SEED").is_some() || seed / 4 % 2 == half);
        let comparison = Comparison::new(&cn, shunt.address(), patience()).await?.with_moves();
        let compared = comparison.must_agree(seeds.collect()).await;
        let counts = counts(&mut shunt, "shunt_data_moves").await?;
        must_be_most(&counts, "moved", "failed")?;
        compared?;
    }
    Ok(())
}

/// A session whose CN seems to die between any two commands answers what one answers whose CN lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_outlives_its_cn_between_any_two_commands_does_not_differ() -> Result<()> {
    for (trackers, io, half) in [(true, "epoll", 0), (false, "io_uring", 1)] {
        let cn = cn(trackers).await?;
        cn.run(&["INSTALL SONAME 'metadata_lock_info'"]).await?;
        let mut shunt = rehearsal("mortal", &cn, io).await?;
        let seeds = seeds(800).into_iter().filter(|seed| number("SEED").is_some() || seed / 4 % 2 == half);
        let comparison = Comparison::new(&cn, shunt.address(), patience()).await?.with_moves();
        let compared = comparison.must_agree(seeds.collect()).await;
        let counts = counts(&mut shunt, "shunt_data_failovers").await?;
        must_be_most(&counts, "unnoticed", "lost")?;
        compared?;
    }
    Ok(())
}

fn is_ok(packet: &Packet) -> bool {
    packet.payload.len() >= 7 && packet.payload[..3] == [0, 0, 0]
}

/// Ways to lie about what the server said. `n` is the number of the packet on its connection.
fn mutations() -> Vec<(&'static str, Mutation)> {
    vec![
        (
            "a status bit of an OK is flipped",
            Arc::new(|n, mut packet| {
                if n > 20 && is_ok(&packet) {
                    packet.payload[3] ^= 2;
                }
                Some(packet)
            }),
        ),
        (
            "the items of an OK are dropped",
            Arc::new(|n, mut packet| {
                if n > 20 && is_ok(&packet) && packet.payload[4] & 0x40 != 0 {
                    packet.payload.truncate(7);
                    packet.payload[4] &= !0x40;
                }
                Some(packet)
            }),
        ),
        (
            "a byte of a packet is changed",
            Arc::new(|n, mut packet| {
                if n == 40
                    && let Some(last) = packet.payload.last_mut()
                {
                    *last ^= 1;
                }
                Some(packet)
            }),
        ),
        ("a packet is lost", Arc::new(|n, packet| (n != 40).then_some(packet))),
        (
            "a sequence number is wrong",
            Arc::new(|n, mut packet| {
                packet.sequence ^= u8::from(n == 40);
                Some(packet)
            }),
        ),
        (
            "an error's SQLSTATE is another",
            Arc::new(|_, mut packet| {
                if packet.payload.first() == Some(&0xFF) && packet.payload.len() > 9 {
                    packet.payload[4..9].copy_from_slice(b"XX000");
                }
                Some(packet)
            }),
        ),
    ]
}

/// And the comparison notices what is wrong: each of these lies is found within a few sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_changes_anything_is_noticed() -> Result<()> {
    let cn = cn(true).await?;
    for (what, mutation) in mutations() {
        let proxy = FaultProxy::mutating(cn.address(), mutation).await?;
        // What hangs because a packet was lost need not hang for long.
        let comparison = Comparison::new(&cn, proxy.address(), Duration::from_secs(1)).await?;
        let (_, differences) = comparison.run((4..16).collect()).await?;
        ensure!(!differences.is_empty(), "nobody noticed that {what}");
    }
    Ok(())
}
