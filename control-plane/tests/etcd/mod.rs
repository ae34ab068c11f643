//! A real etcd of one member on loopback, with a folder and ports of its own, killed by its process id.
#![allow(dead_code, reason = "each test target uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// A running etcd.
pub(crate) struct Etcd {
    child: Child,
    port: u16,
    peer: u16,
    folder: TempDir,
}

impl Etcd {
    /// Starts one. None, with a message: it is not installed, and no test run requires it.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (port, peer) = (free_port(), free_port());
        let child = spawn(folder.path(), port, peer);
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                let required = std::env::var_os("SHUNT_TEST_REQUIRE").is_some();
                assert!(!required, "etcd is required, and cannot be started: {error}");
                eprintln!("skipped: etcd cannot be started: {error} (Debian: etcd-server)");
                return None;
            }
        };
        let etcd = Self { child, port, peer, folder };
        etcd.wait();
        Some(etcd)
    }

    /// Where its clients connect.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port for clients.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Drops the history up to `revision`.
    pub(crate) fn compact(&self, revision: u64) {
        let answer =
            self.post("/v3/kv/compaction", &format!(r#"{{"revision":"{revision}","physical":true}}"#));
        assert!(answer.contains("200 OK"), "{answer}");
    }

    /// Sets a key as somebody else does.
    pub(crate) fn put(&self, key: &str, value: &str) {
        let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key), base64(value));
        let answer = self.post("/v3/kv/put", &body);
        assert!(answer.contains("200 OK"), "{answer}");
    }

    /// Stops the process where it is, or lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        // A signal only asks: a thread that runs goes on for a moment.
        while signal == "-STOP" && !self.is_stopped() {
            std::thread::yield_now();
        }
    }

    /// Whether none of its threads runs.
    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
        })
    }

    /// A copy of its folder as it is when it is killed. It is started again.
    pub(crate) fn backup(&mut self) -> TempDir {
        self.kill();
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.folder.path().join("etcd"), &copy.path().join("etcd"));
        self.start_again();
        copy
    }

    /// Puts a copy in place of what it has, as a restore does: everything is as it was, the revision too.
    pub(crate) fn restore(&mut self, copy: &TempDir) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("etcd")).unwrap();
        copy_folder(&copy.path().join("etcd"), &self.folder.path().join("etcd"));
        self.start_again();
    }

    fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), self.port, self.peer).unwrap();
        self.wait();
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.try_post("/v3/kv/range", r#"{"key":"AA=="}"#).is_ok_and(|a| a.contains("200 OK")) {
            assert!(Instant::now() < deadline, "etcd does not answer");
            #[allow(clippy::disallowed_methods, reason = "before any runtime, and polling")]
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn post(&self, path: &str, body: &str) -> String {
        self.try_post(path, body).unwrap()
    }

    fn try_post(&self, path: &str, body: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            connection,
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, client: u16, peer: u16) -> std::io::Result<Child> {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    Command::new("etcd")
        .args(["--name", "one", "--log-outputs", "stderr", "--logger", "zap"])
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
        .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
        .args(["--initial-cluster", &format!("one={}", url(peer))])
        // Debian's unit sets these for its own etcd.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// As etcd's JSON wants keys and values.
fn base64(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}
