//! One operator of several does the work: who holds the Lease.
//!
//! Responsible for taking, keeping and giving back a `coordination.k8s.io` Lease. Must never let anybody believe that it
//! leads when another one may: who could not renew for [`RENEW_DEADLINE`] is no leader, well before others may take
//! over.
//!
//! The rules are those of Kubernetes' own components. Whether a holder still lives is judged by how long its record has
//! not changed while we looked, on our own clock; clocks of different machines are never compared. Two that write at
//! the same time are told apart by the resource version. [`decide`] is pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::Instant;

/// A holder whose record has not changed for so long is gone.
pub const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long is none any more.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two attempts.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What to do about the Lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it any more: take it.
    Take,
    /// Somebody else holds it.
    Wait,
}

/// Decides. `unchanged` is how long the record has been seen to be what it is.
pub fn decide(spec: &LeaseSpec, me: &str, unchanged: Duration) -> Step {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = duration.map_or(DURATION, Duration::from_secs);
    if holder == me {
        Step::Renew
    } else if holder.is_empty() || unchanged >= duration {
        Step::Take
    } else {
        Step::Wait
    }
}

/// A candidate for the lead.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    me: String,
    /// The record that was seen last, and since when it has been so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Elector {
    /// A candidate called `me` for the Lease `name`.
    pub fn new(api: Api<Lease>, name: &str, me: &str) -> Elector {
        Elector { api, name: name.to_string(), me: me.to_string(), seen: None }
    }

    /// Waits until the lead is ours.
    pub async fn acquire(&mut self) {
        let mut said = String::new();
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    let text = error.to_string();
                    if text != said {
                        tracing::warn!(lease = self.name, "the Lease can't be taken: {text}; trying again");
                    }
                    said = text;
                }
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Keeps the lead, and returns when it is lost.
    pub async fn keep(&mut self) {
        let mut renewed_at = Instant::now();
        while renewed_at.elapsed() < RENEW_DEADLINE {
            tokio::time::sleep(RETRY_PERIOD).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed_at.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed_at = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(lease = self.name, "the Lease can't be renewed: {error}"),
                Err(_) => {}
            }
        }
    }

    /// Gives the lead back, so that another one need not wait.
    pub async fn release(&mut self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.me) {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// One look and, if it makes sense, one write. Returns whether the lead is ours.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.record(None)) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => Instant::now(),
        };
        self.seen = Some((spec.clone(), since));
        lease.spec = Some(match decide(&spec, &self.me, since.elapsed()) {
            Step::Wait => return Ok(false),
            Step::Renew => LeaseSpec { renew_time: Some(MicroTime(Timestamp::now())), ..spec },
            Step::Take => self.record(Some(&spec)),
        });
        won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    /// Our record, after that of somebody else.
    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or(0) + 1);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// Somebody else may have been faster.
fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_string()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_holder_that_lives_is_left_alone() {
        assert_eq!(decide(&held_by("other"), "me", Duration::from_millis(14_999)), Step::Wait);
    }

    #[test]
    fn a_holder_that_is_gone_is_followed() {
        assert_eq!(decide(&held_by("other"), "me", Duration::from_secs(15)), Step::Take);
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        assert_eq!(decide(&held_by(""), "me", Duration::ZERO), Step::Take);
        assert_eq!(decide(&LeaseSpec::default(), "me", Duration::ZERO), Step::Take);
    }

    #[test]
    fn ours_is_renewed() {
        assert_eq!(decide(&held_by("me"), "me", Duration::from_secs(60)), Step::Renew);
    }

    #[test]
    fn a_leader_gives_up_before_others_may_take_over() {
        assert!(RENEW_DEADLINE + RETRY_PERIOD < DURATION);
    }
}
