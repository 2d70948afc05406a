//! What the worker counts about itself, for Prometheus.
//!
//! Responsible for names, units and labels. Must never be a reason to slow down: a loop adds what a whole batch has
//! come to, in one call. Labels come from enumerations and partition numbers, never from data, so that the number of
//! series is bounded.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crashmonitor_core::record::Malformed;
use crashmonitor_core::recovery::WithoutSnapshot;
use crashmonitor_core::status::{HoldReason, State};

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of latency histograms in seconds: 1 ms to 16 s.
const LATENCY_BOUNDS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

/// A label's value from an enumeration's own fixed list of names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Name(&'static str);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: Name,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct DecisionLabel {
    decision: Name,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PartitionLabel {
    partition: i32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct GroupLabel {
    group: Name,
    event: Name,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Name,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct HolderLabel {
    partition: i32,
    reason: Name,
}

/// Which of the two consumer groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Reads the input.
    Scan,
    /// Reads the repartition topic.
    Aggregate,
}

/// What a rebalance did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rebalance {
    /// Partitions came.
    Assigned,
    /// Partitions went, in order.
    Revoked,
    /// Partitions were taken away.
    Lost,
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transaction {
    /// It is committed.
    Committed,
    /// It is aborted.
    Aborted,
    /// Nobody knows; recovery will tell.
    Unknown,
}

/// How a partition's state came to be when it was taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// There was nothing before.
    FirstStart,
    /// From a snapshot.
    Snapshot,
    /// From the log, and why no snapshot served.
    Replay(WithoutSnapshot),
    /// Not at all.
    Stopped,
}

impl Recovery {
    /// The name that metrics and status use.
    pub const fn name(self) -> &'static str {
        match self {
            Recovery::FirstStart => "first_start",
            Recovery::Snapshot => "snapshot",
            Recovery::Replay(WithoutSnapshot::Disabled) => "replay_snapshots_disabled",
            Recovery::Replay(WithoutSnapshot::Unreachable) => "replay_store_unreachable",
            Recovery::Replay(WithoutSnapshot::Missing) => "replay_snapshot_missing",
            Recovery::Replay(WithoutSnapshot::Unreadable) => "replay_snapshot_unreadable",
            Recovery::Replay(WithoutSnapshot::Foreign) => "replay_snapshot_foreign",
            Recovery::Replay(WithoutSnapshot::TooOld) => "replay_snapshot_too_old",
            Recovery::Replay(WithoutSnapshot::Ahead) => "replay_snapshot_ahead",
            Recovery::Stopped => "stopped",
        }
    }
}

/// What a batch of input came to. A loop fills one and adds it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanCounts {
    /// Records read.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Records that are crashes.
    pub matches: u64,
    /// Records without a value.
    pub empty: u64,
    /// Records sent to the repartition topic; each carries the frames of several sources.
    pub messages: u64,
}

/// What a while of aggregating came to. A loop fills one and adds it once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AggregateCounts {
    /// Records read from the repartition topic, replays included.
    pub messages: u64,
    /// Crash events dropped because their window was closed.
    pub late_dropped: u64,
    /// Results written.
    pub results: u64,
}

/// All metrics of a process. Cheap to share: every method takes `&self`.
pub struct Metrics {
    registry: Registry,
    records: Counter,
    record_bytes: Counter,
    matches: Counter,
    empty: Counter,
    dead_letters: Family<ReasonLabel, Counter>,
    repartition_sent: Counter,
    repartition_read: Counter,
    late_dropped: Counter,
    results: Counter,
    lag: Family<PartitionLabel, Gauge>,
    lag_total: Gauge,
    aggregate_lag: Family<PartitionLabel, Gauge>,
    watermark: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    watermark_holder: Family<HolderLabel, Gauge>,
    open_windows: Gauge,
    counters: Gauge,
    state_bytes: Gauge,
    state_bytes_max: Gauge,
    commit_latency: Histogram,
    transactions: Family<OutcomeLabel, Counter>,
    checkpoint_latency: Histogram,
    checkpoint_time: Gauge<f64, AtomicU64>,
    checkpoint_failures: Counter,
    rebalances: Family<GroupLabel, Counter>,
    recoveries: Family<DecisionLabel, Counter>,
    data_loss: Counter,
    halted: Gauge,
    kafka_connected: Gauge,
    checkpoint_store_connected: Gauge,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Metrics that all stand at zero.
    pub fn new() -> Metrics {
        let latency = || Histogram::new(LATENCY_BOUNDS);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("crashmonitor"),
            records: Counter::default(),
            record_bytes: Counter::default(),
            matches: Counter::default(),
            empty: Counter::default(),
            dead_letters: Family::default(),
            repartition_sent: Counter::default(),
            repartition_read: Counter::default(),
            late_dropped: Counter::default(),
            results: Counter::default(),
            lag: Family::default(),
            lag_total: Gauge::default(),
            aggregate_lag: Family::default(),
            watermark: Family::default(),
            watermark_holder: Family::default(),
            open_windows: Gauge::default(),
            counters: Gauge::default(),
            state_bytes: Gauge::default(),
            state_bytes_max: Gauge::default(),
            commit_latency: latency(),
            transactions: Family::default(),
            checkpoint_latency: latency(),
            checkpoint_time: Gauge::default(),
            checkpoint_failures: Counter::default(),
            rebalances: Family::default(),
            recoveries: Family::default(),
            data_loss: Counter::default(),
            halted: Gauge::default(),
            kafka_connected: Gauge::default(),
            checkpoint_store_connected: Gauge::default(),
        };
        metrics.register_scan();
        metrics.register_aggregate();
        metrics.register_shared();
        metrics.begin_at_zero();
        metrics
    }

    fn register_scan(&mut self) {
        let r = &mut self.registry;
        r.register("records", "Input records read", self.records.clone());
        let bytes = self.record_bytes.clone();
        r.register_with_unit("record", "Bytes of the values of input records", Unit::Bytes, bytes);
        r.register("matches", "Input records that are crashes", self.matches.clone());
        r.register("empty_records", "Input records without a value", self.empty.clone());
        let dead = self.dead_letters.clone();
        r.register("dead_letters", "Input records that could not be read, by reason", dead);
        let sent = self.repartition_sent.clone();
        r.register("repartition_records_sent", "Records sent to the repartition topic", sent);
        let lag = self.lag.clone();
        r.register("lag_records", "Records behind the end of an owned input partition", lag);
        let total = self.lag_total.clone();
        r.register("lag_records_sum", "Records behind the end of all owned input partitions", total);
    }

    fn register_aggregate(&mut self) {
        let r = &mut self.registry;
        let read = self.repartition_read.clone();
        r.register("repartition_records_read", "Records read from the repartition topic", read);
        let late = self.late_dropped.clone();
        r.register("late_events_dropped", "Crash events dropped because their window was closed", late);
        r.register("results", "Results written to the output topic", self.results.clone());
        let lag = self.aggregate_lag.clone();
        r.register(
            "repartition_lag_records",
            "Records behind the end of an owned repartition partition",
            lag,
        );
        r.register_with_unit(
            "watermark_timestamp",
            "Event time up to which an owned repartition partition is complete, since the epoch",
            Unit::Seconds,
            self.watermark.clone(),
        );
        r.register(
            "watermark_holder",
            "1 for the input partition that keeps the watermark from going on, and why",
            self.watermark_holder.clone(),
        );
        r.register("open_windows", "Windows that still count", self.open_windows.clone());
        r.register("counters", "Counts: one for each user in each open window", self.counters.clone());
        r.register("state_bytes", "Memory that these counts take", self.state_bytes.clone());
        r.register("state_bytes_max", "Memory that they may take", self.state_bytes_max.clone());
        let commit = self.commit_latency.clone();
        r.register_with_unit(
            "commit_latency",
            "Time from begin to end of a transaction",
            Unit::Seconds,
            commit,
        );
        r.register("transactions", "Transactions, by outcome", self.transactions.clone());
        r.register("recoveries", "Partitions taken over, by how", self.recoveries.clone());
    }

    fn register_shared(&mut self) {
        let r = &mut self.registry;
        let latency = self.checkpoint_latency.clone();
        r.register_with_unit("checkpoint_latency", "Time to store a snapshot", Unit::Seconds, latency);
        r.register_with_unit(
            "checkpoint_timestamp",
            "When the oldest of the owned partitions' last snapshots was stored, since the epoch",
            Unit::Seconds,
            self.checkpoint_time.clone(),
        );
        let failures = self.checkpoint_failures.clone();
        r.register("checkpoint_failures", "Snapshots that could not be stored or loaded", failures);
        r.register("rebalances", "Rebalances, by consumer group", self.rebalances.clone());
        r.register("data_loss_records", "Records known to be lost", self.data_loss.clone());
        let halted = self.halted.clone();
        r.register("halted", "1 after a stop because going on would lose or double results", halted);
        let connected = self.kafka_connected.clone();
        r.register("kafka_connected", "Whether the last thing heard of Kafka was an answer", connected);
        let connected = self.checkpoint_store_connected.clone();
        r.register("checkpoint_store_connected", "Whether the last call to Redis succeeded", connected);
    }

    /// Series that exist from the start can be alerted on: an increase from nothing is invisible to Prometheus.
    fn begin_at_zero(&self) {
        for reason in Malformed::ALL {
            drop(self.dead_letters.get_or_create(&ReasonLabel { reason: Name(reason.reason()) }));
        }
        for outcome in [Transaction::Committed, Transaction::Aborted, Transaction::Unknown] {
            self.count_transactions(outcome, 0);
        }
    }

    /// Adds what a batch of input came to.
    pub fn add_scan(&self, counts: &ScanCounts) {
        self.records.inc_by(counts.records);
        self.record_bytes.inc_by(counts.bytes);
        self.matches.inc_by(counts.matches);
        self.empty.inc_by(counts.empty);
        self.repartition_sent.inc_by(counts.messages);
    }

    /// Adds records that went to the dead-letter topic, or would have.
    pub fn add_dead_letters(&self, reason: Malformed, count: u64) {
        self.dead_letters.get_or_create(&ReasonLabel { reason: Name(reason.reason()) }).inc_by(count);
    }

    /// Adds what a while of aggregating came to.
    pub fn add_aggregate(&self, counts: &AggregateCounts) {
        self.repartition_read.inc_by(counts.messages);
        self.late_dropped.inc_by(counts.late_dropped);
        self.results.inc_by(counts.results);
    }

    /// Sets the lag of all owned input partitions, in records; those that are not named are no longer owned. With
    /// several scan threads, one of them tells for all.
    pub fn set_input_lag(&self, lags: &[(i32, i64)]) {
        self.lag.clear();
        for &(partition, lag) in lags {
            self.lag.get_or_create(&PartitionLabel { partition }).set(lag);
        }
        self.lag_total.set(lags.iter().map(|(_, lag)| lag).sum());
    }

    /// Sets the lag of all owned repartition partitions, in records.
    pub fn set_repartition_lag(&self, lags: &[(i32, i64)]) {
        self.aggregate_lag.clear();
        for &(partition, lag) in lags {
            self.aggregate_lag.get_or_create(&PartitionLabel { partition }).set(lag);
        }
    }

    /// Sets the watermark of all owned repartition partitions, in milliseconds since the epoch.
    pub fn set_watermarks(&self, watermarks: &[(i32, i64)]) {
        self.watermark.clear();
        for &(partition, ms) in watermarks {
            self.watermark.get_or_create(&PartitionLabel { partition }).set(ms as f64 / 1000.0);
        }
    }

    /// Sets which input partitions hold a watermark, and why.
    pub fn set_watermark_holders(&self, holders: &[(i32, HoldReason)]) {
        self.watermark_holder.clear();
        for &(partition, reason) in holders {
            let reason = Name(match reason {
                HoldReason::Idle => "idle",
                HoldReason::Lagging => "lagging",
                HoldReason::Unassigned => "unassigned",
                HoldReason::Silent => "silent",
                HoldReason::Unknown => "unknown",
            });
            self.watermark_holder.get_or_create(&HolderLabel { partition, reason }).set(1);
        }
    }

    /// Sets how many windows still count.
    pub fn set_open_windows(&self, windows: u64) {
        self.open_windows.set(i64::try_from(windows).unwrap_or(i64::MAX));
    }

    /// What the counts in open windows take.
    pub fn set_state(&self, state: &State) {
        let gauges = [
            (&self.counters, state.counters),
            (&self.state_bytes, state.bytes),
            (&self.state_bytes_max, state.bytes_max),
        ];
        for (gauge, value) in gauges {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Adds a transaction's time from begin to end.
    pub fn observe_commit(&self, took: Duration) {
        self.commit_latency.observe(took.as_secs_f64());
    }

    /// Adds transactions that ended.
    pub fn count_transactions(&self, outcome: Transaction, count: u64) {
        let outcome = Name(match outcome {
            Transaction::Committed => "committed",
            Transaction::Aborted => "aborted",
            Transaction::Unknown => "unknown",
        });
        self.transactions.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
    }

    /// Adds a snapshot's time to Redis.
    pub fn observe_checkpoint(&self, took: Duration) {
        self.checkpoint_latency.observe(took.as_secs_f64());
    }

    /// Sets when the oldest of the owned partitions' last snapshots was stored, in milliseconds since the epoch. Its
    /// age is for the reader to compute, so that it grows while nothing is stored.
    pub fn set_checkpoint_time(&self, ms: i64) {
        self.checkpoint_time.set(ms as f64 / 1000.0);
    }

    /// Adds a snapshot that could not be stored or loaded.
    pub fn count_checkpoint_failure(&self) {
        self.checkpoint_failures.inc();
    }

    /// Adds a rebalance.
    pub fn count_rebalance(&self, stage: Stage, event: Rebalance) {
        let group = Name(match stage {
            Stage::Scan => "scan",
            Stage::Aggregate => "aggregate",
        });
        let event = Name(match event {
            Rebalance::Assigned => "assigned",
            Rebalance::Revoked => "revoked",
            Rebalance::Lost => "lost",
        });
        self.rebalances.get_or_create(&GroupLabel { group, event }).inc();
    }

    /// Adds a partition that was taken over.
    pub fn count_recovery(&self, how: Recovery) {
        self.recoveries.get_or_create(&DecisionLabel { decision: Name(how.name()) }).inc();
    }

    /// Adds records that are known to be lost.
    pub fn add_data_loss(&self, records: u64) {
        self.data_loss.inc_by(records);
    }

    /// Notes that the worker has stopped, because going on would lose or double.
    pub fn set_halted(&self) {
        self.halted.set(1);
    }

    /// Sets whether Kafka answers.
    pub fn set_kafka_connected(&self, is_connected: bool) {
        self.kafka_connected.set(i64::from(is_connected));
    }

    /// Sets whether Redis answers.
    pub fn set_checkpoint_store_connected(&self, is_connected: bool) {
        self.checkpoint_store_connected.set(i64::from(is_connected));
    }

    /// All metrics as text, in the format that [`CONTENT_TYPE`] names.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_names_units_and_labels() {
        let metrics = Metrics::new();
        metrics.add_scan(&ScanCounts { records: 5, bytes: 1000, matches: 2, empty: 1, messages: 3 });
        metrics.add_dead_letters(Malformed::NotJson, 4);
        metrics.set_input_lag(&[(0, 10), (1, 5)]);
        metrics.set_input_lag(&[(1, 7)]);
        metrics.set_watermarks(&[(3, 1_768_142_570_123)]);
        metrics.set_watermark_holders(&[(2, HoldReason::Unassigned)]);
        metrics.observe_commit(Duration::from_millis(9));
        metrics.count_rebalance(Stage::Scan, Rebalance::Lost);
        metrics.count_recovery(Recovery::Replay(WithoutSnapshot::Missing));
        metrics.set_kafka_connected(true);
        let text = metrics.render().unwrap();
        for line in [
            "crashmonitor_records_total 5",
            "crashmonitor_record_bytes_total 1000",
            "crashmonitor_dead_letters_total{reason=\"not-json\"} 4",
            "crashmonitor_dead_letters_total{reason=\"user-id-too-long\"} 0",
            "crashmonitor_lag_records{partition=\"1\"} 7",
            "crashmonitor_lag_records_sum 7",
            "crashmonitor_watermark_timestamp_seconds{partition=\"3\"} 1768142570.123",
            "crashmonitor_watermark_holder{partition=\"2\",reason=\"unassigned\"} 1",
            "crashmonitor_commit_latency_seconds_bucket{le=\"0.016\"} 1",
            "crashmonitor_transactions_total{outcome=\"aborted\"} 0",
            "crashmonitor_rebalances_total{group=\"scan\",event=\"lost\"} 1",
            "crashmonitor_recoveries_total{decision=\"replay_snapshot_missing\"} 1",
            "crashmonitor_kafka_connected 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("lag_records{partition=\"0\"}"), "no longer owned\n{text}");
    }
}
