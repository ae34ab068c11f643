//! What a tenant may: to be here at all, so many sessions, from where, and where to.

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use shunt_harness::{ErrPacket, Group, Login, MariaDb, Raw, Setup, Shape, Shunt, com, command, eventually};
use std::net::SocketAddr;
use tokio::sync::OnceCell;

/// Shunt's account with the least rights, and a table.
const PREPARED: &[&str] = &[
    "CREATE USER shunt@'%' IDENTIFIED BY 'secret'",
    "GRANT PROCESS, CONNECTION ADMIN ON *.* TO shunt@'%'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
    "CREATE DATABASE t",
    "CREATE TABLE t.t (a VARCHAR(80)) ENGINE=InnoDB",
];

async fn cn() -> Result<&'static MariaDb> {
    static READY: OnceCell<()> = OnceCell::const_new();
    let cn = MariaDb::shared().await;
    READY.get_or_try_init(async || cn.run(PREPARED).await).await?;
    Ok(cn)
}

/// Shunt in front of one CN, with a tenant of these fields.
async fn with_tenant(name: &str, fields: Value) -> Result<Shunt> {
    let setup = Setup::new().cn("cn-1", cn().await?.address()).tenant(name, fields);
    setup.cn_account("shunt", "secret").standalone().await
}

/// Says something new of a tenant: all its fields.
async fn declare(shunt: &Shunt, name: &str, mut fields: Value) -> Result<()> {
    fields["name"] = name.into();
    let file = shunt.folder().join("tenant.yaml");
    // JSON is YAML.
    std::fs::write(&file, json!({ "tenants": [fields] }).to_string())?;
    shunt.ctl(&["apply", "-f", &file.display().to_string()]).await?;
    Ok(())
}

/// `app` of a tenant.
fn app(tenant: &str) -> Login {
    Login::user(format!("{tenant}:app")).password("app").database("t")
}

async fn refusal(at: SocketAddr, login: &Login) -> Result<ErrPacket> {
    match Raw::login(at, login).await {
        Ok(_) => bail!("let in"),
        Err(error) => error.downcast::<ErrPacket>(),
    }
}

fn err(code: u16, sqlstate: &str, message: &str) -> ErrPacket {
    ErrPacket { code, sqlstate: sqlstate.into(), message: message.into() }
}

/// How many sessions of a tenant there are, as the data plane lists them.
async fn listed(shunt: &Shunt, tenant: &str) -> Result<usize> {
    let listed = shunt.ctl(&["session", "list", "--tenant", tenant]).await?;
    Ok(listed["sessions"].as_array().context("a list")?.len())
}

async fn count_is(shunt: &Shunt, tenant: &str, wanted: usize) {
    eventually("the sessions are counted", async || {
        let now = listed(shunt, tenant).await?;
        ensure!(now == wanted, "{now} sessions of {tenant}, not {wanted}");
        Ok(())
    })
    .await;
}

// === suspended ===

/// What the client of a session that was closed reads at its next command.
async fn last_word(session: &mut Raw) -> Result<ErrPacket> {
    // Its own command may not reach anybody any more.
    let _ = session.send(&command::query("SELECT 1")).await;
    let told = ErrPacket::decode(&session.read_packet().await?.payload)?;
    session.closed().await?;
    Ok(told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_is_let_in_no_more_and_its_sessions_end_where_they_can() -> Result<()> {
    let shunt = with_tenant("acme", json!({})).await?;
    let suspended = err(4151, "HY000", "tenant acme is suspended");
    let at = shunt.address();
    let mut idle = Raw::login(at, &app("acme")).await?;
    idle.run("SELECT 1").await?;
    let mut new = Raw::login(at, &app("acme")).await?;
    let mut committing = Raw::login(at, &app("acme")).await?;
    committing.run("BEGIN").await?;
    committing.run("INSERT INTO t VALUES ('suspended')").await?;
    let mut holder = cn().await?.root().await?;
    holder.run("SELECT GET_LOCK('suspended', 0)").await?;
    let mut busy = Raw::login(at, &app("acme")).await?;
    busy.send(&command::query("SELECT GET_LOCK('suspended', 1000), 'waited'")).await?;
    let mut autocommit = Raw::login(at, &app("acme")).await?;
    autocommit.run("SET autocommit=0").await?;
    autocommit.run("INSERT INTO t VALUES ('rolled back')").await?;
    let mut other = Raw::login(at, &app("other")).await?;

    declare(&shunt, "acme", json!({ "suspended": true })).await?;
    // Those that rest are closed, and their clients read why.
    count_is(&shunt, "acme", 3).await;
    assert_eq!(last_word(&mut idle).await?, suspended);
    assert_eq!(last_word(&mut new).await?, suspended);
    // The others end what they are at: the statement that runs, and the transaction with all that is still in it.
    holder.run("DO RELEASE_LOCK('suspended')").await?;
    let waited = busy.receive().await?;
    assert_eq!((waited.shape, waited.value()?.as_str()), (Shape::Text, "1"));
    count_is(&shunt, "acme", 2).await;
    assert_eq!(last_word(&mut busy).await?, suspended);
    committing.run("INSERT INTO t VALUES ('suspended')").await?;
    assert_eq!(committing.value("SELECT COUNT(*) FROM t WHERE a = 'suspended'").await?, "2");
    committing.run("COMMIT").await?;
    assert_eq!(last_word(&mut committing).await?, suspended);
    autocommit.run("ROLLBACK").await?;
    assert_eq!(last_word(&mut autocommit).await?, suspended);
    assert_eq!(other.value("SELECT COUNT(*) FROM t WHERE a = 'suspended'").await?, "2");
    count_is(&shunt, "acme", 0).await;

    // Nobody comes in, and only who knows the password hears why. Nor by a change of user.
    assert_eq!(refusal(at, &app("acme")).await?, suspended);
    assert_eq!(refusal(at, &app("acme").password("guess")).await?.code, 1045);
    let relayed = app("acme").plugin("caching_sha2_password");
    assert_eq!(refusal(at, &relayed).await?, suspended);
    assert_eq!(refusal(at, &relayed.password("guess")).await?.code, 1045);
    let changed = other.change_user(&app("acme")).await?;
    assert_eq!(changed.err(), Some(suspended));
    assert_eq!(other.value("SELECT 1").await?, "1", "it is what it was");

    declare(&shunt, "acme", json!({ "suspended": false })).await?;
    eventually("it is let in again", async || Raw::login(at, &app("acme")).await?.quit().await).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_login_slips_in_beside_a_suspension() -> Result<()> {
    let shunt = with_tenant("acme", json!({})).await?;
    let at = shunt.address();
    // Logins go on all the time while the tenant is suspended.
    let login = app("acme");
    let logins = async {
        let mut inside = Vec::new();
        loop {
            match Raw::login(at, &login).await {
                Ok(session) => inside.push(session),
                Err(error) => {
                    ensure!(error.downcast::<ErrPacket>()?.code == 4151, "another error");
                    return Ok(inside);
                }
            }
        }
    };
    let suspend = declare(&shunt, "acme", json!({ "suspended": true }));
    let (mut inside, suspended) = tokio::try_join!(logins, suspend)?;
    let () = suspended;
    count_is(&shunt, "acme", 0).await;
    for session in &mut inside {
        assert_eq!(last_word(session).await?.code, 4151);
    }
    Ok(())
}

// === max_sessions ===

async fn burst(at: SocketAddr, login: &Login, n: usize) -> Result<(Vec<Raw>, Vec<ErrPacket>)> {
    let logins = (0..n).map(|_| Raw::login(at, login));
    let all: Vec<Result<Raw>> = futures::stream::iter(logins).buffer_unordered(n).collect().await;
    let (mut inside, mut refused) = (Vec::new(), Vec::new());
    for one in all {
        match one {
            Ok(session) => inside.push(session),
            Err(error) => refused.push(error.downcast::<ErrPacket>()?),
        }
    }
    Ok((inside, refused))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_sessions_is_exact_and_places_come_back() -> Result<()> {
    let shunt = with_tenant("acme", json!({ "max_sessions": 50 })).await?;
    let at = shunt.address();
    let full = err(1040, "08004", "tenant acme has reached its limit of 50 sessions");
    for round in 0..3 {
        let (inside, refused) = burst(at, &app("acme"), 200).await?;
        assert_eq!((inside.len(), refused.len()), (50, 150), "round {round}");
        assert!(refused.iter().all(|told| *told == full), "{refused:?}");
        // It says so before it looks at the password, and to nobody else.
        assert_eq!(refusal(at, &app("acme").password("guess")).await?, full);
        Raw::login(at, &app("other")).await?.quit().await?;
        // In whatever way a session ends its place is free: QUIT, a FIN, a reset.
        for (n, session) in inside.into_iter().enumerate() {
            match n % 3 {
                0 => session.quit().await?,
                1 => drop(session),
                _ => session.abort()?,
            }
        }
        count_is(&shunt, "acme", 0).await;
    }
    // Logins that come to nothing take no place, whatever becomes of them.
    for _ in 0..30 {
        let wrong = app("acme").password("guess");
        assert_eq!(refusal(at, &wrong).await?.code, 1045);
        assert_eq!(refusal(at, &app("acme").database("missing")).await?.code, 1049);
        let mut leaving = Raw::connect(at, &wrong).await?;
        let response = wrong.response(&leaving.greeting);
        leaving.write(&response).await?;
        leaving.abort()?;
    }
    count_is(&shunt, "acme", 0).await;
    let (inside, _) = burst(at, &app("acme"), 60).await?;
    assert_eq!(inside.len(), 50);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_user_changes_the_tenant_that_is_counted() -> Result<()> {
    let shunt = with_tenant("acme", json!({ "max_sessions": 2 })).await?;
    let at = shunt.address();
    let full = err(1040, "08004", "tenant acme has reached its limit of 2 sessions");
    let _first = Raw::login(at, &app("acme")).await?;
    let mut second = Raw::login(at, &app("acme")).await?;
    let mut other = Raw::login(at, &app("other")).await?;
    // No room by this door either; and who is in may change without a place more.
    assert_eq!(other.change_user(&app("acme")).await?.err(), Some(full.clone()));
    assert!(second.change_user(&app("acme")).await?.err().is_none());
    // A session that leaves for another tenant leaves its place.
    assert!(second.change_user(&app("other")).await?.err().is_none());
    assert!(other.change_user(&app("acme")).await?.err().is_none());
    assert_eq!(refusal(at, &app("acme")).await?, full);
    assert_eq!((listed(&shunt, "acme").await?, listed(&shunt, "other").await?), (2, 1));
    // A change that is refused changes nothing.
    assert_eq!(
        other.change_user(&app("other").password("guess")).await?.err().context("an error")?.code,
        1045
    );
    assert_eq!(other.value("SELECT 1").await?, "1");
    assert_eq!((listed(&shunt, "acme").await?, listed(&shunt, "other").await?), (2, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_limit_ends_nobody_and_a_higher_one_counts_at_once() -> Result<()> {
    let shunt = with_tenant("acme", json!({ "max_sessions": 4 })).await?;
    let at = shunt.address();
    let (mut inside, _) = burst(at, &app("acme"), 4).await?;
    declare(&shunt, "acme", json!({ "max_sessions": 2 })).await?;
    eventually("the lower limit", async || {
        let told = refusal(at, &app("acme")).await?;
        ensure!(told.message == "tenant acme has reached its limit of 2 sessions", "{told}");
        Ok(())
    })
    .await;
    for session in &mut inside {
        assert_eq!(session.value("SELECT 1").await?, "1");
    }
    for left in [3, 2] {
        inside.pop().context("a session")?.quit().await?;
        count_is(&shunt, "acme", left).await;
        assert_eq!(refusal(at, &app("acme")).await?.code, 1040, "{left} are left");
    }
    inside.pop().context("a session")?.quit().await?;
    count_is(&shunt, "acme", 1).await;
    inside.push(Raw::login(at, &app("acme")).await?);
    declare(&shunt, "acme", json!({})).await?;
    eventually("no limit", async || Raw::login(at, &app("acme")).await?.quit().await).await;
    Ok(())
}

// === allow ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clients_of_the_allow_list_get_as_far_as_their_password() -> Result<()> {
    let fields = json!({ "allow": ["127.0.0.8/29", "10.0.0.0/8", "::1/128"], "max_sessions": 1 });
    let shunt = with_tenant("acme", fields).await?;
    let at = shunt.address();
    let from = |last: u8| app("acme").from([127, 0, 0, last]);
    for last in [7, 16, 1] {
        let told =
            err(1130, "HY000", &format!("address 127.0.0.{last} is not on the allow list of tenant acme"));
        assert_eq!(refusal(at, &from(last)).await?, told);
        assert_eq!(refusal(at, &from(last).password("guess")).await?, told);
        assert_eq!(refusal(at, &from(last).plugin("caching_sha2_password")).await?, told);
    }
    assert_eq!(refusal(at, &from(8).password("guess")).await?.code, 1045);
    let inside = Raw::login(at, &from(15)).await?;
    // Who may not come hears nothing of there being room or not.
    assert_eq!(refusal(at, &from(16)).await?.code, 1130);
    assert_eq!(refusal(at, &from(8)).await?.code, 1040);
    inside.quit().await?;
    count_is(&shunt, "acme", 0).await;
    // A change of user is a login too.
    let mut other = Raw::login(at, &app("other")).await?;
    let refused = other.change_user(&app("acme")).await?.err().context("an error")?;
    assert_eq!(refused.code, 1130);
    Raw::login(at, &from(8)).await?.quit().await?;
    // Another list, another answer; and who is in stays in.
    let mut inside = Raw::login(at, &from(8)).await?;
    declare(&shunt, "acme", json!({ "allow": ["127.0.0.16/32"] })).await?;
    eventually("the new list", async || Raw::login(at, &from(16)).await?.quit().await).await;
    assert_eq!(refusal(at, &from(8)).await?.code, 1130);
    assert_eq!(inside.value("SELECT 1").await?, "1");
    Ok(())
}

// === default labels, on_no_match ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_labels_and_on_no_match_follow_the_tenant() -> Result<()> {
    let second = MariaDb::start().await?;
    second.run(PREPARED).await?;
    let shunt = Setup::new()
        .group(Group::named("ap").label("workload", "ap").cn("cn-ap", second.address()))
        .group(Group::named("shared").cn("cn-1", cn().await?.address()))
        .tenant("acme", json!({ "default_labels": { "workload": "ap" }, "on_no_match": "reject" }))
        .cn_account("shunt", "secret")
        .standalone()
        .await?;
    let at = shunt.address();
    let lands = async |user: &str| -> Result<String> {
        let session = Raw::login(at, &Login::user(user).password("app")).await?;
        let shown = shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await?;
        Ok(shown["cn"].as_str().context("a CN")?.to_owned())
    };
    assert_eq!(lands("acme:app").await?, "cn-ap");
    assert_eq!(lands("other:app").await?, "cn-1");
    let none = err(1105, "08004", "no CN carries the labels workload=tp (tenant acme)");
    let asked = Login::user("acme:app?workload=tp").password("app");
    assert_eq!(refusal(at, &asked).await?, none);
    assert_eq!(refusal(at, &asked.clone().password("guess")).await?.code, 1045);
    // By a change of user the session goes where its new tenant's labels say.
    let mut session = Raw::login(at, &Login::user("other:app").password("app")).await?;
    assert!(session.change_user(&app("acme")).await?.err().is_none());
    let shown = shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await?;
    assert_eq!((&shown["cn"], &shown["tenant"]), (&json!("cn-ap"), &json!("acme")));
    assert_eq!(session.change_user(&asked).await?.err(), Some(none));
    assert_eq!(session.command(&[com::PING]).await?.shape, Shape::Ok);

    // Other defaults, another way out.
    declare(&shunt, "acme", json!({ "default_labels": { "workload": "tp" } })).await?;
    eventually("the new defaults", async || {
        let on = lands("acme:app").await?;
        ensure!(on == "cn-1", "{on}");
        Ok(())
    })
    .await;
    assert_eq!(lands("acme:app?workload=ap").await?, "cn-ap");
    Ok(())
}
