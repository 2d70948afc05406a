//! The operator's own metrics.
//!
//! Responsible for their names and labels; all begin with `crashmonitor_operator_`. Labels come from enumerations
//! alone. Must never name a resource: what a monitor does is in its workers' metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A value of a label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),*
        }

        impl $name {
            /// Every value.
            const ALL: &[$name] = &[$($name::$variant),*];
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                match self {
                    $($name::$variant => EncodeLabelValue::encode(&$text, encoder)),*
                }
            }
        }
    };
}

label!(
    /// Where a reconcile failed.
    Failure {
        /// The API server refused an object.
        Refused = "refused",
        /// An object of the same name belongs to somebody else.
        NameTaken = "name_taken",
        /// The API server did not do what it was asked.
        Api = "api",
        /// The resource can't be used.
        InvalidSpec = "invalid_spec",
    }
);

label!(
    /// What was written to the API server.
    Object {
        /// An object that makes a monitor run.
        Owned = "owned",
        /// The status of a resource.
        Status = "status",
        /// A finalizer of a resource.
        Finalizer = "finalizer",
        /// A pod or ConfigMap that was removed.
        Removed = "removed",
        /// An event.
        Event = "event",
    }
);

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FailureLabels {
    kind: Failure,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ObjectLabels {
    object: Object,
}

/// A condition of a resource and its answer: eight of the one, three of the other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, EncodeLabelSet)]
pub struct ConditionLabels {
    /// `Ready`, `Degraded` …
    pub condition: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Counter,
    failures: Family<FailureLabels, Counter>,
    duration: Histogram,
    writes: Family<ObjectLabels, Counter>,
    leader: Gauge,
    monitors: Gauge,
    conditions: Family<ConditionLabels, Gauge>,
    stock: Mutex<BTreeMap<String, Stock>>,
}

/// How many resources there are somewhere, and how many of them have which answer of which condition.
pub type Stock = (usize, BTreeMap<ConditionLabels, i64>);

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("crashmonitor_operator");
        let reconciles = Counter::default();
        let failures = Family::<FailureLabels, Counter>::default();
        // A reconcile asks workers, each at most 2 s.
        let duration = Histogram::new(exponential_buckets(0.001, 2.0, 13));
        let writes = Family::<ObjectLabels, Counter>::default();
        // From zero on: of a counter that appears with its first event, no rate shows that event.
        for &kind in Failure::ALL {
            drop(failures.get_or_create(&FailureLabels { kind }));
        }
        for &object in Object::ALL {
            drop(writes.get_or_create(&ObjectLabels { object }));
        }
        let (leader, monitors) = (Gauge::default(), Gauge::default());
        let conditions = Family::default();
        registry.register("reconciles", "Looks at a resource", reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by kind", failures.clone());
        registry.register("reconcile_duration_seconds", "How long a reconcile took", duration.clone());
        registry.register("api_writes", "Writes to the API server, by what was written", writes.clone());
        registry.register("leader", "1 if this operator does the work", leader.clone());
        registry.register("monitors", "CrashMonitor resources that are watched", monitors.clone());
        let help = "CrashMonitor resources with this answer of a condition";
        registry.register("conditions", help, conditions.clone());
        Metrics {
            registry,
            reconciles,
            failures,
            duration,
            writes,
            leader,
            monitors,
            conditions,
            stock: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A reconcile has ended.
    pub fn reconciled(&self, seconds: f64) {
        self.reconciles.inc();
        self.duration.observe(seconds);
    }

    /// A reconcile has failed.
    pub fn failed(&self, kind: Failure) {
        self.failures.get_or_create(&FailureLabels { kind }).inc();
    }

    /// Something was written.
    pub fn wrote(&self, object: Object) {
        self.writes.get_or_create(&ObjectLabels { object }).inc();
    }

    /// Whether this operator leads.
    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }

    /// What there is in a namespace that is watched, or in all of them.
    pub fn set_stock(&self, scope: &str, stock: Stock) {
        let mut all = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(scope.to_string(), stock);
        let monitors: usize = all.values().map(|(monitors, _)| monitors).sum();
        self.monitors.set(i64::try_from(monitors).unwrap_or(i64::MAX));
        let mut counts: BTreeMap<&ConditionLabels, i64> = BTreeMap::new();
        for (labels, count) in all.values().flat_map(|(_, conditions)| conditions) {
            *counts.entry(labels).or_insert(0) += count;
        }
        self.conditions.clear();
        for (labels, count) in counts {
            self.conditions.get_or_create(labels).set(count);
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_added_up() {
        let metrics = Metrics::default();
        let ready = ConditionLabels { condition: "Ready".to_string(), status: "True".to_string() };
        metrics.set_stock("a", (2, [(ready.clone(), 1)].into()));
        metrics.set_stock("b", (1, [(ready, 1)].into()));
        let text = metrics.render().unwrap();
        assert!(text.contains("crashmonitor_operator_monitors 3"), "{text}");
        assert!(
            text.contains(r#"crashmonitor_operator_conditions{condition="Ready",status="True"} 2"#),
            "{text}"
        );
        metrics.set_stock("a", (0, BTreeMap::new()));
        assert!(metrics.render().unwrap().contains("crashmonitor_operator_monitors 1"));
    }

    #[test]
    fn labels_are_words() {
        let metrics = Metrics::default();
        metrics.failed(Failure::NameTaken);
        metrics.wrote(Object::Status);
        metrics.set_leader(true);
        let text = metrics.render().unwrap();
        assert!(
            text.contains(r#"crashmonitor_operator_reconcile_errors_total{kind="name_taken"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"crashmonitor_operator_api_writes_total{object="status"} 1"#), "{text}");
        assert!(text.contains("crashmonitor_operator_leader 1"), "{text}");
    }
}
