//! What a burst costs: one read and one write in each direction, and no read that finds nothing.
//!
//! Counted by strace on the real data plane.

mod stand;

use anyhow::{Context as _, Result, ensure};
use shunt_harness::{Execute, Param, Raw, Shunt, command, eventually};
use stand::{app, login, setup, shared_cn};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// strace on a process, until it is asked what it saw.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    /// Follows every thread of `process`; when this returns it sees everything.
    async fn attach(process: u32, folder: &Path) -> Result<Self> {
        let file = folder.join("trace");
        let said = folder.join("strace");
        let strace = Command::new("strace")
            .args(["-f", "-yy", "-e", "trace=network,read,write,readv,writev,io_uring_enter", "-o"])
            .arg(&file)
            .args(["-p", &process.to_string()])
            .stderr(Stdio::from(std::fs::File::create(&said)?))
            .spawn()
            .context("start strace")?;
        let threads = std::fs::read_dir(format!("/proc/{process}/task"))?.count();
        let trace = Self { strace, file };
        eventually("strace is attached", async || {
            let attached = std::fs::read_to_string(&said)?.matches("attached").count();
            // It tells of a process of several threads in one line.
            ensure!(attached > 0 && traced(process)? == threads, "{attached} of {threads}");
            Ok(())
        })
        .await;
        Ok(trace)
    }

    /// The calls on sockets whose ends are `one` and `other`, in their order, with what they returned.
    async fn calls(self, one: SocketAddr, other: SocketAddr) -> Result<Vec<(String, i64)>> {
        let ends = [format!("{one}->{other}"), format!("{other}->{one}")];
        let calls = self.all().await?.into_iter();
        calls.filter(|line| ends.iter().any(|ends| line.contains(ends))).map(|line| read(&line)).collect()
    }

    /// All calls, in their order.
    async fn all(mut self) -> Result<Vec<String>> {
        let id = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(id, rustix::process::Signal::INT)?;
        self.strace.wait()?;
        let text = std::fs::read_to_string(&self.file)?;
        Ok(whole_lines(&text))
    }
}

/// How many threads of `process` are traced.
fn traced(process: u32) -> Result<usize> {
    let mut n = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        n += usize::from(!status.contains("TracerPid:\t0\n"));
    }
    Ok(n)
}

/// A call that another thread's came between is told in two parts.
fn whole_lines(text: &str) -> Vec<String> {
    let mut begun: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning);
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            lines.push(format!("{}{rest}", begun.remove(thread).unwrap_or_default()));
        } else {
            lines.push(call.to_owned());
        }
    }
    lines
}

/// The name of a call, and what it returned: a number of bytes, or -1.
fn read(line: &str) -> Result<(String, i64)> {
    let name = line.trim_start().split('(').next().unwrap_or_default();
    if line.ends_with("<detached ...>") {
        // The client had its answer before strace saw the call return.
        return Ok((name.to_owned(), 1));
    }
    let result = line.rsplit_once(" = ").with_context(|| line.to_owned())?.1;
    let result = result.split(' ').next().unwrap_or_default();
    Ok((name.to_owned(), result.parse().with_context(|| line.to_owned())?))
}

/// How many of `calls` have this name; none may have failed.
fn count(calls: &[(String, i64)], name: &str) -> usize {
    assert!(calls.iter().all(|(_, result)| *result > 0), "a call that moved nothing: {calls:?}");
    calls.iter().filter(|(called, _)| called == name).count()
}

async fn traced_shunt(io: &str) -> Result<(Shunt, SocketAddr)> {
    let cn = shared_cn().await;
    Ok((setup().cn("cn-1", cn.address()).set("mysql.io", io).planes(1).await?, cn.address()))
}

/// The session's two connections: its own to the data plane, and the data plane's to the CN, which the CN knows.
async fn ends(session: &mut Raw, shunt: &Shunt, cn: SocketAddr) -> Result<[(SocketAddr, SocketAddr); 2]> {
    let host =
        session.value("SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()").await?;
    let port = host.rsplit_once(':').context("host:port")?.1.parse()?;
    Ok([(session.local_addr()?, shunt.address()), (SocketAddr::new([127, 0, 0, 1].into(), port), cn)])
}

#[tokio::test]
async fn a_burst_is_one_read_and_one_write_in_each_direction() -> Result<()> {
    const QUERIES: usize = 200;
    let folder = tempfile::tempdir()?;
    for what in ["text", "prepared", "pipelined"] {
        let (mut shunt, cn) = traced_shunt("epoll").await?;
        let mut session = login(&shunt, &app()).await?;
        let [client_side, cn_side] = ends(&mut session, &shunt, cn).await?;
        let statement = session.prepare("SELECT ?").await?;
        let data_plane = shunt.planes.last_mut().context("a data plane")?.process()?.id();
        for (side, (one, other)) in [("client", client_side), ("cn", cn_side)] {
            let trace = Trace::attach(data_plane, folder.path()).await?;
            for n in 0..QUERIES {
                match what {
                    "text" => assert_eq!(session.value(format!("SELECT {n}")).await?, n.to_string()),
                    "prepared" => {
                        let execute =
                            command::execute(statement.id, &[Param::LongLong(n as i64)], Execute::default());
                        session.command(&execute).await?;
                    }
                    _ => {
                        let queries: Vec<_> =
                            (0..16).map(|i| command::query(format!("SELECT {i}"))).collect();
                        assert_eq!(session.pipeline(&queries).await?.len(), 16);
                    }
                }
            }
            let calls = trace.calls(one, other).await?;
            let (reads, writes) = (count(&calls, "recvfrom"), count(&calls, "sendto"));
            assert_eq!(calls.len(), reads + writes, "{calls:?}");
            // The CN answers what is pipelined one after the other: what has come is passed on.
            let (asked, answered) = if side == "client" { (reads, writes) } else { (writes, reads) };
            assert_eq!(asked, QUERIES, "{what}, {side}");
            let most = if what == "pipelined" { 16 * QUERIES } else { QUERIES };
            assert!((QUERIES..=most).contains(&answered), "{what}, {side}: {answered}");
        }
        shunt.stop().await?;
    }
    Ok(())
}

/// Over io_uring a read and a write are entries of a queue: one of each for a burst in each direction, and no call
/// that shows the kernel less than both.
#[tokio::test]
async fn over_io_uring_a_burst_is_one_read_and_one_write_in_each_direction_and_half_a_call() -> Result<()> {
    const QUERIES: usize = 200;
    let folder = tempfile::tempdir()?;
    let (mut shunt, cn) = traced_shunt("io_uring").await?;
    let mut session = login(&shunt, &app()).await?;
    let ends = ends(&mut session, &shunt, cn).await?;
    let data_plane = shunt.planes.last_mut().context("a data plane")?.process()?.id();
    let trace = Trace::attach(data_plane, folder.path()).await?;
    for n in 0..QUERIES {
        assert_eq!(session.value(format!("SELECT {n}")).await?, n.to_string());
    }
    let lines = trace.all().await?;
    for (one, other) in ends {
        let own = [format!("{one}->{other}"), format!("{other}->{one}")];
        let own: Vec<_> = lines.iter().filter(|line| own.iter().any(|ends| line.contains(ends))).collect();
        assert!(own.is_empty(), "{own:?}");
    }
    let shown: Vec<i64> = lines
        .iter()
        .filter(|line| line.trim_start().starts_with("io_uring_enter"))
        .map(|line| read(line).map(|(_, entries)| entries))
        .collect::<Result<_>>()?;
    // The first or the last may have been before strace, or after it.
    let entries: i64 = shown.iter().sum();
    assert!((4 * QUERIES as i64 - 4..=4 * QUERIES as i64).contains(&entries), "{entries} entries");
    assert!((2 * QUERIES - 2..=2 * QUERIES).contains(&shown.len()), "{} calls", shown.len());
    shunt.stop().await?;
    Ok(())
}
