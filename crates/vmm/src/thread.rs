//! The one place where threads are made, by role. A seccomp filter per role attaches here.

use std::io;
use std::thread::JoinHandle;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs a virtual CPU.
    Vcpu(u32),
    /// Serves a device queue; the number is the machine's count.
    Queue(u32),
    /// Serves one viewer or console client.
    Client(u32),
    /// Serves a network behind a card; the number is the card's.
    Network(u32),
    /// Serves the control socket.
    Control,
    /// Timers, power and the machine's own events.
    Main,
}

impl Role {
    /// Name that `top -H` shows (at most 15 bytes).
    pub fn name(self) -> String {
        match self {
            Role::Vcpu(n) => format!("vcpu{n}"),
            Role::Queue(n) => format!("queue{n}"),
            Role::Client(n) => format!("client{n}"),
            Role::Network(n) => format!("network{n}"),
            Role::Control => "control".into(),
            Role::Main => "main".into(),
        }
    }
}

/// Starts a thread of the given role.
///
/// # Errors
/// When the host has no room for another thread.
pub fn spawn<T: Send + 'static>(role: Role, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(role.name()).spawn(body)
}
