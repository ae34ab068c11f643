//! What a run leaves: a JSON object for each result, and one table of all targets.
//!
//! Must not know: how anything was measured.

use crate::case::What;
use crate::judge::{Bound, Figure, Verdict};
use crate::stand::Subject;
use anyhow::{Context as _, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// A figure of one subject in one case.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The case.
    pub(crate) case: String,
    /// Whose figure it is.
    pub(crate) subject: Subject,
    /// The median of the rounds.
    pub(crate) value: f64,
    /// What it counts.
    pub(crate) unit: &'static str,
    /// The figure to HAProxy's, where there is one.
    pub(crate) ratio: Option<Figure>,
    /// The command that produced the load.
    pub(crate) command: String,
    /// What else is known.
    pub(crate) more: Map<String, Value>,
}

impl Outcome {
    /// As a JSON object; `about` is what is known of the machine and the run.
    fn to_json(&self, about: &Value) -> Value {
        let mut object = self.more.clone();
        object.insert("case".into(), self.case.clone().into());
        object.insert("subject".into(), self.subject.name().into());
        object.insert("value".into(), rounded(self.value));
        object.insert("unit".into(), self.unit.into());
        object.insert("ratio".into(), self.ratio.map_or(Value::Null, |ratio| rounded(ratio.median)));
        let spread = self.ratio.map_or(Value::Null, |ratio| json!([rounded(ratio.min), rounded(ratio.max)]));
        object.insert("spread".into(), spread);
        object.insert("command".into(), self.command.clone().into());
        object.insert("about".into(), about.clone());
        Value::Object(object)
    }

    /// Writes `<case>.<subject>.json` into `folder`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, folder: &Path, about: &Value) -> Result<()> {
        let file = folder.join(format!("{}.{}.json", self.case, self.subject.name()));
        let text = serde_json::to_string_pretty(&self.to_json(about))?;
        fs::write(&file, format!("{text}\n")).with_context(|| format!("write {}", file.display()))
    }
}

/// Four digits behind the point are more than any of these figures have.
pub(crate) fn rounded(value: f64) -> Value {
    json!((value * 10_000.0).round() / 10_000.0)
}

/// A row of the table: a figure of a case, and what was asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The case.
    pub(crate) case: String,
    /// Which figure.
    pub(crate) what: What,
    /// The medians of direct, HAProxy and Shunt, where they have one.
    pub(crate) medians: [Option<f64>; 3],
    /// What is judged: a ratio to HAProxy, or Shunt's own figure.
    pub(crate) figure: Figure,
    /// What is asked of it, if anything.
    pub(crate) target: Option<Bound>,
    /// The runs were noise.
    pub(crate) noisy: bool,
}

impl Row {
    /// Whether the target is reached; none where nothing is asked.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.target.map(|bound| Verdict::of(bound, self.figure.median, self.noisy))
    }

    fn cells(&self) -> [String; 9] {
        let [direct, haproxy, shunt] = self.medians.map(|median| median.map_or("-".to_owned(), short));
        let noise = if self.noisy { "noisy" } else { "-" };
        [
            self.case.clone(),
            self.what.words().to_owned(),
            direct,
            haproxy,
            shunt,
            short(self.figure.median),
            format!("{} to {}", short(self.figure.min), short(self.figure.max)),
            self.target.map_or("-".to_owned(), |bound| bound.to_string()),
            self.verdict().map_or(noise, Verdict::words).to_owned(),
        ]
    }
}

/// A number with as many digits as mean something.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table of all rows, and below it what failed.
pub(crate) fn table(rows: &[Row], failed: &[(String, String)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let header = ["CASE", "FIGURE", "DIRECT", "HAPROXY", "SHUNT", "JUDGED", "SPREAD", "TARGET", "VERDICT"];
    table.set_header(header);
    table.add_rows(rows.iter().map(Row::cells));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let count = |wanted| rows.iter().filter(|row| row.verdict() == Some(wanted)).count();
    let [reached, missed, unjudged] = [Verdict::Reached, Verdict::NotReached, Verdict::Unjudged].map(count);
    text.push_str(&format!(
        "\ntargets: {reached} reached, {missed} not reached, {unjudged} unjudged; cases that failed: {}\n",
        failed.len()
    ));
    for (case, error) in failed {
        text.push_str(&format!("{case}: failed: {error}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figure: f64, noisy: bool) -> Row {
        Row {
            case: "point-text-32".into(),
            what: What::Throughput,
            medians: [Some(24_000.4), Some(16_668.0), Some(18_900.0)],
            figure: Figure { median: figure, min: 1.08, max: 1.2 },
            target: Some(Bound::AtLeast(1.1)),
            noisy,
        }
    }

    #[test]
    fn the_table_says_what_is_reached() {
        let rows = [row(1.134, false), row(1.09, false), row(1.3, true)];
        let text = table(&rows, &[("login".into(), "sysbench had 3 errors".into())]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("1.13") && lines[1].ends_with("≥ 1.10  reached"), "{text}");
        assert!(lines[1].contains("24000") && lines[1].contains("1.08 to 1.20"), "{text}");
        assert!(lines[2].ends_with("not reached") && lines[3].ends_with("unjudged"), "{text}");
        assert!(
            text.contains("targets: 1 reached, 1 not reached, 1 unjudged; cases that failed: 1"),
            "{text}"
        );
        assert!(text.ends_with("login: failed: sysbench had 3 errors\n"), "{text}");
    }

    #[test]
    fn a_result_has_the_keys_that_scripts_rely_on() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = Outcome {
            case: "login".into(),
            subject: Subject::Shunt,
            value: 1_234.567_89,
            unit: "logins/s",
            ratio: Some(Figure { median: 0.9, min: 0.85, max: 0.95 }),
            command: "shunt-bench load".into(),
            more: Map::from_iter([("rss_kib".to_owned(), json!(9000))]),
        };
        outcome.write(folder.path(), &json!({ "cores": 2 })).unwrap();
        let text = fs::read_to_string(folder.path().join("login.shunt.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["case"], "login");
        assert_eq!(value["subject"], "shunt");
        assert_eq!(value["value"], 1234.5679);
        assert_eq!(value["unit"], "logins/s");
        assert_eq!(value["ratio"], 0.9);
        assert_eq!(value["spread"], json!([0.85, 0.95]));
        assert_eq!(value["command"], "shunt-bench load");
        assert_eq!(value["rss_kib"], 9000);
        assert_eq!(value["about"]["cores"], 2);
    }
}
