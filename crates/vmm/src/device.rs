//! The lifecycle that every device has.
//!
//! ```text
//!   new ── reset ──▶ running ── pause ──▶ paused ── resume ──▶ running
//!                                           │ save / restore / unplug
//! ```
//!
//! The machine stops the vCPUs before it pauses devices, and pauses all devices before it saves one. `reset` comes
//! while the vCPUs are stopped; it may find the device running or paused and leaves that as it was.

use serde::{Serialize, de::DeserializeOwned};

/// What a device is to the machine, apart from its I/O.
pub trait Device: Send + Sync {
    /// Name that is unique in the machine and the same in each of its lives, e.g. `virtio-blk@00:02.0`.
    fn id(&self) -> String;
    /// Back to the state after power-on. Disks, viewers and RAM stay.
    fn reset(&self);
    /// Returns once nothing is in flight: no request at a backend, no thread in guest memory.
    fn pause(&self);
    /// Goes on where [`Device::pause`] stopped; events that came in between are handled.
    fn resume(&self);
    /// The state that the guest can see or come to see. Only while paused.
    ///
    /// # Errors
    /// When the state can't be written down.
    fn save(&self) -> Result<Saved, StateError>;
    /// Takes over a state that the same kind of device saved. Only while paused, on a device as new.
    ///
    /// # Errors
    /// When the state is of another kind or version, or is not one that this device can be in. The device must then
    /// be thrown away.
    fn restore(&self, saved: &Saved) -> Result<(), StateError>;
    /// Lets go of files, threads and claimed ranges, for good.
    fn unplug(&self) {}
}

/// A device's saved state.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct Saved {
    /// Kind of device, e.g. `i8042`.
    pub kind: String,
    /// Version of the layout of `data`, counted per kind from 1.
    pub version: u32,
    /// The state itself.
    pub data: serde_json::Value,
}

impl Saved {
    /// Writes down `data` as the state of a `kind`.
    ///
    /// # Errors
    /// When `data` doesn't serialize.
    pub fn new(kind: &str, version: u32, data: &impl Serialize) -> Result<Self, StateError> {
        Ok(Self { kind: kind.into(), version, data: serde_json::to_value(data)? })
    }

    /// Reads back what [`Saved::new`] wrote down.
    ///
    /// # Errors
    /// When it is another kind, another version, or malformed.
    pub fn open<T: DeserializeOwned>(&self, kind: &str, version: u32) -> Result<T, StateError> {
        if self.kind != kind {
            return Err(StateError::Kind { wanted: kind.into(), found: self.kind.clone() });
        }
        if self.version != version {
            return Err(StateError::Version { kind: kind.into(), wanted: version, found: self.version });
        }
        Ok(T::deserialize(&self.data)?)
    }
}

/// Why a state can't be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state belongs to another kind of device.
    #[error("the saved state is of a {found}, not of a {wanted}")]
    Kind {
        /// Kind of this device.
        wanted: String,
        /// Kind in the state.
        found: String,
    },
    /// The state has a layout that this version doesn't read.
    #[error("the saved state of {kind} has version {found}; this kiln reads {wanted}")]
    Version {
        /// Kind of device.
        kind: String,
        /// Version that this device reads.
        wanted: u32,
        /// Version in the state.
        found: u32,
    },
    /// The state doesn't parse.
    #[error("the saved state is malformed")]
    Malformed(#[from] serde_json::Error),
    /// The state parses, but no device can be in it.
    #[error("the saved state is impossible: {0}")]
    Impossible(String),
    /// The kernel refused a part of it.
    #[error("{0}")]
    Kernel(&'static str, #[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_only_to_its_own_kind_and_version() {
        let saved = Saved::new("rtc", 2, &(7u8, true)).unwrap();
        assert_eq!(saved.open::<(u8, bool)>("rtc", 2).unwrap(), (7, true));
        assert!(matches!(saved.open::<(u8, bool)>("pit", 2), Err(StateError::Kind { .. })));
        assert!(matches!(saved.open::<(u8, bool)>("rtc", 1), Err(StateError::Version { .. })));
        assert!(matches!(saved.open::<String>("rtc", 2), Err(StateError::Malformed(_))));
    }
}
