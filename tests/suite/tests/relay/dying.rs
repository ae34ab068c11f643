//! A CN that ends a session, and a CN that dies.

use crate::stand::{
    app, group_of, id_on_cn, is_in_state, login, metric, own_cn, seen, setup, shared_cn, shunt_before,
};
use anyhow::Result;
use shunt_harness::mariadb::Options;
use shunt_harness::{MariaDb, Shunt, command, eventually};

async fn closed_because(shunt: &Shunt, reason: &str, times: f64) {
    eventually(&format!("{times} sessions closed because of {reason}"), async || {
        let closed = metric(shunt, 0, "shunt_data_sessions_closed_total", reason).await?;
        anyhow::ensure!(closed == times, "{closed}");
        Ok(())
    })
    .await;
}

/// Shunt in front of a CN that no other one takes over from.
async fn alone(cn: &MariaDb) -> Result<Shunt> {
    let setup = setup().group(group_of(&[cn])).set("policy.migrate.wait_for_cn", "0s");
    let shunt = setup.standalone().await?;
    seen(&shunt).await;
    Ok(shunt)
}

/// As the CN would: closed without a word, idle or in the middle of a query.
#[tokio::test]
async fn a_session_that_its_cn_kills_is_closed_likewise() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut root = cn.root().await?;
    let mut idle = login(&shunt, &app()).await?;
    root.run(format!("KILL {}", id_on_cn(&mut idle).await?)).await?;
    idle.closed().await?;

    let mut busy = login(&shunt, &app()).await?;
    let id = id_on_cn(&mut busy).await?;
    busy.send(&command::query("SELECT SLEEP(100)")).await?;
    is_in_state(&shunt, &busy, "active").await;
    root.run(format!("KILL {id}")).await?;
    busy.closed().await?;
    closed_because(&shunt, "closed_by_cn", 2.0).await;

    // A query alone, which the CN tells itself.
    let mut busy = login(&shunt, &app()).await?;
    let id = id_on_cn(&mut busy).await?;
    busy.send(&command::query("SELECT SLEEP(100) FROM (SELECT 1) AS t")).await?;
    is_in_state(&shunt, &busy, "active").await;
    root.run(format!("KILL QUERY {id}")).await?;
    assert_eq!(busy.receive().await?.err().map(|err| err.code), Some(1317));
    assert_eq!(busy.value("SELECT 'lives'").await?, "lives");
    busy.quit().await
}

#[tokio::test]
async fn a_session_that_idles_too_long_is_closed_as_its_cn_does() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET wait_timeout = 1").await?;
    s.closed().await?;
    closed_because(&shunt, "closed_by_cn", 1.0).await;
    Ok(())
}

/// Whether a statement took effect that was under way cannot be known. Who only waited is closed without a word.
#[tokio::test]
async fn a_cn_that_dies_is_told_to_who_waits_for_it() -> Result<()> {
    let mut cn = own_cn(Options::new()).await?;
    let shunt = alone(&cn).await?;
    let mut idle = login(&shunt, &app()).await?;
    let mut busy = login(&shunt, &app()).await?;
    let mut between = login(&shunt, &app()).await?;
    busy.send(&command::query("SELECT SLEEP(100)")).await?;
    // One result is there, the other one is not: what stands in its place counts on.
    between.send(&command::query("SELECT 1; SELECT SLEEP(100)")).await?;
    is_in_state(&shunt, &busy, "active").await;
    let mut last = between.read_packet().await?;
    while last.payload.first() != Some(&0xFE) || last.sequence < 4 {
        last = between.read_packet().await?;
    }
    cn.kill()?;
    let err = busy.receive().await?.err().expect("an ERR");
    assert_eq!((err.code, err.sqlstate.as_str()), (1053, "08S01"), "{err}");
    busy.closed().await?;
    idle.closed().await?;
    let err = between.read_packet().await?;
    assert_eq!((err.payload[0], err.sequence), (0xFF, last.sequence + 1));
    between.closed().await?;
    closed_because(&shunt, "cn_died", 3.0).await;

    // It comes back, and with it all that begins anew.
    cn.restart().await?;
    eventually("a login on the CN that came back", async || {
        login(&shunt, &app()).await?.value("SELECT 1").await
    })
    .await;
    Ok(())
}

/// In the middle of rows nothing can be said that a client would understand.
#[tokio::test]
async fn a_result_that_is_cut_off_ends_without_a_word() -> Result<()> {
    let mut cn = own_cn(Options::new()).await?;
    let shunt = alone(&cn).await?;
    let mut s = login(&shunt, &app()).await?;
    // More than all the buffers on the way hold.
    s.send(&command::query("SELECT REPEAT('x', 1000000) FROM seq_1_to_1000")).await?;
    for _ in 0..10 {
        s.read_packet().await?;
    }
    cn.kill()?;
    let mut packets = 0;
    while let Ok(packet) = s.read_packet().await {
        assert_ne!(packet.payload.first(), Some(&0xFF), "no ERR within a row");
        packets += 1;
    }
    assert!(packets < 1000, "the result was whole");
    Ok(())
}
