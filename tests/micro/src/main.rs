//! `shunt-micro`: counts the instructions of every case and compares them with the baseline.

mod cases;

use anyhow::{Context as _, bail};
use cases::Case;
use shunt_micro::baseline::{Baseline, Counts, Tools};
use shunt_micro::callgrind::{Callgrind, CountError, said};
use shunt_micro::compare::{Comparison, Line, Verdict};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

const USAGE: &str = "\
shunt-micro: microbenchmarks that count instructions

  shunt-micro [NAME…]       count all cases, or those whose names begin so, and compare with the baseline
  shunt-micro --write       count all cases and write the baseline anew
  shunt-micro --list        the cases
  shunt-micro --case NAME   run one case, counting nothing

The baseline is tests/micro/baseline.json unless --baseline FILE says otherwise. Profiles for callgrind_annotate
are left in DIR, which is target/micro unless --folder says otherwise.

Exit status: 0 as it was, or cheaper, or made with other tools than the baseline; 1 a case is dearer, new or gone;
2 nothing could be told.";

/// What the command line asks for.
enum Asked {
    Help,
    List,
    Run(String),
    Count { names: Vec<String>, folder: PathBuf, baseline: PathBuf, write: bool },
}

fn main() -> ExitCode {
    let asked = arguments(std::env::args().skip(1));
    match asked.and_then(serve) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shunt-micro: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> anyhow::Result<Asked> {
    let (mut names, mut write) = (Vec::new(), false);
    let mut folder = PathBuf::from("target/micro");
    let mut baseline = PathBuf::from("tests/micro/baseline.json");
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(Asked::Help),
            "--list" => return Ok(Asked::List),
            "--case" => return Ok(Asked::Run(value()?)),
            "--folder" => folder = value()?.into(),
            "--baseline" => baseline = value()?.into(),
            "--write" => write = true,
            option if option.starts_with('-') => bail!("{option} is no option\n\n{USAGE}"),
            _ => names.push(word),
        }
    }
    if write && !names.is_empty() {
        bail!("--write writes all cases: it takes no names");
    }
    Ok(Asked::Count { names, folder, baseline, write })
}

/// Does what is asked. False: a case is not as it was.
fn serve(asked: Asked) -> anyhow::Result<bool> {
    match asked {
        Asked::Help => println!("{USAGE}"),
        Asked::List => cases::all().for_each(|case| println!("{:<28} {}", case.name, case.about)),
        Asked::Run(name) => {
            let case = cases::all().find(|case| case.name == name);
            (case.with_context(|| format!("there is no case {name}"))?.run)();
        }
        Asked::Count { names, folder, baseline, write } => {
            let chosen =
                |case: &&Case| names.is_empty() || names.iter().any(|name| case.name.starts_with(name));
            let cases: Vec<&Case> = cases::all().filter(chosen).collect();
            if cases.is_empty() {
                bail!("no case has a name that begins with {}", names.join(" or "));
            }
            let callgrind = Callgrind::new(&std::env::current_exe()?, &folder)?;
            let now = Baseline { made_with: tools()?, instructions: counts(&callgrind, &cases)? };
            if write {
                now.write(&baseline)?;
                println!("{} cases written to {}", cases.len(), baseline.display());
                return Ok(true);
            }
            let mut before = Baseline::read(&baseline)?;
            if !names.is_empty() {
                before.instructions.retain(|name, _| now.instructions.contains_key(name));
            }
            let comparison = Comparison::new(&before, &now);
            show(&comparison, &folder);
            return Ok(!comparison.fails());
        }
    }
    Ok(true)
}

/// What the counts depend on besides the code.
fn tools() -> Result<Tools, CountError> {
    Ok(Tools {
        rustc: env!("BUILT_BY").to_owned(),
        valgrind: said("valgrind", Command::new("valgrind").arg("--version"))?,
        libc: said("getconf", Command::new("getconf").arg("GNU_LIBC_VERSION"))?,
        cpu: cpu(),
    })
}

/// Callgrind's processor is always the same one, but for the registers that this machine does not have.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    let wide = if std::arch::is_x86_feature_detected!("avx2") { " avx2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let wide = "";
    format!("{}{wide}", std::env::consts::ARCH)
}

/// Counts `cases`, as many at a time as there are processors: counts do not depend on it.
fn counts(callgrind: &Callgrind, cases: &[&Case]) -> anyhow::Result<Counts> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut counted = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            counted.push((case.name.to_owned(), callgrind.count(case.name).context(case.name)?));
        }
        anyhow::Ok(counted)
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut counts = Counts::new();
        for worker in workers {
            counts.extend(worker.join().expect("counting does not panic")?);
        }
        Ok(counts)
    })
}

/// Prints the table, and what is to be done.
fn show(comparison: &Comparison, folder: &Path) {
    println!("{:<28} {:>13} {:>13} {:>8}", "case", "baseline", "now", "");
    for Line { case, before, now, verdict } in &comparison.lines {
        let number = |n: &Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
        let word = match verdict {
            Verdict::Same => "",
            Verdict::Dearer => "dearer",
            Verdict::Cheaper => "cheaper",
            Verdict::New => "new",
            Verdict::Gone => "gone",
        };
        let change = percent(*before, *now);
        println!("{case:<28} {:>13} {:>13} {change:>8} {word}", number(before), number(now));
    }
    if !comparison.other_tools.is_empty() {
        println!("\nNot judged, since the baseline was made with other tools:");
        comparison.other_tools.iter().for_each(|tool| println!("  {tool}"));
        return;
    }
    if comparison.fails() {
        println!(
            "\nNot as it was. callgrind_annotate {}/<case>.callgrind tells where it goes.",
            folder.display()
        );
    }
    if comparison.asks_for_refresh() {
        println!(
            "\nWhere that is meant, `make micro-baseline` writes the new counts: commit them with the change."
        );
    }
}

fn percent(before: Option<u64>, now: Option<u64>) -> String {
    match (before, now) {
        (Some(before), Some(now)) if before != now => {
            #[allow(clippy::cast_precision_loss, reason = "it is shown with one digit")]
            let change = (now as f64 / before as f64 - 1.0) * 100.0;
            format!("{change:+.1} %")
        }
        _ => String::new(),
    }
}
