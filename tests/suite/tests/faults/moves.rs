//! Whether a move leaves anything behind: in the data plane, or on the CNs.

use crate::stand::{app, login, metric, seen, sessions_left, setup, telling_cn};
use anyhow::{Result, ensure};
use futures::future::try_join_all;
use shunt_harness::mariadb::Options;
use shunt_harness::{Execute, Group, MariaDb, Raw, Shunt, com, command, eventually};

const SESSIONS: usize = 16;
const MIB: u64 = 1 << 20;

/// A session with something of each kind, which moves between any two commands.
async fn furnished(shunt: &Shunt, n: usize) -> Result<(Raw, u32)> {
    let mut s = login(shunt, &app()).await?;
    s.run(format!("SET @n = {n}, @text = REPEAT('x', 100), sql_mode = 'ANSI_QUOTES'")).await?;
    s.run(format!("PREPARE named FROM 'SELECT {n}'")).await?;
    let statement = s.prepare("SELECT @n, 'by it'").await?.id;
    Ok((s, statement))
}

/// Four commands a round, two statements prepared and given up.
async fn work(s: &mut Raw, statement: u32, n: usize, rounds: usize) -> Result<()> {
    for _ in 0..rounds {
        ensure!(s.value("SELECT @n").await? == n.to_string(), "session {n} is another");
        s.command(&command::execute(statement, &[], Execute::default())).await?.success()?;
        let another = s.prepare("SELECT 2").await?;
        s.send(&command::about_statement(com::STMT_CLOSE, another.id)).await?;
        ensure!(s.value("EXECUTE named").await? == n.to_string(), "session {n} has another's statement");
    }
    Ok(())
}

#[derive(Debug)]
struct Left {
    resident: u64,
    files: usize,
    connections: u64,
    statements: u64,
}

async fn left(shunt: &mut Shunt, cn: &MariaDb) -> Result<Left> {
    let process = shunt.plane("standalone").process()?;
    let resident = process.resident()?;
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count();
    let mut root = cn.root().await?;
    let connections = root
        .value("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'")
        .await?
        .parse()?;
    let statements = root
        .value("SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Prepared_stmt_count'")
        .await?
        .parse()?;
    root.quit().await?;
    Ok(Left { resident, files, connections, statements })
}

/// What is left once the last moves are over, and what they said goodbye to is gone: of each session its
/// connection and its two statements. All of it is one look, for a session that is restless moves on at any time.
async fn at_rest(shunt: &mut Shunt, cn: &MariaDb) -> Left {
    eventually("what was left has gone", async || {
        let left = left(shunt, cn).await?;
        ensure!(left.connections == SESSIONS as u64, "connections: {left:?}");
        ensure!(left.statements == 2 * SESSIONS as u64, "statements: {left:?}");
        anyhow::Ok(left)
    })
    .await
}

async fn moved(shunt: &Shunt) -> Result<f64> {
    metric(shunt, 0, "shunt_data_moves_total", "outcome=\"moved\"").await
}

async fn moves_leave_nothing(moves: usize) -> Result<()> {
    // What a statement that is prepared by SQL locks is not seen otherwise.
    let cn = telling_cn(Options::new()).await?;
    let group = Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address());
    let setup = setup().group(group).set("rehearsal.restless", true);
    let mut shunt = setup.set("policy.migrate.freeze_deadline", "20s").standalone().await?;
    seen(&shunt).await;
    let mut sessions = try_join_all((0..SESSIONS).map(|n| furnished(&shunt, n))).await?;
    let mut rounds = async |rounds: usize| {
        let all = sessions.iter_mut().enumerate();
        try_join_all(all.map(|(n, (s, statement))| work(s, *statement, n, rounds))).await
    };
    let share = moves.div_ceil(SESSIONS * 4);
    // What is made once, is made then.
    rounds(share.div_ceil(4)).await?;
    let before = at_rest(&mut shunt, &cn).await;
    let began = moved(&shunt).await?;
    rounds(share).await?;
    let after = at_rest(&mut shunt, &cn).await;
    let moved = moved(&shunt).await? - began;
    println!("{moved} moves: {before:?}, then {after:?}");
    let all = shunt.plane("standalone").metrics().await?;
    let told: Vec<&str> = all.lines().filter(|line| line.starts_with("shunt_data_moves")).collect();
    ensure!(moved >= 0.9 * moves as f64, "only {moved} of {moves} moves: {told:#?}");
    ensure!(after.resident < before.resident + 4 * MIB, "memory: {before:?}, {after:?}");
    ensure!(after.files <= before.files, "files: {before:?}, {after:?}");
    drop(sessions);
    sessions_left(&shunt, 0).await;
    Ok(())
}

#[tokio::test]
async fn two_thousand_moves_leave_nothing_behind() -> Result<()> {
    moves_leave_nothing(2_000).await
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn soak_a_hundred_thousand_moves_leave_nothing_behind() -> Result<()> {
    moves_leave_nothing(100_000).await
}
