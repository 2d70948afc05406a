//! What is left out of a report.
//!
//! Responsible for objects of the API, for what workers answer and for log lines. Pure. Must never keep a value because it
//! looks harmless: of what people write freely (annotations, environments, settings of other programs) only the names stay.

use serde_json::{Map, Value};

/// What stands in place of a value.
const REDACTED: &str = "REDACTED";
/// Words of a key whose value is a secret, in lower case.
const SECRET_WORDS: [&str; 6] = ["password", "secret", "token", "credential", "apikey", "private"];
/// Keys that hold the name of a Secret, or of a key in one: those stay.
const REFERENCES: [&str; 7] = [
    "passwordSecret",
    "secretName",
    "imagePullSecrets",
    "secret",
    "passwordFile",
    "secretKeyRef",
    "automountServiceAccountToken",
];
/// Annotations that this project writes itself begin with this.
const OURS: &str = "crashmonitor.dev/";

/// Takes secrets out of an object of the API, wherever they may lie.
pub fn object(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (key, value) in fields.iter_mut() {
                field(key, value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(object),
        Value::String(text) => *text = url(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn field(key: &str, value: &mut Value) {
    match (key, &mut *value) {
        ("annotations", Value::Object(annotations)) => names_only(annotations, |name| name.starts_with(OURS)),
        // A container's environment: `[{name, value}]`.
        ("env", Value::Array(variables)) => {
            for variable in variables.iter_mut().filter_map(Value::as_object_mut) {
                if let Some(value) = variable.get_mut("value") {
                    *value = REDACTED.into();
                }
            }
        }
        // A ConfigMap's file is YAML of its own.
        ("data", Value::Object(files)) => {
            for text in files.values_mut() {
                let parsed = text.as_str().and_then(|text| serde_yaml::from_str::<Value>(text).ok());
                *text = match parsed {
                    Some(mut parsed @ Value::Object(_)) => {
                        object(&mut parsed);
                        serde_yaml::to_string(&parsed).unwrap_or_default().into()
                    }
                    _ => REDACTED.into(),
                };
            }
        }
        _ if !REFERENCES.contains(&key) && is_secret(key) => *value = REDACTED.into(),
        _ => object(value),
    }
}

fn names_only(fields: &mut Map<String, Value>, is_kept: impl Fn(&str) -> bool) {
    for (name, value) in fields.iter_mut() {
        if !is_kept(name) {
            *value = REDACTED.into();
        }
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace(['-', '_', '.'], "");
    SECRET_WORDS.iter().any(|word| key.contains(word))
}

/// Takes user and password out of a URL.
fn url(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let end = after.find(['/', ' ', '"', '\'', ',', '?', '#', '\n']).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => clean.push_str(&format!("{REDACTED}@{host}")),
            None => clean.push_str(authority),
        }
        rest = behind;
    }
    clean.push_str(rest);
    clean
}

/// Takes the names of users out of what a worker answers. What is no JSON has none.
pub fn answer(text: &str) -> String {
    let Ok(mut answer) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    let Some(users) = answer.get_mut("users").and_then(Value::as_array_mut) else { return text.to_owned() };
    for user in users.iter_mut().filter_map(Value::as_object_mut) {
        user.insert("user".to_owned(), REDACTED.into());
    }
    answer.to_string()
}

/// Takes secrets out of log lines: what stands behind a word for one, and users of URLs.
pub fn log(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for line in text.lines() {
        clean.push_str(&log_line(&url(line)));
        clean.push('\n');
    }
    clean
}

/// What follows `password=`, `"password":` and the like.
fn log_line(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at);
        clean.push_str(before);
        clean.push_str(&after[..1]);
        rest = &after[1..];
        let is_key = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let word =
            before.trim_end_matches(['"', '\'']).rsplit(|c: char| !is_key(c)).next().unwrap_or_default();
        if !is_secret(word) || REFERENCES.contains(&word) {
            continue;
        }
        let value = rest.trim_start_matches([' ', '"', '\'']);
        clean.push_str(&rest[..rest.len() - value.len()]);
        let end = value.find([' ', '"', '\'', ',', ';', '}', ')', '&']).unwrap_or(value.len());
        if end > 0 {
            clean.push_str(REDACTED);
        }
        rest = &value[end..];
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_no_user() {
        let told = r#"{"pod":"c-0","users":[{"user":"ann","startMs":0,"crashes":3}]}"#;
        assert!(
            answer(told).contains(r#""user":"REDACTED""#) && !answer(told).contains("ann"),
            "{}",
            answer(told)
        );
        for other in [r#"{"pod":"c-0"}"#, "503: joining the consumer groups", "# TYPE up gauge"] {
            assert_eq!(answer(other), other);
        }
    }
    use serde_json::json;

    #[test]
    fn names_stay_and_values_go() {
        let mut pod = json!({
            "metadata": {
                "annotations": {"vault.example.com/token": "planted", "crashmonitor.dev/restart-nonce": "4"},
                "managedFields": [{"manager": "planted"}],
            },
            "spec": {
                "env": [{"name": "X", "value": "planted"}],
                "kafka": {
                    "authentication": {"username": "monitor", "passwordSecret": {"secretName": "kafka", "password": "key"}},
                    "config": {"ssl.key.password": "planted", "client.rack": "eu-1"},
                },
                "checkpoint": {"redis": {"url": "redis://u:planted@redis:6379/0"}},
            },
            "data": {"worker.yaml": "kafka: {config: {oauth.token: planted}}\ninput: {topic: logs}\n", "blob": "planted"},
        });
        object(&mut pod);
        let text = pod.to_string();
        assert!(!text.contains("planted"), "{text}");
        for kept in [
            "restart-nonce\":\"4\"",
            "redis://REDACTED@redis:6379/0",
            "\"secretName\":\"kafka\"",
            "eu-1",
            "topic: logs",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn log_lines_lose_what_stands_behind_a_word_for_a_secret() {
        let cases = [
            ("sasl.password=planted, user=x", "sasl.password=REDACTED, user=x"),
            (r#"{"password":"planted","offset":7}"#, r#"{"password":"REDACTED","offset":7}"#),
            ("connecting to rediss://u:planted@redis:6380/1", "connecting to rediss://REDACTED@redis:6380/1"),
            ("secretName: kafka", "secretName: kafka"),
            ("12:00:01 offset=5", "12:00:01 offset=5"),
        ];
        for (line, expected) in cases {
            assert_eq!(log(line), format!("{expected}\n"));
        }
    }
}
