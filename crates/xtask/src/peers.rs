//! `cargo xtask peers`: the tests behind docs/decisions/qcow2.md. They are a package of their own, crates/image/peers, with
//! a target folder of its own: the peers' features must not reach kiln's own build.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../image/peers");

/// Build and test the qcow2 crates that kiln doesn't use; fails when a fault is gone for which it doesn't
///
/// docs/decisions/qcow2.md tells what follows then. Fetches crates.
#[derive(Debug, Args)]
pub struct Peers {
    /// First take the newest published versions of the peers into crates/image/peers/Cargo.lock
    #[arg(long)]
    newest: bool,
    /// Handed to `cargo test`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

impl Peers {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(&["qemu-utils"])?;
        if self.newest {
            succeed(&["update", "qcow2-rs", "imago"])?;
        }
        succeed(&["fmt", "--check"])?;
        succeed(&["clippy", "--locked", "--release", "--quiet", "--all-targets", "--", "-D", "warnings"])?;
        let deny = crate::cargo::cargo().args(["deny", "--version"]).output();
        if deny.is_ok_and(|output| output.status.success()) {
            let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deny.toml");
            succeed(&[
                "deny",
                "--config",
                config,
                "--offline",
                "--log-level",
                "error",
                "check",
                "bans",
                "licenses",
                "sources",
            ])?;
        }
        let mut words = vec!["test", "--locked", "--release"];
        words.extend(self.args.iter().map(String::as_str));
        let status = cargo(&words)?.status().context("running cargo test")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Builds the program that does the peers' work in benchmarks.
///
/// # Errors
/// When it can't be built: its crates may not have been fetched, and there may be no network.
pub fn build() -> Result<PathBuf> {
    succeed(&["build", "--locked", "--release", "--quiet", "--bin", "peer"])?;
    Ok(target()?.join("release/peer"))
}

fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(Path::parent).context("finding the target folder")?;
    Ok(target.join("peers"))
}

fn cargo(words: &[&str]) -> Result<Command> {
    let mut command = crate::cargo::cargo();
    command.args(words).current_dir(FOLDER).env("CARGO_TARGET_DIR", target()?);
    Ok(command)
}

fn succeed(words: &[&str]) -> Result<()> {
    let status = cargo(words)?.status().context("running cargo")?;
    if !status.success() {
        bail!("cargo {} failed in crates/image/peers", words.join(" "));
    }
    Ok(())
}
