//! `shunt-bench`: what Shunt costs, side by side with HAProxy and a direct connection in the same run.
//!
//! `run` is the benchmark; `load`, `idle` and `fake` are what it starts for itself, and can be run by hand. Read
//! `case.rs` for what is measured, `rounds.rs` for how, `judge.rs` for what is made of it.

mod about;
mod alike;
mod calm;
mod case;
mod cpu;
mod delayed;
mod fake;
mod files;
mod fleet;
mod haproxy;
mod idle;
mod judge;
mod latency;
mod load;
mod memory;
mod moving;
mod report;
mod response;
mod rounds;
mod run;
mod sample;
mod stand;
mod sysbench;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Benchmarks of Shunt.
#[derive(Parser)]
#[command(name = "shunt-bench", version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Runs the cases: a JSON object for each result, and a table at the end.
    Run(run::Options),
    /// Lists the cases.
    List(run::Options),
    /// Puts a load on one address, and says as JSON what it did.
    Load(load::Load),
    /// Holds idle sessions until standard input ends.
    Idle(idle::Idle),
    /// Is a CN that answers at once, with users whose password is their name.
    Fake(fake::Fake),
}

fn main() -> ExitCode {
    files::raise_limit();
    match start(&Arguments::parse().mode) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn start(mode: &Mode) -> Result<bool> {
    match mode {
        Mode::Run(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                // What is dropped ends and removes what it started.
                tokio::select! {
                    done = run::run(options) => done,
                    _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                    _ = terminate.recv() => bail!("terminated"),
                }
            });
        }
        Mode::List(options) => list(options)?,
        Mode::Load(load) => println!("{}", load::run(load)?.to_json()),
        Mode::Idle(idle) => idle::run(idle)?,
        Mode::Fake(fake) => fake::run(fake)?,
    }
    Ok(true)
}

fn list(options: &run::Options) -> Result<()> {
    for case in options.cases()? {
        let fake = if case.cn == stand::CnKind::Fake { "fake CN: " } else { "" };
        println!("{:<20} {fake}{}{}", case.name, case.about, if case.quick { " (quick)" } else { "" });
    }
    Ok(())
}
