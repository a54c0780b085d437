//! Where the transport's structures stand: one BAR, and the capabilities that point into it (VIRTIO 1.2, 4.1.4).

use crate::pci::bar::Bar;
use crate::pci::bits::{CAPABILITY_VENDOR, INTERRUPT_PIN};
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::{Place, express, intx, msix};
use crate::virtio::bits::*;
use crate::virtio::device::DeviceType;

/// The BAR that holds everything. It is prefetchable, so that it may stand above 4 GiB behind a bridge.
pub(super) const BAR: u8 = 0;
const BAR_SIZE: u64 = 0x8000;
/// The pin that all virtio devices use.
pub(super) const PIN: intx::Pin = intx::Pin::A;
/// Most queues: their notifications and vectors have a page each.
pub(super) const MOST_QUEUES: usize = 255;
/// Bytes from one queue's notification to the next one's (4.1.4.4).
const NOTIFY_STEP: u64 = 4;

/// A structure in the BAR. Each has a page of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Common,
    Isr,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Page {
    fn start(self) -> u32 {
        self as u32 * 0x1000
    }

    /// The structure at an offset into the BAR, and the offset into the structure.
    pub(super) fn at(offset: u64) -> Option<(Page, u64)> {
        let page = match offset >> 12 {
            0 => Page::Common,
            1 => Page::Isr,
            2 => Page::Device,
            3 => Page::Notify,
            4 => Page::MsixTable,
            5 => Page::MsixPending,
            _ => return None,
        };
        Some((page, offset & 0xfff))
    }
}

/// Offset into the BAR of a queue's notification.
pub(super) fn notify_offset(queue: u16) -> u64 {
    u64::from(Page::Notify.start()) + u64::from(queue) * NOTIFY_STEP
}

/// The queue that an offset into the notification page belongs to.
pub(super) fn notified_queue(offset: u64) -> Option<u16> {
    u16::try_from(offset / NOTIFY_STEP).ok()
}

/// Offsets of the capabilities that the transport looks at again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offsets {
    pub(super) express: Option<usize>,
    pub(super) msix: usize,
    pub(super) access: usize,
}

fn add_virtio(config: &mut ConfigSpace, kind: u8, page: Page, length: u32, len: usize) -> usize {
    let mut body = vec![0; len - 2];
    let mut set = |at: usize, value: &[u8]| {
        for (byte, value) in body.iter_mut().skip(at - 2).zip(value) {
            *byte = *value;
        }
    };
    set(2, &[len as u8, kind, BAR]);
    set(CAP_OFFSET, &page.start().to_le_bytes());
    set(CAP_LENGTH, &length.to_le_bytes());
    if kind == CAP_NOTIFY {
        set(CAP_LEN, &(NOTIFY_STEP as u32).to_le_bytes());
    }
    config.add_capability(CAPABILITY_VENDOR, &body)
}

/// The configuration space of a device of `kind` with so many queues at `place`.
pub(super) fn config_space(kind: &DeviceType, queues: u16, place: Place) -> (ConfigSpace, Offsets) {
    let mut config = ConfigSpace::endpoint(&Identity {
        vendor: PCI_VENDOR,
        device: PCI_DEVICE_BASE + kind.id,
        revision: PCI_REVISION,
        class: kind.class,
        subsystem_vendor: PCI_VENDOR,
        subsystem: PCI_SUBSYSTEM,
    });
    config.init(INTERRUPT_PIN, &[PIN.number() + 1]);
    config.add_bar(Bar::memory64(BAR, BAR_SIZE, true));
    add_virtio(&mut config, CAP_COMMON, Page::Common, COMMON_LEN as u32, CAP_LEN);
    add_virtio(&mut config, CAP_ISR, Page::Isr, 1, CAP_LEN);
    add_virtio(&mut config, CAP_DEVICE, Page::Device, 0x1000, CAP_LEN);
    add_virtio(&mut config, CAP_NOTIFY, Page::Notify, 0x1000, CAP_NOTIFY_LEN);
    let access = add_virtio(&mut config, CAP_PCI, Page::Common, 0, CAP_PCI_LEN);
    config.allow(access + CAP_BAR, &[0xff]);
    config.allow(access + CAP_OFFSET, &[0xff; 8]);
    let (table, pending) = (Page::MsixTable.start(), Page::MsixPending.start());
    let msix = msix::add_capability(&mut config, queues + 1, BAR, table, pending);
    // On bus 0 it is a conventional device, as a function of the root complex may be.
    let express = place.port.is_some().then(|| express::add_endpoint(&mut config));
    (config, Offsets { express, msix, access })
}
