//! Clients that do not read, and CNs that do not: what is on its way is bounded, and nobody else waits.

use crate::stand::{
    DATABASE, app, gone_from, group_of, id_on_cn, login, metric, own_cn, seen, sessions_left, setup,
};
use anyhow::{Context as _, Result, ensure};
use shunt_harness::mariadb::Options;
use shunt_harness::packet::header;
use shunt_harness::{MariaDb, Raw, Shunt, com, command, eventually};
use std::time::Duration;
use tokio::time::Instant;

const MIB: u64 = 1 << 20;

/// Both planes, each on a process of its own, and one thread for all sessions.
async fn one_worker(cn: &MariaDb) -> Result<Shunt> {
    let shunt = setup().group(group_of(&[cn])).set("mysql.workers", 1).planes(1).await?;
    seen(&shunt).await;
    Ok(shunt)
}

fn resident(shunt: &mut Shunt) -> Result<u64> {
    shunt.plane("data-1").process()?.resident()
}

/// Waits until Shunt took more than so many bytes from CNs, and no more than a moment ago.
async fn from_cns_at_rest(shunt: &Shunt, least: u64) {
    let mut last = -1.0;
    eventually("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = metric(shunt, 1, "shunt_data_bytes_from_cns_total", "").await?;
        let before = std::mem::replace(&mut last, now);
        ensure!(now == before && now > least as f64, "{now}");
        anyhow::Ok(())
    })
    .await;
}

/// A hundred clients ask for 64 MiB each and read nothing: their data waits where it is.
#[tokio::test]
async fn a_hundred_clients_that_read_nothing_cost_little_memory() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let mut shunt = one_worker(&cn).await?;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(login(&shunt, &app()).await?);
    }
    let mut reader = login(&shunt, &app()).await?;
    reader.run("SELECT 1").await?;
    let before = resident(&mut shunt)?;
    for (n, client) in clients.iter_mut().enumerate() {
        // Two of them as a single row, which the CN has to hold.
        let sql = match n {
            0 | 1 => "SELECT REPEAT('x', 64 * 1024 * 1024)",
            _ => "SELECT REPEAT('x', 1024 * 1024) FROM seq_1_to_64",
        };
        client.send(&command::query(sql)).await?;
    }
    from_cns_at_rest(&shunt, 100 * 64 * 1024).await;
    let grown = resident(&mut shunt)?.saturating_sub(before);
    println!("100 clients that read nothing: {} KiB more resident", grown / 1024);
    ensure!(grown < 64 * MIB, "{} MiB more", grown / MIB);

    // Others on the same thread do not wait.
    let asked = Instant::now();
    for _ in 0..20 {
        reader.run("SELECT 1").await?;
    }
    ensure!(asked.elapsed() < Duration::from_secs(15), "{:?} for 20 queries", asked.elapsed());

    // One that reads after all gets all of it.
    let late = clients.pop().context("a client")?.receive().await?;
    assert_eq!(late.results()?[0].rows.len(), 64);
    drop(clients);
    sessions_left(&shunt, 1).await;
    reader.quit().await
}

/// Slow, and never ahead by more than the buffers hold.
#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let mut shunt = one_worker(&cn).await?;
    let mut s = login(&shunt, &app().deprecate_eof(true)).await?;
    let before = resident(&mut shunt)?;
    s.send(&command::query("SELECT REPEAT('y', 100000), seq FROM seq_1_to_1000")).await?;
    let mut rows = 0;
    loop {
        let packet = s.read_packet().await?;
        match packet.payload[0] {
            0xFE if packet.payload.len() < 100 => break,
            0xFD => rows += 1,
            _ => {}
        }
        if rows % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(rows, 1000);
    let grown = resident(&mut shunt)?.saturating_sub(before);
    ensure!(grown < 8 * MIB, "{} KiB more", grown / 1024);
    Ok(())
}

/// The last bytes of a result are on their way, somewhere between the CN and a client that pauses, when the CN closes
/// the session. Results of many sizes: with some of them, the last bytes are those that the kernel has no room for.
#[tokio::test]
async fn the_end_of_a_result_reaches_a_client_that_pauses_also_when_its_cn_closes() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = one_worker(&cn).await?;
    let mut clients = Vec::new();
    for size in (100..5000).step_by(16).map(|kib| kib * 1024) {
        let mut client = login(&shunt, &app()).await?;
        client.send(&command::query(format!("SELECT REPEAT('x', {size})"))).await?;
        clients.push((client, size));
    }
    from_cns_at_rest(&shunt, 10 * MIB).await;
    // Those of whose results the CN has nothing left.
    let mut root = cn.root().await?;
    let idle = "SELECT id FROM information_schema.processlist WHERE user = 'app' AND command = 'Sleep'";
    let idle = root.run(idle).await?.results()?[0].rows.clone();
    ensure!(idle.len() > 10, "{} of them", idle.len());
    for row in &idle {
        let id = String::from_utf8_lossy(&row[1..]);
        root.run(format!("KILL {id}")).await?;
    }
    from_cns_at_rest(&shunt, 10 * MIB).await;
    for (mut client, size) in clients {
        let result = client.receive().await.with_context(|| format!("a result of {size} bytes"))?;
        // Behind the value's length, in four bytes.
        assert_eq!(result.results()?[0].rows[0].len(), 4 + size);
    }
    Ok(())
}

/// The CN gives up a client that reads nothing, by its own limit; then Shunt does, by its own.
#[tokio::test]
async fn a_client_that_never_reads_is_given_up() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = one_worker(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET net_write_timeout = 1").await?;
    let id = id_on_cn(&mut s).await?;
    s.send(&command::query("SELECT REPEAT('x', 1024 * 1024) FROM seq_1_to_64")).await?;
    let begun = Instant::now();
    gone_from(&cn, id).await?;
    sessions_left(&shunt, 0).await;
    let took = begun.elapsed();
    ensure!((5..30).contains(&took.as_secs()), "given up after {took:?}");
    drop(s);
    Ok(())
}

/// Sends until nothing more is taken; how much that was.
async fn send_all(s: &mut Raw, mut bytes: impl FnMut() -> Vec<u8>) -> u64 {
    s.set_patience(Duration::from_secs(2));
    let mut sent = 0;
    loop {
        let piece = bytes();
        if s.send_bytes(&piece).await.is_err() {
            return sent;
        }
        sent += piece.len() as u64;
    }
}

/// A CN that stands still takes nothing: nor does Shunt, beyond what its buffers hold, and a client that leaves is missed.
#[tokio::test]
async fn a_client_of_a_frozen_cn_is_held_back_and_missed() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    cn.run(&[&format!("CREATE TABLE {DATABASE}.frozen (a LONGTEXT)")]).await?;
    let mut shunt = one_worker(&cn).await?;
    let mut insert = login(&shunt, &app()).await?;
    let mut long_data = login(&shunt, &app()).await?;
    let mut pings = login(&shunt, &app()).await?;
    let statement = long_data.prepare("SELECT ?").await?;
    let before = resident(&mut shunt)?;
    cn.freeze().await?;
    let chunk = vec![b'x'; 1 << 20];
    let mut first = true;
    let insert_piece = || {
        let mut piece = Vec::new();
        if std::mem::take(&mut first) {
            // Of the greatest length, which is never reached.
            piece.extend(header(0xFF_FFFF, 0));
            piece.extend(command::query("INSERT INTO frozen VALUES ('"));
        }
        piece.extend_from_slice(&chunk[..1 << 18]);
        piece
    };
    let mut sent = send_all(&mut insert, insert_piece).await;
    let data = command::long_data(statement.id, 0, &chunk);
    sent += send_all(&mut long_data, || [&header(data.len(), 0)[..], &data].concat()).await;
    let ping = [&header(1, 0)[..], &[com::PING]].concat();
    sent += send_all(&mut pings, || ping.repeat(10_000)).await;
    println!("a frozen CN: {} KiB were taken of three clients", sent / 1024);
    let grown = resident(&mut shunt)?.saturating_sub(before);
    ensure!(grown < 4 * MIB, "{} KiB more", grown / 1024);

    let left = Instant::now();
    // With a FIN the client's own machine would still hold what it was not taken: that one cannot be seen yet.
    for client in [insert, pings, long_data] {
        client.abort()?;
    }
    sessions_left(&shunt, 0).await;
    ensure!(left.elapsed() < Duration::from_secs(20), "{:?}", left.elapsed());
    cn.thaw()?;
    Ok(())
}
