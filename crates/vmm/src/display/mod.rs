//! The display: a PCI card 1234:1111 with a linear framebuffer, as QEMU's `stdvga` lays it out.
//!
//! Video memory is BAR 0 and shown to the guest through a memory slot, so drawing costs no exit. BAR 2 has the EDID
//! block, the VGA ports and the mode registers. What is on the screen is copied out by [`Display::copy`]; while
//! nobody watches, nothing is logged. Text and planar modes are not drawn: until a linear mode is on, the screen is
//! black.

pub mod bits;
pub mod dispi;
pub mod edid;
mod screen;
pub mod vga;

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, VolatileMemory};

use crate::device::{Device, Saved, StateError};
use crate::memory::slots::{AddressSpace, ReaderId, RegionId, Shown, Slots};
use crate::memory::{Mapping, RamError, allocate_device};
use crate::pci::bar::{Bar, BarKind, Region, RegionKind};
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::function::{Effect, Endpoint, EndpointState};
use crate::pci::intx::Intx;
use crate::pci::msix::Msix;
use crate::pci::{PciFunction, Place};
use bits::*;
use dispi::{Asks, Dispi};
pub use screen::Area;
use vga::Vga;

const KIND: &str = "display";
const VERSION: u32 = 1;
const FRAMEBUFFER: RegionKind = RegionKind::Bar(0);
const REGISTER_FILE: RegionKind = RegionKind::Bar(2);

const IDENTITY: Identity = Identity {
    vendor: VENDOR,
    device: DEVICE,
    revision: REVISION,
    class: [0x03, 0x00, 0x00],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// Video memory. Like RAM it belongs to the machine's owner and outlives a save and restore.
#[derive(Clone)]
pub struct VideoMemory(Arc<Mapping>);

impl VideoMemory {
    /// Makes video memory, all zero.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn new() -> Result<Self, RamError> {
        Ok(Self(Arc::new(allocate_device(VIDEO_MEMORY)?)))
    }
}

impl std::fmt::Debug for VideoMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VideoMemory({VIDEO_MEMORY} bytes)")
    }
}

/// What a kernel is told of the screen that it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootScreen {
    /// Guest-physical address of the first pixel; 32 bits a pixel, `0x00RRGGBB`.
    pub base: u64,
    /// Bytes of video memory.
    pub len: u64,
    /// Pixels.
    pub width: u16,
    /// Pixels.
    pub height: u16,
}

struct Card {
    dispi: Dispi,
    vga: Vga,
    /// Counts what changes the picture without a write to video memory.
    epoch: u64,
}

/// Where video memory is shown, and who watches it.
#[derive(Default)]
struct View {
    base: Option<u64>,
    region: Option<RegionId>,
    watching: bool,
    reader: Option<ReaderId>,
    /// Epoch that the watcher has seen.
    seen: Option<u64>,
}

/// The card.
pub struct Display {
    place: Place,
    endpoint: Endpoint,
    memory: VideoMemory,
    slots: Arc<Slots>,
    card: Mutex<Card>,
    view: Mutex<View>,
}

#[derive(Serialize, Deserialize)]
struct State {
    endpoint: EndpointState,
    dispi: Dispi,
    vga: Vga,
}

impl Display {
    /// A card at `place` whose video memory `slots` shows.
    pub fn new(place: Place, memory: VideoMemory, slots: Arc<Slots>) -> Arc<Self> {
        let mut config = ConfigSpace::endpoint(&IDENTITY);
        config.add_bar(Bar { index: 0, kind: BarKind::Memory32, prefetchable: true, size: VIDEO_MEMORY as u64 });
        config.add_bar(Bar::memory32(2, REGISTERS));
        Arc::new(Self {
            place,
            endpoint: Endpoint::new(config, Intx::new(None), Msix::new(Vec::new()), None, None),
            memory,
            slots,
            card: Mutex::new(Card { dispi: Dispi::default(), vga: Vga::default(), epoch: 0 }),
            view: Mutex::default(),
        })
    }

    /// Switches the preferred mode on, black, for a kernel that is told of it. `None` while no address is given to the
    /// video memory.
    pub fn set_boot_screen(&self) -> Option<BootScreen> {
        let base = self.view.lock().base?;
        let (width, height) = (edid::PREFERRED_WIDTH, edid::PREFERRED_HEIGHT);
        let mut card = self.card.lock();
        card.dispi.set_mode(width, height, 32);
        card.epoch += 1;
        self.clear(usize::from(width) * usize::from(height) * 4);
        Some(BootScreen { base, len: VIDEO_MEMORY as u64, width, height })
    }

    fn clear(&self, bytes: usize) {
        // Inside video memory by the mode's own rules; a slice of nothing is nothing to clear.
        if let Ok(all) = self.memory.0.get_slice(0, bytes.min(VIDEO_MEMORY)) {
            let zeros = [0u8; 4096];
            let mut at = 0;
            while let Ok(written @ 1..) = all.write(&zeros, at) {
                at += written;
            }
        }
    }

    fn read_byte(&self, offset: u64) -> u8 {
        let mut card = self.card.lock();
        match offset {
            EDID..EDID_ROOM => edid::block().get(offset as usize).copied().unwrap_or(0),
            VGA..VGA_END => card.vga.read(offset - VGA),
            DISPI..DISPI_END => {
                let at = (offset - DISPI) as usize;
                card.dispi.read(at / 2).to_le_bytes()[at & 1]
            }
            EXTENDED..EXTENDED_END => {
                let registers = ((EXTENDED_END - EXTENDED) as u32, LITTLE_ENDIAN);
                let at = (offset - EXTENDED) as usize;
                let word = if at < 4 { registers.0 } else { registers.1 };
                word.to_le_bytes()[at & 3]
            }
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, data: &[u8]) {
        let mut card = self.card.lock();
        match offset {
            VGA..VGA_END => {
                for (byte, at) in data.iter().zip(offset - VGA..VGA_END - VGA) {
                    card.epoch += u64::from(card.vga.write(at, *byte));
                }
            }
            // The registers have 16 bits and take nothing else.
            DISPI..DISPI_END if data.len() == 2 && offset & 1 == 0 => {
                let before = card.dispi.mode();
                let asks = card.dispi.write((offset - DISPI) as usize / 2, u16::from_le_bytes([data[0], data[1]]));
                card.epoch += u64::from(card.dispi.mode() != before);
                if asks == Asks::Clear
                    && let Some(mode) = card.dispi.mode()
                {
                    self.clear(mode.stride * mode.height as usize);
                }
            }
            _ => {}
        }
    }

    /// Brings the slot to where the BAR decodes. A place that can't be shown (over RAM, say) is not; the guest's
    /// accesses then come by the bus.
    fn show(&self, view: &mut View, base: Option<u64>) {
        if let Some(region) = view.region.take() {
            if let Some(reader) = view.reader.take() {
                let _ = self.slots.unwatch(region, reader);
            }
            if let Err(error) = self.slots.remove(region) {
                log::warn!("{}: {error}", self.id());
            }
        }
        view.base = base;
        view.seen = None;
        let Some(base) = base else { return };
        let shown = Shown { mapping: self.memory.0.clone(), offset: 0, len: VIDEO_MEMORY as u64, read_only: false };
        match self.slots.add(AddressSpace::default(), base, shown) {
            Ok(region) => view.region = Some(region),
            Err(error) => log::info!("{}: video memory is not shown: {error}", self.id()),
        }
        if view.watching {
            self.begin_log(view);
        }
    }

    fn begin_log(&self, view: &mut View) {
        view.reader = view.region.and_then(|region| self.slots.watch(region).ok());
        view.seen = None;
    }
}

impl PciFunction for Display {
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
        match kind {
            FRAMEBUFFER => {
                let _ = self.memory.0.as_volatile_slice().read(data, offset as usize);
            }
            REGISTER_FILE => data.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = self.read_byte(at)),
            _ => {}
        }
    }

    fn region_write(&self, kind: RegionKind, offset: u64, data: &[u8]) {
        match kind {
            FRAMEBUFFER => {
                let _ = self.memory.0.as_volatile_slice().write(data, offset as usize);
            }
            REGISTER_FILE => self.write_register(offset, data),
            _ => {}
        }
    }

    fn region_placed(&self, kind: RegionKind, base: Option<u64>) {
        if kind == FRAMEBUFFER {
            self.show(&mut self.view.lock(), base);
        }
    }
}

impl Device for Display {
    fn id(&self) -> String {
        format!("{KIND}@{}", self.place)
    }

    fn reset(&self) {
        self.endpoint.reset();
        let mut card = self.card.lock();
        let epoch = card.epoch + 1;
        *card = Card { dispi: Dispi::default(), vga: Vga::default(), epoch };
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        let card = self.card.lock();
        let state = State { endpoint: self.endpoint.save(), dispi: card.dispi.clone(), vga: card.vga.clone() };
        Saved::new(KIND, VERSION, &state)
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state: State = saved.open(KIND, VERSION)?;
        if !state.dispi.is_possible() || !state.vga.is_possible() {
            return Err(StateError::Impossible("registers of the display".into()));
        }
        self.endpoint.restore(&state.endpoint)?;
        let mut card = self.card.lock();
        let epoch = card.epoch + 1;
        *card = Card { dispi: state.dispi, vga: state.vga, epoch };
        Ok(())
    }

    fn unplug(&self) {
        self.show(&mut self.view.lock(), None);
    }
}

#[cfg(test)]
mod tests;
