//! A command line of `kiln disk` or `qemu-img`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln::disk::fuzzing::fuzz_line(bytes));
