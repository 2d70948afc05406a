//! The faults.
//!
//! Responsible for causing each at a moment when records flow and results are written, and for returning when everything
//! that was taken away is back and results come again. Must never compare results.

mod brokers;
mod members;
mod network;
mod points;
mod store;

use crate::scene::Scene;

/// Whether a fault may be caused beside others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It hurts nothing but its own workers and Redis.
    Beside,
    /// It hurts brokers, or the way to them.
    Alone,
}

/// Starts workers and load, causes the fault, and has all well again. The number of the run varies it.
type Cause = Box<dyn Fn(&mut Scene<'_>, u64) + Send + Sync>;

/// One row of the matrix.
pub struct Fault {
    /// Its name, also in those of topics and directories.
    pub name: String,
    /// Where it may be caused.
    pub place: Place,
    /// The workers' session timeout.
    pub session: &'static str,
    /// What happens.
    pub cause: Cause,
}

/// All of them.
pub fn all() -> Vec<Fault> {
    let beside = points::all().chain(store::all()).chain(members::all());
    beside.chain(network::all()).chain(brokers::all()).collect()
}
