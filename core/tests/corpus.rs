//! What the fuzzer has collected, once more: every file of `fuzz/corpus`, which has a seed for each kind of input and
//! whatever once broke something.

#![allow(clippy::disallowed_methods, reason = "the corpus lies in files; core itself reads none")]

mod support {
    pub mod by_value;
    pub mod fuzzed;
}

use std::fs;
use std::path::Path;

#[test]
fn nothing_in_the_corpus_breaks_anything() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, check) in support::fuzzed::ALL {
        let directory = corpus.join(name);
        let files = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("the corpus can be listed").path();
            // Shown when the check panics.
            println!("{}", path.display());
            check(&fs::read(&path).expect("a file of the corpus can be read"));
            count += 1;
        }
        assert!(count > 0, "{} is empty", directory.display());
    }
}
