//! The OpenAPI schema that the API server holds a resource to.
//!
//! Responsible for the schemas of single values, and for making a CRD out of the types: descriptions in one line each,
//! no `null` (the API server drops it and puts the default in its place), and the rules of [`rules`](super::rules).
//! Must never refuse a value that the worker would accept without a reason that a rule or description names.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::{CrashMonitor, rules};

/// The custom resource definition, as it is installed.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = serde_json::to_value(CrashMonitor::crd()).expect("a definition is JSON");
    let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    clean(schema);
    rules::add(schema);
    serde_json::from_value(crd).expect("rules are part of a definition")
}

/// The definition as a YAML document.
pub fn crd_yaml() -> String {
    serde_yaml::to_string(&crd()).expect("a definition is YAML")
}

fn clean(value: &mut Value) {
    match value {
        Value::Object(object) => {
            clean_schema(object);
            object.values_mut().for_each(clean);
        }
        Value::Array(array) => array.iter_mut().for_each(clean),
        _ => {}
    }
}

fn clean_schema(schema: &mut Map<String, Value>) {
    if schema.get("nullable").is_some_and(Value::is_boolean) {
        schema.remove("nullable");
    }
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
    }
}

fn one_of(words: &[&str]) -> Schema {
    json_schema!({"type": "string", "enum": words})
}

pub(super) fn desired_state(_: &mut SchemaGenerator) -> Schema {
    one_of(&["Running", "Suspended"])
}

pub(super) fn deletion_policy(_: &mut SchemaGenerator) -> Schema {
    one_of(&["Retain", "Delete"])
}

pub(super) fn image_pull_policy(_: &mut SchemaGenerator) -> Schema {
    one_of(&["Always", "IfNotPresent", "Never"])
}

pub(super) fn authentication_type(_: &mut SchemaGenerator) -> Schema {
    one_of(&["tls", "plain", "scram-sha-256", "scram-sha-512"])
}

pub(super) fn starting_offsets(_: &mut SchemaGenerator) -> Schema {
    one_of(&["Latest", "Earliest"])
}

pub(super) fn on_data_loss(_: &mut SchemaGenerator) -> Schema {
    one_of(&["Continue", "Fail"])
}

pub(super) fn output_mode(_: &mut SchemaGenerator) -> Schema {
    one_of(&["Updates", "Final"])
}

/// A Kafka topic's name: 1 to 249 letters, digits, `.`, `_` and `-`, not `.` or `..`.
pub(super) fn topic(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 249,
        "pattern": r"^([a-zA-Z0-9_-]|\.[a-zA-Z0-9_-]|\.\.[a-zA-Z0-9._-])[a-zA-Z0-9._-]*$",
    })
}

/// A number and a unit. So many digits that Kubernetes, which counts nanoseconds, can hold the value.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 2,
        "maxLength": 11,
        "pattern": "^([0-9]{1,9}(ms|s)|[0-9]{1,7}m|[0-9]{1,6}h)$",
    })
}

/// The name of another object.
pub(super) fn object_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    })
}

/// A key in a Secret.
pub(super) fn secret_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$"})
}

/// `1` or `25%`.
pub(super) fn number_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true, "minimum": 0, "pattern": "^(100|[0-9]{1,2})%$"})
}
