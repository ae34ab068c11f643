//! Clients that send what no client sends, or nothing: before their login and after it.

use crate::stand::{app, group_of, login, metric, own_cn, seen, sessions_left, setup, shared_cn};
use anyhow::{Context as _, Result, bail, ensure};
use shunt_harness::mariadb::Options;
use shunt_harness::packet::{Packet, header};
use shunt_harness::{Login, Raw, Shunt, com, within};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

async fn shunt() -> Result<Shunt> {
    with_limits("1s", "2s").await
}

async fn with_limits(first_packet: &str, login: &str) -> Result<Shunt> {
    let cn = shared_cn().await;
    let shunt = setup()
        .group(group_of(&[cn]))
        .set("limits.first_packet", first_packet)
        .set("limits.login", login)
        .standalone()
        .await?;
    seen(&shunt).await;
    Ok(shunt)
}

/// What a client reads that sends these bytes behind the greeting, up to the close, and how long that takes.
async fn said(address: SocketAddr, bytes: &[u8]) -> Result<(Vec<Packet>, Duration)> {
    let mut client = TcpStream::connect(address).await?;
    let greeting = Packet::read(&mut client).await?;
    ensure!(greeting.payload[0] == 10, "no greeting");
    let begun = Instant::now();
    // It may be closed before it took all.
    let _ = client.write_all(bytes).await;
    let mut packets = Vec::new();
    loop {
        match timeout(Duration::from_secs(8), Packet::read(&mut client)).await {
            Ok(Ok(packet)) => packets.push(packet),
            Ok(Err(_)) => return Ok((packets, begun.elapsed())),
            Err(_) => bail!("neither an answer nor a close for 8 s after {} bytes", bytes.len()),
        }
    }
}

fn code(packets: &[Packet]) -> Option<u16> {
    let payload = &packets.first()?.payload;
    (payload.first() == Some(&0xFF)).then(|| u16::from_le_bytes([payload[1], payload[2]]))
}

#[tokio::test]
async fn what_is_no_login_is_refused_in_a_bounded_time() -> Result<()> {
    let shunt = shunt().await?;
    let files = open_files(&shunt)?;
    let address = shunt.address();
    let packet = |len: usize, payload: &[u8]| [&header(len, 1)[..], payload].concat();
    let noise: Vec<u8> = (0..=255).cycle().take(5000).map(|n: u8| n.wrapping_mul(73) ^ 0x5A).collect();
    let tls = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    let cases: Vec<(&str, Vec<u8>, Option<u16>)> = vec![
        ("nothing", vec![], Some(1159)),
        ("half a header", vec![9, 0], Some(1159)),
        ("half a login", packet(100, &[0; 50]), Some(1159)),
        ("an empty packet", packet(0, &[]), Some(1043)),
        ("the old protocol", packet(40, &[0; 40]), Some(1043)),
        ("a request for a page", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Some(1153)),
        ("a TLS hello", tls.to_vec(), Some(1159)),
        ("a packet of 16 MiB", packet(0xFF_FFFF, &[0xFF; 70_000]), Some(1153)),
        ("noise in a frame", packet(5000, &noise), None),
        ("noise", noise.clone(), None),
    ];
    for (what, bytes, expected) in cases {
        let (packets, took) = said(address, &bytes).await.context(what)?;
        ensure!(took < Duration::from_secs(5), "{what}: {took:?}");
        if expected.is_some() {
            assert_eq!(code(&packets), expected, "{what}: {packets:02x?}");
        }
    }
    sessions_left(&shunt, 0).await;
    within(Duration::from_secs(10), async || {
        let now = open_files(&shunt)?;
        ensure!(now <= files, "{now} files, {files} before");
        anyhow::Ok(())
    })
    .await?;
    assert_eq!(login(&shunt, &app()).await?.value("SELECT 'serves'").await?, "serves");
    Ok(())
}

/// Files of the first plane.
fn open_files(shunt: &Shunt) -> Result<usize> {
    let out = std::fs::read_dir(format!("/proc/{}/fd", pid(shunt)?))?;
    Ok(out.count())
}

fn pid(shunt: &Shunt) -> Result<u32> {
    // The pid is not told otherwise by a plane that is only looked at.
    let name = shunt.planes[0].name();
    let file = shunt.folder().join(format!("{name}.yaml")).display().to_string();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if command.split(|byte| *byte == 0).any(|argument| argument == file.as_bytes()) {
            let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
            return Ok(name.parse()?);
        }
    }
    bail!("no process has {file}")
}

/// A client that is asked for its password and does not answer has as long as a login may take.
#[tokio::test]
async fn a_login_that_stalls_half_way_is_ended() -> Result<()> {
    let shunt = shunt().await?;
    // A wrong password is the CN's to refuse: it asks, and hears nothing.
    let stalling = Login::user("app").password("wrong");
    let mut s = Raw::connect(shunt.address(), &stalling).await?;
    let begun = Instant::now();
    s.write(&stalling.response(&s.greeting)).await?;
    let asked = s.read_packet().await?;
    assert_eq!(asked.payload[0], 0xFE);
    let told = s.read_packet().await?;
    assert_eq!(told.payload[..3], [0xFF, 0x87, 0x04], "1159: {told:02x?}");
    assert_eq!(told.sequence, asked.sequence + 1);
    s.closed().await?;
    let took = begun.elapsed();
    ensure!((1500..5000).contains(&took.as_millis()), "{took:?}");

    // Half of an answer is no answer.
    let mut s = Raw::connect(shunt.address(), &stalling).await?;
    s.write(&stalling.response(&s.greeting)).await?;
    let asked = s.read_packet().await?;
    s.send_bytes(&[20, 0, 0, asked.sequence + 1, 1, 2, 3]).await?;
    assert_eq!(s.read_packet().await?.payload[0], 0xFF);
    s.closed().await?;

    // And one longer than any.
    let mut s = Raw::connect(shunt.address(), &stalling).await?;
    s.write(&stalling.response(&s.greeting)).await?;
    let asked = s.read_packet().await?;
    s.send_bytes(&header(0xFF_0000, asked.sequence + 1)).await?;
    s.send_bytes(&[b'x'; 200_000]).await.ok();
    while s.read_packet().await.is_ok() {}
    sessions_left(&shunt, 0).await;
    Ok(())
}

/// A login packet that is large, and right, is one.
#[tokio::test]
async fn a_login_of_sixty_kilobytes_is_a_login() -> Result<()> {
    let shunt = shunt().await?;
    let large = (0..60).fold(app(), |login, n| login.attribute(format!("key{n}"), "v".repeat(1000)));
    assert_eq!(login(&shunt, &large).await?.value("SELECT 1").await?, "1");
    let too_large = (0..200).fold(app(), |login, n| login.attribute(format!("key{n}"), "v".repeat(1000)));
    let refused = login(&shunt, &too_large).await.err().context("refused")?;
    assert!(refused.to_string().contains("1153"), "{refused:#}");
    Ok(())
}

/// A hundred that say nothing keep nobody out, and are gone when their time is over.
#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_out() -> Result<()> {
    let shunt = with_limits("6s", "6s").await?;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(shunt.address()).await?);
    }
    let begun = Instant::now();
    assert_eq!(login(&shunt, &app()).await?.value("SELECT 1").await?, "1");
    ensure!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    sessions_left(&shunt, 0).await;
    for client in &mut silent {
        let mut rest = Vec::new();
        timeout(Duration::from_secs(15), client.read_to_end(&mut rest)).await.context("not closed")??;
    }
    let gone = metric(&shunt, 0, "shunt_data_logins_total", "result=\"timeout\"").await?;
    assert_eq!(gone, 100.0);
    Ok(())
}

/// After its login a client may still turn to nonsense: its session ends, and its CN does not suffer.
#[tokio::test]
async fn garbage_behind_a_login_ends_the_session_only() -> Result<()> {
    let cn = own_cn(Options::new().arg("--max-connect-errors=1")).await?;
    let shunt = setup().group(group_of(&[&cn])).standalone().await?;
    seen(&shunt).await;
    let mut other = login(&shunt, &app()).await?;
    let change_user = [&header(0xF0_0000, 0)[..], &[com::CHANGE_USER; 300_000]].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xFF; 100_000],
        [&header(5, 3)[..], b"\x03DO 1"].concat(),
        change_user,
        [&header(200_000, 0)[..], &[0x50; 200_000]].concat(),
    ] {
        let mut s = login(&shunt, &app()).await?;
        let _ = s.send_bytes(&bytes).await;
        let begun = Instant::now();
        while s.read_packet().await.is_ok() {}
        ensure!(begun.elapsed() < Duration::from_secs(5), "not closed after {:02x?}", &bytes[..8]);
    }
    // Half a command is waited for, and goes with its client.
    let mut half = login(&shunt, &app()).await?;
    half.send_bytes(&[&header(1000, 0)[..], b"\x03SELECT"].concat()).await?;
    assert_eq!(other.value("SELECT 'lives'").await?, "lives");
    drop(half);
    sessions_left(&shunt, 1).await;
    let ended = metric(&shunt, 0, "shunt_data_sessions_closed_total", "client_violation").await?;
    assert_eq!(ended, 5.0);
    other.quit().await
}
