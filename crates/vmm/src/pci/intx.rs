//! INTx: from a function's pin to the interrupt controllers' inputs.
//!
//! A pin on bus 0 leads to one of eight PIRQ lines by this table, which is the one that a q35 guest knows from QEMU;
//! ACPI's `_PRT` is made from the same function, [`pirq`]:
//!
//! | device on bus 0   | INTA..INTD                                       |
//! |-------------------|--------------------------------------------------|
//! | 0 to 24           | PIRQ E, F, G, H, rotated by the device number: pin `p` (0 to 3) is E + (device + p) mod 4 |
//! | 25 to 29, and 31  | PIRQ A, B, C, D                                  |
//! | 30                | PIRQ E, F, G, H                                  |
//!
//! Behind a bridge, pin `p` of device `d` arrives as the bridge's own pin (p + d) mod 4 (P2P 9.1).
//!
//! PIRQ `n` (A is 0) drives GSI 16 + n, and besides, while the LPC bridge routes it (registers 0x60-0x63 and
//! 0x68-0x6b, ICH9 13.1.16), the ISA interrupt named there. Software masks whichever of the two it doesn't use.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::irq::{Line, SharedWire, Wires};

/// An interrupt pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    /// INTA#.
    A,
    /// INTB#.
    B,
    /// INTC#.
    C,
    /// INTD#.
    D,
}

impl Pin {
    /// All four, A first.
    pub const ALL: [Pin; 4] = [Pin::A, Pin::B, Pin::C, Pin::D];

    /// 0 for A to 3 for D. The interrupt pin register holds one more (PCI 6.2.4).
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Where this pin of device `device` arrives at the bridge above it (P2P 9.1).
    pub fn swizzled(self, device: u8) -> Pin {
        match (self.number() + device % 4) % 4 {
            0 => Pin::A,
            1 => Pin::B,
            2 => Pin::C,
            _ => Pin::D,
        }
    }
}

/// Number of PIRQ lines.
pub const PIRQS: usize = 8;
/// GSI of PIRQ A; the others follow.
pub const FIRST_GSI: u32 = 16;
/// Inputs of the two PICs.
const ISA_IRQS: usize = 16;
/// Sources 0 to 7 of an ISA wire from [`Router::isa`] are the PIRQs'; other devices take higher ones.
pub const FIRST_FREE_ISA_SOURCE: u32 = PIRQS as u32;

/// The PIRQ line, 0 (A) to 7 (H), of a pin of a device on bus 0.
pub fn pirq(device: u8, pin: Pin) -> u8 {
    match device {
        25..=29 | 31 => pin.number(),
        30 => 4 + pin.number(),
        _ => 4 + (device % 4 + pin.number()) % 4,
    }
}

/// The GSI of a pin of a device on bus 0, with the I/O APIC in use.
pub fn gsi(device: u8, pin: Pin) -> u32 {
    FIRST_GSI + u32::from(pirq(device, pin))
}

/// The ISA interrupt that a PIRQ route register names, if it is one that may be routed (ICH9 13.1.16): bit 7 turns
/// the route off, and 0, 1, 2, 8 and 13 belong to the board.
pub fn routed_irq(register: u8) -> Option<u8> {
    (register & 0x80 == 0).then_some(register & 0x0f).filter(|irq| !matches!(irq, 0 | 1 | 2 | 8 | 13))
}

struct Pirq {
    level: bool,
    isa: Option<u8>,
}

struct Links {
    wires: Arc<dyn Wires>,
    isa: Vec<Arc<SharedWire>>,
    pirqs: Mutex<Vec<Pirq>>,
}

impl Links {
    fn drive_isa(&self, pirq: usize, isa: Option<u8>, level: bool) {
        if let Some(wire) = isa.and_then(|irq| self.isa.get(usize::from(irq))) {
            wire.line(pirq as u32).set(level);
        }
    }
}

impl Wires for Links {
    fn set(&self, gsi: u32, level: bool) {
        let index = gsi.wrapping_sub(FIRST_GSI) as usize;
        let mut pirqs = self.pirqs.lock();
        let Some(pirq) = pirqs.get_mut(index) else { return };
        pirq.level = level;
        self.wires.set(gsi, level);
        self.drive_isa(index, pirq.isa, level);
    }
}

/// The PIRQ lines and their two ways into the controllers.
pub struct Router {
    links: Arc<Links>,
    pirqs: Vec<Arc<SharedWire>>,
}

impl Router {
    /// Eight PIRQs on `wires`, none routed to an ISA interrupt.
    pub fn new(wires: Arc<dyn Wires>) -> Self {
        let isa = (0..ISA_IRQS as u32).map(|irq| SharedWire::new(wires.clone(), irq)).collect();
        let pirqs = (0..PIRQS).map(|_| Pirq { level: false, isa: None }).collect();
        let links = Arc::new(Links { wires, isa, pirqs: Mutex::new(pirqs) });
        let pirqs = (0..PIRQS as u32).map(|n| SharedWire::new(links.clone(), FIRST_GSI + n)).collect();
        Self { links, pirqs }
    }

    /// A PIRQ's wire; `pirq` is taken modulo 8.
    pub fn pirq(&self, pirq: u8) -> &Arc<SharedWire> {
        &self.pirqs[usize::from(pirq) % PIRQS]
    }

    /// The wire of an ISA interrupt that a PIRQ may be routed to as well. A board device on such a wire takes its
    /// line from here, with a source of [`FIRST_FREE_ISA_SOURCE`] or more. `irq` is taken modulo 16.
    pub fn isa(&self, irq: u8) -> &Arc<SharedWire> {
        &self.links.isa[usize::from(irq) % ISA_IRQS]
    }

    /// Routes a PIRQ to an ISA interrupt besides its GSI, or takes the route away. A level that is up moves along.
    pub fn route(&self, pirq: u8, isa: Option<u8>) {
        let index = usize::from(pirq);
        let mut pirqs = self.links.pirqs.lock();
        let Some(entry) = pirqs.get_mut(index) else { return };
        if entry.isa == isa {
            return;
        }
        self.links.drive_isa(index, entry.isa, false);
        entry.isa = isa;
        self.links.drive_isa(index, isa, entry.level);
    }
}

struct IntxState {
    asserted: bool,
    disabled: bool,
}

/// A function's interrupt pin, with its gate in the command register (PCI 6.2.2, bit 10).
pub struct Intx {
    line: Option<Line>,
    state: Mutex<IntxState>,
}

impl Intx {
    /// A pin on `line`; a function without a pin has none.
    pub fn new(line: Option<Line>) -> Self {
        Self { line, state: Mutex::new(IntxState { asserted: false, disabled: false }) }
    }

    /// The function wants or no longer wants service. Idempotent.
    pub fn set(&self, asserted: bool) {
        let mut state = self.state.lock();
        state.asserted = asserted;
        self.drive(&state);
    }

    /// Whether the function wants service, gate or no gate.
    pub fn asserted(&self) -> bool {
        self.state.lock().asserted
    }

    /// Closes or opens the gate.
    pub fn gate(&self, disabled: bool) {
        let mut state = self.state.lock();
        state.disabled = disabled;
        self.drive(&state);
    }

    /// Lets go of the wire and opens the gate.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        *state = IntxState { asserted: false, disabled: false };
        self.drive(&state);
    }

    fn drive(&self, state: &IntxState) {
        if let Some(line) = &self.line {
            line.set(state.asserted && !state.disabled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Levels;

    #[test]
    fn pins_lead_to_the_gsis_of_the_table() {
        assert_eq!(Pin::ALL.map(|pin| gsi(1, pin)), [21, 22, 23, 20]);
        assert_eq!(Pin::ALL.map(|pin| gsi(24, pin)), [20, 21, 22, 23]);
        assert_eq!(Pin::ALL.map(|pin| gsi(25, pin)), [16, 17, 18, 19]);
        assert_eq!(Pin::ALL.map(|pin| gsi(30, pin)), [20, 21, 22, 23]);
        assert_eq!(Pin::ALL.map(|pin| gsi(31, pin)), [16, 17, 18, 19]);
        assert_eq!(Pin::C.swizzled(3), Pin::B);
    }

    #[test]
    fn a_routed_pirq_drives_the_pic_too_and_a_raised_level_moves_with_the_route() {
        let levels = Arc::new(Levels::default());
        let router = Router::new(levels.clone());
        let line = router.pirq(2).line(0);
        router.route(2, routed_irq(11));
        line.set(true);
        assert_eq!(levels.up(), [11, 18]);
        router.route(2, routed_irq(10));
        assert_eq!(levels.up(), [10, 18]);
        router.route(2, routed_irq(0x80));
        assert_eq!(levels.up(), [18]);
        router.route(2, routed_irq(5));
        line.set(false);
        assert!(levels.up().is_empty());
    }

    #[test]
    fn two_pirqs_and_a_board_device_share_an_isa_wire() {
        let levels = Arc::new(Levels::default());
        let router = Router::new(levels.clone());
        router.route(0, Some(9));
        router.route(1, Some(9));
        let sci = router.isa(9).line(FIRST_FREE_ISA_SOURCE);
        let (a, b) = (router.pirq(0).line(0), router.pirq(1).line(0));
        for line in [&a, &b, &sci] {
            line.set(true);
        }
        a.set(false);
        b.set(false);
        assert_eq!(levels.up(), [9]);
        sci.set(false);
        assert!(levels.up().is_empty());
    }

    #[test]
    fn reserved_interrupts_are_not_routed() {
        assert_eq!([0, 1, 2, 8, 13, 0x8b].map(routed_irq), [None; 6]);
        assert_eq!(routed_irq(0x0b), Some(11));
    }

    #[test]
    fn the_gate_holds_the_wire_back_but_not_the_wish() {
        let levels = Arc::new(Levels::default());
        let intx = Intx::new(Some(Line::alone(levels.clone(), 20)));
        intx.gate(true);
        intx.set(true);
        assert!(levels.up().is_empty() && intx.asserted());
        intx.gate(false);
        assert_eq!(levels.up(), [20]);
        intx.reset();
        assert!(levels.up().is_empty() && !intx.asserted());
    }
}
