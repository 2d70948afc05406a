//! What the documentation says of keys, metrics and reasons, held against the worker itself.

use crashmonitor_testbed::certificates::Certificates;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitoring::{metrics_in, read as page};
use crashmonitor_testbed::pages::pages;
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::tools::root;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{NewRecord, Worker, shared, until};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
/// A key that no section has.
const UNKNOWN: &str = "noSuchKey";
/// Where the examples keep their files.
const FILES: &str = "/etc/crashmonitor/";

/// The part of a page below a heading, up to the next heading of the same or a higher level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, below) = page.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let level = heading.bytes().take_while(|&b| b == b'#').count();
    let ends = (1..=level).filter_map(|level| below.find(&format!("\n{} ", "#".repeat(level))));
    &below[..ends.min().unwrap_or(below.len())]
}

/// The cells of the table rows of `text` whose first cell is code, without the back quotes of that cell.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells =
        |line: &str| -> Vec<String> { line.split('|').skip(1).map(|c| c.trim().to_owned()).collect() };
    let rows = text.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|mut row| {
        row[0] = row[0].trim_matches('`').to_owned();
        row
    })
    .collect()
}

/// The contents of the code blocks in `language`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or(rest)).collect()
}

/// Texts in back quotes.
fn quoted(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// `crashmonitor-worker check`: nothing, or its complaint.
fn check(config: &str) -> Result<(), String> {
    let dir = Dir::new("check");
    let worker = binary("crashmonitor-worker", "CRASHMONITOR_WORKER");
    let file = dir.write("config.yaml", config);
    let checked =
        Command::new(worker).args(["check", "--config"]).arg(file).output().expect("the worker runs");
    if checked.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&checked.stderr).into_owned()) }
}

/// The keys of the section at `path`, from the worker's complaint about one that it does not know; none if it is no
/// section.
fn keys_of(path: &[String]) -> Vec<String> {
    let mut config = json!({ UNKNOWN: 1 });
    for key in path.iter().rev() {
        config = Value::Object(Map::from_iter([(key.clone(), config)]));
    }
    let complaint = check(&config.to_string()).expect_err("the key is unknown");
    match complaint.split_once(&format!("unknown field `{UNKNOWN}`, expected ")) {
        Some((_, expected)) => quoted(expected).collect(),
        None => Vec::new(),
    }
}

/// All keys below `path`, sections too, each from the top.
fn keys_below(path: &[String], found: &mut BTreeSet<String>) {
    for key in keys_of(path) {
        let path = [path, &[key]].concat();
        found.insert(path.join("."));
        keys_below(&path, found);
    }
}

fn worker_keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    keys_below(&[], &mut keys);
    keys
}

/// The keys of a YAML text in block style, from the top; what stands behind `# ` is a key as well.
fn keys_in(yaml: &str) -> BTreeSet<String> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut keys = BTreeSet::new();
    for line in yaml.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        let Some((key, _)) = text.trim_start_matches("# ").split_once(':') else { continue };
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, key));
        keys.insert(open.iter().map(|(_, key)| *key).collect::<Vec<_>>().join("."));
    }
    keys
}

/// The sections that have a heading of their own in the page and no row.
const SECTIONS: [&str; 8] =
    ["monitor", "kafka", "input", "match", "window", "output", "repartition", "worker"];

#[test]
fn every_key_of_the_configuration_is_documented_and_no_other() {
    let page = page("docs/configuration.md");
    let documented: BTreeSet<String> =
        rows(section(&page, "## Keys")).into_iter().map(|mut row| row.remove(0)).collect();
    let known: BTreeSet<String> =
        worker_keys().into_iter().filter(|key| !SECTIONS.contains(&key.as_str())).collect();
    assert!(known.len() > 40, "the worker named its keys: {known:?}");
    assert_eq!(documented, known);
}

#[test]
fn the_values_of_enumerations_are_documented() {
    let page = page("docs/configuration.md");
    for row in rows(section(&page, "## Keys")) {
        let (key, kind) = (&row[0], &row[1]);
        if !kind.contains('`') {
            continue;
        }
        let value = Value::from(UNKNOWN);
        let config = key.rsplit('.').fold(value, |inner, key| json!({ key: inner }));
        let complaint = check(&config.to_string()).expect_err("the value is unknown");
        let known = complaint.split_once(&format!("unknown variant `{UNKNOWN}`, expected "));
        let (_, known) = known.unwrap_or_else(|| panic!("{key} is no enumeration: {complaint}"));
        assert_eq!(quoted(kind).collect::<Vec<_>>(), quoted(known).collect::<Vec<_>>(), "{key}");
    }
}

#[test]
fn the_example_of_the_page_has_every_key_once() {
    let page = page("docs/configuration.md");
    let examples = blocks(&page, "yaml");
    let mut keys = keys_in(examples[0]);
    keys.retain(|key| !key.starts_with("kafka.config."));
    assert_eq!(keys, worker_keys());
}

#[test]
fn the_worker_accepts_every_example() {
    let [configuration, readme] = ["docs/configuration.md", "README.md"].map(page);
    let mut examples: Vec<String> = [&configuration, &readme]
        .map(|page| blocks(page, "yaml"))
        .concat()
        .into_iter()
        // Resources are held against their definition, with the chart's tests.
        .filter(|block| !block.contains("kind: CrashMonitor"))
        .map(str::to_owned)
        .collect();
    examples.push(page("examples/worker.yaml"));
    assert_eq!(examples.len(), 3);
    for example in examples {
        let dir = Dir::new("example");
        let made = Certificates::make(dir.path(), std::net::Ipv4Addr::LOCALHOST);
        let mut config = example.clone();
        for named in example.split([' ', '[', ']', ',', '\n']).filter(|word| word.starts_with(FILES)) {
            let stand_in = match named.rsplit('/').next() {
                Some("password") => dir.write("password", "secret"),
                Some("server.pem") => made.certificate.clone(),
                Some("server.key") => made.key.clone(),
                Some("ca.pem" | "ca.crt") => made.authority.clone(),
                _ => panic!("{named} has no stand-in here"),
            };
            config = config.replace(named, &stand_in.display().to_string());
        }
        assert_eq!(check(&config), Ok(()), "{example}");
    }
}

/// A worker that has read a record.
fn working() -> Worker {
    let kafka = shared::kafka();
    let topic = shared::unique("docs");
    kafka.topics().create_topic(&topic, 1, &[]);
    kafka.topics().produce(&topic, &[NewRecord::new(r#"{"timestamp":1768142570123}"#).to(0)]);
    Worker::builder("docs").env("POD_NAME", &topic).start(|admin| {
        json!({
            "monitor": {"namespace": "docs", "name": topic, "uid": "docs"},
            "kafka": {"bootstrapServers": kafka.bootstrap()},
            "input": {"topic": topic, "startingOffsets": "Earliest"},
            "output": {"topic": format!("{topic}.output")},
            "repartition": {"partitions": 1, "replicationFactor": 1},
            "worker": {"adminListen": admin.to_string()},
        })
        .to_string()
    })
}

#[test]
fn every_metric_is_documented_with_its_type_and_no_other() {
    let page = page("docs/metrics.md");
    let mut table = rows(section(&page, "## Metrics"));
    table.retain(|row| row[0].starts_with("crashmonitor_"));
    let metric = |row: &Vec<String>| (row[0].clone(), row[1].clone());
    let documented: BTreeSet<(String, String)> = table.iter().map(metric).collect();
    let worker = working();
    until("all metrics of a worker", TIMEOUT, || {
        let missing: Vec<_> = documented.difference(&metrics_in(&worker.try_metrics()?)).cloned().collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?} are missing\n{}", worker.log_tail()))
        }
    });
    let scraped = metrics_in(&worker.metrics());
    assert!(scraped.is_subset(&documented), "not documented: {:?}", scraped.difference(&documented));

    for name in quoted(section(&page, "## What to watch")).filter(|text| text.starts_with("crashmonitor_")) {
        let name = name.split('{').next().unwrap_or_default();
        assert!(documented.iter().any(|(known, _)| known == name), "{name}");
    }
    worker.stop(TIMEOUT);
}

#[test]
fn every_reason_of_a_dead_letter_is_documented_and_no_other() {
    let nobody = Port::reserve();
    let worker = Worker::builder("docs").start(|admin| {
        format!(
            "monitor: {{namespace: d, name: c, uid: u}}\nkafka: {{bootstrapServers: \"{}\"}}\n\
             input: {{topic: logs}}\nworker: {{adminListen: \"{admin}\"}}\n",
            nobody.address()
        )
    });
    // Its reasons are there before its Kafka is.
    let text = until("a scrape of the worker", TIMEOUT, || worker.try_metrics());
    let known: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("crashmonitor_dead_letters_total{reason=\"")?.split_once('"'))
        .map(|(reason, _)| reason)
        .collect();
    let page = page("docs/output.md");
    let table = rows(section(&page, "## Dead letters"));
    let documented: BTreeSet<&str> =
        table.iter().map(|row| row[0].as_str()).filter(|name| !name.starts_with("crashmonitor.")).collect();
    assert_eq!(documented, known);
}

/// Whether `value` is what `schema` says, as far as the schemas of docs/output.md go.
fn fits(value: &Value, schema: &Value, at: &str) {
    if let Some(allowed) = schema["enum"].as_array() {
        return assert!(allowed.contains(value), "{at}: {value}");
    }
    match schema["type"].as_str() {
        Some("string") => assert!(value.is_string(), "{at}: {value}"),
        Some("integer") => assert!(value.is_i64(), "{at}: {value}"),
        Some("object") => {
            let (value, known) = (value.as_object().expect(at), schema["properties"].as_object().expect(at));
            let keys: BTreeSet<&String> = value.keys().collect();
            assert_eq!(keys, known.keys().collect(), "{at}: keys");
            let required = schema["required"].as_array().expect(at).iter().filter_map(Value::as_str);
            assert_eq!(
                keys,
                required.map(str::to_owned).collect::<BTreeSet<_>>().iter().collect(),
                "{at}: required"
            );
            known.iter().for_each(|(key, schema)| fits(&value[key], schema, &format!("{at}.{key}")));
        }
        other => panic!("{at}: type {other:?}"),
    }
}

#[test]
fn each_sample_of_the_output_fits_its_schema() {
    let page = page("docs/output.md");
    for heading in ["## Results", "## Late records"] {
        let parsed: Vec<Value> = blocks(section(&page, heading), "json")
            .into_iter()
            .map(|text| serde_json::from_str(text).unwrap_or_else(|e| panic!("{heading}: {e}\n{text}")))
            .collect();
        let [sample, schema] = &parsed[..] else { panic!("{heading} has a sample and a schema") };
        fits(sample, schema, heading);
    }
}

/// The table of contents of the site.
const CONTENTS: &str = "docs/SUMMARY.md";

/// A page without its code blocks.
fn prose(page: &str) -> String {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    };
    page.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
}

/// The links of a text: what they say, and where they lead.
fn links(text: &str) -> Vec<(&str, &str)> {
    let pieces: Vec<&str> = text.split("](").collect();
    let pairs = pieces.windows(2);
    pairs.filter_map(|pair| Some((pair[0].rsplit('[').next()?, pair[1].split(')').next()?))).collect()
}

/// Where a link of a page leads: a path from the root of the checkout, and an anchor or nothing. None for other sites.
fn target<'a>(page: &str, link: &'a str) -> Option<(String, &'a str)> {
    if link.contains("://") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    if file.is_empty() {
        return Some((page.to_owned(), anchor));
    }
    let mut path: Vec<&str> = page.split('/').collect();
    path.pop();
    for part in file.split('/') {
        match part {
            ".." => assert!(path.pop().is_some(), "{page}: {link} leads out of the project"),
            part => path.push(part),
        }
    }
    Some((path.join("/"), anchor))
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    for name in pages() {
        let prose = prose(&page(&name));
        for (_, link) in links(&prose) {
            let Some((file, anchor)) = target(&name, link) else { continue };
            assert!(root().join(&file).exists(), "{name}: {link}: there is no {file}");
            assert!(
                anchor.is_empty() || anchors(&page(&file)).contains(anchor),
                "{name}: {link}: no such heading"
            );
        }
    }
}

/// The site has all pages, so that no link from one to another leads nowhere.
#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let contents = page(CONTENTS);
    let listed: Vec<String> =
        links(&contents).into_iter().filter_map(|(_, link)| Some(target(CONTENTS, link)?.0)).collect();
    let mut there = pages();
    there.remove(CONTENTS);
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), there, "{CONTENTS}");
    assert_eq!(listed.len(), there.len(), "{CONTENTS} lists a page twice");
}

/// A page that says "this test shows it" names one that is there: ``[`file.rs::name`](path/file.rs)``.
#[test]
fn every_test_that_a_page_names_is_there() {
    let mut count = 0;
    for name in pages() {
        let prose = prose(&page(&name));
        let links = links(&prose);
        let named: Vec<_> = links.iter().filter(|(text, _)| text.contains(".rs::")).collect();
        assert_eq!(named.len(), prose.matches(".rs::").count(), "{name} names a test without a link to it");
        for (text, link) in &named {
            let (file, test) = text.trim_matches('`').split_once("::").expect("it contains that");
            let (path, _) = target(&name, link).unwrap_or_else(|| panic!("{name}: {link} is another site"));
            assert!(path.ends_with(&format!("/{file}")), "{name}: {text} links to {path}");
            assert!(page(&path).contains(&format!("fn {test}(")), "{name}: {path} has no test {test}");
        }
        count += named.len();
    }
    assert!(count > 50, "the pages name {count} tests");
}

/// What a page shows of a program is what a test of that program saw: `<!-- path -->` above a block names the file.
#[test]
fn output_in_pages_is_what_programs_print() {
    let mut count = 0;
    for name in pages() {
        let text = page(&name);
        for part in text.split("<!-- cli/tests/golden/").skip(1) {
            let (file, rest) = part.split_once(" -->\n").unwrap_or_else(|| panic!("{name}: {part}"));
            let shown = blocks(rest, "text");
            assert!(rest.starts_with("```text\n"), "{name}: no block below {file}");
            assert_eq!(shown[0], page(&format!("cli/tests/golden/{file}")), "{name}: {file}");
            count += 1;
        }
    }
    assert!(count >= 7, "the pages show {count} outputs");
}
