//! kiln creates virtual machines with one command and runs them on its own KVM monitor.
//!
//! This library is the tool's inside; the program is `main.rs`. docs/architecture.md shows how the parts hang
//! together.

pub mod cli;
pub mod clone;
pub mod console;
pub mod disk;
pub mod failure;
pub mod host;
pub mod install;
pub mod machine;
pub mod media;
pub mod network;
pub mod os;
pub mod plan;
pub mod runner;
