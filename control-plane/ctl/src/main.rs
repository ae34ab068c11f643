//! `shuntctl`: what an operator asks and tells a Shunt cluster, on the command line.
//!
//! A command line is read ([`args`]), sent as one or more calls ([`server`], [`commands`]), and its answer is printed
//! as a table or as JSON ([`answer`]). All that is known of the cluster comes from these calls.
//!
//! Must not know: routing, stores, MySQL.

mod answer;
mod args;
mod commands;
mod label;
mod server;
mod table;
mod words;

use args::Cli;
use clap::Parser as _;
use std::io::Write as _;
use std::process::ExitCode;

/// The exit status of what was refused or has failed; wrong arguments have 2, which is clap's.
const FAILED: u8 = 1;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse().and_then(Cli::checked) {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only where nobody listens any more.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED));
        }
    };
    let answered = commands::run(&cli).await;
    match answered.and_then(|answer| Ok(answer.print(cli.output).map(|()| answer.is_refusal)?)) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(FAILED),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(FAILED)
        }
    }
}
