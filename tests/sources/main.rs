//! Where installers come from: media, trees and servers, as they are, damaged and hostile.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

mod downloads;
#[allow(dead_code, reason = "shared with the other tests of the command")]
#[path = "../command/home.rs"]
mod home;
mod installs;
mod media;
mod medium;
mod server;
mod trees;
