//! Which CN a session gets: a table of cases over real sessions, the same rows through `shuntctl explain`, changes of
//! labels, and many logins at once.

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use shunt_harness::{ErrPacket, Group, Login, MariaDb, Raw, Setup, Shunt, eventually, free_port, mariadb};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use tokio::sync::OnceCell;

/// The least rights of the service account.
const SERVICE: &[&str] = &[
    "CREATE USER shunt@'%' IDENTIFIED BY 'secret'",
    "GRANT PROCESS, CONNECTION ADMIN ON *.* TO shunt@'%'",
    "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
];

/// Four servers, told apart by `@@server_id`: cn-1 is on the server 1, and so on.
async fn servers() -> Result<&'static [MariaDb]> {
    static SERVERS: OnceCell<Vec<MariaDb>> = OnceCell::const_new();
    let servers = SERVERS.get_or_try_init(async || {
        let start = (1..=4).map(|id| async move {
            let server = mariadb::Options::new().arg(format!("--server-id={id}")).start().await?;
            server.run(SERVICE).await?;
            anyhow::Ok(server)
        });
        futures::future::try_join_all(start).await
    });
    Ok(servers.await?)
}

// === the table ===

/// Where a login is to get.
#[derive(Clone, Copy, Debug)]
enum Gets {
    /// Any of these, in equal parts.
    Cns(&'static [u32]),
    /// Nowhere: error number, SQLSTATE, text.
    Refused(u16, &'static str, &'static str),
}
use Gets::{Cns, Refused};

/// A login, the request that it makes, and what it is to get.
struct Row {
    user: &'static str,
    attributes: &'static [(&'static str, &'static str)],
    tenant: &'static str,
    labels: &'static [&'static str],
    gets: Gets,
}

const fn row(
    user: &'static str,
    attributes: &'static [(&'static str, &'static str)],
    tenant: &'static str,
    labels: &'static [&'static str],
    gets: Gets,
) -> Row {
    Row { user, attributes, tenant, labels, gets }
}

/// A fleet with dedicated, labelled and plain CNs.
const FLEET: &[Row] = &[
    row("app", &[], "sys", &[], Cns(&[3])),
    row("sys:app", &[], "sys", &[], Cns(&[3])),
    row("acme:app", &[], "acme", &[], Cns(&[3])),
    row("acme:app?workload=tp", &[], "acme", &["workload=tp"], Cns(&[1])),
    row("acme#app?workload=tp", &[], "acme", &["workload=tp"], Cns(&[1])),
    // A further label keeps cn-4 out above; asked for, it is the only one that has it.
    row("acme:app?workload=tp,tier=gold", &[], "acme", &["workload=tp", "tier=gold"], Cns(&[4])),
    row("acme:app?tier=silver,workload=tp", &[], "acme", &["workload=tp", "tier=silver"], Cns(&[4])),
    row("acorn:app?tier=silver,workload=tp", &[], "acorn", &["workload=tp", "tier=silver"], Cns(&[4])),
    row("ocean:app?tier=silver,workload=tp", &[], "ocean", &["workload=tp", "tier=silver"], Cns(&[3])),
    // Another value, another tenant, another case: neither, so what has no labels.
    row("acme:app?workload=tp,tier=lead", &[], "acme", &["workload=tp", "tier=lead"], Cns(&[3])),
    row("other:app?workload=tp", &[], "other", &["workload=tp"], Cns(&[3])),
    row("Acme:app?workload=tp", &[], "Acme", &["workload=tp"], Cns(&[3])),
    row("acme:app?workload=TP", &[], "acme", &["workload=TP"], Cns(&[3])),
    row("app?nobody=has", &[], "sys", &["nobody=has"], Cns(&[3])),
    // CNs of no tenant are everybody's.
    row("acme:app?workload=ap", &[], "acme", &["workload=ap"], Cns(&[2])),
    row("app?workload=ap", &[], "sys", &["workload=ap"], Cns(&[2])),
    // Either value will do, and the tenant's own CNs come first.
    row("acme:app?workload=ap,workload=tp", &[], "acme", &["workload=ap", "workload=tp"], Cns(&[1])),
    // Connection attributes ask too, where their key is a label's; the user name is heard first.
    row("acme:app", &[("workload", "tp")], "acme", &["workload=tp"], Cns(&[1])),
    row("acme:app", &[("workload", "tp"), ("colour", "red")], "acme", &["workload=tp"], Cns(&[1])),
    row("acme:app?workload=ap", &[("workload", "tp")], "acme", &["workload=ap"], Cns(&[2])),
    row("acme:app?workload=tp", &[("tier", "gold")], "acme", &["workload=tp", "tier=gold"], Cns(&[4])),
    // What a tenant asks for by default, unless its client asks otherwise.
    row("analysts:app", &[], "analysts", &[], Cns(&[2])),
    row("analysts:app?workload=tp", &[], "analysts", &["workload=tp"], Cns(&[3])),
    // A tenant that would rather have nothing than a CN without labels. One that asks for nothing gets it.
    row("strict:app", &[], "strict", &[], Cns(&[3])),
    row("strict:app?workload=ap", &[], "strict", &["workload=ap"], Cns(&[2])),
    row(
        "strict:app?workload=tp",
        &[],
        "strict",
        &["workload=tp"],
        Refused(1105, "08004", "no CN carries the labels workload=tp (tenant strict)"),
    ),
    row("closed:app", &[], "closed", &[], Refused(4151, "HY000", "tenant closed is suspended")),
    row(
        "far:app",
        &[],
        "far",
        &[],
        Refused(1130, "HY000", "address 127.0.0.1 is not on the allow list of tenant far"),
    ),
    row("near:app", &[], "near", &[], Cns(&[3])),
];

fn fleet(servers: &[MariaDb]) -> Setup {
    let at = |n: usize| servers[n - 1].address();
    Setup::new()
        .group(Group::named("tp").label("workload", "tp").tenant("acme").cn("cn-1", at(1)))
        .group(Group::named("ap").label("workload", "ap").cn("cn-2", at(2)))
        .group(Group::named("shared").cn("cn-3", at(3)))
        .group(
            Group::named("gold")
                .label("workload", "tp")
                .label("tier", "gold,silver")
                .tenant("ac*")
                .cn("cn-4", at(4)),
        )
        .tenant("analysts", json!({ "default_labels": { "workload": "ap" } }))
        .tenant("strict", json!({ "on_no_match": "reject" }))
        .tenant("closed", json!({ "suspended": true }))
        .tenant("far", json!({ "allow": ["10.0.0.0/8", "2001:db8::/32"] }))
        .tenant("near", json!({ "allow": ["10.0.0.0/8", "127.0.0.1/32"] }))
}

/// A fleet in which every CN is somebody's, and one carries labels that look like a driver's attributes.
const OWNED: &[Row] = &[
    row("own:app", &[], "own", &[], Cns(&[1, 2])),
    row(
        "own:app?odd=x",
        &[],
        "own",
        &["odd=x"],
        Refused(1105, "08004", "no CN carries the labels odd=x (tenant own)"),
    ),
    row("app", &[], "sys", &[], Refused(1105, "08004", "no CN carries the labels none (tenant sys)")),
    // A value with a star stands for many; a star that a client asks for stands for itself.
    row("app?kind=t1", &[], "sys", &["kind=t1"], Cns(&[4])),
    row("own:app?kind=t", &[], "own", &["kind=t"], Cns(&[4])),
    row(
        "app?kind=x1",
        &[],
        "sys",
        &["kind=x1"],
        Refused(1105, "08004", "no CN carries the labels kind=x1 (tenant sys)"),
    ),
    row(
        "app?kind=*",
        &[],
        "sys",
        &["kind=*"],
        Refused(1105, "08004", "no CN carries the labels kind=* (tenant sys)"),
    ),
    // Attributes that every driver sends never ask for a label, even where one is called so.
    row(
        "app",
        &[("program_name", "x"), ("_pid", "7"), ("os_user", "me")],
        "sys",
        &[],
        Refused(1105, "08004", "no CN carries the labels none (tenant sys)"),
    ),
    row("app?program_name=x,_pid=7", &[], "sys", &["program_name=x", "_pid=7"], Cns(&[3])),
];

fn owned(servers: &[MariaDb]) -> Setup {
    let at = |n: usize| servers[n - 1].address();
    Setup::new()
        .group(Group::named("own").tenant("own").cn("cn-1", at(1)).cn("cn-2", at(2)))
        .group(Group::named("driver").label("program_name", "x").label("_pid", "7").cn("cn-3", at(3)))
        .group(Group::named("kinds").label("kind", "t*").cn("cn-4", at(4)))
}

/// A fleet with CNs that do not answer.
const DOWN: &[Row] = &[
    row("app?workload=ap", &[], "sys", &["workload=ap"], Cns(&[3])),
    row(
        "strict:app?workload=ap",
        &[],
        "strict",
        &["workload=ap"],
        Refused(1105, "08004", "every CN that carries the labels workload=ap is down"),
    ),
    // Of two the one that lives; and the tenant's own that is dead gives way to everybody's.
    row("app?workload=tp", &[], "sys", &["workload=tp"], Cns(&[1])),
    row("acme:app?workload=tp", &[], "acme", &["workload=tp"], Cns(&[1])),
];

fn down(servers: &[MariaDb]) -> Setup {
    let at = |n: usize| servers[n - 1].address();
    let nobody = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    Setup::new()
        .group(Group::named("tp").label("workload", "tp").cn("cn-1", at(1)).cn("dead-1", nobody()))
        .group(Group::named("ap").label("workload", "ap").cn("dead-2", nobody()))
        .group(Group::named("acme").label("workload", "tp").tenant("acme").cn("dead-3", nobody()))
        .group(Group::named("shared").cn("cn-3", at(3)))
        .tenant("strict", json!({ "on_no_match": "reject" }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_land_where_the_table_says_and_explain_says_the_same() -> Result<()> {
    let servers = servers().await?;
    for (fleet, rows) in [(fleet(servers), FLEET), (owned(servers), OWNED), (down(servers), DOWN)] {
        let shunt = fleet.cn_account("shunt", "secret").standalone().await?;
        eventually("every CN is known", async || {
            let cns = shunt.ctl(&["cn", "list"]).await?;
            for cn in cns["cns"].as_array().context("a list")? {
                let dead = cn["name"].as_str().context("a name")?.starts_with("dead");
                ensure!(cn["health"] == if dead { "down" } else { "up" }, "{cn}");
            }
            Ok(())
        })
        .await;
        for row in rows {
            check(&shunt, row).await.with_context(|| format!("{} {:?}", row.user, row.attributes))?;
        }
    }
    Ok(())
}

/// The row over real sessions, and through `explain`.
async fn check(shunt: &Shunt, row: &Row) -> Result<()> {
    let explained = explain(shunt, row).await?;
    let mut login = Login::user(row.user).password("app");
    for (key, value) in row.attributes {
        login = login.attribute(*key, *value);
    }
    match row.gets {
        Cns(cns) => {
            let names: Vec<String> = cns.iter().map(|n| format!("cn-{n}")).collect();
            ensure!(explained["match"] == json!(names), "explain: {explained}");
            ensure!(explained["refusal"].is_null(), "explain: {explained}");
            let mut sessions = Vec::new();
            for _ in 0..3 * cns.len() {
                sessions.push(Raw::login(shunt.address(), &login).await?);
            }
            let mut on = BTreeMap::new();
            for session in &mut sessions {
                *on.entry(session.value("SELECT @@server_id").await?.parse()?).or_insert(0) += 1;
                shows_why(shunt, session, &explained).await?;
            }
            ensure!(on == cns.iter().map(|n| (*n, 3)).collect(), "sessions are on {on:?}");
            drop(sessions);
            is_empty(shunt).await;
        }
        Refused(code, sqlstate, text) => {
            let told = ErrPacket { code, sqlstate: sqlstate.into(), message: text.into() };
            ensure!(refusal(shunt, &login).await? == told, "{}", refusal(shunt, &login).await?);
            let said = json!({ "code": code, "sqlstate": sqlstate, "message": text });
            ensure!(explained["refusal"] == said, "explain: {explained}");
            ensure!(
                explained["pick"] == "" && explained["summary"].to_string().contains(text),
                "{explained}"
            );
            // Only whoever knows the password is told, but for the address.
            let guess = refusal(shunt, &login.password("guess")).await?;
            ensure!(guess.code == if code == 1130 { 1130 } else { 1045 }, "a guesser is told {guess}");
        }
    }
    Ok(())
}

async fn explain(shunt: &Shunt, row: &Row) -> Result<Value> {
    let mut arguments = vec!["explain", "--tenant", row.tenant, "--user", "app", "--client", "127.0.0.1"];
    for label in row.labels {
        arguments.extend(["--label", label]);
    }
    shunt.ctl(&arguments).await
}

/// A session says why it is where it is: the labels that count, and the tier that `explain` names.
async fn shows_why(shunt: &Shunt, session: &Raw, explained: &Value) -> Result<()> {
    let listed = shunt.ctl(&["session", "get", &session.connection_id().to_string()]).await?;
    let candidates = explained["candidates"].as_array().context("candidates")?;
    let own = candidates.iter().find(|one| one["cn"] == listed["cn"]).context("the CN is no candidate")?;
    let tier = match own["tier"].as_u64() {
        Some(1) => "a CN of the tenant with the labels",
        Some(2) => "a CN with the labels and no tenant",
        Some(3) => "a CN without labels",
        _ => bail!("explain: {own}"),
    };
    let asked = explained["labels"].as_object().context("labels")?;
    let asked: Vec<String> = asked
        .iter()
        .map(|(key, values)| {
            let values: BTreeSet<&str> =
                values.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            format!("{key}={}", Vec::from_iter(values).join("|"))
        })
        .collect();
    let asked = if asked.is_empty() { "none".to_owned() } else { asked.join(",") };
    ensure!(listed["why"] == format!("labels {asked}: {tier}"), "why: {}", listed["why"]);
    Ok(())
}

async fn refusal(shunt: &Shunt, login: &Login) -> Result<ErrPacket> {
    match Raw::login(shunt.address(), login).await {
        Ok(_) => bail!("let in"),
        Err(error) => error.downcast::<ErrPacket>(),
    }
}

/// Waits until no session is left.
async fn is_empty(shunt: &Shunt) {
    eventually("the sessions end", async || {
        let listed = shunt.ctl(&["session", "list"]).await?;
        ensure!(listed["sessions"] == json!([]), "{listed}");
        Ok(())
    })
    .await;
}

// === changes ===

/// Waits until a login of `user` lands on this server.
async fn lands_on(shunt: &Shunt, user: &str, server: u32) {
    let login = Login::user(user).password("app");
    eventually("the next login lands there", async || {
        let mut session = Raw::login(shunt.address(), &login).await?;
        let on: u32 = session.value("SELECT @@server_id").await?.parse()?;
        session.quit().await?;
        ensure!(on == server, "{user} is on {on}, not on {server}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_label_counts_for_the_next_login() -> Result<()> {
    let servers = servers().await?;
    let setup = Setup::new()
        .group(Group::named("tp").label("workload", "tp").cn("cn-1", servers[0].address()))
        .group(Group::named("shared").cn("cn-2", servers[1].address()));
    let shunt = setup.cn_account("shunt", "secret").standalone().await?;
    let mut stays = Raw::login(shunt.address(), &Login::user("app?workload=tp").password("app")).await?;
    lands_on(&shunt, "app?workload=ap", 2).await;
    // A CN's own value takes the place of its group's.
    let labelled = shunt.ctl(&["cn", "label", "cn-1", "workload=ap", "tier=gold"]).await?;
    assert_eq!(labelled["labels"], json!({ "workload": ["ap"], "tier": ["gold"] }));
    lands_on(&shunt, "app?workload=ap,tier=gold", 1).await;
    lands_on(&shunt, "app?workload=tp", 2).await;
    shunt.ctl(&["cn", "label", "cn-1", "tier-"]).await?;
    lands_on(&shunt, "app?workload=ap", 1).await;
    // Without its own value it has the group's again.
    shunt.ctl(&["cn", "label", "cn-1", "workload-"]).await?;
    lands_on(&shunt, "app?workload=tp", 1).await;
    lands_on(&shunt, "app?workload=ap", 2).await;
    // A new CN takes its part at once.
    let address = servers[2].address().to_string();
    shunt.ctl(&["cn", "register", "cn-3", &address, "--label", "workload=ap"]).await?;
    lands_on(&shunt, "app?workload=ap", 3).await;
    // And who was there has stayed there.
    assert_eq!(stays.value("SELECT @@server_id").await?, "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cn_that_is_taken_out_takes_nobody_and_says_so() -> Result<()> {
    let servers = servers().await?;
    let setup = Setup::new().group(
        Group::named("ap")
            .label("workload", "ap")
            .cn("cn-1", servers[0].address())
            .cn("cn-2", servers[1].address()),
    );
    let setup = setup.tenant("strict", json!({ "on_no_match": "reject" }));
    let shunt = setup.cn_account("shunt", "secret").standalone().await?;
    let login = Login::user("strict:app?workload=ap").password("app");
    let mut sessions = Vec::new();
    for _ in 0..2 {
        sessions.push(Raw::login(shunt.address(), &login).await?);
    }
    eventually("they are counted", async || {
        let group = shunt.ctl(&["group", "get", "ap"]).await?;
        ensure!(group["sessions"] == 2, "{group}");
        Ok(())
    })
    .await;
    let file = shunt.folder().join("none.yaml");
    std::fs::write(&file, "groups: [ { name: ap, labels: { workload: ap }, cns: [] } ]\n")?;
    shunt.ctl(&["apply", "--prune", "-f", &file.display().to_string()]).await?;

    let told = "every CN that carries the labels workload=ap is draining";
    eventually("nobody is let in", async || {
        let refused = refusal(&shunt, &login).await?;
        ensure!((refused.code, refused.message.as_str()) == (1105, told), "{refused}");
        Ok(())
    })
    .await;
    let explained = shunt.ctl(&["explain", "--tenant", "strict", "--label", "workload=ap"]).await?;
    assert_eq!(explained["refusal"]["message"], told);
    // Whoever is there stays, and the CN goes with its last session.
    for session in &mut sessions {
        assert_eq!(session.value("SELECT 1").await?, "1");
    }
    for session in sessions {
        session.quit().await?;
    }
    eventually("the CNs are gone", async || {
        let refused = refusal(&shunt, &login).await?;
        ensure!(refused.message.starts_with("no CN carries"), "{refused}");
        Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_shares() -> Result<()> {
    let servers = servers().await?;
    let cn = |n: usize, weight: u32| json!({ "name": format!("cn-{n}"), "address": servers[n - 1].address().to_string(), "weight": weight });
    let group = Group::named("all").cn_with(cn(1, 300)).cn_with(cn(2, 100));
    let shunt = Setup::new().group(group).cn_account("shunt", "secret").standalone().await?;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        sessions.push(Raw::login(shunt.address(), &Login::user("app").password("app")).await?);
    }
    assert_eq!(counts(&mut sessions).await?, BTreeMap::from([(1, 30), (2, 10)]));
    Ok(())
}

/// How many of these sessions are on each server, as the servers say.
async fn counts(sessions: &mut [Raw]) -> Result<BTreeMap<u32, usize>> {
    let mut on = BTreeMap::new();
    for session in sessions {
        *on.entry(session.value("SELECT @@server_id").await?.parse()?).or_default() += 1;
    }
    Ok(on)
}

// === bursts ===

/// So many logins at once: those that got in, and the errors of the others.
async fn burst(at: SocketAddr, login: &Login, n: usize) -> (Vec<Raw>, Vec<anyhow::Error>) {
    let logins = (0..n).map(|_| Raw::login(at, login));
    let all: Vec<Result<Raw>> = futures::stream::iter(logins).buffer_unordered(n).collect().await;
    let (inside, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    (inside.into_iter().flatten().collect(), refused.into_iter().filter_map(Result::err).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sessions_in_a_burst_are_spread_evenly_and_limits_hold() -> Result<()> {
    let servers = servers().await?;
    let mut group = Group::named("all");
    for (n, server) in servers.iter().enumerate() {
        group = group.cn(&format!("cn-{}", n + 1), server.address());
    }
    let setup = Setup::new().group(group).tenant("few", json!({ "max_sessions": 300 }));
    let shunt = setup.cn_account("shunt", "secret").standalone().await?;
    let login = Login::user("app").password("app");
    let (mut sessions, refused) = burst(shunt.address(), &login, 2000).await;
    ensure!(refused.is_empty(), "{} were refused, such as: {:#}", refused.len(), refused[0]);
    let on = counts(&mut sessions).await?;
    let (least, most) = (on.values().min().context("some")?, on.values().max().context("some")?);
    ensure!(on.len() == 4 && most - least <= 2, "{on:?}");
    // And as Shunt counts them.
    eventually("Shunt counts the same", async || {
        let cns = shunt.ctl(&["cn", "list"]).await?;
        for cn in cns["cns"].as_array().context("a list")? {
            let n: u32 =
                cn["name"].as_str().and_then(|name| name.strip_prefix("cn-")).context("cn-n")?.parse()?;
            ensure!(cn["sessions"].as_u64() == Some(on[&n] as u64), "{cn}, on it {}", on[&n]);
        }
        Ok(())
    })
    .await;
    drop(sessions);
    is_empty(&shunt).await;

    let (mut sessions, refused) = burst(shunt.address(), &Login::user("few:app").password("app"), 500).await;
    assert_eq!((sessions.len(), refused.len()), (300, 200));
    for error in refused {
        let err = error.downcast::<ErrPacket>()?;
        assert_eq!((err.code, err.sqlstate.as_str()), (1040, "08004"), "{err}");
        assert_eq!(err.message, "tenant few has reached its limit of 300 sessions");
    }
    let on = counts(&mut sessions).await?;
    ensure!(on.values().all(|n| (74..=76).contains(n)), "{on:?}");
    Ok(())
}
