//! What the API server refuses by rules of the Common Expression Language, and what it says then.
//!
//! Responsible for every rule that needs more than one value, a comparison or the value before the change. Each
//! mirrors a check of the worker's configuration, or protects a promise that a change would break. Must never leave a
//! person without the next step: a message says what is wrong and what to do.
//!
//! The API server estimates what a rule can cost from the bounds in the schema and refuses the whole definition if
//! that is too much, so every text and list that a rule looks at has a bound.

use crashmonitor_core::config::{OWNED_PREFIXES, OWNED_SETTINGS};
use serde_json::{Value, json};

use crate::manifests::{NAME_LENGTH_MAX, OWNED_LABELS};

/// A rule at a place in the schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The properties that lead there from the top.
    pub path: &'static str,
    /// What must be true.
    pub rule: String,
    /// What is said if it is not.
    pub message: String,
}

/// Writes all rules into the schema of the resource.
pub fn add(schema: &mut Value) {
    for Rule { path, rule, message } in all() {
        let place = path.split('.').filter(|name| !name.is_empty());
        let found = place.fold(&mut *schema, |schema, name| {
            let property = schema["properties"].get_mut(name);
            property.unwrap_or_else(|| panic!("the schema has {path}"))
        });
        let rules = found.as_object_mut().expect("a schema is an object");
        let rules = rules.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        rules.as_array_mut().expect("rules are a list").push(json!({"rule": rule, "message": message}));
    }
}

/// All rules.
pub fn all() -> Vec<Rule> {
    let mut rules = vec![rule(
        "",
        &format!(
            "self.metadata.name.size() <= {NAME_LENGTH_MAX} \
             && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"
        ),
        &format!(
            "metadata.name must be at most {NAME_LENGTH_MAX} of a-z, 0-9 and -, and begin with a letter: the names of \
             pods and services are made from it"
        ),
    )];
    rules.extend(immutable());
    rules.extend(durations());
    rules.extend(topics());
    rules.extend(authentication());
    rules.extend(owned_settings());
    rules.extend(pods());
    rules
}

fn rule(path: &'static str, rule: &str, message: &str) -> Rule {
    Rule { path, rule: rule.to_string(), message: message.to_string() }
}

/// What a running monitor can't survive a change of (the worker would stop, or count twice), and why.
const IMMUTABLE: [(&str, &str); 6] = [
    ("spec.input.topic", "the position in the log belongs to the topic"),
    (CONSUMER_GROUP, "the position in the log belongs to the group"),
    ("spec.window.size", "windows that are being counted have the old size"),
    ("spec.output.mode", "what was written already depends on it"),
    ("spec.repartition.partitions", "it decides which partition counts a user"),
    ("spec.repartition.replicationFactor", "the internal topic is there already"),
];

/// The only one that may be absent: to add or to remove it is a change too.
const CONSUMER_GROUP: &str = "spec.input.consumerGroup";

/// Why a field, given by its path such as `spec.window.size`, can't be changed; `None`: it can.
pub fn why_immutable(path: &str) -> Option<&'static str> {
    IMMUTABLE.iter().find(|(field, _)| *field == path).map(|(_, why)| *why)
}

fn immutable() -> Vec<Rule> {
    let unchanged = |&(path, why): &(&'static str, &str)| {
        let name = path_in_spec(path);
        let message = format!("{name} can't be changed: {why}. Create another CrashMonitor instead");
        if path == CONSUMER_GROUP {
            let same = "has(self.consumerGroup) == has(oldSelf.consumerGroup) \
                        && (!has(self.consumerGroup) || self.consumerGroup == oldSelf.consumerGroup)";
            return rule("spec.input", same, &message);
        }
        rule(path, "self == oldSelf", &message)
    };
    IMMUTABLE.iter().map(unchanged).collect()
}

fn path_in_spec(path: &str) -> &str {
    path.strip_prefix("spec.").unwrap_or(path)
}

/// The bounds of every span of time, as `core::config` has them.
const SPANS: [(&str, &str, &str); 7] = [
    ("spec.window.size", "100ms", "24h"),
    ("spec.window.allowedLateness", "0s", "24h"),
    ("spec.window.maxOutOfOrderness", "0s", "1h"),
    ("spec.window.idleTimeout", "1s", "24h"),
    ("spec.window.maxFutureSkew", "0s", "24h"),
    ("spec.window.maxDrift", "1s", "24h"),
    ("spec.checkpoint.interval", "100ms", "1h"),
];

fn durations() -> Vec<Rule> {
    let bounds = SPANS.map(|(path, min, max)| {
        let within = format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')");
        rule(path, &within, &format!("{} must be {min} to {max}", path_in_spec(path)))
    });
    let mut rules = bounds.to_vec();
    rules.push(rule(
        "spec.window",
        "duration(self.maxDrift) >= duration(self.size)",
        "window.maxDrift must be at least window.size: raise it",
    ));
    rules.push(rule(
        "spec.window",
        "duration(self.maxDrift) >= duration(self.maxOutOfOrderness) + duration(self.maxOutOfOrderness)",
        "window.maxDrift must be at least twice window.maxOutOfOrderness: raise it",
    ));
    rules
}

/// A monitor that reads what it writes would feed itself.
fn topics() -> Vec<Rule> {
    let late = ("output.lateTopic", "has(self.output.lateTopic)");
    let dead = ("output.deadLetterTopic", "has(self.output.deadLetterTopic)");
    let differ = |a: &str, b: &str, when: &[&str]| {
        let absent: String = when.iter().map(|has| format!("!{has} || ")).collect();
        let message = format!("{a} and {b} must be different topics");
        rule("spec", &format!("{absent}self.{a} != self.{b}"), &message)
    };
    vec![
        differ("input.topic", "output.topic", &[]),
        differ("input.topic", late.0, &[late.1]),
        differ("input.topic", dead.0, &[dead.1]),
        differ("output.topic", late.0, &[late.1]),
        differ("output.topic", dead.0, &[dead.1]),
        differ(late.0, dead.0, &[late.1, dead.1]),
    ]
}

fn authentication() -> Vec<Rule> {
    let path = "spec.kafka.authentication";
    vec![
        rule(
            path,
            "self.type != 'tls' || has(self.certificateAndKey)",
            "kafka.authentication of type tls needs certificateAndKey: name the Secret with the client certificate",
        ),
        rule(
            path,
            "self.type != 'tls' || (!has(self.username) && !has(self.passwordSecret))",
            "kafka.authentication of type tls has no username and no passwordSecret: remove them, or choose a SASL type",
        ),
        rule(
            path,
            "self.type == 'tls' || (has(self.username) && has(self.passwordSecret))",
            "kafka.authentication of this type needs username and passwordSecret",
        ),
        rule(
            path,
            "self.type == 'tls' || !has(self.certificateAndKey)",
            "kafka.authentication.certificateAndKey goes with type tls only: remove it, or set type to tls",
        ),
        rule(
            "spec.kafka",
            "!has(self.authentication) || self.authentication.type != 'tls' || has(self.tls)",
            "kafka.authentication of type tls needs kafka.tls: add it ({} trusts the public authorities)",
        ),
        rule(
            "spec.checkpoint.redis",
            "!has(self.tls) || self.url.startsWith('rediss://')",
            "checkpoint.redis.tls needs a url that begins with rediss://",
        ),
    ]
}

/// One rule for each answer that a person needs: what to set instead.
fn owned_settings() -> Vec<Rule> {
    // What only the worker's own file has is, here, not to be changed at all.
    let instead = |ours: &'static str| if ours.starts_with("worker.") { "" } else { ours };
    let mut answers: Vec<&str> = OWNED_SETTINGS.iter().chain(&OWNED_PREFIXES).map(|s| instead(s.1)).collect();
    answers.sort_unstable();
    answers.dedup();
    let rule_for = |answer: &&str| {
        let concerned = |setting: &&(&str, &'static str)| instead(setting.1) == *answer;
        let names: Vec<_> = OWNED_SETTINGS.iter().filter(concerned).map(|s| s.0).collect();
        let prefixes: Vec<_> = OWNED_PREFIXES.iter().filter(concerned).map(|s| s.0).collect();
        let exact = names.iter().map(|name| format!("!('{name}' in self)"));
        let begins = prefixes.iter().map(|prefix| format!("self.all(key, !key.startsWith('{prefix}'))"));
        let text = exact.chain(begins).collect::<Vec<_>>().join(" && ");
        let settings = names.iter().map(ToString::to_string);
        let settings = settings.chain(prefixes.iter().map(|prefix| format!("{prefix}*")));
        let settings = settings.collect::<Vec<_>>().join(", ");
        let message = match *answer {
            "" => format!("kafka.config must not have {settings}: the operator sets it. Remove it"),
            ours => format!("kafka.config must not have {settings}: use {ours} instead"),
        };
        rule("spec.kafka.config", &text, &message)
    };
    answers.iter().map(rule_for).collect()
}

fn pods() -> Vec<Rule> {
    let absent: Vec<_> = OWNED_LABELS.iter().map(|name| format!("!('{name}' in self)")).collect();
    let labels = OWNED_LABELS.join(", ");
    let message = format!("template.metadata.labels must not have {labels}: the operator sets them");
    vec![rule("spec.template.metadata.labels", &absent.join(" && "), &message)]
}
