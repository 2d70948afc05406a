//! The operator: one `CrashMonitor` resource becomes a running set of workers, and says how they fare.
//!
//! Four steps, of which only the ends hold a client: fetch (what is there) → [`validate`] → [`manifests`] (what should
//! be there) → apply; then [`status`] from what the workers say of themselves, and [`events`] from how it changed. The
//! operator never reads a Secret and never talks to Kafka or Redis.

pub mod admin;
pub mod api;
pub mod console;
pub mod controller;
pub mod events;
pub mod generated;
pub mod lease;
pub mod manifests;
pub mod metrics;
pub mod rollout;
pub mod run;
pub mod status;
pub mod validate;
pub mod workers;
