//! The checks of `core/tests/corpus.rs`, for the fuzzer.

#[path = "../../core/tests/support/by_value.rs"]
mod by_value;
#[path = "../../core/tests/support/fuzzed.rs"]
pub mod fuzzed;
