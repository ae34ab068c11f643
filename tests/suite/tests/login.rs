//! Logging in through Shunt: whoever the CN lets in is let in, whoever it refuses reads the CN's own words.
//!
//! What a CN makes of the address that clients come from is in `login_hosts.rs`; what the service account is for, and
//! may lack, in `login_service.rs`.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use shunt_harness::{Caps, ErrPacket, Login, MariaDb, Raw, Setup, Shunt, eventually, mariadb};
use std::collections::HashSet;
use std::net::SocketAddr;
use tokio::process::Command;
use tokio::sync::OnceCell;

/// The least rights of the service account.
const SERVICE: &[&str] = &[
    "CREATE USER shunt@'%' IDENTIFIED BY 'secret'",
    "GRANT PROCESS, CONNECTION ADMIN ON *.* TO shunt@'%'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
];

/// The CN that most tests share, with Shunt's account and the plugin ed25519.
async fn cn() -> Result<&'static MariaDb> {
    static READY: OnceCell<()> = OnceCell::const_new();
    let cn = MariaDb::shared().await;
    let ready = READY.get_or_try_init(async || {
        cn.run(&["INSTALL SONAME 'auth_ed25519'"]).await?;
        cn.run(SERVICE).await
    });
    ready.await?;
    Ok(cn)
}

/// Shunt in front of `cn`, with its account there or without.
async fn shunt(cn: &MariaDb, account: bool) -> Result<Shunt> {
    let setup = Setup::new().cn("cn-1", cn.address());
    if account { setup.cn_account("shunt", "secret") } else { setup }.standalone().await
}

/// What comes of a login.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Let in: as whom, and what the first statement said where it failed.
    In(String),
    /// Refused, in these words.
    Refused(ErrPacket),
}

/// Logs in, asks who it is, and leaves.
async fn outcome(address: SocketAddr, login: &Login) -> Result<Outcome> {
    let mut session = match Raw::login(address, login).await {
        Ok(session) => session,
        Err(error) => return Ok(Outcome::Refused(error.downcast::<ErrPacket>()?)),
    };
    let answer = session.query("SELECT CONCAT(CURRENT_USER(), ' ', IFNULL(DATABASE(), ''))").await?;
    let said = answer.err().map_or_else(|| answer.value(), |err| Ok(err.to_string()))?;
    session.quit().await?;
    Ok(Outcome::In(said))
}

/// The refusal of a login.
async fn refusal(address: SocketAddr, login: &Login) -> Result<ErrPacket> {
    match outcome(address, login).await? {
        Outcome::Refused(err) => Ok(err),
        Outcome::In(who) => bail!("{who} was let in"),
    }
}

/// What keeps a session on its CN, as an operator sees it.
async fn pins(shunt: &Shunt, session: &Raw) -> Result<Vec<String>> {
    let id = session.connection_id().to_string();
    let shown = shunt.ctl(&["session", "get", &id]).await?;
    Ok(serde_json::from_value(shown["pinned"].clone())?)
}

/// Accounts of every kind.
const ACCOUNTS: &[&str] = &[
    "CREATE USER l_plain@'%' IDENTIFIED BY 'one'",
    "CREATE USER l_empty@'%' IDENTIFIED BY ''",
    "CREATE USER l_locked@'%' IDENTIFIED BY 'one' ACCOUNT LOCK",
    "CREATE USER l_elsewhere@'10.%' IDENTIFIED BY 'one'",
    "CREATE USER l_ssl@'%' IDENTIFIED BY 'one' REQUIRE SSL",
    "CREATE USER l_disabled@'%' IDENTIFIED VIA mysql_native_password USING 'invalid'",
    "CREATE USER l_two@'%' IDENTIFIED BY 'one'",
    "CREATE USER l_two@'127.0.0.1' IDENTIFIED BY 'two'",
    "CREATE USER l_socket@'%' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('one')",
    "CREATE USER l_expired@'%' IDENTIFIED BY 'one' PASSWORD EXPIRE",
    "CREATE USER `l ö ''x`@'%' IDENTIFIED BY 'one'",
    "CREATE DATABASE l_closed",
];

/// Every account with its passwords, in every way in which clients log in. A client without PLUGIN_AUTH cannot be asked
/// again by another salt: it needs the service account, with which its password is known.
fn logins(account: bool) -> Vec<Login> {
    let users = [
        "l_plain",
        "l_empty",
        "l_locked",
        "l_elsewhere",
        "l_ssl",
        "l_disabled",
        "l_two",
        "l_socket",
        "l_expired",
        "l ö 'x",
        "l_nobody",
    ];
    let mut all = Vec::new();
    for user in users {
        for password in ["one", "two", ""] {
            let login = Login::user(user).password(password);
            all.push(login.clone());
            all.push(login.clone().plugin("caching_sha2_password"));
            // Shunt lets such a client in where an account has several plugins; a CN does not.
            if account && user != "l_socket" {
                all.push(login.clone().caps(Caps::PLUGIN_AUTH, false));
            }
            all.push(login.clone().caps(Caps::PLUGIN_AUTH_LENENC, true).attribute("_pid", "1"));
            all.push(login.deprecate_eof(true).session_track(true));
        }
    }
    all.push(Login::user("app").password("app").database("mysql"));
    all.push(Login::user("app").password("app").database("l_missing"));
    all.push(Login::user("l_plain").password("one").database("l_closed"));
    all.push(Login::user("l_plain").password("two").database("l_closed"));
    all.push(Login::user("l_expired").password("one").caps(Caps::CAN_HANDLE_EXPIRED_PASSWORDS, true));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_logs_in_is_told_what_the_cn_would_tell() -> Result<()> {
    // Of its own: a server asks a user that it does not have in the way of some other account.
    let cn = MariaDb::start().await?;
    cn.run(SERVICE).await?;
    cn.run(ACCOUNTS).await?;
    for account in [true, false] {
        let shunt = shunt(&cn, account).await?;
        let (mut inside, mut refused) = (0, 0);
        for login in logins(account) {
            let directly = outcome(cn.address(), &login).await?;
            let through = outcome(shunt.address(), &login).await?;
            ensure!(directly == through, "account {account}, {login:?}: {through:?}, directly {directly:?}");
            match directly {
                Outcome::In(_) => inside += 1,
                Outcome::Refused(_) => refused += 1,
            }
        }
        // The table is one of both kinds.
        ensure!(inside > 20 && refused > 80, "{inside} let in, {refused} refused");
    }
    Ok(())
}

#[tokio::test]
async fn an_expired_password_can_be_changed_and_the_session_goes_on() -> Result<()> {
    let cn = MariaDb::start().await?;
    cn.run(SERVICE).await?;
    for account in [true, false] {
        cn.run(&["CREATE OR REPLACE USER late@'%' IDENTIFIED BY 'one' PASSWORD EXPIRE"]).await?;
        let shunt = shunt(&cn, account).await?;
        let login = Login::user("late").password("one").session_track(true);
        let mut session = Raw::login(shunt.address(), &login).await?;
        assert_eq!(session.query("SELECT 1").await?.err().context("an error")?.code, 1820);
        session.run("SET PASSWORD = PASSWORD('new')").await?;
        assert_eq!(session.value("SELECT 1").await?, "1");
        // The session is seen again from here on: its transaction shows.
        session.run("BEGIN").await?;
        let id = session.connection_id().to_string();
        assert_eq!(shunt.ctl(&["session", "get", &id]).await?["state"], "transaction");
        session.run("ROLLBACK").await?;
        session.quit().await?;
        assert_eq!(refusal(shunt.address(), &login).await?.code, 1045);

        // And where the operator wants nobody in with such a password, but those who know what to do.
        cn.run(&["SET GLOBAL disconnect_on_expired_password = 1", "ALTER USER late@'%' PASSWORD EXPIRE"])
            .await?;
        let login = login.password("new");
        let told = refusal(shunt.address(), &login).await?;
        assert_eq!(told.code, 1862);
        assert_eq!(told, refusal(cn.address(), &login).await?);
        let able = login.caps(Caps::CAN_HANDLE_EXPIRED_PASSWORDS, true);
        assert_eq!(outcome(shunt.address(), &able).await?, outcome(cn.address(), &able).await?);
        cn.run(&["SET GLOBAL disconnect_on_expired_password = 0"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_password_counts_at_once() -> Result<()> {
    let cn = cn().await?;
    let shunt = shunt(cn, true).await?;
    cn.account("changing", "%", "0").await?;
    let login = |n: u32| Login::user("changing").password(n.to_string());
    Raw::login(shunt.address(), &login(0)).await?.quit().await?;
    for n in 1..=5 {
        cn.run(&[&format!("ALTER USER changing@'%' IDENTIFIED BY '{n}'")]).await?;
        let old = refusal(shunt.address(), &login(n - 1)).await?;
        assert_eq!(old, refusal(cn.address(), &login(n - 1)).await?);
        // Right after a look-up in which it did not fit, too: it was right, so it is known.
        let session = Raw::login(shunt.address(), &login(n)).await?;
        assert_eq!(pins(&shunt, &session).await?, [""; 0], "password {n}");
        session.quit().await?;
    }
    // A user that is gone, and comes back with another password.
    cn.run(&["DROP USER changing@'%'"]).await?;
    assert_eq!(refusal(shunt.address(), &login(5)).await?.code, 1045);
    cn.account("changing", "%", "6").await?;
    assert!(matches!(outcome(shunt.address(), &login(6)).await?, Outcome::In(_)));
    Ok(())
}

// === ed25519, with MariaDB's own client ===

/// What the mariadb client prints as this user: its output, or its error.
async fn mariadb_client(at: SocketAddr, user: &str, password: &str, sql: &str) -> Result<String> {
    let output = mariadb_command(at, user, password, sql).output().await.context("run mariadb")?;
    let said = if output.status.success() { output.stdout } else { output.stderr };
    Ok(String::from_utf8(said)?.trim().to_owned())
}

fn mariadb_command(at: SocketAddr, user: &str, password: &str, sql: &str) -> Command {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--skip-column-names", "--batch", "--connect-timeout=20"])
        .arg(format!("--host={}", at.ip()))
        .arg(format!("--port={}", at.port()))
        .arg(format!("--user={user}"))
        .arg(format!("--password={password}"))
        .arg(format!("--execute={sql}"))
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_another_plugin_log_in_themselves() -> Result<()> {
    let cn = cn().await?;
    cn.run(&[
        "CREATE USER e_only@'%' IDENTIFIED VIA ed25519 USING PASSWORD('one')",
        "CREATE USER e_first@'%' IDENTIFIED VIA ed25519 USING PASSWORD('one') \
         OR mysql_native_password USING PASSWORD('two')",
        "CREATE USER e_last@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('two') \
         OR ed25519 USING PASSWORD('one')",
    ])
    .await?;
    for account in [true, false] {
        let shunt = shunt(cn, account).await?;
        let mut inside = 0;
        for user in ["e_only", "e_first", "e_last"] {
            for password in ["one", "two", "three", ""] {
                let sql = "SELECT CURRENT_USER()";
                let directly = mariadb_client(cn.address(), user, password, sql).await?;
                let through = mariadb_client(shunt.address(), user, password, sql).await?;
                assert_eq!(through, directly, "{user} with {password:?}, account {account}");
                inside += usize::from(directly == format!("{user}@%"));
            }
        }
        assert_eq!(inside, 5, "one password of the first, two of the others");
    }
    Ok(())
}

/// The client's answer fits a hash of the user's, and the CN chooses an account of the same name that has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_of_another_plugin_is_chosen_by_its_host() -> Result<()> {
    let cn = cn().await?;
    cn.run(&[
        "CREATE USER e_host@'%' IDENTIFIED BY 'one'",
        "CREATE USER e_host@'127.%' IDENTIFIED VIA ed25519 USING PASSWORD('one')",
        "CREATE USER e_other@'%' IDENTIFIED BY 'one'",
        "CREATE USER e_other@'127.%' IDENTIFIED VIA ed25519 USING PASSWORD('two')",
    ])
    .await?;
    let shunt = shunt(cn, true).await?;
    for (user, password, inside) in [
        ("e_host", "one", true),
        ("e_host", "two", false),
        ("e_other", "one", false),
        ("e_other", "two", true),
    ] {
        let sql = "SELECT CURRENT_USER()";
        let directly = mariadb_client(cn.address(), user, password, sql).await?;
        assert_eq!(directly == format!("{user}@127.%"), inside, "{directly}");
        assert_eq!(
            mariadb_client(shunt.address(), user, password, sql).await?,
            directly,
            "{user} {password}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn only_a_password_that_is_known_lets_a_session_move() -> Result<()> {
    let cn = cn().await?;
    cn.run(&[
        "CREATE USER m_either@'%' IDENTIFIED VIA ed25519 USING PASSWORD('one') \
         OR mysql_native_password USING PASSWORD('two')",
        "CREATE USER m_plain@'%' IDENTIFIED BY 'one'",
        "CREATE USER m_both@'%' IDENTIFIED VIA mysql_native_password USING PASSWORD('one') \
         OR mysql_native_password USING PASSWORD('two')",
    ])
    .await?;
    let knowing = shunt(cn, true).await?;
    // The native half of an account is enough, and found where mysql.user does not show it.
    let session = Raw::login(knowing.address(), &Login::user("m_either").password("two")).await?;
    assert_eq!(pins(&knowing, &session).await?, [""; 0]);
    // One of two native ones is among the further ones, whichever it is.
    for password in ["one", "two"] {
        let session = Raw::login(knowing.address(), &Login::user("m_both").password(password)).await?;
        assert_eq!(pins(&knowing, &session).await?, [""; 0], "{password}");
    }
    // A client that speaks another plugin first is asked for the native one, and then known too.
    let login = Login::user("m_plain").password("one");
    let other = Raw::login(knowing.address(), &login.clone().plugin("caching_sha2_password")).await?;
    assert_eq!(other.login_packets.len(), 3, "greeting, switch, OK");
    assert_eq!(pins(&knowing, &other).await?, [""; 0]);

    // With ed25519 nobody but the client knows it.
    let client = mariadb_command(knowing.address(), "m_either", "one", "SELECT SLEEP(100)").spawn()?;
    let pinned = eventually("the client's session", async || {
        let shown = knowing.ctl(&["session", "list"]).await?;
        let sessions = shown["sessions"].as_array().context("a list")?;
        let asleep = sessions.iter().find(|s| s["user"] == "m_either" && s["state"] == "active");
        asleep.map(|session| session["pinned"].clone()).context("not there yet")
    })
    .await;
    assert_eq!(pinned, json!(["credentials unknown"]));
    drop(client);

    // And without the service account Shunt knows nobody's, but that of those who have none.
    let blind = shunt(cn, false).await?;
    let session = Raw::login(blind.address(), &login).await?;
    assert_eq!(pins(&blind, &session).await?, ["credentials unknown"]);
    let root = Raw::login(blind.address(), &Login::user("root")).await?;
    assert_eq!(pins(&blind, &root).await?, [""; 0]);
    Ok(())
}

// === the greeting ===

#[tokio::test]
async fn a_thousand_greetings_break_no_client() -> Result<()> {
    let cn = cn().await?;
    let shunt = shunt(cn, true).await?;
    let (mut ids, mut salts) = (HashSet::new(), HashSet::new());
    for _ in 0..1000 {
        let greeted = Raw::connect(shunt.address(), &Login::user("nobody")).await?;
        let greeting = &greeted.greeting;
        // Some drivers read the id as a signed number.
        assert!((1 << 30..1 << 31).contains(&greeting.connection_id), "{}", greeting.connection_id);
        let breaks = |byte: &u8| *byte == 0 || *byte == b'$' || *byte > 0x7F;
        assert!(greeting.salt.len() == 20 && !greeting.salt.iter().any(breaks), "{:02x?}", greeting.salt);
        ids.insert(greeting.connection_id);
        salts.insert(greeting.salt.clone());
    }
    assert_eq!((ids.len(), salts.len()), (1000, 1000), "each its own");
    // It greets as the CN does, but for what it does not offer.
    let own = Raw::connect(cn.address(), &Login::user("nobody")).await?.greeting.clone();
    let ours = Raw::connect(shunt.address(), &Login::user("nobody")).await?.greeting;
    assert_eq!((&ours.version, ours.charset, ours.status), (&own.version, own.charset, own.status));
    assert_eq!(ours.plugin, mariadb_native());
    for refused in [Caps::SSL, Caps::COMPRESS, Caps::MARIADB_PROGRESS, Caps::MARIADB_CACHE_METADATA] {
        assert!(!ours.caps.has(refused), "{:?}", ours.caps);
    }
    Ok(())
}

fn mariadb_native() -> &'static str {
    shunt_harness::login::NATIVE
}

#[tokio::test]
async fn a_client_that_wants_tls_is_told_that_there_is_none() -> Result<()> {
    let shunt = shunt(cn().await?, true).await?;
    let mut client = Raw::connect(shunt.address(), &Login::user("app")).await?;
    let caps = (Login::user("app").caps | Caps::SSL).base();
    let mut request = caps.to_le_bytes().to_vec();
    request.extend(0x0100_0000_u32.to_le_bytes());
    request.push(45);
    request.extend([0; 23]);
    client.write(&request).await?;
    let packet = client.read_packet().await?;
    let err = ErrPacket::decode(&packet.payload)?;
    assert!(err.message.contains("TLS is not offered"), "{err}");
    assert_eq!((packet.sequence, err.sqlstate.len()), (2, 5));
    client.closed().await?;
    // Whoever insists reads that, and whoever does not is let in.
    let mut insisting = mariadb_command(shunt.address(), "app", "app", "SELECT 1");
    let output = insisting.args(["--ssl", "--ssl-verify-server-cert"]).output().await?;
    assert!(!output.status.success(), "let in without TLS");
    Ok(())
}

// === init_connect ===

/// A server on which `init_connect` is this for all but administrators.
async fn cn_with_init(init: &str) -> Result<MariaDb> {
    let cn = mariadb::Options::new().arg(format!("--init-connect={init}")).start().await?;
    cn.run(SERVICE).await?;
    cn.run(&[
        "CREATE DATABASE i",
        "CREATE TABLE i.t (a INT) ENGINE=InnoDB",
        "CREATE USER plain@'%' IDENTIFIED BY 'one'",
        "GRANT SELECT, INSERT ON i.* TO plain@'%'",
    ])
    .await?;
    Ok(cn)
}

#[tokio::test]
async fn a_failing_init_connect_is_a_refusal_and_no_late_error() -> Result<()> {
    let (good, bad) = (MariaDb::start().await?, cn_with_init("SELECT nothing_there").await?);
    good.run(SERVICE).await?;
    good.account("plain", "%", "one").await?;
    let login = Login::user("plain").password("one").database("i");
    // A CN lets the client in, and breaks with it at its first statement.
    let mut directly = Raw::login(bad.address(), &login).await?;
    assert_eq!(directly.query("DO 1").await?.err().context("an error")?.code, 1184);

    for account in [true, false] {
        let alone = shunt(&bad, account).await?;
        let told = refusal(alone.address(), &login).await?;
        assert_eq!((told.code, told.sqlstate.as_str()), (1184, "08S01"), "{told}");
        assert!(told.message.contains("init_connect"), "{told}");
        // It is this user's trouble: the CN serves others.
        let shown = alone.ctl(&["cn", "get", "cn-1"]).await?;
        assert_ne!(shown["health"], "down", "{shown}");
        assert!(matches!(outcome(alone.address(), &Login::user("root")).await?, Outcome::In(_)));
    }
    // With a CN that lets it in, the client hears nothing of it.
    let setup = Setup::new()
        .group(shunt_harness::Group::named("all").cn("good", good.address()).cn("bad", bad.address()));
    let both = setup.cn_account("shunt", "secret").standalone().await?;
    let login = Login::user("plain").password("one");
    for _ in 0..6 {
        let session = Raw::login(both.address(), &login).await?;
        let id = session.connection_id().to_string();
        assert_eq!(both.ctl(&["session", "get", &id]).await?["cn"], "good");
    }
    Ok(())
}

#[tokio::test]
async fn an_init_connect_that_turns_autocommit_off_is_seen() -> Result<()> {
    let cn = cn_with_init("SET autocommit=0").await?;
    for account in [true, false] {
        let shunt = shunt(&cn, account).await?;
        let login = Login::user("plain").password("one").database("i");
        let mut session = Raw::login(shunt.address(), &login).await?;
        let id = session.connection_id().to_string();
        // The login's OK says otherwise: it is what the CN does that counts.
        assert_eq!(session.value("SELECT @@autocommit").await?, "0");
        assert_eq!(shunt.ctl(&["session", "get", &id]).await?["state"], "idle");
        session.run("INSERT INTO t VALUES (1)").await?;
        let shown = shunt.ctl(&["session", "get", &id]).await?;
        assert_eq!((&shown["state"], &shown["pinned"]), (&json!("transaction"), &pinned(account)));
        session.run("ROLLBACK").await?;
        assert_eq!(session.value("SELECT COUNT(*) FROM t").await?, "0");
        session.quit().await?;
    }
    Ok(())
}

fn pinned(account: bool) -> serde_json::Value {
    if account { json!(["transaction"]) } else { json!(["transaction", "credentials unknown"]) }
}

// === roles ===

#[tokio::test]
async fn a_role_in_the_user_name_is_the_session_s_role() -> Result<()> {
    let cn = cn().await?;
    cn.run(&[
        "CREATE ROLE r_reports",
        "CREATE ROLE `r ``odd`",
        "CREATE ROLE r_secret",
        "CREATE USER r_user@'%' IDENTIFIED BY 'one'",
        "GRANT r_reports TO r_user@'%'",
        "GRANT `r ``odd` TO r_user@'%'",
    ])
    .await?;
    for account in [true, false] {
        let shunt = shunt(cn, account).await?;
        for (user, role) in [
            ("r_user", None),
            ("acme:r_user", None),
            ("acme:r_user:r_reports", Some("r_reports")),
            ("acme#r_user#r_reports", Some("r_reports")),
            ("acme:r_user:r `odd", Some("r `odd")),
        ] {
            let mut session = Raw::login(shunt.address(), &Login::user(user).password("one")).await?;
            let rows = session.run("SELECT CURRENT_ROLE(), CURRENT_USER()").await?.rows()?;
            assert_eq!(rows, [[role.map(str::to_owned), Some("r_user@%".into())]], "{user}");
            session.quit().await?;
        }
        // A role that is not the user's is refused in the CN's words, and the CN is none the worse.
        let mut directly = Raw::login(cn.address(), &Login::user("r_user").password("one")).await?;
        let own = directly.query("SET ROLE `r_secret`").await?.err().context("an error")?;
        let login = Login::user("acme:r_user:r_secret").password("one");
        assert_eq!(refusal(shunt.address(), &login).await?, own);
        assert_ne!(shunt.ctl(&["cn", "get", "cn-1"]).await?["health"], "down");
        // The password comes first.
        assert_eq!(refusal(shunt.address(), &login.password("two")).await?.code, 1045);
    }
    Ok(())
}

#[tokio::test]
async fn names_that_are_none_are_refused_with_their_cause() -> Result<()> {
    let shunt = shunt(cn().await?, true).await?;
    for (user, cause) in [
        (":app", "empty"),
        ("acme:", "empty"),
        ("acme:app:role:more", "more than tenant, user and role"),
        ("app?workload", "is not key=value"),
        ("app?tenant=acme", "tenant"),
    ] {
        let told = refusal(shunt.address(), &Login::user(user).password("app")).await?;
        assert_eq!((told.code, told.sqlstate.as_str()), (1105, "08004"), "{user}");
        assert!(told.message.contains(cause), "{user}: {told}");
    }
    Ok(())
}
