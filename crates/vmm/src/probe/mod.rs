//! Can this host's KVM run an unmodified 64-bit kernel? Found out by running a small guest.
//!
//! There are KVMs that open, answer every capability and yet stumble over a kernel's own code (paravirtual ones,
//! ones that emulate). Neither the module's name nor /proc tells them apart, so the guest does what kernels do on
//! their way up and in their every second: see [`Step`]. It needs no file, no privilege beyond `/dev/kvm`, and a few
//! milliseconds where hardware helps.

mod guest;
mod run;

use std::path::Path;
use std::time::Duration;

use kvm_ioctls::Kvm;

/// What the guest does, in order (Intel SDM volume 3, chapters 6, 10 and 20; AMD APM volume 2, chapters 1 and 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// 16-bit real mode: arithmetic, stack, string copy.
    RealMode,
    /// Entry into 32-bit protected mode.
    ProtectedMode,
    /// `IRET` in 32-bit protected mode, as boot loaders use it.
    Iret32,
    /// Paging and 64-bit mode at privilege level 0.
    LongMode,
    /// `CMPXCHG16B` at privilege level 0, as the kernel's allocator uses it.
    Cmpxchg16b,
    /// SSE2 at privilege level 0, as the kernel's checksums and RAID use it.
    Sse,
    /// An interrupt that arrives through a 64-bit IDT while code runs.
    Interrupt,
    /// `HLT`, and a timer interrupt that ends it.
    HaltAndWake,
}

impl Step {
    /// All, in the guest's order.
    pub const ALL: [Step; 8] = [
        Step::RealMode,
        Step::ProtectedMode,
        Step::Iret32,
        Step::LongMode,
        Step::Cmpxchg16b,
        Step::Sse,
        Step::Interrupt,
        Step::HaltAndWake,
    ];

    /// What a person reads.
    pub fn describe(self) -> &'static str {
        match self {
            Step::RealMode => "16-bit real mode",
            Step::ProtectedMode => "32-bit protected mode",
            Step::Iret32 => "IRET in 32-bit mode",
            Step::LongMode => "64-bit kernel mode",
            Step::Cmpxchg16b => "CMPXCHG16B in kernel mode",
            Step::Sse => "SSE in kernel mode",
            Step::Interrupt => "an interrupt through the IDT",
            Step::HaltAndWake => "HLT and wake by a timer",
        }
    }
}

/// How the guest stopped short.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stumble {
    /// KVM gave up on an instruction (KVM_EXIT_INTERNAL_ERROR).
    InternalError,
    /// The guest shut down (triple fault).
    Shutdown,
    /// The instruction ran and its result was wrong.
    WrongResult,
    /// It never ended; the limit in milliseconds.
    NotEnding(u64),
    /// KVM left the guest for a reason that has no place here.
    OddExit(String),
}

impl Stumble {
    /// What a person reads, after the step's name.
    pub fn describe(&self) -> String {
        match self {
            Stumble::InternalError => "KVM can't execute it (internal error)".into(),
            Stumble::Shutdown => "the guest shut down at it (triple fault)".into(),
            Stumble::WrongResult => "its result is wrong".into(),
            Stumble::NotEnding(ms) => format!("it did not end within {ms} ms"),
            Stumble::OddExit(what) => format!("KVM left the guest with {what}"),
        }
    }
}

/// What the small guest showed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Trial {
    /// Steps that worked.
    pub done: Vec<Step>,
    /// The step that didn't, and how.
    pub failed: Option<(Step, Stumble)>,
}

impl Trial {
    /// Whether an unmodified 64-bit kernel can be expected to run.
    pub fn passed(&self) -> bool {
        self.failed.is_none() && self.done == Step::ALL
    }
}

/// Why there was no trial.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// `/dev/kvm` doesn't open.
    #[error("/dev/kvm can't be opened")]
    Open(#[source] std::io::Error),
    /// The API is not the stable one.
    #[error("KVM speaks API version {0}, not 12")]
    Version(i32),
    /// KVM refuses a virtual machine; EBUSY: another hypervisor holds the processor's virtualization.
    #[error("KVM creates no virtual machine")]
    CreateVm(#[source] std::io::Error),
    /// A later call was refused.
    #[error("KVM refuses {0}")]
    Setup(&'static str, #[source] std::io::Error),
}

/// How long the guest may take. Hardware needs about a millisecond, a KVM that emulates some tens.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs the trial on `/dev/kvm`.
///
/// # Errors
/// When KVM can't be opened or refuses a machine; that the guest stumbles is a [`Trial`], not an error.
pub fn run_default() -> Result<Trial, ProbeError> {
    let file = std::fs::File::options().read(true).write(true).open(Path::new("/dev/kvm")).map_err(ProbeError::Open)?;
    run::trial(&kvm_of(file), LIMIT)
}

#[allow(unsafe_code)]
fn kvm_of(file: std::fs::File) -> Kvm {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the descriptor is open and owned by nobody else; each ioctl on one that isn't KVM's fails cleanly.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_that_is_not_kvm_is_an_error() {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        assert!(run::trial(&kvm_of(null), LIMIT).is_err());
    }

    #[test]
    fn real_kvm_passes_every_step() {
        kiln_lab::needs_kvm!(30);
        let trial = run_default().unwrap();
        assert!(trial.passed(), "{trial:?}");
    }

    #[test]
    fn a_guest_that_never_ends_is_stopped() {
        kiln_lab::needs_kvm!(30);
        let file = std::fs::File::options().read(true).write(true).open("/dev/kvm").unwrap();
        // Too short for any guest: the limit itself must work, in a halt too.
        let trial = run::trial(&kvm_of(file), Duration::ZERO).unwrap();
        assert!(trial.passed() || matches!(trial.failed, Some((_, Stumble::NotEnding(0)))), "{trial:?}");
    }
}
