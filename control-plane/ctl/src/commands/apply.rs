//! `apply`: a file's intent, checked here as far as a file can be, then sent in one call.

use crate::answer::Answer;
use crate::args::Apply;
use crate::server::{Failure, Server};
use shunt_proto::intent::Intent;
use shunt_proto::yaml::{Document, Problems};
use std::io::Read as _;
use std::path::Path;

/// The most that is read of stdin, in bytes; the document has a lower limit of its own, and says so.
const MAX_STDIN: u64 = 64 << 20;

/// The keys of the programs' configurations that are not intent: such a file may be applied too.
const OTHER_KEYS: [&str; 11] = [
    "mysql",
    "api",
    "admin",
    "store",
    "security",
    "control",
    "state",
    "zone",
    "cn_account",
    "cn_proxy_protocol",
    "limits",
];

pub(super) async fn run(server: &Server, Apply { file, prune }: &Apply) -> Result<Answer, Failure> {
    let intent = read(file)?;
    let mut cluster = server.cluster();
    let response = server.call(cluster.apply(intent.to_apply(*prune))).await?;
    let mut lines: Vec<String> =
        response.changes.iter().map(|change| format!("{} {}", change.object, change.what)).collect();
    if lines.is_empty() {
        lines.push("nothing to change".to_owned());
    }
    Ok(Answer::message(&response, lines.join("\n")))
}

fn read(file: &Path) -> Result<Intent, Problems> {
    let document = if file == Path::new("-") { stdin()? } else { Document::read(file)? };
    let root = document.root();
    let intent = Intent::read(&root);
    for key in OTHER_KEYS {
        root.value(key);
    }
    if intent.is_empty() && document.finish(()).is_ok() {
        root.problem("names no groups, tenants or policy: nothing to apply");
    }
    document.finish(intent)
}

fn stdin() -> Result<Document, Problems> {
    let mut text = Vec::new();
    match std::io::stdin().take(MAX_STDIN).read_to_end(&mut text) {
        Ok(_) => Document::parse("stdin", &text),
        Err(error) => Err(Problems::of_file("stdin", error)),
    }
}
