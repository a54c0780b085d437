//! The header of a qcow2 image and its extensions.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::testing::fuzz_header(bytes));
