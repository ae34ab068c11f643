//! LOAD DATA LOCAL INFILE: a file in the middle of a session, whole, refused, wrong, and cut off.

use crate::stand::{
    DATABASE, app, both_ways, gone_from, id_on_cn, is_pinned, login, shared_cn, shunt_before,
};
use anyhow::{Result, ensure};
use shunt_harness::packet::MAX_PAYLOAD;
use shunt_harness::{Raw, Shape, com, command, eventually};

const TABLE: &str = "(id INT PRIMARY KEY, text LONGTEXT) ENGINE=InnoDB";

fn load(table: &str) -> String {
    format!("LOAD DATA LOCAL INFILE 'any' INTO TABLE {DATABASE}.{table} FIELDS TERMINATED BY ','")
}

async fn table(s: &mut Raw, name: &str) -> Result<()> {
    s.run(format!("CREATE OR REPLACE TABLE {DATABASE}.{name} {TABLE}")).await.map(drop)
}

async fn count(s: &mut Raw, table: &str) -> Result<String> {
    s.value(format!("SELECT COUNT(*) FROM {DATABASE}.{table}")).await
}

fn lines(ids: std::ops::Range<u32>) -> Vec<u8> {
    ids.map(|id| format!("{id},text of {id}\n")).collect::<String>().into_bytes()
}

#[tokio::test]
async fn a_file_arrives_whole() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        table(&mut s, "whole").await?;
        // Pieces that look like commands and ends of responses are none.
        let mut file = vec![lines(0..20_000), b"20000,".to_vec(), vec![com::QUIT], b"\n20001,".to_vec()];
        file.extend([vec![0xFE], vec![0xFF, 0x15, 0x04], b"\n".to_vec(), lines(20_002..20_010)]);
        let response = s.query_with_file(&load("whole"), &file).await?;
        assert_eq!((response.shape, response.ok()?.affected), (Shape::Upload, 20_010));
        assert_eq!(count(&mut s, "whole").await?, "20010");

        // Among other statements.
        let sql = format!("DO 1; {}; SELECT 'behind'", load("whole"));
        s.run(format!("TRUNCATE {DATABASE}.whole")).await?;
        let response = s.query_with_file(&sql, &[lines(0..5)]).await?;
        assert_eq!(response.results()?.len(), 1);
        assert_eq!(count(&mut s, "whole").await?, "5");
        s.quit().await?;
    }
    Ok(())
}

/// Pieces of a file that are as long as a packet can be, where the next one may be empty.
#[tokio::test]
async fn a_piece_of_a_file_may_be_of_any_size() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    table(&mut s, "pieces").await?;
    for (id, size) in [(1, MAX_PAYLOAD - 1), (2, MAX_PAYLOAD), (3, MAX_PAYLOAD + 1), (4, 40 << 20)] {
        let mut piece = format!("{id},").into_bytes();
        piece.resize(size, b'x');
        let response = s.query_with_file(&load("pieces"), &[piece, b"\n".to_vec()]).await?;
        assert_eq!(response.ok()?.affected, 1, "{size}");
        let length = s.value(format!("SELECT LENGTH(text) FROM {DATABASE}.pieces WHERE id = {id}")).await?;
        assert_eq!(length, (size - 2).to_string());
    }
    s.quit().await
}

#[tokio::test]
async fn a_client_may_refuse_and_a_cn_may_too() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        table(&mut s, "refused").await?;
        let response = s.query(load("refused")).await?;
        assert_eq!((response.shape, response.ok()?.affected), (Shape::Upload, 0));

        // The third line is wrong, which the CN says when the whole file was sent.
        let file = [lines(0..2), lines(1..2), lines(2..200_000)];
        let response = s.query_with_file(&load("refused").replace("INTO", "REPLACE INTO"), &file).await?;
        assert_eq!(response.shape, Shape::Upload);
        s.run(format!("DELETE FROM {DATABASE}.refused")).await?;
        let strict = format!("SET sql_mode = 'STRICT_ALL_TABLES'; {}", load("refused"));
        let response = s.query_with_file(&strict, &[b"1,a\n".to_vec(), b"1,b\n".to_vec()]).await?;
        assert!(response.ok()?.warnings > 0 || response.err().is_some());
        let response = s.query_with_file(&load("nowhere"), &file).await?;
        assert_eq!(response.err().map(|err| err.code), Some(1146));
        assert_eq!(s.value("SELECT 'in step'").await?, "in step");
        s.quit().await?;

        let mut s = login(&shunt, &way.local_files(false)).await?;
        assert_eq!(s.query(load("refused")).await?.err().map(|err| err.code), Some(4166));
        assert_eq!(s.value("SELECT 'in step'").await?, "in step");
        s.quit().await?;
    }
    Ok(())
}

/// What a client sent of a file before it vanished leaves nothing behind: neither rows nor a connection.
#[tokio::test]
async fn a_client_that_vanishes_in_its_file_leaves_nothing() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut observer = cn.root().await?;
    for (name, by_reset) in [("by_fin", false), ("by_reset", true)] {
        let mut s = login(&shunt, &app()).await?;
        table(&mut s, name).await?;
        let on_cn = id_on_cn(&mut s).await?;
        s.send(&command::query(load(name))).await?;
        let asked = s.read_packet().await?;
        assert_eq!(asked.payload[0], 0xFB);
        s.write(&lines(0..50_000)).await?;
        is_pinned(&shunt, &s, &["upload"]).await;
        // Half a packet more.
        s.send_bytes(&[0, 1, 0, 4, b'7']).await?;
        if by_reset {
            s.abort()?;
        } else {
            drop(s);
        }
        gone_from(cn, on_cn).await?;
        assert_eq!(count(&mut observer, name).await?, "0");
    }
    Ok(())
}

/// A command behind a file that was not yet asked for cannot be told from the file: the session ends.
#[tokio::test]
async fn a_command_sent_ahead_of_a_file_ends_the_session() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    table(&mut s, "ahead").await?;
    let on_cn = id_on_cn(&mut s).await?;
    let mut bytes = Vec::new();
    for payload in [command::query(load("ahead")), command::query("SELECT 1")] {
        bytes.extend(shunt_harness::packet::split(&payload, 0)[0].bytes());
    }
    s.send_bytes(&bytes).await?;
    eventually("the session is closed", async || match s.read_packet().await {
        Ok(packet) => {
            ensure!(packet.payload[0] != 0xFB, "the request for the file must not be passed on");
            anyhow::bail!("a packet: {:02x?}", packet.payload)
        }
        Err(_) => Ok(()),
    })
    .await;
    gone_from(cn, on_cn).await
}
