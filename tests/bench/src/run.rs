//! A whole run: the chosen cases one after the other, again where they were noise, and the table at the end.

use crate::about;
use crate::case::{Case, Count, Work, all};
use crate::memory;
use crate::moving;
use crate::report::{Row, table};
use crate::rounds::{self, Command, Measured, Plan, warm_up};
use crate::stand::{Stand, Via};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// What to run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Fewer cases and shorter runs: a few minutes.
    #[arg(long)]
    quick: bool,
    /// Only the cases of these names; a word that is no case's name stands for those that contain it.
    #[arg(long)]
    case: Vec<String>,
    /// Logins of the case that counts what they leave behind.
    #[arg(long)]
    logins: Option<u64>,
    /// What Shunt waits for sockets by.
    #[arg(long, value_enum, default_value_t)]
    io: Via,
    /// Where the results go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

/// How often a case is run that is noise.
const ATTEMPTS: u32 = 3;

impl Options {
    fn plan(&self) -> Plan {
        let (rounds, seconds, logins) = if self.quick { (3, 2, 5000) } else { (5, 4, 100_000) };
        Plan { rounds, seconds, logins: self.logins.unwrap_or(logins), io: self.io, quick: self.quick }
    }

    /// Noise is no reason to repeat when that would take the whole run past this.
    const fn budget(&self) -> Duration {
        Duration::from_secs(if self.quick { 6 * 60 } else { 42 * 60 })
    }

    /// The cases that are asked for.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn cases(&self) -> Result<Vec<Case>> {
        let all = all();
        // A name means that case, though others begin with it; any other word, all that contain it.
        let is_meant = |name: &str, word: &String| match all.iter().any(|case| case.name == *word) {
            true => name == word,
            false => name.contains(word.as_str()),
        };
        let is_wanted = |case: &&Case| match &self.case[..] {
            [] => !self.quick || case.quick,
            words => words.iter().any(|word| is_meant(&case.name, word)),
        };
        let cases: Vec<_> = all.iter().filter(is_wanted).cloned().collect();
        ensure!(!cases.is_empty(), "no case is named like {:?}", self.case);
        Ok(cases)
    }

    /// The folder of the results, without those of an earlier whole run.
    fn folder(&self) -> Result<&PathBuf> {
        fs::create_dir_all(&self.out).with_context(|| format!("make {}", self.out.display()))?;
        if self.case.is_empty() {
            for file in fs::read_dir(&self.out)? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == "json") {
                    fs::remove_file(path)?;
                }
            }
        }
        Ok(&self.out)
    }
}

/// Runs the cases; whether every load went well.
///
/// # Errors
/// There is nothing to run, or no place for results.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let cases = options.cases()?;
    let folder = options.folder()?;
    let mut about = about::machine(options.quick);
    let plan = options.plan();
    about["io"] = plan.io.word().into();
    let began = Instant::now();
    let (mut stand, mut rows, mut failed) = (None, Vec::new(), Vec::new());
    for (n, case) in cases.iter().enumerate() {
        about["load_average"] = about::load_average();
        let left = options.budget().saturating_sub(began.elapsed());
        match attempt(case, &mut stand, &plan, left, cases.len() - n - 1).await {
            Ok((measured, attempts)) => {
                about["attempts"] = attempts.into();
                write(&measured, folder, &about)?;
                tell(case, &measured.rows, began);
                rows.extend(measured.rows);
            }
            Err(error) => {
                eprintln!("{:>5.0} s  {}: failed: {error:#}", began.elapsed().as_secs_f64(), case.name);
                failed.push((case.name.clone(), format!("{error:#}")));
                // Whatever it was may still be wrong.
                stand = None;
            }
        }
    }
    drop(stand);
    let table = table(&rows, &failed);
    fs::write(folder.join("table.txt"), &table)?;
    println!("\n{table}");
    Ok(failed.is_empty())
}

fn write(measured: &Measured, folder: &std::path::Path, about: &Value) -> Result<()> {
    measured.outcomes.iter().try_for_each(|outcome| outcome.write(folder, about))
}

fn tell(case: &Case, rows: &[Row], began: Instant) {
    for row in rows {
        let figure = row.figure;
        let noisy = if row.noisy { ", noisy" } else { "" };
        eprintln!(
            "{:>5.0} s  {}: {:.2} {} ({:.2} to {:.2}){noisy}",
            began.elapsed().as_secs_f64(),
            case.name,
            figure.median,
            row.what.words(),
            figure.min,
            figure.max,
        );
    }
}

/// Runs a case, and again while it is noise and there is `left` for that; how often it was run.
async fn attempt(
    case: &Case,
    stand: &mut Option<Stand>,
    plan: &Plan,
    left: Duration,
    cases_after: usize,
) -> Result<(Measured, u32)> {
    let began = Instant::now();
    for attempts in 1.. {
        let this = Instant::now();
        let measured = once(case, stand, plan).await?;
        // As long again for this one, and about as long for each that follows.
        let needed = this.elapsed() * u32::try_from(cases_after + 1).unwrap_or(u32::MAX);
        if !measured.noisy || attempts == ATTEMPTS || began.elapsed() + needed > left {
            return Ok((measured, attempts));
        }
        eprintln!("        {}: noisy, again", case.name);
    }
    unreachable!("the last attempt returns")
}

async fn once(case: &Case, stand: &mut Option<Stand>, plan: &Plan) -> Result<Measured> {
    if let Work::Moving(moving) = case.work {
        // It has servers of its own: two fleets would share the cores.
        drop(stand.take());
        return moving::run(case, moving, plan).await;
    }
    let stand = match stand.take() {
        Some(running) if running.kind() == case.cn => stand.insert(running),
        other => {
            // Ended before the next one begins: two would share the cores.
            drop(other);
            let stand = stand.insert(Stand::start(case.cn, plan.io).await.context("start the servers")?);
            warm_up(stand).await?;
            stand
        }
    };
    match &case.work {
        Work::Sysbench(sysbench) => {
            rounds::run(case, &Command::Sysbench(sysbench), Count::Queries, stand, plan).await
        }
        Work::Generator(own, count) => rounds::run(case, &Command::Generator(own), *count, stand, plan).await,
        Work::Idle(sessions) => memory::idle(case, *sessions, stand, plan).await,
        Work::Logins => memory::logins(case, stand, plan).await,
        Work::Moving(_) => unreachable!("it has servers of its own"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(quick: bool, case: &[&str]) -> Options {
        let case = case.iter().map(|case| (*case).to_owned()).collect();
        Options { quick, case, logins: None, io: Via::Auto, out: PathBuf::from("nowhere") }
    }

    #[test]
    fn a_quick_run_has_fewer_cases_and_a_named_case_runs_in_any() {
        let whole = options(false, &[]).cases().unwrap().len();
        let quick = options(true, &[]).cases().unwrap().len();
        assert!(quick < whole && quick >= 8, "{quick} of {whole}");
        let named = options(true, &["range-10000", "idle"]).cases().unwrap();
        let names: Vec<_> = named.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["range-10000", "idle-1000", "idle-9000"]);
        assert_eq!(options(true, &["point-text-1"]).cases().unwrap().len(), 1);
        options(false, &["nothing"]).cases().unwrap_err();
    }

    #[test]
    fn results_of_an_earlier_whole_run_do_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old.shunt.json");
        let out = folder.path().to_owned();
        fs::write(&old, "{}").unwrap();
        Options { out: out.clone(), ..options(false, &["login"]) }.folder().unwrap();
        assert!(old.exists());
        Options { out, ..options(false, &[]) }.folder().unwrap();
        assert!(!old.exists());
    }
}
