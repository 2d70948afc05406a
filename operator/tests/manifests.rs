//! What is built from a resource, held against files.
//!
//! `UPDATE_GOLDEN=1 cargo test -p crashmonitor-operator --test manifests` writes the files anew; read the difference
//! before you commit it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crashmonitor_core::config::Config;
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_operator::manifests::{self, Objects, purge};
use crashmonitor_operator::validate::{Defaults, Monitor, validate};
use serde::Serialize;

fn directory(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn resource(name: &str) -> CrashMonitor {
    let text = std::fs::read_to_string(directory("fixtures").join(format!("{name}.yaml"))).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn defaults() -> Defaults {
    Defaults {
        worker_image: Some("crashmonitor/worker:0.1.0".to_string()),
        operator_namespace: "crashmonitor-system".to_string(),
        console: false,
    }
}

fn monitor(name: &str) -> Monitor {
    validate(&resource(name), &defaults()).unwrap()
}

fn yaml(object: &impl Serialize) -> String {
    format!("---\n{}", serde_yaml::to_string(object).unwrap())
}

fn rendered(objects: &Objects) -> String {
    [
        yaml(&objects.service_account),
        yaml(&objects.config_map),
        yaml(&objects.service),
        yaml(&objects.network_policy),
        yaml(&objects.pod_disruption_budget),
        yaml(&objects.stateful_set),
    ]
    .concat()
}

fn hold(name: &str, text: &str) {
    let path = directory("golden").join(format!("{name}.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, text, "{} differs; see the head of this file", path.display());
}

#[test]
fn objects_are_as_expected() {
    for name in ["minimal", "full", "certificate", "suspended"] {
        hold(name, &rendered(&manifests::build(&monitor(name))));
    }
}

#[test]
fn the_purge_job_is_as_expected() {
    let monitor = monitor("full");
    let job = purge::job(&monitor);
    hold("purge", &(yaml(&job) + &yaml(&purge::config_map(&monitor, &job))));
}

/// The ConfigMap holds what the worker reads: the same configuration comes out of it.
#[test]
fn the_worker_reads_what_the_operator_renders() {
    for name in ["minimal", "full", "certificate", "suspended"] {
        let monitor = monitor(name);
        let data = manifests::build(&monitor).config_map.data.unwrap();
        let read = Config::parse(&data["worker.yaml"]).unwrap();
        assert_eq!(read, monitor.checked, "{name}");
    }
}

fn pod_template(monitor: &Monitor) -> serde_json::Value {
    let set = manifests::build(monitor).stateful_set;
    serde_json::to_value(set.spec.unwrap().template).unwrap()
}

#[test]
fn an_edit_of_metadata_or_replicas_restarts_nothing() {
    let before = resource("full");
    let mut after = before.clone();
    after.metadata.labels = Some([("a".to_string(), "b".to_string())].into());
    after.metadata.generation = Some(8);
    after.spec.replicas = 5;
    after.spec.deletion_policy = Default::default();
    let template = |resource| pod_template(&validate(&resource, &defaults()).unwrap());
    assert_eq!(template(before), template(after));
}

#[test]
fn whatever_a_worker_reads_makes_a_new_revision() {
    let before = pod_template(&monitor("full"));
    let edits: [fn(&mut CrashMonitor); 5] = [
        |r| r.spec.count_greater_than = 3,
        |r| r.spec.restart_nonce += 1,
        |r| r.spec.image = Some("other".to_string()),
        |r| r.spec.kafka.authentication.as_mut().unwrap().username = Some("other".to_string()),
        |r| {
            r.spec.kafka.authentication.as_mut().unwrap().password_secret.as_mut().unwrap().secret_name =
                "o".into()
        },
    ];
    for (number, edit) in edits.iter().enumerate() {
        let mut resource = resource("full");
        edit(&mut resource);
        assert_ne!(before, pod_template(&validate(&resource, &defaults()).unwrap()), "edit {number}");
    }
}

#[test]
fn a_template_can_not_take_a_label_away_from_the_operator() {
    let mut resource = resource("full");
    let labels = &mut resource.spec.template.as_mut().unwrap().metadata.as_mut().unwrap().labels;
    labels.insert("app.kubernetes.io/instance".to_string(), "other".to_string());
    let template = pod_template(&validate(&resource, &defaults()).unwrap());
    assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/instance"], "checkout");
    assert_eq!(template["metadata"]["labels"]["team"], "payments");
}

/// The longest name that the API server lets through must fit everywhere.
#[test]
fn names_fit() {
    let mut resource = resource("full");
    resource.metadata.name = Some("n".repeat(manifests::NAME_LENGTH_MAX));
    resource.metadata.namespace = Some("s".repeat(63));
    let monitor = validate(&resource, &defaults()).unwrap();
    let set = manifests::build(&monitor).stateful_set.metadata.name.unwrap();
    // The labels controller-revision-hash, and statefulset.kubernetes.io/pod-name of the worker with the most digits.
    assert!(format!("{set}-0123456789").len() <= 63, "{set}");
    assert!(format!("{set}-255").len() <= 63, "{set}");
    assert!(manifests::service_name(&monitor.name).len() <= 63);
    assert!(purge::name(&monitor.name).len() <= 57, "the pods of a Job have it and a suffix as their name");
    assert!(monitor.checked.repartition_topic().as_str().len() <= 249);
}

#[test]
fn what_can_not_be_used_is_refused_with_its_field() {
    let refused = |edit: fn(&mut CrashMonitor)| {
        let mut resource = resource("full");
        edit(&mut resource);
        validate(&resource, &defaults()).unwrap_err().to_string()
    };
    assert_eq!(
        refused(|r| r.spec.kafka.bootstrap_servers = "kafka:70000".to_string()),
        "spec.kafka.bootstrapServers: must be host:port, comma-separated, got \"kafka:70000\""
    );
    assert_eq!(
        refused(|r| r.spec.output.topic = "crashmonitor.shop.checkout.repartition".to_string()),
        "spec.output.topic: must differ from the repartition topic, both are \
         crashmonitor.shop.checkout.repartition"
    );
    assert_eq!(
        refused(|r| r.metadata.name = Some("x".repeat(46))),
        format!("metadata.name: must be at most 45 of a-z, 0-9 and -, got {:?}", "x".repeat(46))
    );
    let mut resource = resource("minimal");
    resource.spec.image = None;
    let defaults = Defaults { worker_image: None, ..defaults() };
    assert_eq!(
        validate(&resource, &defaults).unwrap_err().to_string(),
        "spec.image: is missing, and the operator has no default: set it, or start the operator with --worker-image"
    );
}
