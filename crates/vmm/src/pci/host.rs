//! The root complex: which function answers a configuration access, and one lifecycle for all of them.
//!
//! Bus 0 is the root complex's. Each root port has one bus behind it, whose number software gives; only device 0 is
//! there (PCI Express Base 4.0, 7.3.1). A function is known by its [`Place`], which doesn't move when bus numbers do.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use super::access::{ConfigPorts, Ecam};
use super::bar::Region;
use super::bits::*;
use super::bridge::Forwarding;
use super::decode::{Buses, Decoded};
use super::function::{Effect, PciFunction};
use super::intx::{Pin, Router, pirq};
use super::{Bdf, PciSnapshot, Place, PortPlace, snapshot};
use crate::bus::{Bus, BusDevice, ClaimError};
use crate::device::{Device, Saved, StateError};
use crate::irq::{Line, Wires};

const KIND: &str = "pci-host";
const VERSION: u32 = 1;

/// What the root complex stands in.
pub struct Surroundings {
    /// I/O ports.
    pub ports: Arc<Bus>,
    /// Memory.
    pub memory: Arc<Bus>,
    /// Inputs of the interrupt controllers.
    pub wires: Arc<dyn Wires>,
    /// Width of a guest-physical address in bits, as CPUID tells it (at most 64).
    pub physical_bits: u8,
    /// End of RAM below 4 GiB.
    pub low_memory_end: u64,
    /// End of RAM above 4 GiB; 4 GiB when there is none.
    pub high_memory_end: u64,
    /// The reset control register at port 0xcf9, one byte.
    pub reset_control: Arc<dyn BusDevice>,
}

/// Why a function can't be plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlugError {
    /// Device above 31 or function above 7, or a device other than 0 behind a root port.
    #[error("{0} is no place for a PCI function")]
    NoSuchPlace(Place),
    /// The root port that the place is behind isn't there.
    #[error("{0} is behind a root port that the machine doesn't have")]
    NoBridge(Place),
    /// There is a function already.
    #[error("{0} is taken: give the device another PCI address")]
    Taken(Place),
    /// 64 functions share the interrupt wire.
    #[error("{0} shares its interrupt with 64 functions already: give the device another PCI address")]
    WireFull(Place),
}

/// Who holds which end of the PIRQ wires.
#[derive(Default)]
struct Sources(Vec<(Place, u8, u32)>);

impl Sources {
    fn take(&mut self, place: Place, pirq: u8) -> Option<u32> {
        let free = |source: &u32| !self.0.iter().any(|(_, p, s)| (*p, *s) == (pirq, *source));
        let source = (0..u64::BITS).find(free)?;
        self.0.push((place, pirq, source));
        Some(source)
    }

    fn give_back(&mut self, place: Place) {
        self.0.retain(|(holder, ..)| *holder != place);
    }
}

/// The root complex.
pub struct PciHost {
    buses: Buses,
    low_memory_end: u64,
    high_memory_end: u64,
    /// From pins to interrupt controllers.
    router: Arc<Router>,
    functions: RwLock<BTreeMap<Place, Arc<dyn PciFunction>>>,
    decoded: Mutex<Decoded>,
    sources: Mutex<Sources>,
    ports: OnceLock<Arc<ConfigPorts>>,
    ecam: Arc<Ecam>,
}

#[derive(Serialize, Deserialize)]
struct HostState {
    config_address: u32,
    functions: Vec<(Place, Saved)>,
}

impl PciHost {
    /// A root complex with nothing plugged; it claims ports 0xcf8 to 0xcff.
    ///
    /// # Errors
    /// When another device has these ports.
    pub fn new(around: Surroundings) -> Result<Arc<Self>, ClaimError> {
        let port_bus = around.ports.clone();
        let host = Arc::new_cyclic(|host| Self {
            buses: Buses { ports: around.ports, memory: around.memory, physical_bits: around.physical_bits },
            low_memory_end: around.low_memory_end,
            high_memory_end: around.high_memory_end,
            router: Arc::new(Router::new(around.wires)),
            functions: RwLock::default(),
            decoded: Mutex::default(),
            sources: Mutex::default(),
            ports: OnceLock::new(),
            ecam: Arc::new(Ecam(host.clone())),
        });
        let ports = host.ports.get_or_init(|| Arc::new(ConfigPorts::new(Arc::downgrade(&host), around.reset_control)));
        port_bus.claim(CONFIG_ADDRESS_PORT, CONFIG_PORTS_LEN, ports.clone())?;
        Ok(host)
    }

    /// ECAM, which the host bridge places (PCIEXBAR).
    pub fn ecam(&self) -> Arc<dyn BusDevice> {
        self.ecam.clone()
    }

    /// The PIRQ lines.
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Width of a guest-physical address in bits.
    pub fn physical_bits(&self) -> u8 {
        self.buses.physical_bits
    }

    /// First address above all RAM that is above 4 GiB.
    pub fn high_memory_end(&self) -> u64 {
        self.high_memory_end
    }

    /// End of RAM below 4 GiB.
    pub fn low_memory_end(&self) -> u64 {
        self.low_memory_end
    }

    /// The interrupt line of a pin at `place`. Each call gives a line of its own.
    ///
    /// # Errors
    /// When the place can't be, or the wire has no end left.
    pub fn line(&self, place: Place, pin: Pin) -> Result<Line, PlugError> {
        if !place.is_valid() {
            return Err(PlugError::NoSuchPlace(place));
        }
        let (device, pin) = match place.port {
            None => (place.device, pin),
            Some(port) => (port.device, pin.swizzled(place.device)),
        };
        let pirq = pirq(device, pin);
        let source = self.sources.lock().take(place, pirq).ok_or(PlugError::WireFull(place))?;
        Ok(self.router.pirq(pirq).line(source))
    }

    /// Plugs a function in. A root port's slot shows that it is occupied.
    ///
    /// # Errors
    /// When the place can't be, is taken, or is behind a port that isn't there.
    pub fn plug(&self, place: Place, function: Arc<dyn PciFunction>) -> Result<(), PlugError> {
        if !place.is_valid() {
            return Err(PlugError::NoSuchPlace(place));
        }
        let port = {
            let mut functions = self.functions.write();
            if functions.contains_key(&place) {
                return Err(PlugError::Taken(place));
            }
            let port = match place.port_place() {
                None => None,
                Some(port) => {
                    let port = functions.get(&port).filter(|port| port.forwarding().is_some());
                    Some(port.cloned().ok_or(PlugError::NoBridge(place))?)
                }
            };
            functions.insert(place, function);
            port
        };
        self.decode();
        if let Some(port) = port {
            port.set_occupied(true);
        }
        Ok(())
    }

    /// Tells the driver of the function at a place that what it shows has changed. Says whether there is one.
    pub fn announce(&self, place: Place) -> bool {
        let function = self.functions.read().get(&place).cloned();
        function.inspect(|function| function.announce()).is_some()
    }

    /// Takes a function out, from which on it decodes nothing, and ends its work. Says whether there was one.
    pub fn unplug_function(&self, place: Place) -> bool {
        let (function, port) = {
            let mut functions = self.functions.write();
            let function = functions.remove(&place);
            let bare = !functions.keys().any(|other| other.port == place.port);
            let port = place.port_place().filter(|_| bare).and_then(|port| functions.get(&port).cloned());
            (function, port)
        };
        self.decode();
        if let Some(port) = port {
            port.set_occupied(false);
        }
        if let Some(function) = &function {
            function.unplug();
        }
        self.sources.lock().give_back(place);
        function.is_some()
    }

    /// Reads configuration space; ones where no function is.
    pub fn config_read(&self, at: Bdf, offset: usize, data: &mut [u8]) {
        match self.find(at) {
            Some((_, function)) => function.config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes configuration space; dropped where no function is.
    pub fn config_write(&self, at: Bdf, offset: usize, data: &[u8]) {
        let Some((place, function)) = self.find(at) else { return };
        let effect = function.config_write(offset, data);
        self.apply(place, &function, effect);
    }

    fn apply(&self, place: Place, function: &Arc<dyn PciFunction>, effect: Effect) {
        if effect.reset {
            function.reset();
        }
        if effect.reset_secondary {
            for (other, behind) in self.all() {
                if other.port_place() == Some(place) {
                    behind.reset();
                }
            }
        }
        if effect.decode || effect.reset || effect.reset_secondary {
            self.decode();
        }
    }

    // Locks are released before a function is called, here and below: its handlers take locks of their own.
    fn all(&self) -> Vec<(Place, Arc<dyn PciFunction>)> {
        self.functions.read().iter().map(|(place, function)| (*place, function.clone())).collect()
    }

    fn find(&self, at: Bdf) -> Option<(Place, Arc<dyn PciFunction>)> {
        let place = if at.bus == 0 {
            Place::root(at.device, at.function)
        } else {
            let (port, _) = self.bridges().into_iter().find(|(_, bridge)| bridge.link && bridge.secondary == at.bus)?;
            let port = PortPlace { device: port.device, function: port.function };
            Place { port: Some(port), device: at.device, function: at.function }
        };
        let function = self.functions.read().get(&place).cloned()?;
        Some((place, function))
    }

    fn bridges(&self) -> Vec<(Place, Forwarding)> {
        let all = self.all();
        all.into_iter().filter_map(|(place, function)| Some((place, function.forwarding()?))).collect()
    }

    fn regions(&self) -> Vec<(Place, Arc<dyn PciFunction>, Vec<Region>)> {
        let bridges: BTreeMap<Place, Forwarding> = self.bridges().into_iter().collect();
        let reach = |place: Place, region: &Region| match place.port_place() {
            None => true,
            Some(port) => bridges.get(&port).is_some_and(|bridge| bridge.covers(region)),
        };
        let all = self.all().into_iter();
        all.map(|(place, function)| {
            let mut regions = function.regions();
            regions.retain(|region| self.buses.reachable(region) && reach(place, region));
            (place, function, regions)
        })
        .collect()
    }

    // The registers are read under the lock, so that of two writers the later one's state is what stays decoded.
    fn decode(&self) {
        let mut decoded = self.decoded.lock();
        decoded.update(&self.buses, &self.regions());
    }

    /// The host bridge as software has programmed it.
    pub fn snapshot(&self) -> PciSnapshot {
        let regions: Vec<Region> = self.regions().into_iter().flat_map(|(_, _, regions)| regions).collect();
        snapshot::take(&regions, &self.bridges(), self.low_memory_end)
    }

    fn each(&self, call: impl Fn(&dyn PciFunction)) {
        for (_, function) in self.all() {
            call(function.as_ref());
        }
    }
}

impl Device for PciHost {
    fn id(&self) -> String {
        KIND.into()
    }

    fn reset(&self) {
        if let Some(ports) = self.ports.get() {
            ports.set_address(0);
        }
        self.each(|function| function.reset());
        self.decode();
    }

    fn pause(&self) {
        self.each(|function| function.pause());
    }

    fn resume(&self) {
        self.each(|function| function.resume());
    }

    fn save(&self) -> Result<Saved, StateError> {
        let functions = self
            .all()
            .into_iter()
            .map(|(place, function)| Ok((place, function.save()?)))
            .collect::<Result<_, StateError>>()?;
        let config_address = self.ports.get().map_or(0, |ports| ports.address());
        Saved::new(KIND, VERSION, &HostState { config_address, functions })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state: HostState = saved.open(KIND, VERSION)?;
        let functions = self.all();
        if !functions.iter().map(|(place, _)| place).eq(state.functions.iter().map(|(place, _)| place)) {
            return Err(StateError::Impossible("other PCI functions are plugged than were saved".into()));
        }
        for ((_, function), (_, saved)) in functions.iter().zip(&state.functions) {
            function.restore(saved)?;
        }
        if let Some(ports) = self.ports.get() {
            ports.set_address(state.config_address);
        }
        self.decode();
        Ok(())
    }

    fn unplug(&self) {
        for (place, _) in self.all() {
            self.unplug_function(place);
        }
        self.buses.ports.release(CONFIG_ADDRESS_PORT);
    }
}
