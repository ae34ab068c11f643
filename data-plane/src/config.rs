//! The data plane's part of a configuration file: what it takes, and what holds where a key is left out.

use shunt_proto::yaml::{Document, Problems, Section};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a data plane is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The version of the greeting, until a CN was seen.
    pub server_version: String,
    /// Serve loopback CNs behind a listener that is not loopback, whatever their accounts make of that.
    pub allow_loopback_cns: bool,
    /// Threads that carry sessions.
    pub workers: usize,
    /// How they wait for sockets.
    pub io: Io,
    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub admin: SocketAddr,
    /// The control plane's replicas, as URLs.
    pub control: Vec<String>,
    /// Folder of the last good routing state and the data plane's id.
    pub state: PathBuf,
    /// Its zone.
    pub zone: String,
    /// The account that it asks CNs with.
    pub cn_account: Option<CnAccount>,
    /// Tell CNs the client's address by a PROXY v2 header.
    pub cn_proxy_protocol: bool,
    /// Bounds.
    pub limits: Limits,
    /// Every session moves whenever it rests. For tests and rehearsals.
    pub restless: bool,
    /// Sessions are rebuilt as if their CN had died, before any command that lets them: for tests.
    pub mortal: bool,
}

/// How workers wait for sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// By io_uring where the kernel lets them and several sessions share a worker, else by epoll.
    #[default]
    Auto,
    /// By epoll.
    Epoll,
    /// By io_uring.
    IoUring,
}

/// The service account on the CNs.
#[derive(Clone)]
pub struct CnAccount {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// Never shows the password.
impl std::fmt::Debug for CnAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CnAccount({})", self.user)
    }
}

/// Bounds of what a session may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// To connect to a CN and read its greeting.
    pub cn_connect: Duration,
    /// From the client's first packet to its OK.
    pub login: Duration,
    /// From the greeting to the client's first packet.
    pub first_packet: Duration,
    /// From the end of accepting to the end of the last session.
    pub shutdown: Duration,
    /// From `/readyz` failing to the end of accepting.
    pub drain_delay: Duration,
    /// Sessions at once; 0: as many as files allow.
    pub sessions: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cn_connect: Duration::from_secs(1),
            login: Duration::from_secs(10),
            first_packet: Duration::from_secs(10),
            shutdown: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            sessions: 0,
        }
    }
}

impl Config {
    /// Reads the keys of a data plane. Problems are noted in `document` and told by its `finish`.
    #[must_use]
    pub fn read(document: &Document) -> Self {
        let root = document.root();
        let mysql = root.section("mysql");
        let account = root.section("cn_account");
        let control = root.section("control");
        Self {
            listen: mysql.listen("listen").unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 6001))),
            server_version: server_version(&mysql),
            allow_loopback_cns: mysql.bool("allow_loopback_cns").unwrap_or(false),
            workers: workers(&mysql),
            io: mysql
                .word("io", &[("auto", Io::Auto), ("epoll", Io::Epoll), ("io_uring", Io::IoUring)])
                .unwrap_or_default(),
            admin: root
                .section("admin")
                .listen("data")
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 6581))),
            control: endpoints(&control),
            state: root.file("state").unwrap_or_else(|| PathBuf::from("./shunt-data-plane")),
            zone: root.text("zone").unwrap_or_default(),
            cn_account: account.is_present().then(|| cn_account(&account)).flatten(),
            cn_proxy_protocol: root
                .word("cn_proxy_protocol", &[("off", false), ("v2", true)])
                .unwrap_or(false),
            limits: limits(&root.section("limits")),
            restless: root.section("rehearsal").bool("restless").unwrap_or(false),
            mortal: root.section("rehearsal").bool("mortal").unwrap_or(false),
        }
    }

    /// Reads the configuration of a data plane alone.
    ///
    /// # Errors
    /// All problems at once.
    pub fn of(document: &Document) -> Result<Self, Problems> {
        document.finish(Self::read(document))
    }
}

fn server_version(mysql: &Section<'_>) -> String {
    let version = mysql.text("server_version").unwrap_or_else(|| "5.5.5-10.11.0-MariaDB".to_owned());
    if version.len() > 60 || !version.bytes().all(|byte| byte.is_ascii_graphic()) {
        mysql.problem_at("server_version", "is not 1 to 60 printable ASCII characters");
    }
    version
}

fn workers(mysql: &Section<'_>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    match mysql.u32("workers") {
        None => cores(),
        Some(n @ 1..=256) => n as usize,
        Some(n) => {
            mysql.problem_at("workers", format!("{n} is not 1 to 256"));
            1
        }
    }
}

fn endpoints(control: &Section<'_>) -> Vec<String> {
    let mut endpoints = Vec::new();
    for value in control.one_or_list("endpoints") {
        let Some(url) = value.text() else { continue };
        if url.parse::<tonic::transport::Endpoint>().is_err() || !url.starts_with("http://") {
            value.problem(format!("{url:?} is not a URL like http://127.0.0.1:6500"));
        }
        endpoints.push(url.to_owned());
    }
    if endpoints.is_empty() {
        endpoints.push("http://127.0.0.1:6500".to_owned());
    }
    endpoints
}

fn cn_account(account: &Section<'_>) -> Option<CnAccount> {
    account.require("user");
    account.require("password_file");
    let user = account.text("user")?;
    let path = account.file("password_file")?;
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let password = text.strip_suffix('\n').unwrap_or(&text);
            let password = password.strip_suffix('\r').unwrap_or(password);
            Some(CnAccount { user, password: password.to_owned() })
        }
        Err(error) => {
            account.problem_at("password_file", format!("read {}: {error}", path.display()));
            None
        }
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let default = Limits::default();
    let positive = |key: &str, default: Duration| match section.duration(key) {
        Some(Duration::ZERO) => {
            section.problem_at(key, "is 0");
            default
        }
        duration => duration.unwrap_or(default),
    };
    Limits {
        cn_connect: positive("cn_connect", default.cn_connect),
        login: positive("login", default.login),
        first_packet: positive("first_packet", default.first_packet),
        shutdown: section.duration("shutdown").unwrap_or(default.shutdown),
        drain_delay: section.duration("drain_delay").unwrap_or(default.drain_delay),
        sessions: section.u32("sessions").unwrap_or(default.sessions),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let document = Document::parse("shunt.yaml", text.as_bytes()).map_err(|e| e.to_string())?;
        Config::of(&document).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = read("mysql: { listen: 127.0.0.1:6001 }").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:6001");
        assert_eq!(config.control, ["http://127.0.0.1:6500"]);
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn all_problems_come_at_once_with_their_places() {
        let problems = read(
            "mysql:\n  listen: here\n  workers: 0\ncontrol: { endpoints: [ftp://x] }\n\
             limits:\n  login: soon\n  cn_connect: 0s\n  shutdwon: 1s\n\
             cn_account: { user: shunt, password_file: /nowhere/at/all }\ncn_proxy_protocol: v1\n",
        )
        .unwrap_err();
        for (line, word) in [
            (2, "mysql.listen"),
            (3, "mysql.workers"),
            (4, "control.endpoints"),
            (6, "limits.login"),
            (7, "limits.cn_connect"),
            (8, "limits.shutdwon"),
            (9, "cn_account.password_file"),
            (10, "cn_proxy_protocol"),
        ] {
            let found = problems
                .lines()
                .any(|told| told.starts_with(&format!("shunt.yaml:{line}:")) && told.contains(word));
            assert!(found, "{word} in {problems}");
        }
    }
}
