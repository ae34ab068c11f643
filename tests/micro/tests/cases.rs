//! Each case does what it says, and has its line in the baseline. Nothing is counted here.

use shunt_micro::baseline::Baseline;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn micro(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shunt-micro")).args(arguments).output().expect("it runs")
}

fn names() -> BTreeSet<String> {
    let listed = micro(&["--list"]);
    let text = String::from_utf8(listed.stdout).expect("names are text");
    text.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_case_does_what_it_says() {
    let names = names();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let ran = micro(&["--case", &name]);
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

#[test]
fn a_case_that_is_not_there_is_an_error() {
    assert_eq!(micro(&["--case", "request/nothing"]).status.code(), Some(2));
    assert_eq!(micro(&["--wrong"]).status.code(), Some(2));
}

#[test]
fn the_baseline_has_every_case_and_no_other() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json");
    let baseline = Baseline::read(&file).unwrap();
    let committed: BTreeSet<String> = baseline.instructions.into_keys().collect();
    assert_eq!(committed, names());
}
