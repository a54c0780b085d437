//! The transmit queue: frames of the driver to the network (VIRTIO 1.2, 5.1.6.2).

use std::sync::Arc;

use super::bits::*;
use super::{ETHERNET, LONGEST, Net, Offload};
use crate::virtio::{Broken, Chain, Outcome, QueueHandler};

pub(super) struct Transmit {
    net: Arc<Net>,
    features: u64,
    frame: Vec<u8>,
}

impl Transmit {
    pub(super) fn new(net: Arc<Net>, features: u64) -> Self {
        Self { net, features, frame: Vec::new() }
    }
}

impl QueueHandler for Transmit {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let sent = &self.net.counters.sent;
        let header = chain.readable.read_array::<HEADER_LEN>()?;
        let len = chain.readable.len();
        let offload = usize::try_from(len)
            .ok()
            .filter(|len| (ETHERNET..=LONGEST).contains(len))
            .and_then(|len| Offload::read(&header, len, self.features));
        let Some(offload) = offload else {
            sent.wrong();
            return Ok(Outcome::Done(0));
        };
        self.frame.resize(len as usize, 0);
        chain.readable.read(&mut self.frame)?;
        if self.net.link() && self.net.network.send(&mut self.frame, offload) {
            sent.count(self.frame.len());
        } else {
            sent.dropped();
        }
        Ok(Outcome::Done(0))
    }
}
