//! The program `shunt-control` as a process: its arguments, its configuration, its signals, its sudden death.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use shunt_proto::pb;
use shunt_proto::pb::cn_service_client::CnServiceClient;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::{TempDir, tempdir};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, timeout};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shunt-control"));
    command.env_remove("RUST_LOG").kill_on_drop(true);
    command
}

/// Exit status, stdout, stderr.
async fn run(args: &[&str]) -> (i32, String, String) {
    let output = timeout(Duration::from_secs(10), program().args(args).output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn config(folder: &Path, more: &str) -> String {
    let path = folder.join("control.yaml");
    let text = format!(
        "api: {{ listen: 127.0.0.1:0 }}\nadmin: {{ control: 127.0.0.1:0 }}\n\
         store: {{ embedded: '{}' }}\n{more}\n",
        folder.join("store").display()
    );
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

struct Running {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    api: SocketAddr,
    admin: SocketAddr,
}

impl Running {
    async fn start(config: &str) -> Self {
        let mut child = program()
            .args(["--config", config, "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = logged(&mut log, "control plane is listening").await;
        let address = |key: &str| line["fields"][key].as_str().unwrap().parse().unwrap();
        let (api, admin) = (address("grpc"), address("http"));
        Self { child, log, api, admin }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    async fn ended(&mut self) -> Option<i32> {
        timeout(Duration::from_secs(12), self.child.wait()).await.expect("it does not end").unwrap().code()
    }

    fn http(&self, path: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(self.admin)?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }

    async fn until(&self, path: &str, says: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.http(path).is_ok_and(|answer| answer.contains(says)) {
            assert!(Instant::now() < deadline, "{path} never says {says}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn cns(&self) -> CnServiceClient<tonic::transport::Channel> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", self.api)).unwrap();
        CnServiceClient::new(endpoint.connect().await.unwrap())
    }
}

/// The next line of the log with that message.
async fn logged(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> serde_json::Value {
    loop {
        let line = timeout(Duration::from_secs(10), log.next_line()).await.expect("no such line").unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended before it said {message:?}"));
        let line: serde_json::Value = serde_json::from_str(&line).expect("a line of the log is JSON");
        if line["fields"]["message"] == message {
            return line;
        }
    }
}

#[tokio::test]
async fn arguments() {
    let folder = tempdir().unwrap();
    let good = config(folder.path(), "groups: []");
    let (code, out, _) = run(&["--version"]).await;
    assert_eq!((code, out.as_str()), (0, concat!("shunt-control ", env!("CARGO_PKG_VERSION"), "\n")));
    let (code, out, _) = run(&["--help"]).await;
    assert!(code == 0 && out.contains("--config <FILE>") && out.contains("--check"), "{out}");
    let (code, out, err) = run(&["--config", &good, "--check"]).await;
    assert!(code == 0 && out.contains("valid") && err.is_empty(), "{out}{err}");
    assert!(!folder.path().join("store").exists(), "--check makes nothing");
    for wrong in [&[][..], &["--config"], &["--config", &good, "--no-such"], &["--log-format", "x"]] {
        assert_eq!(run(wrong).await.0, 2, "{wrong:?}");
    }
    let (code, _, err) = run(&["--config", "/no/such/file", "--check"]).await;
    assert!(code == 1 && err.contains("/no/such/file"), "{err}");
}

#[tokio::test]
async fn a_bad_configuration_is_told_with_path_and_line() {
    let folder = tempdir().unwrap();
    let bad =
        config(folder.path(), "apy: {}\ngroups: [ { name: tp, cns: [ { name: x } ] } ]\nsecurity: { a: 1 }");
    for args in [&["--config", bad.as_str(), "--check"][..], &["--config", &bad]] {
        let (code, out, err) = run(args).await;
        assert_eq!((code, out.as_str()), (1, ""));
        for part in ["control.yaml:4", "apy", "control.yaml:5", "address", "control.yaml:6", "security.a"] {
            assert!(err.contains(part), "{part} in {err}");
        }
    }
}

#[tokio::test]
async fn told_to_stop_it_ends_in_order() {
    let folder = tempdir().unwrap();
    let path = config(folder.path(), "");
    for signal in ["-TERM", "-INT"] {
        let mut control = Running::start(&path).await;
        control.until("/readyz", "200 OK").await;
        control.signal(signal);
        assert_eq!(control.ended().await, Some(0), "{signal}");
        logged(&mut control.log, "control plane has stopped").await;
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let folder = tempdir().unwrap();
    let mut control = Running::start(&config(folder.path(), "")).await;
    control.until("/readyz", "200 OK").await;
    // A caller that says nothing: calls do not end before their time is over.
    let _silent = TcpStream::connect(control.api).unwrap();
    control.until("/metrics", "store_in_step 1").await;
    control.signal("-TERM");
    control.until("/readyz", "stopping").await;
    control.signal("-TERM");
    let began = Instant::now();
    assert_eq!(control.ended().await, Some(1));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn killed_in_the_middle_it_has_what_it_answered() {
    let folder = tempdir().unwrap();
    let path = config(folder.path(), "");
    let control = Running::start(&path).await;
    control.until("/readyz", "200 OK").await;
    let mut cns = control.cns().await;
    let writer = tokio::spawn(async move {
        for i in 1.. {
            let cn = pb::Cn { name: format!("cn-{i}"), address: format!("h:{i}"), ..Default::default() };
            if cns.create_cn(pb::CreateCnRequest { cn: Some(cn) }).await.is_err() {
                return i - 1;
            }
        }
        unreachable!("the server is killed")
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    control.signal("-KILL");
    let answered = timeout(Duration::from_secs(10), writer).await.unwrap().unwrap();
    assert!(answered > 0);
    let control = Running::start(&path).await;
    control.until("/readyz", "200 OK").await;
    let mut cns = control.cns().await;
    for i in 1..=answered {
        cns.get_cn(pb::GetCnRequest { name: format!("cn-{i}") }).await.unwrap();
    }
}

#[tokio::test]
async fn a_second_process_and_a_port_that_is_taken_are_told() {
    let folder = tempdir().unwrap();
    let path = config(folder.path(), "");
    let control = Running::start(&path).await;
    let (code, _, err) = run(&["--config", &path]).await;
    assert!(code == 1 && err.contains("another process has it open"), "{err}");
    let other = tempdir().unwrap();
    let taken = config(other.path(), "").replace("control.yaml", "taken.yaml");
    let text = std::fs::read_to_string(other.path().join("control.yaml")).unwrap();
    std::fs::write(&taken, text.replacen("127.0.0.1:0", &control.api.to_string(), 1)).unwrap();
    let (code, _, err) = run(&["--config", &taken]).await;
    assert!(code == 1 && err.contains(&format!("listen on {}", control.api)), "{err}");
}

/// One line of the log, whatever differs.
#[tokio::test]
async fn a_filled_store_that_differs_is_told() {
    let folder = tempdir().unwrap();
    let start = async |more: &str, folder: &TempDir| Running::start(&config(folder.path(), more)).await;
    let group =
        |name: &str| format!("groups: [ {{ name: {name}, cns: [ {{ name: x, address: 'h:1' }} ] }} ]");
    let mut control = start(&group("tp"), &folder).await;
    assert_eq!(logged(&mut control.log, "empty store was filled").await["fields"]["objects"], 2);
    control.signal("-TERM");
    control.ended().await;
    let more = "groups: [ { name: tp, labels: { a: b }, cns: [ { name: x, address: 'h:1' } ] } ]";
    let mut control = start(more, &folder).await;
    let told = logged(&mut control.log, "store differs from the configuration; the store counts").await;
    assert_eq!(told["fields"]["what"], "group/tp");
    control.signal("-TERM");
    control.ended().await;
    let mut control = start(&group("ap"), &folder).await;
    let told = logged(&mut control.log, "store differs from the configuration; the store counts").await;
    assert!(told["fields"]["what"].as_str().unwrap().contains("belongs to group tp"), "{told}");
}
