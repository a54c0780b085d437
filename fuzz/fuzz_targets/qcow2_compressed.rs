//! A compressed cluster of a qcow2 image.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::testing::fuzz_compressed(bytes));
