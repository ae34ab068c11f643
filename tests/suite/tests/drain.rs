//! Sessions that move because their CNs change: one that is drained, one that joins, one that is relabelled.
//!
//! Several names of one CN stand for several that share their data.

mod stand;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shunt_harness::mariadb::Options;
use shunt_harness::{Group, Login, MariaDb, Raw, Setup, Shunt, eventually};
use stand::{app, app_as, login, metric, seen, setup, shown, telling_cn};
use std::collections::BTreeMap;

async fn cn() -> Result<MariaDb> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT) ENGINE=InnoDB"]).await?;
    Ok(cn)
}

/// The CN by one of its names: each is another address to whoever compares them.
fn named(cn: &MariaDb, n: usize) -> Value {
    let host = ["127.0.0.1", "localhost", "127.1"][n - 1];
    json!({ "name": format!("cn-{n}"), "address": format!("{host}:{}", cn.address().port()) })
}

fn patient(setup: Setup) -> Setup {
    setup.set("policy.migrate.freeze_deadline", "20s").set("policy.migrate.last_result_grace", "100ms")
}

/// How many sessions each CN has.
async fn counts(shunt: &Shunt) -> Result<BTreeMap<String, u64>> {
    let listed = shunt.ctl(&["cn", "list"]).await?;
    let cns = listed["cns"].as_array().context("no list")?;
    cns.iter()
        .map(|cn| {
            let name = cn["name"].as_str().context("no name")?.to_owned();
            Ok((name, cn["sessions"].as_u64().context("no count")?))
        })
        .collect()
}

/// Waits until the CNs have these counts, give or take.
async fn are_on(shunt: &Shunt, wanted: &[(&str, u64)], give: u64) {
    eventually(&format!("sessions are on {wanted:?}"), async || {
        let counts = counts(shunt).await?;
        for (cn, wanted) in wanted {
            let on = counts.get(*cn).copied().unwrap_or(0);
            ensure!(on.abs_diff(*wanted) <= give, "{counts:?}");
        }
        anyhow::Ok(())
    })
    .await;
}

/// A session that knows its number.
async fn marked(shunt: &Shunt, n: usize) -> Result<Raw> {
    let mut s = login(shunt, &app()).await?;
    s.run(format!("SET @n = {n}, lock_wait_timeout = {}", n + 100)).await?;
    Ok(s)
}

async fn still_marked(s: &mut Raw, n: usize) -> Result<()> {
    let rows = s.query("SELECT @n, @@lock_wait_timeout").await?.success()?.rows()?;
    ensure!(rows == [[Some(n.to_string()), Some((n + 100).to_string())]], "{rows:?}");
    Ok(())
}

#[tokio::test]
async fn a_cn_is_drained_and_filled_again_and_nobody_notices() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for n in 0..40 {
        sessions.push(marked(&shunt, n).await?);
    }
    are_on(&shunt, &[("cn-1", 20), ("cn-2", 20)], 0).await;
    let said = shunt.try_ctl(&["-o", "json", "cn", "drain", "cn-1", "--wait"]).await?;
    ensure!(said.status.success(), "{said:?}");
    let drained: Value = serde_json::from_str(&said.stdout)?;
    assert_eq!((&drained["state"], &drained["sessions"]), (&json!("drained"), &json!(0)));
    assert!(said.stderr.contains("sessions left"), "{said:?}");
    for (n, s) in sessions.iter_mut().enumerate() {
        still_marked(s, n).await?;
    }
    are_on(&shunt, &[("cn-1", 0), ("cn-2", 40)], 0).await;
    // New ones do not go there either. Draining what is drained is done already.
    let another = login(&shunt, &app()).await?;
    assert_eq!(shown(&shunt, &another).await?["cn"], "cn-2");
    shunt.ctl(&["cn", "drain", "cn-1", "--wait"]).await?;
    another.quit().await?;

    shunt.ctl(&["cn", "undrain", "cn-1"]).await?;
    shunt.ctl(&["cn", "undrain", "cn-1"]).await?;
    are_on(&shunt, &[("cn-1", 20), ("cn-2", 20)], 1).await;
    for (n, s) in sessions.iter_mut().enumerate() {
        still_marked(s, n).await?;
    }
    Ok(())
}

/// At one move a second it would take twenty.
#[tokio::test]
async fn a_drain_with_a_time_is_as_fast_as_that_wants() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let setup = patient(setup().group(group)).set("policy.rebalance.moves_per_second", 1);
    let shunt = setup.standalone().await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for n in 0..40 {
        sessions.push(marked(&shunt, n).await?);
    }
    are_on(&shunt, &[("cn-1", 20), ("cn-2", 20)], 0).await;
    let said = shunt.try_ctl(&["cn", "drain", "cn-1", "--wait", "--timeout", "8s"]).await?;
    ensure!(said.status.success(), "{said:?}");
    for (n, s) in sessions.iter_mut().enumerate() {
        still_marked(s, n).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_waits_for_what_cannot_move_and_says_why() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for n in 0..4 {
        sessions.push(marked(&shunt, n).await?);
    }
    for s in &mut sessions {
        s.run("BEGIN").await?;
        s.run("INSERT INTO t VALUES (1)").await?;
    }
    let said = shunt.try_ctl(&["cn", "drain", "cn-1", "--wait", "--timeout", "2s"]).await?;
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stderr.contains("2 sessions left (transaction: 2)"), "{said:?}");
    assert_eq!(shunt.ctl(&["cn", "get", "cn-1"]).await?["state"], "draining");
    for s in &mut sessions {
        s.run("COMMIT").await?;
    }
    eventually("drained", async || {
        let cn = shunt.ctl(&["cn", "get", "cn-1"]).await?;
        ensure!(cn["state"] == "drained", "{cn}");
        anyhow::Ok(())
    })
    .await;
    for (n, s) in sessions.iter_mut().enumerate() {
        still_marked(s, n).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_forced_drain_closes_what_is_left_when_its_time_is_over() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    let mut stays = login(&shunt, &app()).await?;
    let mut goes = login(&shunt, &app()).await?;
    let on = shown(&shunt, &stays).await?["cn"].as_str().context("a CN")?.to_owned();
    let (temporary, other) = if on == "cn-1" { (&mut stays, &mut goes) } else { (&mut goes, &mut stays) };
    temporary.run("CREATE TEMPORARY TABLE kept SELECT 1").await?;
    other.run("SET @n = 5").await?;
    let drain = ["cn", "drain", "cn-1", "--wait", "--timeout", "1s", "--on-timeout", "force"];
    let said = shunt.try_ctl(&drain).await?;
    ensure!(said.status.success(), "{said:?}");
    // The last that its client reads is why.
    let last = temporary.query("SELECT 1").await;
    ensure!(last.as_ref().map_or(true, |last| last.err().is_some_and(|err| err.code == 1053)), "{last:?}");
    assert!(temporary.query("SELECT 1").await.is_err(), "it was closed");
    assert_eq!(other.value("SELECT @n").await?, "5");
    Ok(())
}

/// Within max(2, 10 %) of its share, from sessions that are there.
#[tokio::test]
async fn a_cn_that_joins_fills_up_from_existing_sessions() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("tp").label("workload", "tp").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for n in 0..60 {
        let mut s = login(&shunt, &app_as("app?workload=tp")).await?;
        s.run(format!("SET @n = {n}, lock_wait_timeout = {}", n + 100)).await?;
        sessions.push(s);
    }
    let address = named(&cn, 3)["address"].as_str().context("an address")?.to_owned();
    shunt.ctl(&["cn", "register", "cn-3", &address, "--group", "tp"]).await?;
    are_on(&shunt, &[("cn-1", 20), ("cn-2", 20), ("cn-3", 20)], 2).await;
    for (n, s) in sessions.iter_mut().enumerate() {
        still_marked(s, n).await?;
    }
    Ok(())
}

/// One that is relabelled joins those whose labels it has now.
#[tokio::test]
async fn a_cn_that_is_relabelled_gets_its_share_of_the_sessions_that_it_may_have_now() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("all").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    shunt.ctl(&["cn", "label", "cn-1", "workload=ap"]).await?;
    let mut sessions = Vec::new();
    for n in 0..20 {
        let mut s = login(&shunt, &app_as("app?workload=ap")).await?;
        s.run(format!("SET @n = {n}")).await?;
        sessions.push(s);
    }
    are_on(&shunt, &[("cn-1", 20), ("cn-2", 0)], 0).await;
    shunt.ctl(&["cn", "label", "cn-2", "workload=ap"]).await?;
    are_on(&shunt, &[("cn-1", 10), ("cn-2", 10)], 1).await;
    for (n, s) in sessions.iter_mut().enumerate() {
        assert_eq!(s.value("SELECT @n").await?, n.to_string());
    }
    Ok(())
}

/// The time of a drain that is ordered anew counts from then.
#[tokio::test]
async fn a_drain_that_is_ordered_again_has_its_whole_time() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    let mut held = login(&shunt, &app()).await?;
    held.run("CREATE TEMPORARY TABLE kept SELECT 1 AS a").await?;
    let on = shown(&shunt, &held).await?["cn"].as_str().context("a CN")?.to_owned();
    let said = shunt.try_ctl(&["cn", "drain", &on, "--wait", "--timeout", "2s"]).await?;
    ensure!(!said.status.success(), "{said:?}");
    shunt.ctl(&["cn", "drain", &on, "--timeout", "2s", "--on-timeout", "force"]).await?;
    let ordered = tokio::time::Instant::now();
    eventually("it is closed", async || {
        ensure!(held.value("SELECT a FROM kept").await.is_err(), "it lives");
        anyhow::Ok(())
    })
    .await;
    ensure!(ordered.elapsed() > std::time::Duration::from_millis(1500), "{:?}", ordered.elapsed());
    Ok(())
}

#[tokio::test]
async fn sessions_go_home_when_their_own_cn_is_there() -> Result<()> {
    let cn = cn().await?;
    let shared = Group::named("shared").cn_with(named(&cn, 1));
    let shunt = patient(setup().group(shared)).standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app_as("acme:app?workload=ap")).await?;
    s.run("SET @n = 7").await?;
    assert_eq!(shown(&shunt, &s).await?["cn"], "cn-1");
    let address = named(&cn, 2)["address"].as_str().context("an address")?.to_owned();
    shunt.ctl(&["cn", "register", "cn-2", &address, "--label", "workload=ap"]).await?;
    are_on(&shunt, &[("cn-1", 0), ("cn-2", 1)], 0).await;
    assert_eq!(s.value("SELECT @n").await?, "7");
    // It is relabelled: the session may not stay, and goes back to where nobody is asked for anything.
    shunt.ctl(&["cn", "label", "cn-2", "workload=tp"]).await?;
    are_on(&shunt, &[("cn-1", 1), ("cn-2", 0)], 0).await;
    assert_eq!(s.value("SELECT @n").await?, "7");
    assert_eq!(shown(&shunt, &s).await?["lastMove"]["outcome"], "moved");
    s.quit().await
}

/// Whoever cannot move is asked again, later and later, and not all the time.
#[tokio::test]
async fn a_session_that_cannot_move_is_not_tried_without_end() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let mut shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    let mut sessions = vec![login(&shunt, &app()).await?, login(&shunt, &app()).await?];
    for s in &mut sessions {
        s.run("CREATE TEMPORARY TABLE kept SELECT 1").await?;
    }
    shunt.ctl(&["cn", "drain", "cn-1"]).await?;
    let tried = async |shunt: &mut Shunt| -> Result<f64> {
        let metrics = shunt.plane("standalone").metrics().await?;
        let line =
            metrics.lines().find(|line| line.starts_with("shunt_data_moves_total{outcome=\"pinned\"}"));
        Ok(line.and_then(|line| line.rsplit(' ').next()).map_or(Ok(0.0), str::parse)?)
    };
    let began = tokio::time::Instant::now();
    while tried(&mut shunt).await? < 3.0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // At once, half a second later, a second after that.
    let took = began.elapsed();
    assert!(took >= std::time::Duration::from_millis(1200), "{took:?}");
    for s in &mut sessions {
        assert_eq!(s.value("SELECT COUNT(*) FROM kept").await?, "1");
    }
    Ok(())
}

/// Sessions of clients that left, so that what is left is uneven: nobody's reason to move, but an operator's.
async fn uneven(shunt: &mut Shunt, planes: &[&str]) -> Result<Vec<Raw>> {
    let mut sessions = Vec::new();
    for plane in planes {
        let address = shunt.plane(plane).mysql();
        for n in 0..12 {
            let mut s = Raw::login(address, &Login::user("app").password("app").database("suite")).await?;
            s.run(format!("SET @n = {n}, lock_wait_timeout = {}", n + 100)).await?;
            sessions.push(s);
        }
    }
    let mut left = Vec::new();
    for s in sessions {
        match shown(shunt, &s).await?["cn"] == "cn-1" {
            true => left.push(s),
            false => s.quit().await?,
        }
    }
    are_on(shunt, &[("cn-1", left.len() as u64), ("cn-2", 0)], 0).await;
    Ok(left)
}

#[tokio::test]
async fn an_operator_sees_the_plan_and_has_sessions_evened_out() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let mut shunt = patient(setup().group(group)).standalone().await?;
    seen(&shunt).await;
    assert_eq!(shunt.ctl(&["rebalance"]).await?["parts"], json!([]));
    let mut sessions = uneven(&mut shunt, &["standalone"]).await?;
    assert_eq!(sessions.len(), 6);
    for s in &mut sessions {
        s.run("BEGIN").await?;
    }
    let why = "the other CN has 0 sessions, and its share is 3";
    for (arguments, is_dry_run) in [(&["rebalance", "--dry-run"][..], true), (&["rebalance"], false)] {
        let plan = shunt.ctl(arguments).await?;
        let part = &plan["parts"][0];
        assert_eq!((&part["from"], &part["to"], &part["why"]), (&json!("cn-1"), &json!("cn-2"), &json!(why)));
        assert_eq!(
            (&part["sessions"], &part["pinned"], &plan["dryRun"]),
            (&json!(3), &json!(3), &json!(is_dry_run))
        );
        assert_eq!(plan["parts"].as_array().map(Vec::len), Some(1), "{plan}");
    }
    // Those that could not move follow, where they are to.
    for s in &mut sessions {
        s.run("COMMIT").await?;
    }
    are_on(&shunt, &[("cn-1", 3), ("cn-2", 3)], 0).await;
    assert_eq!(shunt.ctl(&["rebalance", "--dry-run"]).await?["parts"], json!([]));
    for s in &mut sessions {
        let n: usize = s.value("SELECT @n").await?.parse()?;
        still_marked(s, n).await?;
    }
    Ok(())
}

/// A plan alone moves nothing: what is asked for by two data planes afterwards is still all there is to do.
#[tokio::test]
async fn a_dry_run_moves_nothing_on_any_data_plane() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let mut shunt = patient(setup().group(group)).planes(2).await?;
    seen(&shunt).await;
    let mut sessions = uneven(&mut shunt, &["data-1", "data-2"]).await?;
    let before = metric(&shunt, 1, "shunt_data_moves_total", "outcome=\"moved\"").await?;
    let planned = shunt.ctl(&["rebalance", "--dry-run"]).await?;
    // Some rounds of whoever would act on it.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    are_on(&shunt, &[("cn-1", sessions.len() as u64), ("cn-2", 0)], 0).await;
    assert_eq!(metric(&shunt, 1, "shunt_data_moves_total", "outcome=\"moved\"").await?, before);
    let done = shunt.ctl(&["rebalance"]).await?;
    assert_eq!(done["parts"], planned["parts"]);
    let planes: Vec<_> =
        done["parts"].as_array().context("no parts")?.iter().map(|part| &part["dataPlane"]).collect();
    ensure!(planes.len() == 2 && planes[0] != planes[1], "{done}");
    are_on(&shunt, &[("cn-1", 6), ("cn-2", 6)], 1).await;
    for s in &mut sessions {
        let n: usize = s.value("SELECT @n").await?.parse()?;
        still_marked(s, n).await?;
    }
    Ok(())
}

/// Two data planes: each moves its own, and the CN is drained when both have said so.
#[tokio::test]
async fn a_drain_is_over_when_every_data_plane_has_said_so() -> Result<()> {
    let cn = cn().await?;
    let group = Group::named("shared").cn_with(named(&cn, 1)).cn_with(named(&cn, 2));
    let mut shunt = patient(setup().group(group)).planes(2).await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for plane in ["data-1", "data-2"] {
        let address = shunt.plane(plane).mysql();
        for _ in 0..4 {
            let mut s = Raw::login(address, &Login::user("app").password("app").database("suite")).await?;
            s.run("SET @n = 3").await?;
            sessions.push(s);
        }
    }
    are_on(&shunt, &[("cn-1", 4), ("cn-2", 4)], 2).await;
    shunt.ctl(&["cn", "drain", "cn-1", "--wait"]).await?;
    are_on(&shunt, &[("cn-1", 0), ("cn-2", 8)], 0).await;
    shunt.ctl(&["cn", "undrain", "cn-1"]).await?;
    are_on(&shunt, &[("cn-1", 4), ("cn-2", 4)], 1).await;
    for s in &mut sessions {
        assert_eq!(s.value("SELECT @n").await?, "3");
    }
    Ok(())
}
