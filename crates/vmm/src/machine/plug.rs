//! Plugging the configuration's PCI devices in.

use std::sync::Arc;

use super::{Board, Error};
use crate::config::Config;
use crate::pci::root_port::{PIN, RootPort};
use crate::pci::{PciHost, Place};
use crate::virtio::blk::Blk;
use crate::virtio::console::Console;
use crate::virtio::rng::Rng;
use crate::virtio::{Resources, VirtioDevice, VirtioPci};

impl Board {
    /// Plugs root ports, then what may be behind them.
    pub(super) fn plug_all(&self, config: &mut Config) -> Result<(), Error> {
        for port in &config.root_ports {
            let line = self.pci.line(port.place, PIN)?;
            let vector = self.messages().vector()?;
            self.pci.plug(port.place, RootPort::new(port.place, port.slot, port.multifunction, line, vector))?;
        }
        for disk in config.disks.drain(..) {
            self.plug_virtio(disk.place, Blk::new(disk.image, disk.queues, &disk.serial))?;
        }
        for console in config.consoles.drain(..) {
            self.plug_virtio(console.place, Console::new(console.ends, console.columns, console.rows)?)?;
        }
        if let Some(rng) = config.rng {
            self.plug_virtio(rng.place, Rng::new())?;
        }
        Ok(())
    }

    /// Plugs a virtio device in.
    ///
    /// # Errors
    /// When the place is taken or the host gives no event.
    pub fn plug_virtio(&self, place: Place, device: Arc<dyn VirtioDevice>) -> Result<(), Error> {
        let resources = Resources {
            memory: self.ram.clone(),
            line: self.pci.line(place, VirtioPci::PIN)?,
            messages: self.messages(),
            doorbells: self.doorbells(),
            queue_numbers: self.queue_numbers.clone(),
        };
        let function = VirtioPci::new(place, device, resources)?;
        Ok(PciHost::plug(&self.pci, place, function)?)
    }
}
