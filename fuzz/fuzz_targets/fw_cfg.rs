//! A guest that reads and writes the firmware configuration device in any way.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::firmware::fw_cfg::fuzzing::fuzz_fw_cfg(bytes));
