//! Facts of this host, probed.
//!
//! Files are read below a root folder, so that tests can show other hosts. The verdict never comes from them: only
//! the trial guest decides (see [`kiln_vmm::probe`]).

mod kvm;
mod lingering;
mod memory;
mod peers;

use std::path::Path;

use kiln_vmm::probe::{ProbeError, Trial};
use serde::Serialize;

pub use kvm::{Kvm, TrialResult};
pub use lingering::Lingering;
pub use memory::Memory;
pub use peers::{Peers, VIEWERS};

/// All that `kiln doctor` finds.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether machines can run.
    pub runs: bool,
    /// The device and the module behind it.
    pub kvm: Kvm,
    /// What the trial guest showed.
    pub trial: TrialResult,
    /// Memory and its limits.
    pub memory: Memory,
    /// Whether machines outlive the user's last login session.
    pub lingering: Lingering,
    /// Programs and firmware of others that kiln can use.
    pub peers: Peers,
    /// What to do, a line each.
    pub advice: Vec<String>,
}

/// Examines the host whose files lie below `root`, with the trial's outcome.
pub fn examine(root: &Path, trial: &Result<Trial, ProbeError>) -> Report {
    let kvm = Kvm::find(root);
    let outcome = TrialResult::from(trial);
    let lingering = Lingering::find(root);
    let mut advice = kvm.advise(&outcome);
    advice.extend(lingering.advise());
    Report {
        runs: matches!(outcome, TrialResult::Passed { .. }),
        kvm,
        trial: outcome,
        memory: Memory::find(root),
        lingering,
        peers: Peers::find(root),
        advice,
    }
}

/// Memory of the host whose files lie below `root`.
pub fn memory(root: &Path) -> Memory {
    Memory::find(root)
}

/// What to do so that the host whose files lie below `root` runs machines, after the trial's outcome.
pub fn kvm_advice(root: &Path, outcome: &TrialResult) -> Vec<String> {
    Kvm::find(root).advise(outcome)
}

/// The user's name and numeric id, from `etc/passwd` below `root`.
fn user(root: &Path) -> (u32, Option<String>) {
    let uid = rustix::process::geteuid().as_raw();
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    (uid, name)
}
