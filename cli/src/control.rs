//! `suspend`, `resume` and `restart`.
//!
//! Responsible for the smallest change of the spec that does it, and for saying when there is nothing to do. Must never
//! touch pods: the operator does what the spec says.

use crashmonitor_operator::api::{CrashMonitor, DesiredState};
use serde_json::{Value, json};

use crate::Error;
use crate::cluster::Cluster;

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// No workers.
    Suspend,
    /// Workers again.
    Resume,
    /// New workers.
    Restart,
}

/// What that means for a resource.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// It is so already; the text says how.
    Nothing(&'static str),
    /// A JSON merge patch, and what it does.
    Patch(Value, &'static str),
}

/// What to do to a resource.
pub fn step(control: Control, monitor: &CrashMonitor) -> Result<Step, Error> {
    let state = monitor.spec.desired_state;
    let desired = |state: DesiredState| json!({"spec": {"desiredState": state}});
    Ok(match (control, state) {
        (Control::Suspend, DesiredState::Suspended) => Step::Nothing("is suspended already"),
        (Control::Suspend, DesiredState::Running) => Step::Patch(
            desired(DesiredState::Suspended),
            "suspended: its workers end, and what was counted is kept",
        ),
        (Control::Resume, DesiredState::Running) => Step::Nothing("is not suspended"),
        (Control::Resume, DesiredState::Suspended) => {
            Step::Patch(desired(DesiredState::Running), "resumed: its workers go on where they stopped")
        }
        (Control::Restart, DesiredState::Suspended) => {
            return Err(Error::failed(
                "it is suspended, so there is no worker to restart",
                "`kubectl crashmonitor resume` starts its workers",
            ));
        }
        (Control::Restart, DesiredState::Running) => {
            // Any other number does; this one is in range after the largest, too.
            let nonce = monitor.spec.restart_nonce.checked_add(1).unwrap_or(0);
            Step::Patch(
                json!({"spec": {"restartNonce": nonce}}),
                "restarts: its workers are replaced one at a time",
            )
        }
    })
}

/// Does it, and says what was done.
pub async fn run(control: Control, name: &str, cluster: &Cluster) -> Result<String, Error> {
    let monitor = cluster.monitor(name).await?;
    Ok(match step(control, &monitor)? {
        Step::Nothing(how) => format!("crashmonitor/{name} {how}\n"),
        Step::Patch(patch, does) => {
            cluster.merge(name, &patch).await?;
            format!("crashmonitor/{name} {does}\n")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(spec: &Value) -> CrashMonitor {
        let mut spec = spec.clone();
        spec["kafka"] = json!({"bootstrapServers": "k:1"});
        spec["input"] = json!({"topic": "logs"});
        serde_json::from_value(json!({
            "apiVersion": "crashmonitor.dev/v1alpha1", "kind": "CrashMonitor",
            "metadata": {"name": "c"}, "spec": spec,
        }))
        .unwrap()
    }

    fn patch(control: Control, spec: &Value) -> Option<Value> {
        match step(control, &monitor(spec)).unwrap() {
            Step::Patch(patch, _) => Some(patch["spec"].clone()),
            Step::Nothing(_) => None,
        }
    }

    #[test]
    fn only_what_is_not_so_is_changed() {
        let (running, suspended) = (json!({}), json!({"desiredState": "Suspended"}));
        assert_eq!(patch(Control::Suspend, &running), Some(suspended.clone()));
        assert_eq!(patch(Control::Suspend, &suspended), None);
        assert_eq!(patch(Control::Resume, &suspended), Some(json!({"desiredState": "Running"})));
        assert_eq!(patch(Control::Resume, &running), None);
    }

    #[test]
    fn a_restart_needs_workers_and_another_number() {
        assert_eq!(patch(Control::Restart, &json!({"restartNonce": 4})), Some(json!({"restartNonce": 5})));
        let last = json!({"restartNonce": i64::MAX});
        assert_eq!(patch(Control::Restart, &last), Some(json!({"restartNonce": 0})));
        assert_eq!(
            step(Control::Restart, &monitor(&json!({"desiredState": "Suspended"}))).unwrap_err().code(),
            1
        );
    }
}
