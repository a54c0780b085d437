//! Network cards: addresses that no other machine of the store has.

use std::collections::BTreeMap;

use kiln_domain::Domain;
use kiln_vmm::virtio::net::Mac;

use crate::failure::{Failure, Status};
use crate::machine::Store;
use crate::network::Interface;
use crate::network::settings::{mac_bytes, mac_text};
use crate::plan::NetworkWish;

/// First bytes of addresses that are made up, as QEMU's and libvirt's are.
const PREFIX: [u8; 3] = [0x52, 0x54, 0x00];
/// Tries until an address is one that nobody has.
const TRIES: usize = 1000;

/// Gives each card its address.
///
/// # Errors
/// When one is another machine's, or the host gives no random bytes.
pub(crate) fn plan(store: &Store, wishes: &[NetworkWish]) -> Result<Vec<(Interface, Mac)>, Failure> {
    let mut taken = taken(store)?;
    let mut cards = Vec::new();
    for wish in wishes {
        let mac = match wish.card.mac {
            Some(mac) => match taken.get(&mac) {
                None => mac,
                Some(owner) => return Err(in_use(&mac, owner.as_deref())),
            },
            None => new(|mac| taken.contains_key(mac))?,
        };
        taken.insert(mac, None);
        cards.push((wish.card.clone(), mac));
    }
    Ok(cards)
}

/// A new address for a card, one that no machine of the store has.
///
/// # Errors
/// When the host gives no random bytes.
pub(crate) fn fresh(store: &Store) -> Result<Mac, Failure> {
    let taken = taken(store)?;
    new(|mac| taken.contains_key(mac))
}

fn in_use(mac: &Mac, owner: Option<&str>) -> Failure {
    let mac = mac_text(mac);
    let what = format!("the MAC address {mac} is in use");
    match owner {
        Some(owner) => Failure::new(Status::Conflict, format!("{what} by the machine {owner:?}")),
        None => Failure::new(Status::Conflict, format!("{what} by two cards of this machine")),
    }
    .advise("Leave mac= out and kiln makes one up.")
}

// Addresses of all machines that are defined. A definition that can't be read has none.
fn taken(store: &Store) -> Result<BTreeMap<Mac, Option<String>>, Failure> {
    let mut all = BTreeMap::new();
    for name in store.names()? {
        if let Ok(domain) = store.read(&name) {
            all.extend(macs(&domain).map(|mac| (mac, Some(name.clone()))));
        }
    }
    Ok(all)
}

fn macs(domain: &Domain) -> impl Iterator<Item = Mac> {
    let cards = domain.devices().filter(|device| device.name() == "interface");
    cards.filter_map(|card| mac_bytes(card.find("mac")?.attribute("address")?))
}

fn new(is_taken: impl Fn(&Mac) -> bool) -> Result<Mac, Failure> {
    for _ in 0..TRIES {
        let mut rest = [0; 3];
        rustix::rand::getrandom(&mut rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Failure::new(Status::Failed, "the host gives no random bytes").because(&e))?;
        let mac = [PREFIX[0], PREFIX[1], PREFIX[2], rest[0], rest[1], rest[2]];
        if !is_taken(&mac) {
            return Ok(mac);
        }
    }
    Err(Failure::new(Status::Failed, "no MAC address is free").advise("Name one: --network user,mac=02:00:00:00:00:01"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn addresses_are_made_up_until_one_is_free() {
        let asked = Cell::new(0);
        let mac = new(|_| asked.replace(asked.get() + 1) < 5).unwrap();
        assert_eq!((&mac[..3], asked.get()), (&PREFIX[..], 6));
        assert!(new(|_| true).is_err());
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let (_home, store) = Store::scratch();
        let other =
            "<domain><devices><interface type='user'><mac address='52:54:00:AA:bb:cc'/></interface></devices></domain>";
        store.change().unwrap().write("other", &Domain::parse(other).unwrap()).unwrap();
        let wish = |last| NetworkWish {
            card: Interface { mac: Some([0x52, 0x54, 0, 0xaa, 0xbb, last]), ..Interface::default() },
            ..NetworkWish::default()
        };
        assert!(plan(&store, &[wish(1), wish(2), NetworkWish::default()]).is_ok());
        let told = plan(&store, &[wish(0xcc)]).unwrap_err();
        assert!(told.to_string().contains("in use by the machine \"other\""), "{told}");
        assert!(plan(&store, &[wish(1), wish(1)]).unwrap_err().to_string().contains("two cards"));
    }
}
