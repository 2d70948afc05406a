//! The cases of `rules.yaml`.

use serde::Deserialize;
use serde_json::{Value, json};

/// The whole file.
#[derive(Deserialize)]
pub struct File {
    base: Value,
    cases: Vec<Case>,
}

/// One of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub name: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    before: Option<Value>,
    #[serde(default)]
    pub refused: Option<String>,
    #[serde(default)]
    pub by: By,
}

/// Who refuses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    #[default]
    Rule,
    Schema,
}

impl File {
    pub fn read() -> File {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rules.yaml");
        serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Each case with the resource, and the one before it if it is an edit.
    pub fn cases(&self) -> impl Iterator<Item = (&Case, Value, Option<Value>)> {
        self.cases.iter().map(|case| {
            let patch = |spec: &Value| json!({"metadata": case.metadata, "spec": spec});
            let before = case.before.as_ref().map(|before| merged(&self.base, &patch(before)));
            (case, merged(&self.base, &patch(&case.spec)), before)
        })
    }
}

/// A JSON merge patch, but that an absent part changes nothing.
fn merged(base: &Value, patch: &Value) -> Value {
    let mut result = base.clone();
    merge(&mut result, patch, true);
    result
}

fn merge(target: &mut Value, patch: &Value, is_top: bool) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().expect("made one");
    for (key, value) in patch {
        match value {
            Value::Null if is_top => {}
            Value::Null => drop(target.remove(key)),
            value => merge(target.entry(key).or_insert(Value::Null), value, false),
        }
    }
}
