//! What the documents promise is there: each test that they name exists, and the metrics are those of the programs.

use anyhow::{Context as _, Result, ensure};
use shunt_harness::shunt::Setup;
use shunt_harness::{Login, MariaDb, Raw, eventually, http};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("read {path}"))
}

/// Texts in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether `file` has a test of this name: a function with an attribute that makes it one.
fn has_test(file: &str, name: &str) -> Result<bool> {
    let text = read(file)?;
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        // Of proptest's tests the attribute stands in the macro, too.
        if line.starts_with("#[") && line.contains("test") {
            is_test = true;
        }
        let function = line.split("fn ").nth(1).filter(|_| line.contains("fn "));
        if let Some(function) = function {
            let found = function.split(['(', '<']).next().is_some_and(|found| found == name);
            if found {
                return Ok(is_test);
            }
            is_test = false;
        }
    }
    Ok(false)
}

/// The tests that a document names, as `file::function`.
fn named(document: &str) -> Result<BTreeSet<(String, String)>> {
    let text = read(document)?;
    Ok(quoted(&text)
        .filter_map(|quoted| quoted.rsplit_once(".rs::"))
        .map(|(file, name)| (format!("{file}.rs"), name.to_owned()))
        .collect())
}

#[test]
fn every_test_that_a_document_names_exists() -> Result<()> {
    for (document, at_least) in
        [("docs/limits.md", 30), ("docs/field-reports.md", 60), ("docs/failures.md", 7)]
    {
        let named = named(document)?;
        ensure!(named.len() >= at_least, "{document} names only {} tests", named.len());
        let missing: Vec<_> = named
            .iter()
            .filter(|(file, name)| !has_test(file, name).unwrap_or(false))
            .map(|(file, name)| format!("{file}::{name}"))
            .collect();
        ensure!(missing.is_empty(), "{document} names tests that do not exist: {missing:#?}");
    }
    // A name that is none is noticed, and so is a function that is no test.
    ensure!(!has_test("tests/suite/tests/documents.rs", "nowhere_to_be_found")?, "a test out of nothing");
    ensure!(!has_test("tests/suite/tests/documents.rs", "quoted")?, "a function is no test");
    Ok(())
}

/// The names in a text that programs export, without what a kind of metric appends.
fn exported(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    names
        .filter_map(|line| {
            let (name, kind) = line.split_once(' ')?;
            Some(if kind == "counter" { format!("{name}_total") } else { name.to_owned() })
        })
        .collect()
}

#[tokio::test]
async fn the_metrics_are_those_of_the_document() -> Result<()> {
    let cn = MariaDb::shared().await;
    let mut shunt = Setup::new().cn("cn-1", cn.address()).standalone().await?;
    let data = shunt.plane("standalone").http();
    // A metric with labels is told once it has a value.
    shunt.ctl(&["cn", "list"]).await?;
    cn.account("counted", "%", "counted").await?;
    Raw::login(shunt.address(), &Login::user("counted").password("counted")).await?.quit().await?;
    eventually("the session's end is counted", async || {
        let (_, text) = http::get(data, "/metrics").await?;
        ensure!(text.contains("shunt_data_sessions_closed_total"), "not yet");
        Ok(())
    })
    .await;
    let mut programs = BTreeSet::new();
    let config = std::fs::read_to_string(shunt.folder().join("standalone.yaml"))?;
    let mut addresses = vec![data];
    addresses.extend(admin_addresses(&config));
    for address in addresses {
        let (status, text) = http::get(address, "/metrics").await?;
        ensure!(status == 200, "{address}/metrics: {status}");
        programs.extend(exported(&text));
    }
    let text = read("docs/metrics.md")?;
    let is_name = |name: &&str| name.starts_with("shunt_") && !name.contains(['*', ' ']);
    let documented: BTreeSet<String> = quoted(&text).filter(is_name).map(str::to_owned).collect();
    let undocumented: Vec<_> = programs.difference(&documented).collect();
    ensure!(undocumented.is_empty(), "exported and not in docs/metrics.md: {undocumented:?}");
    let gone: Vec<_> = documented.difference(&programs).collect();
    ensure!(gone.is_empty(), "in docs/metrics.md and not exported: {gone:?}");
    shunt.stop().await
}

/// Every address under `admin`.
fn admin_addresses(config: &str) -> Vec<std::net::SocketAddr> {
    let admin = config.split("admin").nth(1).unwrap_or_default();
    let inside = admin.split('}').next().unwrap_or_default();
    inside
        .split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
        .filter_map(|word| word.trim_start_matches(':').parse().ok())
        .collect()
}
