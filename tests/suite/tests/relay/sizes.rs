//! Commands and rows around the 2^24 - 1 bytes that a packet holds, and far above.

use crate::stand::{app, login, shared_cn, shunt_before};
use anyhow::{Result, ensure};
use shunt_harness::packet::MAX_PAYLOAD;
use shunt_harness::{Param, Raw, command};

/// 2^24 - 2 to 2^24 + 1, and 40 MiB.
const SIZES: [usize; 5] = [MAX_PAYLOAD - 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, MAX_PAYLOAD + 2, 40 << 20];

/// The length of a string that makes a payload of one such column `size` bytes long.
fn text_of(size: usize) -> usize {
    // Its own length takes four bytes, and nine from 2^24 on.
    if size - 4 < 1 << 24 { size - 4 } else { size - 9 }
}

async fn still_in_step(s: &mut Raw, n: usize) -> Result<()> {
    ensure!(s.value(format!("SELECT {n}")).await? == n.to_string(), "out of step after {n}");
    Ok(())
}

#[tokio::test]
async fn a_command_of_any_size_arrives_whole() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    for size in SIZES {
        let frame = "SELECT CONCAT(LENGTH('x'), ',', MD5('x'))".len() + 1 - 2;
        let length = (size - frame) / 2;
        // The same text twice, and a comment for what is left of the size.
        let text = "y".repeat(length);
        let mut sql = format!("SELECT CONCAT(LENGTH('{text}'), ',', MD5('{text}'))");
        sql.push_str(if (size - frame) % 2 == 1 { " " } else { "" });
        let payload = command::query(&sql);
        ensure!(payload.len() == size, "{} is not {size}", payload.len());
        let answered = s.command(&payload).await?.value()?;
        let (n, md5) = answered.split_once(',').unwrap();
        assert_eq!(n, length.to_string());
        assert_eq!(md5, s.value(format!("SELECT MD5(REPEAT('y', {length}))")).await?);
        still_in_step(&mut s, size).await?;
    }
    s.quit().await
}

#[tokio::test]
async fn a_row_of_any_size_arrives_whole() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    // With DEPRECATE_EOF a row whose first column has 16 MiB begins as the end of a result does.
    for deprecate_eof in [false, true] {
        let mut s = login(&shunt, &app().deprecate_eof(deprecate_eof)).await?;
        for size in SIZES {
            let sql = format!("SELECT REPEAT('z', {}) UNION ALL SELECT 'last'", text_of(size));
            let response = s.run(&sql).await?;
            let rows = &response.results()?[0].rows;
            assert_eq!((rows[0].len(), rows[1].as_slice()), (size, &b"\x04last"[..]));
            assert!(rows[0].iter().skip(9).all(|byte| *byte == b'z'));
            still_in_step(&mut s, size).await?;
        }
        s.quit().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_parameter_and_a_binary_row_of_any_size_arrive_whole() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app().deprecate_eof(true)).await?;
    let echo = s.prepare("SELECT ?").await?;
    for size in [MAX_PAYLOAD - 9, MAX_PAYLOAD, 20 << 20] {
        let blob: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let response = s.execute(echo, &[Param::Blob(blob.clone())]).await?.success()?;
        assert!(response.results()?[0].rows[0].ends_with(&blob));

        // In pieces: each a packet of its own, and one of over 16 MiB.
        s.send(&command::long_data(echo.id, 0, &blob[..1000])).await?;
        s.send(&command::long_data(echo.id, 0, &blob[1000..])).await?;
        let response = s.execute(echo, &[Param::Sent]).await?.success()?;
        assert!(response.results()?[0].rows[0].ends_with(&blob));
    }
    still_in_step(&mut s, 1).await?;
    s.quit().await
}

/// What is looked at of a command ends somewhere: nothing behind it is taken for the next one.
#[tokio::test]
async fn bytes_within_a_command_are_never_taken_for_another() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    for before in [0, 1000, 16_300, 16_350, 16_384, 16_390, 70_000, MAX_PAYLOAD - 30, MAX_PAYLOAD - 5] {
        // A QUIT and a KILL as packets, in a literal that crosses the place.
        let mut sql = format!("SELECT LENGTH('{}", "x".repeat(before)).into_bytes();
        sql.extend_from_slice(b"\x01\x00\x00\x00\x01\x08\x00\x00\x00\x03KILL 12");
        sql.extend_from_slice(b"')");
        let length = s.value(&sql).await?;
        assert_eq!(length, (before + 17).to_string());
    }
    s.quit().await
}
