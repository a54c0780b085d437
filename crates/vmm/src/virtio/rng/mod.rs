//! The entropy device (VIRTIO 1.2, 5.4): the host's random bytes.

use std::sync::Arc;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::{Broken, Chain, DeviceType, Outcome, QueueHandler, VirtioDevice};

const DEVICE_ID: u16 = 4;
const QUEUE_SIZE: u16 = 64;
/// Most bytes given for one buffer; a driver that wants more asks again.
const MOST: usize = 4096;

/// A source of entropy.
pub struct Rng;

impl Rng {
    /// The host's.
    pub fn new() -> Arc<Self> {
        Arc::new(Self)
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType { name: "virtio-rng", id: DEVICE_ID, class: [0xff, 0x00, 0x00] }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config_read(&self, _offset: usize, _data: &mut [u8]) {}

    fn handler(&self, _queue: u16, _features: u64) -> Box<dyn QueueHandler> {
        Box::new(Handler)
    }
}

struct Handler;

impl QueueHandler for Handler {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let mut bytes = [0; MOST];
        let wanted = chain.writable.len().min(MOST as u64) as usize;
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..wanted).filter(|rest| !rest.is_empty()) {
            match getrandom(rest, GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => {
                    log::warn!("the host gives no random bytes: {error}");
                    break;
                }
            }
        }
        let written = chain.writable.write(bytes.get(..filled).unwrap_or_default())?;
        Ok(Outcome::Done(written as u32))
    }
}
