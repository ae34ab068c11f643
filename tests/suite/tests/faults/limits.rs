//! How many sessions there may be: by configuration, and by the files that a process may open.

use crate::stand::{app, group_of, login, metric, seen, sessions_left, setup, shared_cn};
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use shunt_harness::shunt::program;
use shunt_harness::{ErrPacket, Process, Raw, Shunt, eventually};
use std::process::Command;

/// The ERR of a login that is refused.
async fn refusal(shunt: &Shunt) -> Result<(u16, String)> {
    let error = login(shunt, &app()).await.err().context("it was let in")?;
    let err: ErrPacket = error.downcast()?;
    Ok((err.code, err.message))
}

#[tokio::test]
async fn one_session_more_than_may_be_is_refused_and_the_others_live_on() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = setup().group(group_of(&[cn])).set("limits.sessions", 20).standalone().await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(login(&shunt, &app()).await?);
    }
    for _ in 0..50 {
        assert_eq!(refusal(&shunt).await?, (1040, "Too many connections".into()));
    }
    for s in &mut sessions {
        assert_eq!(s.value("SELECT 'lives'").await?, "lives");
    }
    let refused = metric(&shunt, 0, "shunt_data_logins_total", "no_room").await?;
    assert_eq!(refused, 50.0);
    // One that leaves makes room for one.
    sessions.pop().context("a session")?.quit().await?;
    sessions_left(&shunt, 19).await;
    sessions.push(login(&shunt, &app()).await?);
    assert_eq!(refusal(&shunt).await?.0, 1040);
    Ok(())
}

/// Starts the data plane again with fewer files.
async fn with_files(files: u64) -> Result<(Shunt, Process)> {
    let mut shunt = setup().group(group_of(&[shared_cn().await])).planes(1).await?;
    seen(&shunt).await;
    shunt.plane("data-1").stop().await?;
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}:{files}")).arg(program("shunt-data")?);
    command.arg("--config").arg(shunt.folder().join("data-1.yaml"));
    let process = Process::start("data-few-files", command, shunt.folder(), None)?;
    eventually("it accepts", async || login(&shunt, &app()).await).await;
    sessions_left(&shunt, 0).await;
    Ok((shunt, process))
}

#[tokio::test]
async fn files_run_out_for_sessions_before_they_run_out_for_accepting() -> Result<()> {
    let (shunt, process) = with_files(300).await?;
    // Two for each session, and some for everything else.
    let fit = (300 - 128) / 2;
    let mut sessions = Vec::new();
    for _ in 0..fit {
        sessions.push(login(&shunt, &app()).await?);
    }
    for _ in 0..20 {
        assert_eq!(refusal(&shunt).await?.0, 1040);
    }
    let log = process.output();
    ensure!(!log.contains("accept"), "accepting failed:\n{log}");
    for s in sessions.drain(..) {
        s.quit().await?;
    }
    sessions_left(&shunt, 0).await;
    for _ in 0..fit {
        sessions.push(login(&shunt, &app()).await?);
    }
    Ok(())
}

/// The limit sinks below what is open: nobody new comes in, those who are there stay, and it passes.
#[tokio::test]
async fn accepting_that_fails_is_tried_again() -> Result<()> {
    let (shunt, process) = with_files(1000).await?;
    let mut sessions: Vec<Raw> = Vec::new();
    for _ in 0..100 {
        sessions.push(login(&shunt, &app()).await?);
    }
    let pid = Pid::from_raw(i32::try_from(process.id())?).context("a pid")?;
    let files = |n| Rlimit { current: Some(n), maximum: Some(1000) };
    let before = prlimit(Some(pid), Resource::Nofile, files(100))?;
    let waiting = tokio::spawn({
        let address = shunt.address();
        async move { Raw::login(address, &app()).await }
    });
    eventually("accepting fails", async || {
        ensure!(process.output().contains("accept"), "not yet");
        anyhow::Ok(())
    })
    .await;
    for s in &mut sessions {
        assert_eq!(s.value("SELECT 'lives'").await?, "lives");
    }
    let lines = process.output().matches("accept").count();
    prlimit(Some(pid), Resource::Nofile, before)?;
    // Who waited in the queue is let in now.
    waiting.await??.quit().await?;
    ensure!(lines < 200, "{lines} lines of one trouble");
    login(&shunt, &app()).await?.quit().await
}
