//! How long things took: counts in buckets that are 6 % wide, from which percentiles are read.

use std::time::Duration;

/// Buckets for each doubling.
const STEPS: u32 = 16;
/// Doublings from one nanosecond: up to 18 minutes and on.
const DOUBLINGS: u32 = 40;

/// Counts of durations.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: vec![0; (STEPS * DOUBLINGS) as usize], count: 0 }
    }
}

impl Latency {
    /// Counts one.
    pub(crate) fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let last = self.buckets.len() - 1;
        self.buckets[bucket(nanos).min(last)] += 1;
        self.count += 1;
    }

    /// Counts what `other` counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    /// The duration, in milliseconds, that this part (0 to 1) did not exceed. 0 of nothing.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let wanted = ((self.count as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_edge(index) as f64 / 1e6;
            }
        }
        0.0
    }
}

/// The bucket of so many nanoseconds (at least 1).
fn bucket(nanos: u64) -> usize {
    let doubling = nanos.ilog2();
    let base = 1_u64 << doubling;
    let step = ((nanos - base) as u128 * u128::from(STEPS) / u128::from(base)) as usize;
    doubling as usize * STEPS as usize + step
}

/// The longest duration of a bucket, in nanoseconds.
const fn upper_edge(bucket: usize) -> u64 {
    let base = 1_u64 << (bucket / STEPS as usize);
    base + base * (bucket % STEPS as usize + 1) as u64 / STEPS as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_bucket() {
        let mut latency = Latency::default();
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        for (part, millis) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let told = latency.percentile(part);
            assert!(told >= millis && told <= millis * 1.07, "{part}: {told}");
        }
    }

    #[test]
    fn nothing_and_too_much_are_no_trouble() {
        let mut latency = Latency::default();
        assert_eq!(latency.percentile(0.99), 0.0);
        latency.record(Duration::ZERO);
        latency.record(Duration::from_secs(1 << 40));
        assert!(latency.percentile(1.0) > 0.0);
    }

    #[test]
    fn counts_of_several_connections_add_up() {
        let (mut all, mut one) = (Latency::default(), Latency::default());
        all.record(Duration::from_millis(1));
        one.record(Duration::from_millis(100));
        all.add(&one);
        assert!(all.percentile(0.5) < 1.1 && all.percentile(1.0) > 99.0);
    }
}
