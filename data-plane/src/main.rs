//! `shunt-data`: the data plane as a program.

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use shunt_data::Config;
use shunt_proto::yaml::Document;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

/// Accepts MySQL clients, routes each session to a CN that its tenant and labels ask for, and forwards.
///
/// SIGTERM or SIGINT ends it in order; a second one ends it at once. RUST_LOG sets what is logged (default: info).
#[derive(Debug, Parser)]
#[command(name = "shunt-data", version)]
struct Args {
    /// The configuration file, YAML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration: exit 0 where it is good, 1 with every problem told where it is not.
    #[arg(long)]
    check: bool,
    /// The form of the log on stderr.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let read = Document::read(&args.config).and_then(|document| Config::of(&document));
    let config = match read {
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
    let _log = init_log(args.log_format);
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lines that may wait to be written. Where whoever reads stderr stands still, further ones are lost, and no session is
/// held up.
const WAITING_LINES: usize = 10_000;

/// The log is written by a thread of its own, until what this returns is dropped.
fn init_log(format: LogFormat) -> WorkerGuard {
    use tracing_subscriber::EnvFilter;
    let (stderr, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    guard
}

fn serve(config: Config) -> anyhow::Result<()> {
    // Sessions have threads of their own: this one carries what is asked of the control plane and the CNs.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let run = shunt_data::run(config, shutdown.clone(), None);
        tokio::pin!(run);
        loop {
            tokio::select! {
                ended = &mut run => return ended,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                anyhow::bail!("a second signal: ended at once");
            }
            shutdown.cancel();
        }
    })
}
