//! `cargo xtask e2e`: what takes too long for every change, run when its code changes.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use kiln_lab::testing::{HOSTILE_FIRST, HOSTILE_SECONDS};

use crate::cargo::cargo;
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
    Hostile(Hostile),
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

/// Give hostile frames to the user network, and hostile rings and requests to virtio devices
///
/// The same inputs as those of the tests, from another number on in each run; both at the same time.
#[derive(Debug, Args)]
struct Hostile {
    /// How long
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Number of the first input; by default one that the clock gives
    #[arg(long)]
    first: Option<u64>,
}

impl Hostile {
    fn run(&self) -> Result<ExitCode> {
        setup::ensure(setup::FOR_TESTS)?;
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() << 20);
        let first = self.first.unwrap_or_else(clock);
        let tests = |package: &str, more: &[&str]| {
            let mut cargo = cargo();
            cargo.args(["test", "-p", package, "--lib"]).args(more);
            cargo.env(HOSTILE_SECONDS, (self.minutes * 60).to_string()).env(HOSTILE_FIRST, first.to_string());
            cargo
        };
        let packages = ["kiln", "kiln-vmm"];
        for package in packages {
            if !tests(package, &["--no-run"]).status().context("running cargo test")?.success() {
                return Ok(ExitCode::FAILURE);
            }
        }
        let run =
            |package| tests(package, &["--", "--nocapture", "that_sends_anything", "finds_nothing_in_rings"]).spawn();
        let runs = packages.map(run);
        let mut failed = false;
        for run in runs {
            failed |= !run.context("running cargo test")?.wait()?.success();
        }
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
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
            What::Hostile(hostile) => hostile.run(),
            What::Kill(kill) => kill.run(),
        }
    }
}

impl Powerfail {
    fn run(&self) -> Result<ExitCode> {
        setup::ensure(setup::FOR_TESTS)?;
        let mut cargo = cargo();
        cargo.args(["test", "--release", "-p", "kiln-image", "--test", "qcow2"]);
        cargo.args(["--", "--nocapture", "after_a_power_loss"]);
        // Fast, but as watchful as the tests are.
        cargo.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
        cargo.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
        cargo.env("KILN_HISTORIES", self.histories.to_string());
        cargo.env("KILN_FIRST", self.first.to_string());
        cargo.env("KILN_QEMU", self.qemu_every.to_string());
        // Images come and go in memory: glibc would give it back to the kernel each time.
        let allocator = [("MMAP_THRESHOLD", 32u64 << 20), ("TRIM_THRESHOLD", 1 << 30), ("TOP_PAD", 32 << 20)];
        cargo.envs(allocator.map(|(name, bytes)| (format!("MALLOC_{name}_"), bytes.to_string())));
        let status = cargo.status().context("running cargo test")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Kill {
    fn run(&self) -> Result<ExitCode> {
        setup::ensure(setup::FOR_TESTS)?;
        let mut cargo = cargo();
        cargo.args(["test", "-p", "kiln", "--test", "command", "--", "--nocapture", "kills::"]);
        cargo.env("KILN_KILLS", self.kills.to_string());
        let status = cargo.status().context("running cargo test")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
