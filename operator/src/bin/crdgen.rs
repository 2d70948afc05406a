//! Writes what is generated from the types: the custom resource definition, and the reference of its fields.
//!
//! Without arguments it writes into the checkout that it is started in; `--check` only says whether anything differs.

use std::path::Path;
use std::process::ExitCode;

use crashmonitor_operator::generated;

fn main() -> ExitCode {
    let is_check = std::env::args().nth(1).as_deref() == Some("--check");
    let mut code = ExitCode::SUCCESS;
    for (path, text) in generated::files() {
        let is_same = std::fs::read_to_string(path).is_ok_and(|found| found == text);
        if is_same {
            continue;
        }
        if is_check {
            eprintln!(
                "crdgen: {path} differs from the types; run cargo run -p crashmonitor-operator --bin crdgen"
            );
            code = ExitCode::FAILURE;
        } else if let Err(error) = write(Path::new(path), &text) {
            eprintln!("crdgen: {path}: {error}; start it in the root of the checkout");
            return ExitCode::FAILURE;
        } else {
            println!("{path}");
        }
    }
    code
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)
}
