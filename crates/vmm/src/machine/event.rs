//! What a machine tells its owner.

use crate::power::ResetCause;

/// Something happened after which the processors stand until the owner acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest turned the machine off.
    PoweredOff,
    /// The guest reset the machine, or broke a processor.
    Reset(ResetCause),
    /// KVM can't run the guest on.
    Broken(Fault),
}

/// Why KVM can't run a guest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What KVM said.
    pub what: String,
    /// The processor's registers, for a report.
    pub registers: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.what, self.registers)
    }
}
