//! A driver that makes any rings and requests for virtio block, network and entropy devices.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_vmm::virtio::fuzzing::fuzz_queue(bytes));
