//! The registers of the transport, notifications and interrupts.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, BusDevice};
use crate::chipset::{Lpc, Mch, direct};
use crate::device::Device;
use crate::doorbell::{Doorbell, Doorbells};
use crate::pci::bits::*;
use crate::pci::{Bdf, PciFunction, PciHost, Place, Surroundings};
use crate::testing::{DATA, Driver, Levels, MemoryDisk, Piece, message_log};
use crate::virtio::bits::*;
use crate::virtio::blk::bits as blk_bits;
use crate::virtio::blk::{Blk, Drive};
use crate::virtio::rng::Rng;
use crate::virtio::{Resources, VirtioPci};

fn rng() -> Driver {
    Driver::new(Rng::new())
}

fn capabilities(driver: &Driver) -> Vec<(u8, usize)> {
    let byte = |offset| {
        let mut data = [0];
        driver.device.config_read(offset, &mut data);
        data[0]
    };
    let mut found = Vec::new();
    let mut at = usize::from(byte(CAPABILITIES_POINTER));
    while at != 0 {
        found.push((byte(at), at));
        at = usize::from(byte(at + 1));
    }
    found
}

#[test]
fn the_function_is_a_modern_virtio_device() {
    let driver = rng();
    let mut head = [0; 12];
    driver.device.config_read(0, &mut head);
    assert_eq!(head, [0xf4, 0x1a, 0x44, 0x10, 0, 0, 0x10, 0, 1, 0, 0, 0xff]);
    let kinds: Vec<(u8, u8)> = capabilities(&driver)
        .iter()
        .filter(|(id, _)| *id == CAPABILITY_VENDOR)
        .map(|(_, at)| {
            let mut bytes = [0; 5];
            driver.device.config_read(*at, &mut bytes);
            (bytes[3], bytes[4])
        })
        .collect();
    assert_eq!(kinds, [(1, 0), (3, 0), (4, 0), (2, 0), (5, 0)]);
}

#[test]
fn features_are_agreed_on_as_the_standard_says() {
    let mut driver = rng();
    let offered = driver.offered();
    assert_eq!(offered, FEATURE_VERSION_1 | FEATURE_INDIRECT_DESC | FEATURE_EVENT_IDX);
    assert!(!driver.negotiate(FEATURE_INDIRECT_DESC), "version 1 must be taken");
    assert!(!driver.negotiate(FEATURE_VERSION_1 | 1 << 34), "the packed ring isn't offered");
    driver.drive();
    assert_eq!(driver.status(), STATUS_ACKNOWLEDGE | STATUS_DRIVER, "no start without agreement");
    assert!(driver.negotiate(FEATURE_VERSION_1));
    // Too late to change.
    driver.set(COMMON_DRIVER_FEATURE as u64, &[0xff; 4]);
    assert_eq!(driver.get(COMMON_DRIVER_FEATURE as u64), [1, 0, 0, 0]);
    driver.set(COMMON_DEVICE_FEATURE_SELECT as u64, &2u32.to_le_bytes());
    assert_eq!(driver.get(COMMON_DEVICE_FEATURE as u64), [0; 4]);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn status_bits_are_only_added() {
    let mut driver = rng();
    assert!(driver.negotiate(FEATURE_VERSION_1));
    driver.set_status(STATUS_ACKNOWLEDGE);
    assert_eq!(driver.status(), STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    driver.set_status(STATUS_NEEDS_RESET | STATUS_FAILED);
    assert_eq!(driver.status() & (STATUS_NEEDS_RESET | STATUS_FAILED), STATUS_FAILED);
}

#[test]
fn queues_are_set_up_once_and_with_sizes_that_can_be() {
    let mut driver = rng();
    assert!(driver.negotiate(FEATURE_VERSION_1));
    assert_eq!(driver.common16(COMMON_NUM_QUEUES), 1);
    assert_eq!(driver.common16(COMMON_QUEUE_SIZE), 64);
    for size in [0u16, 3, 128, 0xffff] {
        driver.set(COMMON_QUEUE_SIZE as u64, &size.to_le_bytes());
        assert_eq!(driver.common16(COMMON_QUEUE_SIZE), 64, "{size}");
    }
    driver.set(COMMON_QUEUE_SIZE as u64, &16u16.to_le_bytes());
    driver.set(COMMON_QUEUE_VECTOR as u64, &9u16.to_le_bytes());
    assert_eq!(driver.common16(COMMON_QUEUE_VECTOR), NO_VECTOR, "there are two vectors");
    driver.set(COMMON_QUEUE_ENABLE as u64, &[1, 0]);
    driver.set(COMMON_QUEUE_SIZE as u64, &32u16.to_le_bytes());
    driver.set(COMMON_QUEUE_DESC as u64, &[0x10; 4]);
    driver.set(COMMON_QUEUE_ENABLE as u64, &[0, 0]);
    assert_eq!(driver.common16(COMMON_QUEUE_SIZE), 16);
    assert_eq!(driver.common16(COMMON_QUEUE_ENABLE), 1);
    assert_eq!(driver.get(COMMON_QUEUE_DESC as u64), [0; 8]);
    driver.set(COMMON_QUEUE_SELECT as u64, &7u16.to_le_bytes());
    assert_eq!(driver.common16(COMMON_QUEUE_SIZE), 0);
    driver.set(COMMON_QUEUE_ENABLE as u64, &[1, 0]);
    assert_eq!(driver.common16(COMMON_QUEUE_ENABLE), 0);
}

#[test]
fn odd_accesses_do_nothing() {
    let driver = rng();
    for offset in (0..0x8000).step_by(5) {
        for len in [1usize, 2, 3, 4, 5, 8, 16] {
            driver.set(offset, &vec![0xa5; len][..]);
            driver.device.region_read(crate::pci::bar::RegionKind::Bar(0), offset, &mut vec![0; len]);
        }
    }
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_ring_outside_of_memory_asks_for_a_reset() {
    let mut driver = rng();
    assert!(driver.negotiate(FEATURE_VERSION_1));
    driver.use_msix();
    driver.set_up(0, 16);
    driver.negotiate(FEATURE_VERSION_1);
    driver.use_msix();
    driver.set(COMMON_QUEUE_DESC as u64, &0xffff_ffff_ffff_fff0u64.to_le_bytes());
    driver.set(COMMON_QUEUE_DRIVER as u64, &0x1000u64.to_le_bytes());
    driver.set(COMMON_QUEUE_DEVICE as u64, &0x2000u64.to_le_bytes());
    driver.set(COMMON_QUEUE_ENABLE as u64, &[1, 0]);
    driver.drive();
    assert_ne!(driver.status() & STATUS_NEEDS_RESET, 0);
    assert!(driver.signalled(0));
    driver.start(0, 1, 16);
    assert_eq!(driver.status() & STATUS_NEEDS_RESET, 0);
}

#[test]
fn without_msix_the_wire_and_the_interrupt_status_are_used() {
    let mut driver = rng();
    assert!(driver.negotiate(FEATURE_VERSION_1));
    driver.set_up(0, 16);
    driver.drive();
    driver.post(0, &[Piece(DATA, 16, true)]);
    driver.kick(0);
    let up = std::time::Instant::now();
    while driver.levels.up() != [20] {
        assert!(up.elapsed().as_secs() < 20, "no interrupt");
        std::thread::yield_now();
    }
    let mut status = [0];
    driver.device.config_read(STATUS, &mut status);
    assert_ne!(status[0] & STATUS_INTERRUPT as u8, 0);
    assert_eq!(driver.get(0x1000), [ISR_QUEUE]);
    assert!(driver.levels.up().is_empty());
    assert_eq!(driver.get(0x1000), [0]);
    driver.device.config_changed();
    assert_eq!(driver.get(0x1000), [ISR_CONFIG]);
    driver.device.config_changed();
    assert_eq!(driver.levels.up(), [20]);
    driver.use_msix();
    assert!(driver.levels.up().is_empty(), "with MSI-X the wire is let go of");
}

#[test]
fn the_configuration_window_reaches_the_bar() {
    let driver = rng();
    let (_, at) = *capabilities(&driver).iter().rfind(|(id, _)| *id == CAPABILITY_VENDOR).unwrap();
    let window = |offset: u32, len: u32| {
        driver.device.config_write(at + CAP_BAR, &[0]);
        driver.device.config_write(at + CAP_OFFSET, &offset.to_le_bytes());
        driver.device.config_write(at + CAP_LENGTH, &len.to_le_bytes());
    };
    window(COMMON_STATUS as u32, 1);
    driver.device.config_write(at + CAP_PCI_DATA, &[STATUS_ACKNOWLEDGE]);
    assert_eq!(driver.status(), STATUS_ACKNOWLEDGE);
    window(COMMON_NUM_QUEUES as u32, 2);
    let mut data = [0; 2];
    driver.device.config_read(at + CAP_PCI_DATA, &mut data);
    assert_eq!(data, [1, 0]);
    for (offset, len) in [(1, 4), (0, 3), (0, 0), (u32::MAX, 1), (0xffff_fffc, 4)] {
        window(offset, len);
        driver.device.config_read(at + CAP_PCI_DATA, &mut [0; 4]);
        driver.device.config_write(at + CAP_PCI_DATA, &[0; 4]);
    }
    assert_eq!(driver.status(), STATUS_ACKNOWLEDGE);
}

/// Doorbells that remember what is bound.
#[derive(Default)]
struct Bells(Mutex<Vec<Doorbell>>);
impl Doorbells for Bells {
    fn bind(&self, bell: Doorbell, _event: &EventFd) -> io::Result<()> {
        self.0.lock().push(bell);
        Ok(())
    }
    fn unbind(&self, bell: Doorbell, _event: &EventFd) -> io::Result<()> {
        self.0.lock().retain(|other| *other != bell);
        Ok(())
    }
}

struct Silent;
impl BusDevice for Silent {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}
    fn write(&self, _offset: u64, _data: &[u8]) {}
}

#[test]
fn doorbells_follow_the_bar_behind_a_root_complex() {
    let (ports, memory) = (Arc::new(Bus::new()), Arc::new(Bus::new()));
    let levels = Arc::new(Levels::default());
    let host = PciHost::new(Surroundings {
        ports: ports.clone(),
        memory: memory.clone(),
        wires: levels.clone(),
        physical_bits: 40,
        low_memory_end: 0x8000_0000,
        high_memory_end: 1 << 32,
        reset_control: Arc::new(Silent),
    })
    .unwrap();
    host.plug(Mch::place(), Mch::new(host.ecam())).unwrap();
    host.plug(Lpc::place(), Lpc::new(Arc::new(Silent), host.router().clone())).unwrap();
    let (place, bells) = (Place::root(2, 0), Arc::new(Bells::default()));
    let resources = Resources {
        memory: crate::memory::GuestRam::from_ranges(&[(vm_memory::GuestAddress(0), 0x10000)]).unwrap(),
        line: host.line(place, VirtioPci::PIN).unwrap(),
        messages: Arc::new(message_log()),
        doorbells: bells.clone(),
        queue_numbers: Arc::default(),
    };
    let blk = Blk::new(Drive { queues: 2, ..Drive::new("disk", MemoryDisk::new(4096, false)) });
    host.plug(place, VirtioPci::new(place, blk, resources).unwrap()).unwrap();
    direct::program(&host).unwrap();
    let addresses = |bells: &Bells| bells.0.lock().iter().map(|bell| bell.address).collect::<Vec<_>>();
    let first = addresses(&bells);
    let base = first[0] - 0x3000;
    assert_eq!(first, [base + 0x3000, base + 0x3004]);
    assert!(base >= 1 << 32);
    let mut queues = [0; 2];
    assert!(memory.read(base + COMMON_NUM_QUEUES as u64, &mut queues));
    assert_eq!(queues, [2, 0]);
    let at = Bdf { bus: 0, device: 2, function: 0 };
    host.config_write(at, BAR0, &0xe000_0000u32.to_le_bytes());
    host.config_write(at, BAR0 + 4, &[0; 4]);
    assert_eq!(addresses(&bells), [0xe000_3000, 0xe000_3004]);
    host.config_write(at, COMMAND, &[0]);
    assert!(addresses(&bells).is_empty());
    host.config_write(at, COMMAND, &[2]);
    assert_eq!(addresses(&bells).len(), 2);
    let saved = host.save().unwrap();
    host.reset();
    assert!(addresses(&bells).is_empty());
    host.restore(&saved).unwrap();
    assert_eq!(addresses(&bells), [0xe000_3000, 0xe000_3004]);
    host.unplug_function(place);
    assert!(addresses(&bells).is_empty());
}

#[test]
fn unplug_and_drop_end_the_threads() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter(|task| {
                let name = std::fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap_or_default();
                name.trim() == "queue777"
            })
            .count()
    };
    for unplug in [true, false] {
        let mut driver = Driver::numbered(Blk::new(Drive::new("disk", MemoryDisk::new(4096, false))), 777);
        driver.start(0, 1, 16);
        driver.post(0, &[Piece(DATA, 16, false), Piece(DATA + 0x100, 1, true)]);
        driver.kick(0);
        driver.wait(0);
        assert_eq!(threads(), 1);
        if unplug {
            driver.device.unplug();
        } else {
            drop(driver);
        }
        assert_eq!(threads(), 0, "unplug: {unplug}");
    }
}

#[test]
fn a_state_of_another_device_is_refused() {
    let mut driver = rng();
    driver.start(0, 1, 16);
    driver.device.pause();
    let saved = driver.device.save().unwrap();
    let other = Driver::new(Blk::new(Drive::new("disk", MemoryDisk::new(4096, false))));
    assert!(other.device.restore(&saved).is_err());
    let blk = Driver::new(Blk::new(Drive { queues: 2, ..Drive::new("disk", MemoryDisk::new(4096, false)) }));
    let saved = blk.device.save().unwrap();
    assert!(other.device.restore(&saved).is_err());
    let mut wrong = other.device.save().unwrap();
    wrong.data["registers"]["driver_features"] = (blk_bits::FEATURE_READ_ONLY | FEATURE_VERSION_1).into();
    assert!(other.device.restore(&wrong).is_err());
    let running = rng();
    running.device.pause();
    let mut started = saved_started();
    started.data["registers"]["queues"][0]["at"]["descriptors"] = u64::MAX.into();
    assert!(running.device.restore(&started).is_err());
}

#[test]
fn two_workers_on_one_ring_are_refused() {
    let mut saved = saved_started();
    let queues = saved.data["queues"].as_array_mut().unwrap();
    queues.push(queues[0].clone());
    let next = rng();
    next.device.pause();
    assert!(next.device.restore(&saved).is_err());
    saved.data["queues"].as_array_mut().unwrap().clear();
    assert!(next.device.restore(&saved).is_err());
}

fn saved_started() -> crate::device::Saved {
    let mut driver = rng();
    driver.start(0, 1, 16);
    driver.device.pause();
    driver.device.save().unwrap()
}
