//! A whole machine: board, processors, and what the owner does with them.
//!
//! ```text
//!   new ──▶ standing ── start ──▶ running ── pause ──▶ paused ── save
//!              ▲                   │    ◀── resume ──  ▲  │ ◀── restore
//!              │                   │                   └──┘ reset: as new, and paused still
//!              └───── reset ◀──────┘ guest turns off, resets, or breaks: an Event
//!                                    (processors stand until the owner acts)
//! ```
//!
//! What a device is and does is elsewhere; here they are put together.

mod board;
mod config_ring;
mod crew;
mod event;
mod exits;
mod plug;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

pub use board::{Board, SCI};
pub use event::{Event, Fault};
pub use plug::Socketed;
pub use state::MachineState;

use crate::arch::x86_64::cpuid::TopologyError;
use crate::arch::x86_64::irqchip::IrqchipState;
use crate::arch::x86_64::vcpu::VcpuState;
use crate::arch::x86_64::{KvmError, msr};
use crate::boot::{self, BootError};
use crate::bus::ClaimError;
use crate::chipset::direct::{self, DirectError};
use crate::config::{Action, Actions, Config, Linux};
use crate::device::StateError;
use crate::display::Display;
use crate::legacy::i8042::KeyboardController;
use crate::legacy::serial::Serial;
use crate::memory::{GuestRam, RamError, slots::SlotError};
use crate::pci::{Place, PlugError};
use crew::Crew;

/// Why a machine can't be made, started, saved or restored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each variant says what its source is of; the sources are documented.
pub enum Error {
    #[error("the machine's processors can't be arranged like that")]
    Topology(#[from] TopologyError),
    #[error("the machine's memory can't be made")]
    Ram(#[from] RamError),
    #[error("the machine's memory can't be shown to the guest")]
    Slots(#[from] SlotError),
    #[error("the kernel's virtual machine failed")]
    Kvm(#[from] KvmError),
    #[error("two devices want the same place")]
    Claim(#[from] ClaimError),
    #[error("a PCI device can't be plugged")]
    Plug(#[from] PlugError),
    #[error("the devices can't be placed")]
    Direct(#[from] DirectError),
    #[error("the machine can't boot")]
    Boot(#[from] BootError),
    #[error("a device's state can't be handled")]
    State(#[from] StateError),
    #[error("the host gives no thread or descriptor")]
    Host(#[from] std::io::Error),
    #[error("at most 4 serial ports fit into a machine, {0} were asked for")]
    Serials(usize),
    #[error("the ACPI or SMBIOS tables are too long: take devices out of the machine")]
    Tables,
    #[error("the state is of a machine {found}, this one is {wanted}")]
    Version { wanted: String, found: String },
}

/// What became of a machine after an [`Event`].
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was reset, and goes on unless it is paused.
    Runs,
    /// It stands, by [`Action::Preserve`].
    Stands,
    /// It is to be dropped.
    Ended,
}

/// A machine.
pub struct Machine {
    // First, so that the processors' threads end before the devices go.
    crew: Arc<Crew>,
    board: Board,
    boot: Linux,
    actions: Actions,
    power_on: PowerOn,
    /// Between [`Machine::pause`] and [`Machine::resume`].
    paused: AtomicBool,
}

/// Processors and controllers as they were before the first instruction.
struct PowerOn {
    vcpus: Vec<VcpuState>,
    irqchip: IrqchipState,
}

impl Machine {
    /// Makes a machine that stands before its kernel's first instruction, and the source of its events.
    ///
    /// # Errors
    /// When the configuration can't be built on this host, or can't be booted.
    pub fn new(config: Config) -> Result<(Self, Receiver<Event>), Error> {
        config.cpus.check()?;
        let ram = crate::memory::allocate(config.memory.bytes, config.memory.backing)?;
        let (machine, events) = Self::assemble(config, ram)?;
        machine.power_on()?;
        Ok((machine, events))
    }

    /// Makes a machine on RAM that another life of it has left, in the state that was saved from it. It is paused.
    ///
    /// # Errors
    /// When the configuration can't be built, or the state doesn't fit it.
    pub fn restore(config: Config, ram: GuestRam, state: &MachineState) -> Result<(Self, Receiver<Event>), Error> {
        config.cpus.check()?;
        let (machine, events) = Self::assemble(config, ram)?;
        machine.restore_state(state)?;
        machine.paused.store(true, Ordering::Release);
        Ok((machine, events))
    }

    fn assemble(config: Config, ram: GuestRam) -> Result<(Self, Receiver<Event>), Error> {
        let (report, events) = std::sync::mpsc::channel();
        let crew = Crew::new(report);
        let (board, vcpus) = Board::new(&config, ram, crew.clone())?;
        let power_on = PowerOn {
            vcpus: vcpus.iter().map(|vcpu| vcpu.save()).collect::<Result<_, _>>()?,
            irqchip: board.irqchip.save()?,
        };
        crew.hire(vcpus, &board)?;
        let (boot, actions) = (config.boot, config.actions);
        Ok((Self { crew, board, boot, actions, power_on, paused: AtomicBool::new(false) }, events))
    }

    /// Lets the processors run.
    pub fn start(&self) {
        self.crew.run();
    }

    /// Stops processors, then devices. Nothing is in flight when this returns.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
        self.crew.stand();
        self.board.devices.iter().for_each(|device| device.pause());
    }

    /// Goes on after [`Machine::pause`].
    pub fn resume(&self) {
        self.board.devices.iter().for_each(|device| device.resume());
        self.crew.each(|vcpu| vcpu.stood_still());
        self.paused.store(false, Ordering::Release);
        self.crew.run();
    }

    /// Resets the machine: process, disks, viewers and RAM stay. The processors run again when this returns, but for
    /// those of a paused machine, which stays paused and boots when it is resumed.
    ///
    /// # Errors
    /// When the kernel can't be loaded again or KVM refuses; the machine stands then.
    pub fn reset(&self) -> Result<(), Error> {
        self.crew.stand();
        self.board.irqchip.restore(&self.power_on.irqchip)?;
        for (vcpu, state) in self.power_on.vcpus.iter().enumerate() {
            self.crew.with(vcpu, |vcpu| vcpu.restore(state))?;
        }
        self.board.devices.iter().for_each(|device| device.reset());
        self.power_on()?;
        if !self.paused.load(Ordering::Acquire) {
            self.crew.run();
        }
        Ok(())
    }

    // What firmware would do, then the kernel.
    fn power_on(&self) -> Result<(), Error> {
        direct::program(&self.board.pci)?;
        let tables = self.board.write_tables()?;
        let screen = match &self.board.display {
            Some(display) if boot::has_boot_screen(&self.boot)? => display.set_boot_screen(),
            _ => None,
        };
        let told = boot::Told { rsdp: tables, screen };
        let entry = boot::load(&self.board.ram, self.board.split, &self.boot, told)?;
        let msrs = msr::at_boot(self.board.split, self.board.pci.physical_bits());
        self.crew.try_each(|vcpu| vcpu.set_msrs(&msrs))?;
        Ok(self.crew.with(0, |vcpu| vcpu.enter(entry))?)
    }

    /// Does what the configuration says should follow an event.
    ///
    /// # Errors
    /// When a restart fails.
    pub fn act(&self, event: &Event) -> Result<Outcome, Error> {
        let action = match event {
            Event::PoweredOff => self.actions.poweroff,
            Event::Reset(_) => self.actions.reboot,
            Event::Broken(_) => self.actions.crash,
        };
        match action {
            Action::Destroy => Ok(Outcome::Ended),
            Action::Preserve => Ok(Outcome::Stands),
            Action::Restart => self.reset().map(|()| Outcome::Runs),
        }
    }

    /// Presses the power button; what follows is the guest's.
    pub fn press_power_button(&self) {
        self.board.pm.press_power_button();
    }

    /// Tells the driver of the device at a place that what it shows has changed, e.g. its disk's length.
    pub fn announce(&self, place: Place) {
        self.board.pci.announce(place);
    }

    /// The serial port COM`number + 1`.
    pub fn serial(&self, number: usize) -> Option<&Arc<Serial>> {
        self.board.serials.get(number)
    }

    /// The display, if there is one.
    pub fn display(&self) -> Option<&Arc<Display>> {
        self.board.display.as_ref()
    }

    /// The network cards, in the configuration's order.
    pub fn cards(&self) -> &[Socketed] {
        &self.board.cards
    }

    /// Keyboard and mouse, if the machine has them.
    pub fn ps2(&self) -> Option<&Arc<KeyboardController>> {
        self.board.ps2.as_ref()
    }

    /// RAM, which outlives the machine as long as somebody holds it.
    pub fn ram(&self) -> &GuestRam {
        &self.board.ram
    }

    /// The board, with its devices.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.crew.dismiss();
        for device in self.board.devices.iter().rev() {
            device.unplug();
        }
    }
}
