//! The custom resource definition: what is generated from the types, and its rules, judged without an API server.
//! `api_server.rs` puts the same cases to a real one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_operator::api::{CrashMonitor, rules, schema};
use crashmonitor_operator::generated;
use kube_cel::Validator;
use serde_json::Value;

#[path = "support/cases.rs"]
mod cases;

fn open_api_schema() -> Value {
    let crd = serde_json::to_value(schema::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn what_is_generated_is_up_to_date() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (path, text) in generated::files() {
        let found = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(found == text, "{path} differs: cargo run -p crashmonitor-operator --bin crdgen");
    }
}

#[test]
fn rules_accept_and_refuse() {
    let schema = open_api_schema();
    let file = cases::File::read();
    let mut hit = Vec::new();
    for (case, resource, before) in file.cases().filter(|(case, ..)| case.by == cases::By::Rule) {
        let judged = Validator::new().validate(&schema, &resource, before.as_ref());
        let messages: Vec<String> =
            judged.err().into_iter().flat_map(|e| e.into_vec()).map(|e| e.message).collect();
        match &case.refused {
            None => assert!(messages.is_empty(), "{}: {messages:?}", case.name),
            Some(text) => {
                assert!(messages.iter().any(|m| m.contains(text)), "{}: {messages:?}", case.name);
            }
        }
        hit.extend(messages);
    }
    for rule in rules::all() {
        assert!(hit.contains(&rule.message), "no case is refused with: {}", rule.message);
    }
}

/// What the API server lets through, the operator can read.
#[test]
fn words_of_the_schema_are_words_of_the_types() {
    let file = cases::File::read();
    for (case, resource, _) in file.cases().filter(|(case, ..)| case.refused.is_none()) {
        let read: Result<CrashMonitor, _> = serde_json::from_value(resource);
        assert!(read.is_ok(), "{}: {read:?}", case.name);
    }
    let (_, base, _) = file.cases().next().map(|(c, r, b)| (c.name.clone(), r, b)).unwrap();
    for place in [
        "desiredState",
        "deletionPolicy",
        "imagePullPolicy",
        "input/startingOffsets",
        "input/onDataLoss",
        "output/mode",
    ] {
        let (mut found, mut pointer) = (&open_api_schema()["properties"]["spec"], String::from("/spec"));
        for name in place.split('/') {
            found = &found["properties"][name];
            pointer = format!("{pointer}/{name}");
        }
        for word in found["enum"].as_array().unwrap() {
            let mut resource = base.clone();
            let mut target = &mut resource["spec"];
            for name in place.split('/') {
                target = &mut target[name];
            }
            *target = word.clone();
            let read: Result<CrashMonitor, _> = serde_json::from_value(resource);
            assert!(read.is_ok(), "{place}: {word}: {read:?}");
        }
    }
}

/// The estimate of what a rule costs is made from these bounds.
#[test]
fn everything_that_a_rule_looks_at_has_a_bound() {
    fn walk(schema: &Value, path: &str, unbounded: &mut Vec<String>) {
        let is = |type_: &str| schema["type"] == type_;
        let is_bounded = |bound: &str| schema[bound].is_number();
        if is("string") && schema["enum"].is_null() && !is_bounded("maxLength") {
            unbounded.push(path.to_string());
        }
        if is("array") && !is_bounded("maxItems")
            || !schema["additionalProperties"].is_null() && !is_bounded("maxProperties")
        {
            unbounded.push(path.to_string());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), unbounded);
        }
    }
    let mut unbounded = Vec::new();
    let spec = &open_api_schema()["properties"]["spec"];
    // Kubernetes' own types have bounds of their own.
    let ours = |name: &str| !matches!(name, "resources" | "template" | "imagePullSecrets");
    for (name, property) in spec["properties"].as_object().unwrap().iter().filter(|(name, _)| ours(name)) {
        walk(property, name, &mut unbounded);
    }
    assert_eq!(unbounded, Vec::<String>::new());
}

/// Whoever meets a reason finds it in the reference.
#[test]
fn every_reason_is_in_the_reference() {
    // Words of Kubernetes and of the workers, not ours.
    const FOREIGN: [&str; 13] = [
        "ContainerCreating",
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "OOMKilled",
        "PodScheduled",
        "RunContainerError",
        "StatefulSet",
        "CrashMonitor",
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let reference = std::fs::read_to_string(root.join("../docs/resource.md")).unwrap();
    for file in ["status/conditions.rs", "status/pods.rs", "events.rs", "controller/finalize.rs"] {
        let text = std::fs::read_to_string(root.join("src").join(file)).unwrap();
        let is_word = |word: &&str| {
            word.starts_with(char::is_uppercase)
                && word.chars().all(char::is_alphabetic)
                && word.chars().filter(|letter| letter.is_uppercase()).count() > 1
        };
        for word in text.split('"').filter(is_word).filter(|word| !FOREIGN.contains(word)) {
            assert!(reference.contains(&format!("`{word}`")), "{file}: {word}");
        }
    }
}
