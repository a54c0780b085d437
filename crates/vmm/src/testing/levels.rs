//! Wires that remember their levels.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::irq::Wires;

/// The level of each wire that was ever driven.
#[derive(Default)]
pub struct Levels(Mutex<BTreeMap<u32, bool>>);

impl Wires for Levels {
    fn set(&self, gsi: u32, level: bool) {
        self.0.lock().insert(gsi, level);
    }
}

impl Levels {
    /// The wires that are up, in order.
    pub fn up(&self) -> Vec<u32> {
        self.0.lock().iter().filter(|(_, level)| **level).map(|(gsi, _)| *gsi).collect()
    }
}
