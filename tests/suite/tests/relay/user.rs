//! COM_CHANGE_USER and COM_RESET_CONNECTION: a login of its own, and a session as if new.

use crate::stand::{
    DATABASE, app, app_as, both_ways, gone_from, id_on_cn, is_pinned, login, own_cn, seen, setup, shared_cn,
    shown, shunt_before,
};
use anyhow::Result;
use serde_json::json;
use shunt_harness::mariadb::Options;
use shunt_harness::{Group, Login, Raw, Setup, Shape, com, command, eventually};

/// Two groups: `tp` on one CN for everybody, `ap` on another for who asks for it; and tenants.
fn two_groups(tp: std::net::SocketAddr, ap: std::net::SocketAddr) -> Setup {
    setup()
        .group(Group::named("tp").cn("cn-tp", tp))
        .group(Group::named("ap").label("workload", "ap").cn("cn-ap", ap))
        .tenant("acme", json!({ "default_labels": { "workload": "ap" } }))
        .tenant("gone", json!({ "suspended": true }))
        .tenant("strict", json!({ "on_no_match": "reject" }))
        .tenant("small", json!({ "max_sessions": 1 }))
}

async fn err(s: &mut Raw, to: &Login) -> Result<(u16, String)> {
    let err = s.change_user(to).await?.err().expect("a refusal");
    Ok((err.code, err.sqlstate))
}

#[tokio::test]
async fn a_changed_user_is_another_session() -> Result<()> {
    let cn = shared_cn().await;
    cn.account("other", "%", "secret two").await?;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        let before = id_on_cn(&mut s).await?;
        s.run("SET @a = 1, autocommit = 0, sql_mode = 'ANSI'").await?;
        s.run(format!("CREATE TEMPORARY TABLE {DATABASE}.t (a INT)")).await?;
        let statement = s.prepare("SELECT 1").await?;
        let other = Login { user: "other".into(), password: "secret two".into(), ..way.clone() };
        let other = Login { database: None, ..other };
        let ok = s.change_user(&other).await?;
        assert_eq!(ok.shape, Shape::SwitchOk);
        let is = s.run("SELECT USER(), DATABASE() IS NULL, @a IS NULL, @@autocommit").await?.rows()?;
        let is: Vec<_> = is[0].iter().flatten().map(String::as_str).collect();
        assert_eq!(is, ["other@127.0.0.1", "1", "1", "1"]);
        let view = shown(&shunt, &s).await?;
        assert_eq!((&view["user"], &view["pinned"]), (&json!("other"), &json!([])));
        assert_eq!(s.execute(statement, &[]).await?.err().map(|err| err.code), Some(1243));
        assert_ne!(id_on_cn(&mut s).await?, before);
        gone_from(cn, before).await?;
        // And back, with a database.
        s.change_user(&way).await?.success()?;
        assert_eq!(s.value("SELECT DATABASE()").await?, DATABASE);
        s.quit().await?;
    }
    Ok(())
}

/// A refusal leaves the old user where it was, on the connection that it had. The session's state is gone, as it is
/// on a CN itself, which forgets it before it looks at the password.
#[tokio::test]
async fn a_refused_change_leaves_the_old_user() -> Result<()> {
    let (cn, ap) = (shared_cn().await, own_cn(Options::new()).await?);
    let shunt = two_groups(cn.address(), ap.address()).standalone().await?;
    seen(&shunt).await;
    for way in both_ways(&app()) {
        let as_user = |user: &str| Login { user: user.into(), ..way.clone() };
        let wrong = Login { password: "wrong".into(), ..way.clone() };
        let nowhere = way.clone().database("no_such_database");
        let mut s = login(&shunt, &way).await?;
        let on_cn = id_on_cn(&mut s).await?;
        for (to, refused) in [
            (wrong.clone(), (1045, "28000")),
            // A suspension is told to who knows the password.
            (Login { user: "gone:app".into(), ..wrong }, (1045, "28000")),
            (as_user("gone:app"), (4151, "HY000")),
            (as_user("strict:app?nothing=here"), (1105, "08004")),
            (as_user("app?="), (1105, "08004")),
            (nowhere, (1049, "42000")),
        ] {
            s.run("SET @a = 1, autocommit = 0").await?;
            s.run(format!("CREATE TEMPORARY TABLE {DATABASE}.t (a INT)")).await?;
            let statement = s.prepare("SELECT ?").await?;
            assert_eq!(err(&mut s, &to).await?, (refused.0, refused.1.to_owned()), "{}", to.user);
            assert_eq!(id_on_cn(&mut s).await?, on_cn);
            let is = s.run("SELECT USER(), DATABASE(), @a IS NULL, @@autocommit").await?.rows()?;
            let is: Vec<_> = is[0].iter().flatten().map(String::as_str).collect();
            assert_eq!(is, ["app@127.0.0.1", DATABASE, "1", "1"], "{}", to.user);
            is_pinned(&shunt, &s, &[]).await;
            assert_eq!(s.execute(statement, &[]).await?.err().map(|err| err.code), Some(1243));
        }
        s.quit().await?;

        // The same at the CN itself.
        let mut direct = Raw::login(cn.address(), &way).await?;
        direct.run("SET @a = 1").await?;
        assert_eq!(err(&mut direct, &Login { password: "wrong".into(), ..way.clone() }).await?.0, 1045);
        assert_eq!(direct.value("SELECT @a IS NULL").await?, "1");
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_user_is_routed_anew_and_counted_anew() -> Result<()> {
    let (cn, ap) = (shared_cn().await, own_cn(Options::new()).await?);
    let shunt = two_groups(cn.address(), ap.address()).standalone().await?;
    seen(&shunt).await;
    let mut s = login(&shunt, &app()).await?;
    let id = s.connection_id();
    for (user, address, tenant) in [
        ("app?workload=ap", ap.address(), "sys"),
        ("app", cn.address(), "sys"),
        ("acme:app", ap.address(), "acme"),
        ("small:app", cn.address(), "small"),
        ("small:app", cn.address(), "small"),
    ] {
        s.change_user(&app_as(user)).await?.success()?;
        assert_eq!(s.value("SELECT @@port").await?, address.port().to_string(), "{user}");
        let view = shown(&shunt, &s).await?;
        assert_eq!((&view["tenant"], &view["id"]), (&json!(tenant), &json!(id)));
    }
    let mut second = login(&shunt, &app()).await?;
    assert_eq!(err(&mut second, &app_as("small:app")).await?, (1040, "08004".into()));
    assert_eq!(second.value("SELECT 'lives'").await?, "lives");
    // The place is free again when the one that had it is somebody else.
    s.change_user(&app()).await?.success()?;
    second.change_user(&app_as("small:app")).await?.success()?;
    eventually("the counts are right", async || {
        let cns = shunt.ctl(&["cn", "list"]).await?;
        let of = |n: usize| (cns["cns"][n]["name"].clone(), cns["cns"][n]["sessions"].clone());
        anyhow::ensure!(of(0) == (json!("cn-ap"), json!(0)), "{cns}");
        anyhow::ensure!(of(1) == (json!("cn-tp"), json!(2)), "{cns}");
        let small = shunt.ctl(&["tenant", "get", "small"]).await?;
        anyhow::ensure!(small["sessions"] == 1, "{small}");
        Ok(())
    })
    .await;
    s.quit().await?;
    second.quit().await
}

/// Drivers that name another plugin, or send no answer at all, are asked, as MariaDB always does.
#[tokio::test]
async fn a_changed_user_may_answer_only_when_asked() -> Result<()> {
    let cn = shared_cn().await;
    cn.account("nothing", "%", "").await?;
    let shunt = shunt_before(&[cn]).await?;
    let mut s = login(&shunt, &app()).await?;
    s.change_user(&app().plugin("caching_sha2_password")).await?.success()?;
    let unasked = app();
    s.send(&Login { password: String::new(), ..unasked }.change_user(s.caps, &[])).await?;
    s.receive_with(&[], "app").await?.success()?;
    s.change_user(&Login::user("nothing")).await?.success()?;
    assert_eq!(s.value("SELECT USER()").await?, "nothing@127.0.0.1");
    // Cut short, and longer than any.
    let cut = s.command(&[com::CHANGE_USER, b'x']).await?;
    assert!(cut.err().is_some());
    assert_eq!(s.value("SELECT USER()").await?, "nothing@127.0.0.1");
    s.quit().await
}

#[tokio::test]
async fn a_reset_leaves_the_database_and_nothing_else() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = shunt_before(&[cn]).await?;
    for way in both_ways(&app()) {
        let mut s = login(&shunt, &way).await?;
        let on_cn = id_on_cn(&mut s).await?;
        s.run("SET @a = 1, sql_mode = 'ANSI', autocommit = 0").await?;
        s.run(format!("CREATE TEMPORARY TABLE {DATABASE}.t (a INT)")).await?;
        let statement = s.prepare("SELECT ?").await?;
        s.send(&command::long_data(statement.id, 0, b"x")).await?;
        s.run("BEGIN").await?;
        is_pinned(&shunt, &s, &["transaction", "temporary table", "long data"]).await;
        s.command(&[com::RESET_CONNECTION]).await?.success()?;
        is_pinned(&shunt, &s, &[]).await;
        let is = s.run("SELECT @a IS NULL, @@autocommit, DATABASE(), @@sql_mode LIKE '%ANSI%'").await?;
        let is: Vec<_> = is.rows()?[0].clone().into_iter().flatten().collect();
        assert_eq!(is, ["1", "1", DATABASE, "0"]);
        assert_eq!(s.query(format!("SELECT * FROM {DATABASE}.t")).await?.err().map(|e| e.code), Some(1146));
        assert_eq!(s.execute(statement, &[]).await?.err().map(|err| err.code), Some(1243));
        assert_eq!(id_on_cn(&mut s).await?, on_cn);
        // What is tracked is tracked still.
        assert_eq!(s.value("SELECT @@session_track_system_variables").await?, "*");
        s.run("BEGIN").await?;
        is_pinned(&shunt, &s, &["transaction"]).await;
        s.quit().await?;
    }
    Ok(())
}
