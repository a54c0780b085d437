//! A guest that pokes at PCI configuration space and moves BARs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::testing::fuzz_pci(bytes));
