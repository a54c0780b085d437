//! The network as a guest with a real system meets it, and as its user looks at it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

mod guest;
#[allow(dead_code, reason = "shared with the other tests of the command")]
#[path = "../command/home.rs"]
mod home;
mod host;
mod refusals;
mod story;
#[allow(dead_code, reason = "shared with the other tests of the command")]
#[path = "../command/talk.rs"]
mod talk;
