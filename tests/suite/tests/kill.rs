//! KILL by the ids that Shunt gives its clients: wherever the session is, and only whom the CN would let.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use shunt_harness::fake_cn::{Answer, End, FakeCn};
use shunt_harness::{
    ErrPacket, Group, Login, MariaDb, Raw, Response, Setup, Shunt, com, command, eventually,
};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::process::Command;
use tokio::sync::OnceCell;

/// Shunt's account with the least rights, two users without any, one who may look at everybody's, and two who may end
/// anybody's session.
const ACCOUNTS: &[&str] = &[
    "CREATE USER shunt@'%' IDENTIFIED BY 'secret'",
    "GRANT PROCESS, CONNECTION ADMIN ON *.* TO shunt@'%'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
    "CREATE USER one@'%' IDENTIFIED BY 'pw'",
    "CREATE USER two@'%' IDENTIFIED BY 'pw'",
    "CREATE USER chief@'%' IDENTIFIED BY 'pw'",
    "GRANT CONNECTION ADMIN ON *.* TO chief@'%'",
    "CREATE USER 'chief@home'@'%' IDENTIFIED BY 'pw'",
    "GRANT CONNECTION ADMIN ON *.* TO 'chief@home'@'%'",
    "CREATE USER reader@'%' IDENTIFIED BY 'pw'",
    "GRANT SELECT ON mysql.* TO reader@'%'",
];

/// Two CNs: one is got with the label `at=a`, the other with `at=b`.
async fn cns() -> Result<&'static [MariaDb]> {
    static CNS: OnceCell<Vec<MariaDb>> = OnceCell::const_new();
    let cns = CNS.get_or_try_init(async || {
        let mut cns = Vec::new();
        for _ in 0..2 {
            let cn = MariaDb::start().await?;
            cn.run(ACCOUNTS).await?;
            cns.push(cn);
        }
        anyhow::Ok(cns)
    });
    Ok(cns.await?)
}

/// A control plane and two data planes in front of both CNs.
async fn two_planes() -> Result<Shunt> {
    let cns = cns().await?;
    Setup::new()
        .group(Group::named("a").label("at", "a").cn("cn-a", cns[0].address()))
        .group(Group::named("b").label("at", "b").cn("cn-b", cns[1].address()))
        .cn_account("shunt", "secret")
        .planes(2)
        .await
}

/// A place: a data plane, and a CN.
type Place = (&'static str, &'static str);

/// This session's place, as seen from (`data-1`, `a`).
const PLACES: &[(&str, Place)] = &[
    ("the same CN", ("data-1", "a")),
    ("another CN", ("data-1", "b")),
    ("another data plane", ("data-2", "a")),
    ("another data plane and CN", ("data-2", "b")),
];

async fn log_in(shunt: &mut Shunt, (plane, at): Place, user: &str) -> Result<Raw> {
    let login = Login::user(format!("{user}?at={at}")).password("pw");
    Raw::login(shunt.plane(plane).mysql(), &login).await
}

/// A session with a long statement that runs on its CN by now.
struct Sleeper {
    session: Raw,
    mark: String,
    cn: usize,
}

impl Sleeper {
    async fn start(shunt: &mut Shunt, place: Place, user: &str) -> Result<Self> {
        let session = log_in(shunt, place, user).await?;
        Self::lie_down(session, place).await
    }

    async fn lie_down(mut session: Raw, (_, at): Place) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("SELECT SLEEP(1000), {}", NEXT.fetch_add(1, Ordering::Relaxed));
        session.send(&command::query(&mark)).await?;
        let sleeper = Self { session, mark, cn: usize::from(at == "b") };
        sleeper.runs(true).await?;
        Ok(sleeper)
    }

    /// Waits until its statement runs on the CN, or does not.
    async fn runs(&self, wanted: bool) -> Result<()> {
        let mut root = cns().await?[self.cn].root().await?;
        let running =
            format!("SELECT COUNT(*) FROM information_schema.processlist WHERE info = '{}'", self.mark);
        eventually(&format!("{} runs: {wanted}", self.mark), async || {
            let now = root.value(&running).await?;
            ensure!((now == "1") == wanted, "{now} of it run");
            Ok(())
        })
        .await;
        Ok(())
    }

    fn id(&self) -> u32 {
        self.session.connection_id()
    }

    /// Only its statement was killed.
    async fn woke(mut self) -> Result<Raw> {
        let response = self.session.receive().await?;
        match response.err() {
            Some(err) => ensure!((err.code, err.sqlstate.as_str()) == (1317, "70100"), "{err}"),
            // Interrupted before it sleeps, SLEEP may only say so: it is 1 then.
            None => {
                ensure!(response.results()?[0].rows[0][..2] == *b"\x011", "it went through: {response:?}")
            }
        }
        ensure!(self.session.value("SELECT 7").await? == "7");
        Ok(self.session)
    }

    /// It was killed whole: its client sees the connection close, as a server's client does.
    async fn goes_away(mut self) -> Result<()> {
        self.session.closed().await?;
        self.runs(false).await
    }
}

/// The ways to ask for a KILL of a session's statement, or of the session.
#[derive(Clone, Copy, Debug)]
enum Way {
    KillQuery,
    Kill,
    ProcessKill,
}

async fn kill(killer: &mut Raw, way: Way, id: u32) -> Result<Response> {
    match way {
        Way::KillQuery => killer.query(format!("KILL QUERY {id}")).await,
        Way::Kill => killer.query(format!("KILL {id}")).await,
        Way::ProcessKill => killer.command(&command::with(com::PROCESS_KILL, &id.to_le_bytes())).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_reaches_the_session_wherever_it_is_and_no_other() -> Result<()> {
    let mut shunt = two_planes().await?;
    let mut bystanders = Vec::new();
    for (_, place) in PLACES {
        bystanders.push(Sleeper::start(&mut shunt, *place, "one").await?);
    }
    let mut killer = log_in(&mut shunt, ("data-1", "a"), "one").await?;
    for (what, place) in PLACES {
        for way in [Way::KillQuery, Way::Kill, Way::ProcessKill] {
            let victim = Sleeper::start(&mut shunt, *place, "one").await?;
            let answer = kill(&mut killer, way, victim.id()).await?;
            ensure!(answer.err().is_none(), "{what}, {way:?}: {answer:?}");
            if matches!(way, Way::KillQuery) {
                // It sleeps again, and idle sessions can be killed as well.
                let session = victim.woke().await.with_context(|| format!("{what}, {way:?}"))?;
                let id = session.connection_id();
                ensure!(kill(&mut killer, Way::Kill, id).await?.err().is_none(), "{what}, idle");
                let mut session = session;
                session.closed().await.with_context(|| format!("{what}, idle"))?;
            } else {
                victim.goes_away().await.with_context(|| format!("{what}, {way:?}"))?;
            }
        }
    }
    // Whoever gave the orders, and who slept through them, is well.
    assert_eq!(killer.value("SELECT 1").await?, "1");
    for bystander in bystanders {
        bystander.runs(true).await?;
        kill(&mut killer, Way::KillQuery, bystander.id()).await?;
        bystander.woke().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_can_kill_itself() -> Result<()> {
    let mut shunt = two_planes().await?;
    let cn = &cns().await?[0];
    for way in [Way::KillQuery, Way::Kill, Way::ProcessKill] {
        // As on a CN, in both what it reads and what comes after.
        let mut directly = Raw::login(cn.address(), &Login::user("one").password("pw")).await?;
        let mut session = log_in(&mut shunt, ("data-1", "a"), "one").await?;
        let (own, ours) = (directly.connection_id(), session.connection_id());
        let expected = kill(&mut directly, way, own).await?.err();
        let told = kill(&mut session, way, ours).await?.err();
        assert_eq!(told, expected, "{way:?}");
        if matches!(way, Way::KillQuery) {
            assert_eq!(directly.value("SELECT 1").await?, "1");
            assert_eq!(session.value("SELECT 1").await?, "1");
        } else {
            directly.closed().await?;
            session.closed().await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_nobody_has_is_unknown() -> Result<()> {
    let mut shunt = two_planes().await?;
    let mut killer = log_in(&mut shunt, ("data-1", "a"), "chief").await?;
    let other = log_in(&mut shunt, ("data-2", "b"), "chief").await?;
    let ended = log_in(&mut shunt, ("data-1", "b"), "chief").await?;
    let (own, there, past) = (killer.connection_id(), other.connection_id(), ended.connection_id());
    assert_ne!(own >> 20, there >> 20, "two data planes have ids of their own");
    ended.quit().await?;
    let listed = |id: u32| ["session".to_owned(), "get".into(), id.to_string()];
    eventually("the session is gone", async || {
        let arguments = listed(past);
        let said = shunt.try_ctl(&arguments.each_ref().map(String::as_str)).await?;
        ensure!(!said.status.success(), "it is there");
        Ok(())
    })
    .await;
    for id in [past, own + 4711, there + 4711, (1 << 30) + (900 << 20), (1 << 31) - 1, 1 << 31, u32::MAX] {
        for way in [Way::KillQuery, Way::Kill, Way::ProcessKill] {
            let err = kill(&mut killer, way, id).await?.err().context("something was killed")?;
            let unknown = (1094, "HY000", format!("Unknown thread id: {id}"));
            assert_eq!((err.code, err.sqlstate.as_str(), err.message), unknown, "{way:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_may_kill_what_the_cn_would_let_it() -> Result<()> {
    let mut shunt = two_planes().await?;
    let cn = &cns().await?[0];
    // What a CN says to one who may not.
    let login = |user: &str| Login::user(user).password("pw");
    let own = Raw::login(cn.address(), &login("two")).await?;
    let mut directly = Raw::login(cn.address(), &login("one")).await?;
    let denied = kill(&mut directly, Way::Kill, own.connection_id()).await?.err().context("an error")?;
    let in_its_words = |id: u32| {
        let message = denied.message.replace(&own.connection_id().to_string(), &id.to_string());
        ErrPacket { message, ..denied.clone() }
    };
    assert_eq!(denied.code, 1095);

    // The user of another tenant is another user, whatever the CN calls it.
    for (user, tenants_other) in [("two", false), ("acme:one", true)] {
        for (what, place) in PLACES {
            let mut victim = Sleeper::start(&mut shunt, *place, user).await?;
            let id = victim.id();
            // Who may read the grant tables sees the rights of others, and has none of them.
            for may_not in ["one", "reader"] {
                let mut killer = log_in(&mut shunt, ("data-1", "a"), may_not).await?;
                for way in [Way::KillQuery, Way::Kill, Way::ProcessKill] {
                    let told = kill(&mut killer, way, id).await?.err();
                    let what = format!("{may_not}, {what}, {way:?}, another tenant: {tenants_other}");
                    assert_eq!(told, Some(in_its_words(id)), "{what}");
                }
            }
            victim.runs(true).await?;
            // One whom the CN lets end others' sessions may here, too.
            for may in ["chief", "chief@home"] {
                let mut chief = log_in(&mut shunt, ("data-1", "a"), may).await?;
                let answer = kill(&mut chief, Way::KillQuery, id).await?;
                ensure!(answer.err().is_none(), "{may}, {what}: {answer:?}");
                victim = Sleeper::lie_down(victim.woke().await?, *place).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_is_known_in_any_clothes() -> Result<()> {
    let mut shunt = two_planes().await?;
    let mut killer = log_in(&mut shunt, ("data-1", "a"), "one").await?;
    for (text, whole) in [
        ("kill query #", false),
        ("KILL QUERY #;", false),
        ("  \n\tKILL\n QUERY\t# ; ", false),
        ("/* a comment */ KILL /* in */ QUERY /* every */ # /* place */", false),
        ("-- a line\nKILL QUERY -- and one more\n#", false),
        ("# another\nKill Soft Query #", false),
        ("KILL HARD QUERY #", false),
        // As clients of old do at Ctrl-C.
        ("KILL /*!50000 QUERY */ #", false),
        ("KILL CONNECTION #", true),
        ("KILL HARD #", true),
        ("/*c*/KILL/*c*/CONNECTION/*c*/#/*c*/;/*c*/", true),
    ] {
        for place in [("data-1", "a"), ("data-1", "b")] {
            let victim = Sleeper::start(&mut shunt, place, "one").await?;
            // The id stands where the last # is.
            let (before, after) = text.rsplit_once('#').context("an id")?;
            let statement = format!("{before}{}{after}", victim.id());
            let answer = killer.query(&statement).await?;
            ensure!(answer.err().is_none(), "{statement}: {answer:?}");
            let seen = if whole { victim.goes_away().await } else { victim.woke().await.map(drop) };
            seen.with_context(|| statement)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_of_shunt_s_ids_is_the_cn_s_own() -> Result<()> {
    let mut shunt = two_planes().await?;
    let cn = &cns().await?[0];
    let place = ("data-1", "a");
    let mut killer = log_in(&mut shunt, place, "one").await?;
    // The CN's own id of a session, as CONNECTION_ID() tells it.
    let mut session = log_in(&mut shunt, place, "one").await?;
    let on_cn = session.value("SELECT CONNECTION_ID()").await?;
    let victim = Sleeper::lie_down(session, place).await?;
    assert!(killer.query(format!("KILL QUERY {on_cn}")).await?.err().is_none());
    let mut session = victim.woke().await?;
    assert!(killer.query(format!("KILL {on_cn}")).await?.err().is_none());
    session.closed().await?;

    let mut directly = Raw::login(cn.address(), &Login::user("one").password("pw")).await?;
    for statement in [
        "KILL 0",
        "KILL 99999999",
        "KILL 1099511627776",
        "KILL 99999999999999999999",
        "KILL -1",
        "KILL",
        "KILL QUERY",
        "KILL 1 2",
        "KILL QUERY ID 99999999",
        "KILL USER nobody_at_all",
        "KILLS 1",
        "SELECT 1; KILL 99999999; SELECT 2",
    ] {
        let (answer, own) = (killer.query(statement).await?, directly.query(statement).await?);
        assert_eq!((answer.err(), answer.shape), (own.err(), own.shape), "{statement}");
    }
    Ok(())
}

// === a real client's Ctrl-C ===

/// MariaDB's own client, which sleeps on `at`.
fn client(at: SocketAddr, label: &str, sql: &str) -> Result<tokio::process::Child> {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--batch", "--password=pw"])
        .arg(format!("--host={}", at.ip()))
        .arg(format!("--port={}", at.port()))
        .arg(format!("--user=one?at={label}"))
        .arg(format!("--execute={sql}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().context("run mariadb")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_in_a_client_ends_its_statement_and_no_other() -> Result<()> {
    let mut shunt = two_planes().await?;
    let mut bystanders = Vec::new();
    for (_, place) in PLACES {
        bystanders.push(Sleeper::start(&mut shunt, *place, "one").await?);
    }
    for (n, at) in ["a", "b"].into_iter().enumerate() {
        let sql = format!("SELECT SLEEP(1000), 'client {at}'");
        let child = client(shunt.address(), at, &sql)?;
        let mut root = cns().await?[n].root().await?;
        eventually("the client's statement", async || {
            let running =
                "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%client%'";
            ensure!(root.value(running).await? == "1", "it does not run");
            Ok(())
        })
        .await;
        let pid = child.id().context("it ended")?.to_string();
        ensure!(Command::new("kill").args(["-INT", &pid]).status().await?.success());
        let output = tokio::time::timeout(shunt_harness::patience(), child.wait_with_output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("ERROR 1317 (70100)"), "on {at}: {said}");
    }
    for bystander in bystanders {
        bystander.runs(true).await?;
    }
    Ok(())
}

// === an operator's ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_ends_a_statement_or_a_session() -> Result<()> {
    let mut shunt = two_planes().await?;
    for (what, place) in PLACES {
        let victim = Sleeper::start(&mut shunt, *place, "one").await?;
        let id = victim.id().to_string();
        shunt.ctl(&["session", "kill", "--query", &id]).await.with_context(|| (*what).to_owned())?;
        let victim = Sleeper::lie_down(victim.woke().await?, *place).await?;
        shunt.ctl(&["session", "kill", &id]).await?;
        let Sleeper { mut session, .. } = victim;
        session.ends().await?;
        is_unknown(&shunt, &id).await?;

        // An idle one, in the middle of a transaction: nothing of it is kept.
        let mut session = log_in(&mut shunt, *place, "one").await?;
        session.run("BEGIN").await?;
        let id = session.connection_id().to_string();
        let on_cn = session.value("SELECT CONNECTION_ID()").await?;
        shunt.ctl(&["session", "kill", &id]).await?;
        session.ends().await?;
        let mut root = cns().await?[usize::from(place.1 == "b")].root().await?;
        let count = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {on_cn}");
        eventually("the CN has let go of it", async || {
            ensure!(root.value(&count).await? == "0", "it is there");
            Ok(())
        })
        .await;
        is_unknown(&shunt, &id).await?;
    }
    Ok(())
}

async fn is_unknown(shunt: &Shunt, id: &str) -> Result<()> {
    eventually("the session is unknown", async || {
        let said = shunt.try_ctl(&["session", "kill", id]).await?;
        ensure!(said.status.code() == Some(1) && said.stderr.contains(id), "{said:?}");
        let listed: Value = shunt.ctl(&["session", "list"]).await?;
        ensure!(!listed.to_string().contains(id), "{listed}");
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_service_account_a_session_still_kills_on_its_own_cn() -> Result<()> {
    let cn = &cns().await?[0];
    let mut shunt =
        Setup::new().group(Group::named("a").label("at", "a").cn("cn-a", cn.address())).standalone().await?;
    let victim = Sleeper::start(&mut shunt, ("standalone", "a"), "one").await?;
    let mut killer = log_in(&mut shunt, ("standalone", "a"), "one").await?;
    assert!(kill(&mut killer, Way::KillQuery, victim.id()).await?.err().is_none());
    let session = victim.woke().await?;
    // An operator ends the session all the same.
    let victim = Sleeper::lie_down(session, ("standalone", "a")).await?;
    shunt.ctl(&["session", "kill", &victim.id().to_string()]).await?;
    let Sleeper { mut session, .. } = victim;
    session.ends().await
}

/// A CN that was started again gives its ids again: what has the id now, from another port, is somebody else's.
#[tokio::test]
async fn an_id_that_the_cn_gave_again_is_not_killed() -> Result<()> {
    let given_again = Arc::new(AtomicBool::new(true));
    let theirs = Arc::clone(&given_again);
    let cn = FakeCn::behind_shunt(&[("shunt", "secret"), ("root", "")], move |received| {
        let asked = received.text();
        if asked.contains("SLEEP") {
            return Some(Answer::Cut(Box::new(Answer::Ok), 0, End::Hang));
        }
        let gone = theirs.load(Ordering::Relaxed) && asked.contains("host");
        let rows = if gone { Vec::new() } else { vec![vec![Some("1".to_owned())]] };
        asked.contains("processlist").then(|| Answer::Rows(vec!["1".to_owned()], rows))
    })
    .await?;
    let shunt = Setup::new().cn("cn-1", cn.address()).cn_account("shunt", "secret").standalone().await?;
    let received =
        |word: &str| cn.received().into_iter().filter(|r| r.text().contains(word)).collect::<Vec<_>>();
    for (n, again) in [(1, true), (2, false)] {
        given_again.store(again, Ordering::Relaxed);
        let mut session = Raw::login(shunt.address(), &Login::user("root")).await?;
        session.send(&command::query("SELECT SLEEP(1000)")).await?;
        let runs = async || (received("SLEEP").len() == n).then_some(()).context("not yet");
        eventually("its statement runs", runs).await;
        drop(session);
        let looked = async || (received("processlist").len() == n).then_some(()).context("not yet");
        eventually("its id is looked for", looked).await;
    }
    // One is asked after the other: when the second is killed, the first was left alone.
    eventually("the second is killed", async || {
        let kills: Vec<_> = received("KILL").iter().map(|r| r.text()).collect();
        let second = received("SLEEP")[1].connection.to_string();
        ensure!(!kills.is_empty(), "nobody is");
        assert!(kills.len() == 1 && kills[0].ends_with(&format!(" {second}")), "{kills:?}, not {second}");
        Ok(())
    })
    .await;
    Ok(())
}
