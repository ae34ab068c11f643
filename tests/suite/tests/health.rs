//! CNs that are not well: what it costs a client, who gets none of them, and when they are used again.

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use serde_json::json;
use shunt_harness::fake_cn::{Answer, Door, FakeCn, error};
use shunt_harness::fault_proxy::FaultProxy;
use shunt_harness::{
    ErrPacket, Group, Login, MariaDb, Raw, Setup, Shape, Shunt, eventually, mariadb, within,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The least rights of the service account, and a user without any.
const ACCOUNTS: &[&str] = &[
    "CREATE USER shunt@'%' IDENTIFIED BY 'secret'",
    "GRANT PROCESS, CONNECTION ADMIN ON *.* TO shunt@'%'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
    "CREATE USER plain@'%' IDENTIFIED BY 'pw'",
];

/// What one try at a CN may take.
const TRY: Duration = Duration::from_secs(1);

async fn cn(id: u32) -> Result<MariaDb> {
    let cn = mariadb::Options::new().arg(format!("--server-id={id}")).start().await?;
    cn.run(ACCOUNTS).await?;
    Ok(cn)
}

/// Waits until a CN is shown so, and gives the reason.
async fn is_shown(shunt: &Shunt, name: &str, health: &str, limit: Duration) -> Result<String> {
    let shown = within(limit, async || {
        let listed = shunt.ctl(&["cn", "list"]).await?;
        let cns = listed["cns"].as_array().context("a list")?;
        let cn = cns.iter().find(|cn| cn["name"] == name).context("no such CN")?;
        ensure!(cn["health"] == health, "{cn}");
        Ok(cn.clone())
    })
    .await?;
    Ok(shown["healthReason"].as_str().unwrap_or_default().to_owned())
}

/// Logs in, and where to.
async fn land(at: SocketAddr, login: &Login) -> Result<(Raw, String)> {
    let mut session = Raw::login(at, login).await?;
    let on = session.value("SELECT @@server_id").await?;
    Ok((session, on))
}

// === every way in which a CN can fail a login ===

fn doors() -> Vec<Door> {
    vec![
        Door::Silent,
        Door::SilentInGreeting(20),
        Door::SilentAtLogin,
        Door::SilentAfterLogin,
        Door::Closed,
        Door::ClosedAtLogin,
        Door::ClosedAfterLogin,
        Door::Refused(error(1040, "", "Too many connections")),
        Door::Refused(error(1129, "", "Host is blocked")),
        Door::RefusedLogin(error(1040, "08004", "Too many connections")),
        Door::RefusedLogin(error(1047, "08S01", "WSREP has not yet prepared node for application use")),
        Door::RefusedLogin(error(1053, "08S01", "Server shutdown in progress")),
    ]
}

/// A group of a good CN and a bad one.
struct Pair {
    door: Door,
    good: FaultProxy,
    bad: FakeCn,
}

impl Pair {
    async fn new(door: Door, good: &MariaDb) -> Result<Self> {
        let bad = FakeCn::behind_shunt(&[("shunt", "secret"), ("root", "")], |_| None).await?;
        Ok(Self { door, good: FaultProxy::start(good.address()).await?, bad })
    }

    /// Twenty logins, one after the other, that all stay.
    async fn logins(&self, at: SocketAddr, n: usize, account: bool) -> Result<()> {
        self.bad.door(self.door.clone());
        let (before, begun) = (self.bad.accepted(), Instant::now());
        let login = Login::user(format!("root?door=d{n}"));
        let mut sessions = Vec::new();
        let mut slow = 0;
        for _ in 0..20 {
            let begun = Instant::now();
            let (session, on) = land(at, &login).await?;
            ensure!(on == "1", "it landed on {on}");
            sessions.push(session);
            slow += usize::from(begun.elapsed() > TRY * 9 / 10);
            ensure!(begun.elapsed() < TRY * 3, "a login took {:?}", begun.elapsed());
        }
        ensure!(slow <= 1, "{slow} of 20 logins waited for the bad CN");
        let tries = self.bad.accepted() - before;
        ensure!(tries > 0, "nobody tried it");
        // Without the service account only logins try, one in three seconds.
        let most = 1 + (begun.elapsed().as_secs() / 3) as u32;
        ensure!(account || tries <= most, "{tries} tries in {:?}", begun.elapsed());
        Ok(())
    }

    /// The bad CN is well again, and gets its part.
    async fn mended(&self, shunt: &Shunt, n: usize) -> Result<()> {
        self.bad.door(Door::Open);
        let login = Login::user(format!("root?door=d{n}"));
        eventually("it is used again", async || {
            let session = Raw::login(shunt.address(), &login).await?;
            let shown = shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await?;
            ensure!(shown["cn"] == format!("bad-{n}"), "{shown}");
            Ok(())
        })
        .await;
        Ok(())
    }
}

async fn doors_of_all_kinds(account: bool) -> Result<()> {
    let good = cn(1).await?;
    let pairs = try_join_all(doors().into_iter().map(|door| Pair::new(door, &good))).await?;
    let mut setup = Setup::new().set("limits.cn_connect", "1s");
    for (n, pair) in pairs.iter().enumerate() {
        let group = Group::named(&format!("door-{n}")).label("door", &format!("d{n}"));
        let group = group.cn(&format!("good-{n}"), pair.good.address());
        setup = setup.group(group.cn(&format!("bad-{n}"), pair.bad.address()));
    }
    let setup = if account { setup.cn_account("shunt", "secret") } else { setup };
    let shunt = setup.standalone().await?;
    if account {
        for n in 0..pairs.len() {
            is_shown(&shunt, &format!("bad-{n}"), "up", shunt_harness::patience()).await?;
        }
    }
    let at = shunt.address();
    try_join_all(pairs.iter().enumerate().map(|(n, pair)| async move {
        pair.logins(at, n, account).await.with_context(|| format!("{:?}", pair.door))
    }))
    .await?;
    for (n, pair) in pairs.iter().enumerate() {
        let reason = is_shown(&shunt, &format!("bad-{n}"), "down", Duration::from_secs(3)).await;
        // Without the account it may have been given another chance already.
        ensure!(!account || !reason?.is_empty(), "no reason for {:?}", pair.door);
    }
    try_join_all(pairs.iter().enumerate().map(|(n, pair)| pair.mended(&shunt, n))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_fails_logins_costs_one_try_and_is_left_alone() -> Result<()> {
    doors_of_all_kinds(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_more_lost_without_the_service_account() -> Result<()> {
    doors_of_all_kinds(false).await
}

// === real CNs ===

/// Two CNs, of which the second is about to have trouble.
struct Two {
    // Ends with the value.
    _good: MariaDb,
    bad: MariaDb,
    shunt: Shunt,
}

impl Two {
    async fn start() -> Result<Self> {
        let (good, bad) = tokio::try_join!(cn(1), cn(2))?;
        let group = Group::named("all").cn("good", good.address()).cn("bad", bad.address());
        let shunt = Setup::new().group(group).cn_account("shunt", "secret").standalone().await?;
        for name in ["good", "bad"] {
            is_shown(&shunt, name, "up", shunt_harness::patience()).await?;
        }
        Ok(Self { _good: good, bad, shunt })
    }

    /// So many logins at once: all land on the good one, each after one bounded try at most.
    async fn all_land_on_the_good_one(&self, n: usize) -> Result<Vec<Raw>> {
        let login = Login::user("plain").password("pw");
        let begun = Instant::now();
        let landed = try_join_all((0..n).map(|_| land(self.shunt.address(), &login))).await?;
        ensure!(begun.elapsed() < TRY * 4, "they took {:?}", begun.elapsed());
        let mut sessions = Vec::new();
        for (session, on) in landed {
            ensure!(on == "1", "one landed on {on}");
            sessions.push(session);
        }
        Ok(sessions)
    }

    /// The bad one is up again and gets the next logins, until the two are even.
    async fn is_even_again(&self, there: usize) -> Result<()> {
        is_shown(&self.shunt, "bad", "up", shunt_harness::patience()).await?;
        let login = Login::user("plain").password("pw");
        let mut sessions = Vec::new();
        for _ in 0..there {
            let (session, on) = land(self.shunt.address(), &login).await?;
            ensure!(on == "2", "the idle one got nothing");
            sessions.push(session);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_died_is_known_before_a_client_asks_for_it() -> Result<()> {
    let mut two = Two::start().await?;
    // Nobody is on it: it is missed all the same, within a second or so.
    two.bad.kill()?;
    let reason = is_shown(&two.shunt, "bad", "down", Duration::from_secs(3)).await?;
    assert!(reason.contains("connect"), "{reason}");
    let shown = two.shunt.ctl(&["cn", "get", "good"]).await?;
    assert_eq!(shown["health"], "up");
    let sessions = two.all_land_on_the_good_one(40).await?;
    two.bad.restart().await?;
    two.is_even_again(sessions.len()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_dies_under_a_session_is_down_at_once() -> Result<()> {
    let mut two = Two::start().await?;
    let login = Login::user("plain").password("pw");
    let mut there = None;
    while there.is_none() {
        let (session, on) = land(two.shunt.address(), &login).await?;
        there = (on == "2").then_some(session);
    }
    two.bad.kill()?;
    there.context("a session")?.closed().await?;
    is_shown(&two.shunt, "bad", "down", Duration::from_secs(3)).await?;
    two.all_land_on_the_good_one(10).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_hangs_holds_nobody_up_for_long() -> Result<()> {
    let two = Two::start().await?;
    two.bad.freeze().await?;
    // Before anybody can know: each login loses one try at most, and nobody is refused.
    let first = two.all_land_on_the_good_one(40).await?;
    let reason = is_shown(&two.shunt, "bad", "down", Duration::from_secs(5)).await?;
    assert!(reason.contains("no answer within"), "{reason}");
    // Now it is known: it has no sessions, and draws no login all the same.
    let begun = Instant::now();
    let then = two.all_land_on_the_good_one(40).await?;
    ensure!(begun.elapsed() < TRY, "forty logins took {:?}", begun.elapsed());
    two.bad.thaw()?;
    two.is_even_again(first.len() + then.len()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_cn_that_nobody_uses_is_found_out() -> Result<()> {
    let two = Two::start().await?;
    two.bad.freeze().await?;
    is_shown(&two.shunt, "bad", "down", Duration::from_secs(5)).await?;
    let begun = Instant::now();
    two.all_land_on_the_good_one(20).await?;
    ensure!(begun.elapsed() < TRY, "twenty logins took {:?}", begun.elapsed());
    two.bad.thaw()?;
    is_shown(&two.shunt, "bad", "up", shunt_harness::patience()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cn_is_left_alone_though_an_administrator_still_gets_in() -> Result<()> {
    let (good, full) = (cn(1).await?, mariadb::Options::new().arg("--max-connections=10").start().await?);
    full.run(ACCOUNTS).await?;
    let proxy = FaultProxy::start(full.address()).await?;
    let group = Group::named("all").cn("good", good.address()).cn("full", proxy.address());
    let shunt = Setup::new().group(group).cn_account("shunt", "secret").standalone().await?;
    is_shown(&shunt, "full", "up", shunt_harness::patience()).await?;
    // The service account may use the place above the limit, which it holds by now.
    let login = Login::user("plain").password("pw");
    let mut inside = Vec::new();
    let told = loop {
        match Raw::login(full.address(), &login).await {
            Ok(session) => inside.push(session),
            Err(error) => break error.downcast::<ErrPacket>()?,
        }
    };
    assert_eq!(told.code, 1040);

    let before = proxy.accepted();
    let mut sessions = Vec::new();
    for _ in 0..60 {
        let (session, on) = land(shunt.address(), &login).await?;
        ensure!(on == "1", "it landed on {on}");
        sessions.push(session);
    }
    let tries = proxy.accepted() - before;
    ensure!((1..20).contains(&tries), "{tries} tries for 60 logins");
    drop(inside);
    eventually("there is room again", async || {
        let session = Raw::login(shunt.address(), &login).await?;
        let shown = shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await?;
        ensure!(shown["cn"] == "full", "{shown}");
        Ok(())
    })
    .await;
    Ok(())
}

// === what a session hears ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_an_unwell_cn_in_a_session_takes_it_out() -> Result<()> {
    for (code, text) in [(1047, "WSREP has not yet prepared node"), (1053, "Server shutdown in progress")] {
        let unwell = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&unwell);
        let cn = FakeCn::behind_shunt(&[("shunt", "secret"), ("root", "")], move |received| {
            let asked = received.text();
            let fails = seen.load(Ordering::Relaxed) && (asked.starts_with("DO") || asked.contains("FROM t"));
            fails.then(|| Answer::err(code, "08S01", text))
        })
        .await?;
        let shunt = Setup::new().cn("cn-1", cn.address()).cn_account("shunt", "secret").standalone().await?;
        is_shown(&shunt, "cn-1", "up", shunt_harness::patience()).await?;
        let mut session = Raw::login(shunt.address(), &Login::user("root")).await?;
        unwell.store(true, Ordering::Relaxed);
        let told = session.query("SELECT * FROM t").await?.err().context("an error")?;
        assert_eq!((told.code, told.message.as_str()), (code, text), "the CN's own");
        let reason = is_shown(&shunt, "cn-1", "down", Duration::from_secs(3)).await?;
        assert!(reason.contains(text), "{reason}");
        // The session is its CN's still: some statements work there.
        assert_eq!(session.ping().await?.shape, Shape::Ok);
        unwell.store(false, Ordering::Relaxed);
        is_shown(&shunt, "cn-1", "up", shunt_harness::patience()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_cannot_talk_a_cn_down() -> Result<()> {
    let cn = cn(1).await?;
    let shunt = Setup::new().cn("cn-1", cn.address()).cn_account("shunt", "secret").standalone().await?;
    is_shown(&shunt, "cn-1", "up", shunt_harness::patience()).await?;
    let login = Login::user("plain").password("pw");
    let mut liar = Raw::login(shunt.address(), &login).await?;
    for code in [1040, 1047, 1053, 1129] {
        for _ in 0..20 {
            let lie = format!("SIGNAL SQLSTATE '08S01' SET MYSQL_ERRNO = {code}");
            assert_eq!(liar.query(lie).await?.err().context("an error")?.code, code);
            let login = Raw::login(shunt.address(), &login).await;
            login.with_context(|| format!("after {code}"))?.quit().await?;
        }
    }
    assert_eq!(shunt.ctl(&["cn", "get", "cn-1"]).await?["health"], "up");
    Ok(())
}

// === Galera ===

mod galera {
    //! A Galera cluster out of `deploy/local/cluster.sh`.

    use super::*;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    pub(super) struct Cluster {
        folder: PathBuf,
        port: u16,
    }

    fn script(arguments: &[&str]) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/cluster.sh");
        let output = Command::new(script).args(arguments).output().context("run cluster.sh")?;
        ensure!(
            output.status.success(),
            "cluster.sh {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    impl Cluster {
        pub(super) async fn start() -> Result<Self> {
            let folder = PathBuf::from(format!("/var/tmp/shunt-health-{}", std::process::id()));
            // It takes its base and what is 100, 200 and 300 above.
            let port = (0..1000).map(|n| 15_000 + n * 15).find(|port| {
                let taken = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_err();
                !(0..4).any(|above| (0..3).any(|node| taken(port + above * 100 + node)))
            });
            let cluster = Self { folder, port: port.context("no free ports")? };
            let (dir, base) = (cluster.folder.display().to_string(), cluster.port.to_string());
            let name = format!("health-{}", std::process::id());
            tokio::task::spawn_blocking(move || {
                script(&["up", "--dir", &dir, "--base-port", &base, "--nodes", "3", "--name", &name])
            })
            .await??;
            Ok(cluster)
        }

        pub(super) fn node(&self, n: u16) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], self.port + n - 1))
        }

        pub(super) fn password(&self, user: &str) -> Result<String> {
            Ok(std::fs::read_to_string(self.folder.join("passwords").join(user))?.trim().to_owned())
        }

        /// Sends a signal to a node.
        pub(super) fn signal(&self, n: u16, signal: &str) -> Result<()> {
            let pid = std::fs::read_to_string(self.folder.join(format!("cn-{n}/pid")))?;
            ensure!(Command::new("kill").args([signal, pid.trim()]).status()?.success(), "kill {signal}");
            Ok(())
        }
    }

    impl Drop for Cluster {
        fn drop(&mut self) {
            for node in 1..=3 {
                let _ = self.signal(node, "-CONT");
            }
            if let Err(error) = script(&["down", "--dir", &self.folder.display().to_string()]) {
                eprintln!("{error:#}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_galera_node_without_quorum_gets_nobody_until_it_has_one() -> Result<()> {
    let cluster = galera::Cluster::start().await?;
    let elsewhere = cn(9).await?;
    elsewhere.account("app", "%", &cluster.password("app")?).await?;
    let mut group = Group::named("galera").label("store", "galera");
    for node in 1..=3 {
        group = group.cn(&format!("cn-{node}"), cluster.node(node));
    }
    let shunt = Setup::new()
        .group(group)
        .group(Group::named("other").cn("other", elsewhere.address()))
        .tenant("strict", json!({ "on_no_match": "reject" }))
        .cn_account("shunt", &cluster.password("shunt")?)
        .standalone()
        .await?;
    let password = cluster.password("app")?;
    let login = |tenant: &str| Login::user(format!("{tenant}:app?store=galera")).password(password.clone());
    let at = shunt.address();
    for node in 1..=3 {
        is_shown(&shunt, &format!("cn-{node}"), "up", shunt_harness::patience()).await?;
    }
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(Raw::login(at, &login("strict")).await?);
    }

    // Two of three stand still: the third says yes to nearly everything, and is of no use.
    cluster.signal(2, "-STOP")?;
    cluster.signal(3, "-STOP")?;
    let useless = Login::user("app").password(password.clone());
    eventually("the last node has lost its quorum", async || {
        let mut session = Raw::login(cluster.node(1), &useless).await?;
        ensure!(session.value("SELECT 1").await? == "1");
        let told = session.query("DO 1").await?.err().context("it works on")?;
        ensure!(told.code == 1047, "{told}");
        Ok(())
    })
    .await;
    // From here on nobody who logs in gets there, not even before a check: whoever may goes elsewhere.
    let (_, on) = land(at, &login("acme")).await?;
    assert_eq!(on, "9");
    let refused = match Raw::login(at, &login("strict")).await {
        Ok(_) => bail!("let in"),
        Err(error) => error.downcast::<ErrPacket>()?,
    };
    ensure!(matches!(refused.code, 1105 | 1047), "{refused}");
    let reason = is_shown(&shunt, "cn-1", "down", Duration::from_secs(3)).await?;
    assert!(reason.contains("1047"), "{reason}");
    eventually("the hung ones are known", async || {
        let told = match Raw::login(at, &login("strict")).await {
            Ok(_) => bail!("let in"),
            Err(error) => error.downcast::<ErrPacket>()?,
        };
        let wanted = "every CN that carries the labels store=galera is down";
        ensure!((told.code, told.message.as_str()) == (1105, wanted), "{told}");
        Ok(())
    })
    .await;

    cluster.signal(2, "-CONT")?;
    cluster.signal(3, "-CONT")?;
    for node in 1..=3 {
        is_shown(&shunt, &format!("cn-{node}"), "up", shunt_harness::patience()).await?;
    }
    let mut session = Raw::login(at, &login("strict")).await?;
    session.run("DO 1").await?;
    Ok(())
}
