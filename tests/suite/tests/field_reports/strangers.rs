//! Reports about those who never log in: garbage, port checks, half a handshake. They cost a refusal, and no more.

use crate::stand::{app, app_as, login, metric, seen, setup, shared_cn, shunt_before};
use crate::{nobody_is_left, process};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use shunt_harness::packet::header;
use shunt_harness::{Group, Login, Raw, Shunt, eventually, free_port, patience};
use std::net::SocketAddr;
use tokio::time::Instant;

/// Reads until the connection ends, which it must, and gives the first bytes of what was said.
async fn last_words(mut s: Raw) -> Result<Vec<u8>> {
    let begun = Instant::now();
    let mut said = Vec::new();
    while let Ok(packet) = s.read_packet().await {
        said.push(packet.payload.first().copied().context("an empty packet")?);
        ensure!(said.len() < 8, "it says more and more: {said:02x?}");
    }
    ensure!(begun.elapsed() < patience(), "not closed: {said:02x?}");
    Ok(said)
}

/// Nothing was broken by what came before.
async fn is_well(shunt: &mut Shunt) -> Result<()> {
    let mut s = login(shunt, &app()).await?;
    assert_eq!(s.value("SELECT 'well'").await?, "well");
    s.quit().await?;
    let log = process(shunt)?.output();
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}

/// Five bytes of a handshake, and the process was gone.
#[tokio::test]
async fn a_login_cut_anywhere_is_answered_or_closed() -> Result<()> {
    let mut shunt = shunt_before(&[shared_cn().await]).await?;
    let way = app().deprecate_eof(true).session_track(true).attribute("_pid", "1");
    let whole = way.response(&Raw::connect(shunt.address(), &way).await?.greeting);
    let mut refused = 0;
    for len in 0..whole.len() {
        // Short by its own length, and short because the rest never comes.
        let mut s = Raw::connect(shunt.address(), &way).await?;
        s.write(&whole[..len]).await?;
        match s.read_packet().await {
            Ok(packet) if packet.payload.first() == Some(&0xFF) => {
                refused += 1;
                s.closed().await?;
            }
            // Cut behind what is needed, or closed without a word.
            Ok(_) | Err(_) => {}
        }
        let mut s = Raw::connect(shunt.address(), &way).await?;
        s.send_bytes(&[&header(whole.len(), 1)[..], &whole[..len]].concat()).await?;
        drop(s);
    }
    assert!(refused > 30, "{refused} of {}", whole.len());
    nobody_is_left(&shunt).await;
    is_well(&mut shunt).await
}

/// TLS without the request for it, HTTP, a PROXY header, and bytes that are nothing at all.
#[tokio::test]
async fn what_is_no_login_is_closed() -> Result<()> {
    let mut shunt = setup()
        .group(crate::stand::group_of(&[shared_cn().await]))
        .set("limits.first_packet", "1s")
        .standalone()
        .await?;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice();
    let strange = [
        hello,
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x50\x00\x50",
        b"PROXY TCP4 127.0.0.9 127.0.0.1 50000 6001\r\n",
        &[0; 200],
        &[0xFF; 200],
        &[0, 0, 0, 1],
        &[1, 0, 0, 1, 0],
        &[1, 0],
        &[],
    ];
    for bytes in strange {
        let mut s = Raw::connect(shunt.address(), &Login::user("nobody")).await?;
        s.send_bytes(bytes).await?;
        let said = last_words(s).await.with_context(|| format!("{bytes:02x?}"))?;
        ensure!(said.iter().all(|first| *first == 0xFF) && said.len() <= 1, "{bytes:02x?}: {said:02x?}");
    }
    nobody_is_left(&shunt).await;
    is_well(&mut shunt).await
}

/// Each way of not logging in.
async fn fails_to_log_in(shunt: &Shunt, n: usize) -> Result<()> {
    let way = app();
    let mut s = Raw::connect(shunt.address(), &way).await?;
    match n % 6 {
        0 => drop(s),
        1 => s.abort()?,
        2 => {
            let half = way.response(&s.greeting);
            s.send_bytes(&header(half.len(), 1)).await?;
            s.send_bytes(&half[..half.len() / 2]).await?;
        }
        3 => {
            // Asked by the CN itself, it leaves without an answer.
            let asked = app().plugin("caching_sha2_password");
            s.write(&asked.response(&s.greeting)).await?;
            ensure!(s.read_packet().await?.payload[0] == 0xFE, "not asked");
        }
        4 => {
            let wrong = Login { password: "wrong".into(), ..app() };
            ensure!(login(shunt, &wrong).await.is_err(), "let in");
        }
        _ => ensure!(login(shunt, &app_as("strict:app?workload=dead")).await.is_err(), "let in"),
    }
    Ok(())
}

fn open_files(shunt: &mut Shunt) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", process(shunt)?.id()))?.count())
}

/// Each early return left a file open, until there were none.
#[tokio::test]
async fn five_hundred_bad_handshakes_leave_no_file_open() -> Result<()> {
    let cn = shared_cn().await;
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut shunt = setup()
        .group(Group::named("shared").cn("cn-1", cn.address()))
        .group(Group::named("dead").label("workload", "dead").cn("cn-dead", dead))
        .tenant("strict", json!({ "on_no_match": "reject" }))
        .standalone()
        .await?;
    for n in 0..6 {
        fails_to_log_in(&shunt, n).await?;
    }
    nobody_is_left(&shunt).await;
    let before = open_files(&mut shunt)?;
    for n in 0..500 {
        fails_to_log_in(&shunt, n).await?;
    }
    nobody_is_left(&shunt).await;
    eventually("the files are closed", async || {
        let now = open_files(&mut shunt)?;
        // The connection to the control plane, to the CN and of whoever asks may come and go.
        ensure!(now <= before + 4, "{now} files, {before} before");
        anyhow::Ok(())
    })
    .await;
    is_well(&mut shunt).await
}

/// Wrong passwords and port checks filled disks at a line each. They are counted.
#[tokio::test]
async fn logins_that_fail_are_counted_and_write_no_line() -> Result<()> {
    let mut shunt = shunt_before(&[shared_cn().await]).await?;
    seen(&shunt).await;
    is_well(&mut shunt).await?;
    nobody_is_left(&shunt).await;
    let before = process(&mut shunt)?.output();
    for n in 0..300 {
        fails_to_log_in(&shunt, n % 5).await?;
    }
    nobody_is_left(&shunt).await;
    eventually("all are counted", async || {
        let (wrong, left) = (r#"result="password""#, r#"result="client_gone""#);
        let counted = (
            metric(&shunt, 0, "shunt_data_logins_total", wrong).await?,
            metric(&shunt, 0, "shunt_data_logins_total", left).await?,
        );
        // Of five ways one is a wrong password; it opens a connection more that only looks.
        ensure!(counted == (60.0, 300.0), "{counted:?}");
        anyhow::Ok(())
    })
    .await;
    assert_eq!(process(&mut shunt)?.output(), before);
    Ok(())
}
