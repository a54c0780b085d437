//! Assembly: memory, buses, interrupt controllers and devices.

use std::sync::Arc;

use kvm_ioctls::Cap;
use vm_memory::{Bytes, GuestAddress};

use super::Error;
use super::crew::Crew;
use super::plug::{self, Plugged, Socket, Socketed};
use crate::acpi;
use crate::arch::x86_64::cpuid::Cpuid;
use crate::arch::x86_64::vcpu::Vcpu;
use crate::arch::x86_64::vm::Doing;
use crate::arch::x86_64::{Irqchip, Vm, msr};
use crate::boot::BootError;
use crate::bus::{Bus, BusDevice};
use crate::chipset::pm::PowerManagement;
use crate::chipset::{Lpc, Mch};
use crate::config::{Config, PciDevice, VERSION};
use crate::device::Device;
use crate::display::Display;
use crate::irq::Line;
use crate::legacy::i8042::{self, KeyboardController};
use crate::legacy::ports::Ports;
use crate::legacy::rtc::{self, RealTimeClock};
use crate::legacy::serial::{COM, LEN, Serial};
use crate::memory::layout::{ABOVE_4G, HIGH_RAM, RamSplit, TABLES};
use crate::memory::{GuestRam, slots::Slots};
use crate::pci::intx::FIRST_FREE_ISA_SOURCE;
use crate::pci::{PciHost, PciSnapshot, Place, Surroundings};
use crate::smbios;
use crate::time::{HostTime, Time};

/// ISA interrupt of ACPI.
pub const SCI: u8 = 9;

/// Everything but the processors.
pub struct Board {
    pub(super) irqchip: Irqchip,
    pub(super) split: RamSplit,
    pub(super) ports: Arc<Bus>,
    pub(super) memory: Arc<Bus>,
    pub(super) pci: Arc<PciHost>,
    pub(super) pm: Arc<PowerManagement>,
    pub(super) serials: Vec<Arc<Serial>>,
    pub(super) display: Option<Arc<Display>>,
    pub(super) cards: Vec<Socketed>,
    pub(super) ps2: Option<Arc<KeyboardController>>,
    /// All devices, in the order in which they are paused, saved and restored.
    pub(super) devices: Vec<Arc<dyn Device>>,
    pub(super) ram: GuestRam,
    described: acpi::Machine,
    identity: smbios::Machine,
    slots: Arc<Slots>,
    socket: Socket,
    // Last, so that nothing is left that uses it when its descriptor is closed.
    pub(super) vm: Vm,
}

impl Board {
    pub(super) fn new(config: &Config, ram: GuestRam, crew: Arc<Crew>) -> Result<(Self, Vec<Vcpu>), Error> {
        let vm = Vm::new(config.kvm.try_clone()?, config.legacy.speaker)?;
        let slots = Arc::new(Slots::new(vm.slot_table(), vm.slot_limit()));
        slots.add_ram(&ram, config.display.is_some())?;
        let irqchip = Irqchip::new(vm.fd().clone())?;
        let cpuid = cpuid(&vm, config)?;
        let split = RamSplit::of(config.memory.bytes);
        let (ports, memory) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
        let bytes = Ports::new(crew.clone());
        bytes.claim(&ports)?;
        let pci = root_complex(&irqchip, &cpuid, split, [&ports, &memory], bytes.reset_control())?;
        let time: Arc<dyn Time> = Arc::new(HostTime::new());
        let pm = chipset(&pci, &crew, &time)?;
        let mut devices: Vec<Arc<dyn Device>> = vec![bytes, pm.clone()];
        let ps2 = keyboard_controller(config, &pci, &ports, &crew)?;
        devices.extend(ps2.iter().map(|ps2| ps2.clone() as Arc<dyn Device>));
        devices.extend(clock(config, &pci, &ports, time)?);
        let serials = serials(config, &pci, &ports)?;
        devices.extend(serials.iter().map(|serial| serial.clone() as Arc<dyn Device>));
        let socket = Socket::new(&pci, &ram, &slots, &irqchip, &vm);
        let Plugged { display, cards } = plug::all(config, &socket)?;
        devices.push(pci.clone());
        let vcpus = vcpus(&vm, config, &cpuid)?;
        let (described, identity) = (described(config), identity(config, split));
        let board = Self {
            irqchip,
            split,
            ports,
            memory,
            pci,
            pm,
            serials,
            ps2,
            display,
            cards,
            devices,
            ram,
            described,
            identity,
            slots,
            socket,
            vm,
        };
        Ok((board, vcpus))
    }

    /// Plugs a device into a machine that runs. Behind a root port, the guest is told.
    ///
    /// # Errors
    /// When the place is taken or can't be, or the host has no descriptor left.
    pub fn plug(&self, device: &PciDevice) -> Result<(), Error> {
        plug::one(device, &self.socket, &mut Plugged::default())
    }

    /// Pulls a device out of a machine that runs. Says whether there was one.
    pub fn unplug(&self, place: Place) -> bool {
        self.pci.unplug_function(place)
    }

    /// The PCI root complex.
    pub fn pci(&self) -> &Arc<PciHost> {
        &self.pci
    }

    /// The owner of the memory slots.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Writes the tables that firmware would have made. Gives the address of ACPI's root pointer.
    pub(super) fn write_tables(&self) -> Result<u64, Error> {
        let described = acpi::Machine { pci: self.pci.snapshot(), ..self.described.clone() };
        let (image, root) = acpi::tables(&described);
        let tables = image.place(TABLES);
        let identity = smbios::place(&self.identity, smbios::SEGMENT as u32);
        // ACPI has the segment before SMBIOS's, which has the one up to 1 MiB.
        if TABLES + tables.len() as u64 > smbios::SEGMENT || smbios::SEGMENT + identity.len() as u64 > HIGH_RAM {
            return Err(Error::Tables);
        }
        let write = |at, bytes: &[u8]| self.ram.write_slice(bytes, GuestAddress(at)).map_err(BootError::Memory);
        write(TABLES, &tables)?;
        write(smbios::SEGMENT, &identity)?;
        Ok(TABLES + root as u64)
    }
}

fn described(config: &Config) -> acpi::Machine {
    acpi::Machine {
        // Every id of a checked topology fits, as its own test shows.
        apic_ids: (0..config.cpus.processors()).map(|n| config.cpus.apic_id(n) as u8).collect(),
        pci: PciSnapshot::default(),
        ps2: config.legacy.ps2,
        rtc: config.legacy.rtc.is_some(),
        serials: COM.iter().take(config.legacy.serials).copied().collect(),
    }
}

fn identity(config: &Config, split: RamSplit) -> smbios::Machine {
    let mut memory = vec![(0, split.below_4g)];
    if split.above_4g > 0 {
        memory.push((ABOVE_4G, split.above_4g));
    }
    smbios::Machine {
        uuid: config.uuid,
        sockets: config.cpus.sockets,
        cores: config.cpus.dies * config.cpus.cores,
        threads: config.cpus.threads_per_socket(),
        memory,
        version: VERSION,
    }
}

// A board device's end of an ISA wire that PIRQs may share.
fn isa(pci: &PciHost, irq: u8, which: u32) -> Line {
    pci.router().isa(irq).line(FIRST_FREE_ISA_SOURCE + which)
}

fn cpuid(vm: &Vm, config: &Config) -> Result<Cpuid, Error> {
    let supported = vm.kvm().get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES);
    let supported = supported.doing("list the features that it supports")?;
    let deadline = vm.fd().check_extension(Cap::TscDeadlineTimer);
    Ok(Cpuid::new(supported.as_slice(), config.cpus, deadline))
}

fn vcpus(vm: &Vm, config: &Config, cpuid: &Cpuid) -> Result<Vec<Vcpu>, Error> {
    let msrs: Arc<[u32]> = msr::saved_list(vm.kvm())?.into();
    let make = |number| Vcpu::new(vm, number, config.cpus.apic_id(number), cpuid, msrs.clone());
    Ok((0..config.cpus.processors()).map(make).collect::<Result<_, _>>()?)
}

fn root_complex(
    irqchip: &Irqchip,
    cpuid: &Cpuid,
    split: RamSplit,
    [ports, memory]: [&Arc<Bus>; 2],
    reset_control: Arc<dyn BusDevice>,
) -> Result<Arc<PciHost>, Error> {
    Ok(PciHost::new(Surroundings {
        ports: ports.clone(),
        memory: memory.clone(),
        wires: Arc::new(irqchip.clone()),
        physical_bits: cpuid.physical_bits(),
        low_memory_end: split.below_4g,
        high_memory_end: ABOVE_4G + split.above_4g,
        reset_control,
    })?)
}

// Host bridge and LPC bridge, with the power management block that the latter places.
fn chipset(pci: &PciHost, crew: &Arc<Crew>, time: &Arc<dyn Time>) -> Result<Arc<PowerManagement>, Error> {
    let pm = PowerManagement::new(isa(pci, SCI, 0), crew.clone(), time.clone());
    pci.plug(Mch::place(), Mch::new(pci.ecam()))?;
    pci.plug(Lpc::place(), Lpc::new(pm.clone(), pci.router().clone()))?;
    Ok(pm)
}

fn keyboard_controller(
    config: &Config,
    pci: &PciHost,
    ports: &Bus,
    crew: &Arc<Crew>,
) -> Result<Option<Arc<KeyboardController>>, Error> {
    if !config.legacy.ps2 {
        return Ok(None);
    }
    let controller = KeyboardController::new(i8042::IRQS.map(|irq| isa(pci, irq, 0)), crew.clone());
    controller.claim(ports)?;
    Ok(Some(controller))
}

fn clock(config: &Config, pci: &PciHost, ports: &Bus, time: Arc<dyn Time>) -> Result<Option<Arc<dyn Device>>, Error> {
    let Some(wanted) = config.legacy.rtc else { return Ok(None) };
    let clock = RealTimeClock::new(isa(pci, rtc::IRQ, 0), time, wanted.offset);
    ports.claim(rtc::PORT, rtc::LEN, clock.clone())?;
    Ok(Some(clock))
}

fn serials(config: &Config, pci: &PciHost, ports: &Bus) -> Result<Vec<Arc<Serial>>, Error> {
    let wanted = COM.get(..config.legacy.serials).ok_or(Error::Serials(config.legacy.serials))?;
    let mut serials = Vec::new();
    for (number, (port, irq)) in wanted.iter().enumerate() {
        // COM1 and COM3 share a wire, so do COM2 and COM4.
        let serial = Serial::new(number, isa(pci, *irq as u8, number as u32));
        ports.claim(u64::from(*port), LEN, serial.clone())?;
        serials.push(serial);
    }
    Ok(serials)
}
