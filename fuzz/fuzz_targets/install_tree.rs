//! Install trees that say anything about themselves.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln::media::fuzzing::fuzz_tree(bytes));
