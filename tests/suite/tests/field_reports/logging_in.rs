//! Reports about where a login goes, what it is told when it goes nowhere, and whom it keeps waiting.

use crate::stand::{app, app_as, both_ways, login, metric, own_cn, seen, setup, shared_cn, shunt_before};
use crate::{nobody_is_left, stand};
use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use serde_json::json;
use shunt_harness::mariadb::Options;
use shunt_harness::packet::split;
use shunt_harness::{ErrPacket, Group, Login, Raw, Shunt, com, command, eventually, free_port, within};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

/// The refusal of a login.
async fn refusal(shunt: &Shunt, way: &Login) -> Result<ErrPacket> {
    match login(shunt, way).await {
        Ok(_) => anyhow::bail!("{} was let in", way.user),
        Err(error) => Ok(error.downcast()?),
    }
}

/// Every short session went to the first CN of the list, because each saw all CNs empty.
#[tokio::test]
async fn short_sessions_one_after_the_other_reach_every_cn() -> Result<()> {
    let (one, two) = (shared_cn().await, own_cn(Options::new()).await?);
    let shunt = shunt_before(&[one, &two]).await?;
    let mut on_one = 0;
    for _ in 0..60 {
        let mut s = login(&shunt, &app()).await?;
        if s.value("SELECT @@port").await? == one.address().port().to_string() {
            on_one += 1;
        }
        s.quit().await?;
    }
    // Thirty, and by chance never so far from it.
    assert!((10..=50).contains(&on_one), "{on_one} of 60");
    Ok(())
}

/// Five causes had one text, and the wrong password's number.
#[tokio::test]
async fn each_cause_of_a_refusal_has_its_words_and_only_a_wrong_password_its_number() -> Result<()> {
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let shunt = setup()
        .group(Group::named("tp").label("workload", "tp").cn("cn-tp", shared_cn().await.address()))
        .group(Group::named("dead").label("workload", "dead").cn("cn-dead", dead))
        .tenant("gone", json!({ "suspended": true }))
        .tenant("far", json!({ "allow": ["10.0.0.0/8"] }))
        .tenant("full", json!({ "max_sessions": 1 }))
        .standalone()
        .await?;
    let _held = login(&shunt, &app_as("full:app?workload=tp")).await?;
    let mut told = HashSet::new();
    for (user, code, state, words) in [
        ("app", 1105, "08004", "no CN"),
        ("app?workload=dead", 1105, "08004", "is down"),
        ("gone:app", 4151, "HY000", "is suspended"),
        ("far:app", 1130, "HY000", "allow list"),
        ("full:app?workload=tp", 1040, "08004", "limit of 1"),
    ] {
        let err = refusal(&shunt, &app_as(user)).await?;
        assert_eq!((err.code, err.sqlstate.as_str()), (code, state), "{user}: {err}");
        assert!(err.message.contains(words), "{user}: {err}");
        assert!(told.insert(err.message.clone()), "{user}: {err} was told before");
    }
    let wrong = Login { password: "wrong".into(), ..app_as("app?workload=tp") };
    assert_eq!(refusal(&shunt, &wrong).await?.code, 1045);
    // Where every CN is labelled an administrator gets in all the same: whoever asks for a label has it.
    let root = Login::user("root?workload=tp");
    assert_eq!(login(&shunt, &root).await?.value("SELECT CURRENT_USER() LIKE 'root@%'").await?, "1");
    Ok(())
}

/// The default database was there only from the second statement on. A client need not wait for its OK, either.
#[tokio::test]
async fn the_first_statement_sees_the_database_of_the_login() -> Result<()> {
    let shunt = shunt_before(&[shared_cn().await]).await?;
    for way in both_ways(&app()) {
        let mut s = Raw::connect(shunt.address(), &way).await?;
        let bytes = [split(&way.response(&s.greeting), 1), split(&command::query("SELECT DATABASE()"), 0)];
        let bytes: Vec<u8> = bytes.iter().flatten().flat_map(shunt_harness::packet::Packet::bytes).collect();
        s.send_bytes(&bytes).await?;
        s.authenticate("app").await?;
        assert_eq!(s.receive_for(com::QUERY).await?.value()?, stand::DATABASE);
        s.quit().await?;
        // And where the CN asks the client itself.
        let mut s = login(&shunt, &way.plugin("caching_sha2_password")).await?;
        assert_eq!(s.value("SELECT DATABASE()").await?, stand::DATABASE);
        s.quit().await?;
    }
    Ok(())
}

/// One CN that hung held up the logins to all others, and every KILL.
#[tokio::test]
async fn a_cn_that_hangs_keeps_only_its_own_clients_waiting() -> Result<()> {
    let (well, stuck) = (shared_cn().await, own_cn(Options::new()).await?);
    let shunt = setup()
        .group(Group::named("well").cn("cn-well", well.address()))
        .group(Group::named("stuck").label("cn", "stuck").cn("cn-stuck", stuck.address()))
        // Longer than all the rest of this test may take.
        .set("limits.cn_connect", "300s")
        .set("limits.login", "300s")
        .standalone()
        .await?;
    seen(&shunt).await;
    // Its hash is known from here on. A question for one is a try of its own, whose bound health.rs shows.
    login(&shunt, &app()).await?.quit().await?;
    stuck.freeze().await?;
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let address = shunt.address();
            tokio::spawn(async move { Raw::login(address, &app_as("app?cn=stuck")).await.map(drop) })
        })
        .collect();
    eventually("they wait", async || {
        let there = metric(&shunt, 0, "shunt_data_sessions", "").await?;
        ensure!(there == 64.0, "{there} are there");
        anyhow::Ok(())
    })
    .await;
    for _ in 0..8 {
        let (mut s, victim) = (login(&shunt, &app()).await?, login(&shunt, &app()).await?);
        s.run(format!("KILL {}", victim.connection_id())).await?;
        let mut victim = victim;
        victim.closed().await?;
        shunt.ctl(&["session", "kill", &s.connection_id().to_string()]).await?;
        eventually("it is killed", async || s.ping().await.is_err().then_some(()).context("it lives")).await;
    }
    assert!(waiting.iter().all(|login| !login.is_finished()), "a CN that is frozen let somebody in");
    stuck.thaw()?;
    for login in join_all(waiting).await {
        login?.context("a login that waited")?;
    }
    nobody_is_left(&shunt).await;
    Ok(())
}

/// The deadline of a login's packets was left on the socket, and cut all sessions off a day later.
#[tokio::test]
async fn no_deadline_of_a_login_outlives_it() -> Result<()> {
    let shunt = setup()
        .group(stand::group_of(&[shared_cn().await]))
        .set("limits.first_packet", "3s")
        .set("limits.login", "3s")
        .standalone()
        .await?;
    let relayed = app().plugin("caching_sha2_password");
    let (mut busy, mut idle) = (login(&shunt, &app()).await?, login(&shunt, &relayed).await?);
    // Past both, one at work and one idle.
    assert_eq!(busy.value("SELECT SLEEP(4)").await?, "0");
    assert_eq!(idle.value("SELECT 'still here'").await?, "still here");
    assert_eq!(busy.value("SELECT 'still here'").await?, "still here");
    Ok(())
}

/// Routing that was polled every five seconds was too slow for scaling, and a CN that was gone went on being dialled.
#[tokio::test]
async fn a_cn_that_comes_is_used_at_once_and_one_that_goes_is_not() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = setup().group(Group::named("shared")).standalone().await?;
    assert_eq!(refusal(&shunt, &app()).await?.code, 1105);
    // By its name, as hosts have one. Nothing compares it with the address of a socket.
    let by_name = format!("localhost:{}", cn.address().port());
    shunt.ctl(&["cn", "register", "cn-new", &by_name, "--group", "shared"]).await?;
    let soon = Duration::from_secs(3);
    let s = within(soon, async || login(&shunt, &app()).await).await?;
    s.quit().await?;
    eventually("it is empty", async || shunt.ctl(&["cn", "delete", "cn-new"]).await).await;
    within(soon, async || refusal(&shunt, &app()).await).await?;
    Ok(())
}

/// A CN that has as many connections as it may was an error of the client's, while others had room.
#[tokio::test]
async fn a_cn_without_room_is_passed_over() -> Result<()> {
    let (full, other) = (own_cn(Options::new().arg("--max-connections=10")).await?, shared_cn().await);
    let held = join_all((0..9).map(|_| full.app(""))).await;
    let shunt = setup().group(stand::group_of(&[&full, other])).standalone().await?;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(login(&shunt, &app()).await?);
    }
    assert!(held.iter().filter(|held| held.is_ok()).count() >= 8, "the CN was not full");
    Ok(())
}

/// Ids were each proxy's own: a KILL by one of them hit nobody, or somebody else.
#[tokio::test]
async fn ids_are_the_cluster_s_and_fit_a_signed_number() -> Result<()> {
    let shunt = setup().group(stand::group_of(&[shared_cn().await])).planes(2).await?;
    let (mut ids, mut sessions) = (HashSet::new(), Vec::new());
    for plane in ["data-1", "data-2"] {
        let at = shunt.planes.iter().find(|each| each.name() == plane).context("a data plane")?.mysql();
        for _ in 0..10 {
            let s = Raw::login(at, &app()).await?;
            assert!((1 << 30..1 << 31).contains(&s.connection_id()), "{}", s.connection_id());
            assert!(ids.insert(s.connection_id()), "{} was given twice", s.connection_id());
            sessions.push(s);
        }
    }
    // From each to one of the other.
    for (from, to) in [(0, 19), (10, 9)] {
        let id = sessions[to].connection_id();
        sessions[from].run(format!("KILL {id}")).await?;
        sessions[to].closed().await?;
    }
    Ok(())
}
