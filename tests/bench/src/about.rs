//! What is said of the machine beside each result.

use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Cores, kernel and the versions of what is compared.
pub(crate) fn machine(quick: bool) -> Value {
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": cpu(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "haproxy": first_line("haproxy", "-v"),
        "mariadb": first_line("mariadbd", "--version"),
        "sysbench": first_line("sysbench", "--version"),
        "quick": quick,
    })
}

/// What else was running, as the kernel averages it: one, five and fifteen minutes.
pub(crate) fn load_average() -> Value {
    let text = read("/proc/loadavg");
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ").into()
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn cpu() -> String {
    let text = read("/proc/cpuinfo");
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned()
}

fn first_line(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
}
