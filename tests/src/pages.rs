//! The shell commands in the documentation, and who executes them.
//!
//! Responsible for finding every `sh` block of every page, and for the list that says of each block which test runs it as it
//! is written, or why none does. A block that is not listed fails `docs_commands.rs`, as does an entry without a block. Must
//! never hold a command itself: what is run is what the page says.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::monitoring::read;
use crate::tools::root;

/// A block of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The page, from the root of the checkout.
    pub page: String,
    /// The line of its first command.
    pub line: usize,
    /// The commands, as they are written.
    pub text: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.page, self.line)
    }
}

/// Who executes a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// `tests/tests/docs_commands.rs`, in `make test`.
    Here,
    /// The same, but apart, as it takes minutes: `make test-commands`.
    Long,
    /// `tests/cluster/tests/cluster_docs.rs`, in `make test-commands`: the story takes minutes.
    Cluster,
    /// Nobody: it has nothing but `make`, whose targets are [`TARGETS`]. That they are there, and know the variables, is tested.
    Make,
    /// `make test`: it is a test of its own, or some.
    Test,
    /// Nobody, for this reason.
    Nobody(&'static str),
}

/// Every block: its page, how it begins, and who executes it.
pub const LISTED: [(&str, &str, Who); 34] = [
    ("README.md", "make run ", Who::Make),
    ("README.md", "helm install", Who::Cluster),
    ("README.md", "crashmonitor-worker check", Who::Here),
    ("CONTRIBUTING.md", "make help", Who::Make),
    ("CONTRIBUTING.md", "make cluster PROFILE=dev", Who::Cluster),
    ("charts/crashmonitor/README.md", "helm install", Who::Cluster),
    ("charts/crashmonitor/README.md", "kubectl delete crashmonitors --all", Who::Cluster),
    (
        "charts/crashmonitor/README.md",
        "helm upgrade",
        Who::Nobody("needs the Prometheus Operator; chart.rs renders the chart with the same values"),
    ),
    ("docs/cli.md", "make install-cli", Who::Here),
    ("docs/cli.md", "kubectl crashmonitor results", Who::Cluster),
    ("docs/cli.md", "kubectl crashmonitor verify", Who::Cluster),
    ("docs/cli.md", "kubectl crashmonitor generate", Who::Cluster),
    ("docs/console.md", "helm upgrade", Who::Cluster),
    ("docs/getting-started.md", "make demo ", Who::Make),
    ("docs/getting-started.md", "eval", Who::Cluster),
    ("docs/getting-started.md", "kubectl --namespace crashmonitor-demo port-forward", Who::Cluster),
    ("docs/getting-started.md", "make cluster demo-images", Who::Cluster),
    ("docs/getting-started.md", "kubectl --namespace crashmonitor-demo get crashmonitor demo", Who::Cluster),
    ("docs/getting-started.md", "NODE=", Who::Cluster),
    ("docs/getting-started.md", "kafka-console-consumer.sh", Who::Cluster),
    ("docs/getting-started.md", "kubectl --namespace crashmonitor-demo scale", Who::Cluster),
    ("docs/getting-started.md", "kubectl --namespace crashmonitor-demo patch", Who::Cluster),
    ("docs/getting-started.md", "make cluster-down", Who::Make),
    ("docs/loadgen.md", "# 100,000 records/s", Who::Long),
    ("docs/operations.md", "kubectl scale", Who::Cluster),
    ("docs/releasing.md", "make release", Who::Make),
    ("docs/runbooks.md", "NS=shop", Who::Cluster),
    ("docs/runbooks.md", "kubectl --namespace $NS patch", Who::Cluster),
    ("docs/testing.md", "make fuzz", Who::Make),
    ("docs/testing.md", "make sim ", Who::Make),
    ("docs/testing.md", "make faults", Who::Make),
    ("docs/testing.md", "cargo test", Who::Test),
    ("docs/troubleshooting.md", "NS=shop", Who::Cluster),
    ("tests/kind-node/README.md", "eval", Who::Cluster),
];

/// The targets of `make` that pages name, and why a test does not run them: a stand-in for `make` sees that they are there.
pub const TARGETS: [(&str, &str); 38] = [
    ("bench", "an hour; measures"),
    ("bench-latency", "minutes; measures"),
    ("bench-micro", "minutes; measures"),
    ("bench-network", "minutes, and root; measures"),
    ("bench-operator", "minutes; measures"),
    ("bench-peers", "hours; measures"),
    ("bench-profile", "minutes; measures"),
    ("bench-recovery", "minutes; measures"),
    ("bench-scale", "minutes; measures"),
    ("build", "a release build; `make release` has one"),
    ("chart-test", "a part of `make test`"),
    ("chart-update", "writes into the checkout"),
    ("cluster", "`make test` brings the cluster up before"),
    ("cluster-down", "would take it from other tests; `make test` takes it down afterwards"),
    ("demo", "minutes, and a cluster; the steps by hand are executed"),
    ("demo-images", "the test on the cluster calls what it calls"),
    ("deny", "a part of a change that touches dependencies"),
    ("docs", "links are tested without the site"),
    ("faults", "hours; `make test` has a short set"),
    ("fmt", "writes into the checkout"),
    ("fuzz", "minutes; `make test` has the corpus"),
    ("help", "the stand-in asks it"),
    ("images", "`make test` builds them before"),
    ("install-cli", "a release build into the user's home"),
    ("mutants", "minutes"),
    ("overload", "minutes; measures"),
    ("release", "a release build"),
    ("release-check", "another release build"),
    ("run", "a release build, and no end; the tests start the same services"),
    ("sim", "as long as is asked for; `make test` has 1,000 seeds"),
    ("sim-mutants", "hours"),
    ("test", "runs this"),
    ("test-alerts", "minutes; `make test` has when each must fire, without waiting"),
    ("test-cluster", "a part of `make test`"),
    ("test-commands", "minutes; executes the blocks of `Who::Long` and `Who::Cluster`"),
    ("test-console", "needs a browser"),
    ("test-services", "a part of `make test`"),
    ("test-unit", "a part of `make test`"),
];

/// The Markdown pages below `dir`, from the root of the checkout.
fn pages_below(dir: &Path, found: &mut BTreeSet<String>) {
    let entries = fs::read_dir(root().join(dir)).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries {
        let entry = entry.expect("a directory can be read");
        let path = dir.join(entry.file_name());
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("a file has a type").is_dir() {
            if !name.starts_with('.') && !["target", "dist"].contains(&name.as_str()) {
                pages_below(&path, found);
            }
        } else if name.ends_with(".md") {
            found.insert(path.display().to_string());
        }
    }
}

/// All Markdown pages of the project, by their path from the root of the checkout.
pub fn pages() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    pages_below(Path::new(""), &mut found);
    assert!(found.contains("README.md") && found.contains("docs/SUMMARY.md"), "{found:?}");
    found
}

/// The `sh` blocks of a text. A block ends at the fence, and a page must not end before it.
fn blocks_in(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(block) if line.trim_end() == "```" => {
                blocks.push(block.clone());
                open = None;
            }
            Some(block) => block.text += &format!("{line}\n"),
            None if ["```sh", "```bash", "```shell", "```console"].contains(&line.trim()) => {
                open = Some(Block { page: page.to_owned(), line: number + 2, text: String::new() });
            }
            None => {}
        }
    }
    assert_eq!(open, None, "a block does not end");
    blocks
}

/// Every block of every page.
pub fn blocks() -> Vec<Block> {
    pages().iter().flat_map(|page| blocks_in(page, &read(page))).collect()
}

/// The entry of a block; panics when it has none, or more than one.
#[track_caller]
pub fn listed(block: &Block) -> Who {
    let is_its = |entry: &&(&str, &str, Who)| entry.0 == block.page && block.text.starts_with(entry.1);
    let entries: Vec<_> = LISTED.iter().filter(is_its).collect();
    match entries[..] {
        [(_, _, who)] => *who,
        [] => panic!(
            "{block}: nobody executes this block, and tests/src/pages.rs does not say why:\n{}",
            block.text
        ),
        _ => panic!("{block} has more than one entry in tests/src/pages.rs:\n{}", block.text),
    }
}

/// Blocks that are to be executed, each of which is taken once.
#[derive(Debug)]
pub struct Stack(Vec<Block>);

impl Stack {
    /// All blocks that this one executes.
    pub fn of(who: Who) -> Stack {
        Stack(blocks().into_iter().filter(|block| listed(block) == who).collect())
    }

    /// Takes the block of a page that begins so.
    #[track_caller]
    pub fn take(&mut self, page: &str, begins: &str) -> Block {
        let at = self.0.iter().position(|block| block.page == page && block.text.starts_with(begins));
        let at = at.unwrap_or_else(|| panic!("{page} has no block (left) that begins with {begins}"));
        self.0.remove(at)
    }

    /// Those that are left.
    pub fn rest(self) -> Vec<Block> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_lines() {
        let page = "text\n```sh\na b # c\n    d\n```\n```json\n{}\n```\n```bash\ne\n```\n";
        let found: Vec<(usize, String)> =
            blocks_in("p.md", page).into_iter().map(|block| (block.line, block.text)).collect();
        assert_eq!(found, [(3, "a b # c\n    d\n".to_owned()), (10, "e\n".to_owned())]);
    }

    #[test]
    #[should_panic(expected = "nobody executes this block")]
    fn a_new_block_is_noticed() {
        listed(&Block { page: "README.md".to_owned(), line: 1, text: "rm -rf /\n".to_owned() });
    }
}
