//! CNs that say what no CN says: their sessions end, in a bounded time and memory, and no others do.

use crate::fake_cn::{At, FakeCn};
use crate::stand::{metric, own_cn, sessions_left};
use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use shunt_harness::mariadb::Options;
use shunt_harness::{ErrPacket, Group, Login, MariaDb, Raw, Setup, Shunt, command, patience};
use std::time::Duration;
use tokio::time::Instant;

async fn before(fake: &FakeCn) -> Result<Shunt> {
    Setup::new().cn("cn-1", fake.address()).planes(1).await
}

/// A client that asks for this misbehaviour.
async fn ask(shunt: &Shunt, how: &str, deprecate_eof: bool) -> Result<Raw> {
    let way = Login::user("anybody").password("x").deprecate_eof(deprecate_eof);
    let mut s = Raw::login(shunt.address(), &way).await?;
    s.send(&command::query(how)).await?;
    Ok(s)
}

/// Whether nothing comes for a while: neither a packet nor a close.
fn is_silence(error: &anyhow::Error) -> bool {
    error.to_string().contains("nothing for")
}

/// Reads to the close, or for this long: whether it was closed.
async fn is_closed(s: &mut Raw, within: Duration) -> bool {
    s.set_patience(within);
    loop {
        match s.read_packet().await {
            Ok(_) => {}
            Err(error) => return !is_silence(&error),
        }
    }
}

#[tokio::test]
async fn a_cn_that_breaks_the_protocol_loses_the_session_and_no_other() -> Result<()> {
    let fake = FakeCn::start(At::Query).await?;
    let mut shunt = before(&fake).await?;
    let other = Raw::login(shunt.address(), &Login::user("anybody")).await?;
    let before = shunt.plane("data-1").process()?.resident()?;
    let mut ended = 0;
    for deprecate_eof in [false, true] {
        for how in [
            "an empty packet",
            "an OK that is cut off",
            "an OK of two megabytes",
            "a state that is none",
            "two OKs",
            "more columns than there can be",
            "an ERR that is cut off",
            "a close",
            "a reset",
            "an end without rows",
        ] {
            let mut s = ask(&shunt, how, deprecate_eof).await.context(how)?;
            ensure!(is_closed(&mut s, patience()).await, "{how}: the client was not closed");
            ended += 1;
        }
        for how in ["nothing", "half a header", "half a packet", "too many columns", "noise"] {
            // Nobody can know that no more will come. The client need not wait for it.
            let mut s = ask(&shunt, how, deprecate_eof).await.context(how)?;
            let closed = is_closed(&mut s, Duration::from_millis(300)).await;
            ensure!(!closed || how == "noise", "{how}: closed");
            drop(s);
            ended += 1;
        }
    }
    sessions_left(&shunt, 1).await;
    let counted = metric(&shunt, 1, "shunt_data_sessions_closed_total", "").await?;
    assert_eq!(counted, f64::from(ended));
    let grown = shunt.plane("data-1").process()?.resident()?.saturating_sub(before);
    ensure!(grown < 16 << 20, "{} KiB more", grown / 1024);
    drop(other);
    Ok(())
}

/// An answer without an end goes where it was asked for, through bounded memory, and ends with its client.
#[tokio::test]
async fn an_answer_without_an_end_is_only_passed_on() -> Result<()> {
    let fake = FakeCn::start(At::Query).await?;
    let mut shunt = before(&fake).await?;
    let before = shunt.plane("data-1").process()?.resident()?;
    for how in ["OKs without an end", "a row without an end"] {
        let mut s = ask(&shunt, how, false).await?;
        for _ in 0..12 {
            s.read_packet().await.context(how)?;
        }
        let grown = shunt.plane("data-1").process()?.resident()?.saturating_sub(before);
        ensure!(grown < 8 << 20, "{how}: {} KiB more", grown / 1024);
        drop(s);
        sessions_left(&shunt, 0).await;
    }
    Ok(())
}

/// In place of a greeting, or of an answer to the login: the next CN of the match is tried, and without one the client
/// is told so.
#[tokio::test]
async fn a_cn_that_cannot_greet_is_passed_over() -> Result<()> {
    let good = own_cn(Options::new()).await?;
    let cases = [
        At::Greeting(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        At::Greeting(&[0xFF; 5]),
        At::Greeting(&[30, 0, 0, 0, 10, b'5', b'.', b'5']),
        At::Greeting(&[4, 0, 0, 0, 10, b'5', b'.', 0]),
        At::Greeting(&[0xFF, 0xFF, 0xFF, 0, 10]),
        At::Greeting(b""),
        At::Login(b""),
        At::Login(&[2, 0, 0, 2, 0xFF, 0]),
        At::Login(&[0xFF, 0xFF, 0xFF, 2, 0]),
        At::Login(&[9, 0, 0, 2]),
    ];
    let every = (0..cases.len()).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let group = Group::named("good").label("two", &every).cn("good", good.address());
    let (mut fakes, mut setup) = (Vec::new(), Setup::new().set("limits.cn_connect", "1s").group(group));
    for (n, at) in cases.iter().enumerate() {
        for label in ["alone", "two"] {
            let fake = FakeCn::start(*at).await?;
            let name = format!("{label}-{n}");
            let group = Group::named(&name).label(label, &n.to_string()).cn(&name, fake.address());
            setup = setup.group(group);
            fakes.push(fake);
        }
    }
    let shunt = setup.tenant("strict", json!({ "on_no_match": "reject" })).standalone().await?;
    try_join_all(cases.iter().enumerate().map(|(n, at)| is_passed_over(&shunt, n, *at, &good))).await?;
    Ok(())
}

/// Nobody is let in where the CN that misbehaves is alone, and everybody where it is one of two.
async fn is_passed_over(shunt: &Shunt, n: usize, at: At, good: &MariaDb) -> Result<()> {
    let begun = Instant::now();
    let login = Login::user(format!("strict:app?alone={n}")).password("app");
    let refused = Raw::login(shunt.address(), &login).await.err();
    let refused = refused.with_context(|| format!("{at:?} let somebody in"))?;
    let err: ErrPacket = refused.downcast().with_context(|| format!("{at:?}: no ERR"))?;
    // One try of a second, where it says nothing.
    ensure!(begun.elapsed() < Duration::from_secs(4), "{at:?}: {:?}", begun.elapsed());
    assert_eq!((err.code, err.sqlstate.as_str()), (1105, "08004"), "{at:?}: {err}");
    for _ in 0..4 {
        let login = Login::user(format!("strict:app?two={n}")).password("app");
        let mut s = Raw::login(shunt.address(), &login).await.with_context(|| format!("{at:?}"))?;
        assert_eq!(s.value("SELECT @@port").await?, good.address().port().to_string());
        s.quit().await?;
    }
    Ok(())
}
