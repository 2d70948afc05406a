//! The worker: the adapters around `crashmonitor_core`, and the loops that drive it.
//!
//! Adapters ([`kafka`], [`redis_store`], [`metrics`], [`admin`]) do what they are told and report facts. What the
//! facts mean is decided in `crashmonitor_core`.

#![deny(unsafe_code)]

pub mod admin;
mod aggregate_loop;
mod driver;
mod failpoint;
pub mod fetch;
pub mod kafka;
mod keeper;
pub mod logging;
mod memory;
pub mod metrics;
mod observe;
pub mod purge;
pub mod reader;
pub mod redis_store;
pub mod run;
mod scan_loop;
pub mod secret;
mod signals;
