//! A child process that cannot outlive the test: in a process group of its own, its output in files,
//! killed when the value is dropped, and by a watcher when the test process dies in any other way.

use crate::eventually::{patience, within};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// The watcher: waits on a pipe that ends when the test process does, then ends the group and
/// removes its folder. A line on the pipe calls it off.
const WATCHER: &str =
    r#"read -r line; if [ -z "$line" ]; then kill -9 "-$1" 2>/dev/null; [ -n "$2" ] && rm -rf -- "$2"; fi"#;

/// A running child process.
pub struct Process {
    name: String,
    child: Child,
    watcher: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    show_when_panicking: bool,
}

/// Time that a process has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// In its own code.
    pub user: Duration,
    /// In the kernel, for it.
    pub system: Duration,
}

impl CpuTime {
    /// All of it.
    pub fn whole(self) -> Duration {
        self.user + self.system
    }
}

impl Process {
    /// Starts a command. Its output goes to `<logs>/<name>.out` and `.err`; `scratch` is removed by
    /// the watcher if the test process dies.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn start(name: &str, mut command: Command, logs: &Path, scratch: Option<&Path>) -> Result<Self> {
        let stdout = logs.join(format!("{name}.out"));
        let stderr = logs.join(format!("{name}.err"));
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        command.stdin(Stdio::null()).stdout(append(&stdout)?).stderr(append(&stderr)?).process_group(0);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let watcher = Command::new("/bin/sh")
            .args(["-c", WATCHER, "watcher", &child.id().to_string()])
            .arg(scratch.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the watcher")?;
        Ok(Self { name: name.into(), child, watcher, stdout, stderr, show_when_panicking: true })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Stops it where it is (SIGSTOP), and waits until every thread stands. SIGCONT lets it go on.
    ///
    /// # Errors
    /// The process is gone.
    pub async fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        within(patience(), async || {
            for task in fs::read_dir(format!("/proc/{}/task", self.id()))? {
                let stat = fs::read_to_string(task?.path().join("stat"))?;
                // The state follows the name, which is in parentheses and may have any character.
                let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
                ensure!(state.starts_with('T'), "a thread of {} runs on: {state}", self.name);
            }
            Ok(())
        })
        .await
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not know the child.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It has not, within the limit.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        within(limit, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => bail!("{name} has not ended"),
            Err(error) => Err(error.into()),
        })
        .await
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// It did not end within the limit.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit).await
    }

    /// Ends its whole group at once, and waits for the process itself.
    ///
    /// # Errors
    /// The kernel does not know the child.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            self.child.wait()?;
        }
        Ok(())
    }

    /// Resident memory, in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// The time that all its threads have run so far, those that ended included, in steps of 10 ms.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_time(&self) -> Result<CpuTime> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // The fields follow the name, which is in parentheses: the state is the third of all.
        let fields: Vec<_> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
        let time = |field: usize| -> Result<Duration> {
            // Linux tells hundredths of a second, whatever it counts in itself.
            let ticks: u64 = fields.get(field - 3).context("no such field")?.parse()?;
            Ok(Duration::from_millis(ticks * 10))
        };
        Ok(CpuTime { user: time(14)?, system: time(15)? })
    }

    /// What it wrote to standard output and standard error so far.
    pub fn output(&self) -> String {
        let read = |path| fs::read(path).unwrap_or_default();
        let mut all = read(&self.stdout);
        all.extend(read(&self.stderr));
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Says nothing of its output when a test fails.
    pub fn quiet(mut self) -> Self {
        self.show_when_panicking = false;
        self
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        if let Some(pipe) = &mut self.watcher.stdin {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.watcher.wait();
        // A test that ends with an error does not panic before its processes are gone: who looks into one, asks.
        let is_asked = std::env::var_os("SHOW_LOGS").is_some();
        if (std::thread::panicking() || is_asked) && self.show_when_panicking {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(200)..];
            eprintln!("--- last output of {} ---\n{}\n---", self.name, last.join("\n"));
        }
    }
}
