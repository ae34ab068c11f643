//! A real MariaDB server for a test: its own data folder, port and socket; it ends with the value.
//!
//! The data folder is a copy of a template made once per machine, with two accounts: `root` without
//! a password from 127.0.0.0/8, and `app` with the password `app` from anywhere, which may do
//! everything but grant. Names are not resolved: a client on loopback is 127.0.0.1, not localhost.

use crate::eventually::{patience, within};
use crate::login::Login;
use crate::ports::free_port;
use crate::process::Process;
use crate::wire::Raw;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A server option, as on the command line.
type Argument = String;

/// How a server is to be started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    arguments: Vec<Argument>,
}

impl Options {
    /// The usual options.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more argument, such as `--init-connect=SET autocommit=0`. Later ones win.
    pub fn arg(mut self, argument: impl Into<Argument>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts a server.
    ///
    /// # Errors
    /// No MariaDB is installed, or it did not come up.
    pub async fn start(self) -> Result<MariaDb> {
        MariaDb::start_with(self).await
    }
}

/// A running MariaDB server.
pub struct MariaDb {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    options: Options,
}

static SHARED: OnceCell<MariaDb> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

impl MariaDb {
    /// The server that all tests of this program share. Tests keep to databases of their own on it.
    ///
    /// # Panics
    /// It did not start.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(async || Self::start().await.expect("a MariaDB server")).await
    }

    /// Starts a server with the usual options.
    ///
    /// # Errors
    /// No MariaDB is installed, or it did not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::new()).await
    }

    async fn start_with(options: Options) -> Result<Self> {
        let template = tokio::task::spawn_blocking(template).await??;
        let mut last = None;
        // The port can be lost to another process between its choice and the bind.
        for _ in 0..3 {
            let folder = new_folder()?;
            copy(&template, &folder.join("data"))?;
            let mut server = Self { process: None, folder, port: free_port(), options: options.clone() };
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("not tried")?)
    }

    /// Starts the program and waits until it lets somebody in.
    async fn launch(&mut self) -> Result<()> {
        let command = self.command()?;
        let process = Process::start("mariadbd", command, &self.folder, Some(&self.folder))?;
        let process = self.process.insert(process.quiet());
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let login = Login::user("root").patience(Duration::from_secs(2));
        let mut fatal = None;
        let up = within(patience(), async || {
            if let Some(status) = process.ended()? {
                fatal = Some(status);
                return Ok(());
            }
            Raw::login(address, &login).await?.quit().await
        })
        .await;
        if let Some(status) = fatal {
            bail!("mariadbd ended ({status}):\n{}", process.output());
        }
        up.with_context(|| format!("mariadbd lets nobody in:\n{}", process.output()))
    }

    fn command(&self) -> Result<Command> {
        let mut command = as_mysql(Path::new("mariadbd"))?;
        let folder = self.folder.display();
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={folder}/data"))
            .arg(format!("--socket={folder}/s"))
            .arg(format!("--pid-file={folder}/pid"))
            // A server that starts removes the temporary tables that it finds there: other servers' too.
            .arg(format!("--tmpdir={folder}"))
            .arg(format!("--port={}", self.port))
            .args(USUAL)
            .args(&self.options.arguments);
        Ok(command)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Its process id.
    ///
    /// # Panics
    /// It does not run.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// A session as `root`.
    ///
    /// # Errors
    /// The login failed.
    pub async fn root(&self) -> Result<Raw> {
        Raw::login(self.address(), &Login::user("root")).await
    }

    /// A session as `app`, on a database.
    ///
    /// # Errors
    /// The login failed.
    pub async fn app(&self, database: &str) -> Result<Raw> {
        Raw::login(self.address(), &Login::user("app").password("app").database(database)).await
    }

    /// Runs statements as `root`, one after the other.
    ///
    /// # Errors
    /// One of them failed.
    pub async fn run(&self, statements: &[&str]) -> Result<()> {
        let mut root = self.root().await?;
        for statement in statements {
            root.run(statement).await?;
        }
        root.quit().await
    }

    /// Makes a database, anew if it is there.
    ///
    /// # Errors
    /// The server refused.
    pub async fn fresh_database(&self, name: &str) -> Result<()> {
        self.run(&[
            &format!("DROP DATABASE IF EXISTS `{name}`"),
            &format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"),
        ])
        .await
    }

    /// Makes an account with mysql_native_password, anew if it is there: `user@host`, both quoted
    /// here, with all rights on everything but no right to grant.
    ///
    /// # Errors
    /// The server refused.
    pub async fn account(&self, user: &str, host: &str, password: &str) -> Result<()> {
        let who = format!("'{user}'@'{host}'");
        self.run(&[
            &format!("CREATE OR REPLACE USER {who} IDENTIFIED BY '{password}'"),
            &format!("GRANT ALL ON *.* TO {who}"),
        ])
        .await
    }

    /// Makes the account that Shunt itself has on a CN, with the grants that its README names, and
    /// nothing more: user `shunt`, password `shunt`.
    ///
    /// # Errors
    /// The server refused.
    pub async fn service_account(&self) -> Result<()> {
        self.run(&[
            "CREATE OR REPLACE USER shunt@'%' IDENTIFIED BY 'shunt'",
            "GRANT PROCESS, CONNECTION ADMIN, TRIGGER ON *.* TO shunt@'%'",
            "GRANT SELECT ON mysql.global_priv TO shunt@'%'",
            "GRANT SELECT ON mysql.proc TO shunt@'%'",
        ])
        .await
    }

    /// Stops it where it is (SIGSTOP), and waits until all of it stands: connections stay, nothing
    /// answers.
    ///
    /// # Errors
    /// It does not run.
    pub async fn freeze(&self) -> Result<()> {
        self.process.as_ref().context("not running")?.freeze().await
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> Result<()> {
        self.process.as_ref().context("not running")?.signal(Signal::CONT)
    }

    /// Kills it at once (SIGKILL); its data stays for `restart`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("not running")?.kill()
    }

    /// Ends it in order (SIGTERM); its data stays for `restart`.
    ///
    /// # Errors
    /// It does not run, or did not end.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("not running")?;
        process.terminate(patience()).await.map(drop)
    }

    /// Whether it was neither killed nor stopped.
    pub const fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Starts it again on the same data and port.
    ///
    /// # Errors
    /// It did not come up.
    pub async fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "still running");
        self.launch().await
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.process = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Small, quick, forgetful: what a test wants. `max_allowed_packet` is above 16 MiB for the tests of
/// large packets.
const USUAL: &[&str] = &[
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--local-infile=1",
    "--max-allowed-packet=128M",
    "--max-connections=4000",
    "--performance-schema=0",
    "--innodb-buffer-pool-size=24M",
    "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-flush-method=nosync",
    "--innodb-fast-shutdown=2",
    "--innodb-stats-persistent=0",
    "--key-buffer-size=1M",
    "--aria-pagecache-buffer-size=1M",
    "--table-open-cache=200",
    "--thread-cache-size=0",
    "--skip-log-bin",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
];

const ACCOUNTS: &str = "
    FLUSH PRIVILEGES;
    CREATE USER root@'127.%' IDENTIFIED VIA mysql_native_password USING '';
    GRANT ALL ON *.* TO root@'127.%' WITH GRANT OPTION;
    CREATE USER app@'%' IDENTIFIED BY 'app';
    GRANT ALL ON *.* TO app@'%';
";

/// The user and group ids of `mysql`, when this process is root and must not run servers itself.
fn mysql_ids() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("mysql:")).context("no user mysql")?;
    let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
    let uid = fields.next().context("no uid")??;
    Ok(Some((uid, fields.next().context("no gid")??)))
}

/// A command that runs as `mysql` if this process is root.
fn as_mysql(program: &Path) -> Result<Command> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/usr/libexec"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .with_context(|| format!("{} is not installed", program.display()))?;
    let mut command = Command::new(found);
    command.current_dir("/var/tmp");
    if let Some((uid, gid)) = mysql_ids()? {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

fn base() -> PathBuf {
    PathBuf::from(format!("/var/tmp/shunt-harness-{}", rustix::process::geteuid().as_raw()))
}

/// Makes a folder that `mysql` owns.
fn owned_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    if let Some((uid, gid)) = mysql_ids()? {
        chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

fn new_folder() -> Result<PathBuf> {
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = base().join(format!("run-{}-{n}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    owned_folder(&folder)?;
    Ok(folder)
}

/// The template's folder, made if it is not there. Several processes may get here at once: each
/// makes one under a name of its own, and the first to rename it has made the template.
fn template() -> Result<PathBuf> {
    let version = as_mysql(Path::new("mariadbd"))?.arg("--version").output()?.stdout;
    let version: String = String::from_utf8_lossy(&version)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let template = base().join(format!("template-2-{version}"));
    if template.exists() {
        return Ok(template);
    }
    owned_folder(&base())?;
    let draft = base().join(format!("draft-{}", std::process::id()));
    let _ = fs::remove_dir_all(&draft);
    owned_folder(&draft)?;
    let made = as_mysql(Path::new("mariadb-install-db"))?
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--innodb-log-file-size=8M", "--character-set-server=utf8mb4"])
        .arg(format!("--datadir={}", draft.display()))
        .output()?;
    ensure!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stderr));
    bootstrap(&draft, ACCOUNTS)?;
    if fs::rename(&draft, &template).is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    Ok(template)
}

/// Runs SQL on a data folder without starting a server.
fn bootstrap(data: &Path, sql: &str) -> Result<()> {
    let mut child = as_mysql(Path::new("mariadbd"))?
        .args(["--no-defaults", "--bootstrap", "--innodb-log-file-size=8M"])
        .arg(format!("--datadir={}", data.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // Bootstrap wants one statement a line.
    let lines: Vec<_> = sql.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    child.stdin.take().context("no stdin")?.write_all(format!("{}\n", lines.join("\n")).as_bytes())?;
    let done = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success() && !errors.contains("ERROR:"), "bootstrap: {errors}");
    Ok(())
}

/// Copies a folder with its owners, sharing blocks where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").args(["--reflink=auto", "-a"]).arg(from).arg(to).output()?;
    ensure!(done.status.success(), "copy the template: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
