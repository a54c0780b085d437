//! A VNC client that says anything, from the handshake on.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_rfb::fuzzing::fuzz_client(bytes));
