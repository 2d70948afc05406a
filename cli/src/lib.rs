//! `kubectl crashmonitor`: what a person asks of a monitor, and tells it.
//!
//! As in the operator, only the ends hold a client: [`cluster`] asks the API server, [`kafka`] reads topics; the rest
//! makes text of values. The API server is asked with the rights of the person who calls; nothing here
//! reads a Secret.

#![deny(unsafe_code)]

pub mod args;
pub mod cluster;
pub mod control;
pub mod error;
pub mod generate;
pub mod kafka;
pub mod plan;
pub mod report;
pub mod results;
pub mod run;
pub mod status;
pub mod text;
pub mod top;
pub mod verify;
pub mod when;

pub use error::Error;
