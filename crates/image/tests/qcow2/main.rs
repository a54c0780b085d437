//! qcow2 images against a model of their contents, with qemu-img as the judge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // All of it is tests.

mod contents;
mod faulty;
mod faulty_chains;
mod history;
mod powerfail;
mod regressions;
mod same_bytes;
mod scene;
mod start;
