//! A guest that sends any frames to a user-mode network.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln::network::user::fuzzing::fuzz_frames(bytes));
