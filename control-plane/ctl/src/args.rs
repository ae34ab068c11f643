//! The command line: which words are understood, and what `--help` says of them.
//!
//! Must not know: what a command does.

use crate::label::{self, Change};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use shunt_proto::wire::check_address;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the control plane is, when nothing says otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:6500";

/// The variable that may say otherwise.
const SERVER_VARIABLE: &str = "SHUNT_SERVER";

/// Shunt's command line: lists, shows and changes what a control plane keeps, and asks the data planes for sessions.
///
/// Exit status: 0 done, 1 refused or failed, 2 wrong arguments.
#[derive(Debug, Parser)]
#[command(name = "shuntctl", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// The control plane to call, any replica [default: $SHUNT_SERVER, else http://127.0.0.1:6500]
    #[arg(long, global = true, value_name = "URL", value_parser = server)]
    server: Option<String>,
    /// What stdout gets: a table for people, or one JSON document or nothing
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The cluster at a glance
    Status,
    /// Make the cluster have what a file says, in one transaction or not at all
    Apply(Apply),
    /// Compute nodes
    #[command(subcommand)]
    Cn(Cn),
    /// Groups of compute nodes
    #[command(subcommand)]
    Group(Group),
    /// Tenants
    #[command(subcommand)]
    Tenant(Tenant),
    /// What holds for the whole cluster
    #[command(subcommand)]
    Policy(Policy),
    /// Data planes
    #[command(subcommand)]
    DataPlane(DataPlane),
    /// Sessions, as their data planes tell them
    #[command(subcommand)]
    Session(Session),
    /// Where a login would go, and why
    Explain(Explain),
    /// Even out the sessions of all CNs, and send home those that are not where they belong: prints what moves, and why.
    /// Exit status 1 where a data plane did not answer: its sessions stay
    Rebalance {
        /// Print the plan only
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A YAML file with `groups`, `tenants` and `policy`; `-` reads stdin. A program's configuration file will do:
    /// its other keys are passed over
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Take out the CNs that a group of the file no longer lists, as soon as they hold no session
    #[arg(long)]
    pub(crate) prune: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cn {
    /// All CNs, or those of a group
    List {
        /// Only those of this group
        #[arg(long)]
        group: Option<String>,
    },
    /// One CN
    Get {
        /// Its name
        name: String,
    },
    /// Make a CN known. It takes sessions at once
    Register(Register),
    /// Change the labels that a CN adds to, or has in place of, its group's: all changes at once, or none
    Label {
        /// Its name
        name: String,
        /// KEY=VALUE sets, twice for two values; KEY- goes back to the group's; KEY= takes the group's label away
        #[arg(required = true, value_name = "CHANGE", value_parser = label::change)]
        changes: Vec<Change>,
    },
    /// Move all sessions off a CN. It takes no new ones; draining what drains changes how
    Drain(Drain),
    /// Let a CN take sessions again. Others' move there until it has its share
    Undrain {
        /// Its name
        name: String,
    },
    /// Forget a CN that holds no session
    Delete {
        /// Its name
        name: String,
        /// Even if it holds sessions. They go on until they end
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Its name
    pub(crate) name: String,
    /// Wait until it is drained, and say how far it is. Exit status 1 where it is not when the time is over
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long its sessions may take to leave: 90s, 5m, 1h [default: 60s with --wait or --on-timeout force, else as
    /// long as it takes]
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
    /// What becomes of the sessions that are left then: they stay, or are closed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_timeout: OnTimeout,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnTimeout {
    #[default]
    Hold,
    Force,
}

impl Drain {
    /// How long its sessions may take; none: as long as they like.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let by_default =
            (self.wait || self.on_timeout == OnTimeout::Force).then_some(Duration::from_secs(60));
        self.timeout.or(by_default)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// Its name
    pub(crate) name: String,
    /// Its MySQL listener
    #[arg(value_name = "HOST:PORT", value_parser = address, required_unless_present = "listener")]
    address: Option<String>,
    /// The same
    #[arg(long = "address", value_name = "HOST:PORT", value_parser = address, conflicts_with = "address")]
    listener: Option<String>,
    /// The group that it joins
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// A label of its own; repeated for several, or for several values of one
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label::change)]
    pub(crate) labels: Vec<Change>,
    /// Where it stands; kept and shown, not routed by yet
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// Its share of its group's sessions, relative to the others'
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) weight: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// All groups
    List,
    /// One group
    Get {
        /// Its name
        name: String,
    },
    /// Forget a group that has no CN
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// All tenants that were declared
    List,
    /// One tenant
    Get {
        /// Its name
        name: String,
    },
    /// Forget a tenant's limits, default labels and allow list
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// The policy
    Get,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataPlane {
    /// All data planes that may hold sessions
    List,
    /// Forget a data plane that is gone for good, so that its session ids can be given to another
    Forget {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// All sessions
    List {
        /// Only those on this CN
        #[arg(long)]
        cn: Option<String>,
        /// Only those of this tenant
        #[arg(long)]
        tenant: Option<String>,
    },
    /// One session
    Get {
        /// The connection id that its client was given
        id: u32,
    },
    /// Move a session to another CN, without its client's noticing. Exit status 0 only where it moved
    Move {
        /// The connection id that its client was given
        id: u32,
        /// To this CN; absent: to the one with the fewest sessions of those that it may use
        #[arg(long, value_name = "CN")]
        to: Option<String>,
    },
    /// End a session: its query is killed, its client closed
    Kill {
        /// The connection id that its client was given
        id: u32,
        /// Kill its running query only
        #[arg(long)]
        query: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The tenant that logs in; absent: the default tenant
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// The user that logs in
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// A label that it asks for; repeated for several, or for several values of one
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label::change)]
    pub(crate) labels: Vec<Change>,
    /// The address that it comes from; absent: not considered
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) client: Option<IpAddr>,
}

impl Register {
    /// Its MySQL listener.
    pub(crate) fn address(&self) -> &str {
        self.address.as_deref().or(self.listener.as_deref()).expect("clap requires one of them")
    }
}

impl Cli {
    /// These arguments, where they also make sense together.
    pub(crate) fn checked(self) -> Result<Self, clap::Error> {
        let refuse = |problem: String| Err(Self::command().error(ErrorKind::ValueValidation, problem));
        let (changes, only_values) = match &self.command {
            Command::Cn(Cn::Label { changes, .. }) => (changes, false),
            Command::Cn(Cn::Register(Register { labels, .. })) => (labels, true),
            Command::Explain(Explain { labels, .. }) => (labels, true),
            _ => return Ok(self),
        };
        if only_values && let Some(other) = changes.iter().find(|change| !matches!(change, Change::Value(..)))
        {
            return refuse(format!("--label {}: expected KEY=VALUE", other.key()));
        }
        match label::merged(changes) {
            Ok(_) => Ok(self),
            Err(problem) => refuse(problem),
        }
    }

    /// The control plane's URL: as given, else the environment's, else the default.
    pub(crate) fn server(&self) -> Result<String, String> {
        if let Some(url) = &self.server {
            return Ok(url.clone());
        }
        match std::env::var(SERVER_VARIABLE) {
            Ok(url) if !url.is_empty() => {
                server(&url).map_err(|problem| format!("{SERVER_VARIABLE}: {problem}"))
            }
            _ => Ok(DEFAULT_SERVER.to_owned()),
        }
    }
}

/// A whole number with a unit.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let millis = digits.parse::<u64>().ok().filter(|_| unit > 0).and_then(|n| n.checked_mul(unit));
    millis.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is not a time such as 90s or 5m"))
}

fn address(text: &str) -> Result<String, String> {
    check_address("", text).map_err(|invalid| invalid.problem)?;
    Ok(text.to_owned())
}

/// A URL, or `host:port` alone.
fn server(url: &str) -> Result<String, String> {
    let bare = match url.split_once("://") {
        Some(("http", bare)) => bare,
        Some(("https", _)) => return Err("TLS is not supported yet: use http://".to_owned()),
        Some(_) => return Err(format!("{url:?} does not begin with http://")),
        None => url,
    };
    let bare = bare.trim_end_matches('/');
    check_address("", bare).map_err(|_| format!("{url:?} is not a URL such as {DEFAULT_SERVER}"))?;
    Ok(format!("http://{bare}"))
}

#[cfg(test)]
mod tests;
