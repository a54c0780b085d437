//! `cargo xtask test`: sets up what tests need, then runs them all.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use kiln_lab::testing::HOSTILE_SECONDS;

use crate::cargo::cargo;
use crate::{clients, setup};

/// Install what the tests need (by apt, as root or with sudo, and pip), then run all tests
///
/// Guest tests run straight where the host's KVM works, else in the lab; KILN_TEST_KVM=straight or lab forces either.
#[derive(Debug, Args)]
pub struct Test {
    /// Handed to `cargo test`, e.g. `-p kiln-vmm boots`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Test {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(setup::FOR_TESTS)?;
        clients::ensure()?;
        let mut cargo = cargo();
        cargo.arg("test");
        if !self.args.iter().any(|a| a == "-p" || a.starts_with("--package")) {
            cargo.arg("--workspace");
        }
        // Two minutes of hostile guests, half of it frames and half of it queues; less when tests are chosen.
        if self.args.is_empty() && std::env::var_os(HOSTILE_SECONDS).is_none() {
            cargo.env(HOSTILE_SECONDS, "60");
        }
        let status = cargo.args(&self.args).status().context("running cargo test")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
