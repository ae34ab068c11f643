//! One run of a load on one subject: what the load did, and what it cost the process in front.

use crate::cpu::{CpuTime, Memory};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// What a load did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Queries that were answered; for logins, logins.
    pub(crate) queries: u64,
    /// In so many seconds.
    pub(crate) seconds: f64,
    /// The 99th percentile of their latencies, in milliseconds.
    pub(crate) p99_ms: f64,
}

impl Load {
    /// Queries a second.
    pub(crate) fn per_second(&self) -> f64 {
        self.queries as f64 / self.seconds
    }

    /// As one line of JSON: how the load generator hands it over.
    pub(crate) fn to_json(self) -> Value {
        json!({ "queries": self.queries, "seconds": self.seconds, "p99_ms": self.p99_ms })
    }

    /// Reads such a line.
    ///
    /// # Errors
    /// It is not one, or nothing ran.
    pub(crate) fn from_json(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text.trim()).with_context(|| format!("load: {text:?}"))?;
        let float = |key: &str| value[key].as_f64().with_context(|| format!("no {key} in {text}"));
        let load = Self {
            queries: value["queries"].as_u64().with_context(|| format!("no queries in {text}"))?,
            seconds: float("seconds")?,
            p99_ms: float("p99_ms")?,
        };
        ensure!(load.queries > 0 && load.seconds > 0.0, "nothing ran: {text}");
        Ok(load)
    }
}

/// A run.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// What the load did.
    pub(crate) load: Load,
    /// CPU time of the process in front for each query, in microseconds; none for a direct connection.
    pub(crate) cpu_us: Option<f64>,
    /// Its memory at the end.
    pub(crate) memory: Option<Memory>,
    /// The command that produced the load.
    pub(crate) command: String,
}

/// Runs `words` as a load on what process `pid` serves (none: nothing is in front), and reads its output by `read`.
///
/// # Errors
/// The command failed, ran for longer than `limit`, or said what `read` does not take.
pub(crate) async fn run(
    words: &[String],
    pid: Option<u32>,
    limit: Duration,
    read: impl FnOnce(&str) -> Result<Load>,
) -> Result<Sample> {
    let before = pid.map(CpuTime::of).transpose()?;
    let output = output(words, limit).await?;
    let after = pid.map(CpuTime::of).transpose()?;
    let command = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let load = read(&output).with_context(|| command.clone())?;
    let cpu_us =
        before.zip(after).map(|(before, after)| after.since(&before) as f64 / 1000.0 / load.queries as f64);
    Ok(Sample { load, cpu_us, memory: pid.map(Memory::of).transpose()?, command })
}

/// Runs a command to its end; its standard output.
///
/// # Errors
/// It could not be started, failed, or ran for longer than `limit`.
pub(crate) async fn output(words: &[String], limit: Duration) -> Result<String> {
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let line = words.join(" ");
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("not within {limit:?}: {line}"))?
        .with_context(|| format!("start {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {line}\n{stdout}{stderr}", output.status);
    Ok(stdout)
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_survives_its_way_as_json() {
        let load = Load { queries: 12, seconds: 1.5, p99_ms: 0.25 };
        assert_eq!(Load::from_json(&load.to_json().to_string()).unwrap(), load);
        Load::from_json("{}").unwrap_err();
        Load::from_json(&Load { queries: 0, ..load }.to_json().to_string()).unwrap_err();
    }

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("--threads=16"), "--threads=16");
        assert_eq!(quoted("SELECT 'x'"), r"'SELECT '\''x'\'''");
    }

    #[tokio::test]
    async fn a_command_that_fails_is_an_error_that_says_which() {
        let words = ["sh", "-c", "echo oh; exit 3"].map(str::to_owned);
        let error = run(&words, None, Duration::from_secs(5), Load::from_json).await.unwrap_err();
        assert!(error.to_string().contains("exit 3"), "{error}");
        let words = ["sh", "-c", r#"echo '{"queries":10,"seconds":2.0,"p99_ms":1.0}'"#].map(str::to_owned);
        let me = Some(std::process::id());
        let sample = run(&words, me, Duration::from_secs(5), Load::from_json).await.unwrap();
        assert_eq!(sample.load.per_second(), 5.0);
        assert!(sample.cpu_us.is_some() && sample.memory.is_some());
    }
}
