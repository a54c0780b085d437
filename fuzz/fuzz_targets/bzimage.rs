//! A kernel file that says anything in its headers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::boot::fuzzing::fuzz_kernel(bytes));
