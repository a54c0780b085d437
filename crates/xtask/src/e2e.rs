//! `cargo xtask e2e`: what takes too long for every change, run when its code changes.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::setup;

/// Run a long test: not a part of `cargo xtask test`
#[derive(Debug, Args)]
pub struct E2e {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Powerfail(Powerfail),
    Kill(Kill),
}

/// Cut the power of random histories of qcow2 images, and look at what is left
///
/// The same histories as those of `cargo test -p kiln-image --test qcow2`, only more of them. Each is known by its
/// number, so a run can go on where an earlier one has stopped.
#[derive(Debug, Args)]
struct Powerfail {
    /// How many
    #[arg(long, default_value_t = 1_000_000)]
    histories: u64,
    /// Number of the first one
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Of so many cuts QEMU judges one as well
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    qemu_every: u64,
}

/// Kill machines by signal 9 while their guests write, and look at what is left
///
/// The same as `cargo test --test command kills`, only more of it.
#[derive(Debug, Args)]
struct Kill {
    /// How many on raw disks, and as many on qcow2 disks
    #[arg(long, default_value_t = 200)]
    kills: u32,
}

impl E2e {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.what {
            What::Powerfail(powerfail) => powerfail.run(),
            What::Kill(kill) => kill.run(),
        }
    }
}

impl Powerfail {
    fn run(&self) -> Result<ExitCode> {
        setup::ensure(setup::FOR_TESTS)?;
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-p", "kiln-image", "--test", "qcow2", "--", "--nocapture", "after_a_power_loss"]);
        cargo.env("KILN_HISTORIES", self.histories.to_string());
        cargo.env("KILN_FIRST", self.first.to_string());
        cargo.env("KILN_QEMU", self.qemu_every.to_string());
        // Images come and go in memory: glibc would give it back to the kernel each time.
        let allocator = [("MMAP_THRESHOLD", 1u64 << 30), ("TRIM_THRESHOLD", 1 << 30), ("TOP_PAD", 64 << 20)];
        cargo.envs(allocator.map(|(name, bytes)| (format!("MALLOC_{name}_"), bytes.to_string())));
        let status = cargo.status().context("running cargo test")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Kill {
    fn run(&self) -> Result<ExitCode> {
        setup::ensure(setup::FOR_TESTS)?;
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-p", "kiln", "--test", "command", "--", "--nocapture", "kills::"]);
        cargo.env("KILN_KILLS", self.kills.to_string());
        let status = cargo.status().context("running cargo test")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
