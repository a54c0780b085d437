//! The block device (VIRTIO 1.2, 5.2): a disk image behind one or more queues.
//!
//! Each queue's worker does one request at a time on a disk that all share; a driver that wants several in flight
//! takes several queues.

pub mod bits;
mod drive;
mod request;

use std::sync::Arc;

use kiln_image::SECTOR;

pub use self::drive::{Consequence, DetectZeroes, DiskError, Drive, OnError, Witness};

use self::bits::*;
use self::request::{MAX_SECTORS, MAX_SEGMENTS, Server};
use super::{Broken, Chain, DeviceType, Outcome, QueueHandler, VirtioDevice};

/// Entries of each queue: a request of 1 MiB fits, in pages that lie anywhere.
const QUEUE_SIZE: u16 = 512;
/// Data segments of a request that fits into a queue: header and status take one each.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Most queues.
const MOST_QUEUES: u16 = 64;

/// A disk as a guest sees it.
pub struct Blk {
    drive: Arc<Drive>,
    serial: [u8; ID_LEN],
    queues: u16,
}

impl Blk {
    /// A block device for a drive.
    pub fn new(drive: Drive) -> Arc<Self> {
        let mut serial = [0; ID_LEN];
        for (byte, given) in serial.iter_mut().zip(drive.serial.bytes()) {
            *byte = given;
        }
        let queues = drive.queues.clamp(1, MOST_QUEUES);
        Arc::new(Self { drive: Arc::new(drive), serial, queues })
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut set = |at: usize, value: &[u8]| {
            for (byte, value) in config.iter_mut().skip(at).zip(value) {
                *byte = *value;
            }
        };
        let geometry = self.drive.disk.geometry();
        let (logical, physical) = (geometry.logical_block, geometry.physical_block.max(geometry.logical_block));
        let blocks = (physical / logical.max(1)).max(1);
        set(CONFIG_CAPACITY, &(self.drive.disk.len() / SECTOR).to_le_bytes());
        set(CONFIG_SEG_MAX, &SEG_MAX.to_le_bytes());
        set(CONFIG_BLOCK_SIZE, &logical.to_le_bytes());
        set(CONFIG_PHYSICAL_BLOCK_EXPONENT, &[blocks.ilog2() as u8]);
        set(CONFIG_MIN_IO_SIZE, &(blocks as u16).to_le_bytes());
        set(CONFIG_OPTIMAL_IO_SIZE, &0u32.to_le_bytes());
        set(CONFIG_NUM_QUEUES, &self.queues.to_le_bytes());
        set(CONFIG_MAX_DISCARD_SECTORS, &MAX_SECTORS.to_le_bytes());
        set(CONFIG_MAX_DISCARD_SEGMENTS, &MAX_SEGMENTS.to_le_bytes());
        set(CONFIG_DISCARD_ALIGNMENT, &(physical / SECTOR as u32).to_le_bytes());
        set(CONFIG_MAX_ZEROES_SECTORS, &MAX_SECTORS.to_le_bytes());
        set(CONFIG_MAX_ZEROES_SEGMENTS, &MAX_SEGMENTS.to_le_bytes());
        set(CONFIG_ZEROES_MAY_UNMAP, &[1]);
        config
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> DeviceType {
        DeviceType { name: "virtio-blk", id: DEVICE_ID, class: [0x01, 0x00, 0x00] }
    }

    fn features(&self) -> u64 {
        let always = FEATURE_SEG_MAX | FEATURE_BLOCK_SIZE | FEATURE_TOPOLOGY;
        let several = if self.queues > 1 { FEATURE_MULTI_QUEUE } else { 0 };
        // A driver that is offered no flush knows that there is no cache to flush (5.2.6.2).
        let cache = if self.drive.write_cache { FEATURE_FLUSH } else { 0 };
        let writing = FEATURE_DISCARD | FEATURE_WRITE_ZEROES;
        always | several | cache | if self.drive.disk.is_read_only() { FEATURE_READ_ONLY } else { writing }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.into()]
    }

    fn config_read(&self, offset: usize, data: &mut [u8]) {
        for (out, byte) in data.iter_mut().zip(self.config().iter().skip(offset)) {
            *out = *byte;
        }
    }

    fn handler(&self, _queue: u16, features: u64) -> Box<dyn QueueHandler> {
        let write_through = features & FEATURE_FLUSH == 0;
        Box::new(Handler { drive: self.drive.clone(), serial: self.serial, write_through, buffer: Vec::new() })
    }
}

struct Handler {
    drive: Arc<Drive>,
    serial: [u8; ID_LEN],
    write_through: bool,
    buffer: Vec<u8>,
}

impl QueueHandler for Handler {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let mut server = Server {
            drive: &self.drive,
            serial: &self.serial,
            write_through: self.write_through,
            buffer: &mut self.buffer,
        };
        server.serve(chain)
    }
}

/// An error with all its causes, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
