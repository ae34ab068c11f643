//! The fake CN and the fault proxy, seen by the raw client.

use anyhow::Result;
use shunt_harness::fake_cn::{Answer, Door, End, FakeCn, error};
use shunt_harness::{ErrPacket, Fault, FaultProxy, Login, MariaDb, Raw, Shape, com, eventually};
use std::time::Duration;

fn app() -> Login {
    Login::user("app").password("secret")
}

/// Long enough to be sure that nothing comes, short enough to wait for.
const SOON: Duration = Duration::from_millis(100);

async fn fake() -> Result<FakeCn> {
    FakeCn::behind_shunt(&[("app", "secret"), ("shunt", "pw")], |received| match received.text().as_str() {
        "SELECT 1" => Some(Answer::row(&["1"], &["1"])),
        "cut" => Some(Answer::Cut(Box::new(Answer::row(&["a"], &["long enough"])), 20, End::Close)),
        "reset" => Some(Answer::Cut(Box::new(Answer::Ok), 3, End::Reset)),
        "hang" => Some(Answer::Cut(Box::new(Answer::Ok), 0, End::Hang)),
        "late" => Some(Answer::After(SOON, Box::new(Answer::Ok))),
        "big" => Some(Answer::row(&["a"], &["x".repeat(17 << 20).as_str()])),
        "fail" => Some(Answer::err(1213, "40001", "Deadlock found")),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_script_is_answered_in_any_pieces() -> Result<()> {
    let cn = fake().await?;
    for piece in [1, 3, 1 << 20] {
        cn.in_pieces(piece);
        for eof in [false, true] {
            let mut s = Raw::login(cn.address(), &app().deprecate_eof(eof)).await?;
            assert_eq!(s.value("SELECT 1").await?, "1");
            assert_eq!(s.query("fail").await?.err().unwrap().code, 1213);
            assert_eq!(s.query("late").await?.shape, Shape::Ok);
            assert_eq!(s.ping().await?.shape, Shape::Ok);
            let hash = s.value("SELECT Priv FROM mysql.global_priv WHERE User = 'shunt'").await?;
            assert!(hash.contains("\"*"), "{hash}");
            s.quit().await?;
        }
    }
    let mut s = Raw::login(cn.address(), &app()).await?;
    assert_eq!(s.value("big").await?.len(), 17 << 20);
    drop(s);
    eventually("all have left", async || if cn.open() == 0 { Ok(()) } else { Err(cn.open()) }).await;
    assert_eq!((cn.accepted(), cn.logins().len()), (7, 7));
    assert_eq!(cn.received().iter().filter(|r| r.command() == com::QUIT).count(), 6);
    Ok(())
}

#[tokio::test]
async fn passwords_are_checked() -> Result<()> {
    let cn = fake().await?;
    let refused = Raw::login(cn.address(), &app().password("wrong")).await.err().unwrap();
    assert_eq!(refused.downcast_ref::<ErrPacket>().unwrap().code, 1045);
    Raw::login(cn.address(), &app().plugin("unknown")).await?;
    Ok(())
}

#[tokio::test]
async fn every_door_is_as_it_says() -> Result<()> {
    let cn = fake().await?;
    for (door, said) in [
        (Door::Silent, "read the greeting: nothing"),
        (Door::SilentInGreeting(9), "read the greeting: nothing"),
        (Door::SilentAtLogin, "read a packet: nothing"),
        (Door::Closed, "read the greeting"),
        (Door::ClosedAtLogin, "read a packet"),
        (Door::Refused(error(1040, "08004", "Too many connections")), "1040 (08004)"),
        (Door::RefusedLogin(error(1053, "08S01", "Server shutdown in progress")), "1053 (08S01)"),
    ] {
        cn.door(door.clone());
        let login = if said.ends_with("nothing") { app().patience(SOON) } else { app() };
        let refused = format!("{:#}", Raw::login(cn.address(), &login).await.err().unwrap());
        assert!(refused.contains(said), "{door:?}: {refused}");
    }
    cn.door(Door::ClosedAfterLogin);
    Raw::login(cn.address(), &app()).await?.closed().await?;
    cn.door(Door::SilentAfterLogin);
    let mut s = Raw::login(cn.address(), &app()).await?;
    s.set_patience(SOON);
    assert!(s.ping().await.is_err());
    Ok(())
}

#[tokio::test]
async fn answers_can_be_cut() -> Result<()> {
    let cn = fake().await?;
    for text in ["cut", "reset", "hang"] {
        let mut s = Raw::login(cn.address(), &app()).await?;
        if text == "hang" {
            s.set_patience(SOON);
        }
        let error = format!("{:#}", s.query(text).await.unwrap_err());
        assert_eq!(error.contains("nothing for"), text == "hang", "{text}: {error}");
    }
    Ok(())
}

#[tokio::test]
#[should_panic(expected = "did not expect")]
async fn the_unexpected_fails_the_test() {
    let cn = fake().await.unwrap();
    let mut s = Raw::login(cn.address(), &app()).await.unwrap();
    assert!(s.query("what is this?").await.is_err());
}

#[tokio::test]
async fn links_fail_as_told() -> Result<()> {
    let cn = MariaDb::shared().await;
    let proxy = FaultProxy::start(cn.address()).await?;
    let login = Login::user("app").password("app");
    let in_vain = login.clone().patience(SOON * 3);
    let mut s = Raw::login(proxy.address(), &login).await?;
    assert_eq!(s.value("SELECT 1").await?, "1");
    proxy.set(Fault::Delay(Duration::from_millis(20)));
    assert_eq!(s.value("SELECT 2").await?, "2");
    proxy.set(Fault::BlackHole);
    s.set_patience(SOON * 3);
    assert!(format!("{:#}", s.ping().await.unwrap_err()).contains("nothing for"));
    assert!(Raw::login(proxy.address(), &in_vain).await.is_err());
    proxy.set(Fault::None);
    let mut s = Raw::login(proxy.address(), &login).await?;
    proxy.set(Fault::HalfOpen);
    s.set_patience(SOON * 3);
    assert!(format!("{:#}", s.ping().await.unwrap_err()).contains("nothing for"));
    proxy.set(Fault::None);
    let mut s = Raw::login(proxy.address(), &login).await?;
    proxy.set(Fault::Reset);
    s.closed().await?;
    assert!(Raw::login(proxy.address(), &login).await.is_err());
    assert_eq!(proxy.accepted(), 5);
    Ok(())
}
