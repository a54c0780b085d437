//! The common configuration structure (VIRTIO 1.2, 4.1.4.3): what the driver has chosen so far.

use serde::{Deserialize, Serialize};

use crate::virtio::bits::*;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::ring::Addresses;

/// A queue as the driver has set it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueSetup {
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) at: Addresses,
}

/// The registers behind the structure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    pub(super) driver_features: u64,
    queue_select: u16,
    pub(super) queues: Vec<QueueSetup>,
}

/// What a write to the device status asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusChange {
    None,
    Reset,
    Start,
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, high: bool, half: u32) {
    let shift = if high { 32 } else { 0 };
    *value = *value & !(0xffff_ffff << shift) | u64::from(half) << shift;
}

impl Registers {
    pub(super) fn new(max_sizes: &[u16]) -> Self {
        let setup = |size: &u16| QueueSetup { size: *size, enabled: false, at: Addresses::default() };
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: max_sizes.iter().map(setup).collect(),
        }
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// Reads any range of it: no register has a side effect on reading.
    pub(super) fn read(&self, offset: usize, data: &mut [u8], offered: u64, interrupt: &Interrupt) {
        let mut image = [0; COMMON_LEN];
        let mut set = |at: usize, value: &[u8]| {
            for (byte, value) in image.iter_mut().skip(at).zip(value) {
                *byte = *value;
            }
        };
        set(COMMON_DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        set(COMMON_DEVICE_FEATURE, &half(offered, self.device_feature_select).to_le_bytes());
        set(COMMON_DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        set(COMMON_DRIVER_FEATURE, &half(self.driver_features, self.driver_feature_select).to_le_bytes());
        set(COMMON_CONFIG_VECTOR, &interrupt.config_vector().to_le_bytes());
        set(COMMON_NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        set(COMMON_STATUS, &[interrupt.status(), interrupt.generation()]);
        set(COMMON_QUEUE_SELECT, &self.queue_select.to_le_bytes());
        // A queue that isn't there has size 0 (4.1.4.3.1).
        if let Some(queue) = self.selected() {
            set(COMMON_QUEUE_SIZE, &queue.size.to_le_bytes());
            set(COMMON_QUEUE_VECTOR, &interrupt.queue_vector(self.queue_select).to_le_bytes());
            set(COMMON_QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            set(COMMON_QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            set(COMMON_QUEUE_DESC, &queue.at.descriptors.to_le_bytes());
            set(COMMON_QUEUE_DRIVER, &queue.at.available.to_le_bytes());
            set(COMMON_QUEUE_DEVICE, &queue.at.used.to_le_bytes());
        }
        for (i, out) in data.iter_mut().enumerate() {
            *out = image.get(offset.saturating_add(i)).copied().unwrap_or(0);
        }
    }

    /// Writes a register in its own width, or a 64-bit one in halves (4.1.3.1). Other writes are dropped. The status
    /// is not among these: [`Registers::write_status`].
    pub(super) fn write(&mut self, offset: usize, data: &[u8], max_sizes: &[u16], interrupt: &Interrupt) {
        match *data {
            [low, high] => self.write16(offset, u16::from_le_bytes([low, high]), max_sizes, interrupt),
            [a, b, c, d] => self.write32(offset, u32::from_le_bytes([a, b, c, d]), interrupt),
            [a, b, c, d, e, f, g, h]
                if matches!(offset, COMMON_QUEUE_DESC | COMMON_QUEUE_DRIVER | COMMON_QUEUE_DEVICE) =>
            {
                self.write32(offset, u32::from_le_bytes([a, b, c, d]), interrupt);
                self.write32(offset + 4, u32::from_le_bytes([e, f, g, h]), interrupt);
            }
            _ => {}
        }
    }

    // A queue is set up before it is enabled, and not again until reset (4.1.4.3.2).
    fn open_queue(&mut self, interrupt: &Interrupt) -> Option<&mut QueueSetup> {
        let started = interrupt.status() & STATUS_DRIVER_OK != 0;
        let queue = self.queues.get_mut(usize::from(self.queue_select))?;
        (!queue.enabled && !started).then_some(queue)
    }

    fn write16(&mut self, offset: usize, value: u16, max_sizes: &[u16], interrupt: &Interrupt) {
        match offset {
            COMMON_CONFIG_VECTOR => interrupt.set_config_vector(value),
            COMMON_QUEUE_SELECT => self.queue_select = value,
            COMMON_QUEUE_VECTOR => interrupt.set_queue_vector(self.queue_select, value),
            COMMON_QUEUE_SIZE => {
                let most = max_sizes.get(usize::from(self.queue_select)).copied().unwrap_or(0);
                if value.is_power_of_two()
                    && value <= most
                    && let Some(queue) = self.open_queue(interrupt)
                {
                    queue.size = value;
                }
            }
            COMMON_QUEUE_ENABLE if value == 1 => {
                if let Some(queue) = self.open_queue(interrupt) {
                    queue.enabled = true;
                }
            }
            _ => {}
        }
    }

    fn write32(&mut self, offset: usize, value: u32, interrupt: &Interrupt) {
        match offset {
            COMMON_DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            COMMON_DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            COMMON_DRIVER_FEATURE => {
                let select = self.driver_feature_select;
                // What is agreed on is agreed on (3.1.1, step 5).
                if select < 2 && interrupt.status() & STATUS_FEATURES_OK == 0 {
                    set_half(&mut self.driver_features, select == 1, value);
                }
            }
            _ => {
                let high = offset & 4 != 0;
                let Some(queue) = self.open_queue(interrupt) else { return };
                match offset & !4 {
                    COMMON_QUEUE_DESC => set_half(&mut queue.at.descriptors, high, value),
                    COMMON_QUEUE_DRIVER => set_half(&mut queue.at.available, high, value),
                    COMMON_QUEUE_DEVICE => set_half(&mut queue.at.used, high, value),
                    _ => {}
                }
            }
        }
    }

    /// Writes the device status (2.1, 3.1.1). Bits are only ever added; FEATURES_OK stays off when the driver took
    /// what wasn't offered or left out what must be taken.
    pub(super) fn write_status(&mut self, value: u8, offered: u64, interrupt: &Interrupt) -> StatusChange {
        if value == 0 {
            return StatusChange::Reset;
        }
        let before = interrupt.status();
        let mut add = value & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
        let features = self.driver_features;
        let agreed = features & !offered == 0 && features & FEATURE_VERSION_1 != 0;
        if value & STATUS_FEATURES_OK != 0 && agreed {
            add |= STATUS_FEATURES_OK;
        }
        let starts = value & STATUS_DRIVER_OK != 0 && (before | add) & STATUS_FEATURES_OK != 0;
        if starts {
            add |= STATUS_DRIVER_OK;
        }
        interrupt.add_status(add);
        if starts && before & STATUS_DRIVER_OK == 0 { StatusChange::Start } else { StatusChange::None }
    }
}
