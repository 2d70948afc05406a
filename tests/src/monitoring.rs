//! What the alerts and the dashboard of the chart ask Prometheus, and what a scrape has.
//!
//! Responsible for reading their expressions and the names of the metrics in them and in a scrape, and for rules that are in a
//! hurry. Must never hold the name of a metric itself.

use crate::tools::root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// The alerts, as a plain rule file.
pub const RULES: &str = "charts/crashmonitor/files/rules.yaml";
/// The dashboard.
pub const DASHBOARD: &str = "charts/crashmonitor/files/dashboard.json";

/// A file of the checkout.
#[track_caller]
pub fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The one threshold that nothing but waiting reaches, in seconds: how old a checkpoint may be.
const WAITED_FOR: (&str, u64) = ("CrashMonitorCheckpointStale", 600);

/// The alerts, as the rule file has them.
#[track_caller]
fn rule_file() -> Value {
    serde_yaml::from_str(&read(RULES)).unwrap_or_else(|e| panic!("{RULES}: {e}"))
}

/// The rule file for who can't wait: of the minutes and hours that it names, each minute lasts so many seconds. So an alert must
/// hold for less, and its expression looks back less far; and [`WAITED_FOR`] is reached sooner. Nothing else differs from what
/// a user installs.
#[track_caller]
pub fn rules_with_minutes_of(seconds: u64) -> Value {
    let mut file = rule_file();
    let groups = file["groups"].as_array_mut().expect("a rule file has groups");
    for rule in groups.iter_mut().flat_map(|group| group["rules"].as_array_mut().expect("a group has rules"))
    {
        let expr = rule["expr"].as_str().expect("a rule has an expression");
        let mut hurried = hurry(expr, seconds);
        if rule["alert"] == WAITED_FOR.0 {
            let (before, after) =
                (format!("> {}", WAITED_FOR.1), format!("> {}", WAITED_FOR.1 / 60 * seconds));
            assert!(hurried.contains(&before), "{} has another threshold: {hurried}", WAITED_FOR.0);
            hurried = hurried.replace(&before, &after);
        }
        rule["expr"] = hurried.into();
        if let Some(span) = rule["for"].as_str() {
            rule["for"] = hurry(span, seconds).into();
        }
    }
    file
}

/// The text with so many seconds for each minute in every span of minutes or hours, such as `15m`.
fn hurry(text: &str, seconds: u64) -> String {
    let is_between = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let pieces = text.split_inclusive(is_between).map(|piece| {
        let word = piece.trim_end_matches(is_between);
        let count = |unit: char| word.strip_suffix(unit).and_then(|number| number.parse::<u64>().ok());
        match count('m').or(count('h').map(|hours| hours * 60)) {
            Some(minutes) => format!("{}s{}", minutes * seconds, &piece[word.len()..]),
            None => piece.to_owned(),
        }
    });
    pieces.collect()
}

/// All rules, recording and alerting.
#[track_caller]
pub fn rules() -> Vec<Value> {
    let file = rule_file();
    let groups = file["groups"].as_array().expect("a rule file has groups");
    groups.iter().flat_map(|group| group["rules"].as_array().expect("a group has rules")).cloned().collect()
}

/// The expressions of the dashboard, each with the title of its panel. What Grafana would put in place of its variables is
/// put in: the name of the monitor, and spans.
#[track_caller]
pub fn dashboard() -> Vec<(String, String)> {
    let text = read(DASHBOARD);
    let dashboard: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{DASHBOARD}: {e}"));
    let panels = dashboard["panels"].as_array().expect("a dashboard has panels").iter();
    let annotations = dashboard["annotations"]["list"].as_array().expect("and annotations").iter();
    let asked = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (&panel["title"], &target["expr"]))
    });
    let asked = asked.chain(annotations.map(|annotation| (&annotation["name"], &annotation["expr"])));
    asked
        .map(|(title, expr)| {
            let expr = expr.as_str().unwrap_or_else(|| panic!("{title}: a query has an expression"));
            let expr = expr.replace("$__rate_interval", "1m").replace("$__range", "1h");
            let expr = expr.replace("$namespace", "shop").replace("$monitor", "checkout");
            assert!(!expr.contains('$'), "{title}: an unknown variable: {expr}");
            (title.as_str().unwrap_or_default().to_owned(), expr)
        })
        .collect()
}

/// The names of the project's own metrics that alerts and dashboard ask for, as they stand in the documentation: a histogram
/// without `_bucket`. Every one of them must be in a scrape of a worker or of the operator.
#[track_caller]
pub fn metrics_named() -> BTreeSet<String> {
    let rules = rules().into_iter().filter_map(|rule| rule["expr"].as_str().map(str::to_owned));
    rules.chain(dashboard().into_iter().map(|(_, expr)| expr)).flat_map(|expr| names_in(&expr)).collect()
}

/// The metrics of a scrape, as Prometheus stores them, with their types.
pub fn metrics_in(scrape: &str) -> BTreeSet<(String, String)> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect()
}

/// The names in one expression. A recorded series has colons in its name and is none of them.
pub fn names_in(expr: &str) -> Vec<String> {
    let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
    let names = words.filter(|word| word.starts_with("crashmonitor_") && !word.contains(':'));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_metrics_are_found_in_an_expression() {
        let expr = r#"rate(crashmonitor_a_seconds_bucket{job="crashmonitor-worker"}[5m]) > x:crashmonitor_b:sum + crashmonitor_c"#;
        assert_eq!(names_in(expr), ["crashmonitor_a_seconds", "crashmonitor_c"]);
    }

    #[test]
    fn only_spans_are_in_a_hurry() {
        let expr = "deriv(m:x_5m:rate5m[15m]) > 60\n  unless a_total{r=\"5m\"} offset 1h";
        assert_eq!(hurry(expr, 2), "deriv(m:x_5m:rate5m[30s]) > 60\n  unless a_total{r=\"10s\"} offset 120s");
        let rules = rules_with_minutes_of(2).to_string();
        assert!(rules.contains("\"for\":\"20s\"") && rules.contains("[10s]"), "{rules}");
    }
}
