//! Places the functions' regions on the buses, and moves them when software does.
//!
//! A region is decoded while its function and every bridge above let it, while it lies within the processor's
//! physical width, and while nobody else has the range. One that is in the way of another simply isn't decoded until
//! one of them moves; then it is tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::Place;
use super::bar::{Region, RegionKind, Space};
use super::function::PciFunction;
use crate::bus::{Bus, BusDevice};

/// A region as a device on a bus. Holds the function weakly: what is on a bus keeps nothing alive.
struct RegionAccess {
    function: Weak<dyn PciFunction>,
    kind: RegionKind,
}

impl BusDevice for RegionAccess {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(function) = self.function.upgrade() {
            function.region_read(self.kind, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(function) = self.function.upgrade() {
            function.region_write(self.kind, offset, data);
        }
    }
}

/// The buses that regions are placed on, with the processor's physical width.
pub(super) struct Buses {
    pub(super) ports: Arc<Bus>,
    pub(super) memory: Arc<Bus>,
    pub(super) physical_bits: u8,
}

impl Buses {
    fn bus(&self, space: Space) -> &Bus {
        match space {
            Space::Port => &self.ports,
            Space::Memory => &self.memory,
        }
    }

    // Address 0 counts as "nowhere": software that hasn't placed a BAR yet may already have turned decoding on.
    pub(super) fn reachable(&self, region: &Region) -> bool {
        let last_of_space = match region.space {
            Space::Port => 0xffff,
            Space::Memory => u64::MAX.checked_shr(64 - u32::from(self.physical_bits)).unwrap_or(0),
        };
        region.base != 0 && region.last().is_some_and(|last| last <= last_of_space)
    }
}

type Wanted<'a> = (Region, &'a Arc<dyn PciFunction>);

struct Placed {
    region: Region,
    function: Weak<dyn PciFunction>,
}

/// What is decoded where.
#[derive(Default)]
pub(super) struct Decoded {
    placed: BTreeMap<(RegionKind, Place), Placed>,
}

impl Decoded {
    /// Makes the buses agree with `functions`: all that are plugged, with those regions that an access can reach.
    pub(super) fn update(&mut self, buses: &Buses, functions: &[(Place, Arc<dyn PciFunction>, Vec<Region>)]) {
        let mut wanted = BTreeMap::new();
        for (place, function, regions) in functions {
            for region in regions {
                wanted.insert((region.kind, *place), (*region, function));
            }
        }
        self.release_changed(buses, &wanted);
        for (key, (region, function)) in wanted {
            if self.placed.contains_key(&key) {
                continue;
            }
            let weak = Arc::downgrade(function);
            let access = Arc::new(RegionAccess { function: weak.clone(), kind: region.kind });
            match buses.bus(region.space).claim(region.base, region.len, access) {
                Ok(()) => {
                    self.placed.insert(key, Placed { region, function: weak });
                    function.region_placed(region.kind, Some(region.base));
                }
                Err(error) => log::debug!("{} {:?} isn't decoded: {error}", function.id(), region.kind),
            }
        }
    }

    fn release_changed(&mut self, buses: &Buses, wanted: &BTreeMap<(RegionKind, Place), Wanted>) {
        self.placed.retain(|key, placed| {
            let stays = wanted.get(key).is_some_and(|(region, function)| {
                *region == placed.region && placed.function.ptr_eq(&Arc::downgrade(function))
            });
            if !stays {
                buses.bus(placed.region.space).release(placed.region.base);
                if let Some(function) = placed.function.upgrade() {
                    function.region_placed(placed.region.kind, None);
                }
            }
            stays
        });
    }
}
