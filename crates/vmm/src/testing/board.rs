//! A root complex with chipset, root ports and functions, on plain buses.

#![allow(clippy::unwrap_used)] // Only tests and fuzzers come here; failing is their way to speak.

use std::sync::Arc;

use parking_lot::Mutex;
use vm_memory::GuestAddress;

use super::{Levels, MemoryDisk, Messages, ScratchFunction, message_log};
use crate::bus::{Bus, BusDevice};
use crate::chipset::{Lpc, Mch};
use crate::device::Device;
use crate::doorbell::NoDoorbells;
use crate::memory::GuestRam;
use crate::pci::intx::Pin;
use crate::pci::root_port::{self, RootPort};
use crate::pci::{Bdf, PciHost, Place, PortPlace, Surroundings};
use crate::virtio::blk::{Blk, Drive};
use crate::virtio::{Resources, VirtioPci};

/// A register block that reads 0x5a and remembers what is written.
#[derive(Default)]
pub struct Register(Mutex<Vec<u8>>);

impl BusDevice for Register {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn write(&self, _offset: u64, data: &[u8]) {
        self.0.lock().extend(data);
    }
}

impl Register {
    /// All bytes written so far.
    pub fn written(&self) -> Vec<u8> {
        self.0.lock().clone()
    }
}

/// Place of the function on bus 0.
pub const NEAR: Place = Place { port: None, device: 3, function: 0 };
/// Place of the function behind the first port.
pub const FAR: Place = Place { port: Some(PortPlace { device: 2, function: 0 }), device: 0, function: 0 };

/// The board: a function at 00:03.0, one behind the root port 00:02.0, nothing behind the port 00:02.1, and when
/// asked for a block device at 00:04.0.
#[allow(missing_docs)] // The fields are what they are called.
pub struct Board {
    pub ports: Arc<Bus>,
    pub memory: Arc<Bus>,
    pub ram: GuestRam,
    pub levels: Arc<Levels>,
    pub messages: Messages,
    pub reset_control: Arc<Register>,
    pub power_management: Arc<Register>,
    pub host: Arc<PciHost>,
    pub near: Arc<ScratchFunction>,
    pub far: Arc<ScratchFunction>,
}

/// A function's address.
pub fn at(bus: u8, device: u8, function: u8) -> Bdf {
    Bdf { bus, device, function }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A board that was reset.
    pub fn new() -> Self {
        Self::on(GuestRam::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap())
    }

    /// As [`Board::new`], on memory that there is already.
    pub fn on(ram: GuestRam) -> Self {
        let (ports, memory) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
        let (levels, messages) = (Arc::new(Levels::default()), message_log());
        let (reset_control, power_management) = (Arc::new(Register::default()), Arc::new(Register::default()));
        let host = PciHost::new(Surroundings {
            ports: ports.clone(),
            memory: memory.clone(),
            wires: levels.clone(),
            physical_bits: 40,
            low_memory_end: 0x8000_0000,
            high_memory_end: 0x1_8000_0000,
            reset_control: reset_control.clone(),
        })
        .unwrap();
        host.plug(Mch::place(), Mch::new(host.ecam())).unwrap();
        host.plug(Lpc::place(), Lpc::new(power_management.clone(), host.router().clone())).unwrap();
        for function in 0..2 {
            let place = Place::root(2, function);
            let line = host.line(place, root_port::PIN).unwrap();
            let port = RootPort::new(place, u16::from(function) + 1, function == 0, line, messages.vector());
            host.plug(place, port).unwrap();
        }
        let scratch = |place| {
            let function = ScratchFunction::new(place, host.line(place, Pin::A).unwrap());
            host.plug(place, function.clone()).unwrap();
            function
        };
        let (near, far) = (scratch(NEAR), scratch(FAR));
        host.reset();
        Self { ports, memory, ram, levels, messages, reset_control, power_management, host, near, far }
    }

    /// Plugs a block device with two queues.
    pub fn with_disk(self) -> Self {
        let place = Place::root(4, 0);
        let resources = Resources {
            memory: self.ram.clone(),
            line: self.host.line(place, VirtioPci::PIN).unwrap(),
            messages: Arc::new(self.messages.clone()),
            doorbells: Arc::new(NoDoorbells),
            queue_numbers: Arc::default(),
        };
        let blk = Blk::new(Drive { queues: 2, ..Drive::new("fuzz", MemoryDisk::new(0x1_0000, false)) });
        self.host.plug(place, VirtioPci::new(place, blk, resources).unwrap()).unwrap();
        self
    }

    /// Sets CONFIG_ADDRESS.
    pub fn select(&self, at: Bdf, register: u8) {
        let devfn = u32::from(at.device) << 3 | u32::from(at.function);
        let address = 1 << 31 | u32::from(at.bus) << 16 | devfn << 8 | u32::from(register & 0xfc);
        assert!(self.ports.write(0xcf8, &address.to_le_bytes()));
    }

    /// Reads configuration space by the ports.
    pub fn peek<const N: usize>(&self, at: Bdf, register: u8) -> [u8; N] {
        self.select(at, register);
        let mut data = [0; N];
        self.ports.read(0xcfc + u64::from(register & 3), &mut data);
        data
    }

    /// Writes configuration space by the ports.
    pub fn poke(&self, at: Bdf, register: u8, data: &[u8]) {
        self.select(at, register);
        self.ports.write(0xcfc + u64::from(register & 3), data);
    }

    /// Whether anybody answers at an address.
    pub fn claimed(&self, address: u64) -> bool {
        self.memory.read(address, &mut [0])
    }
}
