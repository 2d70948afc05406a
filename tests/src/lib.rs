//! Real services for tests and for `make run`: Kafka, Redis and workers, each a process on loopback.
//!
//! Responsible for starting them, for hurting them on request, for reading and writing topics, and for leaving no
//! process and no file behind, however the program that started them ends. Must never stand in for a service
//! (nothing is simulated here), never retry what a test asserts, and never kill by name: only processes that it
//! started itself, by their pid.
//!
//! Everything here is for tests, so what fails panics with the reason and the end of the service's log.

pub mod audit;
pub mod certificates;
pub mod cluster;
pub mod control_plane;
pub mod follow;
pub mod home;
pub mod http;
pub mod kafka;
pub mod load;
pub mod monitor;
pub mod monitoring;
pub mod network;
pub mod operator;
pub mod operator_process;
pub mod pages;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod redis;
pub mod resource;
pub mod shared;
pub mod shell;
pub mod show;
pub mod tools;
pub mod topics;
pub mod under_load;
pub mod wait;
pub mod worker;

pub use kafka::Kafka;
pub use redis::Redis;
pub use topics::{Isolation, NewRecord, Record, Topics};
pub use wait::{until, until_true};
pub use worker::Worker;
