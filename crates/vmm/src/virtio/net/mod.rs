//! The network card (VIRTIO 1.2, 5.1): one pair of queues and a control queue between a driver and a [`Network`].
//!
//! ```text
//!   driver ── transmit queue ──▶ Transmit ── Network::send ──▶ network
//!          ◀── receive queue ─── Receive ◀── Network::receive ── network
//!          ── control queue ──▶ Control: receive modes, MAC address
//! ```
//!
//! Frames are copied out of and into guest memory here; a network never sees guest memory. Receive filters are accepted
//! and not applied: a network gives a card the frames that are meant for it. A frame that waits for room when a machine
//! is saved is lost, as a cable may lose one.

pub mod bits;
mod control;
mod counters;
mod offload;
mod receive;
mod transmit;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use self::bits::*;
use self::control::Control;
use self::counters::Counters;
pub use self::counters::{Statistics, Traffic};
pub use self::offload::{Family, Large, Offload, Partial, Takes, fold, sum};
use self::receive::Receive;
use self::transmit::Transmit;
use super::{DeviceType, QueueHandler, VirtioDevice};

/// Entries of the receive and the transmit queue.
const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;
/// Bytes of an Ethernet header (IEEE 802.3, 3.1.1).
pub const ETHERNET: usize = 14;
/// Longest frame that is moved: an Ethernet header with one VLAN tag, and the longest packet of an Internet protocol.
pub const LONGEST: usize = ETHERNET + 4 + 0xffff;

/// A MAC address.
pub type Mac = [u8; 6];

/// What is at the other end of a card's cable.
///
/// Its calls come from the queues' threads. None of them waits for the guest.
pub trait Network: Send + Sync {
    /// A driver has taken the card over and takes such frames. What was on its way to an earlier one is dropped.
    fn begin(&self, takes: Takes);
    /// Takes a frame that the guest sends; the bytes are its to change. Says whether the frame was of use.
    fn send(&self, frame: &mut [u8], offload: Offload) -> bool;
    /// The next frame for the guest, of at most [`LONGEST`] bytes and with nothing left to do that its driver doesn't
    /// take.
    fn receive(&self) -> Option<Received>;
    /// Can be read while [`Network::receive`] has a frame.
    fn waiting(&self) -> Arc<OwnedFd>;
    /// Frames that were lost on their way to the card since the network was made.
    fn lost(&self) -> u64 {
        0
    }
}

/// A frame for the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// Its bytes, from the destination's address on, without a check sequence.
    pub bytes: Vec<u8>,
    /// What is left to do.
    pub offload: Offload,
}

/// A card.
pub struct Net {
    network: Arc<dyn Network>,
    /// The address that it was made with.
    factory_mac: Mac,
    /// The one that it has.
    mac: Mutex<Mac>,
    mtu: u16,
    link: AtomicBool,
    counters: Counters,
}

impl Net {
    /// A card on `network` for packets of up to `mtu` bytes, with its link up.
    pub fn new(network: Arc<dyn Network>, mac: Mac, mtu: u16) -> Arc<Self> {
        Arc::new(Self {
            network,
            factory_mac: mac,
            mac: Mutex::new(mac),
            mtu,
            link: AtomicBool::new(true),
            counters: Counters::default(),
        })
    }

    /// Plugs the cable in or out; tell the driver by `VirtioPci::config_changed`.
    pub fn set_link(&self, up: bool) {
        self.link.store(up, Ordering::Release);
    }

    /// Whether the cable is plugged in.
    pub fn link(&self) -> bool {
        self.link.load(Ordering::Acquire)
    }

    /// The address that the driver has set, or else the one that it was made with.
    pub fn mac(&self) -> Mac {
        *self.mac.lock()
    }

    /// What has gone through it so far.
    pub fn statistics(&self) -> Statistics {
        let mut all = self.counters.read();
        all.received.dropped += self.network.lost();
        all
    }

    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut config = [0; CONFIG_LEN];
        let mut set = |at, value: &[u8]| offload::put(&mut config, at, value);
        set(CONFIG_MAC, &self.mac());
        set(CONFIG_STATUS, &(if self.link() { STATUS_LINK_UP } else { 0 }).to_le_bytes());
        set(CONFIG_MTU, &self.mtu.to_le_bytes());
        config
    }
}

/// A card as [`VirtioDevice`]: its handlers share it.
pub struct Card(pub Arc<Net>);

impl VirtioDevice for Card {
    fn device_type(&self) -> DeviceType {
        DeviceType { name: "virtio-net", id: DEVICE_ID, class: [0x02, 0x00, 0x00] }
    }

    fn features(&self) -> u64 {
        let sending = FEATURE_CSUM | FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6;
        let receiving = FEATURE_GUEST_CSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6 | FEATURE_MERGED_BUFFERS;
        let control = FEATURE_CONTROL | FEATURE_CONTROL_RX | FEATURE_CONTROL_RX_EXTRA | FEATURE_CONTROL_MAC;
        FEATURE_MAC | FEATURE_STATUS | FEATURE_MTU | sending | receiving | control
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE]
    }

    fn config_read(&self, offset: usize, data: &mut [u8]) {
        for (out, byte) in data.iter_mut().zip(self.0.config().iter().skip(offset)) {
            *out = *byte;
        }
    }

    fn handler(&self, queue: u16, features: u64) -> Box<dyn QueueHandler> {
        match queue {
            RECEIVE => {
                *self.0.mac.lock() = self.0.factory_mac;
                self.0.network.begin(Takes::of(features));
                Box::new(Receive::new(self.0.clone(), features))
            }
            TRANSMIT => Box::new(Transmit::new(self.0.clone(), features)),
            _ => Box::new(Control::new(self.0.clone())),
        }
    }
}
