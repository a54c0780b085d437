//! DSDT: what can't be found by probing, in AML (ACPI 6.5, chapters 6, 8, 9 and 20; PCI Firmware 3.3, 4.5).
//!
//! Host bridge with windows, interrupt routing for both interrupt models and `_OSC`; link devices; root ports; the
//! board's ISA devices and reserved ranges; processors; `_S5`.

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, LessThan, Local, Memory32Fixed, Method,
    MethodCall, Name, NotEqual, OpRegion, OpRegionSpace, Or, Package, Path, ResourceTemplate, Return, Scope, ShiftLeft,
    Store, Subtract, Uuid,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{Machine, OEM_ID, OEM_REVISION, OEM_TABLE_ID, to_bytes};
use crate::chipset::bits::{LPC_DEVICE, PIRQ_ROUTE_LOW};
use crate::chipset::pm;
use crate::pci::intx::{FIRST_GSI, PIRQS, Pin, gsi, pirq};
use crate::pci::{Bdf, PciSnapshot};

/// `_OSC` of a PCI host bridge.
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// Control that is granted: native hot-plug, power management events, error reporting, the PCIe capability.
const OSC_GRANTED: u32 = 0b1_1101;
/// `_OSC` status: some of what was asked for isn't granted.
const OSC_MASKED: u32 = 1 << 4;
/// `_OSC` status: unknown UUID.
const OSC_UNKNOWN: u32 = 1 << 2;
/// ISA interrupts that a link can be routed to.
const LINK_IRQS: [u8; 3] = [5, 10, 11];
/// Routing register: not routed.
const LINK_OFF: u8 = 0x80;

/// AML that is ready.
struct Ready(Vec<u8>);

impl Aml for Ready {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn refs(list: &[Ready]) -> Vec<&dyn Aml> {
    list.iter().map(|aml| aml as &dyn Aml).collect()
}

fn ready(aml: &dyn Aml) -> Ready {
    Ready(to_bytes(aml))
}

fn path(name: &str) -> Path {
    Path::new(name)
}

fn name(of: &str, value: &dyn Aml) -> Ready {
    ready(&Name::new(path(of), value))
}

fn device(of: &str, children: &[Ready]) -> Ready {
    ready(&Device::new(path(of), refs(children)))
}

fn resources(list: &[Ready]) -> Ready {
    ready(&ResourceTemplate::new(refs(list)))
}

/// An ISA interrupt (6.4.2.1): edge triggered, active high.
fn irq(number: u8) -> Ready {
    let [low, high] = (1u16 << (number & 15)).to_le_bytes();
    Ready(vec![0x22, low, high])
}

fn io(base: u16, len: u8) -> Ready {
    ready(&IO::new(base, base, 1, len))
}

/// The table.
pub fn build(machine: &Machine) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let s5 = pm::S5_TYPE;
    let mut board = vec![host_bridge(machine), reserved(&machine.pci)];
    board.extend((0..PIRQS).map(link));
    board.extend((0u32..).zip(&machine.apic_ids).map(|(n, _)| processor(n)));
    let parts = [
        name("PICF", &0u8),
        ready(&Method::new(path("_PIC"), 1, false, vec![&Store::new(&path("PICF"), &Arg(0))])),
        name("_S5_", &Package::new(vec![&s5, &s5, &0u8, &0u8])),
        ready(&Scope::new(path("_SB_"), refs(&board))),
    ];
    parts.iter().for_each(|part| dsdt.append_slice(&part.0));
    dsdt.as_slice().to_vec()
}

fn host_bridge(machine: &Machine) -> Ready {
    let mut children = vec![
        name("_HID", &EISAName::new("PNP0A08")),
        name("_CID", &EISAName::new("PNP0A03")),
        name("_UID", &0u8),
        name("_SEG", &0u8),
        name("_BBN", &0u8),
        name("_CRS", &windows(&machine.pci, machine.last_bus())),
        osc(),
    ];
    children.extend(routing((0..32).flat_map(|slot| Pin::ALL.map(|pin| (slot, pin, pirq(slot, pin))))));
    children.extend(machine.pci.root_ports.iter().map(|port| root_port(port.at, port.slot)));
    children.push(isa_bridge(machine));
    device("PCI0", &children)
}

// The buses in use, the ports around those of configuration, the VGA window, and where BARs decode.
fn windows(pci: &PciSnapshot, last_bus: u8) -> Ready {
    let memory32 = |first: u64, last: u64| {
        let kind = AddressSpaceCacheable::NotCacheable;
        ready(&AddressSpace::new_memory(kind, true, first as u32, last as u32, None))
    };
    let mut list = vec![
        ready(&AddressSpace::new_bus_number(0u16, u16::from(last_bus))),
        io(0xcf8, 8),
        ready(&AddressSpace::new_io(0u16, 0x0cf7u16, None)),
        ready(&AddressSpace::new_io(0x0d00u16, 0xffffu16, None)),
        memory32(0xa_0000, 0xb_ffff),
    ];
    for window in &pci.windows {
        let Some(last) = window.len.checked_sub(1).and_then(|more| window.base.checked_add(more)) else { continue };
        if last <= u64::from(u32::MAX) {
            list.push(memory32(window.base, last));
        } else {
            let kind = AddressSpaceCacheable::NotCacheable;
            list.push(ready(&AddressSpace::new_memory(kind, true, window.base, last, None)));
        }
    }
    resources(&list)
}

// Grants what the root ports can do, so that the system handles hot-plug itself.
fn osc() -> Ready {
    let (status, control) = (path("CDW1"), path("CDW3"));
    let (status_at, control_at) =
        (CreateDWordField::new(&status, &Arg(3), &0u8), CreateDWordField::new(&control, &Arg(3), &8u8));
    let granted = And::new(&Local(0), &control, &OSC_GRANTED);
    let mark = Or::new(&status, &status, &OSC_MASKED);
    let some = NotEqual::new(&Local(0), &control);
    let report = If::new(&some, vec![&mark]);
    let answer = Store::new(&control, &Local(0));
    let uuid = Uuid::new(OSC_UUID);
    let ours = Equal::new(&Arg(0), &uuid);
    let yes = If::new(&ours, vec![&control_at, &granted, &report, &answer]);
    let unknown = Or::new(&status, &status, &OSC_UNKNOWN);
    let no = Else::new(vec![&unknown]);
    let back = Return::new(&Arg(3));
    ready(&Method::new(path("_OSC"), 4, false, vec![&status_at, &yes, &no, &back]))
}

// `_PRT` and its two tables: GSIs for the I/O APIC, links for the 8259s.
fn routing(pins: impl Iterator<Item = (u8, Pin, u8)> + Clone) -> [Ready; 3] {
    let table = |entry: &dyn Fn(u8) -> (Ready, u32)| {
        let rows: Vec<Ready> = pins
            .clone()
            .map(|(slot, pin, pirq)| {
                let (source, index) = entry(pirq);
                let address = u32::from(slot) << 16 | 0xffff;
                ready(&Package::new(vec![&address, &pin_index(pin), &source, &index]))
            })
            .collect();
        // More than 255 rows would need a package of variable length; 32 slots of four pins are 128.
        ready(&Package::new(refs(&rows)))
    };
    let apic = table(&|pirq| (ready(&0u8), FIRST_GSI + u32::from(pirq)));
    let pic = table(&|pirq| (ready(&path(&format!("LNK{}", letter(pirq.into())))), 0));
    let picked = [ready(&Return::new(&path("PRTA"))), ready(&Return::new(&path("PRTP")))];
    let model = path("PICF");
    let is_apic = Equal::new(&model, &1u8);
    let [a, p] = &picked;
    let by_apic = If::new(&is_apic, vec![a]);
    let method = Method::new(path("_PRT"), 0, false, vec![&by_apic, p]);
    [name("PRTA", &apic), name("PRTP", &pic), ready(&method)]
}

fn pin_index(pin: Pin) -> u8 {
    pin.number()
}

fn letter(n: usize) -> char {
    char::from(b'A' + (n % 26) as u8)
}

fn root_port(at: Bdf, slot: u16) -> Ready {
    let address = u32::from(at.device) << 16 | u32::from(at.function);
    let mut children = vec![name("_ADR", &address), name("_SUN", &u32::from(slot))];
    // Behind a port there is device 0 alone; its pins come out of the port's, turned by its number there.
    let behind = Pin::ALL.map(|pin| (0u8, pin, pirq_of(gsi(at.device, pin.swizzled(0)))));
    children.extend(routing(behind.into_iter()));
    device(&format!("P{:02X}{:X}", at.device & 0x1f, at.function & 7), &children)
}

fn pirq_of(gsi: u32) -> u8 {
    (gsi.saturating_sub(FIRST_GSI)) as u8
}

fn isa_bridge(machine: &Machine) -> Ready {
    let registers = [
        FieldEntry::Named(*b"RTEA", 8),
        FieldEntry::Named(*b"RTEB", 8),
        FieldEntry::Named(*b"RTEC", 8),
        FieldEntry::Named(*b"RTED", 8),
        FieldEntry::Reserved(32),
        FieldEntry::Named(*b"RTEE", 8),
        FieldEntry::Named(*b"RTEF", 8),
        FieldEntry::Named(*b"RTEG", 8),
        FieldEntry::Named(*b"RTEH", 8),
    ];
    let (access, lock, update) = (FieldAccessType::Byte, FieldLockRule::NoLock, FieldUpdateRule::Preserve);
    let mut children = vec![
        name("_ADR", &(u32::from(LPC_DEVICE) << 16)),
        ready(&OpRegion::new(path("ROUT"), OpRegionSpace::PCIConfig, &(PIRQ_ROUTE_LOW as u8), &12u8)),
        ready(&Field::new(path("ROUT"), access, lock, update, registers.to_vec())),
    ];
    if machine.ps2 {
        children.push(isa("KBD_", "PNP0303", None, &[io(0x60, 1), io(0x64, 1), irq(1)]));
        children.push(isa("MOU_", "PNP0F13", None, &[irq(12)]));
    }
    if machine.rtc {
        children.push(isa("RTC_", "PNP0B00", None, &[io(0x70, 8), irq(8)]));
    }
    for (n, (port, number)) in machine.serials.iter().enumerate() {
        let resources = [io(*port, 8), irq(*number as u8)];
        children.push(isa(&format!("COM{}", n + 1), "PNP0501", Some(n as u8 + 1), &resources));
    }
    device("ISA_", &children)
}

fn isa(of: &str, id: &str, unit: Option<u8>, list: &[Ready]) -> Ready {
    let mut children = vec![name("_HID", &EISAName::new(id)), name("_STA", &0xfu8), name("_CRS", &resources(list))];
    children.extend(unit.map(|unit| name("_UID", &unit)));
    device(of, &children)
}

// A PIRQ's way into the 8259s (6.2.13): its register in the LPC bridge says where it goes. Systems ask often, and each
// look costs two exits, so what the register holds is remembered after the first.
fn link(n: usize) -> Ready {
    let register = path(&format!("\\_SB_.PCI0.ISA_.RTE{}", letter(n)));
    let possible = resources(&[level_irqs(LINK_IRQS.iter().fold(0, |mask, irq| mask | 1 << irq))]);
    let children = [
        name("_HID", &EISAName::new("PNP0C0F")),
        name("_UID", &(n as u8 + 1)),
        name("_PRS", &possible),
        name(REMEMBERED, &NOT_READ),
        link_read(&register),
        link_current(),
        link_set(&register),
        link_disable(&register),
        link_status(),
    ];
    device(&format!("LNK{}", letter(n)), &children)
}

/// What a link remembers of its register.
const REMEMBERED: &str = "RTEX";
/// More than a register of one byte can hold.
const NOT_READ: u16 = 0x100;

fn link_read(register: &Path) -> Ready {
    let remembered = path(REMEMBERED);
    let unread = Equal::new(&remembered, &NOT_READ);
    let store = Store::new(&remembered, register);
    let (look, back) = (If::new(&unread, vec![&store]), Return::new(&remembered));
    ready(&Method::new(path("RTER"), 0, true, vec![&look, &back]))
}

fn link_current() -> Ready {
    let current = resources(&[level_irqs(0)]);
    let (template, mask) = (path("CRSB"), path("IRQM"));
    let mask_at = create_mask_field(&template, &mask);
    let register = MethodCall::new(path("RTER"), vec![]);
    let routed = And::new(&Local(0), &register, &(LINK_OFF | 0xf));
    let on = LessThan::new(&Local(0), &LINK_OFF);
    let bit = ShiftLeft::new(&mask, &1u8, &Local(0));
    let fill = If::new(&on, vec![&bit]);
    let (local, back) = (name("CRSB", &current), Return::new(&template));
    ready(&Method::new(path("_CRS"), 0, true, vec![&local, &mask_at, &routed, &fill, &back]))
}

fn link_set(register: &Path) -> Ready {
    let mask = path("IRQM");
    let mask_at = create_mask_field(&Arg(0), &mask);
    let lowest = Ready(find_set_right_bit(&mask));
    let down = Subtract::new(&Local(0), &Local(0), &1u8);
    let remembered = path(REMEMBERED);
    let (put, remember) = (Store::new(register, &Local(0)), Store::new(&remembered, &Local(0)));
    ready(&Method::new(path("_SRS"), 1, true, vec![&mask_at, &lowest, &down, &put, &remember]))
}

fn link_disable(register: &Path) -> Ready {
    let remembered = path(REMEMBERED);
    let (put, remember) = (Store::new(register, &LINK_OFF), Store::new(&remembered, &LINK_OFF));
    ready(&Method::new(path("_DIS"), 0, true, vec![&put, &remember]))
}

fn link_status() -> Ready {
    let register = MethodCall::new(path("RTER"), vec![]);
    let off_bit = And::new(&Local(0), &register, &LINK_OFF);
    let is_off = Equal::new(&Local(0), &LINK_OFF);
    let (off, working) = (Return::new(&0x9u8), Return::new(&0xbu8));
    let disabled = If::new(&is_off, vec![&off]);
    ready(&Method::new(path("_STA"), 0, true, vec![&off_bit, &disabled, &working]))
}

/// Interrupts of a mask (6.4.2.1): level triggered, active low, shared.
fn level_irqs(mask: u16) -> Ready {
    let [low, high] = mask.to_le_bytes();
    Ready(vec![0x23, low, high, 0x18])
}

/// `CreateWordField(source, 1, name)` (20.2.5.2): bytes 1 and 2 of an interrupt descriptor are its mask.
fn create_mask_field(source: &dyn Aml, name: &Path) -> Ready {
    let mut bytes = vec![0x8b];
    bytes.extend(to_bytes(source));
    bytes.extend(to_bytes(&1u8));
    bytes.extend(to_bytes(name));
    Ready(bytes)
}

/// `FindSetRightBit(value, Local0)` (20.2.5.4).
fn find_set_right_bit(value: &Path) -> Vec<u8> {
    let mut bytes = vec![0x82];
    bytes.extend(to_bytes(value));
    bytes.extend(to_bytes(&Local(0)));
    bytes
}

// What the board decodes without being a device: configuration space and the chipset's ports.
fn reserved(pci: &PciSnapshot) -> Ready {
    let mut list = vec![io(0x80, 1), io(0x92, 1), io(0xb2, 2)];
    if let Some(base) = pci.pm_base {
        list.push(io(base, pm::LEN as u8));
    }
    if let Some(ecam) = pci.ecam
        && let (Ok(base), Ok(len)) = (u32::try_from(ecam.base), u32::try_from(ecam.len))
    {
        list.push(ready(&Memory32Fixed::new(true, base, len)));
    }
    device("MB__", &[name("_HID", &EISAName::new("PNP0C02")), name("_CRS", &resources(&list))])
}

fn processor(n: u32) -> Ready {
    device(&format!("C{n:03X}"), &[name("_HID", &"ACPI0007"), name("_UID", &n)])
}
