//! What to make of figures: medians, paired ratios and their spread, when a run is noise, and whether a target is
//! reached. Numbers in, verdicts out.
//!
//! Must not know: cases, programs, files.

use std::fmt;

/// Direct runs that spread by more than this part of their median are noise, and so is what ran between them.
pub(crate) const NOISY: f64 = 0.15;

/// The middle of `values`; of an even number of them, the mean of the two in the middle. 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => f64::midpoint(*below, *above),
        (_, Some(middle)) => *middle,
        _ => 0.0,
    }
}

/// A figure of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    /// The median.
    pub(crate) median: f64,
    /// The least of a round.
    pub(crate) min: f64,
    /// The most of a round.
    pub(crate) max: f64,
}

impl Figure {
    /// Of the values of the rounds; none of no rounds.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(values), min, max })
    }

    /// Of what each round's `over` is to the same round's `under`: what drifts from round to round drops out.
    pub(crate) fn ratio(over: &[f64], under: &[f64]) -> Option<Self> {
        let pairs = over.iter().zip(under).filter(|(_, under)| **under > 0.0);
        Self::of(&pairs.map(|(over, under)| over / under).collect::<Vec<_>>())
    }
}

/// Whether runs that should be alike spread too much to conclude anything.
pub(crate) fn is_noisy(direct: &[f64]) -> bool {
    match Figure::of(direct) {
        Some(Figure { median, min, max }) => median <= 0.0 || (max - min) / median > NOISY,
        None => true,
    }
}

/// What a target asks of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// This much or more.
    AtLeast(f64),
    /// This much or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
}

impl Bound {
    const fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::Below(limit) => value < limit,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, value) = match self {
            Self::AtLeast(value) => ("≥", value),
            Self::AtMost(value) => ("≤", value),
            Self::Below(value) => ("<", value),
        };
        if value.fract().abs() < 1e-9 && *value >= 2.0 {
            write!(f, "{sign} {value:.0}")
        } else {
            write!(f, "{sign} {value:.2}")
        }
    }
}

/// Whether a target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The figure is within the bound.
    Reached,
    /// It is not.
    NotReached,
    /// The runs were noise. Counts as not reached.
    Unjudged,
}

impl Verdict {
    /// Of a figure's median; `noisy` runs are not judged.
    pub(crate) fn of(bound: Bound, figure: f64, noisy: bool) -> Self {
        match (noisy, bound.holds(figure)) {
            (true, _) => Self::Unjudged,
            (false, true) => Self::Reached,
            (false, false) => Self::NotReached,
        }
    }

    /// In words.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NotReached => "not reached",
            Self::Unjudged => "unjudged",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_any_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The machine gets slower by half in the second round: for both.
        let figure = Figure::ratio(&[110.0, 55.0, 120.0], &[100.0, 50.0, 100.0]).unwrap();
        assert_eq!(figure, Figure { median: 1.1, min: 1.1, max: 1.2 });
        assert_eq!(Figure::ratio(&[1.0], &[0.0]), None);
        assert_eq!(Figure::ratio(&[], &[]), None);
    }

    #[test]
    fn direct_runs_that_spread_by_more_than_fifteen_percent_are_noise() {
        assert!(!is_noisy(&[100.0, 107.0, 114.9]));
        assert!(is_noisy(&[100.0, 100.0, 84.0]));
        assert!(is_noisy(&[0.0, 0.0]));
        assert!(is_noisy(&[]));
    }

    #[test]
    fn a_bound_includes_itself_unless_it_says_below() {
        assert_eq!(Verdict::of(Bound::AtLeast(1.1), 1.1, false), Verdict::Reached);
        assert_eq!(Verdict::of(Bound::AtLeast(1.1), 1.09, false), Verdict::NotReached);
        assert_eq!(Verdict::of(Bound::AtMost(0.8), 0.8, false), Verdict::Reached);
        assert_eq!(Verdict::of(Bound::AtMost(0.8), 0.81, false), Verdict::NotReached);
        assert_eq!(Verdict::of(Bound::Below(3.0), 3.0, false), Verdict::NotReached);
        assert_eq!(Verdict::of(Bound::Below(3.0), -1.0, false), Verdict::Reached);
    }

    #[test]
    fn noise_is_never_reached() {
        assert_eq!(Verdict::of(Bound::AtLeast(1.0), 2.0, true), Verdict::Unjudged);
        assert_eq!(Verdict::of(Bound::AtLeast(1.0), 0.5, true), Verdict::Unjudged);
    }

    #[test]
    fn bounds_read_as_people_write_them() {
        assert_eq!(Bound::AtLeast(1.1).to_string(), "≥ 1.10");
        assert_eq!(Bound::AtMost(8.0).to_string(), "≤ 8");
        assert_eq!(Bound::Below(3.0).to_string(), "< 3");
        assert_eq!(Bound::AtLeast(1.0).to_string(), "≥ 1.00");
    }
}
