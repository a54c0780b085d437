//! Where the guest's addresses are: learned from what it sends, as a switch learns.

use std::collections::HashMap;
use std::net::IpAddr;

use kiln_vmm::virtio::net::Mac;
use parking_lot::Mutex;

/// Most addresses that are remembered; what comes after is sent to the card.
const MOST: usize = 256;

pub(super) struct Stations {
    card: Mac,
    known: Mutex<HashMap<IpAddr, Mac>>,
}

impl Stations {
    pub(super) fn new(card: Mac) -> Self {
        Self { card, known: Mutex::default() }
    }

    pub(super) fn learn(&self, address: IpAddr, mac: Mac) {
        // A group's address is no station's (IEEE 802.3, 3.2.3).
        if mac[0] & 1 != 0 {
            return;
        }
        let mut known = self.known.lock();
        if known.len() < MOST || known.contains_key(&address) {
            known.insert(address, mac);
        }
    }

    pub(super) fn mac(&self, address: IpAddr) -> Mac {
        self.known.lock().get(&address).copied().unwrap_or(self.card)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_memory_is_bounded() {
        let stations = Stations::new([2; 6]);
        let address = |n: u16| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        assert_eq!(stations.mac(address(1)), [2; 6]);
        stations.learn(address(1), [4; 6]);
        stations.learn(address(1), [6; 6]);
        stations.learn(address(1), [1; 6]);
        assert_eq!(stations.mac(address(1)), [6; 6]);
        (0..2000).for_each(|n| stations.learn(address(n), [8; 6]));
        let count = stations.known.lock().len();
        assert_eq!((count, stations.mac(address(1))), (MOST, [8; 6]));
    }
}
