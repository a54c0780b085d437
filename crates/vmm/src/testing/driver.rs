//! A small virtio driver on plain memory, for tests: it does what a guest's driver does, and also what none should.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Only tests come here; failing is their way to speak.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress};

use super::{Levels, Messages, message_log};
use crate::doorbell::NoDoorbells;
use crate::irq::{Line, MsiVector};
use crate::memory::GuestRam;
use crate::pci::bar::RegionKind;
use crate::pci::bits::{CAPABILITIES_POINTER, CAPABILITY_MSIX, MSIX_CONTROL_ENABLE};
use crate::pci::{PciFunction, Place};
use crate::virtio::bits::*;
use crate::virtio::{Resources, VirtioDevice, VirtioPci};

const BAR: RegionKind = RegionKind::Bar(0);
const MEMORY: usize = 16 << 20;
const RINGS: u64 = 0x1_0000;
const RING_STEP: u64 = 0x8000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x4000;
/// Where a test may put its data.
pub const DATA: u64 = 0x40_0000;
/// Where indirect tables go.
const TABLES: u64 = 0x30_0000;
const PATIENCE: Duration = Duration::from_secs(20);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A buffer of a chain: address, length, and whether the device writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece(pub u64, pub u32, pub bool);

#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
}

/// The driver, its memory and its device.
pub struct Driver {
    /// The guest's memory.
    pub memory: GuestRam,
    /// The device that is driven.
    pub device: Arc<VirtioPci>,
    /// Messages that it sent.
    pub messages: Messages,
    /// Wires that it drives.
    pub levels: Arc<Levels>,
    vectors: Vec<Arc<dyn MsiVector>>,
    cursors: Vec<Cursor>,
    event_index: bool,
    tables: u64,
}

impl Driver {
    /// A driver of `device`, which hasn't looked at it yet.
    pub fn new(device: Arc<dyn VirtioDevice>) -> Self {
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Self::on(memory, device)
    }

    /// As [`Driver::new`], with queue threads counted from `number`.
    pub fn numbered(device: Arc<dyn VirtioDevice>, number: u32) -> Self {
        Self::make(GuestRam::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap(), device, number)
    }

    /// As [`Driver::new`], on memory that there is already.
    pub fn on(memory: GuestRam, device: Arc<dyn VirtioDevice>) -> Self {
        Self::make(memory, device, 0)
    }

    fn make(memory: GuestRam, device: Arc<dyn VirtioDevice>, number: u32) -> Self {
        let (messages, levels) = (message_log(), Arc::new(Levels::default()));
        let resources = Resources {
            memory: memory.clone(),
            line: Line::alone(levels.clone(), 20),
            messages: Arc::new(messages.clone()),
            doorbells: Arc::new(NoDoorbells),
            queue_numbers: Arc::new(number.into()),
        };
        let device = VirtioPci::new(Place::root(2, 0), device, resources).unwrap();
        let vectors = messages.vectors();
        Self { memory, device, messages, levels, vectors, cursors: Vec::new(), event_index: false, tables: TABLES }
    }

    /// Reads a register of the BAR.
    pub fn get<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.device.region_read(BAR, offset, &mut data);
        data
    }

    /// Writes a register of the BAR.
    pub fn set(&self, offset: u64, data: &[u8]) {
        self.device.region_write(BAR, offset, data);
    }

    /// Reads a 16-bit register of the common structure.
    pub fn common16(&self, register: usize) -> u16 {
        u16::from_le_bytes(self.get(register as u64))
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        let [status] = self.get(COMMON_STATUS as u64);
        status
    }

    /// Writes the device status.
    pub fn set_status(&self, status: u8) {
        self.set(COMMON_STATUS as u64, &[status]);
    }

    /// The features that the device offers.
    pub fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.set(COMMON_DEVICE_FEATURE_SELECT as u64, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.get(COMMON_DEVICE_FEATURE as u64)))
        };
        half(0) | half(1) << 32
    }

    /// Resets the device and agrees on features. Says whether the device does.
    pub fn negotiate(&mut self, features: u64) -> bool {
        self.set_status(0);
        self.cursors.clear();
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.set(COMMON_DRIVER_FEATURE_SELECT as u64, &select.to_le_bytes());
            self.set(COMMON_DRIVER_FEATURE as u64, &half.to_le_bytes());
        }
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        self.event_index = features & FEATURE_EVENT_IDX != 0;
        self.status() & STATUS_FEATURES_OK != 0
    }

    /// Turns MSI-X on, with vector 0 for configuration changes and vector n + 1 for queue n.
    pub fn use_msix(&self) {
        let mut at = [0];
        self.device.config_read(CAPABILITIES_POINTER, &mut at);
        let mut capability = [0, at[0]];
        let mut offset = 0;
        while capability[0] != CAPABILITY_MSIX {
            offset = usize::from(capability[1]);
            assert_ne!(offset, 0, "no MSI-X");
            self.device.config_read(offset, &mut capability);
        }
        self.device.config_write(offset + 2, &MSIX_CONTROL_ENABLE.to_le_bytes());
        for vector in 0..self.vectors.len() as u64 {
            self.set(0x4000 + vector * 16, &(0xfee0_0000 + vector).to_le_bytes());
            self.set(0x4008 + vector * 16, &(vector as u32).to_le_bytes());
            self.set(0x400c + vector * 16, &[0; 4]);
        }
        self.set(COMMON_CONFIG_VECTOR as u64, &[0, 0]);
    }

    /// Address of a queue's descriptor table.
    pub fn ring(&self, queue: u16) -> u64 {
        RINGS + u64::from(queue) * RING_STEP
    }

    /// Sets a queue of `size` up.
    pub fn set_up(&mut self, queue: u16, size: u16) {
        self.set(COMMON_QUEUE_SELECT as u64, &queue.to_le_bytes());
        self.set(COMMON_QUEUE_SIZE as u64, &size.to_le_bytes());
        self.set(COMMON_QUEUE_VECTOR as u64, &(queue + 1).to_le_bytes());
        let ring = self.ring(queue);
        self.set(COMMON_QUEUE_DESC as u64, &ring.to_le_bytes());
        self.set(COMMON_QUEUE_DRIVER as u64, &((ring + AVAILABLE) as u32).to_le_bytes());
        self.set(COMMON_QUEUE_DEVICE as u64, &(ring + USED).to_le_bytes());
        self.set(COMMON_QUEUE_ENABLE as u64, &[1, 0]);
        self.memory.write_slice(&[0; RING_STEP as usize], GuestAddress(ring)).unwrap();
        self.cursors.resize(self.cursors.len().max(usize::from(queue) + 1), Cursor::default());
        self.cursors[usize::from(queue)] = Cursor { size, ..Cursor::default() };
    }

    /// Starts the device: agrees on `features` and the reserved ones, sets up `queues` queues with MSI-X.
    pub fn start(&mut self, features: u64, queues: u16, size: u16) {
        assert!(self.negotiate(features | FEATURE_VERSION_1 | FEATURE_INDIRECT_DESC));
        self.use_msix();
        for queue in 0..queues {
            self.set_up(queue, size);
        }
        self.drive();
    }

    /// Sets DRIVER_OK.
    pub fn drive(&self) {
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
    }

    /// Another driver with the same view of rings, on another device: what a guest is after a restore.
    pub fn take_over(&mut self, other: &Driver) {
        (self.cursors, self.event_index, self.tables) = (other.cursors.clone(), other.event_index, other.tables);
    }

    /// Writes a descriptor anywhere.
    pub fn descriptor(&self, at: u64, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    fn table(&self, at: u64, first: u16, modulus: u16, pieces: &[Piece]) {
        for (i, Piece(address, len, write)) in pieces.iter().enumerate() {
            let index = (first + i as u16) % modulus;
            let more = if i + 1 < pieces.len() { NEXT } else { 0 };
            let flags = more | if *write { WRITE } else { 0 };
            self.descriptor(at + u64::from(index) * 16, *address, *len, flags, (index + 1) % modulus);
        }
    }

    /// Makes a chain available, without a kick. Returns its head.
    pub fn post(&mut self, queue: u16, pieces: &[Piece]) -> u16 {
        let cursor = self.cursors[usize::from(queue)];
        let head = cursor.next_descriptor;
        self.table(self.ring(queue), head, cursor.size, pieces);
        self.cursors[usize::from(queue)].next_descriptor = (head + pieces.len() as u16) % cursor.size;
        self.make_available(queue, head);
        head
    }

    /// The same by an indirect table.
    pub fn post_indirect(&mut self, queue: u16, pieces: &[Piece]) -> u16 {
        let table = self.tables;
        self.tables += pieces.len() as u64 * 16;
        if self.tables > DATA - 0x1_0000 {
            self.tables = TABLES;
        }
        self.table(table, 0, u16::MAX, pieces);
        self.post_table(queue, table, pieces.len() as u32 * 16)
    }

    /// Makes a descriptor available that refers to a table.
    pub fn post_table(&mut self, queue: u16, table: u64, len: u32) -> u16 {
        let cursor = &mut self.cursors[usize::from(queue)];
        let head = cursor.next_descriptor;
        cursor.next_descriptor = (head + 1) % cursor.size;
        self.descriptor(self.ring(queue) + u64::from(head) * 16, table, len, INDIRECT, 0);
        self.make_available(queue, head);
        head
    }

    /// Puts a head into the available ring.
    pub fn make_available(&mut self, queue: u16, head: u16) {
        let ring = self.ring(queue) + AVAILABLE;
        let cursor = &mut self.cursors[usize::from(queue)];
        let slot = u64::from(cursor.available % cursor.size);
        cursor.available = cursor.available.wrapping_add(1);
        self.memory.write_obj(head, GuestAddress(ring + 4 + slot * 2)).unwrap();
        let release = std::sync::atomic::Ordering::SeqCst;
        self.memory.store(cursor.available, GuestAddress(ring + 2), release).unwrap();
    }

    /// Writes the available index as it shouldn't be.
    pub fn forge_available(&self, queue: u16, index: u16) {
        self.memory.write_obj(index, GuestAddress(self.ring(queue) + AVAILABLE + 2)).unwrap();
    }

    /// Notifies the device.
    pub fn kick(&self, queue: u16) {
        self.set(0x3000 + u64::from(queue) * 4, &queue.to_le_bytes());
    }

    /// The next used element, if there is one: head and length.
    pub fn used(&mut self, queue: u16) -> Option<(u16, u32)> {
        let ring = self.ring(queue);
        let cursor = &mut self.cursors[usize::from(queue)];
        let acquire = std::sync::atomic::Ordering::SeqCst;
        let index: u16 = self.memory.load(GuestAddress(ring + USED + 2), acquire).unwrap();
        if index == cursor.used {
            return None;
        }
        let slot = u64::from(cursor.used % cursor.size);
        cursor.used = cursor.used.wrapping_add(1);
        if self.event_index {
            let event = ring + AVAILABLE + 4 + u64::from(cursor.size) * 2;
            self.memory.store(cursor.used, GuestAddress(event), acquire).unwrap();
        }
        let element: [u32; 2] = self.memory.read_obj(GuestAddress(ring + USED + 4 + slot * 8)).unwrap();
        Some((element[0] as u16, element[1]))
    }

    /// Waits for the next used element, by the queue's interrupt.
    pub fn wait(&mut self, queue: u16) -> (u16, u32) {
        loop {
            if let Some(element) = self.used(queue) {
                return element;
            }
            self.wait_vector(queue + 1);
        }
    }

    /// Waits until a vector is signalled.
    pub fn wait_vector(&self, vector: u16) {
        let event = self.vectors[usize::from(vector)].event();
        // SAFETY: the event outlives the call and keeps its descriptor open.
        #[allow(unsafe_code)]
        let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
        let patience = Timespec::try_from(PATIENCE).unwrap();
        let ready = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&patience)).unwrap();
        assert_eq!(ready, 1, "vector {vector} isn't signalled");
        event.read().unwrap();
    }

    /// Whether a vector was signalled since the last look.
    pub fn signalled(&self, vector: u16) -> bool {
        self.vectors[usize::from(vector)].event().read().is_ok()
    }

    /// Copies bytes into guest memory.
    pub fn put(&self, address: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
    }

    /// Copies bytes out of guest memory.
    pub fn take(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }
}
