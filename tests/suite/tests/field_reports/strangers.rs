//! Reports about those who never log in: port checks, wrong passwords, half a handshake. They cost a refusal, and no more.

use crate::stand::{app, app_as, login, metric, seen, setup, shared_cn, shunt_before};
use crate::{nobody_is_left, process};
use anyhow::{Result, ensure};
use serde_json::json;
use shunt_harness::packet::header;
use shunt_harness::{Group, Login, Raw, Shunt, eventually, free_port};
use std::net::SocketAddr;

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
