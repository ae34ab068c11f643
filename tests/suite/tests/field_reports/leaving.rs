//! Reports about KILL and about clients that leave: what they left must end, at little cost, and nothing else with it.

use crate::stand::{
    DATABASE, app, app_as, group_of, login, metric, own_cn, setup, shared_cn, shown, shunt_before,
};
use crate::{counted, nobody_is_left};
use anyhow::{Result, ensure};
use futures::future::join_all;
use shunt_harness::mariadb::Options;
use shunt_harness::{ErrPacket, Login, Raw, command, eventually};

/// Waits until so many of these statements run.
async fn running(root: &mut Raw, like: &str, many: usize) {
    let sql = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '{like}%'");
    eventually(&format!("{many} of {like}"), async || {
        let now = root.value(&sql).await?;
        ensure!(now == many.to_string(), "{now} run");
        anyhow::Ok(())
    })
    .await;
}

/// Each client that vanished cost a login, which for a thousand at once was a storm.
#[tokio::test]
async fn many_clients_that_vanish_at_once_cost_no_storm_of_logins() -> Result<()> {
    const CLIENTS: usize = 150;
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let (mut root, mut holder) = (cn.root().await?, cn.root().await?);
    holder.run("SELECT GET_LOCK('held', 0)").await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut s = login(&shunt, &app()).await?;
        s.send(&command::query("SELECT GET_LOCK('held', 1000)")).await?;
        clients.push(s);
    }
    running(&mut root, "SELECT GET_LOCK", CLIENTS).await;
    let before = counted(&mut root, "Connections").await?;
    let aborted = counted(&mut root, "Aborted_connects").await?;
    for client in clients {
        client.abort()?;
    }
    running(&mut root, "SELECT GET_LOCK", 0).await;
    eventually("each was killed once", async || {
        let killed = metric(&shunt, 0, "shunt_data_orphans_killed_total", "").await?;
        ensure!(killed == CLIENTS as f64, "{killed} were killed");
        anyhow::Ok(())
    })
    .await;
    let logins = counted(&mut root, "Connections").await? - before;
    assert!(logins <= 10, "{logins} logins for {CLIENTS} clients");
    assert_eq!(counted(&mut root, "Aborted_connects").await?, aborted);
    nobody_is_left(&shunt).await;
    Ok(())
}

/// MariaDB takes up to two seconds for a KILL of a SLEEP when many are killed at once. That is no reason to think the
/// CN dead, nor to let those wait who log in.
#[tokio::test]
async fn slow_kills_keep_nobody_from_logging_in() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let mut root = cn.root().await?;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut s = login(&shunt, &app()).await?;
        s.send(&command::query("SELECT SLEEP(1000)")).await?;
        clients.push(s);
    }
    running(&mut root, "SELECT SLEEP", 40).await;
    for client in clients {
        client.abort()?;
    }
    for n in 0..10 {
        let user = format!("late_{n}");
        cn.account(&user, "%", "one").await?;
        // Nobody knows its hash yet: it is asked for.
        let mut s = login(&shunt, &Login::user(&user).password("one")).await?;
        assert_eq!(shown(&shunt, &s).await?["pinned"], serde_json::json!([]), "its hash was not asked for");
        assert_eq!(s.value("SELECT 'in'").await?, "in");
    }
    let shown = shunt.ctl(&["cn", "get", "cn-1"]).await?;
    assert_eq!(shown["health"], "up", "{shown}");
    Ok(())
}

/// Statements of clients that left stayed prepared, until the server had no room for more.
#[tokio::test]
async fn a_client_that_leaves_leaves_no_statement_prepared() -> Result<()> {
    let cn = own_cn(Options::new()).await?;
    let shunt = shunt_before(&[&cn]).await?;
    let mut root = cn.root().await?;
    for by_reset in [true, false] {
        let mut sessions = Vec::new();
        for _ in 0..10 {
            let mut s = login(&shunt, &app()).await?;
            for _ in 0..10 {
                s.prepare("SELECT ?").await?;
            }
            sessions.push(s);
        }
        assert_eq!(counted(&mut root, "Prepared_stmt_count").await?, 100);
        for s in sessions {
            if by_reset { s.abort()? } else { s.quit().await? }
        }
        eventually("they are gone", async || {
            let left = counted(&mut root, "Prepared_stmt_count").await?;
            ensure!(left == 0, "{left} are left");
            anyhow::Ok(())
        })
        .await;
    }
    Ok(())
}

/// "Current" was a number that only grew.
#[tokio::test]
async fn what_is_counted_as_current_goes_down_again() -> Result<()> {
    let shunt = shunt_before(&[shared_cn().await]).await?;
    for n in [7, 3] {
        let sessions = join_all((0..n).map(async |_| login(&shunt, &app()).await)).await;
        assert_eq!(metric(&shunt, 0, "shunt_data_sessions", "").await?, f64::from(n));
        assert_eq!(metric(&shunt, 0, "shunt_data_cn_sessions", r#"cn="cn-1""#).await?, f64::from(n));
        drop(sessions);
        nobody_is_left(&shunt).await;
    }
    let text = shunt.planes[0].metrics().await?;
    for gauge in ["shunt_data_sessions", "shunt_data_cn_sessions", "shunt_data_cn_up"] {
        assert!(text.contains(&format!("# TYPE {gauge} gauge")), "{text}");
    }
    Ok(())
}

/// A KILL among other statements is not seen, and it says so: it must not be taken for done, or hit somebody else.
#[tokio::test]
async fn a_kill_among_other_statements_hits_nobody() -> Result<()> {
    let shunt = shunt_before(&[shared_cn().await]).await?;
    let (mut s, mut other) = (login(&shunt, &app()).await?, login(&shunt, &app()).await?);
    let id = other.connection_id();
    for sql in
        [format!("DO 1; KILL {id}"), format!("KILL {id}; DO 1"), format!("EXECUTE IMMEDIATE 'KILL {id}'")]
    {
        assert_eq!(s.query(&sql).await?.err().map(|err| err.code), Some(1094), "{sql}");
        assert_eq!(other.value("SELECT 'alive'").await?, "alive", "{sql}");
    }
    Ok(())
}

/// A session that killed itself took the process along. Here it does so as the first thing that it does.
#[tokio::test]
async fn a_session_may_kill_itself_at_once() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for query in ["", "QUERY "] {
        let mut direct = cn.app(DATABASE).await?;
        let own = direct.query(format!("KILL {query}{}", direct.connection_id())).await?.err();
        let mut s = login(&shunt, &app()).await?;
        let told = s.query(format!("KILL {query}{}", s.connection_id())).await?.err();
        let codes = [&own, &told].map(|err| err.as_ref().map(|err| err.code));
        assert_eq!(codes[1], codes[0], "{query}");
        let mut by_function = login(&shunt, &app()).await?;
        let told = by_function.query(format!("KILL {query}CONNECTION_ID()")).await?.err();
        assert_eq!(told.map(|err| err.code), codes[0], "{query}");
        if query.is_empty() {
            s.closed().await?;
            by_function.closed().await?;
        } else {
            assert_eq!(s.value("SELECT 'alive'").await?, "alive");
            assert_eq!(by_function.value("SELECT 'alive'").await?, "alive");
        }
    }
    assert_eq!(login(&shunt, &app()).await?.value("SELECT 'well'").await?, "well");
    nobody_is_left(&shunt).await;
    Ok(())
}

/// An account was suspended, and its sessions on other proxies lived on.
#[tokio::test]
async fn a_suspension_reaches_the_sessions_of_every_data_plane() -> Result<()> {
    let shunt =
        setup().group(group_of(&[shared_cn().await])).tenant("acme", serde_json::json!({})).planes(2).await?;
    let mut sessions = Vec::new();
    for plane in &shunt.planes[1..] {
        for user in ["acme:app", "app"] {
            let mut s = Raw::login(plane.mysql(), &app_as(user)).await?;
            s.run("DO 1").await?;
            sessions.push(s);
        }
    }
    let file = shunt.folder().join("suspended.yaml");
    std::fs::write(&file, "tenants: [ { name: acme, suspended: true } ]\n")?;
    shunt.ctl(&["apply", "-f", &file.display().to_string()]).await?;
    for (n, mut s) in sessions.into_iter().enumerate() {
        if n % 2 == 0 {
            assert_eq!(ErrPacket::decode(&s.read_packet().await?.payload)?.code, 4151);
            s.closed().await?;
        } else {
            assert_eq!(s.value("SELECT 'lives'").await?, "lives");
        }
    }
    Ok(())
}
