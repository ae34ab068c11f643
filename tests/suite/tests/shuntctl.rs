//! `shuntctl` as scripts and people meet it: every command, what it prints and how it exits.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use shunt_harness::shunt::{Said, program};
use shunt_harness::{Group, Setup, Shunt, command, eventually};
use stand::{app, app_as, group_of, is_in_state, login, seen, setup, shared_cn};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

mod stand;

/// What a command prints with `-o json`: one document, and nothing else anywhere.
async fn told(shunt: &Shunt, arguments: &[&str]) -> Result<Value> {
    let Said { status, stdout, stderr } = shunt.try_ctl(&[arguments, &["-o", "json"]].concat()).await?;
    ensure!(status.code() == Some(0) && stderr.is_empty(), "{arguments:?}: {status} {stderr}");
    serde_json::from_str(&stdout).with_context(|| format!("{arguments:?} is not one document: {stdout}"))
}

/// What it prints for people.
async fn words(shunt: &Shunt, arguments: &[&str]) -> Result<String> {
    let Said { status, stdout, stderr } = shunt.try_ctl(arguments).await?;
    ensure!(status.code() == Some(0) && stderr.is_empty(), "{arguments:?}: {status} {stderr}");
    ensure!(!stdout.trim_start().starts_with('{'), "{arguments:?}: {stdout}");
    Ok(stdout)
}

/// A command that has nothing to tell but that it is done.
async fn done(shunt: &Shunt, arguments: &[&str]) -> Result<()> {
    let Said { status, stdout, stderr } = shunt.try_ctl(&[&["-o", "json"], arguments].concat()).await?;
    ensure!(status.code() == Some(0) && stderr.is_empty(), "{arguments:?}: {status} {stderr}");
    ensure!(stdout.is_empty(), "{arguments:?}: {stdout}");
    Ok(())
}

/// Why it is refused: exit status 1, and not a byte on stdout.
async fn refused(shunt: &Shunt, arguments: &[&str]) -> Result<String> {
    let mut last = String::new();
    for output in ["table", "json"] {
        let Said { status, stdout, stderr } = shunt.try_ctl(&[&["-o", output], arguments].concat()).await?;
        ensure!(status.code() == Some(1), "{arguments:?}: {status} {stdout}");
        ensure!(stdout.is_empty() && !stderr.is_empty(), "{arguments:?}: {stdout}");
        last = stderr;
    }
    Ok(last)
}

/// Wrong arguments: exit status 2, before anything is asked.
async fn wrong(shunt: &Shunt, arguments: &[&str]) -> Result<()> {
    let Said { status, stdout, stderr } = shunt.try_ctl(arguments).await?;
    ensure!(status.code() == Some(2), "{arguments:?}: {status} {stdout} {stderr}");
    ensure!(stdout.is_empty() && !stderr.is_empty(), "{arguments:?}: {stdout}");
    Ok(())
}

/// CNs that nobody listens at: for what does not need them.
fn declared() -> Setup {
    let group = Group::named("tp").label("workload", "tp").label("tier", "gold,silver").tenant("acme");
    let group = group.cn("cn-1", ([127, 0, 0, 1], 1).into()).cn("cn-2", ([127, 0, 0, 1], 2).into());
    let tenant =
        json!({ "max_sessions": 7, "allow": ["127.0.0.0/8"], "default_labels": { "workload": "tp" } });
    Setup::new().group(group).tenant("acme", tenant)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["name"].as_str()).collect()
}

#[tokio::test]
async fn what_is_listed_has_the_fields_of_the_contract() -> Result<()> {
    let shunt = declared().standalone().await?;
    let listed = told(&shunt, &["cn", "list"]).await?;
    assert_eq!(names(&listed["cns"]), ["cn-1", "cn-2"]);
    let cn = told(&shunt, &["cn", "get", "cn-1"]).await?;
    assert_eq!(cn["address"], "127.0.0.1:1");
    assert_eq!(cn["labels"], json!({ "workload": ["tp"], "tier": ["gold", "silver"], "tenant": ["acme"] }));
    assert_eq!((&cn["group"], &cn["state"], &cn["sessions"]), (&json!("tp"), &json!("working"), &json!(0)));
    ensure!(["unknown", "up", "down"].contains(&cn["health"].as_str().unwrap_or_default()), "{cn}");
    assert_eq!(names(&told(&shunt, &["cn", "list", "--group", "tp"]).await?["cns"]).len(), 2);
    assert_eq!(told(&shunt, &["cn", "list", "--group", "nowhere"]).await?, json!({ "cns": [] }));

    let groups = told(&shunt, &["group", "list"]).await?;
    assert_eq!(names(&groups["groups"]), ["tp"]);
    let group = told(&shunt, &["group", "get", "tp"]).await?;
    assert_eq!((&group["cns"], &group["tenant"]), (&json!(["cn-1", "cn-2"]), &json!("acme")));
    assert_eq!(group["sessions"], 0);
    let tenants = told(&shunt, &["tenant", "list"]).await?;
    assert_eq!(names(&tenants["tenants"]), ["acme"]);
    let tenant = told(&shunt, &["tenant", "get", "acme"]).await?;
    assert_eq!((&tenant["maxSessions"], &tenant["suspended"]), (&json!(7), &json!(false)));
    assert_eq!(tenant["onNoMatch"], "unlabelled");
    let policy = told(&shunt, &["policy", "get"]).await?;
    assert_eq!(policy["rebalance"]["movesPerSecond"], 200);
    eventually("the data plane is connected", async || {
        let planes = told(&shunt, &["data-plane", "list"]).await?;
        ensure!(planes["dataPlanes"][0]["connected"] == true, "{planes}");
        anyhow::Ok(())
    })
    .await;
    let status = told(&shunt, &["status"]).await?;
    assert_eq!((&status["cns"], &status["groups"], &status["tenants"]), (&json!(2), &json!(1), &json!(1)));
    assert_eq!((&status["store"], &status["storeProblem"]), (&json!("embedded"), &json!("")));
    assert_eq!(told(&shunt, &["session", "list"]).await?["sessions"], json!([]));

    for (arguments, expected) in [
        (&["status"][..], "CNs:"),
        (&["cn", "list"], "cn-1   127.0.0.1:1"),
        (&["cn", "get", "cn-1"], "tier=gold|silver"),
        (&["group", "list"], "tp     acme"),
        (&["group", "get", "tp"], "cn-1,cn-2"),
        (&["tenant", "list"], "acme"),
        (&["tenant", "get", "acme"], "127.0.0.0/8"),
        (&["policy", "get"], "rebalance.moves_per_second:"),
        (&["data-plane", "list"], "dp-"),
        (&["session", "list"], "No sessions"),
        (&["explain", "--tenant", "acme"], "cn-1"),
        (&["cn", "list", "--group", "nowhere"], "No CNs"),
    ] {
        let shown = words(&shunt, arguments).await?;
        ensure!(shown.contains(expected), "{arguments:?}: {shown}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_arguments_and_refusals_are_told_apart() -> Result<()> {
    let shunt = declared().standalone().await?;
    for arguments in [
        &[][..],
        &["nonsense"],
        &["cn"],
        &["cn", "get"],
        &["cn", "label", "cn-1"],
        &["cn", "label", "cn-1", "workload"],
        &["cn", "label", "cn-1", "=tp"],
        &["cn", "label", "cn-1", "workload=a,b"],
        &["cn", "label", "cn-1", "work load=a"],
        &["cn", "label", "cn-1", "workload=tp", "workload-"],
        &["cn", "register", "cn-9"],
        &["cn", "register", "cn-9", "no-port"],
        &["cn", "register", "cn-9", "h:1", "--label", "x-"],
        &["cn", "register", "cn-9", "h:1", "--weight", "0"],
        &["session", "get", "abc"],
        &["session", "kill"],
        &["explain", "--label", "x"],
        &["explain", "--client", "nowhere"],
        &["apply"],
        &["-o", "yaml", "status"],
        &["--server", "https://127.0.0.1:1", "status"],
        &["session", "move"],
        &["session", "move", "1", "--to"],
        &["cn", "drain"],
        &["cn", "drain", "cn-1", "--timeout", "soon"],
        &["cn", "drain", "cn-1", "--on-timeout", "hope"],
        &["cn", "undrain"],
        // Not built yet: no dead commands.
        &["group", "scale", "tp", "3"],
        &["rebalance", "--dry-run=yes"],
        &["store", "adopt"],
    ] {
        wrong(&shunt, arguments).await?;
    }
    for (arguments, why) in [
        (&["cn", "get", "cn-9"][..], "CN cn-9 does not exist (NOT_FOUND"),
        (&["group", "get", "nowhere"], "group nowhere does not exist (NOT_FOUND"),
        (&["tenant", "get", "nowhere"], "tenant nowhere does not exist (NOT_FOUND"),
        (&["tenant", "delete", "nowhere"], "NOT_FOUND"),
        (&["cn", "delete", "cn-9"], "NOT_FOUND"),
        (&["cn", "label", "cn-9", "a=b"], "NOT_FOUND"),
        (&["cn", "register", "cn-1", "h:1"], "ALREADY_EXISTS"),
        (&["cn", "register", "cn-9", "127.0.0.1:1"], "is that of CN cn-1 already"),
        (&["cn", "register", "cn 9", "h:9"], "INVALID_ARGUMENT"),
        (&["cn", "register", "cn-9", "h:9", "--group", "nowhere"], "group nowhere of CN cn-9 does not exist"),
        (&["group", "delete", "tp"], "group tp has CNs: cn-1, cn-2"),
        (&["session", "get", "1073741824"], "session 1073741824 does not exist"),
        (&["session", "kill", "5"], "session 5 does not exist"),
        (&["cn", "drain", "cn-9"], "NOT_FOUND"),
        (&["cn", "undrain", "cn-9"], "NOT_FOUND"),
        (&["data-plane", "forget", "dp-nobody"], "data plane dp-nobody does not exist"),
        (&["apply", "-f", "/nowhere/at.all"], "/nowhere/at.all"),
    ] {
        let stderr = refused(&shunt, arguments).await?;
        ensure!(stderr.contains(why), "{arguments:?}: {stderr}");
    }
    for arguments in [&["--help"][..], &["--version"], &["cn", "--help"], &["apply", "--help"]] {
        let said = shunt.try_ctl(arguments).await?;
        ensure!(said.status.success() && said.stdout.contains("shuntctl"), "{said:?}");
    }
    Ok(())
}

/// A server that is not there, or says nothing, is named, within the time that a call has.
#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() -> Result<()> {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let nobody = shunt_harness::free_port();
    for address in [format!("127.0.0.1:{nobody}"), silent.local_addr()?.to_string()] {
        let begun = Instant::now();
        let mut run = tokio::process::Command::new(program("shuntctl")?);
        let output = run.args(["--server", &address, "-o", "json", "cn", "list"]).output().await?;
        let stderr = String::from_utf8(output.stderr)?;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{stderr}");
        ensure!(stderr.contains("UNAVAILABLE") && stderr.contains(&address), "{stderr}");
        ensure!(begun.elapsed() < Duration::from_secs(18), "{:?}", begun.elapsed());
    }
    Ok(())
}

#[tokio::test]
async fn labels_are_changed_as_with_kubectl() -> Result<()> {
    let shunt = declared().standalone().await?;
    let revision = async || Ok::<_, anyhow::Error>(told(&shunt, &["status"]).await?["revision"].clone());
    let cn = told(&shunt, &["cn", "label", "cn-1", "workload=ap", "rack=7", "zone=a", "zone=b"]).await?;
    assert_eq!(
        cn["labels"],
        json!({ "rack": ["7"], "tenant": ["acme"], "tier": ["gold", "silver"], "workload": ["ap"], "zone": ["a", "b"] })
    );
    assert_eq!(cn["ownLabels"], json!({ "rack": ["7"], "workload": ["ap"], "zone": ["a", "b"] }));
    let before = revision().await?;
    // Its own go, and the group's are back; the group's `tier` is taken away. One change.
    let cn = told(&shunt, &["cn", "label", "cn-1", "workload-", "zone-", "nothing-", "tier="]).await?;
    assert_eq!(cn["labels"], json!({ "rack": ["7"], "tenant": ["acme"], "workload": ["tp"] }));
    let after = revision().await?;
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok());
    assert_eq!(number(&after), number(&before).map(|n| n + 1), "{before} {after}");
    // One label too many, and nothing of it is done.
    let many: Vec<String> = (0..31).map(|n| format!("k{n}=v")).collect();
    let too_many = ["cn", "label", "cn-1", "rack=8"].into_iter().chain(many.iter().map(String::as_str));
    let stderr = refused(&shunt, &too_many.collect::<Vec<_>>()).await?;
    ensure!(stderr.contains("INVALID_ARGUMENT"), "{stderr}");
    assert_eq!(told(&shunt, &["cn", "get", "cn-1"]).await?["labels"], cn["labels"]);
    // The same again is done too.
    assert_eq!(told(&shunt, &["cn", "label", "cn-1", "rack=7"]).await?["labels"], cn["labels"]);
    let shown = words(&shunt, &["cn", "label", "cn-1", "rack-"]).await?;
    assert_eq!(shown, "cn/cn-1 carries tenant=acme,workload=tp\n");
    Ok(())
}

#[tokio::test]
async fn cns_groups_and_tenants_come_and_go() -> Result<()> {
    let shunt = declared().standalone().await?;
    let register = ["cn", "register", "cn-3", "127.0.0.1:3", "--group", "tp", "--label", "tier=bronze"];
    let cn = told(&shunt, &[&register[..], &["--zone", "b", "--weight", "50"]].concat()).await?;
    assert_eq!((&cn["zone"], &cn["weight"], &cn["state"]), (&json!("b"), &json!(50), &json!("working")));
    assert_eq!(cn["labels"]["tier"], json!(["bronze"]));
    let shown = words(&shunt, &["cn", "register", "alone", "--address", "db.example:3306"]).await?;
    assert_eq!(shown, "cn/alone registered\n");
    assert_eq!(told(&shunt, &["cn", "get", "alone"]).await?["group"], "");
    for name in ["cn-1", "cn-2", "cn-3", "alone"] {
        done(&shunt, &["cn", "delete", name]).await?;
    }
    done(&shunt, &["group", "delete", "tp"]).await?;
    done(&shunt, &["tenant", "delete", "acme"]).await?;
    assert_eq!(told(&shunt, &["cn", "list"]).await?, json!({ "cns": [] }));
    assert_eq!(told(&shunt, &["group", "list"]).await?, json!({ "groups": [] }));
    assert_eq!(told(&shunt, &["tenant", "list"]).await?, json!({ "tenants": [] }));
    refused(&shunt, &["cn", "delete", "cn-1"]).await.map(drop)
}

/// Writes a file to be applied.
fn file(shunt: &Shunt, text: &str) -> Result<String> {
    let path = shunt.folder().join("apply.yaml");
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// The whole intent, to compare.
async fn intent(shunt: &Shunt) -> Result<[Value; 4]> {
    let mut all = [&["cn", "list"][..], &["group", "list"], &["tenant", "list"], &["policy", "get"]]
        .map(|arguments| (arguments, Value::Null));
    for (arguments, value) in &mut all {
        *value = told(shunt, arguments).await?;
        for cn in value["cns"].as_array_mut().into_iter().flatten() {
            // What a data plane found out about it comes when it comes.
            cn["health"] = Value::Null;
            cn["healthReason"] = Value::Null;
        }
    }
    Ok(all.map(|(_, value)| value))
}

#[tokio::test]
async fn an_apply_is_whole_or_nothing() -> Result<()> {
    let shunt = declared().standalone().await?;
    let before = intent(&shunt).await?;
    for (what, text, why) in [
        (
            "a value is wrong",
            "groups: [ { name: new, cns: [ { name: n-1, address: h:1 } ] } ]\ntenants: [ { name: t, max_sessions: -1 } ]\n",
            "apply.yaml:2:",
        ),
        (
            "an address is another CN's",
            "groups: [ { name: new, cns: [ { name: n-1, address: h:1 }, { name: n-2, address: 127.0.0.1:1 } ] } ]\n\
             tenants: [ { name: t } ]\n",
            "is that of CN",
        ),
        (
            "a CN is dropped",
            "tenants: [ { name: t } ]\ngroups: [ { name: tp, cns: [ { name: cn-1, address: 127.0.0.1:1 } ] } ]\n",
            "leaves out cn-2: apply with prune",
        ),
        (
            "a CN is another group's",
            "tenants: [ { name: t } ]\ngroups: [ { name: new, cns: [ { name: cn-1, address: 127.0.0.1:1 } ] } ]\n",
            "belongs to group tp",
        ),
        ("nothing is named", "mysql: { listen: 127.0.0.1:6001 }\n", "nothing to apply"),
        ("a key is unknown", "tenants: [ { name: t } ]\ngruops: []\n", "did you mean groups?"),
        ("it is no YAML", "groups: [\n", "apply.yaml:"),
    ] {
        let stderr = refused(&shunt, &["apply", "-f", &file(&shunt, text)?]).await.context(what)?;
        ensure!(stderr.contains(why), "{what}: {stderr}");
        assert_eq!(intent(&shunt).await?, before, "{what}");
    }
    let good = "groups:\n- { name: new, labels: { workload: ap }, cns: [ { name: n-1, address: h:1 } ] }\n\
                tenants: [ { name: t, suspended: true } ]\npolicy: { rebalance: { tolerance: 0.2 } }\n";
    let applied = told(&shunt, &["apply", "-f", &file(&shunt, good)?]).await?;
    let mut objects: Vec<_> = applied["changes"].as_array().context("no changes")?.clone();
    objects.sort_by_key(|change| change["object"].to_string());
    let objects: Vec<_> = objects.iter().map(|change| (&change["object"], &change["what"])).collect();
    assert_eq!(
        objects,
        [
            (&json!("cn/n-1"), &json!("created")),
            (&json!("group/new"), &json!("created")),
            (&json!("policy"), &json!("created")),
            (&json!("tenant/t"), &json!("created")),
        ]
    );
    assert_eq!(
        names(&told(&shunt, &["cn", "list"]).await?["cns"]),
        ["cn-1", "cn-2", "n-1"],
        "what is not named stays"
    );
    assert_eq!(words(&shunt, &["apply", "-f", &file(&shunt, good)?]).await?, "nothing to change\n");
    assert_eq!(told(&shunt, &["apply", "-f", &file(&shunt, good)?]).await?["changes"], json!([]));

    // From stdin, too.
    let mut child = Command::new(program("shuntctl")?)
        .args(["--server", &format!("http://{}", shunt.api()), "apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(b"tenants: [ { name: t, suspended: false } ]\n")?;
    let output = child.wait_with_output()?;
    assert_eq!(String::from_utf8(output.stdout)?, "tenant/t updated\n");
    Ok(())
}

fn many(group: &str, from: usize, n: usize) -> String {
    let cn = |n| format!("  - {{ name: cn-{n:03}, address: 'h:{n}' }}\n");
    let cns: String = (from..from + n).map(cn).collect();
    format!("groups:\n- name: {group}\n  cns:\n{cns}")
}

/// More than a hundred objects at once are refused, with their number; lists have all their pages.
#[tokio::test]
async fn large_changes_are_refused_and_large_lists_are_whole() -> Result<()> {
    let shunt = Setup::new().standalone().await?;
    let stderr = refused(&shunt, &["apply", "-f", &file(&shunt, &many("all", 1, 100))?]).await?;
    ensure!(stderr.contains("101 objects would change, at most 100"), "{stderr}");
    assert_eq!(told(&shunt, &["cn", "list"]).await?, json!({ "cns": [] }));
    told(&shunt, &["apply", "-f", &file(&shunt, &many("all", 1, 99))?]).await?;
    // Fifty more, and the rest as it is.
    told(&shunt, &["apply", "-f", &file(&shunt, &many("more", 100, 51))?]).await?;
    let listed = told(&shunt, &["cn", "list"]).await?;
    let expected: Vec<_> = (1..=150).map(|n| format!("cn-{n:03}")).collect();
    assert_eq!(names(&listed["cns"]), expected);
    let grouped = told(&shunt, &["cn", "list", "--group", "more"]).await?;
    assert_eq!(names(&grouped["cns"]), expected[99..]);
    assert_eq!(words(&shunt, &["cn", "list"]).await?.lines().count(), 151);
    Ok(())
}

/// A CN that its group no longer lists is emptied before it goes.
#[tokio::test]
async fn prune_waits_for_the_last_session() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = setup().group(group_of(&[cn]).cn("idle", "127.0.0.1:1".parse()?)).standalone().await?;
    eventually("the CN is up", async || {
        let shown = told(&shunt, &["cn", "get", "cn-1"]).await?;
        ensure!(shown["health"] == "up", "{shown}");
        anyhow::Ok(())
    })
    .await;
    let mut s = login(&shunt, &app()).await?;
    eventually("the session is counted", async || {
        let cn = told(&shunt, &["cn", "get", "cn-1"]).await?;
        ensure!(cn["sessions"] == 1, "{cn}");
        anyhow::Ok(())
    })
    .await;
    refused(&shunt, &["cn", "delete", "cn-1"]).await?;
    let empty = file(&shunt, "groups: [ { name: shared, cns: [] } ]\n")?;
    refused(&shunt, &["apply", "-f", &empty]).await?;
    let applied = told(&shunt, &["apply", "-f", &empty, "--prune"]).await?;
    let what: Vec<_> = applied["changes"].as_array().into_iter().flatten().collect();
    ensure!(what.contains(&&json!({ "object": "cn/cn-1", "what": "draining" })), "{applied}");
    assert_eq!(told(&shunt, &["cn", "get", "cn-1"]).await?["state"], "draining");
    assert_eq!(s.value("SELECT 'stays'").await?, "stays");
    eventually("nobody new comes in", async || match login(&shunt, &app()).await {
        Ok(_) => bail!("let in"),
        Err(_) => Ok(()),
    })
    .await;
    s.quit().await?;
    eventually("it is gone", async || {
        let listed = told(&shunt, &["cn", "list"]).await?;
        ensure!(listed == json!({ "cns": [] }), "{listed}");
        anyhow::Ok(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn sessions_are_listed_shown_and_killed() -> Result<()> {
    let cn = shared_cn().await;
    let shunt = setup().group(group_of(&[cn])).standalone().await?;
    seen(&shunt).await;
    let (mut one, mut two) = (login(&shunt, &app()).await?, login(&shunt, &app_as("acme:app")).await?);
    one.run("BEGIN").await?;
    is_in_state(&shunt, &one, "transaction").await;
    let ids = [one.connection_id(), two.connection_id()];
    let listed = told(&shunt, &["session", "list"]).await?;
    let found: Vec<_> =
        listed["sessions"].as_array().context("a list")?.iter().map(|s| s["id"].clone()).collect();
    assert_eq!(found, ids.map(|id| json!(id)));
    let only = told(&shunt, &["session", "list", "--tenant", "acme"]).await?;
    assert_eq!(only["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(told(&shunt, &["session", "list", "--cn", "nowhere"]).await?["sessions"], json!([]));

    let id = ids[0].to_string();
    let shown = told(&shunt, &["session", "get", &id]).await?;
    assert_eq!(shown["client"], one.local_addr()?.to_string());
    assert_eq!((&shown["user"], &shown["tenant"]), (&json!("app"), &json!("sys")));
    assert_eq!((&shown["cn"], &shown["state"]), (&json!("cn-1"), &json!("transaction")));
    assert_eq!((&shown["pinned"], &shown["lastMove"]), (&json!(["transaction"]), &Value::Null));
    for field in ["dataPlane", "started", "idle"] {
        ensure!(shown[field].is_string(), "{field}: {shown}");
    }
    let table = words(&shunt, &["session", "list"]).await?;
    ensure!(table.contains(&id) && table.contains("transaction"), "{table}");
    ensure!(words(&shunt, &["session", "get", &id]).await?.contains("Why this CN:"), "no reason");

    two.send(&command::query("SELECT SLEEP(100) FROM (SELECT 1) AS t")).await?;
    is_in_state(&shunt, &two, "active").await;
    done(&shunt, &["session", "kill", &ids[1].to_string(), "--query"]).await?;
    assert_eq!(two.receive().await?.err().map(|err| err.code), Some(1317));
    assert_eq!(two.value("SELECT 'lives'").await?, "lives");
    assert_eq!(words(&shunt, &["session", "kill", &id]).await?, format!("session/{id} killed\n"));
    while one.read_packet().await.is_ok() {}
    drop(one);
    // Its end takes a moment longer than its client sees.
    eventually("it is gone", async || refused(&shunt, &["session", "kill", &id]).await).await;
    two.quit().await
}

#[tokio::test]
async fn a_data_plane_that_is_gone_can_be_forgotten() -> Result<()> {
    let mut shunt = declared().planes(1).await?;
    let mut id = String::new();
    eventually("it is connected", async || {
        let planes = told(&shunt, &["data-plane", "list"]).await?;
        ensure!(planes["dataPlanes"][0]["connected"] == true, "{planes}");
        id = planes["dataPlanes"][0]["id"].as_str().context("an id")?.to_owned();
        anyhow::Ok(())
    })
    .await;
    let stderr = refused(&shunt, &["data-plane", "forget", &id]).await?;
    ensure!(stderr.contains("is connected: stop it first"), "{stderr}");
    shunt.plane("data-1").stop().await?;
    eventually("it can be forgotten", async || done(&shunt, &["data-plane", "forget", &id]).await).await;
    assert_eq!(told(&shunt, &["data-plane", "list"]).await?, json!({ "dataPlanes": [] }));
    Ok(())
}

#[tokio::test]
async fn explain_says_where_and_why_not() -> Result<()> {
    let shunt = declared().tenant("shut", json!({ "suspended": true })).standalone().await?;
    let explained = told(&shunt, &["explain", "--tenant", "acme", "--user", "app"]).await?;
    assert_eq!(explained["labels"], json!({ "workload": ["tp"] }), "the tenant's default labels");
    assert_eq!(explained["candidates"].as_array().map(Vec::len), Some(2));
    ensure!(explained["summary"].as_str().is_some_and(|words| words.len() > 10), "{explained}");
    let refused = told(&shunt, &["explain", "--tenant", "shut"]).await?;
    assert_eq!(refused["refusal"]["code"], 4151);
    let outside = told(&shunt, &["explain", "--tenant", "acme", "--client", "10.0.0.1"]).await?;
    assert_eq!(outside["refusal"]["code"], 1130);
    let nowhere = told(&shunt, &["explain", "--tenant", "other", "--label", "workload=ap"]).await?;
    assert_eq!((&nowhere["refusal"]["code"], &nowhere["match"]), (&json!(1105), &json!([])));
    for candidate in nowhere["candidates"].as_array().into_iter().flatten() {
        ensure!(candidate["reason"].as_str().is_some_and(|why| !why.is_empty()), "{candidate}");
    }
    let shown = words(&shunt, &["explain", "--tenant", "other", "--label", "workload=ap"]).await?;
    ensure!(shown.contains("ERROR 1105 (08004)"), "{shown}");
    Ok(())
}
