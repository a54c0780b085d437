//! Plugs the configured devices into PCI.

use std::sync::Arc;

use super::Error;
use crate::arch::x86_64::{Irqchip, KvmDoorbells, Vm};
use crate::config::{Config, PciDevice, PciKind};
use crate::display::Display;
use crate::doorbell::Doorbells;
use crate::irq::MsiController;
use crate::memory::{GuestRam, slots::Slots};
use crate::pci::root_port::{self, RootPort};
use crate::pci::{PciFunction, PciHost};
use crate::virtio::blk::Blk;
use crate::virtio::console::{Console, Endpoints};
use crate::virtio::net::{Card, Net};
use crate::virtio::rng::Rng;
use crate::virtio::{Numbers, Resources, VirtioDevice, VirtioPci};

/// What devices are given of the board.
pub(super) struct Socket {
    pub(super) pci: Arc<PciHost>,
    pub(super) ram: GuestRam,
    pub(super) slots: Arc<Slots>,
    pub(super) messages: Arc<dyn MsiController>,
    pub(super) doorbells: Arc<dyn Doorbells>,
    pub(super) numbers: Numbers,
}

impl Socket {
    pub(super) fn new(pci: &Arc<PciHost>, ram: &GuestRam, slots: &Arc<Slots>, irqchip: &Irqchip, vm: &Vm) -> Self {
        Self {
            pci: pci.clone(),
            ram: ram.clone(),
            slots: slots.clone(),
            messages: Arc::new(irqchip.clone()),
            doorbells: Arc::new(KvmDoorbells::new(vm.fd().clone())),
            numbers: Numbers::default(),
        }
    }
}

/// What the owner has to do with while the machine runs.
#[derive(Default)]
pub(super) struct Plugged {
    pub(super) display: Option<Arc<Display>>,
    pub(super) cards: Vec<Socketed>,
}

/// A network card in its slot.
pub struct Socketed {
    net: Arc<Net>,
    function: Arc<VirtioPci>,
}

impl Socketed {
    /// Plugs the cable in or out; the guest is told.
    pub fn set_link(&self, up: bool) {
        self.net.set_link(up);
        self.function.config_changed();
    }

    /// The card.
    pub fn net(&self) -> &Net {
        &self.net
    }
}

/// Plugs all devices of `config`.
pub(super) fn all(config: &Config, socket: &Socket) -> Result<Plugged, Error> {
    let mut plugged = Plugged::default();
    for device in &config.pci {
        one(device, socket, &mut plugged)?;
    }
    if let Some(wanted) = &config.display {
        let display = Display::new(wanted.place, wanted.memory.clone(), socket.slots.clone());
        socket.pci.plug(wanted.place, display.clone())?;
        plugged.display = Some(display);
    }
    Ok(plugged)
}

/// Plugs a device.
pub(super) fn one(device: &PciDevice, socket: &Socket, plugged: &mut Plugged) -> Result<(), Error> {
    let function = make(device, socket, plugged)?;
    Ok(socket.pci.plug(device.place, function)?)
}

fn make(device: &PciDevice, socket: &Socket, plugged: &mut Plugged) -> Result<Arc<dyn PciFunction>, Error> {
    let virtio: Arc<dyn VirtioDevice> = match &device.kind {
        PciKind::RootPort { slot, multifunction } => {
            let line = socket.pci.line(device.place, root_port::PIN)?;
            return Ok(RootPort::new(device.place, *slot, *multifunction, line, socket.messages.vector()?));
        }
        PciKind::Net { network, mac, mtu, link } => {
            let net = Net::new(network.clone(), *mac, *mtu);
            net.set_link(*link);
            let function = virtio_function(device, Arc::new(Card(net.clone())), socket)?;
            plugged.cards.push(Socketed { net, function: function.clone() });
            return Ok(function);
        }
        PciKind::Disk(drive) => Blk::new(drive.clone()),
        PciKind::Rng => Rng::new(),
        PciKind::Console { input, output, columns, rows } => {
            let ends = Endpoints { input: input.try_clone()?, output: output.try_clone()? };
            Console::new(ends, *columns, *rows)?
        }
    };
    Ok(virtio_function(device, virtio, socket)?)
}

fn virtio_function(at: &PciDevice, device: Arc<dyn VirtioDevice>, socket: &Socket) -> Result<Arc<VirtioPci>, Error> {
    let resources = Resources {
        memory: socket.ram.clone(),
        line: socket.pci.line(at.place, VirtioPci::PIN)?,
        messages: socket.messages.clone(),
        doorbells: socket.doorbells.clone(),
        queue_numbers: socket.numbers.clone(),
    };
    Ok(VirtioPci::new(at.place, device, resources)?)
}
