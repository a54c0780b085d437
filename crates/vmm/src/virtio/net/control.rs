//! The control queue: receive modes and the card's address (VIRTIO 1.2, 5.1.6.5).

use std::sync::Arc;

use super::bits::*;
use super::{Mac, Net};
use crate::device::StateError;
use crate::virtio::{Broken, Chain, Outcome, QueueHandler};

pub(super) struct Control {
    net: Arc<Net>,
}

impl Control {
    pub(super) fn new(net: Arc<Net>) -> Self {
        Self { net }
    }

    // Does a command. `None` when there is none such, or it is cut short.
    fn command(&self, chain: &mut Chain<'_>) -> Option<()> {
        let [class, command] = chain.readable.read_array().ok()?;
        match (class, command) {
            (CLASS_RX, 0..=RX_LAST) => chain.readable.read_array::<1>().ok().map(drop),
            (CLASS_MAC, MAC_TABLE_SET) => (0..2).try_for_each(|_| skip_table(chain)),
            (CLASS_MAC, MAC_ADDR_SET) => {
                *self.net.mac.lock() = chain.readable.read_array::<6>().ok()?;
                Some(())
            }
            _ => None,
        }
    }
}

// A table of addresses behind its length.
fn skip_table(chain: &mut Chain<'_>) -> Option<()> {
    let entries = u32::from_le_bytes(chain.readable.read_array().ok()?);
    let bytes = u64::from(entries) * size_of::<Mac>() as u64;
    (chain.readable.len() >= bytes).then(|| chain.readable.skip(bytes))
}

impl QueueHandler for Control {
    fn handle(&mut self, chain: &mut Chain<'_>) -> Result<Outcome, Broken> {
        let answer = if self.command(chain).is_some() { ACK_OK } else { ACK_ERROR };
        if chain.writable.write(&[answer])? == 0 {
            return Err(Broken::Short);
        }
        Ok(Outcome::Done(1))
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!(self.net.mac())
    }

    fn restore(&mut self, saved: &serde_json::Value) -> Result<(), StateError> {
        *self.net.mac.lock() = serde_json::from_value(saved.clone())?;
        Ok(())
    }
}
