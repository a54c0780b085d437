//! A qcow2 image whose tables are damaged anywhere: opened, read, checked, repaired, written, with snapshots.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_image::testing::fuzz_tables(bytes));
