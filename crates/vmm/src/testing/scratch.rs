//! A PCI function that keeps what is written to its BARs: one of each kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::device::{Device, Saved, StateError};
use crate::irq::Line;
use crate::pci::bar::{Bar, Region, RegionKind};
use crate::pci::bits::INTERRUPT_PIN;
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::function::{Effect, Endpoint};
use crate::pci::intx::Intx;
use crate::pci::msix::Msix;
use crate::pci::{PciFunction, Place, express};

/// The function: BAR 0 of 16 KiB above or below 4 GiB, BAR 2 of 4 KiB below, BAR 3 of 32 ports.
pub struct ScratchFunction {
    place: Place,
    endpoint: Endpoint,
    bytes: Mutex<BTreeMap<(u8, u64), u8>>,
    placed: Mutex<BTreeMap<RegionKind, u64>>,
}

impl ScratchFunction {
    /// A function at `place` with an interrupt pin on `line`.
    pub fn new(place: Place, line: Line) -> Arc<Self> {
        let mut config = ConfigSpace::endpoint(&Identity {
            vendor: 0x1234,
            device: 0x5678,
            revision: 1,
            class: [0xff, 0, 0],
            subsystem_vendor: 0x1234,
            subsystem: 1,
        });
        config.init(INTERRUPT_PIN, &[1]);
        config.add_bar(Bar::memory64(0, 0x4000, true));
        config.add_bar(Bar::memory32(2, 0x1000));
        config.add_bar(Bar::io(3, 0x20));
        let express = express::add_endpoint(&mut config);
        let endpoint = Endpoint::new(config, Intx::new(Some(line)), Msix::new(Vec::new()), Some(express), None);
        Arc::new(Self { place, endpoint, bytes: Mutex::default(), placed: Mutex::default() })
    }

    /// Raises or lowers the interrupt pin.
    pub fn interrupt(&self, level: bool) {
        self.endpoint.intx.set(level);
    }

    /// Where the host has placed a BAR.
    pub fn placed(&self, bar: u8) -> Option<u64> {
        self.placed.lock().get(&RegionKind::Bar(bar)).copied()
    }
}

fn bar(kind: RegionKind) -> u8 {
    match kind {
        RegionKind::Bar(index) => index,
        _ => u8::MAX,
    }
}

impl PciFunction for ScratchFunction {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.endpoint.config_read(offset, data);
    }
    fn config_write(&self, offset: usize, data: &[u8]) -> Effect {
        self.endpoint.config_write(offset, data)
    }
    fn regions(&self) -> Vec<Region> {
        self.endpoint.regions()
    }
    fn region_read(&self, kind: RegionKind, offset: u64, data: &mut [u8]) {
        let bytes = self.bytes.lock();
        for (at, out) in (offset..).zip(data) {
            *out = bytes.get(&(bar(kind), at)).copied().unwrap_or(0);
        }
    }
    fn region_write(&self, kind: RegionKind, offset: u64, data: &[u8]) {
        self.bytes.lock().extend((offset..).zip(data).map(|(at, byte)| ((bar(kind), at), *byte)));
    }
    fn region_placed(&self, kind: RegionKind, base: Option<u64>) {
        match base {
            Some(base) => self.placed.lock().insert(kind, base),
            None => self.placed.lock().remove(&kind),
        };
    }
}

impl Device for ScratchFunction {
    fn id(&self) -> String {
        format!("scratch@{}", self.place)
    }
    fn reset(&self) {
        self.endpoint.reset();
        self.bytes.lock().clear();
    }
    fn pause(&self) {}
    fn resume(&self) {}
    fn save(&self) -> Result<Saved, StateError> {
        let bytes: Vec<((u8, u64), u8)> = self.bytes.lock().iter().map(|(at, byte)| (*at, *byte)).collect();
        Saved::new("scratch", 1, &(self.endpoint.save(), bytes))
    }
    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let (endpoint, bytes): (_, Vec<((u8, u64), u8)>) = saved.open("scratch", 1)?;
        *self.bytes.lock() = bytes.into_iter().collect();
        self.endpoint.restore(&endpoint)
    }
    fn unplug(&self) {
        self.endpoint.reset();
    }
}
