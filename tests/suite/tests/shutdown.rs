//! Ends and beginnings: programs that are told to stop, a control plane that is away, a data plane that starts alone,
//! and what each program says of its configuration.

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use shunt_harness::shunt::program;
use shunt_harness::{MariaDb, Raw, Setup, Shunt, command, eventually, http};
use stand::{
    DATABASE, app, gone_from, group_of, id_on_cn, is_in_state, login, metric, own_cn, seen, setup, shared_cn,
};
use std::process::{ExitStatus, Output};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

mod stand;

/// From the signal to the end of accepting.
const DELAY: Duration = Duration::from_secs(3);
/// From there to the end of patience.
const PATIENCE: Duration = Duration::from_secs(3);

fn limited(cn: &MariaDb) -> Setup {
    let setup = setup().group(group_of(&[cn]));
    setup.set("limits.drain_delay", "3s").set("limits.shutdown", "3s").set("limits.first_packet", "1s")
}

/// A session that is told that the server shuts down, and closed.
async fn is_told(s: &mut Raw) -> Result<()> {
    let packet = s.read_packet().await?;
    assert_eq!((packet.payload[0], &packet.payload[1..3]), (0xFF, &[0x1D, 0x04][..]), "{packet:02x?}");
    assert_eq!(packet.sequence, 1, "a client reads it as the answer to its next command");
    s.closed().await
}

async fn wait(shunt: &mut Shunt, plane: &str) -> Result<ExitStatus> {
    shunt.plane(plane).process()?.wait(Duration::from_secs(30)).await
}

/// The order of an end: not ready, no more accepted, who rests is closed, who works may finish, the rest is cut.
async fn ends_in_order(mut shunt: Shunt, plane: &str, signal: Signal, cn: &MariaDb) -> Result<()> {
    seen(&shunt).await;
    cn.run(&[&format!("CREATE OR REPLACE TABLE {DATABASE}.ending (a INT PRIMARY KEY) ENGINE=InnoDB")])
        .await?;
    let mut idle = login(&shunt, &app()).await?;
    let mut working = login(&shunt, &app()).await?;
    working.run("BEGIN").await?;
    working.run("INSERT INTO ending VALUES (1)").await?;
    let mut erring = login(&shunt, &app()).await?;
    erring.run("BEGIN").await?;
    erring.run("INSERT INTO ending VALUES (2)").await?;
    ensure!(erring.query("SELECT * FROM nowhere").await?.err().is_some());
    let mut short = login(&shunt, &app()).await?;
    short.send(&command::query("SELECT SLEEP(3), 'whole'")).await?;
    let mut long = login(&shunt, &app()).await?;
    let long_on_cn = id_on_cn(&mut long).await?;
    long.send(&command::query("SELECT SLEEP(1000)")).await?;
    is_in_state(&shunt, &long, "active").await;
    let silent = TcpStream::connect(shunt.address()).await?;

    let told = Instant::now();
    shunt.plane(plane).process()?.signal(signal)?;
    let ready = shunt.plane(plane).http();
    eventually("it is not ready", async || {
        let (status, body) = http::get(ready, "/readyz").await?;
        ensure!(status == 503 && body.contains("shutting down"), "{status} {body}");
        anyhow::Ok(())
    })
    .await;
    // Who had asked before is let in still, and works.
    assert_eq!(login(&shunt, &app()).await?.value("SELECT 'let in'").await?, "let in");
    assert_eq!(idle.value("SELECT 'at work'").await?, "at work");
    ensure!(told.elapsed() < DELAY, "the machine is too slow for this test: {:?}", told.elapsed());

    is_told(&mut idle).await?;
    ensure!(told.elapsed() >= DELAY, "closed after {:?}", told.elapsed());
    let refused = TcpStream::connect(shunt.address()).await;
    ensure!(refused.is_err(), "accepted after {:?}", told.elapsed());
    for s in [&mut working, &mut erring] {
        s.run("SELECT COUNT(*) FROM ending").await?;
        s.run("COMMIT").await?;
        is_told(s).await?;
    }
    assert_eq!(short.receive().await?.rows()?[0][1].as_deref(), Some("whole"));
    is_told(&mut short).await?;
    assert_eq!(long.receive().await?.err().map(|err| err.code), Some(1053));
    let cut = told.elapsed();
    ensure!(cut >= DELAY + PATIENCE, "cut after {cut:?}");
    ensure!(cut < DELAY + PATIENCE + Duration::from_secs(6), "cut after {cut:?}");
    gone_from(cn, long_on_cn).await?;

    let status = wait(&mut shunt, plane).await?;
    ensure!(status.success(), "{status}");
    ensure!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
    drop(silent);
    let log = shunt.plane(plane).process()?.output();
    let line =
        log.lines().find(|line| line.contains("cut at the end")).context("no line tells of the cut")?;
    assert!(line.contains(&format!("id={}", long.connection_id())), "{line}");
    assert_eq!(log.matches("cut at the end").count(), 1);
    let mut root = cn.root().await?;
    assert_eq!(root.value(format!("SELECT COUNT(*) FROM {DATABASE}.ending")).await?, "2");
    root.quit().await
}

#[tokio::test]
async fn a_data_plane_ends_in_order() -> Result<()> {
    let cn = own_cn(shunt_harness::mariadb::Options::new()).await?;
    ends_in_order(limited(&cn).planes(1).await?, "data-1", Signal::TERM, &cn).await
}

#[tokio::test]
async fn a_standalone_ends_in_order() -> Result<()> {
    let cn = own_cn(shunt_harness::mariadb::Options::new()).await?;
    ends_in_order(limited(&cn).standalone().await?, "standalone", Signal::INT, &cn).await
}

#[tokio::test]
async fn a_second_signal_ends_at_once() -> Result<()> {
    let cn = shared_cn().await;
    for (plane, first, second) in
        [("data-1", Signal::TERM, Signal::INT), ("standalone", Signal::INT, Signal::TERM)]
    {
        let setup = setup().group(group_of(&[cn])).set("limits.shutdown", "100s");
        let mut shunt = if plane == "data-1" { setup.planes(1).await? } else { setup.standalone().await? };
        let mut s = login(&shunt, &app()).await?;
        s.send(&command::query("SELECT SLEEP(20)")).await?;
        is_in_state(&shunt, &s, "active").await;
        shunt.plane(plane).process()?.signal(first)?;
        eventually("it accepts no more", async || match TcpStream::connect(shunt.address()).await {
            Ok(_) => anyhow::bail!("it does"),
            Err(_) => Ok(()),
        })
        .await;
        let told = Instant::now();
        shunt.plane(plane).process()?.signal(second)?;
        let status = wait(&mut shunt, plane).await?;
        ensure!(told.elapsed() < Duration::from_secs(8), "{plane}: {:?}", told.elapsed());
        ensure!(!status.success(), "{plane} was cut off, and says that all is well");
        s.closed().await?;
    }
    Ok(())
}

/// Told to stop, with a data plane and a client that keeps its connection: it stops, and neither is hurt.
#[tokio::test]
async fn a_control_plane_ends_in_order() -> Result<()> {
    let cn = shared_cn().await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut shunt = setup().group(group_of(&[cn])).planes(1).await?;
        seen(&shunt).await;
        let mut s = login(&shunt, &app()).await?;
        let _kept = TcpStream::connect(shunt.api()).await?;
        let told = Instant::now();
        shunt.plane("control").process()?.signal(signal)?;
        let status = wait(&mut shunt, "control").await?;
        ensure!(status.success(), "{status}");
        ensure!(told.elapsed() < Duration::from_secs(12), "{:?}", told.elapsed());
        assert_eq!(s.value("SELECT 'goes on'").await?, "goes on");
    }
    Ok(())
}

async fn is_ready(shunt: &mut Shunt) -> Result<(u16, String)> {
    http::get(shunt.plane("data-1").http(), "/readyz").await
}

/// With every control plane gone nothing ends, and nothing is refused; when one comes back, it need not tell it all.
#[tokio::test]
async fn without_a_control_plane_all_goes_on() -> Result<()> {
    let cn = shared_cn().await;
    let mut shunt = setup().group(group_of(&[cn])).planes(1).await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET @a = 1").await?;
    let first = s.connection_id();
    shunt.plane("control").kill()?;
    eventually("it notices", async || {
        let connected = metric(&shunt, 1, "shunt_data_control_connected", "").await?;
        ensure!(connected == 0.0, "connected");
        anyhow::Ok(())
    })
    .await;
    assert_eq!(is_ready(&mut shunt).await?.0, 200);
    assert_eq!(s.value("SELECT @a").await?, "1");
    let mut second = login(&shunt, &app()).await?;
    assert_eq!(second.connection_id(), first + 1);
    second.run(format!("KILL {first}")).await?;
    s.closed().await?;

    shunt.plane("control").launch()?;
    shunt.plane("control").ready().await?;
    eventually("it is connected again", async || {
        let connected = metric(&shunt, 1, "shunt_data_control_connected", "").await?;
        ensure!(connected == 1.0, "not yet");
        anyhow::Ok(())
    })
    .await;
    let log = shunt.plane("data-1").process()?.output();
    let last = log.lines().rfind(|line| line.contains("control plane connected")).context("no line")?;
    assert!(last.contains("resumed=true"), "{last}");
    let snapshots = shunt.plane("control").metrics().await?;
    let snapshots: Vec<_> =
        snapshots.lines().filter(|line| line.contains("frames_sent_total{kind=\"snapshot")).collect();
    assert!(snapshots.iter().all(|line| line.ends_with(" 0")), "{snapshots:?}");
    // And what changes from here on is heard.
    shunt.ctl(&["cn", "label", "cn-1", "workload=ap"]).await?;
    eventually("the label counts", async || {
        let refused = login(&shunt, &app()).await.err().context("let in")?;
        ensure!(refused.to_string().contains("1105"), "{refused}");
        anyhow::Ok(())
    })
    .await;
    assert_eq!(second.value("SELECT 'stays'").await?, "stays");
    Ok(())
}

#[tokio::test]
async fn a_data_plane_starts_and_serves_with_no_control_plane_at_all() -> Result<()> {
    let cn = shared_cn().await;
    let mut shunt = setup().group(group_of(&[cn])).planes(1).await?;
    seen(&shunt).await;
    let before = login(&shunt, &app()).await?.connection_id();
    shunt.plane("control").kill()?;
    // Not in order, either.
    shunt.plane("data-1").kill()?;
    shunt.plane("data-1").launch()?;
    shunt.plane("data-1").ready().await?;
    let mut s = login(&shunt, &app()).await?;
    assert_eq!(s.value("SELECT 'serves'").await?, "serves");
    ensure!(s.connection_id() > before, "an id was given twice");
    let log = shunt.plane("data-1").process()?.output();
    assert!(log.contains("routing by the last good state"), "{log}");
    s.quit().await
}

/// What is on disk is not what was written: it is left aside, whole, and the control plane asked.
#[tokio::test]
async fn a_damaged_state_file_is_left_aside() -> Result<()> {
    let cn = shared_cn().await;
    let mut shunt = setup().group(group_of(&[cn])).planes(1).await?;
    seen(&shunt).await;
    let file = shunt.folder().join("data-1/routing");
    let good = std::fs::read(&file)?;
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x20;
    let mut left_aside = 0;
    for (what, bytes) in [
        ("cut short", good[..good.len() - 1].to_vec()),
        ("one bit", flipped),
        ("empty", Vec::new()),
        ("noise", vec![0xFF; 5000]),
    ] {
        shunt.plane("data-1").stop().await?;
        std::fs::write(&file, bytes)?;
        shunt.plane("data-1").launch()?;
        shunt.plane("data-1").ready().await.context(what)?;
        assert_eq!(login(&shunt, &app()).await?.value("SELECT 1").await?, "1");
        eventually("the good state is on disk again", async || {
            ensure!(std::fs::read(&file)? == good, "{what}: another one");
            anyhow::Ok(())
        })
        .await;
        let log = shunt.plane("data-1").process()?.output();
        // The log goes on from start to start.
        left_aside += 1;
        assert_eq!(log.matches("the last good state is left aside").count(), left_aside, "{what}: {log}");
        ensure!(!log.contains("panicked"), "{what}: {log}");
    }

    // Without a control plane to ask it says what it waits for, and takes nobody.
    shunt.plane("data-1").stop().await?;
    shunt.plane("control").stop().await?;
    std::fs::write(&file, &good[..9])?;
    shunt.plane("data-1").launch()?;
    eventually("it answers", async || {
        let (status, body) = is_ready(&mut shunt).await?;
        ensure!(status == 503 && body.contains("no routing state yet"), "{status} {body}");
        anyhow::Ok(())
    })
    .await;
    shunt.plane("control").launch()?;
    shunt.plane("data-1").ready().await?;
    login(&shunt, &app()).await?.quit().await
}

fn run(name: &str, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } =
        std::process::Command::new(program(name)?).args(arguments).output()?;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

#[test]
fn programs_say_what_they_are_and_check_what_they_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).map(|()| path.display().to_string())
    };
    let store = folder.path().join("store").display().to_string();
    let state = folder.path().join("state").display().to_string();
    let cns = "groups: [ { name: a, cns: [ { name: cn-1, address: 127.0.0.1:1 } ] } ]";
    let control = format!("api: {{ listen: 127.0.0.1:1 }}\nstore: {{ embedded: {store} }}\n{cns}\n");
    let data = format!("mysql: {{ listen: 127.0.0.1:1 }}\nstate: {state}\n");
    let both = format!("mysql: {{ listen: 127.0.0.1:1 }}\n{control}");
    // Two problems each, in lines of their own.
    let bad = [
        ("shunt-control", "api: { listen: nowhere }\nstore: { embeded: x }\n"),
        ("shunt-data", "mysql: { listen: nowhere }\nlimits: { lgoin: 1s }\n"),
        ("shunt-standalone", "mysql: { listen: nowhere }\nstore: { embeded: x }\n"),
    ];
    for ((name, bad), good) in bad.into_iter().zip([control, data, both]) {
        let (status, stdout, _) = run(name, &["--version"])?;
        assert_eq!((status, stdout.as_str()), (Some(0), &*format!("{name} {}\n", env!("CARGO_PKG_VERSION"))));
        let (status, stdout, _) = run(name, &["--help"])?;
        assert_eq!(status, Some(0));
        for word in ["--config", "--check", "--log-format", "Usage"] {
            assert!(stdout.contains(word), "{name} --help: {stdout}");
        }
        assert_eq!(run(name, &[])?.0, Some(2), "{name} without arguments");
        assert_eq!(run(name, &["--nonsense"])?.0, Some(2));

        let good = write("good.yaml", &good)?;
        let (status, stdout, stderr) = run(name, &["--check", "--config", &good])?;
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{name}: {stdout}");
        let bad = write("bad.yaml", bad)?;
        for arguments in [&["--check", "--config", &bad][..], &["--config", &bad]] {
            let (status, stdout, stderr) = run(name, arguments)?;
            assert_eq!((status, stdout.as_str()), (Some(1), ""), "{name}");
            assert_eq!(stderr.lines().count(), 2, "{name}: {stderr}");
            assert!(stderr.contains("bad.yaml:1:") && stderr.contains("bad.yaml:2:"), "{stderr}");
        }
        let (status, _, stderr) = run(name, &["--check", "--config", "/nowhere/at.all"])?;
        assert_eq!(status, Some(1));
        assert!(stderr.contains("/nowhere/at.all"), "{stderr}");
        ensure!(!folder.path().join("store").exists(), "{name} --check made something");
        ensure!(!folder.path().join("state").exists(), "{name} --check made something");
    }
    Ok(())
}
