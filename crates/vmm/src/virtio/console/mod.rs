//! The console device with one port (VIRTIO 1.2, 5.3): two queues between the guest and two byte streams.
//!
//! Nothing is buffered here: input is read only into buffers that the driver has given, output is taken from a
//! buffer as fast as the host's end takes it. So each side slows the other down, and memory stays bounded. More ports
//! would be more queues behind the same handlers.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::{Broken, Chain, DeviceType, Outcome, QueueHandler, VirtioDevice};
use crate::device::StateError;

const DEVICE_ID: u16 = 3;
const QUEUE_SIZE: u16 = 64;
/// Device configuration knows the console's size (5.3.3).
const FEATURE_SIZE: u64 = 1 << 0;
/// Port 0's queues (5.3.2): guest's input first, then its output.
const RECEIVE: u16 = 0;
/// Ports that there are.
const PORTS: u32 = 1;
/// Bytes moved at once.
const STEP: usize = 4096;
/// Steps after which the worker looks whether it is to stop, with the rest of the chain still to come.
const STEPS: usize = 16;

/// The host's ends. They may be the same socket or terminal twice.
pub struct Endpoints {
    /// What the guest reads.
    pub input: OwnedFd,
    /// Where the guest's output goes.
    pub output: OwnedFd,
}

/// A console.
pub struct Console {
    input: Arc<OwnedFd>,
    output: Arc<OwnedFd>,
    /// Columns in the low half, rows in the high one.
    size: AtomicU32,
}

fn packed(columns: u16, rows: u16) -> u32 {
    u32::from(columns) | u32::from(rows) << 16
}

impl Console {
    /// A console between the guest and `ends`, which become non-blocking.
    ///
    /// # Errors
    /// When they can't.
    pub fn new(ends: Endpoints, columns: u16, rows: u16) -> std::io::Result<Arc<Self>> {
        for end in [&ends.input, &ends.output] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        let (input, output) = (Arc::new(ends.input), Arc::new(ends.output));
        Ok(Arc::new(Self { input, output, size: AtomicU32::new(packed(columns, rows)) }))
    }

    /// Changes the console's size; tell the driver by `VirtioPci::config_changed`.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.size.store(packed(columns, rows), Ordering::Release);
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType { name: "virtio-console", id: DEVICE_ID, class: [0x07, 0x80, 0x00] }
    }

    fn features(&self) -> u64 {
        FEATURE_SIZE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 * PORTS as usize]
    }

    fn config_read(&self, offset: usize, data: &mut [u8]) {
        let size = self.size.load(Ordering::Acquire).to_le_bytes();
        let config = size.into_iter().chain(PORTS.to_le_bytes());
        for (out, byte) in data.iter_mut().zip(config.skip(offset)) {
            *out = byte;
        }
    }

    fn handler(&self, queue: u16, _features: u64) -> Box<dyn QueueHandler> {
        match queue {
            RECEIVE => Box::new(Receive { input: self.input.clone() }),
            _ => Box::new(Transmit { output: self.output.clone(), sent: 0 }),
        }
    }
}

struct Receive {
    input: Arc<OwnedFd>,
}

impl QueueHandler for Receive {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let mut bytes = [0; STEP];
        let room = chain.writable.len().min(STEP as u64) as usize;
        let Some(part) = bytes.get_mut(..room).filter(|part| !part.is_empty()) else {
            return Ok(Outcome::Done(0));
        };
        match rustix::io::read(&self.input, &mut *part) {
            Ok(0) => Ok(Outcome::Ended),
            Ok(count) => {
                let written = chain.writable.write(part.get(..count).unwrap_or_default())?;
                Ok(Outcome::Done(written as u32))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Outcome::Readable(self.input.clone())),
            Err(error) => {
                log::info!("a console's input has ended: {error}");
                Ok(Outcome::Ended)
            }
        }
    }
}

struct Transmit {
    output: Arc<OwnedFd>,
    /// Bytes of the chain at hand that are out already.
    sent: u64,
}

impl QueueHandler for Transmit {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        chain.readable.skip(self.sent);
        let mut bytes = [0; STEP];
        for _ in 0..STEPS {
            let count = chain.readable.read(&mut bytes)?;
            let mut rest = bytes.get(..count).unwrap_or_default();
            while !rest.is_empty() {
                match rustix::io::write(&self.output, rest) {
                    Ok(done) => {
                        self.sent += done as u64;
                        rest = rest.get(done..).unwrap_or_default();
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Ok(Outcome::Writable(self.output.clone())),
                    // Nobody reads any more. The guest must not hang on that: its output goes nowhere.
                    Err(error) => {
                        log::debug!("console output is dropped: {error}");
                        chain.readable.skip(u64::MAX);
                        break;
                    }
                }
            }
        }
        if !chain.readable.is_empty() {
            return Ok(Outcome::Writable(self.output.clone()));
        }
        self.sent = 0;
        Ok(Outcome::Done(0))
    }

    fn save(&self) -> serde_json::Value {
        self.sent.into()
    }

    fn restore(&mut self, saved: &serde_json::Value) -> Result<(), StateError> {
        let wrong = || StateError::Impossible(format!("console output in the state {saved}"));
        self.sent = saved.as_u64().ok_or_else(wrong)?;
        Ok(())
    }
}
