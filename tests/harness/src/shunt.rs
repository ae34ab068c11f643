//! Shunt's own programs as processes: configured, started, asked, ended, as an operator would.
//!
//! What it knows of Shunt is the contract: the programs' names, their configuration, `/readyz` and
//! `shuntctl -o json`.

use crate::etcd::Etcd;
use crate::eventually::{patience, within};
use crate::http;
use crate::ports::free_port;
use crate::process::Process;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tempfile::TempDir;

/// What to start, and with which configuration.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    config: Map<String, Value>,
    password: Option<String>,
}

/// A group of CNs in a configuration.
#[derive(Clone, Debug)]
pub struct Group(Map<String, Value>);

impl Group {
    /// A group without labels, tenant and CNs.
    pub fn named(name: &str) -> Self {
        let mut group = Map::new();
        group.insert("name".into(), name.into());
        group.insert("cns".into(), json!([]));
        Self(group)
    }

    /// With a label of one value, or of several separated by commas.
    pub fn label(mut self, key: &str, values: &str) -> Self {
        let values: Vec<_> = values.split(',').collect();
        self.0.entry("labels").or_insert_with(|| json!({}))[key] = json!(values);
        self
    }

    /// For this tenant.
    pub fn tenant(mut self, tenant: &str) -> Self {
        self.0.insert("tenant".into(), tenant.into());
        self
    }

    /// With a CN.
    pub fn cn(self, name: &str, address: SocketAddr) -> Self {
        self.cn_with(json!({ "name": name, "address": address.to_string() }))
    }

    /// With a CN by its host's name: to whoever compares addresses, another one than that of `cn`.
    pub fn cn_by_name(self, name: &str, loopback: SocketAddr) -> Self {
        self.cn_with(json!({ "name": name, "address": format!("localhost:{}", loopback.port()) }))
    }

    /// With a CN as the configuration would have it: labels, weight, zone.
    pub fn cn_with(mut self, cn: Value) -> Self {
        if let Some(cns) = self.0.get_mut("cns").and_then(Value::as_array_mut) {
            cns.push(cn);
        }
        self
    }
}

impl Setup {
    /// Nothing but what has no default.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a group.
    pub fn group(mut self, group: Group) -> Self {
        self.push("groups", Value::Object(group.0));
        self
    }

    /// With a group `shared` of one CN without labels.
    pub fn cn(self, name: &str, address: SocketAddr) -> Self {
        self.group(Group::named("shared").cn(name, address))
    }

    /// With a tenant: its fields as in the configuration, but the name.
    pub fn tenant(mut self, name: &str, mut fields: Value) -> Self {
        fields["name"] = name.into();
        self.push("tenants", fields);
        self
    }

    /// With the service account on the CNs.
    pub fn cn_account(mut self, user: &str, password: &str) -> Self {
        self.password = Some(password.into());
        self.set("cn_account.user", user)
    }

    /// With a value at a path of the configuration: `set("limits.login", "2s")`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut keys = path.split('.');
        let first = keys.next().unwrap_or_default();
        let mut at = self.config.entry(first).or_insert(Value::Null);
        for key in keys {
            at = &mut at[key];
        }
        *at = value.into();
        self
    }

    fn push(&mut self, list: &str, item: Value) {
        let at = self.config.entry(list).or_insert_with(|| json!([]));
        if let Some(items) = at.as_array_mut() {
            items.push(item);
        }
    }

    /// Starts both planes in one process.
    ///
    /// # Errors
    /// The program is not built, or did not get ready.
    pub async fn standalone(self) -> Result<Shunt> {
        let mut shunt = Shunt::prepare(self)?;
        shunt.planes.push(Plane::standalone(&shunt.folder, &shunt.setup, shunt.api)?);
        shunt.start_all().await?;
        Ok(shunt)
    }

    /// Starts one control plane and this many data planes, each its own process.
    ///
    /// # Errors
    /// A program is not built, or did not get ready.
    pub async fn planes(self, data_planes: usize) -> Result<Shunt> {
        let mut shunt = Shunt::prepare(self)?;
        shunt.planes.push(Plane::control(&shunt.folder, &shunt.setup, shunt.api)?);
        for n in 1..=data_planes {
            shunt.planes.push(Plane::data(&shunt.folder, &shunt.setup, shunt.api, n)?);
        }
        shunt.start_all().await?;
        Ok(shunt)
    }

    /// Starts so many control planes over one etcd, and so many data planes that know all of them, each its own process.
    ///
    /// # Errors
    /// A program is not built, or did not get ready.
    pub async fn replicas(mut self, etcd: &Etcd, control_planes: usize, data_planes: usize) -> Result<Shunt> {
        self = self.set("store.etcd.endpoints", etcd.endpoints()).set("store.etcd.prefix", "/shunt");
        let mut shunt = Shunt::prepare(self)?;
        let apis: Vec<SocketAddr> = (0..control_planes).map(|_| loopback()).collect();
        let endpoints: Vec<String> = apis.iter().map(|api| format!("http://{api}")).collect();
        shunt.setup = shunt.setup.set("control.endpoints", endpoints);
        for (n, api) in apis.iter().enumerate() {
            let name = format!("control-{}", n + 1);
            shunt.planes.push(Plane::replica(&shunt.folder, &shunt.setup, *api, &name)?);
        }
        for n in 1..=data_planes {
            shunt.planes.push(Plane::data(&shunt.folder, &shunt.setup, apis[0], n)?);
        }
        (shunt.api, shunt.apis) = (apis[0], apis);
        shunt.start_all().await?;
        Ok(shunt)
    }

    /// The parts of the configuration that these programs take.
    fn config(&self, keys: &[&str], own: Value, folder: &Path) -> Result<Value> {
        let mut config = own;
        for (key, value) in self.config.iter().filter(|(key, _)| keys.contains(&key.as_str())) {
            merge(&mut config[key], value);
        }
        if let (Some(password), true) = (&self.password, keys.contains(&"cn_account")) {
            let file = folder.join("cn-password");
            std::fs::write(&file, format!("{password}\n"))?;
            config["cn_account"]["password_file"] = file.display().to_string().into();
        }
        Ok(config)
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// The keys that shunt-control takes beside its addresses.
const CONTROL: &[&str] = &["admin", "api", "groups", "policy", "security", "store", "tenants"];
/// The keys that shunt-data takes beside its addresses.
const DATA: &[&str] =
    &["admin", "cn_account", "cn_proxy_protocol", "control", "limits", "mysql", "rehearsal", "state"];

/// One program of a running Shunt.
pub struct Plane {
    name: String,
    program: &'static str,
    config: PathBuf,
    mysql: Option<SocketAddr>,
    admin: Vec<SocketAddr>,
    process: Option<Process>,
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// What data planes of tests wait for sockets by, unless one says otherwise: `SHUNT_TEST_IO`, or io_uring. As shipped,
/// few sessions would not use it.
fn io() -> String {
    std::env::var("SHUNT_TEST_IO").unwrap_or_else(|_| "io_uring".to_owned())
}

impl Plane {
    fn new(folder: &TempDir, name: &str, program: &'static str, config: &Value) -> Result<Self> {
        let path = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&path, serde_json::to_string_pretty(config)?)?; // JSON is YAML
        let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        let admin = ["control", "data"].iter().filter_map(|side| address(&config["admin"][side])).collect();
        let mysql = address(&config["mysql"]["listen"]);
        Ok(Self { name: name.into(), program, config: path, mysql, admin, process: None })
    }

    fn standalone(folder: &TempDir, setup: &Setup, api: SocketAddr) -> Result<Self> {
        let own = json!({
            "mysql": { "listen": loopback().to_string(), "io": io() },
            "api": { "listen": api.to_string() },
            "admin": { "control": loopback().to_string(), "data": loopback().to_string() },
            "store": { "embedded": folder.path().join("store").display().to_string() },
        });
        let config = setup.config(&[CONTROL, DATA].concat(), own, folder.path())?;
        Self::new(folder, "standalone", "shunt-standalone", &config)
    }

    fn control(folder: &TempDir, setup: &Setup, api: SocketAddr) -> Result<Self> {
        let own = json!({
            "api": { "listen": api.to_string() },
            "admin": { "control": loopback().to_string() },
            "store": { "embedded": folder.path().join("store").display().to_string() },
        });
        let config = setup.config(CONTROL, own, folder.path())?;
        Self::new(folder, "control", "shunt-control", &config)
    }

    fn replica(folder: &TempDir, setup: &Setup, api: SocketAddr, name: &str) -> Result<Self> {
        let own = json!({
            "api": { "listen": api.to_string() },
            "admin": { "control": loopback().to_string() },
        });
        let config = setup.config(CONTROL, own, folder.path())?;
        Self::new(folder, name, "shunt-control", &config)
    }

    fn data(folder: &TempDir, setup: &Setup, api: SocketAddr, n: usize) -> Result<Self> {
        let name = format!("data-{n}");
        let own = json!({
            "mysql": { "listen": loopback().to_string(), "io": io() },
            "admin": { "data": loopback().to_string() },
            "control": { "endpoints": [format!("http://{api}")] },
            "state": folder.path().join(&name).display().to_string(),
        });
        let config = setup.config(DATA, own, folder.path())?;
        Self::new(folder, &name, "shunt-data", &config)
    }

    /// Its name: `standalone`, `control`, `data-1`, ….
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().with_context(|| format!("{} does not run", self.name))
    }

    /// Starts the process and does not wait.
    ///
    /// # Errors
    /// The program is not built.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = Command::new(program(self.program)?);
        command.arg("--config").arg(&self.config).env("RUST_BACKTRACE", "1");
        let logs = self.config.parent().context("a folder")?;
        self.process = Some(Process::start(&self.name, command, logs, None)?);
        Ok(())
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// It ended, or did not get ready in time.
    pub async fn ready(&mut self) -> Result<()> {
        let Self { name, admin, process, .. } = self;
        let process = process.as_mut().with_context(|| format!("{name} does not run"))?;
        let mut ended: Option<ExitStatus> = None;
        within(patience(), async || {
            ended = process.ended()?;
            if ended.is_some() {
                return Ok(());
            }
            for address in admin.iter() {
                let (status, body) = http::get(*address, "/readyz").await?;
                ensure!(status == 200, "{name} is not ready: {status} {body}");
            }
            Ok(())
        })
        .await?;
        match ended {
            Some(status) => bail!("{name} ended ({status}):\n{}", process.output()),
            None => Ok(()),
        }
    }

    /// Where it takes MySQL clients.
    ///
    /// # Panics
    /// It is a control plane.
    pub fn mysql(&self) -> SocketAddr {
        self.mysql.expect("a data plane")
    }

    /// Its HTTP address; that of the data plane in a standalone.
    pub fn http(&self) -> SocketAddr {
        *self.admin.last().expect("every program has one")
    }

    /// Its metrics.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub async fn metrics(&self) -> Result<String> {
        let (status, body) = http::get(self.http(), "/metrics").await?;
        ensure!(status == 200, "/metrics: {status} {body}");
        Ok(body)
    }

    /// Ends it in order (SIGTERM).
    ///
    /// # Errors
    /// It does not run, or did not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        process.terminate(patience()).await
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().with_context(|| format!("{} does not run", self.name))?.kill()
    }
}

/// A running Shunt.
pub struct Shunt {
    /// Its programs, the control plane or the standalone first.
    pub planes: Vec<Plane>,
    api: SocketAddr,
    /// Of each control plane, where there are several.
    apis: Vec<SocketAddr>,
    setup: Setup,
    // Last, so that it is removed after the processes have ended.
    folder: TempDir,
}

/// What `shuntctl` said.
#[derive(Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Shunt {
    fn prepare(setup: Setup) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("shunt-test-").tempdir_in("/var/tmp")?;
        Ok(Self { planes: Vec::new(), api: loopback(), apis: Vec::new(), setup, folder })
    }

    async fn start_all(&mut self) -> Result<()> {
        for plane in &mut self.planes {
            plane.launch()?;
            plane.ready().await?;
        }
        Ok(())
    }

    /// Where (the first data plane) takes MySQL clients.
    ///
    /// # Panics
    /// There is no data plane.
    pub fn address(&self) -> SocketAddr {
        self.planes.iter().find_map(|plane| plane.mysql).expect("a data plane")
    }

    /// The gRPC address of the control plane.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// The folder with configurations, state and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program of this name: `standalone`, `control`, `data-1`, ….
    ///
    /// # Panics
    /// There is none.
    pub fn plane(&mut self, name: &str) -> &mut Plane {
        self.planes.iter_mut().find(|plane| plane.name == name).expect("a plane of this name")
    }

    /// From now on `shuntctl` asks that control plane: 1, 2, ….
    ///
    /// # Panics
    /// There are not so many.
    pub fn ask(&mut self, n: usize) {
        self.api = self.apis[n - 1];
    }

    /// Runs `shuntctl`, whatever comes of it.
    ///
    /// # Errors
    /// It is not built, or did not end in time.
    pub async fn try_ctl(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = tokio::process::Command::new(program("shuntctl")?);
        command.arg("--server").arg(format!("http://{}", self.api)).args(arguments).kill_on_drop(true);
        let limit = patience() + Duration::from_secs(15);
        let output = tokio::time::timeout(limit, command.output())
            .await
            .with_context(|| format!("shuntctl {arguments:?} does not end"))??;
        Ok(Said {
            status: output.status,
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// Runs `shuntctl -o json`, which must succeed, and reads what it prints (null if nothing).
    ///
    /// # Errors
    /// It failed, or did not print one JSON document.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.try_ctl(&[&["-o", "json"], arguments].concat()).await?;
        ensure!(said.status.success(), "shuntctl {arguments:?}: {}\n{}", said.status, said.stderr);
        if said.stdout.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&said.stdout).with_context(|| format!("shuntctl {arguments:?}: {}", said.stdout))
    }

    /// Ends all programs in order, data planes first.
    ///
    /// # Errors
    /// One did not end in time.
    pub async fn stop(&mut self) -> Result<()> {
        for plane in self.planes.iter_mut().rev().filter(|plane| plane.process.is_some()) {
            plane.stop().await?;
        }
        Ok(())
    }
}

/// Finds a program of Shunt: in SHUNT_BIN_DIR, or where this test was built.
///
/// # Errors
/// It is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folders = Vec::new();
    folders.extend(std::env::var_os("SHUNT_BIN_DIR").map(PathBuf::from));
    // A test is target/<profile>/deps/<test>.
    let me = std::env::current_exe()?;
    folders.extend(me.ancestors().skip(1).take(2).map(Path::to_path_buf));
    folders.extend(std::env::var_os("CARGO_TARGET_DIR").map(|target| PathBuf::from(target).join("debug")));
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug"));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built (cargo build --workspace), looked in {folders:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_gets_its_part() {
        let cn = SocketAddr::from(([127, 0, 0, 1], 3306));
        let setup = Setup::new()
            .group(Group::named("tp").label("workload", "tp,oltp").tenant("acme").cn("cn-1", cn))
            .tenant("acme", json!({ "max_sessions": 3 }))
            .cn_account("shunt", "secret")
            .set("limits.login", "2s")
            .set("mysql.server_version", "8.0.30");
        let shunt = Shunt::prepare(setup).unwrap();
        let read = |plane: &Plane| -> Value {
            serde_json::from_str(&std::fs::read_to_string(&plane.config).unwrap()).unwrap()
        };
        let control = read(&Plane::control(&shunt.folder, &shunt.setup, shunt.api).unwrap());
        assert_eq!(control["groups"][0]["labels"]["workload"], json!(["tp", "oltp"]));
        assert_eq!(control["tenants"][0], json!({ "name": "acme", "max_sessions": 3 }));
        assert_eq!(control["limits"], Value::Null);
        assert_eq!(control["cn_account"], Value::Null);
        let data = read(&Plane::data(&shunt.folder, &shunt.setup, shunt.api, 1).unwrap());
        assert_eq!(data["limits"]["login"], "2s");
        assert_eq!(data["mysql"]["server_version"], "8.0.30");
        assert!(data["mysql"]["listen"].as_str().unwrap().starts_with("127.0.0.1:"));
        let file = data["cn_account"]["password_file"].as_str().unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "secret\n");
        assert_eq!(data["groups"], Value::Null);
    }
}
