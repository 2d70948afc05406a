//! What each release of the operator left in a cluster, kept as it was: `operator/tests/releases/<version>/`.
//!
//! Responsible for an upgrade of the operator: every resource that an earlier definition let through is let through, its
//! workers get the configuration that they had, and the objects that they run in are found again. The formats of the workers
//! are `core/tests/releases`. Must never change a set that was released: docs/releasing.md says when one is written, and how:
//!
//! ```sh
//! WRITE_FORMATS=1 cargo test -p crashmonitor-operator --test formats
//! ```
//!
//! | file of a set | |
//! |---|---|
//! | `definition.yaml` | the definition of the resource |
//! | `full.yaml`, `minimal.yaml` | resources |
//! | `….worker.yaml` | the configuration that their workers got |
//! | `….objects.yaml` | names of their objects, and what can't be changed in them |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../core/tests/support/releases.rs"]
mod releases;

use std::fs;
use std::path::Path;

use crashmonitor_operator::api::{CrashMonitor, schema};
use crashmonitor_operator::manifests;
use crashmonitor_operator::validate::{Defaults, Monitor, validate};
use kube_cel::Validator;
use releases::{directory, versions_after, write};
use serde_json::{Value, json};

/// The resources of a set.
const RESOURCES: [&str; 2] = ["full", "minimal"];

fn versions() -> Vec<String> {
    versions_after(write_all)
}

#[track_caller]
fn kept(version: &str, name: &str) -> Value {
    let path = directory(version).join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write_all() {
    write("definition.yaml", schema::crd_yaml());
    for name in RESOURCES {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.yaml"));
        let text = fs::read_to_string(fixture).unwrap();
        let resource: Value = serde_yaml::from_str(&text).unwrap();
        let yaml = |value: &Value| serde_yaml::to_string(value).unwrap();
        write(&format!("{name}.yaml"), &text);
        write(&format!("{name}.worker.yaml"), yaml(&worker_configuration(&resource)));
        write(&format!("{name}.objects.yaml"), yaml(&objects(&resource)));
    }
}

fn monitor(resource: &Value) -> Monitor {
    let resource: CrashMonitor = serde_json::from_value(resource.clone()).unwrap();
    let defaults = Defaults {
        worker_image: Some("crashmonitor/worker:1.2.3".to_owned()),
        operator_namespace: "crashmonitor-system".to_owned(),
        console: false,
    };
    validate(&resource, &defaults).unwrap()
}

/// What the workers of a resource read.
fn worker_configuration(resource: &Value) -> Value {
    let data = manifests::build(&monitor(resource)).config_map.data.unwrap();
    serde_yaml::from_str(&data["worker.yaml"]).unwrap()
}

/// By what the objects of a resource are found again, and what the API server lets nobody change in them. The ConfigMap is
/// none of them: each revision has its own.
fn objects(resource: &Value) -> Value {
    let objects = manifests::build(&monitor(resource));
    let set = serde_json::to_value(&objects.stateful_set).unwrap();
    let spec = &set["spec"];
    json!({
        "serviceAccount": objects.service_account.metadata.name,
        "service": objects.service.metadata.name,
        "networkPolicy": objects.network_policy.metadata.name,
        "podDisruptionBudget": objects.pod_disruption_budget.metadata.name,
        "statefulSet": {
            "name": set["metadata"]["name"],
            "selector": spec["selector"],
            "serviceName": spec["serviceName"],
            "podManagementPolicy": spec["podManagementPolicy"],
            "volumeClaimTemplates": spec["volumeClaimTemplates"],
        },
    })
}

fn definition() -> Value {
    serde_json::to_value(schema::crd()).unwrap()
}

#[test]
fn the_present_version_has_a_set() {
    let present = env!("CARGO_PKG_VERSION");
    assert!(
        versions().iter().any(|version| version == present),
        "{present} has no set: see docs/releasing.md"
    );
}

/// Everything that `then` says, `now` says too: nothing changed, nothing went. Numbers are compared as JSON has them.
fn missing(then: &Value, now: &Value, path: &str) -> Option<String> {
    match (then, now) {
        (Value::Object(then), Value::Object(_)) => {
            then.iter().find_map(|(key, value)| missing(value, &now[key], &format!("{path}.{key}")))
        }
        _ => (then != now).then(|| format!("{path} was {then} and is {now}")),
    }
}

#[test]
fn the_workers_of_a_resource_get_what_they_had() {
    for version in versions() {
        for name in RESOURCES {
            let resource = kept(&version, &format!("{name}.yaml"));
            let then = kept(&version, &format!("{name}.worker.yaml"));
            assert_eq!(missing(&then, &worker_configuration(&resource), ""), None, "{version}/{name}");
        }
    }
}

#[test]
fn the_objects_of_a_resource_are_found_again() {
    for version in versions() {
        for name in RESOURCES {
            let resource = kept(&version, &format!("{name}.yaml"));
            let then = kept(&version, &format!("{name}.objects.yaml"));
            assert_eq!(missing(&then, &objects(&resource), ""), None, "{version}/{name}");
        }
    }
}

#[test]
fn a_resource_is_let_through_as_it_was() {
    let definition = definition();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for version in versions() {
        for name in RESOURCES {
            let resource = kept(&version, &format!("{name}.yaml"));
            // Made, and applied once more after the upgrade.
            for before in [None, Some(&resource)] {
                let judged = Validator::new().validate(schema, &resource, before);
                let messages: Vec<String> =
                    judged.err().into_iter().flat_map(|e| e.into_vec()).map(|e| e.message).collect();
                assert_eq!(messages, Vec::<String>::new(), "{version}/{name}");
            }
        }
    }
}

#[test]
fn a_definition_refuses_nothing_that_an_earlier_one_let_through() {
    let now = definition();
    for version in versions() {
        let then = kept(&version, "definition.yaml");
        for place in ["group", "names", "scope"] {
            assert_eq!(missing(&then["spec"][place], &now["spec"][place], place), None, "{version}");
        }
        for then in then["spec"]["versions"].as_array().unwrap() {
            let is_same = |now: &&Value| now["name"] == then["name"];
            let now = now["spec"]["versions"].as_array().unwrap().iter().find(is_same);
            let now = now.unwrap_or_else(|| panic!("{} of {version} is gone", then["name"]));
            assert_eq!(now["served"], true, "{version}: {} is not served", then["name"]);
            let mut narrowed = Vec::new();
            let at = |version: &Value| version["schema"]["openAPIV3Schema"].clone();
            compare(&at(then), &at(now), "", &mut narrowed);
            assert_eq!(narrowed, Vec::<String>::new(), "{version}: {}", then["name"]);
        }
    }
}

/// Where the schema `now` refuses what `then` let through, or gives it another meaning.
fn compare(then: &Value, now: &Value, path: &str, narrowed: &mut Vec<String>) {
    if now.is_null() {
        return narrowed.push(format!("{path} is gone"));
    }
    let fixed = ["type", "format", "pattern", "default", "nullable", "x-kubernetes-int-or-string"];
    for key in fixed.into_iter().filter(|key| then[key] != now[key]) {
        narrowed.push(format!("{path}: {key} was {} and is {}", then[key], now[key]));
    }
    for (key, is_upper) in [
        ("minimum", false),
        ("minLength", false),
        ("minItems", false),
        ("minProperties", false),
        ("maximum", true),
        ("maxLength", true),
        ("maxItems", true),
        ("maxProperties", true),
    ] {
        let open = if is_upper { f64::INFINITY } else { f64::NEG_INFINITY };
        let [was, is] = [then, now].map(|schema| schema[key].as_f64().unwrap_or(open));
        if if is_upper { is < was } else { is > was } {
            narrowed.push(format!("{path}: {key} was {was} and is {is}"));
        }
    }
    let list = |schema: &Value, key: &str| schema[key].as_array().cloned().unwrap_or_default();
    let words = list(now, "enum");
    if then["enum"].is_null() && !words.is_empty() {
        narrowed.push(format!("{path} is an enumeration now"));
    }
    let gone = list(then, "enum").into_iter().filter(|word| !words.is_empty() && !words.contains(word));
    narrowed.extend(gone.map(|word| format!("{path}: {word} is gone")));
    let was_required = list(then, "required");
    let required = list(now, "required").into_iter().filter(|name| !was_required.contains(name));
    narrowed.extend(required.map(|name| format!("{path}: {name} is required now")));
    let rules = |schema: &Value| -> Vec<Value> {
        list(schema, "x-kubernetes-validations").iter().map(|rule| rule["rule"].clone()).collect()
    };
    let had = rules(then);
    let added = rules(now).into_iter().filter(|rule| !had.contains(rule));
    narrowed.extend(added.map(|rule| format!("{path}: a rule is new, or another than it was: {rule}")));
    for inner in ["items", "additionalProperties"] {
        if then[inner].is_object() {
            compare(&then[inner], &now[inner], &format!("{path}[]"), narrowed);
        }
    }
    for (name, property) in then["properties"].as_object().into_iter().flatten() {
        compare(property, &now["properties"][name], &format!("{path}.{name}"), narrowed);
    }
}

/// The comparison finds what it should: otherwise an empty list says nothing.
#[test]
fn a_narrower_schema_is_found() {
    let then = json!({
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "string", "maxLength": 9, "enum": ["x", "y"]},
            "b": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        },
    });
    let narrowed_by = |pointer: &str, value: Value| {
        let mut now = then.clone();
        let (object, key) = pointer.rsplit_once('/').unwrap();
        now.pointer_mut(object).unwrap()[key] = value;
        let mut narrowed = Vec::new();
        compare(&then, &now, "", &mut narrowed);
        narrowed.len()
    };
    assert_eq!(narrowed_by("/type", json!("object")), 0, "the same");
    assert_eq!(narrowed_by("/properties/c", json!({"type": "string"})), 0, "a new field");
    assert_eq!(narrowed_by("/properties/a/maxLength", json!(10)), 0, "a wider bound");
    for (pointer, value) in [
        ("/required", json!(["a", "b"])),
        ("/properties/a/maxLength", json!(8)),
        ("/properties/a/enum", json!(["x"])),
        ("/properties/a/type", json!("integer")),
        ("/properties/a/default", json!("x")),
        ("/properties/a", Value::Null),
        ("/properties/b/items/minimum", json!(1)),
        ("/properties/b/x-kubernetes-validations", json!([{"rule": "self.size() > 1"}])),
    ] {
        assert_eq!(narrowed_by(pointer, value), 1, "{pointer}");
    }
}
