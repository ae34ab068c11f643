//! Cases of throughput: the same load direct, through HAProxy and through Shunt, round after round, so that whatever
//! the machine does meanwhile it does to all three.

use crate::case::{Case, Count, What};
use crate::judge::{Figure, is_noisy, median};
use crate::report::{Outcome, Row, rounded};
use crate::sample::{self, Load, Sample};
use crate::stand::{Stand, Subject, Via};
use crate::sysbench::Sysbench;
use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds of direct, HAProxy, Shunt.
    pub(crate) rounds: u32,
    /// Seconds of each run.
    pub(crate) seconds: u32,
    /// Logins of the case that counts what they leave behind.
    pub(crate) logins: u64,
    /// What Shunt waits for sockets by.
    pub(crate) io: Via,
    /// A quick run.
    pub(crate) quick: bool,
}

impl Plan {
    /// How long a run may take before it hangs.
    pub(crate) const fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds as u64 + 60)
    }
}

/// What a case gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// A figure for each subject.
    pub(crate) outcomes: Vec<Outcome>,
    /// What is judged.
    pub(crate) rows: Vec<Row>,
    /// The direct runs spread too much.
    pub(crate) noisy: bool,
}

/// The load of a case, as a command.
pub(crate) enum Command<'a> {
    /// Of sysbench.
    Sysbench(&'a Sysbench),
    /// Of the load generator: its own arguments.
    Generator(&'a [String]),
}

impl Command<'_> {
    /// The words that put it on `address`.
    fn words(&self, address: SocketAddr, plan: &Plan) -> Result<Vec<String>> {
        Ok(match self {
            Self::Sysbench(sysbench) => sysbench.command(address, plan.seconds),
            Self::Generator(own) => generator(address, own.iter().cloned(), plan.seconds)?,
        })
    }

    fn read(&self, output: &str) -> Result<Load> {
        match self {
            Self::Sysbench(sysbench) => sysbench.read(output),
            Self::Generator(_) => Load::from_json(output),
        }
    }

    /// Runs it once on a subject.
    ///
    /// # Errors
    /// It failed, or had errors.
    pub(crate) async fn run(&self, stand: &mut Stand, subject: Subject, plan: &Plan) -> Result<Sample> {
        let words = self.words(stand.address(subject), plan)?;
        let pid = stand.pid(subject)?;
        let sample = sample::run(&words, pid, plan.limit(), |output| self.read(output)).await;
        sample.with_context(|| format!("load on {}", subject.name()))
    }
}

/// The command of the load generator.
pub(crate) fn generator(
    address: SocketAddr,
    own: impl IntoIterator<Item = String>,
    seconds: u32,
) -> Result<Vec<String>> {
    let program = std::env::current_exe()?.display().to_string();
    let mut words = vec![program, "load".into(), "--address".into(), address.to_string()];
    words.extend(["--seconds".into(), seconds.to_string()]);
    words.extend(own);
    Ok(words)
}

/// Runs a case of throughput.
///
/// # Errors
/// A load failed.
pub(crate) async fn run(
    case: &Case,
    command: &Command<'_>,
    count: Count,
    stand: &mut Stand,
    plan: &Plan,
) -> Result<Measured> {
    let mut samples: [Vec<Sample>; 3] = Default::default();
    for _ in 0..plan.rounds {
        for (subject, samples) in Subject::ALL.into_iter().zip(&mut samples) {
            samples.push(command.run(stand, subject, plan).await?);
        }
    }
    let all = samples.map(|samples| Series::of(&samples, count));
    let [direct, haproxy, shunt] = &all;
    let noisy = is_noisy(&direct.values);
    let row = |what, figure: Option<Figure>, medians| {
        figure.map(|figure| Row {
            case: case.name.clone(),
            what,
            medians,
            figure,
            target: case.targets.iter().find(|(of, _)| *of == what).map(|(_, bound)| *bound),
            noisy,
        })
    };
    let medians = [direct, haproxy, shunt].map(|series| Some(median(&series.values)));
    let cpu = [None, Some(median(&haproxy.cpu_us)), Some(median(&shunt.cpu_us))];
    let rows = [
        row(What::Throughput, Figure::ratio(&shunt.values, &haproxy.values), medians),
        row(What::Cpu, Figure::ratio(&shunt.cpu_us, &haproxy.cpu_us), cpu),
    ];
    let outcome = |(subject, series): (Subject, &Series)| Outcome {
        case: case.name.clone(),
        subject,
        value: median(&series.values),
        unit: count.unit(),
        ratio: Figure::ratio(&series.values, &haproxy.values),
        command: series.command.clone(),
        more: series.more(direct, haproxy, noisy),
    };
    let outcomes = Subject::ALL.into_iter().zip(&all).map(outcome).collect();
    Ok(Measured { outcomes, rows: rows.into_iter().flatten().collect(), noisy })
}

/// One subject's runs of a case.
struct Series {
    values: Vec<f64>,
    cpu_us: Vec<f64>,
    p99_ms: Vec<f64>,
    last: Option<Sample>,
    command: String,
}

impl Series {
    fn of(samples: &[Sample], count: Count) -> Self {
        Self {
            values: samples.iter().map(|sample| count.value(sample.load.per_second())).collect(),
            cpu_us: samples.iter().filter_map(|sample| sample.cpu_us).collect(),
            p99_ms: samples.iter().map(|sample| sample.load.p99_ms).collect(),
            last: samples.last().cloned(),
            command: samples.last().map(|sample| sample.command.clone()).unwrap_or_default(),
        }
    }

    /// What a result has beside its figure.
    fn more(&self, direct: &Self, haproxy: &Self, noisy: bool) -> Map<String, Value> {
        let list = |values: &[f64]| Value::Array(values.iter().copied().map(rounded).collect());
        let mut more = Map::new();
        more.insert("values".into(), list(&self.values));
        more.insert("p99_ms".into(), rounded(median(&self.p99_ms)));
        more.insert("noisy".into(), noisy.into());
        if let Some(ratio) = Figure::ratio(&self.values, &direct.values) {
            more.insert("ratio_to_direct".into(), rounded(ratio.median));
        }
        if !self.cpu_us.is_empty() {
            more.insert("cpu_us_per_query".into(), rounded(median(&self.cpu_us)));
            more.insert("cpu_us_values".into(), list(&self.cpu_us));
        }
        if let Some(ratio) = Figure::ratio(&self.cpu_us, &haproxy.cpu_us) {
            more.insert("cpu_ratio".into(), rounded(ratio.median));
            more.insert("cpu_spread".into(), json!([rounded(ratio.min), rounded(ratio.max)]));
        }
        if let Some(memory) = self.last.as_ref().and_then(|sample| sample.memory) {
            more.insert("rss_kib".into(), memory.rss.into());
            more.insert("rss_anon_kib".into(), memory.anon.into());
        }
        more
    }
}

/// A short load that is thrown away: what is in front has met a client, and the CN its table.
///
/// # Errors
/// It failed.
pub(crate) async fn warm_up(stand: &mut Stand) -> Result<()> {
    for subject in Subject::ALL {
        let words = generator(stand.address(subject), ["--login", "--logins", "50"].map(str::to_owned), 1)?;
        let output = sample::output(&words, Duration::from_secs(60)).await?;
        Load::from_json(&output).context("warm up")?;
    }
    Ok(())
}
