//! The patch that `kubectl apply` would send.
//!
//! Responsible for what a file means for an object that is there: what the file has is set, what it had when it was
//! applied last and has no more is removed, and the rest is left to whoever set it. Pure. Must never guess: without a
//! record of the last apply nothing is removed.

use serde_json::{Map, Value};

/// Where client-side `kubectl apply` keeps what it applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The JSON merge patch that takes an object that `last` was applied to, to what `file` says.
pub fn three_way(last: Option<&Value>, file: &Value) -> Value {
    let (Some(file_fields), last_fields) = (file.as_object(), last.and_then(Value::as_object)) else {
        return file.clone();
    };
    let mut patch = Map::new();
    for (key, value) in file_fields {
        patch.insert(key.clone(), three_way(last_fields.and_then(|last| last.get(key)), value));
    }
    for key in last_fields.into_iter().flat_map(Map::keys) {
        patch.entry(key.clone()).or_insert(Value::Null);
    }
    Value::Object(patch)
}

/// Carries a JSON merge patch (RFC 7386) out.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_file_no_longer_has_is_removed_and_the_rest_stays() {
        let last = json!({"spec": {"a": 1, "b": {"x": 1, "y": 2}, "gone": {"deep": 1}}});
        let file = json!({"spec": {"a": 2, "b": {"x": 1}}});
        let patch = three_way(Some(&last), &file);
        assert_eq!(patch, json!({"spec": {"a": 2, "b": {"x": 1, "y": null}, "gone": null}}));
        let mut stored = json!({"spec": {"a": 1, "b": {"x": 1, "y": 2}, "gone": {"deep": 1}, "replicas": 4}});
        merge(&mut stored, &patch);
        assert_eq!(stored, json!({"spec": {"a": 2, "b": {"x": 1}, "replicas": 4}}));
    }

    #[test]
    fn without_a_last_apply_nothing_is_removed() {
        let file = json!({"spec": {"a": [1, 2]}});
        assert_eq!(three_way(None, &file), file);
        let mut stored = json!({"spec": {"a": [3], "b": 1}});
        merge(&mut stored, &file);
        assert_eq!(stored, json!({"spec": {"a": [1, 2], "b": 1}}));
    }
}
