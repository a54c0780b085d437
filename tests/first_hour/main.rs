//! docs/first-hour.md, command by command: an installer in a browser, and a Debian to live with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

#[path = "../screen/browser.rs"]
#[allow(dead_code, reason = "shared with tests/screen")]
mod browser;
#[path = "../screen/desktop.rs"]
#[allow(dead_code, reason = "shared with tests/screen")]
mod desktop;
mod disk;
mod living;
mod page;
#[path = "../screen/pattern.rs"]
#[allow(dead_code, reason = "shared with tests/screen")]
mod pattern;
#[path = "../command/talk.rs"]
#[allow(dead_code, reason = "shared with tests/command")]
mod talk;
mod watching;

/// What the shared parts ask of a stage.
mod stage {
    /// How long something may take: a whole system has to boot before it.
    pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(300);
}

const KILN: &str = env!("CARGO_BIN_EXE_kiln");

/// Sections by the test that runs them.
const WATCHING: &[&str] = &["# The first hour", "Watch an installer"];
const MAKING: &[&str] = &["A disk to live with"];
const LIVING: &[&str] = &["Live with it", "Copies of it", "And away"];

#[test]
fn every_section_is_run_by_a_test() {
    assert_eq!(page::titles(), [WATCHING, MAKING, LIVING].concat());
}
