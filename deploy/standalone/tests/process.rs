//! The program as an operator meets it: configuration examples, start, ready, end, start again.

use anyhow::{Result, ensure};
use serde_json::Value;
use shunt_harness::eventually::{patience, within};
use shunt_harness::http;
use shunt_harness::shunt::Setup;
use std::path::Path;
use std::process::{Command, Output};

fn standalone(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_shunt-standalone");
    Command::new(program).args(arguments).current_dir(folder).output().expect("it was built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_examples_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cn-password"), "secret\n").unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut seen = Vec::new();
    let files = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let three_machines = examples.join("three-machines");
    for path in files(&examples).chain(files(&three_machines)).filter(|path| path.is_file()) {
        let name = path.strip_prefix(&examples).unwrap().to_str().unwrap().to_owned();
        // The keys of each plane are known to this program too.
        let checked = standalone(folder.path(), &["--check", "--config", path.to_str().unwrap()]);
        assert!(checked.status.success(), "{name}: {}", text(&checked.stderr));
        assert_eq!(text(&checked.stdout), format!("{}: valid\n", path.display()));
        seen.push(name);
    }
    seen.sort();
    let of_three = ["three-machines/control.yaml", "three-machines/data.yaml"];
    assert_eq!(seen, [&["control.yaml", "data.yaml", "standalone.yaml"], &of_three[..]].concat());
    // Nor is one of them valid only because another plane knows its keys.
    let document = |name: &str| shunt_proto::yaml::Document::read(&examples.join(name)).unwrap();
    for (control, data) in [("control.yaml", "data.yaml"), of_three.into()] {
        shunt_control::Config::of(&document(control)).unwrap();
        let problems = shunt_data::Config::of(&document(data)).unwrap_err();
        // The password file is not where this test runs: nothing else is wrong.
        assert_eq!(problems.to_string().lines().count(), 1, "{problems}");
        assert!(problems.to_string().contains("password_file"), "{problems}");
    }
}

#[test]
fn a_bad_configuration_is_told_whole_and_nothing_is_started() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), "store: { embeded: ./x }\nmysql: { listen: 1 }\n").unwrap();
    for arguments in [&["--config", "c.yaml", "--check"][..], &["--config", "c.yaml"]] {
        let refused = standalone(folder.path(), arguments);
        assert_eq!(refused.status.code(), Some(1));
        let lines = text(&refused.stderr);
        assert_eq!(lines.lines().count(), 2, "{lines}");
        assert!(
            lines.contains("c.yaml:1:10: store.embeded: unknown key (did you mean embedded?)"),
            "{lines}"
        );
        assert!(lines.contains("c.yaml:2:18: mysql.listen:"), "{lines}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no folder was made");
    assert_eq!(standalone(folder.path(), &[]).status.code(), Some(2));
    let version = text(&standalone(folder.path(), &["--version"]).stdout);
    assert_eq!(version, format!("shunt-standalone {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn it_serves_ends_in_order_and_comes_back_as_the_same() -> Result<()> {
    let mut shunt = Setup::new().cn("cn-1", "127.0.0.1:1".parse()?).standalone().await?;
    let first = connected(&shunt).await?;
    let listed = shunt.ctl(&["cn", "list"]).await?;
    ensure!(listed["cns"][0]["name"] == "cn-1", "{listed}");

    // A program's configuration can be applied as it is: shuntctl knows which keys are not for it.
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let blocks = std::fs::read_to_string(docs)?;
    let whole: String = blocks.split("```").filter_map(|block| block.strip_prefix("yaml\n")).collect();
    let file = shunt.folder().join("whole.yaml");
    let other = "security: {}\nzone: a\ncn_account: { user: shunt, password_file: x }\n";
    std::fs::write(&file, whole.replace("cn-1", "cn-a") + other)?;
    let applied = shunt.ctl(&["apply", "-f", &file.display().to_string()]).await?;
    ensure!(applied["changes"][0]["object"] == "group/tp", "{applied}");

    let status = shunt.plane("standalone").stop().await?;
    ensure!(status.success(), "{status}");
    let state = shunt.folder().join("store/data-plane");
    ensure!(state.is_dir(), "{} is not there", state.display());

    shunt.plane("standalone").launch()?;
    shunt.plane("standalone").ready().await?;
    let second = connected(&shunt).await?;
    ensure!(first == second, "{first} came back as {second}");
    Ok(())
}

/// The id of the one data plane, once it is connected.
async fn connected(shunt: &shunt_harness::shunt::Shunt) -> Result<Value> {
    let mut id = Value::Null;
    within(patience(), async || {
        let status = shunt.ctl(&["status"]).await?;
        let planes = status["dataPlanes"].as_array().cloned().unwrap_or_default();
        ensure!(planes.len() == 1 && planes[0]["connected"] == true, "{status}");
        id = planes[0]["id"].clone();
        Ok(())
    })
    .await?;
    let (status, body) = http::get(shunt.planes[0].http(), "/readyz").await?;
    ensure!(status == 200, "{status} {body}");
    Ok(id)
}
