//! docs/configuration.md says what the programs do: its blocks are read, and its defaults are the defaults.

use shunt_proto::intent::Intent;
use shunt_proto::wire::Policy;
use shunt_proto::yaml::Document;
use std::path::Path;

/// The blocks of YAML in docs/configuration.md.
fn blocks() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("docs/configuration.md is there");
    let blocks: Vec<String> = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().expect("a split has a first part").to_owned())
        .collect();
    assert_eq!(blocks.len(), 2, "one of the programs' keys, one of groups, tenants and policy");
    blocks
}

/// Both parts of a configuration, as debugging shows them.
fn read(text: &str) -> String {
    let document = Document::parse("docs", text.as_bytes()).expect("a readable block");
    let control = shunt_control::Config::read(&document);
    let data = shunt_data::Config::read(&document);
    document.finish(()).unwrap_or_else(|problems| panic!("{problems}"));
    format!("{control:#?}\n{data:#?}")
}

#[test]
fn the_defaults_are_the_defaults() {
    let documented = read(&blocks()[0]);
    assert_eq!(documented, read("api: {}"));
    // Were a key not read at all, this would hold for any value.
    let changed = blocks()[0].replace("first_packet: 10s", "first_packet: 11s").replace("off", "v2");
    assert_ne!(read(&changed), documented);
}

#[test]
fn intent_is_as_documented() {
    let document = Document::parse("docs", blocks()[1].as_bytes()).unwrap();
    let intent = document.finish(Intent::read(&document.root())).unwrap();
    assert_eq!(intent.policy, Some(Policy::default()));
    assert_eq!(intent.tenants[0].on_no_match, shunt_proto::tenant::OnNoMatch::default());
    let cn = &intent.groups[0].cns[1];
    assert_eq!(intent.groups[0].group.labels.overlaid(&cn.own_labels).to_string(), "workload=ap");
}
