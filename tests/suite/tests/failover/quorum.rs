//! A Galera node that lost its quorum: it lives, lets everybody in, and serves nobody.

use crate::stand::{metric, own_cn, shown};
use crate::{all_settled, failed_over};
use anyhow::{Context as _, Result, ensure};
use shunt_harness::galera::Galera;
use shunt_harness::mariadb::Options;
use shunt_harness::{ErrPacket, Group, Login, Raw, Setup, eventually, free_port};
use std::path::Path;

/// A server that is a cluster of one node.
fn node_apart() -> Result<Options> {
    let provider = ["/usr/lib/galera/libgalera_smm.so", "/usr/lib64/galera-4/libgalera_smm.so"]
        .into_iter()
        .find(|file| Path::new(file).exists())
        .context("no Galera")?;
    let group = free_port();
    let listens = format!("base_port={group};gmcast.listen_addr=tcp://127.0.0.1:{group};gcache.size=16M");
    let options =
        ["--wsrep-on=ON", "--wsrep-new-cluster", "--wsrep-cluster-address=gcomm://", "--binlog-format=ROW"]
            .into_iter()
            .fold(Options::new(), Options::arg);
    Ok(options
        .arg("--innodb-autoinc-lock-mode=2")
        .arg(format!("--wsrep-provider={provider}"))
        .arg(format!("--wsrep-node-address=127.0.0.1:{group}"))
        .arg(format!("--wsrep-provider-options={listens}")))
}

/// Sessions that rest leave it, for whatever else serves; and where nothing does, that is said.
#[tokio::test]
async fn nobody_stays_on_a_node_without_quorum() -> Result<()> {
    let cluster = Galera::start().await?;
    let (password, own) = (cluster.password("app")?, cluster.password("shunt")?);
    // A cluster of its own, which serves when that does not.
    let mut apart = own_cn(node_apart()?).await?;
    apart
        .run(&[
            &format!("SET PASSWORD FOR app@'%' = PASSWORD('{password}')"),
            &format!("SET PASSWORD FOR shunt@'127.%' = PASSWORD('{own}')"),
            "CREATE DATABASE shop",
        ])
        .await?;
    let group = (1..=3).fold(Group::named("tp"), |group, n| group.cn(&format!("cn-{n}"), cluster.node(n)));
    let setup = Setup::new().group(group.cn("apart", apart.address())).cn_account("shunt", &own);
    let shunt = setup.set("policy.migrate.wait_for_cn", "2s").standalone().await?;
    crate::stand::seen(&shunt).await;
    let login = Login::user("app").password(password).database("shop");
    let mut sessions = Vec::new();
    for n in 0..12 {
        let mut s = Raw::login(shunt.address(), &login).await?;
        s.run(format!("SET @a = {n}")).await?;
        sessions.push(s);
    }
    all_settled(&shunt, 12).await;
    cluster.kill(2).await?;
    cluster.kill(3).await?;
    for (n, s) in sessions.iter_mut().enumerate() {
        eventually("it left the cluster", async || {
            let shown = shown(&shunt, s).await?;
            ensure!(shown["cn"] == "apart" && shown["state"] == "idle", "{shown}");
            anyhow::Ok(())
        })
        .await;
        assert_eq!(s.value("SELECT @a").await?, n.to_string());
    }
    failed_over(&shunt, "lost", 0.0).await;
    let left = metric(&shunt, 0, "shunt_data_failovers_total", "unnoticed").await?;
    ensure!(left >= 9.0, "{left} of 12 were on the cluster");
    apart.kill()?;
    let told = Raw::login(shunt.address(), &login).await.err().expect("no CN serves");
    let told = told.downcast::<ErrPacket>()?;
    println!("{told}");
    ensure!(told.code == 1105 && told.sqlstate == "08004" && told.message.contains("down"), "{told}");
    for mut s in sessions {
        // As the server would: nothing was asked.
        s.closed().await?;
    }
    Ok(())
}
