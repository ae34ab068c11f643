//! Reports about what passes: sizes of 2^16 and more, much data through little memory, and state that must hold.

use crate::process;
use crate::stand::{
    DATABASE, app, both_ways, id_on_cn, login, own_cn, shared_cn, shown, shunt_before, tracking_cn,
};
use anyhow::{Result, ensure};
use shunt_harness::mariadb::Options;
use shunt_harness::tcp_info::tcp_info;
use shunt_harness::{MariaDb, Param, Raw, Shunt, com, command};
use std::net::SocketAddr;

/// A statement with more than 2^16 parameters, or as many, was taken apart wrongly.
#[tokio::test]
async fn a_statement_may_have_as_many_parameters_as_the_protocol_can_count() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        for parameters in [255, 256, 65_535] {
            let marks = vec!["?"; parameters].join(",");
            let statement = s.prepare(format!("SELECT 7 IN ({marks})")).await?;
            assert_eq!(usize::from(statement.params), parameters);
            for last in [7, 8] {
                let mut values = vec![Param::Long(1); parameters];
                values[parameters - 1] = Param::Long(last);
                let rows = s.execute(statement, &values).await?.success()?.results()?;
                // The header, a byte for NULLs, and the number.
                assert_eq!(rows[0].rows[0][2], u8::from(last == 7), "{parameters}");
            }
        }
        let marks = vec!["?"; 65_536].join(",");
        let refused = s.command(&command::prepare(format!("SELECT 7 IN ({marks})"))).await?;
        assert_eq!(refused.err().map(|err| err.code), Some(1390));
        assert_eq!(s.value("SELECT 'in step'").await?, "in step");
        s.quit().await?;
    }
    Ok(())
}

/// Results of thousands of columns, in text and binary, with and without the EOF behind the definitions.
#[tokio::test]
async fn a_result_may_have_thousands_of_columns() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let (mut direct, mut routed) = (Raw::login(cn.address(), &way).await?, login(&shunt, &way).await?);
        for columns in [251, 4096] {
            let sql = format!("SELECT {}", vec!["1 AS c"; columns].join(","));
            let expected = direct.run(&sql).await?.payloads();
            ensure!(routed.run(&sql).await?.payloads() == expected, "{columns} columns as text");
            let (one, two) = (direct.prepare(&sql).await?, routed.prepare(&sql).await?);
            let expected = direct.execute(one, &[]).await?.payloads();
            ensure!(routed.execute(two, &[]).await?.payloads() == expected, "{columns} columns, binary");
        }
        assert_eq!(routed.value("SELECT 'in step'").await?, "in step");
    }
    Ok(())
}

async fn resident(shunt: &mut Shunt) -> Result<u64> {
    process(shunt)?.resident()
}

/// A batch of many megabytes was held whole in the proxy, and so was a file.
#[tokio::test]
async fn a_huge_statement_takes_no_memory_of_its_size() -> Result<()> {
    const SIZE: usize = 40 << 20;
    let cn = shared_cn().await;
    let mut shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    s.value("SELECT 1").await?;
    let before = resident(&mut shunt).await?;
    let text = "x".repeat(SIZE);
    let sql = format!("SELECT LENGTH('{text}')");
    for _ in 0..3 {
        assert_eq!(s.value(&sql).await?, SIZE.to_string());
        let now = resident(&mut shunt).await?;
        ensure!(now < before + (8 << 20), "{before} bytes before, {now} now");
    }
    s.run(format!("CREATE OR REPLACE TABLE {DATABASE}.huge (text LONGTEXT) ENGINE=MyISAM")).await?;
    let file = vec![text.into_bytes()];
    let load = format!("LOAD DATA LOCAL INFILE 'f' INTO TABLE {DATABASE}.huge");
    assert_eq!(s.query_with_file(&load, &file).await?.ok()?.affected, 1);
    let now = resident(&mut shunt).await?;
    ensure!(now < before + (8 << 20), "{before} bytes before, {now} with a file");
    s.quit().await
}

/// Every SET was kept to be replayed, and a variable that is set for each request was memory for each request.
#[tokio::test]
async fn what_a_session_sets_again_and_again_is_not_collected() -> Result<()> {
    let cn = tracking_cn().await?;
    let mut shunt = shunt_before(&[&cn]).await?;
    let mut s = login(&shunt, &app().session_track(true)).await?;
    let mut n = 0;
    let mut before = 0;
    for round in 0..21 {
        let sets = std::iter::repeat_with(|| {
            n += 1;
            command::query(format!("SET @request = 'number {n} of many', time_zone = '+0{}:00'", n % 10))
        });
        let sets: Vec<_> = sets.take(1000).collect();
        for response in s.pipeline(&sets).await? {
            response.success()?;
        }
        if round == 0 {
            before = resident(&mut shunt).await?;
        }
    }
    let now = resident(&mut shunt).await?;
    ensure!(now < before + (1 << 20), "{before} bytes after a thousand, {now} after {n}");
    Ok(())
}

/// The segments in which ten results of many small rows arrived.
async fn segments(s: &mut Raw, from: SocketAddr) -> Result<u32> {
    const ROWS: u64 = 100_000;
    let before = tcp_info(s.local_addr()?, from)?;
    for _ in 0..10 {
        let answer = s.run(format!("SELECT seq FROM seq_1_to_{ROWS}")).await?;
        assert_eq!(answer.results()?[0].rows.len() as u64, ROWS);
    }
    let after = tcp_info(s.local_addr()?, from)?;
    ensure!(after.bytes_received - before.bytes_received > 10 * 9 * ROWS, "bytes are missing");
    Ok(after.segments_received - before.segments_received)
}

/// One write for each packet: three quarters of a proxy's time were spent in them.
#[tokio::test]
async fn a_result_of_many_rows_passes_in_few_pieces() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let (mut direct, mut routed) = (cn.app(DATABASE).await?, login(&shunt, &app()).await?);
    let own = segments(&mut direct, cn.address()).await?;
    let ours = segments(&mut routed, shunt.address()).await?;
    // The kernel joins writes that wait, more or fewer of them on other machines: the CN's own are the measure.
    ensure!(ours <= 2 * own, "{ours} segments, and {own} from the CN itself");
    Ok(())
}

/// Everything that a session may have of its own, as one line.
const STATE: &str = "SELECT CONCAT_WS('|', DATABASE(), @@autocommit, @@tx_isolation, @@tx_read_only, @@sql_mode, \
     @@time_zone, @@character_set_client, @@character_set_results, @@character_set_connection, \
     @@collation_connection, @@wait_timeout, @a IS NULL, LAST_INSERT_ID())";

/// COM_RESET_CONNECTION left autocommit, character set and isolation behind, or took the database away.
#[tokio::test]
async fn a_reset_resets_what_the_cn_resets() -> Result<()> {
    for cn in [own_cn(Options::new()).await?, tracking_cn().await?] {
        let shunt = shunt_before(&[&cn]).await?;
        for way in both_ways(&app().charset(8)) {
            let mut direct = Raw::login(cn.address(), &way).await?;
            let mut routed = login(&shunt, &way).await?;
            let fresh = routed.value(STATE).await?;
            let mut after = Vec::new();
            for s in [&mut direct, &mut routed] {
                s.run("SET autocommit = 0, sql_mode = 'ANSI', time_zone = '+05:00', @a = 1").await?;
                s.run("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY").await?;
                s.run("SET NAMES utf8mb4 COLLATE utf8mb4_bin; SET wait_timeout = 1234; USE mysql").await?;
                s.command(&[com::RESET_CONNECTION]).await?.success()?;
                after.push(s.value(STATE).await?);
            }
            assert_eq!(after[1], after[0]);
            assert!(fresh != after[1], "the database of now stays");
            assert_eq!(shown(&shunt, &routed).await?["pinned"], serde_json::json!([]));
        }
    }
    Ok(())
}

/// A collation is more than a character set: the one of the login, and the one of SET NAMES.
#[tokio::test]
async fn the_collation_of_a_login_is_the_session_s() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for id in [8, 28, 33, 45, 46, 63, 83, 192, 224, 255] {
        let way = app().charset(id);
        let (mut direct, mut routed) = (Raw::login(cn.address(), &way).await?, login(&shunt, &way).await?);
        assert_eq!(routed.value(STATE).await?, direct.value(STATE).await?, "collation {id}");
        routed.change_user(&way).await?.success()?;
        direct.change_user(&way).await?.success()?;
        assert_eq!(routed.value(STATE).await?, direct.value(STATE).await?, "collation {id}, changed user");
    }
    Ok(())
}

/// An earlier session of the same user must not show in the next one: no connection to a CN has two clients.
#[tokio::test]
async fn a_connection_to_a_cn_has_one_client() -> Result<()> {
    let cn: &MariaDb = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let mut s = login(&shunt, &app()).await?;
        assert_eq!(s.value("SELECT @left IS NULL AND FOUND_ROWS() = 0").await?, "1");
        s.run("SET @left = 1, sql_mode = 'ANSI'").await?;
        ids.push(id_on_cn(&mut s).await?);
        s.quit().await?;
    }
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    Ok(())
}
