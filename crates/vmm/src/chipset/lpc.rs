//! The bridge to the legacy bus, 8086:2918 at 00:1f.0 (ICH9 13.1).
//!
//! It places the power management block (PMBASE) and the chip configuration registers (RCBA), and routes PIRQ lines
//! to ISA interrupts. The legacy devices themselves are elsewhere.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bits::*;
use super::chip_configuration::{ChipConfiguration, ChipConfigurationState};
use crate::bus::BusDevice;
use crate::device::{Device, Saved, StateError};
use crate::pci::bar::{Region, RegionKind, Space};
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::function::{Effect, Endpoint, EndpointState};
use crate::pci::intx::{Intx, PIRQS, Router, routed_irq};
use crate::pci::msix::Msix;
use crate::pci::{PciFunction, Place};

const KIND: &str = "lpc";
const VERSION: u32 = 1;
const IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x2918,
    revision: 0x02,
    class: [0x06, 0x01, 0x00],
    subsystem_vendor: SUBSYSTEM_VENDOR,
    subsystem: SUBSYSTEM,
};

/// The LPC bridge.
pub struct Lpc {
    endpoint: Endpoint,
    chip: ChipConfiguration,
    power_management: Arc<dyn BusDevice>,
    router: Arc<Router>,
}

#[derive(Serialize, Deserialize)]
struct LpcState {
    endpoint: EndpointState,
    chip: ChipConfigurationState,
}

fn config() -> ConfigSpace {
    let mut config = ConfigSpace::endpoint(&IDENTITY);
    // The command register is 0 after reset and may be written, as on QEMU's board, where ICH9 13.1.3 has its bits fixed
    // at 1: a guest that finds decoding on switches it off and on again around each BAR that it looks for, some thirty
    // exits for a function that has none. It is the only function of its device as yet.
    config.init(PMBASE, &PMBASE_IO.to_le_bytes());
    config.allow(PMBASE, &PMBASE_MASK.to_le_bytes());
    config.allow(ACPI_CONTROL, &[ACPI_CONTROL_WRITABLE]);
    config.init(GPIO_BASE, &PMBASE_IO.to_le_bytes());
    config.allow(GPIO_BASE, &PMBASE_MASK.to_le_bytes());
    config.allow(GPIO_CONTROL, &[0x11]);
    for routes in [PIRQ_ROUTE_LOW, PIRQ_ROUTE_HIGH] {
        config.init(routes, &[PIRQ_ROUTE_RESET; 4]);
        config.allow(routes, &[PIRQ_ROUTE_WRITABLE; 4]);
    }
    config.init(SERIAL_IRQ_CONTROL, &[SERIAL_IRQ_CONTROL_RESET]);
    config.allow(SERIAL_IRQ_CONTROL, &[0xff]);
    config.allow(LPC_IO_DECODE, &[0xff; LPC_IO_DECODE_LEN]);
    config.allow(GENERAL_PM, &[0xff; GENERAL_PM_LEN]);
    config.allow(BIOS_CONTROL, &[BIOS_CONTROL_WRITABLE]);
    config.allow(RCBA, &(RCBA_MASK | RCBA_ENABLE).to_le_bytes());
    config
}

impl Lpc {
    /// Where it is plugged.
    pub fn place() -> Place {
        Place::root(LPC_DEVICE, 0)
    }

    /// A bridge that places `power_management` (128 bytes of ports) and routes PIRQs through `router`.
    pub fn new(power_management: Arc<dyn BusDevice>, router: Arc<Router>) -> Arc<Self> {
        let endpoint = Endpoint::new(config(), Intx::new(None), Msix::new(Vec::new()), None, None);
        Arc::new(Self { endpoint, chip: ChipConfiguration::default(), power_management, router })
    }

    fn follow_routes(&self) {
        let routes = self.endpoint.with_config(|config| {
            let mut routes = [0; PIRQS];
            let (low, high) = routes.split_at_mut(PIRQS / 2);
            config.read(PIRQ_ROUTE_LOW, low);
            config.read(PIRQ_ROUTE_HIGH, high);
            routes
        });
        for (pirq, register) in (0..).zip(routes) {
            self.router.route(pirq, routed_irq(register));
        }
    }
}

impl PciFunction for Lpc {
    fn config_read(&self, offset: usize, data: &mut [u8]) {
        self.endpoint.config_read(offset, data);
    }

    fn config_write(&self, offset: usize, data: &[u8]) -> Effect {
        let effect = self.endpoint.config_write(offset, data);
        self.follow_routes();
        let touches = |register: usize| offset < register + 4 && offset + data.len() > register;
        let decode = effect.decode || touches(PMBASE) || touches(ACPI_CONTROL) || touches(RCBA);
        Effect { decode, ..effect }
    }

    fn regions(&self) -> Vec<Region> {
        self.endpoint.with_config(|config| {
            let pm = (config.u8(ACPI_CONTROL) & ACPI_CONTROL_ENABLE != 0).then(|| Region {
                kind: RegionKind::PowerManagement,
                space: Space::Port,
                base: u64::from(config.u32(PMBASE) & PMBASE_MASK),
                len: PM_BLOCK_LEN,
            });
            let rcba = config.u32(RCBA);
            let chip = (rcba & RCBA_ENABLE != 0).then_some(Region {
                kind: RegionKind::ChipConfiguration,
                space: Space::Memory,
                base: u64::from(rcba & RCBA_MASK),
                len: CHIP_CONFIGURATION_LEN as u64,
            });
            pm.into_iter().chain(chip).collect()
        })
    }

    fn region_read(&self, kind: RegionKind, offset: u64, data: &mut [u8]) {
        match kind {
            RegionKind::PowerManagement => self.power_management.read(offset, data),
            _ => self.chip.read(offset, data),
        }
    }

    fn region_write(&self, kind: RegionKind, offset: u64, data: &[u8]) {
        match kind {
            RegionKind::PowerManagement => self.power_management.write(offset, data),
            _ => self.chip.write(offset, data),
        }
    }
}

impl Device for Lpc {
    fn id(&self) -> String {
        KIND.into()
    }

    fn reset(&self) {
        self.endpoint.reset();
        self.chip.reset();
        self.follow_routes();
    }

    fn pause(&self) {}

    fn resume(&self) {}

    fn save(&self) -> Result<Saved, StateError> {
        Saved::new(KIND, VERSION, &LpcState { endpoint: self.endpoint.save(), chip: self.chip.save() })
    }

    fn restore(&self, saved: &Saved) -> Result<(), StateError> {
        let state: LpcState = saved.open(KIND, VERSION)?;
        self.endpoint.restore(&state.endpoint)?;
        self.chip.restore(&state.chip)?;
        self.follow_routes();
        Ok(())
    }
}
