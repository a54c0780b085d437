//! The receive queue: frames of the network into buffers of the driver (VIRTIO 1.2, 5.1.6.3, 5.1.6.4).

use std::sync::Arc;

use super::bits::*;
use super::{LONGEST, Net, Received, Takes};
use crate::virtio::device::Need;
use crate::virtio::{Broken, Chain, Outcome, QueueHandler};

pub(super) struct Receive {
    net: Arc<Net>,
    takes: Takes,
    merges: bool,
    /// Taken from the network, and not in a buffer yet.
    frame: Option<Received>,
}

impl Receive {
    pub(super) fn new(net: Arc<Net>, features: u64) -> Self {
        let merges = features & FEATURE_MERGED_BUFFERS != 0;
        Self { net, takes: Takes::of(features), merges, frame: None }
    }

    // Whether the frame may go on to the guest.
    fn passes(&self, frame: &Received) -> bool {
        let fits = frame.bytes.len() <= LONGEST && frame.offload.suits(self.takes);
        let passes = fits && self.net.link();
        if !passes {
            self.net.counters.received.dropped();
        }
        passes
    }
}

impl QueueHandler for Receive {
    fn need(&mut self) -> Need {
        let frame = loop {
            let next = self.frame.take().or_else(|| self.net.network.receive());
            match next {
                None => return Need::Input(self.net.network.waiting()),
                Some(frame) if self.passes(&frame) => break self.frame.insert(frame),
                Some(_) => {}
            }
        };
        match self.merges {
            true => Need::Room((HEADER_LEN + frame.bytes.len()) as u64),
            false => Need::Chain,
        }
    }

    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let Some(frame) = self.frame.take() else { return Ok(Outcome::Kept) };
        let len = (HEADER_LEN + frame.bytes.len()) as u64;
        if chain.writable.len() < len {
            // The driver's buffers are too small for it, all of them together.
            self.net.counters.received.dropped();
            return Ok(Outcome::Kept);
        }
        chain.writable.write(&frame.offload.write(self.takes, chain.buffers_for(len)))?;
        chain.writable.write(&frame.bytes)?;
        self.net.counters.received.count(frame.bytes.len());
        Ok(Outcome::Done(len as u32))
    }
}
