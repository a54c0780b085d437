//! The section of actions: what follows when the guest turns the machine off, resets it, or breaks it.

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// The machine ends.
    #[default]
    Destroy,
    /// It is reset and goes on: same process, disks, viewers and RAM.
    Restart,
    /// It stands, with all its state, until somebody decides.
    Preserve,
}

/// An action for each end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actions {
    /// The guest turned the machine off.
    pub poweroff: Action,
    /// The guest reset the machine. A panic with `panic=1` ends here too.
    pub reboot: Action,
    /// The machine can't go on.
    pub crash: Action,
}

impl Default for Actions {
    fn default() -> Self {
        Self { poweroff: Action::Destroy, reboot: Action::Restart, crash: Action::Destroy }
    }
}
