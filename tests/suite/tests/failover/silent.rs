//! CNs of which nobody gets a word any more, and sessions that rest on them, or are just being asked about.

use crate::stand::{app, login, metric, seen, setup, shown};
use crate::{Two, all_settled, failed_over, settled};
use anyhow::{Result, ensure};
use serde_json::Value;
use shunt_harness::{Fault, FaultProxy, Group, Raw, Shunt, within};
use std::time::Duration;

/// Well below what a CN may take that is only buried in work.
const SOON: Duration = Duration::from_secs(10);

async fn leaves(shunt: &Shunt, s: &Raw, from: &Value) -> Result<()> {
    within(SOON, async || {
        let shown = shown(shunt, s).await?;
        ensure!(shown["cn"] != *from && shown["state"] == "idle", "{shown}");
        anyhow::Ok(())
    })
    .await
}

/// The question stands in the way of everything else that the session could be told.
#[tokio::test]
async fn a_cn_that_hangs_while_it_is_asked_does_not_hold_its_session() -> Result<()> {
    let mut two = Two::start().await?;
    let with = |setup: shunt_harness::Setup| {
        setup.set("limits.cn_connect", "300ms").set("policy.migrate.settle_after", "500ms")
    };
    let shunt = two.shunt(with).await?;
    let mut s = login(&shunt, &app()).await?;
    s.run("SET @a = 5").await?;
    settled(&shunt, &s).await;
    let on = shown(&shunt, &s).await?["cn"].clone();
    // A question that would only tell its LAST_INSERT_ID.
    s.run("INSERT INTO t (v) VALUES (7)").await?;
    s.run("SELECT 1").await?;
    let cn = two.of(&shunt, &s).await?;
    cn.freeze().await?;
    leaves(&shunt, &s, &on).await?;
    assert_eq!(s.value("SELECT @a").await?, "5");
    failed_over(&shunt, "lost", 0.0).await;
    two.cns[usize::from(on == "cn-2")].thaw()?;
    s.quit().await
}

/// No end of any connection is heard, nor a word of the CN.
#[tokio::test]
async fn sessions_leave_a_link_that_went_dead() -> Result<()> {
    let two = Two::start().await?;
    let links =
        [FaultProxy::start(two.cns[0].address()).await?, FaultProxy::start(two.cns[1].address()).await?];
    let group = Group::named("shared").cn("cn-1", links[0].address()).cn("cn-2", links[1].address());
    let shunt = setup().group(group).set("limits.cn_connect", "300ms").standalone().await?;
    seen(&shunt).await;
    let mut sessions = Vec::new();
    for n in 0..20 {
        let mut s = login(&shunt, &app()).await?;
        s.run(format!("SET @a = {n}")).await?;
        sessions.push(s);
    }
    all_settled(&shunt, 20).await;
    links[0].set(Fault::BlackHole);
    for (n, s) in sessions.iter_mut().enumerate() {
        leaves(&shunt, s, &Value::from("cn-1")).await?;
        assert_eq!(s.value("SELECT @a").await?, n.to_string());
    }
    failed_over(&shunt, "lost", 0.0).await;
    let left = metric(&shunt, 0, "shunt_data_failovers_total", "unnoticed").await?;
    ensure!((8.0..=12.0).contains(&left), "{left} of 20 were on it");
    Ok(())
}
