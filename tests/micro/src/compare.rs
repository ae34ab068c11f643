//! What became of each case since the baseline. Pure.
//!
//! Must not know: where counts come from, what is printed.

use crate::baseline::{Baseline, Counts};

/// A case has changed when it differs by more than this part of its baseline, in percent…
pub const TOLERANCE: u64 = 2;

/// …and by more than so many instructions: the smallest cases differ by a few when the compiler sees code next to them.
pub const SLACK: u64 = 16;

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it was, or nearly.
    Same,
    /// It takes more instructions.
    Dearer,
    /// It takes fewer.
    Cheaper,
    /// The baseline does not have it.
    New,
    /// Only the baseline has it.
    Gone,
}

/// A case with what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its name.
    pub case: String,
    /// Instructions, as the baseline has them.
    pub before: Option<u64>,
    /// Instructions now.
    pub now: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
}

/// What is to be made of all cases together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// All cases, in the order of names.
    pub lines: Vec<Line>,
    /// In what the tools differ. Then nothing can be told.
    pub other_tools: Vec<String>,
}

impl Verdict {
    /// Of a case that took `before` instructions and takes `now`.
    #[must_use]
    pub fn of(before: Option<u64>, now: Option<u64>) -> Self {
        let (before, now) = match (before, now) {
            (Some(before), Some(now)) => (before, now),
            (None, _) => return Self::New,
            (Some(_), None) => return Self::Gone,
        };
        let difference = before.abs_diff(now);
        if difference <= SLACK || difference * 100 <= before * TOLERANCE {
            Self::Same
        } else if now > before {
            Self::Dearer
        } else {
            Self::Cheaper
        }
    }
}

impl Comparison {
    /// Of `now` with `before`.
    #[must_use]
    pub fn new(before: &Baseline, now: &Baseline) -> Self {
        Self {
            lines: lines(&before.instructions, &now.instructions),
            other_tools: now.made_with.differences(&before.made_with),
        }
    }

    /// The cases of which this is the verdict.
    #[must_use]
    pub fn cases(&self, verdict: Verdict) -> Vec<&str> {
        self.lines.iter().filter(|line| line.verdict == verdict).map(|line| line.case.as_str()).collect()
    }

    /// Whether the change that was measured is not to be taken as it is. A case that became cheaper is no failure.
    #[must_use]
    pub fn fails(&self) -> bool {
        let failing = |line: &Line| matches!(line.verdict, Verdict::Dearer | Verdict::New | Verdict::Gone);
        self.other_tools.is_empty() && self.lines.iter().any(failing)
    }

    /// Whether the baseline is to be made anew by who meant the change.
    #[must_use]
    pub fn asks_for_refresh(&self) -> bool {
        self.other_tools.is_empty() && self.lines.iter().any(|line| line.verdict != Verdict::Same)
    }
}

fn lines(before: &Counts, now: &Counts) -> Vec<Line> {
    let gone = before.keys().filter(|case| !now.contains_key(*case));
    let mut cases: Vec<&String> = now.keys().chain(gone).collect();
    cases.sort();
    cases
        .into_iter()
        .map(|case| {
            let (before, now) = (before.get(case).copied(), now.get(case).copied());
            Line { case: case.clone(), before, now, verdict: Verdict::of(before, now) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Tools;

    fn counts(rustc: &str, counts: &[(&str, u64)]) -> Baseline {
        let text = |text: &str| text.to_owned();
        Baseline {
            made_with: Tools { rustc: text(rustc), valgrind: text("v"), libc: text("c"), cpu: text("x") },
            instructions: counts.iter().map(|(case, n)| (text(case), *n)).collect(),
        }
    }

    fn compared(before: &[(&str, u64)], now: &[(&str, u64)]) -> Comparison {
        Comparison::new(&counts("1", before), &counts("1", now))
    }

    #[test]
    fn a_case_may_differ_by_two_percent_and_sixteen_instructions() {
        for (before, now, verdict) in [
            (10_000, 10_000, Verdict::Same),
            (10_000, 10_200, Verdict::Same),
            (10_000, 10_201, Verdict::Dearer),
            (10_000, 9_800, Verdict::Same),
            (10_000, 9_799, Verdict::Cheaper),
            (100, 116, Verdict::Same),
            (100, 117, Verdict::Dearer),
            (100, 83, Verdict::Cheaper),
            (0, 17, Verdict::Dearer),
        ] {
            assert_eq!(Verdict::of(Some(before), Some(now)), verdict, "{before} {now}");
        }
    }

    #[test]
    fn one_dearer_case_fails_and_is_named() {
        let comparison = compared(&[("a", 1000), ("b", 1000)], &[("a", 1000), ("b", 1100)]);
        assert!(comparison.fails() && comparison.asks_for_refresh());
        assert_eq!(comparison.cases(Verdict::Dearer), ["b"]);
        assert_eq!(comparison.cases(Verdict::Same), ["a"]);
    }

    #[test]
    fn a_cheaper_case_asks_for_a_refresh_and_does_not_fail() {
        let comparison = compared(&[("a", 1000)], &[("a", 900)]);
        assert!(!comparison.fails() && comparison.asks_for_refresh());
        assert_eq!(comparison.cases(Verdict::Cheaper), ["a"]);
    }

    #[test]
    fn a_cheaper_case_does_not_make_up_for_a_dearer_one() {
        assert!(compared(&[("a", 1000), ("b", 1000)], &[("a", 100), ("b", 1100)]).fails());
    }

    #[test]
    fn a_case_that_nobody_compares_fails() {
        let new = compared(&[("a", 1000)], &[("a", 1000), ("b", 7)]);
        assert!(new.fails() && new.asks_for_refresh());
        assert_eq!(new.cases(Verdict::New), ["b"]);
        let gone = compared(&[("a", 1000), ("b", 7)], &[("a", 1000)]);
        assert!(gone.fails() && gone.asks_for_refresh());
        assert_eq!(gone.cases(Verdict::Gone), ["b"]);
        assert_eq!(gone.lines[1].before, Some(7));
    }

    #[test]
    fn what_is_as_it_was_is_well() {
        let comparison = compared(&[("a", 1000)], &[("a", 1001)]);
        assert!(!comparison.fails() && !comparison.asks_for_refresh());
    }

    #[test]
    fn other_tools_tell_nothing() {
        let comparison =
            Comparison::new(&counts("1", &[("a", 1000)]), &counts("2", &[("a", 2000), ("b", 1)]));
        assert!(!comparison.fails() && !comparison.asks_for_refresh());
        assert_eq!(comparison.cases(Verdict::Dearer), ["a"]);
        assert_eq!(comparison.other_tools, ["2, not 1"]);
    }
}
