//! Virtio over PCI (VIRTIO 1.2, 4.1): registers, notifications, interrupts, and the life of the queues' workers.
//!
//! Notifications are ioeventfds that follow the BAR. Where the kernel doesn't take one, the write comes here over the
//! bus and signals the same event.

mod layout;
mod queues;
mod registers;

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::bits::*;
use super::device::VirtioDevice;
use super::interrupt::{Call, Interrupt, InterruptState};
use super::ring::{Progress, Ring};
use super::worker::Parts;
use crate::device::{Device, Saved, StateError};
use crate::doorbell::{Doorbell, Doorbells};
use crate::irq::{Line, MsiController};
use crate::memory::GuestRam;
use crate::pci::bar::{Region, RegionKind, Space};
use crate::pci::function::{Effect, Endpoint, EndpointState};
use crate::pci::intx::{Intx, Pin};
use crate::pci::msix::Msix;
use crate::pci::{PciFunction, Place};
use layout::{BAR, MOST_QUEUES, Offsets, Page, config_space, notified_queue, notify_offset};
pub use queues::Numbers;
use queues::{Activity, QueueState};
use registers::{Registers, StatusChange};

const VERSION: u32 = 1;

/// What a virtio device is given of the machine.
pub struct Resources {
    /// Guest memory.
    pub memory: GuestRam,
    /// The interrupt line of [`VirtioPci::PIN`] at the device's place.
    pub line: Line,
    /// Gives out message vectors.
    pub messages: Arc<dyn MsiController>,
    /// Binds notifications.
    pub doorbells: Arc<dyn Doorbells>,
    /// The machine's count of queue threads, for their names.
    pub queue_numbers: Numbers,
}

struct State {
    registers: Registers,
    activity: Activity,
    paused: bool,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    place: Place,
    device: Arc<dyn VirtioDevice>,
    name: &'static str,
    offsets: Offsets,
    endpoint: Arc<Endpoint>,
    interrupt: Arc<Interrupt>,
    memory: GuestRam,
    doorbells: Arc<dyn Doorbells>,
    queue_numbers: Numbers,
    max_sizes: Vec<u16>,
    kicks: Vec<EventFd>,
    bound: Mutex<Option<u64>>,
    state: Mutex<State>,
}

#[derive(Serialize, Deserialize)]
struct VirtioState {
    endpoint: EndpointState,
    interrupt: InterruptState,
    registers: Registers,
    queues: Option<Vec<QueueState>>,
}

impl VirtioPci {
    /// The interrupt pin that it uses.
    pub const PIN: Pin = layout::PIN;

    /// A function at `place` for `device`.
    ///
    /// # Errors
    /// When the host gives no event or vector.
    pub fn new(place: Place, device: Arc<dyn VirtioDevice>, resources: Resources) -> io::Result<Arc<Self>> {
        let mut max_sizes = device.queue_sizes();
        max_sizes.truncate(MOST_QUEUES);
        let kind = device.device_type();
        let (config, offsets) = config_space(&kind, max_sizes.len() as u16, place);
        let vectors = (0..=max_sizes.len()).map(|_| resources.messages.vector()).collect::<io::Result<_>>()?;
        let kicks = max_sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<_>>()?;
        let intx = Intx::new(Some(resources.line));
        let endpoint = Endpoint::new(config, intx, Msix::new(vectors), offsets.express, Some(offsets.msix));
        let endpoint = Arc::new(endpoint);
        let interrupt = Arc::new(Interrupt::new(endpoint.clone(), max_sizes.len()));
        let registers = Registers::new(&max_sizes);
        Ok(Arc::new(Self {
            place,
            device,
            name: kind.name,
            offsets,
            endpoint,
            interrupt,
            memory: resources.memory,
            doorbells: resources.doorbells,
            queue_numbers: resources.queue_numbers,
            max_sizes,
            kicks,
            bound: Mutex::new(None),
            state: Mutex::new(State { registers, activity: Activity::Inactive, paused: false }),
        }))
    }

    /// Tells the driver that the device's configuration has changed, e.g. that its disk was resized.
    pub fn config_changed(&self) {
        self.interrupt.config();
    }

    fn offered(&self) -> u64 {
        self.device.features() | FEATURE_VERSION_1 | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX
    }

    fn write_status(&self, value: u8) {
        let mut state = self.state.lock();
        match state.registers.write_status(value, self.offered(), &self.interrupt) {
            StatusChange::None => {}
            StatusChange::Reset => self.reset_device(&mut state),
            StatusChange::Start => self.start(&mut state),
        }
    }

    // The workers never take the state's lock, so they can be waited for under it.
    fn reset_device(&self, state: &mut State) {
        if let Activity::Active(workers) = std::mem::replace(&mut state.activity, Activity::Inactive) {
            queues::stop(workers);
        }
        state.registers = Registers::new(&self.max_sizes);
        self.interrupt.reset();
        for kick in &self.kicks {
            let _ = kick.read();
        }
    }

    fn start(&self, state: &mut State) {
        let parts: Option<Vec<Parts>> = self
            .enabled_queues(&state.registers)
            .into_iter()
            .map(|queue| self.parts(&state.registers, queue, Progress::default()))
            .collect();
        match parts {
            Some(parts) => self.activate(state, parts),
            None => {
                log::warn!("{}: a ring is not where a ring can be; the device needs a reset", self.id());
                self.interrupt.needs_reset();
            }
        }
    }

    fn enabled_queues(&self, registers: &Registers) -> Vec<u16> {
        (0..).zip(&registers.queues).filter(|(_, setup)| setup.enabled).map(|(queue, _)| queue).collect()
    }

    fn parts(&self, registers: &Registers, queue: u16, progress: Progress) -> Option<Parts> {
        let index = usize::from(queue);
        let (setup, max_size) = (registers.queues.get(index)?, self.max_sizes.get(index)?);
        let features = registers.driver_features;
        let event_index = features & FEATURE_EVENT_IDX != 0;
        Some(Parts {
            queue,
            ring: Ring::new(self.memory.clone(), (*max_size, setup.size), &setup.at, progress, event_index)?,
            handler: self.device.handler(queue, features),
            kick: self.kicks.get(index)?.try_clone().ok()?,
            call: Call::new(self.interrupt.clone(), queue),
            broken: false,
        })
    }

    fn activate(&self, state: &mut State, parts: Vec<Parts>) {
        if state.paused {
            state.activity = Activity::Paused(parts);
            return;
        }
        match queues::start(parts, &self.queue_numbers) {
            Ok(workers) => state.activity = Activity::Active(workers),
            Err(error) => {
                log::error!("{}: no thread for a queue: {error}; the device needs a reset", self.id());
                state.activity = Activity::Inactive;
                self.interrupt.needs_reset();
            }
        }
    }

    fn halt(&self, state: &mut State) {
        state.paused = true;
        match std::mem::replace(&mut state.activity, Activity::Inactive) {
            Activity::Active(workers) => {
                let (parts, lost) = queues::stop(workers);
                if lost > 0 {
                    log::error!("{}: {lost} queue threads died; the device needs a reset", self.id());
                    self.interrupt.needs_reset();
                }
                state.activity = Activity::Paused(parts);
            }
            other => state.activity = other,
        }
    }

    fn page_read(&self, page: Page, offset: u64, data: &mut [u8]) {
        match page {
            Page::Common => {
                let state = self.state.lock();
                state.registers.read(offset as usize, data, self.offered(), &self.interrupt);
            }
            Page::Isr => {
                data.fill(0);
                if let (0, Some(first)) = (offset, data.first_mut()) {
                    *first = self.interrupt.acknowledge();
                }
            }
            Page::Device => {
                data.fill(0);
                self.device.config_read(offset as usize, data);
            }
            Page::Notify => data.fill(0),
            Page::MsixTable => self.endpoint.msix.table_read(offset, data),
            Page::MsixPending => self.endpoint.msix.pba_read(offset, data),
        }
    }

    fn page_write(&self, page: Page, offset: u64, data: &[u8]) {
        match (page, data) {
            (Page::Common, [value]) if offset as usize == COMMON_STATUS => self.write_status(*value),
            (Page::Common, _) => {
                let mut state = self.state.lock();
                state.registers.write(offset as usize, data, &self.max_sizes, &self.interrupt);
            }
            (Page::Device, _) => self.device.config_write(offset as usize, data),
            (Page::Notify, _) => {
                let kick = notified_queue(offset).and_then(|queue| self.kicks.get(usize::from(queue)));
                if let Some(kick) = kick {
                    // The event only refuses when its count is full, and then the worker is awake anyhow.
                    let _ = kick.write(1);
                }
            }
            (Page::MsixTable, _) => self.endpoint.msix.table_write(offset, data),
            (Page::Isr | Page::MsixPending, _) => {}
        }
    }

    // The window of the configuration access capability, as software has set it: BAR offset and width.
    fn access_window(&self) -> Option<(u64, usize)> {
        let (bar, offset, len) = self.endpoint.with_config(|config| {
            let at = self.offsets.access;
            (config.u8(at + CAP_BAR), config.u32(at + CAP_OFFSET), config.u32(at + CAP_LENGTH))
        });
        let aligned = matches!(len, 1 | 2 | 4) && offset % len.max(1) == 0;
        (bar == BAR && aligned).then_some((u64::from(offset), len as usize))
    }

    fn access_data(&self, offset: usize) -> Option<usize> {
        let data = self.offsets.access + CAP_PCI_DATA;
        (data..data + 4).contains(&offset).then(|| offset - data)
    }

    fn bell(&self, base: u64, queue: u16) -> Doorbell {
        Doorbell { space: Space::Memory, address: base + notify_offset(queue), len: 0, value: None }
    }

    fn ring_bells(&self, base: Option<u64>) {
        let mut bound = self.bound.lock();
        if *bound == base {
            return;
        }
        for (queue, kick) in (0..).zip(&self.kicks) {
            if let Some(old) = *bound {
                // One that the kernel didn't take isn't there to take back.
                let _ = self.doorbells.unbind(self.bell(old, queue), kick);
            }
            if let Some(new) = base
                && let Err(error) = self.doorbells.bind(self.bell(new, queue), kick)
            {
                log::debug!("{}: queue {queue} is notified over the bus: {error}", self.id());
            }
        }
        *bound = base;
    }
}

impl PciFunction for VirtioPci {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.endpoint.config_read(offset, data);
        if let (Some(0), Some((at, len))) = (self.access_data(offset), self.access_window())
            && let Some(data) = data.get_mut(..len)
        {
            data.fill(0xff);
            self.region_read(RegionKind::Bar(BAR), at, data);
        }
    }

    fn config_write(&self, offset: usize, data: &[u8]) -> Effect {
        if self.access_data(offset).is_some() {
            if let (Some(0), Some((at, len))) = (self.access_data(offset), self.access_window())
                && let Some(data) = data.get(..len)
            {
                self.region_write(RegionKind::Bar(BAR), at, data);
            }
            return Effect::default();
        }
        let effect = self.endpoint.config_write(offset, data);
        self.interrupt.follow_msix();
        effect
    }

    fn regions(&self) -> Vec<Region> {
        self.endpoint.regions()
    }

    fn region_read(&self, _kind: RegionKind, offset: u64, data: &mut [u8]) {
        if let Some((page, offset)) = Page::at(offset) {
            self.page_read(page, offset, data);
        }
    }

    fn region_write(&self, _kind: RegionKind, offset: u64, data: &[u8]) {
        if let Some((page, offset)) = Page::at(offset) {
            self.page_write(page, offset, data);
        }
    }

    fn announce(&self) {
        self.config_changed();
    }

    fn region_placed(&self, _kind: RegionKind, base: Option<u64>) {
        self.ring_bells(base);
    }
}

impl Device for VirtioPci {
    fn id(&self) -> String {
        format!("{}@{}", self.name, self.place)
    }

    fn reset(&self) {
        let mut state = self.state.lock();
        self.reset_device(&mut state);
        self.endpoint.reset();
    }

    fn pause(&self) {
        self.halt(&mut self.state.lock());
    }

    fn resume(&self) {
        let mut state = self.state.lock();
        state.paused = false;
        match std::mem::replace(&mut state.activity, Activity::Inactive) {
            Activity::Paused(parts) => self.activate(&mut state, parts),
            other => state.activity = other,
        }
    }

    fn save(&self) -> Result<Saved, StateError> {
        let state = self.state.lock();
        let queues = match &state.activity {
            Activity::Inactive => None,
            Activity::Paused(parts) => Some(parts.iter().map(QueueState::of).collect()),
            Activity::Active(_) => return Err(StateError::Impossible(format!("{} is not paused", self.id()))),
        };
        let (endpoint, interrupt) = (self.endpoint.save(), self.interrupt.save());
        Saved::new(self.name, VERSION, &VirtioState { endpoint, interrupt, registers: state.registers.clone(), queues })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let saved: VirtioState = saved.open(self.name, VERSION)?;
        let mut state = self.state.lock();
        let impossible = |what: &str| StateError::Impossible(format!("{}: {what}", self.id()));
        if saved.registers.queues.len() != self.max_sizes.len() {
            return Err(impossible("another number of queues"));
        }
        if saved.registers.driver_features & !self.offered() != 0 {
            return Err(impossible("features that it doesn't have"));
        }
        self.endpoint.restore(&saved.endpoint)?;
        self.interrupt.restore(&saved.interrupt);
        state.registers = saved.registers;
        state.activity = Activity::Inactive;
        if let Some(queues) = saved.queues {
            // One worker per queue: two on one ring would give buffers back twice.
            let enabled = self.enabled_queues(&state.registers);
            if !queues.iter().map(|queue| &queue.queue).eq(&enabled) {
                return Err(impossible("other queues at work than are enabled"));
            }
            let mut all = Vec::new();
            for queue in queues {
                let parts = self.parts(&state.registers, queue.queue, queue.progress);
                let mut parts = parts.ok_or_else(|| impossible("a ring that is not in memory"))?;
                parts.broken = queue.broken;
                parts.handler.restore(&queue.handler)?;
                all.push(parts);
            }
            state.paused = true;
            state.activity = Activity::Paused(all);
        }
        Ok(())
    }

    fn unplug(&self) {
        let mut state = self.state.lock();
        self.reset_device(&mut state);
        self.endpoint.reset();
        drop(state);
        self.ring_bells(None);
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if let Activity::Active(workers) = std::mem::replace(&mut state.activity, Activity::Inactive) {
            queues::stop(workers);
        }
    }
}
