//! Install media of any bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln::media::fuzzing::fuzz_image(bytes));
