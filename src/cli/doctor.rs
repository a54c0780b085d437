//! `kiln doctor`: can this host run machines, and if not, what to do.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::{print, print_json};
use crate::failure::{Failure, Status};
use crate::host::{self, Report};

/// Tell whether this host can run machines, and what to do if not.
///
/// The verdict comes from a small guest that kiln starts and that does what kernels do; names of modules and
/// processors don't count. Exit status 7 when machines can't run.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let report = host::examine(Path::new("/"), &kiln_vmm::probe::run_default());
        if self.json {
            print_json(&report)?;
        } else {
            print(&text(&report))?;
        }
        Ok(if report.runs { ExitCode::SUCCESS } else { Status::NoKvm.into() })
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: &str| {
        let mut lines = value.lines();
        let _ = writeln!(out, "{name:<12}{}", lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(out, "{:<12}{line}", "");
        }
    };
    row("KVM", &report.kvm.describe());
    row("Trial guest", &report.trial.describe());
    row("Memory", &report.memory.describe());
    row("Lingering", &report.lingering.describe());
    row("Viewers", &report.peers.describe_viewers());
    row("Firmware", &report.peers.describe_firmware());
    let verdict = if report.runs { "Machines can run here." } else { "Machines can't run here." };
    let _ = writeln!(out, "\n{verdict}");
    for line in &report.advice {
        let _ = writeln!(out, "  > {line}");
    }
    out
}
