//! The Helm chart, its alerts and its dashboard, as far as they can be tried without a cluster.
//!
//! What is rendered is compared with files: `UPDATE_GOLDEN=1 cargo test -p crashmonitor-testbed --test chart` writes them anew.

use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitoring::{self, RULES, read};
use crashmonitor_testbed::tools::{root, run};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::{env, fs, slice};

const CHART: &str = "charts/crashmonitor";
const NAMESPACE: &str = "crashmonitor-system";

/// Compares a file with what it should hold, or writes it.
#[track_caller]
fn golden(name: &str, actual: &str) {
    if env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return fs::write(root().join(name), actual).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let expected = read(name);
    let mut lines = expected.lines().zip(actual.lines()).enumerate();
    if let Some((number, (old, new))) = lines.find(|(_, (old, new))| old != new) {
        panic!(
            "{name}:{}: the file has\n{old}\nbut it should be\n{new}\n(UPDATE_GOLDEN=1 writes it)",
            number + 1
        );
    }
    assert_eq!(expected.len(), actual.len(), "{name} has another end (UPDATE_GOLDEN=1 writes it)");
}

/// The manifests for `arguments`, or Helm's complaint.
fn try_render(arguments: &[&str]) -> Result<String, String> {
    let fixed = ["template", "crashmonitor", CHART, "--namespace", NAMESPACE, "--kube-version", "1.34.0"];
    run("helm", &[&fixed, arguments].concat())
}

#[track_caller]
fn render(arguments: &[&str]) -> String {
    try_render(arguments).unwrap_or_else(|e| panic!("helm template {arguments:?}: {e}"))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let documents = documents.map(|d| d.unwrap_or_else(|e| panic!("not YAML: {e}\n{text}")));
    documents.filter(|document| !document.is_null()).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// All that Prometheus can get.
const MONITORING: [&str; 2] = ["--values", "tests/chart/values/monitoring.yaml"];

#[test]
fn lint_finds_nothing() {
    for values in [None, Some("namespaced"), Some("monitoring"), Some("console")] {
        let values = values.map(|name| format!("--values=tests/chart/values/{name}.yaml"));
        let mut arguments = vec!["lint", "--strict", CHART];
        arguments.extend(values.as_deref());
        run("helm", &arguments).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn manifests_are_as_they_were() {
    for name in ["default", "namespaced", "monitoring", "console"] {
        let rendered = render(&["--values", &format!("tests/chart/values/{name}.yaml")]);
        golden(&format!("tests/chart/golden/{name}.yaml"), &rendered);
    }
}

#[test]
fn the_version_is_the_workspace_s() {
    let chart: Value =
        serde_yaml::from_str(&read(&format!("{CHART}/Chart.yaml"))).expect("Chart.yaml is YAML");
    for key in ["version", "appVersion"] {
        assert_eq!(chart[key], env!("CARGO_PKG_VERSION"), "Chart.yaml: {key}");
    }
}

/// Where an image of ours is named with its version, outside of tests and of the chart, which takes its own.
const IMAGES_NAMED: [&str; 2] = ["Containerfile", "config/deployment.yaml"];

#[test]
fn every_image_of_ours_has_the_version() {
    for file in IMAGES_NAMED {
        let text = read(file);
        let tags: Vec<&str> = ["crashmonitor/worker:", "crashmonitor/operator:"]
            .into_iter()
            .flat_map(|image| text.split(image).skip(1))
            .filter_map(|rest| rest.split_whitespace().next())
            .collect();
        assert_eq!(tags, [env!("CARGO_PKG_VERSION"); 2], "{file}");
    }
}

/// The definitions that the project's types give, by file.
fn definitions() -> BTreeMap<String, String> {
    let files = fs::read_dir(root().join("crds")).expect("crds/ is there");
    let names = files.map(|file| file.expect("crds/ can be read").file_name().to_string_lossy().into_owned());
    let files = names.map(|name| (name.clone(), read(&format!("crds/{name}"))));
    files.filter(|(_, text)| text.contains("\nkind: CustomResourceDefinition\n")).collect()
}

/// Where two values differ first. Numbers are compared as JSON has them: 1.0 is 1.
fn difference(a: &Value, b: &Value, path: &str) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let of = |object: &Map<String, Value>, key: &str| object.get(key).cloned().unwrap_or_default();
            keys.into_iter().find_map(|key| difference(&of(a, key), &of(b, key), &format!("{path}.{key}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(n, (a, b))| difference(a, b, &format!("{path}[{n}]")))
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => None,
        _ => (a != b).then(|| format!("{path}: {a} is not {b}")),
    }
}

#[test]
fn the_definition_is_the_project_s_and_outlives_the_chart() {
    let definitions = definitions();
    let copies = fs::read_dir(root().join(CHART).join("files/crds")).expect("the chart has definitions");
    let copies: BTreeSet<_> = copies.map(|copy| copy.expect("they can be read").file_name()).collect();
    assert!(copies.iter().all(|copy| definitions.contains_key(&*copy.to_string_lossy())), "{copies:?}");
    for (name, text) in &definitions {
        golden(&format!("{CHART}/files/crds/{name}"), text);
    }
    let rendered = documents(&render(&[]));
    let rendered = of_kind(&rendered, "CustomResourceDefinition");
    assert_eq!(rendered.len(), definitions.len());
    for (name, text) in &definitions {
        let mut expected: Value = serde_yaml::from_str(text).expect("a definition is YAML");
        let rendered = rendered.iter().find(|d| d["metadata"]["name"] == expected["metadata"]["name"]);
        let rendered = rendered.unwrap_or_else(|| panic!("{name} is not rendered"));
        expected["metadata"]["labels"] = rendered["metadata"]["labels"].clone();
        expected["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
        assert_eq!(difference(rendered, &expected, ""), None, "{name}");
    }
    let kept = render(&["--set", "crds.keep=false"]);
    assert!(!kept.contains("helm.sh/resource-policy"), "crds.keep=false");
    let without = documents(&render(&["--set", "crds.install=false"]));
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty(), "crds.install=false");
}

#[test]
fn the_operator_may_read_no_secret_and_nothing_by_a_wildcard() {
    for values in [&[][..], &["--values", "tests/chart/values/namespaced.yaml"]] {
        let rendered = documents(&render(values));
        let roles = [of_kind(&rendered, "Role"), of_kind(&rendered, "ClusterRole")].concat();
        assert!(roles.len() >= 2, "{values:?}: roles are rendered");
        for rule in roles.iter().flat_map(|role| role["rules"].as_array().expect("a role has rules")) {
            for key in ["apiGroups", "resources", "verbs"] {
                for word in rule[key].as_array().unwrap_or_else(|| panic!("{rule} has {key}")) {
                    assert!(!["*", "secrets"].contains(&word.as_str().unwrap_or_default()), "{rule}");
                }
            }
        }
    }
    let namespaced = documents(&render(&["--values", "tests/chart/values/namespaced.yaml"]));
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        assert!(of_kind(&namespaced, kind).is_empty(), "with watchNamespaces there is no {kind}");
    }
}

#[test]
fn the_console_is_off_by_default_and_open_to_nobody_that_is_not_named() {
    let named = |objects: &[Value], kind: &str, name: &str| {
        of_kind(objects, kind).into_iter().find(|object| object["metadata"]["name"] == name).cloned()
    };
    let ingress = |objects: &[Value]| {
        let policy = named(objects, "NetworkPolicy", "crashmonitor-operator").expect("there is a policy");
        policy["spec"]["ingress"].as_array().expect("it has rules").clone()
    };
    let off = render(&[]);
    assert!(!off.contains("CONSOLE") && !off.contains("8081"), "{off}");
    assert_eq!(named(&documents(&off), "Service", "crashmonitor-console"), None);

    let on = documents(&render(&["--set", "console.enabled=true"]));
    assert!(named(&on, "Service", "crashmonitor-console").is_some());
    assert_eq!(ingress(&on), ingress(&documents(&off)), "nobody is named");
    let open = documents(&render(&["--values", "tests/chart/values/console.yaml"]));
    assert_eq!(ingress(&open)[1]["ports"][0]["port"], 8081);
    // It needs no right that the operator has not anyway.
    for kind in ["Role", "ClusterRole"] {
        assert_eq!(of_kind(&on, kind), of_kind(&documents(&off), kind));
    }
}

/// One file of `config/`.
fn plain(file: &str) -> Value {
    serde_yaml::from_str(&read(&format!("config/{file}"))).expect("it is YAML")
}

#[test]
fn the_plain_manifests_are_the_chart_s() {
    let rendered = documents(&render(&[]));
    let chart = |kind: &str| {
        let named = |object: &&&Value| object["metadata"]["name"] == "crashmonitor-operator";
        let objects = of_kind(&rendered, kind);
        (*objects.iter().find(named).unwrap_or_else(|| panic!("the chart has no {kind} of the operator")))
            .clone()
    };
    assert_eq!(plain("cluster_role.yaml")["rules"], chart("ClusterRole")["rules"]);

    let (ours, theirs) = (plain("network_policy.yaml"), chart("NetworkPolicy"));
    for part in ["policyTypes", "ingress", "egress"] {
        assert_eq!(ours["spec"][part], theirs["spec"][part], "{part} of the NetworkPolicy");
    }
    assert_eq!(
        plain("disruption_budget.yaml")["spec"]["maxUnavailable"],
        chart("PodDisruptionBudget")["spec"]["maxUnavailable"]
    );

    let pod = |deployment: Value| deployment["spec"]["template"]["spec"].clone();
    let (ours, theirs) = (pod(plain("deployment.yaml")), pod(chart("Deployment")));
    assert_eq!(ours["securityContext"], theirs["securityContext"]);
    for part in [
        "image",
        "command",
        "args",
        "ports",
        "livenessProbe",
        "readinessProbe",
        "resources",
        "securityContext",
    ] {
        assert_eq!(ours["containers"][0][part], theirs["containers"][0][part], "{part} of the operator");
    }
}

/// Values that must be refused, and what the complaint must name.
const REFUSED: [(&str, &str); 22] = [
    ("replica=3", "replica"),
    ("replicas=two", "replicas"),
    ("replicas=-1", "replicas"),
    ("image.repository=", "repository"),
    ("image.tag=a b", "tag"),
    ("image.digest=sha256:12", "digest"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("worker.image.name=x", "name"),
    ("watchNamespaces={Shop}", "watchNamespaces"),
    ("watchNamespaces={shop,shop}", "watchNamespaces"),
    ("logging.json=maybe", "json"),
    ("crds.keep=maybe", "keep"),
    ("podDisruptionBudget.maxUnavailable=0", "maxUnavailable"),
    ("networkPolicy.apiServerPorts={0}", "apiServerPorts"),
    ("console.enable=true", "enable"),
    ("console.hosts={https://x}", "hosts"),
    ("fullnameOverride=UPPER", "fullnameOverride"),
    ("monitoring.podMonitor.interval=15", "interval"),
    ("monitoring.prometheusRule.runbookUrl=docs", "runbookUrl"),
    ("monitoring.prometheusRule.overrides.CrashMonitorHalted.severity=loud", "severity"),
    ("monitoring.prometheusRule.overrides.CrashMonitorHalted.enable=false", "enable"),
    ("imagePullSecrets[0].secret=x", "secret"),
];

#[test]
fn impossible_values_are_refused_by_name() {
    for (value, named) in REFUSED {
        let Err(complaint) = try_render(&["--set", value]) else { panic!("--set {value} was accepted") };
        assert!(complaint.contains("values don't meet the specifications"), "--set {value}: {complaint}");
        assert!(complaint.contains(named), "--set {value}: {complaint}");
    }
    let unknown =
        "monitoring.prometheusRule.enabled=true,monitoring.prometheusRule.overrides.CrashMonitorHalt.for=1m";
    let complaint = try_render(&["--set", unknown]).expect_err("there is no such alert");
    assert!(
        complaint.contains("there is no alert CrashMonitorHalt; docs/runbooks.md lists them"),
        "{complaint}"
    );
}

/// A value that values.yaml describes.
struct Described {
    path: Vec<String>,
    text: String,
}

/// The values that have a comment of the form `# -- …` above them, in order.
fn described(values: &str) -> Vec<Described> {
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut text: Option<String> = None;
    let mut found = Vec::new();
    for line in values.lines() {
        let trimmed = line.trim_start();
        if let Some(begun) = trimmed.strip_prefix("# -- ") {
            text = Some(begun.to_owned());
        } else if let (Some(text), Some(more)) = (text.as_mut(), trimmed.strip_prefix("# ")) {
            text.push(' ');
            text.push_str(more);
        } else if let Some((key, _)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with(['#', '-'])) {
            let indent = line.len() - trimmed.len();
            open.retain(|(outer, _)| *outer < indent);
            open.push((indent, key.to_owned()));
            let path = open.iter().map(|(_, key)| key.clone()).collect();
            found.extend(text.take().map(|text| Described { path, text }));
        }
    }
    found
}

fn at<'a>(value: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[key])
}

/// The paths of all values that hold no further ones.
fn leaves(value: &Value, path: &[String], found: &mut Vec<Vec<String>>) {
    match value.as_object().filter(|object| !object.is_empty()) {
        Some(object) => object
            .iter()
            .for_each(|(key, inner)| leaves(inner, &[path, slice::from_ref(key)].concat(), found)),
        None => found.push(path.to_vec()),
    }
}

#[test]
fn the_table_of_the_readme_is_values_yaml() {
    let text = read(&format!("{CHART}/values.yaml"));
    let values: Value = serde_yaml::from_str(&text).expect("values.yaml is YAML");
    let described = described(&text);
    let mut all = Vec::new();
    leaves(&values, &[], &mut all);
    for leaf in all {
        let is_described = described.iter().any(|d| leaf.starts_with(&d.path));
        assert!(is_described, "values.yaml: {} has no comment that begins with `# -- `", leaf.join("."));
    }
    let rows = described.iter().map(|Described { path, text }| {
        let default = at(&values, path).to_string();
        format!("| `{}` | {text} | `{default}` |\n", path.join("."))
    });
    let table = format!("| value | meaning | default |\n|---|---|---|\n{}", rows.collect::<String>());

    let (begin, end) = ("<!-- values: written by a test -->\n", "<!-- end of values -->");
    let readme = read(&format!("{CHART}/README.md"));
    let (before, rest) = readme.split_once(begin).expect("README.md has a place for the table");
    let (_, after) = rest.split_once(end).expect("and an end of it");
    golden(&format!("{CHART}/README.md"), &format!("{before}{begin}{table}{end}{after}"));
}

#[test]
fn every_value_is_in_the_schema_and_no_other() {
    fn properties(schema: &Value, values: &Value, path: &str) {
        let Some(known) = schema["properties"].as_object() else { return };
        let known: BTreeSet<&String> = known.keys().filter(|key| *key != "global").collect();
        let values = values.as_object().unwrap_or_else(|| panic!("{path} holds values"));
        assert_eq!(
            values.keys().collect::<BTreeSet<_>>(),
            known,
            "{path}: values.yaml and values.schema.json"
        );
        for (key, value) in values {
            properties(&schema["properties"][key], value, &format!("{path}.{key}"));
        }
    }
    let schema: Value =
        serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).expect("it is JSON");
    let values: Value =
        serde_yaml::from_str(&read(&format!("{CHART}/values.yaml"))).expect("values.yaml is YAML");
    properties(&schema, &values, "values");
}

/// The metrics that a table of the documentation names.
fn documented() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `crashmonitor_")?.split('`').next());
    rows.map(|rest| format!("crashmonitor_{rest}")).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_exist() {
    let (named, documented) = (monitoring::metrics_named(), documented());
    assert!(named.len() > 20, "{named:?}");
    let unknown: Vec<_> = named.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
}

#[test]
fn the_dashboard_shows_every_metric() {
    let asked = monitoring::dashboard().into_iter().flat_map(|(_, expr)| monitoring::names_in(&expr));
    let asked: BTreeSet<String> = asked.collect();
    let missing: Vec<_> = documented().into_iter().filter(|metric| !asked.contains(metric)).collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
}

/// Writes a rule file and has promtool check it.
#[track_caller]
fn promtool_accepts(rules: &Value) {
    let dir = Dir::new("rules");
    let file = dir.write("rules.yaml", rules.to_string());
    run("promtool", &["check", "rules", &file.display().to_string()]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn promtool_accepts_the_rules_as_written_and_as_rendered() {
    run("promtool", &["check", "rules", RULES]).unwrap_or_else(|e| panic!("{e}"));
    let rendered = documents(&render(&MONITORING));
    let [rule] = of_kind(&rendered, "PrometheusRule")[..] else { panic!("one PrometheusRule is rendered") };
    promtool_accepts(&rule["spec"]);
}

#[test]
fn promtool_accepts_the_queries_of_the_dashboard() {
    let queries = monitoring::dashboard();
    let rules = queries
        .iter()
        .enumerate()
        .map(|(n, (_, expr))| json!({"record": format!("panel:{n}"), "expr": expr}));
    promtool_accepts(&json!({"groups": [{"name": "dashboard", "rules": rules.collect::<Vec<_>>()}]}));
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    run("promtool", &["test", "rules", "tests/chart/rules_test.yaml"]).unwrap_or_else(|e| panic!("{e}"));
    let tests = read("tests/chart/rules_test.yaml");
    for alert in alerts() {
        assert!(tests.contains(&format!("- name: {alert}\n")), "rules_test.yaml does not fire {alert}");
    }
}

fn alerts() -> Vec<String> {
    monitoring::rules().iter().filter_map(|rule| rule["alert"].as_str().map(str::to_owned)).collect()
}

#[test]
fn every_alert_has_a_runbook_and_no_other_is_there() {
    let page = read("docs/runbooks.md");
    let severities = monitoring::rules().into_iter().filter_map(|rule| {
        Some((rule["alert"].as_str()?.to_owned(), rule["labels"]["severity"].as_str()?.to_owned()))
    });
    let severities: BTreeMap<String, String> = severities.collect();
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let headings: Vec<&str> = sections.iter().filter_map(|section| section.lines().next()).collect();
    assert_eq!(headings, alerts(), "in the order of the rules");
    for section in &sections {
        for part in ["**Meaning.**", "**Impact.**", "**How to look.**", "**What to do"] {
            assert!(section.contains(part), "{part} is missing: {section}");
        }
    }
    for (alert, severity) in severities {
        let row = format!("| [{alert}](#{}) | {severity} |", alert.to_lowercase());
        assert!(page.contains(&row), "the table has no {row}");
    }
}

#[test]
fn every_rendered_alert_links_to_its_section() {
    let rendered = documents(&render(&MONITORING));
    let [rule] = of_kind(&rendered, "PrometheusRule")[..] else { panic!("one PrometheusRule is rendered") };
    let groups = rule["spec"]["groups"].as_array().expect("it has groups").iter();
    let alerts = groups.flat_map(|group| group["rules"].as_array().expect("a group has rules"));
    for rule in alerts.filter(|rule| rule["alert"].is_string()) {
        let anchor = rule["alert"].as_str().unwrap_or_default().to_lowercase();
        let url = format!("https://wiki.example/crashmonitor/runbooks#{anchor}");
        assert_eq!(rule["annotations"]["runbook_url"], url);
        assert_eq!(rule["labels"]["team"], "platform");
    }
}

/// Holds an object against the schema of its definition: every key known, every value of its type and enumeration, every
/// required key there. The API server's CEL rules are for a test with a cluster.
fn fits(value: &Value, schema: &Value, path: &str) {
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{path}: {value} is none of {allowed:?}");
    }
    match schema["type"].as_str() {
        Some("object") => {
            let object = value.as_object().unwrap_or_else(|| panic!("{path}: {value} is no object"));
            for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(object.contains_key(required), "{path}.{required} is missing");
            }
            for (key, inner) in object {
                let schema = schema["properties"].get(key).or_else(|| schema.get("additionalProperties"));
                let schema = schema.unwrap_or_else(|| panic!("{path}.{key} is not in the definition"));
                fits(inner, schema, &format!("{path}.{key}"));
            }
        }
        Some("array") => {
            let items = value.as_array().unwrap_or_else(|| panic!("{path}: {value} is no list"));
            items.iter().for_each(|item| fits(item, &schema["items"], &format!("{path}[]")));
        }
        Some("string") => assert!(value.is_string(), "{path}: {value} is no text"),
        Some("integer") => assert!(value.is_i64(), "{path}: {value} is no whole number"),
        Some("boolean") => assert!(value.is_boolean(), "{path}: {value} is neither true nor false"),
        other => assert!(other.is_none(), "{path}: type {other:?}"),
    }
}

/// The schema of a CrashMonitor's spec.
fn definition() -> Value {
    let parsed =
        definitions().into_values().map(|text| serde_yaml::from_str(&text).expect("a definition is YAML"));
    let found = parsed.into_iter().find(|d: &Value| d["spec"]["names"]["kind"] == "CrashMonitor");
    let mut found = found.expect("crds/ defines the CrashMonitor");
    let schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].take();
    assert_eq!(schema["type"], "object", "the definition has a schema");
    schema
}

#[test]
fn every_example_fits_the_definition() {
    let schema = definition();
    for page in ["README.md", "docs/migration-from-spark.md", "docs/resource.md"] {
        let text = read(page);
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        let blocks: Vec<&str> = blocks.filter(|block| block.contains("kind: CrashMonitor")).collect();
        assert_eq!(blocks.len(), 1, "{page} shows a resource");
        fits(&documents(blocks[0])[0]["spec"], &schema, page);
    }
    for name in ["minimal", "tls-scram", "hpa", "keda", "suspended", "demo/monitor"] {
        let documents = documents(&read(&format!("examples/{name}.yaml")));
        let monitors = of_kind(&documents, "CrashMonitor");
        assert_eq!(monitors.len(), 1, "{name}");
        assert_eq!(monitors[0]["apiVersion"], "crashmonitor.dev/v1alpha1", "{name}");
        fits(&monitors[0]["spec"], &schema, name);
        for scaler in documents.iter().filter(|document| document["spec"]["scaleTargetRef"].is_object()) {
            let target = json!({
                "apiVersion": monitors[0]["apiVersion"], "kind": "CrashMonitor", "name": monitors[0]["metadata"]["name"],
            });
            assert_eq!(scaler["spec"]["scaleTargetRef"], target, "{name}");
            assert!(monitors[0]["spec"].get("replicas").is_none(), "{name}: the autoscaler owns replicas");
        }
    }
}

/// The notes that an installation with these values shows. Helm shows them only where it installs, so a copy of the chart has
/// them in an object.
fn notes(arguments: &[&str]) -> String {
    let dir = Dir::new("chart");
    let copy = dir.path().join("crashmonitor");
    let copied = Command::new("cp").arg("-r").arg(root().join(CHART)).arg(&copy).status();
    assert!(copied.expect("cp runs").success());
    let object = format!(
        "{{{{- define \"notes\" }}}}{}{{{{ end }}}}\nkind: Notes\ntext: {{{{ include \"notes\" . | toJson }}}}\n",
        read(&format!("{CHART}/templates/NOTES.txt"))
    );
    fs::write(copy.join("templates/notes.yaml"), object).expect("the copy can be written");
    let copy = copy.display().to_string();
    let fixed = ["template", "crashmonitor", &copy, "--namespace", NAMESPACE, "--kube-version", "1.34.0"];
    let rendered = run("helm", &[&fixed, arguments].concat()).unwrap_or_else(|e| panic!("{e}"));
    of_kind(&documents(&rendered), "Notes")[0]["text"].as_str().expect("it is text").to_owned()
}

#[test]
fn the_notes_fit_what_was_installed() {
    let plain = notes(&[]);
    assert!(plain.contains("rollout status deployment/crashmonitor-operator"), "{plain}");
    assert!(plain.contains("CrashMonitors in all namespaces."), "{plain}");
    assert!(plain.contains("Nothing is scraped yet"), "{plain}");
    assert!(!plain.contains("was not installed") && !plain.contains("deletes every"), "{plain}");
    let namespaced = notes(&["--values", "tests/chart/values/namespaced.yaml"]);
    assert!(namespaced.contains("CrashMonitors in billing, shop."), "{namespaced}");
    assert!(namespaced.contains("kubectl --namespace billing apply"), "{namespaced}");
    assert!(namespaced.contains("kubectl apply --server-side -f crds/"), "{namespaced}");
    let losing = notes(&["--set", "crds.keep=false"]);
    assert!(losing.contains("deletes every CrashMonitor in the cluster"), "{losing}");
}

#[test]
fn the_monitor_of_the_notes_fits_the_definition() {
    let notes = notes(&[]);
    let (_, text) = notes.split_once("<<YAML\n").expect("the notes apply a monitor");
    let (text, _) = text.split_once("     YAML").expect("which has an end");
    let monitor: Value = serde_yaml::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    fits(&monitor["spec"], &definition(), "notes");
}

#[test]
fn the_dashboard_arrives_whole_where_grafana_looks() {
    let rendered = documents(&render(&["--set", "monitoring.dashboard.enabled=true"]));
    let [map] = of_kind(&rendered, "ConfigMap")[..] else { panic!("one ConfigMap is rendered") };
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["data"]["crashmonitor.json"].as_str(), Some(read(monitoring::DASHBOARD).as_str()));
}
