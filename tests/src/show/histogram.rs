//! Latencies, and what share of them was how low.
//!
//! Responsible for counting whole milliseconds in bounded memory, however long a run is. Must never lose a value:
//! what is beyond the last bucket still counts, and the maximum is exact.

use std::fmt;

/// One bucket a millisecond; more is shown as the maximum.
const BUCKETS: usize = 10_000;

/// Counts by milliseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_ms: i64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS], count: 0, max_ms: 0 }
    }
}

impl Histogram {
    /// Adds a value; what is below zero (two clocks, rounding) counts as zero.
    pub fn add(&mut self, ms: i64) {
        let bucket = usize::try_from(ms.max(0)).unwrap_or(usize::MAX).min(BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max_ms = self.max_ms.max(ms);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The highest value; zero if there are none.
    pub fn max_ms(&self) -> i64 {
        self.max_ms
    }

    /// The lowest value that at least `share` of all values don't exceed; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<i64> {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut passed = 0;
        let found = self.buckets.iter().position(|&count| {
            passed += count;
            passed >= wanted
        })?;
        Some(if found == BUCKETS - 1 { self.max_ms } else { found as i64 })
    }
}

/// `p50 12 ms, p99 40 ms, max 57 ms`, or a dash if there is nothing to say.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.quantile(0.5), self.quantile(0.99)) {
            (Some(p50), Some(p99)) => write!(f, "p50 {p50} ms, p99 {p99} ms, max {} ms", self.max_ms),
            _ => write!(f, "-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn quantiles_are_of_the_values_added() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for ms in 1..=100 {
            histogram.add(ms);
        }
        assert_eq!(histogram.quantile(0.5), Some(50));
        assert_eq!(histogram.quantile(0.99), Some(99));
        assert_eq!(histogram.quantile(1.0), Some(100));
    }

    #[test]
    fn nothing_is_lost_beyond_the_ends() {
        let mut histogram = Histogram::default();
        histogram.add(-3);
        histogram.add(70_000);
        assert_eq!(histogram.count(), 2);
        assert_eq!(histogram.quantile(0.5), Some(0));
        assert_eq!(histogram.to_string(), "p50 0 ms, p99 70000 ms, max 70000 ms");
    }
}
