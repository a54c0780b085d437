//! The wires from devices to the power supply: off, and reset.

/// What reset the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ResetCause {
    /// The reset control register at port 0xcf9.
    ResetControl,
    /// The keyboard controller's reset line.
    Keyboard,
    /// The fast reset of port 0x92.
    SystemControlPort,
    /// A processor met a fault while it handled a double fault.
    TripleFault,
}

/// The power supply as devices see it. Called from vCPU threads; what follows happens after the access.
pub trait Power: Send + Sync {
    /// The guest turned the machine off.
    fn off(&self);
    /// The guest, or a fault of it, resets the machine.
    fn reset(&self, cause: ResetCause);
}
