//! The operator as a process before a [`ControlPlane`], with the rights that it is installed with and no others.
//!
//! Responsible for installing what `config/` holds, and for starting the operator as one who has its token. Must never give it
//! a right that a user's installation would not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::control_plane::ControlPlane;
use crate::home::Dir;
use crate::operator::NAMESPACE;
use crate::ports::Port;
use crate::process::Process;
use crate::tools::root;
use crate::wait::until;
use crate::worker::binary;

/// How long the account may take to be there after it was applied.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Applies `config/`, and gives the kubeconfig of the operator's account.
#[track_caller]
pub fn install(plane: &ControlPlane) -> PathBuf {
    let config = root().join("config");
    let config = config.to_str().expect("the checkout's path is UTF-8");
    plane.kubectl(&["apply", "--server-side", "-k", config], "");
    let created = ["create", "token", "crashmonitor-operator", "-n", NAMESPACE, "--duration=2h"];
    let token = until("a token of the operator", TIMEOUT, || plane.try_kubectl(&created, ""));
    plane.write_kubeconfig("operator", token.trim())
}

/// Starts it, with the console where a port is given for it; its log is in `dir`. Waits for nothing.
pub fn start(kubeconfig: &Path, admin: &Port, console: Option<&Port>, dir: &Dir) -> Process {
    let mut command = Command::new(binary("crashmonitor-operator", "CRASHMONITOR_OPERATOR"));
    command.args(["run", "--worker-image", "crashmonitor/worker:test", "--identity", "operator"]);
    command.args(["--leader-election-namespace", NAMESPACE]);
    command.arg("--listen").arg(admin.address().to_string());
    if let Some(console) = console {
        command.arg("--console-listen").arg(console.address().to_string());
    }
    command.env("KUBECONFIG", kubeconfig);
    Process::spawn("the operator", &command, &dir.path().join("log"))
}
