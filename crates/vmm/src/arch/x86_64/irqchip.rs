//! Interrupts by KVM's in-kernel controllers, and the one owner of the GSI routing table.
//!
//! GSI 0-15 are the ISA interrupts, wired to both the 8259s and the I/O APIC (IRQ 0 on pin 2, as MADT says), 16-23 the
//! I/O APIC's PCI pins; from 24 on each GSI is one message vector. `KVM_SET_GSI_ROUTING` replaces the whole table,
//! so nobody else may call it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KvmIrqRouting, kvm_irq_routing_entry, kvm_irqchip, kvm_pit_state2,
};
use kvm_ioctls::{Cap, VmFd};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::vm::{Doing, KvmError};
use crate::irq::{MsiController, MsiMessage, MsiVector, Wires};

/// First GSI that isn't a pin.
const FIRST_VECTOR: u32 = 24;

/// The machine's interrupt controllers.
#[derive(Clone)]
pub struct Irqchip {
    routes: Arc<Routes>,
}

/// State of the controllers and the interval timer.
#[derive(Serialize, Deserialize)]
pub struct IrqchipState {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

struct Routes {
    fd: Arc<VmFd>,
    limit: u32,
    /// Vectors in use, and what each is routed to.
    vectors: Mutex<BTreeMap<u32, Option<MsiMessage>>>,
}

impl Irqchip {
    /// Takes over the routing table.
    ///
    /// # Errors
    /// When the kernel refuses the table.
    pub fn new(fd: Arc<VmFd>) -> Result<Self, KvmError> {
        let limit = u32::try_from(fd.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        let routes = Arc::new(Routes { fd, limit, vectors: Mutex::default() });
        routes.write(&BTreeMap::new()).doing("route interrupts")?;
        Ok(Self { routes })
    }

    /// Reads the controllers' state. Only while the processors stand.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn save(&self) -> Result<IrqchipState, KvmError> {
        let fd = &self.routes.fd;
        let mut chips = Vec::new();
        for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            fd.get_irqchip(&mut chip).doing("read an interrupt controller")?;
            chips.push(chip);
        }
        Ok(IrqchipState { chips, pit: fd.get_pit2().doing("read the interval timer")? })
    }

    /// Writes the controllers' state. Only while the processors stand.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(&self, state: &IrqchipState) -> Result<(), KvmError> {
        let fd = &self.routes.fd;
        for chip in &state.chips {
            fd.set_irqchip(chip).doing("set an interrupt controller")?;
        }
        fd.set_pit2(&state.pit).doing("set the interval timer")
    }
}

impl Wires for Irqchip {
    fn set(&self, gsi: u32, level: bool) {
        // A GSI below 24 always has a route, so only a dying machine refuses.
        if let Err(error) = self.routes.fd.set_irq_line(gsi, level) {
            log::warn!("interrupt {gsi} is lost: {error}");
        }
    }
}

impl MsiController for Irqchip {
    fn vector(&self) -> io::Result<Arc<dyn MsiVector>> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let mut vectors = self.routes.vectors.lock();
        let gsi = (FIRST_VECTOR..self.routes.limit).find(|gsi| !vectors.contains_key(gsi));
        let gsi = gsi.ok_or_else(|| io::Error::other("the machine has no interrupt route left"))?;
        vectors.insert(gsi, None);
        drop(vectors);
        Ok(Arc::new(Vector { routes: self.routes.clone(), gsi, event, bound: Mutex::new(None) }))
    }
}

impl Routes {
    fn write(&self, vectors: &BTreeMap<u32, Option<MsiMessage>>) -> io::Result<()> {
        let mut entries: Vec<_> = pins().collect();
        entries.extend(vectors.iter().filter_map(|(gsi, to)| to.map(|message| message_entry(*gsi, message))));
        let table = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        Ok(self.fd.set_gsi_routing(&table)?)
    }

    fn set(&self, gsi: u32, to: Option<MsiMessage>) -> io::Result<()> {
        let mut vectors = self.vectors.lock();
        let mut new = vectors.clone();
        new.insert(gsi, to);
        self.write(&new)?;
        *vectors = new;
        Ok(())
    }
}

fn pin_entry(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
}

fn pins() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let master = (0..8).map(|n| pin_entry(n, KVM_IRQCHIP_PIC_MASTER, n));
    let slave = (0..8).map(|n| pin_entry(n + 8, KVM_IRQCHIP_PIC_SLAVE, n));
    // GSI 2 is the 8259s' cascade; its pin is IRQ 0's.
    let ioapic = (0..FIRST_VECTOR).filter(|n| *n != 2);
    master.chain(slave).chain(ioapic.map(|n| pin_entry(n, KVM_IRQCHIP_IOAPIC, if n == 0 { 2 } else { n })))
}

fn message_entry(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

struct Vector {
    routes: Arc<Routes>,
    gsi: u32,
    event: EventFd,
    /// What the event is bound to in the kernel now.
    bound: Mutex<Option<MsiMessage>>,
}

impl MsiVector for Vector {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn route(&self, message: Option<MsiMessage>) -> io::Result<()> {
        let mut bound = self.bound.lock();
        if *bound == message {
            return Ok(());
        }
        let Some(message) = message else {
            // The kernel finishes what it has taken from the event before this returns.
            *bound = None;
            self.routes.fd.unregister_irqfd(&self.event, self.gsi)?;
            return Ok(());
        };
        self.routes.set(self.gsi, Some(message))?;
        if bound.is_none() {
            // Signals from while the vector was masked. What comes after this read finds the binding, or is found by it.
            let pending = self.event.read().is_ok();
            self.routes.fd.register_irqfd(&self.event, self.gsi)?;
            if pending {
                self.event.write(1)?;
            }
        }
        *bound = Some(message);
        Ok(())
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if self.bound.get_mut().is_some()
            && let Err(error) = self.routes.fd.unregister_irqfd(&self.event, self.gsi)
        {
            log::warn!("interrupt vector {} stays bound: {error}", self.gsi);
        }
        // An unused entry in the kernel's table does nothing; the next change leaves it out.
        self.routes.vectors.lock().remove(&self.gsi);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_wired_as_the_tables_say() {
        let of = |gsi| -> Vec<(u32, u32)> {
            // SAFETY: all entries of `pins` are of the irqchip kind.
            #[allow(unsafe_code)]
            pins().filter(|e| e.gsi == gsi).map(|e| unsafe { (e.u.irqchip.irqchip, e.u.irqchip.pin) }).collect()
        };
        assert_eq!(of(0), [(KVM_IRQCHIP_PIC_MASTER, 0), (KVM_IRQCHIP_IOAPIC, 2)]);
        assert_eq!(of(2), [(KVM_IRQCHIP_PIC_MASTER, 2)]);
        assert_eq!(of(9), [(KVM_IRQCHIP_PIC_SLAVE, 1), (KVM_IRQCHIP_IOAPIC, 9)]);
        assert_eq!(of(23), [(KVM_IRQCHIP_IOAPIC, 23)]);
        assert_eq!(of(24), []);
    }
}
