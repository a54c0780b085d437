//! Clones and templates: what is copied, what is new, what both machines lie on, and what becomes of all of it when the
//! program or the host fails on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

#[path = "../command/guest.rs"]
#[allow(dead_code, reason = "shared with tests/command")]
mod guest;
#[path = "../command/home.rs"]
#[allow(dead_code, reason = "shared with tests/command")]
mod home;
mod linked;
mod plain;
mod stage;
mod steps;
mod story;
#[path = "../command/talk.rs"]
#[allow(dead_code, reason = "shared with tests/command")]
mod talk;
mod templates;
