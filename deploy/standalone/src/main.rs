//! `shunt-standalone`: both planes in one process, for one machine.
//!
//! One configuration file with the keys of both ([`config`]); the data plane connects to this process's own control
//! plane over loopback, like any other would. Told to stop, the data plane ends its sessions while the control plane
//! still serves, then the control plane ends.
//!
//! Must not know: what the planes do.

mod config;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use config::Config;
use shunt_proto::yaml::Document;
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Shunt on one machine: a control plane and a data plane in one process.
///
/// SIGTERM or SIGINT ends it in order; a second one ends it at once. RUST_LOG sets what is logged (default: info).
#[derive(Debug, Parser)]
#[command(name = "shunt-standalone", version)]
struct Args {
    /// The configuration, in YAML: the keys of shunt-control and of shunt-data
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only say whether the configuration is valid
    #[arg(long)]
    check: bool,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
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
    let _log = log(args.log_format);
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
fn log(format: LogFormat) -> WorkerGuard {
    let (stderr, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    guard
}

fn serve(config: Config) -> anyhow::Result<()> {
    // Sessions have threads of their own; these carry the control plane, and what the data plane asks of it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut signals = Signals::listen()?;
        let mut run = std::pin::pin!(run(config, shutdown.clone()));
        let first = tokio::select! {
            ended = &mut run => return ended,
            first = signals.next() => first,
        };
        tracing::info!(signal = first, "told to stop");
        shutdown.cancel();
        tokio::select! {
            ended = run => ended,
            _ = signals.next() => Err(anyhow::anyhow!("stopped at once by a second signal")),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The signals that end a program.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen to SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen to SIGINT")?,
        })
    }

    /// Cancel safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs both planes until `shutdown`. Where one of them dies, the other one is ended in order.
async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Config { control, mut data, further_control } = config;
    // Sessions come to an end while the control plane still serves: it is told later.
    let end_control = CancellationToken::new();
    let (tell, told) = oneshot::channel();
    let mut control = std::pin::pin!(shunt_control::run(control, end_control.clone(), Some(tell)));
    let bound = tokio::select! {
        ended = &mut control => return ended.context("control plane"),
        bound = told => bound.context("control plane: it does not listen")?,
    };
    let own = own_url(bound.api);
    data.control = further_control.into_iter().filter(|url| *url != own).collect();
    data.control.insert(0, own);
    let mut data = std::pin::pin!(shunt_data::run(data, shutdown.clone(), None));
    tokio::select! {
        ended = &mut data => {
            end_control.cancel();
            let control = control.await.context("control plane");
            ended.context("data plane").and(control)
        }
        ended = &mut control => {
            let died = ended.err().unwrap_or_else(|| anyhow::anyhow!("ended")).context("control plane");
            shutdown.cancel();
            if let Err(error) = data.await {
                tracing::error!("data plane: {error:#}");
            }
            Err(died)
        }
    }
}

/// How this process reaches itself at an address that it listens on.
fn own_url(api: SocketAddr) -> String {
    let ip = match api.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, api.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reaches_itself() {
        for (listens, url) in [
            ("127.0.0.1:6500", "http://127.0.0.1:6500"),
            ("0.0.0.0:1", "http://127.0.0.1:1"),
            ("[::]:1", "http://[::1]:1"),
            ("10.0.0.1:1", "http://10.0.0.1:1"),
        ] {
            assert_eq!(own_url(listens.parse().unwrap()), url);
        }
    }

    #[test]
    fn the_arguments_are_sound() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
