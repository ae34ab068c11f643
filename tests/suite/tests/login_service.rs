//! The service account: what is asked with it, what it may lack, and what is said then.

mod stand;

use anyhow::{Context as _, Result, bail, ensure};
use shunt_harness::fake_cn::{Answer, FakeCn};
use shunt_harness::{ErrPacket, Login, MariaDb, Raw, Setup, Shunt, eventually, mariadb};
use stand::shared_cn as cn;
use std::net::SocketAddr;

/// What keeps a session on its CN, as an operator sees it.
async fn pins(shunt: &Shunt, session: &Raw) -> Result<Vec<String>> {
    Ok(serde_json::from_value(stand::shown(shunt, session).await?["pinned"].clone())?)
}

/// Waits until the log of the standalone has these words.
async fn logged(shunt: &mut Shunt, words: &str) -> Result<()> {
    let process = shunt.plane("standalone").process()?;
    eventually(words, async || {
        let log = process.output();
        log.contains(words).then_some(()).with_context(|| log.clone())
    })
    .await;
    Ok(())
}

async fn poor_shunt(cn: &MariaDb, user: &str, password: &str) -> Result<Shunt> {
    poor_shunt_at(cn.address(), user, password).await
}

async fn poor_shunt_at(cn: SocketAddr, user: &str, password: &str) -> Result<Shunt> {
    Setup::new().cn("cn-1", cn).cn_account(user, password).standalone().await
}

#[tokio::test]
async fn a_grant_that_the_service_account_lacks_is_told_by_name() -> Result<()> {
    let cn = cn().await;
    cn.run(&["CREATE USER g_shunt@'%' IDENTIFIED BY 'secret'", "CREATE USER g_user@'%' IDENTIFIED BY 'one'"])
        .await?;
    let mut shunt = poor_shunt(cn, "g_shunt", "secret").await?;
    let login = Login::user("g_user").password("one");
    // Sessions are served all the same: their clients log in themselves.
    let session = Raw::login(shunt.address(), &login).await?;
    assert_eq!(pins(&shunt, &session).await?, ["credentials unknown"]);
    logged(&mut shunt, "lacks a grant: GRANT SELECT ON mysql.global_priv").await?;
    cn.run(&["GRANT SELECT ON mysql.global_priv TO g_shunt@'%'"]).await?;
    let session = Raw::login(shunt.address(), &login).await?;
    assert_eq!(pins(&shunt, &session).await?, [""; 0], "granted");
    Ok(())
}

#[tokio::test]
async fn without_the_right_to_see_or_end_sessions_a_kill_says_so() -> Result<()> {
    let cn = cn().await;
    for (user, grant) in
        [("k_neither", None), ("k_see", Some("PROCESS")), ("k_end", Some("CONNECTION ADMIN"))]
    {
        cn.run(&[
            &format!("CREATE USER {user}@'%' IDENTIFIED BY 'secret'"),
            &format!("GRANT SELECT ON mysql.global_priv TO {user}@'%'"),
        ])
        .await?;
        if let Some(grant) = grant {
            cn.run(&[&format!("GRANT {grant} ON *.* TO {user}@'%'")]).await?;
        }
        let mut shunt = poor_shunt(cn, user, "secret").await?;
        // A client vanishes while its statement runs: nobody else would end that.
        let login = Login::user("app").password("app");
        let mut client = Raw::login(shunt.address(), &login).await?;
        let statement = format!("SELECT SLEEP(1000), '{user}'");
        client.send(&shunt_harness::command::query(&statement)).await?;
        let mut root = cn.root().await?;
        let running =
            format!("SELECT COUNT(*) FROM information_schema.processlist WHERE info = \"{statement}\"");
        eventually("the statement", async || {
            ensure!(root.value(&running).await? == "1", "it does not run yet");
            Ok(())
        })
        .await;
        client.abort()?;
        logged(&mut shunt, "lacks a grant: GRANT PROCESS, CONNECTION ADMIN ON *.*").await?;
        assert_eq!(root.value(&running).await?, "1");
        cn.run(&[&format!("GRANT PROCESS, CONNECTION ADMIN ON *.* TO {user}@'%'")]).await?;
        root.run(format!("KILL USER {}", "app")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_of_the_service_account_is_told_and_mended_without_a_restart() -> Result<()> {
    let cn = cn().await;
    cn.run(&[
        "CREATE USER w_shunt@'%' IDENTIFIED BY 'other'",
        "GRANT SELECT ON mysql.global_priv TO w_shunt@'%'",
    ])
    .await?;
    let mut shunt = poor_shunt(cn, "w_shunt", "secret").await?;
    logged(&mut shunt, "cn_account is refused").await?;
    // Nobody is locked out by that.
    let login = Login::user("app").password("app");
    let session = Raw::login(shunt.address(), &login).await?;
    assert_eq!(pins(&shunt, &session).await?, ["credentials unknown"]);
    cn.run(&["ALTER USER w_shunt@'%' IDENTIFIED BY 'secret'"]).await?;
    let session = Raw::login(shunt.address(), &login).await?;
    assert_eq!(pins(&shunt, &session).await?, [""; 0]);
    Ok(())
}

/// Shunt can answer for a native password only: the CN asks it for another, and refuses.
#[tokio::test]
async fn a_service_account_of_another_plugin_is_told_and_takes_no_cn_out() -> Result<()> {
    let cn = stand::own_cn(mariadb::Options::new()).await?;
    cn.run(&["INSTALL SONAME 'auth_ed25519'"]).await?;
    cn.run(&["CREATE USER p_shunt@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret')"]).await?;
    cn.account("p_user", "%", "one").await?;
    let mut shunt = poor_shunt(&cn, "p_shunt", "secret").await?;
    logged(&mut shunt, "cn_account is refused").await?;
    let session = Raw::login(shunt.address(), &Login::user("p_user").password("one")).await?;
    assert_eq!(pins(&shunt, &session).await?, ["credentials unknown"]);
    Ok(())
}

// === look-ups ===

#[tokio::test]
async fn the_password_of_an_anonymous_account_is_found() -> Result<()> {
    let cn = stand::own_cn(mariadb::Options::new()).await?;
    cn.run(&["CREATE USER ''@'%' IDENTIFIED BY 'anyone'", "CREATE USER named@'%' IDENTIFIED BY 'one'"])
        .await?;
    let shunt = poor_shunt(&cn, "shunt", "secret").await?;
    let mut session = Raw::login(shunt.address(), &Login::user("whoever").password("anyone")).await?;
    assert_eq!(session.value("SELECT CURRENT_USER()").await?, "@%");
    assert_eq!(pins(&shunt, &session).await?, [""; 0]);
    // It opens no other account.
    for login in [Login::user("named").password("anyone"), Login::user("whoever").password("one")] {
        assert_eq!(refusal(shunt.address(), &login).await?, refusal(cn.address(), &login).await?);
    }
    Ok(())
}

async fn refusal(at: SocketAddr, login: &Login) -> Result<ErrPacket> {
    match Raw::login(at, login).await {
        Ok(_) => bail!("{login:?} was let in"),
        Err(error) => error.downcast::<ErrPacket>(),
    }
}

#[tokio::test]
async fn a_look_up_that_finds_a_cn_unwell_takes_it_out() -> Result<()> {
    let cn = FakeCn::behind_shunt(&[("shunt", "secret")], |received| {
        let asked = received.text().contains("global_priv");
        asked.then(|| Answer::err(1047, "08S01", "said in a look-up"))
    })
    .await?;
    let mut shunt = poor_shunt_at(cn.address(), "shunt", "secret").await?;
    stand::seen(&shunt).await;
    let login = Login::user("anybody").password("one");
    // Whatever becomes of this login, its look-up was heard.
    let _ = Raw::login(shunt.address(), &login).await;
    logged(&mut shunt, "cn is down cn=cn-1").await?;
    logged(&mut shunt, "said in a look-up").await
}

#[tokio::test]
async fn guessing_is_counted_where_the_passwords_are() -> Result<()> {
    let cn = stand::own_cn(mariadb::Options::new().arg("--max-password-errors=3")).await?;
    cn.account("guessed", "%", "right").await?;
    cn.account("direct", "%", "right").await?;
    let shunt = poor_shunt(&cn, "shunt", "secret").await?;
    let refusal = async |at, user: &str, password: &str| -> Result<ErrPacket> {
        refusal(at, &Login::user(user).password(password)).await
    };
    // As many guesses as a CN allows, and from then on the right password does not help, in the CN's own words.
    for n in 1..=5 {
        let own = refusal(cn.address(), "direct", "wrong").await?;
        let told = refusal(shunt.address(), "guessed", "wrong").await?;
        let message = own.message.replace("direct", "guessed");
        assert_eq!(told, ErrPacket { message, ..own }, "guess {n}");
    }
    let own = refusal(cn.address(), "direct", "right").await?;
    assert_eq!(refusal(shunt.address(), "guessed", "right").await?, own);
    assert_eq!(own.code, 4150, "{own}");
    // Nobody else is the worse for it: neither others, nor who asks on their behalf.
    Raw::login(shunt.address(), &stand::app()).await?.quit().await?;
    Ok(())
}
