//! The worker: the adapters around `crashmonitor_core`, and the loops that drive it.
//!
//! Adapters ([`kafka`], [`redis_store`], [`metrics`], [`admin`]) do what they are told and report facts. What the
//! facts mean is decided in `crashmonitor_core`.

#![deny(unsafe_code)]

pub mod admin;
pub mod kafka;
pub mod logging;
pub mod metrics;
pub mod redis_store;
pub mod run;
pub mod secret;
