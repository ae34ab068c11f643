//! What a session does while its next CN is made ready: all of it has to be there when it goes on.

use crate::order;
use crate::stand::{app, login, seen, setup, telling_cn};
use anyhow::{Result, ensure};
use shunt_harness::mariadb::Options;
use shunt_harness::{Execute, Group, MariaDb, Param, command, eventually};

/// Waits until so many statements are prepared on a CN, by anybody.
async fn prepared(cn: &MariaDb, wanted: u32) -> Result<()> {
    let mut root = cn.root().await?;
    eventually(&format!("{wanted} statements are prepared"), async || {
        let sql = "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'Prepared_stmt_count'";
        let n = root.value(sql).await?;
        ensure!(n == wanted.to_string(), "{n}");
        anyhow::Ok(())
    })
    .await;
    root.quit().await
}

/// The types of a statement's parameters are told with its first execute, or with any later one that changes them. The
/// next CN has prepared it by then.
#[tokio::test]
async fn types_that_are_bound_while_the_next_cn_is_made_ready_are_carried() -> Result<()> {
    let cn = telling_cn(Options::new()).await?;
    cn.run(&["CREATE TABLE suite.t (a INT) ENGINE=InnoDB"]).await?;
    let group = Group::named("shared").cn("cn-1", cn.address()).cn_by_name("cn-2", cn.address());
    let shunt = setup().group(group).set("policy.migrate.freeze_deadline", "20s").standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    let never = s.prepare("SELECT CONCAT('never ', ?)").await?;
    let first = s.prepare("SELECT CONCAT('first ', ?)").await?;
    let other = s.prepare("SELECT CONCAT('other ', ?)").await?;
    s.execute(other, &[Param::Text("a".into())]).await?.success()?;
    s.run("BEGIN").await?;
    s.run("INSERT INTO t VALUES (1)").await?;
    // It waits for the transaction's end, with everything prepared on the new CN.
    let (moved, ()) = tokio::try_join!(order(&shunt, s.connection_id(), &[]), async {
        prepared(&cn, 6).await?;
        s.execute(first, &[Param::Text("b".into())]).await?.success()?;
        s.execute(other, &[Param::Long(7)]).await?.success()?;
        s.run("COMMIT").await.map(drop)
    })?;
    ensure!(moved.1 && moved.0["outcome"] == "moved", "{moved:?}");
    let without_types = Execute { omit_types: true, ..Execute::default() };
    let told = s.command(&command::execute(first.id, &[Param::Text("c".into())], without_types)).await?;
    ensure!(told.err().is_none(), "{told:?}");
    let told = s.command(&command::execute(other.id, &[Param::Long(8)], without_types)).await?;
    ensure!(
        told.err().is_none() && told.packets.iter().any(|one| one.payload.ends_with(b"other 8")),
        "{told:?}"
    );
    let told = s.execute(never, &[Param::Long(9)]).await?;
    ensure!(told.packets.iter().any(|one| one.payload.ends_with(b"never 9")), "{told:?}");
    // All of it is there once.
    prepared(&cn, 3).await?;
    s.quit().await
}
