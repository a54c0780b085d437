//! `cargo xtask demo`: sets up what is needed and shows kiln at work.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use kiln_lab::machine::Lab;
use kiln_lab::options::Options;
use kiln_lab::protocol::{Exit, Run};

use crate::setup;

/// Install what the demo needs (by apt, as root or with sudo), then show kiln at work
///
/// So far: `kiln doctor` here and in the lab.
#[derive(Debug, Args)]
pub struct Demo {}

impl Demo {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        eprintln!(
            "demo: needs Debian's qemu-system-x86, a kernel and busybox (about 80 MB to download), and a minute."
        );
        setup::ensure(&["qemu-system-x86"])?;
        let kiln = build()?;
        println!("$ kiln doctor          # on this machine");
        let here = Command::new(&kiln).arg("doctor").status().context("running kiln")?;
        println!("\n$ kiln doctor          # in the lab, an emulated PC with hardware virtualization");
        let lab = Lab::start(&Options { files: vec![(kiln, "/bin/kiln".into())], ..Options::default() })?;
        let run = Run { argv: vec!["/bin/kiln".into(), "doctor".into()], limit_ms: 60_000, ..Run::default() };
        let there = lab.output(run)?;
        print!("{}", String::from_utf8_lossy(&there.stdout));
        if there.exit != Exit::Status(0) {
            bail!("kiln doctor failed in the lab: {:?}", there.exit);
        }
        println!("\nGuests run {}.", if here.success() { "straight on this machine" } else { "in the lab here" });
        Ok(ExitCode::SUCCESS)
    }
}

fn build() -> Result<PathBuf> {
    let status = Command::new("cargo").args(["build", "--quiet", "--package", "kiln"]).status();
    if !status.context("running cargo")?.success() {
        bail!("building kiln failed");
    }
    let beside = std::env::current_exe()?.with_file_name("kiln");
    if !beside.exists() {
        bail!("{} is missing after the build", beside.display());
    }
    Ok(beside)
}
