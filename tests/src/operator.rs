//! The operator in the cluster, installed by its chart as a user installs it.
//!
//! Responsible for one installation that all tests share, and for knowing its pods. Must never be changed by a test that
//! others run beside; who hurts it, waits until it is well again.

use std::sync::Once;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::tools::root;

/// The namespace of the operator, and the name of its release.
pub const NAMESPACE: &str = "crashmonitor-system";
const RELEASE: &str = "crashmonitor";

/// The chart in this checkout.
pub fn chart() -> String {
    let chart = root().join("charts/crashmonitor");
    chart.to_str().expect("the checkout's path is UTF-8").to_owned()
}

/// Installs the operator, or brings it up to date, once in a program; ready when this returns.
#[track_caller]
pub fn ensure() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let release =
            ["upgrade", "--install", RELEASE, &chart(), "--namespace", NAMESPACE, "--create-namespace"];
        // The images are in the nodes, and the tag stays the same whatever was built: new pods take the new one.
        let settings =
            ["--set", "image.pullPolicy=Never", "--set-string", &stamp(), "--wait", "--timeout", "180s"];
        Cluster::get().helm(&[&release[..], &settings[..]].concat());
    });
}

/// A pod annotation that is new for each program, so that an installation of an earlier one is replaced.
fn stamp() -> String {
    format!("podAnnotations.crashmonitor\\.dev/installed-by={}", std::process::id())
}

/// Its pods.
#[track_caller]
pub fn pods() -> Vec<Value> {
    let selector = "app.kubernetes.io/name=crashmonitor-operator";
    Cluster::get().list(&["pods", "--namespace", NAMESPACE, "-l", selector])
}

/// The pod that leads at the moment.
#[track_caller]
pub fn leader() -> Option<String> {
    let lease = Cluster::get().try_get(&["lease", "crashmonitor-operator", "--namespace", NAMESPACE]).ok()?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}
