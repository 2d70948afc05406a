//! What a seed decides before the run: the shape of the cluster, the data, and which faults there are.

use crashmonitor_core::aggregate::{self, Mode};
use crashmonitor_core::aggregator::Cadence;
use crashmonitor_core::record::{Matcher, Rule};
use crashmonitor_core::scan::start::{OnDataLoss, Policy, StartingOffsets};
use crashmonitor_core::scan::{self};

use crate::rng::Rng;

/// What may happen to the cluster between two steps. A seed has a random part of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A process dies and comes back, under its name, before or after its session ends.
    Crash,
    /// A process stops for a while and goes on, not knowing.
    Pause,
    /// A process stops, and another of the same name is started beside it.
    Twin,
    /// A process is told to end, and comes back.
    Restart,
    /// One worker more or less.
    Scale,
    RebalanceScan,
    RebalanceAggregate,
    RedisLost,
    /// Redis has the snapshots from before the last ones.
    RedisBack,
    RedisCorrupt,
    /// Redis has snapshots of states that nobody committed.
    RedisAhead,
    RedisUnreachable,
    ClockJump,
    AddPartition,
    /// The input's oldest records go, read or not.
    Retention,
    /// A worker is replaced by one of a newer version, whose frames and snapshots older ones can't read.
    Upgrade,
    /// Nothing of a scanner gets through to one shard for a while; then its producer gives up some messages.
    DeliveryFails,
}

impl Fault {
    const ALL: [Fault; 17] = [
        Fault::Crash,
        Fault::Pause,
        Fault::Twin,
        Fault::Restart,
        Fault::Scale,
        Fault::RebalanceScan,
        Fault::RebalanceAggregate,
        Fault::RedisLost,
        Fault::RedisBack,
        Fault::RedisCorrupt,
        Fault::RedisAhead,
        Fault::RedisUnreachable,
        Fault::ClockJump,
        Fault::AddPartition,
        Fault::Retention,
        Fault::Upgrade,
        Fault::DeliveryFails,
    ];
}

/// How often requests to Kafka go wrong: one in so many, 0 for never.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// A commit of the scan group.
    pub commit: usize,
    /// Writes within a transaction.
    pub write: usize,
    /// Offsets sent to a transaction.
    pub offsets: usize,
    /// The end of a transaction.
    pub end: usize,
    /// Facts, and initialising a producer.
    pub other: usize,
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub sources: usize,
    pub shards: u32,
    pub workers: usize,
    pub mode: Mode,
    pub starting_offsets: StartingOffsets,
    pub window_ms: i64,
    pub lateness_ms: i64,
    pub out_of_orderness_ms: i64,
    pub future_skew_ms: i64,
    pub idle_ms: i64,
    pub drift_ms: i64,
    pub threshold: u64,
    /// How far a clock may be off.
    pub clock_skew_ms: i64,
    /// How far the events lie in the past.
    pub replay_ms: i64,
    pub faults: Vec<Fault>,
    /// One step in so many is a fault; 0 for none.
    pub fault_one_in: usize,
    pub requests: Requests,
    pub steps: usize,
    /// The last windows close because all is quiet, not because later records come.
    pub silent_end: bool,
}

impl Setup {
    pub fn draw(rng: &mut Rng) -> Setup {
        let faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| rng.one_in(3)).collect();
        // An hour off is seldom meant; and a quiet stream waits as long as a clock was ahead (ARCHITECTURE.md, known limits).
        let clock_skew_ms = [0, 0, 300, 300, 5_000, 3_600_000][rng.below(6)];
        let silent_end = rng.one_in(3) && clock_skew_ms < 3_600_000;
        let rate = |rng: &mut Rng| [0, 0, 40, 12, 5][rng.below(5)];
        Setup {
            sources: 1 + rng.below(4),
            shards: 1 + rng.below(3) as u32,
            workers: 1 + rng.below(3),
            mode: if rng.one_in(2) { Mode::Final } else { Mode::Updates },
            starting_offsets: [StartingOffsets::Earliest, StartingOffsets::Latest][rng.below(4) / 3],
            window_ms: 1_000,
            lateness_ms: [0, 1_500, 3_000][rng.below(3)],
            out_of_orderness_ms: 200,
            future_skew_ms: 7_200_000,
            idle_ms: [500, 2_000][rng.below(2)],
            drift_ms: [5_000, 20_000][rng.below(2)],
            threshold: 2,
            clock_skew_ms,
            replay_ms: if rng.one_in(3) { 86_400_000 } else { 0 },
            fault_one_in: if faults.is_empty() { 0 } else { [0, 400, 150, 60][rng.below(4)] },
            faults,
            requests: Requests {
                commit: rate(rng),
                write: rate(rng),
                offsets: rate(rng),
                end: rate(rng),
                other: rate(rng),
            },
            steps: 500 + rng.below(3_500),
            silent_end,
        }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    pub fn aggregate_params(&self) -> aggregate::Params {
        aggregate::Params {
            window_ms: self.window_ms,
            allowed_lateness_ms: self.lateness_ms,
            max_out_of_orderness_ms: self.out_of_orderness_ms,
            count_greater_than: self.threshold,
            mode: self.mode,
        }
    }

    pub fn scan_params(&self) -> scan::Params {
        scan::Params {
            shards: self.shards,
            max_future_skew_ms: self.future_skew_ms,
            idle_timeout_ms: self.idle_ms,
            max_drift_ms: self.drift_ms,
            flush_interval_ms: 20,
        }
    }

    pub fn cadence(&self) -> Cadence {
        Cadence { commit_interval_ms: 300, snapshot_interval_ms: 400, commit_drift_ms: self.drift_ms / 4 }
    }

    pub fn policy(&self) -> Policy {
        Policy { starting_offsets: self.starting_offsets, on_data_loss: OnDataLoss::Continue }
    }
}

pub fn matcher() -> Matcher {
    let severities = vec!["High".to_owned(), "Critical".to_owned()];
    Matcher::new(&Rule { contains: "crash".to_owned(), case_sensitive: false, severities }).unwrap()
}
