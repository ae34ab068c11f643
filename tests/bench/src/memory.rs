//! Cases of memory: what sessions take that idle, what they cost a busy one beside them, and what logins leave behind.

use crate::case::{Case, What, one_busy};
use crate::cpu::Memory;
use crate::files;
use crate::idle::Held;
use crate::judge::{Figure, is_noisy, median};
use crate::report::{Outcome, Row, rounded};
use crate::rounds::{Command, Measured, Plan, generator, warm_up};
use crate::sample::{self, Load};
use crate::stand::{Stand, Subject};
use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// What the rounds gave for one subject.
#[derive(Default)]
struct Idling {
    /// KiB for each idle session.
    kib: Vec<f64>,
    /// Queries a second of the busy one, alone and beside the idle ones.
    alone: Vec<f64>,
    beside: Vec<f64>,
    memory: Option<(Memory, Memory)>,
    command: String,
}

impl Idling {
    fn percent_lost(&self) -> Vec<f64> {
        self.alone.iter().zip(&self.beside).map(|(alone, beside)| 100.0 * (1.0 - beside / alone)).collect()
    }
}

/// Opens `sessions` beside one busy session, direct and through each proxy by turns; what is in front is started anew
/// for each round, so that memory is seen to grow from the beginning.
///
/// # Errors
/// A session could not be opened or did not last, or the busy one failed.
pub(crate) async fn idle(case: &Case, sessions: u32, stand: &mut Stand, plan: &Plan) -> Result<Measured> {
    files::ensure_room(sessions)?;
    let mut all: [Idling; 3] = Default::default();
    for _ in 0..plan.rounds.min(3) {
        stand.fresh_proxies().await?;
        warm_up(stand).await?;
        for (subject, idling) in Subject::ALL.into_iter().zip(&mut all) {
            one_round(stand, subject, sessions, plan, idling).await?;
        }
    }
    let [direct, ..] = &all;
    // Beside idle sessions the direct runs must be alike among themselves, too.
    let noisy = is_noisy(&direct.alone) || is_noisy(&direct.beside);
    Ok(Measured { outcomes: outcomes(case, &all, noisy), rows: rows(case, &all, noisy), noisy })
}

async fn one_round(
    stand: &mut Stand,
    subject: Subject,
    sessions: u32,
    plan: &Plan,
    idling: &mut Idling,
) -> Result<()> {
    let sysbench = one_busy();
    let busy = Command::Sysbench(&sysbench);
    let pid = stand.pid(subject)?;
    let alone = busy.run(stand, subject, plan).await?;
    let before = pid.map(Memory::of).transpose()?;
    let held = Held::open(stand.address(subject), sessions)
        .await
        .with_context(|| format!("{sessions} idle sessions on {}", subject.name()))?;
    let after = pid.map(Memory::of).transpose()?;
    let beside = busy.run(stand, subject, plan).await?;
    held.close().await?;
    stand.settle().await?;
    if let (Some(before), Some(after)) = (before, after) {
        idling.kib.push((after.rss as f64 - before.rss as f64) / f64::from(sessions));
        idling.memory = Some((before, after));
    }
    idling.alone.push(alone.load.per_second());
    idling.beside.push(beside.load.per_second());
    idling.command = beside.command;
    Ok(())
}

fn rows(case: &Case, all: &[Idling; 3], noisy: bool) -> Vec<Row> {
    let [direct, haproxy, shunt] = all;
    let lost = shunt.percent_lost();
    let row = |what, values: &[f64], medians, noisy| {
        Figure::of(values).map(|figure| Row {
            case: case.name.clone(),
            what,
            medians,
            figure,
            target: case.targets.iter().find(|(of, _)| *of == what).map(|(_, bound)| *bound),
            noisy,
        })
    };
    let kib = [None, Some(median(&haproxy.kib)), Some(median(&shunt.kib))];
    let percent = [direct, haproxy, shunt].map(|idling| Some(median(&idling.percent_lost())));
    // Memory is counted, not timed: noise does not touch it.
    [row(What::KibPerSession, &shunt.kib, kib, false), row(What::PercentLost, &lost, percent, noisy)]
        .into_iter()
        .flatten()
        .collect()
}

fn outcomes(case: &Case, all: &[Idling; 3], noisy: bool) -> Vec<Outcome> {
    let haproxy = &all[1];
    let mut outcomes = Vec::new();
    for (subject, idling) in Subject::ALL.into_iter().zip(all) {
        if let Some((before, after)) = idling.memory {
            let more = json!({
                "values": idling.kib.iter().copied().map(rounded).collect::<Vec<_>>(),
                "rss_kib_before": before.rss, "rss_kib": after.rss,
                "rss_anon_kib_before": before.anon, "rss_anon_kib": after.anon,
            });
            outcomes.push(Outcome {
                case: case.name.clone(),
                subject,
                value: median(&idling.kib),
                unit: "KiB/session",
                ratio: Figure::ratio(&idling.kib, &haproxy.kib),
                command: idling.command.clone(),
                more: object(more),
            });
        }
        let lost = idling.percent_lost();
        let more = json!({
            "percent_lost": rounded(median(&lost)),
            "percent_lost_values": lost.iter().copied().map(rounded).collect::<Vec<_>>(),
            "alone": rounded(median(&idling.alone)), "noisy": noisy,
        });
        outcomes.push(Outcome {
            case: format!("{}-busy", case.name),
            subject,
            value: median(&idling.beside),
            unit: "queries/s",
            ratio: Figure::ratio(&idling.beside, &haproxy.beside),
            command: idling.command.clone(),
            more: object(more),
        });
    }
    outcomes
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Logs in through Shunt, in four parts: the first one lets memory find its size, the others must not add to it.
///
/// # Errors
/// A login failed.
pub(crate) async fn logins(case: &Case, stand: &mut Stand, plan: &Plan) -> Result<Measured> {
    stand.fresh_proxies().await?;
    let pid = stand.pid(Subject::Shunt)?.context("Shunt is a process")?;
    let mut resident = vec![Memory::of(pid)?];
    let part = plan.logins.div_ceil(4).max(1);
    let own = ["--connections", "16", "--login", "--logins", &part.to_string()].map(str::to_owned);
    let words = generator(stand.address(Subject::Shunt), own, plan.seconds)?;
    let limit = plan.limit() + std::time::Duration::from_millis(part * 20);
    let mut rates = Vec::new();
    let mut command = String::new();
    for _ in 0..4 {
        let sample = sample::run(&words, Some(pid), limit, Load::from_json).await?;
        rates.push(sample.load.per_second());
        resident.push(Memory::of(pid)?);
        command = sample.command;
    }
    let grown = resident[4].rss as f64 - resident[1].rss as f64;
    let figure = Figure { median: grown, min: grown, max: grown };
    let target = case.targets.first().map(|(_, bound)| *bound);
    let row = Row {
        case: case.name.clone(),
        what: What::KibGrown,
        medians: [None, None, Some(grown)],
        figure,
        target,
        noisy: false,
    };
    let more = json!({
        "logins": part * 4,
        "logins_per_second": rounded(median(&rates)),
        "rss_kib_by_quarter": resident.iter().map(|memory| memory.rss).collect::<Vec<_>>(),
        "rss_anon_kib_by_quarter": resident.iter().map(|memory| memory.anon).collect::<Vec<_>>(),
    });
    let outcome = Outcome {
        case: case.name.clone(),
        subject: Subject::Shunt,
        value: grown,
        unit: "KiB",
        ratio: None,
        command,
        more: object(more),
    };
    Ok(Measured { outcomes: vec![outcome], rows: vec![row], noisy: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_counted_round_by_round() {
        let idling = Idling { alone: vec![100.0, 50.0], beside: vec![97.0, 51.0], ..Idling::default() };
        let lost = idling.percent_lost();
        assert!((lost[0] - 3.0).abs() < 1e-9 && (lost[1] + 2.0).abs() < 1e-9, "{lost:?}");
    }
}
