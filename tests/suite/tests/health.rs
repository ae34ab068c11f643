//! CNs that are not well: what it costs a client, who gets none of them, and when they are used again.

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use serde_json::json;
use shunt_harness::fake_cn::{Answer, Door, End, FakeCn, error};
use shunt_harness::fault_proxy::FaultProxy;
use shunt_harness::{
    ErrPacket, Galera, Group, Login, MariaDb, Raw, Setup, Shape, Shunt, eventually, mariadb, within,
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

/// What one try at a CN may take: more than by default, so that a busy machine is not taken for a CN that hangs.
const TRY: Duration = Duration::from_secs(3);

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

/// What the data plane counts of a CN: `shunt_data_cn_<what>`.
async fn on_cn(shunt: &Shunt, what: &str, cn: &str) -> Result<u32> {
    let text = shunt.planes.last().context("a data plane")?.metrics().await?;
    let sample = format!("shunt_data_cn_{what}{{cn=\"{cn}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&sample));
    Ok(value.with_context(|| format!("no {sample} in {text}"))?.parse()?)
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
        let (mut sessions, mut slow) = (Vec::new(), 0);
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
    let mut setup = Setup::new().set("limits.cn_connect", "3s");
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
    // Without the account it may have been given another chance already.
    for (n, pair) in pairs.iter().enumerate().filter(|_| account) {
        let reason = is_shown(&shunt, &format!("bad-{n}"), "down", TRY * 2).await?;
        ensure!(!reason.is_empty(), "no reason for {:?}", pair.door);
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
        let setup = Setup::new().group(group).set("limits.cn_connect", "3s");
        let shunt = setup.cn_account("shunt", "secret").standalone().await?;
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

    /// The bad one is up again and gets the next logins, and its share of the sessions that are there.
    async fn is_even_again(&self, there: usize) -> Result<()> {
        is_shown(&self.shunt, "bad", "up", shunt_harness::patience()).await?;
        let login = Login::user("plain").password("pw");
        let mut sessions = Vec::new();
        for _ in 0..there {
            sessions.push(land(self.shunt.address(), &login).await?);
        }
        ensure!(sessions.iter().any(|(_, on)| on == "2"), "the idle one got nothing");
        eventually("the two are even", async || {
            let listed = self.shunt.ctl(&["cn", "list"]).await?;
            let cns = listed["cns"].as_array().context("no list")?;
            let counts: Vec<u64> = cns.iter().filter_map(|cn| cn["sessions"].as_u64()).collect();
            ensure!(counts.len() == 2 && counts[0].abs_diff(counts[1]) <= 2, "{counts:?}");
            anyhow::Ok(())
        })
        .await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_died_is_known_before_a_client_asks_for_it() -> Result<()> {
    let mut two = Two::start().await?;
    // Nobody is on it: it is missed all the same, within a second or so.
    two.bad.kill()?;
    let reason = is_shown(&two.shunt, "bad", "down", TRY * 2).await?;
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
    is_shown(&two.shunt, "bad", "down", TRY * 2).await?;
    two.all_land_on_the_good_one(10).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_hangs_holds_nobody_up_for_long() -> Result<()> {
    let two = Two::start().await?;
    two.bad.freeze().await?;
    // Before anybody can know: each login loses one try at most, and nobody is refused.
    let first = two.all_land_on_the_good_one(40).await?;
    let reason = is_shown(&two.shunt, "bad", "down", TRY * 4).await?;
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
    is_shown(&two.shunt, "bad", "down", TRY * 4).await?;
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
        let reason = is_shown(&shunt, "cn-1", "down", TRY * 2).await?;
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

/// A CN that is taken out while it is down and a session is on it is nobody's to probe any more: the watch over it ends
/// with it, instead of beginning anew again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_is_deleted_while_it_is_down_costs_no_time() -> Result<()> {
    let accounts = [("shunt", "secret"), ("root", "")];
    let well = FakeCn::behind_shunt(&accounts, |_| None).await?;
    // It does no more work, whether asked anew or on a connection that is there.
    let stuck = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stuck);
    let gone = FakeCn::behind_shunt(&accounts, move |received| {
        let hangs = seen.load(Ordering::Relaxed) && received.text().starts_with("DO");
        hangs.then(|| Answer::Cut(Box::new(Answer::Ok), 0, End::Hang))
    })
    .await?;
    let group = Group::named("all").cn("well", well.address()).cn("gone", gone.address());
    let mut shunt = Setup::new().group(group).cn_account("shunt", "secret").planes(1).await?;
    for cn in ["well", "gone"] {
        is_shown(&shunt, cn, "up", shunt_harness::patience()).await?;
    }
    let (at, root) = (shunt.address(), Login::user("root"));
    let _one_on_each = [Raw::login(at, &root).await?, Raw::login(at, &root).await?];
    assert_eq!(on_cn(&shunt, "sessions", "gone").await?, 1);
    stuck.store(true, Ordering::Relaxed);
    is_shown(&shunt, "gone", "down", shunt_harness::patience()).await?;
    shunt.ctl(&["cn", "delete", "gone", "--force"]).await?;
    let deleted = shunt.ctl(&["status"]).await?["revision"].as_str().context("a revision")?.parse::<u64>()?;
    eventually("the data plane knows", async || {
        let text = shunt.planes[1].metrics().await?;
        let revision = text.lines().find_map(|line| line.strip_prefix("shunt_data_routing_revision "));
        ensure!(revision.context("no revision")?.parse::<u64>()? >= deleted, "not yet");
        Ok(())
    })
    .await;
    let rounds = || well.received().iter().filter(|received| received.text() == "DO 1").count();
    let after_rounds = async |n: usize| {
        let before = rounds();
        let passed = async || (rounds() >= before + n).then_some(()).context("not yet");
        eventually(&format!("{n} rounds of checks"), passed).await;
    };
    // Within four of them the last probe has come to its end.
    after_rounds(4).await;
    let process = shunt.plane("data-1").process()?;
    let (begun, used) = (Instant::now(), process.cpu_time()?.whole());
    after_rounds(3).await;
    let (took, used) = (begun.elapsed(), process.cpu_time()?.whole() - used);
    ensure!(used < took / 5, "{used:?} of {took:?}");
    Ok(())
}

// === Galera ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_galera_node_without_quorum_gets_nobody_until_it_has_one() -> Result<()> {
    let cluster = Galera::start().await?;
    let elsewhere = cn(9).await?;
    elsewhere.account("app", "%", &cluster.password("app")?).await?;
    let last = FaultProxy::start(cluster.node(1)).await?; // Each connection is a login's, or a probe's.
    let group = Group::named("galera").label("store", "galera").cn("cn-1", last.address());
    let group = group.cn("cn-2", cluster.node(2)).cn("cn-3", cluster.node(3));
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
    cluster.freeze(2)?;
    cluster.freeze(3)?;
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
    let reason = is_shown(&shunt, "cn-1", "down", TRY * 2).await?;
    assert!(reason.contains("1047"), "{reason}");
    let all_are_down = async || {
        let told = match Raw::login(at, &login("strict")).await {
            Ok(_) => bail!("let in"),
            Err(error) => error.downcast::<ErrPacket>()?,
        };
        let wanted = "every CN that carries the labels store=galera is down";
        ensure!((told.code, told.message.as_str()) == (1105, wanted), "{told}");
        Ok(())
    };
    eventually("the hung ones are known", all_are_down).await;
    // And so it stays: the node lets each probe in and answers it, and none takes that for service.
    let (before, there) = (last.accepted(), on_cn(&shunt, "sessions", "cn-1").await?);
    eventually("it was probed three times more", async || {
        let up = on_cn(&shunt, "up", "cn-1").await.unwrap();
        assert_eq!(up, 0, "it was used again after {} probes", last.accepted() - before);
        assert!(on_cn(&shunt, "sessions", "cn-1").await.unwrap() <= there, "it was given a session");
        let (_, on) = land(at, &login("acme")).await.unwrap();
        assert_eq!(on, "9");
        all_are_down().await.unwrap();
        ensure!(last.accepted() >= before + 3, "{} probes", last.accepted() - before);
        Ok(())
    })
    .await;

    cluster.thaw(2)?;
    cluster.thaw(3)?;
    for node in 1..=3 {
        is_shown(&shunt, &format!("cn-{node}"), "up", shunt_harness::patience()).await?;
    }
    let mut session = Raw::login(at, &login("strict")).await?;
    session.run("DO 1").await?;
    Ok(())
}
