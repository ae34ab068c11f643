//! The program `shunt-control`: reads its configuration, and runs the control plane until a signal.

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use shunt_control::Config;
use shunt_proto::yaml::Document;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Shunt's control plane: keeps CNs, groups, tenants and the policy in a store, and streams routing state to the data
/// planes.
///
/// SIGTERM or SIGINT ends it in order; a second one ends it at once. RUST_LOG sets what is logged (default: info).
#[derive(Debug, Parser)]
#[command(name = "shunt-control", version)]
struct Args {
    /// The configuration, in YAML. Keys: api, admin.control, store, groups, tenants, policy.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only say whether the configuration is valid.
    #[arg(long)]
    check: bool,
    /// How log lines look.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Document::read(&args.config).and_then(|document| Config::of(&document)) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::FAILURE;
        }
    };
    if args.check {
        println!("{}: valid", args.config.display());
        return ExitCode::SUCCESS;
    }
    log(args.log_format);
    raise_files();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Takes as many files as this process may: each data plane and each caller has a connection.
fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "raise the limit on files");
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        let mut run = std::pin::pin!(shunt_control::run(config, shutdown.clone(), None));
        let first = tokio::select! {
            ended = &mut run => return ended,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = first, "told to stop");
        shutdown.cancel();
        tokio::select! {
            ended = run => ended,
            _ = terminate.recv() => Err(anyhow::anyhow!("stopped at once by a second signal")),
            _ = interrupt.recv() => Err(anyhow::anyhow!("stopped at once by a second signal")),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
