//! What a device type is to the transport and to the queue workers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::chain::{Broken, Chain};
use crate::device::StateError;

/// What a device says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceType {
    /// Name, as in `virtio-blk`.
    pub name: &'static str,
    /// Device type number (VIRTIO 1.2, 5).
    pub id: u16,
    /// PCI class, subclass and programming interface.
    pub class: [u8; 3],
}

/// A device type, apart from transport and rings.
pub trait VirtioDevice: Send + Sync {
    /// What it is.
    fn device_type(&self) -> DeviceType;
    /// Feature bits of the type; the transport adds the reserved ones.
    fn features(&self) -> u64;
    /// Largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Reads device configuration. `data` arrives zeroed.
    fn config_read(&self, offset: usize, data: &mut [u8]);
    /// Writes device configuration.
    fn config_write(&self, _offset: usize, _data: &[u8]) {}
    /// What serves a queue once the driver has agreed on `features`. Called anew after each reset.
    fn handler(&self, queue: u16, features: u64) -> Box<dyn QueueHandler>;
}

/// What became of a chain.
pub enum Outcome {
    /// It is done; so many bytes of its writable part were written.
    Done(u32),
    /// It can't be finished before the descriptor can be read; it comes again then.
    Readable(Arc<OwnedFd>),
    /// It can't be finished before the descriptor can be written to; it comes again then.
    Writable(Arc<OwnedFd>),
    /// It can't be finished any more: the backend has ended. The ring rests.
    Ended,
    /// It can't be finished before the machine was paused: it comes again when the machine goes on. Whoever pauses it
    /// was told. The ring rests.
    Stopped,
    /// It wasn't needed after all and stays in the ring, for what comes next.
    Kept,
}

/// What a handler needs to go on.
pub enum Need {
    /// The next chain, whatever it is.
    Chain,
    /// So many bytes to write into: as many chains as that takes, which become used together. When all chains of the
    /// ring have less, they come nevertheless.
    Room(u64),
    /// Nothing before the descriptor can be read.
    Input(Arc<OwnedFd>),
}

/// Serves one queue, on its worker's thread.
pub trait QueueHandler: Send {
    /// What it needs now. Asked before each chain.
    fn need(&mut self) -> Need {
        Need::Chain
    }

    /// Serves a chain. It blocks for as long as the backend does.
    ///
    /// # Errors
    /// When the chain is not one that a driver may make; the device then needs a reset.
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken>;

    /// What must be known to go on with a chain that is half done.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes over what [`QueueHandler::save`] gave.
    ///
    /// # Errors
    /// When it isn't such a state.
    fn restore(&mut self, saved: &serde_json::Value) -> Result<(), StateError> {
        match saved {
            serde_json::Value::Null => Ok(()),
            other => Err(StateError::Impossible(format!("a queue in the state {other}"))),
        }
    }
}
