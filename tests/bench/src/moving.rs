//! Cases of sessions that go elsewhere: what a client waits, how many move in a second, and how long it takes until a CN is
//! empty, filled, or made up for.
//!
//! There is nothing to compare with: what stands beside Shunt does not move sessions. Figures are Shunt's own, and noise
//! where somebody else wants the cores before or behind them.

mod fleets;
mod pause;

use crate::calm;
use crate::case::{Case, What};
use crate::judge::{Figure, median};
use crate::report::{Outcome, Row, rounded};
use crate::rounds::{Measured, Plan};
use crate::stand::Subject;
use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moving {
    /// The pause of a move.
    Pause,
    /// The round trips to CNs that it lasts.
    RoundTrips,
    /// The pause where rows are shared, and the new CN has to catch up.
    Barrier,
    /// Moves a second, on one core.
    Rate,
    /// How long a drain takes.
    Drain,
    /// How long it takes to fill a CN that joins.
    Join,
    /// How long it takes until all go on whose CN was killed.
    Failover,
}

/// A figure of a case.
struct Told {
    what: What,
    /// Of each round.
    values: Vec<f64>,
    unit: &'static str,
    /// Of its file's name, behind the case's; none of the first.
    name: &'static str,
    more: Value,
}

/// Runs a case of sessions that move.
///
/// # Errors
/// A session was lost, or something did not come up.
pub(crate) async fn run(case: &Case, moving: Moving, plan: &Plan) -> Result<Measured> {
    let calm = calm::is_calm()?;
    let (told, command) = match moving {
        Moving::Pause => pause::on_loopback(plan).await?,
        Moving::RoundTrips => pause::far_away(plan).await?,
        Moving::Barrier => pause::with_a_barrier(plan).await?,
        Moving::Rate => fleets::rate(plan).await?,
        Moving::Drain => fleets::drain(plan).await?,
        Moving::Join => fleets::join(plan).await?,
        Moving::Failover => fleets::failover(plan).await?,
    };
    let mut measured =
        Measured { noisy: !calm || !calm::is_calm()? || is_noisy(&told), ..Measured::default() };
    for one in told {
        let figure = Figure::of(&one.values).context("no rounds")?;
        let target = case.targets.iter().find(|(of, _)| *of == one.what).map(|(_, bound)| *bound);
        measured.rows.push(Row {
            case: case.name.clone(),
            what: one.what,
            medians: [None, None, Some(figure.median)],
            figure,
            target,
            noisy: measured.noisy,
        });
        let mut more = match one.more {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        more.insert("values".into(), one.values.iter().copied().map(rounded).collect());
        more.insert("noisy".into(), measured.noisy.into());
        more.insert("target".into(), target.map_or(Value::Null, |bound| json!(bound.to_string())));
        measured.outcomes.push(Outcome {
            case: [&case.name, one.name].concat(),
            subject: Subject::Shunt,
            value: median(&one.values),
            unit: one.unit,
            ratio: None,
            command: command.clone(),
            more,
        });
    }
    Ok(measured)
}

/// A client that waits so long while nothing moves, in milliseconds, waits for the machine.
const STILL: f64 = 2.5;

/// Whether what others did on the machine is in the pauses.
fn is_noisy(told: &[Told]) -> bool {
    let still = told.iter().find(|one| one.what == What::WaitStill);
    still.is_some_and(|still| median(&still.values) > STILL)
}

/// The value that this part of `values` does not exceed.
fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 100.0);
        assert_eq!(percentile(&values, 0.99), 198.0);
        assert_eq!(percentile(&[3.0], 0.99), 3.0);
        assert_eq!(percentile(&[], 0.99), 0.0);
    }
}
