#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| crashmonitor_fuzz::fuzzed::config(bytes));
