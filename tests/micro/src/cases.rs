//! The cases, and how the counted part of one is set apart.

mod data_plane;
mod fleet;
mod login;
mod packets;
mod placement;
mod scanner;
mod snapshot;

use std::hint::black_box;

/// Something whose instructions are counted.
pub(crate) struct Case {
    /// `part/what`, with the size where there is one.
    pub(crate) name: &'static str,
    /// What is counted, in a few words.
    pub(crate) about: &'static str,
    /// Runs it, and panics where it does not do what it should.
    pub(crate) run: fn(),
}

/// Every case.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [login::CASES, scanner::CASES, placement::CASES, snapshot::CASES].into_iter().flatten()
}

/// How often a case runs before it is counted: what is found out once (which instructions the processor has) is known
/// by then, and what the allocator keeps for next time is there.
const BEFORE: usize = 2;

/// Counts `work` on what `prepare` makes, and gives what came of it. Neither `prepare` nor dropping the outcome is
/// counted. `state` is what stays from one time to the next.
fn count<S, I, O>(
    state: &mut S,
    mut prepare: impl FnMut(&mut S) -> I,
    mut work: impl FnMut(&mut S, I) -> O,
) -> O {
    for _ in 0..BEFORE {
        let input = black_box(prepare(state));
        black_box(work(state, input));
    }
    let input = black_box(prepare(state));
    black_box(counted_from_here(|| work(state, input)))
}

/// Callgrind knows this function by its name, and counts while it runs.
#[inline(never)]
fn counted_from_here<O>(work: impl FnOnce() -> O) -> O {
    // Kept from being the last thing done here: a jump in place of a call would not be left where it was entered.
    black_box(work())
}
