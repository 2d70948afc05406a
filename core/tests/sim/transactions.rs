//! The transaction coordinator and the output topic, as a broker before KIP-890 has them.
//!
//! Modelled: every request carries the producer's epoch and is refused if that is not the newest; initialising a producer
//! ends what is open and raises the epoch; the end of a transaction is decided at once and takes effect later; the epoch
//! does not change from one transaction to the next, so that a late request of one may hit the next; a transaction that
//! stays open for too long is aborted; an offset can't be read while a transaction over it is not over.

use std::collections::BTreeMap;

use crashmonitor_core::aggregate::{LateEvent, Outcome};

use crate::rng::Rng;

/// After so long the coordinator aborts an open transaction.
const TIMEOUT_MS: i64 = 2_000;

/// One record of the output or the late topic, in the order of its append.
#[derive(Clone, Debug)]
pub enum Written {
    Result(Outcome),
    Late(LateEvent),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    #[default]
    Empty,
    Open,
    Committing,
    Aborting,
}

#[derive(Default)]
struct Transactional {
    epoch: u64,
    state: State,
    opened_at: i64,
    records: Vec<usize>,
    offsets: BTreeMap<u32, (u64, String)>,
}

/// Why a request was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The transaction before is not over yet: ask again.
    Busy,
    /// An older epoch, or nothing to end.
    Fenced,
}

#[derive(Default)]
pub struct Coordinator {
    by_name: BTreeMap<usize, Transactional>,
    pub output: Vec<Written>,
    /// Offsets of transactions that were committed, for the group to take.
    pub offsets: Vec<(u32, u64, String)>,
    /// Records of committed transactions that the checker has not seen.
    pub committed: Vec<usize>,
}

impl Coordinator {
    pub fn init(&mut self, name: usize) -> Result<u64, Refusal> {
        let transactional = self.by_name.entry(name).or_default();
        match transactional.state {
            State::Empty => {
                transactional.epoch += 1;
                Ok(transactional.epoch)
            }
            State::Open => {
                transactional.epoch += 1;
                transactional.state = State::Aborting;
                Err(Refusal::Busy)
            }
            State::Committing | State::Aborting => Err(Refusal::Busy),
        }
    }

    /// A transaction's first record or offset opens it.
    fn open(&mut self, name: usize, epoch: u64, now: i64) -> Result<&mut Transactional, Refusal> {
        let transactional = self.by_name.entry(name).or_default();
        if transactional.epoch != epoch {
            return Err(Refusal::Fenced);
        }
        match transactional.state {
            State::Committing | State::Aborting => return Err(Refusal::Busy),
            State::Empty => (transactional.state, transactional.opened_at) = (State::Open, now),
            State::Open => {}
        }
        Ok(transactional)
    }

    pub fn write(&mut self, name: usize, epoch: u64, written: Written, now: i64) -> Result<(), Refusal> {
        let at = self.output.len();
        self.open(name, epoch, now)?.records.push(at);
        self.output.push(written);
        Ok(())
    }

    pub fn send_offsets(
        &mut self,
        name: usize,
        epoch: u64,
        offsets: Vec<(u32, u64, String)>,
        now: i64,
    ) -> Result<(), Refusal> {
        let transactional = self.open(name, epoch, now)?;
        transactional
            .offsets
            .extend(offsets.into_iter().map(|(shard, offset, text)| (shard, (offset, text))));
        Ok(())
    }

    pub fn commit(&mut self, name: usize, epoch: u64) -> Result<(), Refusal> {
        let transactional = self.by_name.entry(name).or_default();
        match transactional.state {
            State::Open if transactional.epoch == epoch => {
                transactional.state = State::Committing;
                Ok(())
            }
            State::Committing if transactional.epoch == epoch => Ok(()),
            _ => Err(Refusal::Fenced),
        }
    }

    /// Whether an open transaction is about to change the offset of `shard`.
    pub fn is_unstable(&self, shard: u32) -> bool {
        self.by_name.values().any(|t| t.state != State::Empty && t.offsets.contains_key(&shard))
    }

    pub fn is_quiet(&self) -> bool {
        self.by_name.values().all(|t| t.state == State::Empty)
    }

    /// Markers are written, transactions expire.
    pub fn tick(&mut self, now: i64, rng: &mut Rng) {
        for transactional in self.by_name.values_mut() {
            match transactional.state {
                State::Open if now - transactional.opened_at >= TIMEOUT_MS => {
                    transactional.epoch += 1;
                    transactional.state = State::Aborting;
                }
                State::Committing if rng.one_in(3) => {
                    self.committed.append(&mut transactional.records);
                    let offsets = std::mem::take(&mut transactional.offsets);
                    self.offsets
                        .extend(offsets.into_iter().map(|(shard, (offset, text))| (shard, offset, text)));
                    transactional.state = State::Empty;
                }
                State::Aborting if rng.one_in(3) => {
                    transactional.records.clear();
                    transactional.offsets.clear();
                    transactional.state = State::Empty;
                }
                _ => {}
            }
        }
    }
}
