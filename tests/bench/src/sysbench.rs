//! sysbench: the command lines that we run, and what it says at the end.

use crate::sample::Load;
use anyhow::{Context as _, Result, ensure};
use std::net::SocketAddr;

/// Rows of the table.
pub(crate) const ROWS: u32 = 100_000;

/// A workload of sysbench.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysbench {
    /// The script, as sysbench names it.
    pub(crate) script: &'static str,
    /// The script's own options.
    pub(crate) options: Vec<String>,
    /// Connections, each with a thread of sysbench.
    pub(crate) connections: u32,
    /// By prepared statements, else as text.
    pub(crate) prepared: bool,
    /// Deadlocks are part of the workload: sysbench runs such a transaction again.
    pub(crate) deadlocks: bool,
}

impl Sysbench {
    /// The command that puts this load on `address` for so many seconds.
    pub(crate) fn command(&self, address: SocketAddr, seconds: u32) -> Vec<String> {
        let mut words = words(self.script, address);
        words.extend([
            format!("--threads={}", self.connections),
            format!("--time={seconds}"),
            "--events=0".to_owned(),
            "--rand-type=uniform".to_owned(),
            "--percentile=99".to_owned(),
            format!("--db-ps-mode={}", if self.prepared { "auto" } else { "disable" }),
            format!("--mysql-ignore-errors={}", if self.deadlocks { "1213" } else { "none" }),
        ]);
        words.extend(self.options.iter().cloned());
        words.push("run".to_owned());
        words
    }

    /// Reads what the command printed.
    ///
    /// # Errors
    /// It is not what sysbench says at the end of a run, or there were errors in it.
    pub(crate) fn read(&self, output: &str) -> Result<Load> {
        let load = read(output)?;
        ensure!(output.lines().all(|line| !line.starts_with("FATAL")), "sysbench: {output}");
        ensure!(number(output, "reconnects:")? == 0.0, "sysbench reconnected");
        let errors = number(output, "ignored errors:")?;
        // A deadlock now and then is the CN's; many are none of it.
        let allowed = if self.deadlocks { load.queries as f64 / 1000.0 } else { 0.0 };
        ensure!(errors <= allowed, "sysbench had {errors} errors");
        ensure!(load.queries > 0, "sysbench ran no query");
        Ok(load)
    }
}

/// The command that makes the table.
pub(crate) fn prepare(address: SocketAddr) -> Vec<String> {
    let mut words = words("oltp_read_write", address);
    words.push("prepare".to_owned());
    words
}

fn words(script: &str, address: SocketAddr) -> Vec<String> {
    vec![
        "sysbench".to_owned(),
        script.to_owned(),
        "--db-driver=mysql".to_owned(),
        format!("--mysql-host={}", address.ip()),
        format!("--mysql-port={}", address.port()),
        "--mysql-user=app".to_owned(),
        "--mysql-password=app".to_owned(),
        "--mysql-db=bench".to_owned(),
        "--tables=1".to_owned(),
        format!("--table-size={ROWS}"),
    ]
}

fn read(output: &str) -> Result<Load> {
    let seconds = number(output, "total time:")?;
    ensure!(seconds > 0.0, "sysbench took no time");
    let queries = number(output, "queries:")?;
    Ok(Load { queries: queries as u64, seconds, p99_ms: number(output, "99th percentile:")? })
}

/// The number behind a label.
fn number(output: &str, label: &str) -> Result<f64> {
    let line = output.lines().find_map(|line| line.trim().strip_prefix(label));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    let word = word.with_context(|| format!("sysbench does not say {label:?}: {output}"))?;
    word.trim_end_matches('s').parse().with_context(|| format!("{label} {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
SQL statistics:
    queries performed:
        read:                            28602
        write:                           0
        other:                           0
        total:                           28602
    transactions:                        28602  (14286.55 per sec.)
    queries:                             28602  (14286.55 per sec.)
    ignored errors:                      0      (0.00 per sec.)
    reconnects:                          0      (0.00 per sec.)

General statistics:
    total time:                          2.0011s
    total number of events:              28602

Latency (ms):
         min:                                    0.11
         avg:                                    1.12
         max:                                   21.33
         99th percentile:                        4.57
         sum:                                31934.08
";

    fn point(deadlocks: bool) -> Sysbench {
        Sysbench { script: "oltp_point_select", options: vec![], connections: 16, prepared: true, deadlocks }
    }

    #[test]
    fn what_sysbench_says_is_read() {
        let load = point(false).read(OUTPUT).unwrap();
        assert_eq!(load.queries, 28602);
        assert_eq!(load.p99_ms, 4.57);
        assert!((load.per_second() - 14293.14).abs() < 0.01, "{}", load.per_second());
    }

    #[test]
    fn errors_and_reconnects_fail_a_run() {
        for (was, is) in [
            ("ignored errors:                      0", "ignored errors:                      1"),
            ("reconnects:                          0", "reconnects:                          2"),
            ("\nSQL statistics", "\nFATAL: mysql_drv_query() returned error 1047\nSQL statistics"),
            ("queries:                             28602", "queries:                             0"),
            ("99th percentile", "95th percentile"),
        ] {
            let changed = OUTPUT.replace(was, is);
            assert_ne!(changed, OUTPUT);
            point(false).read(&changed).unwrap_err();
        }
        point(false).read("").unwrap_err();
    }

    #[test]
    fn a_rare_deadlock_is_part_of_reading_and_writing() {
        let with = |errors| OUTPUT.replace("ignored errors:                      0", errors);
        point(true).read(&with("ignored errors:                      20")).unwrap();
        point(true).read(&with("ignored errors:                      40")).unwrap_err();
    }

    #[test]
    fn the_command_is_one_that_a_person_can_run() {
        let words = point(false).command("127.0.0.1:3307".parse().unwrap(), 4);
        let line = words.join(" ");
        assert!(
            line.starts_with("sysbench oltp_point_select --db-driver=mysql --mysql-host=127.0.0.1"),
            "{line}"
        );
        assert!(
            line.contains("--mysql-port=3307") && line.contains("--threads=16") && line.ends_with(" run")
        );
        assert!(line.contains("--db-ps-mode=auto") && line.contains("--mysql-ignore-errors=none"), "{line}");
    }
}
