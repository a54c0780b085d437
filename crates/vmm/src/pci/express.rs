//! The PCI Express capability, version 2. PCI Express Base 4.0, 7.5.3.
//!
//! The link is one of 8 GT/s and eight lanes at both ends: fast enough that no guest calls it a bottleneck.

use super::bits::*;
use super::config::ConfigSpace;

const LINK: u32 = LINK_SPEED_8GT | LINK_WIDTH_X8;

fn add(config: &mut ConfigSpace, flags: u16, device: u32, link: u32) -> usize {
    let mut body = [0; EXPRESS_LEN - 2];
    body[..2].copy_from_slice(&flags.to_le_bytes());
    let at = config.add_capability(CAPABILITY_EXPRESS, &body);
    config.init(at + EXPRESS_DEVICE_CAPABILITIES, &device.to_le_bytes());
    config.init(at + EXPRESS_DEVICE_CONTROL, &DEVICE_CONTROL_DEFAULT.to_le_bytes());
    config.allow(at + EXPRESS_DEVICE_CONTROL, &DEVICE_CONTROL_WRITABLE.to_le_bytes());
    config.clears(at + EXPRESS_DEVICE_STATUS, &DEVICE_STATUS_ERRORS.to_le_bytes());
    config.init(at + EXPRESS_LINK_CAPABILITIES, &link.to_le_bytes());
    config.allow(at + EXPRESS_LINK_CONTROL, &LINK_CONTROL_WRITABLE.to_le_bytes());
    config.init(at + EXPRESS_LINK_CAPABILITIES_2, &LINK_CAPABILITIES_2_SPEEDS.to_le_bytes());
    config.init(at + EXPRESS_LINK_CONTROL_2, &(LINK_SPEED_8GT as u16).to_le_bytes());
    config.allow(at + EXPRESS_LINK_CONTROL_2, &LINK_CONTROL_2_WRITABLE.to_le_bytes());
    config.extend();
    at
}

/// Adds an endpoint's capability, with function level reset, and the extended space. Returns its offset.
pub fn add_endpoint(config: &mut ConfigSpace) -> usize {
    let device = DEVICE_CAPABILITIES_ROLE_ERRORS | DEVICE_CAPABILITIES_FLR;
    let at = add(config, EXPRESS_VERSION | EXPRESS_TYPE_ENDPOINT, device, LINK);
    config.init(at + EXPRESS_LINK_STATUS, &(LINK as u16).to_le_bytes());
    at
}

/// Adds a root port's capability and the extended space: hot-plug capable slot `slot` (below 8192), port number
/// `port`. Returns its offset.
///
/// There is no power controller, no indicator and no button, so software has no command to wait for.
pub fn add_root_port(config: &mut ConfigSpace, slot: u16, port: u8) -> usize {
    let link = LINK | LINK_CAPABILITIES_ACTIVE_REPORTING | u32::from(port) << LINK_CAPABILITIES_PORT_SHIFT;
    let flags = EXPRESS_VERSION | EXPRESS_TYPE_ROOT_PORT | EXPRESS_SLOT_IMPLEMENTED;
    let at = add(config, flags, DEVICE_CAPABILITIES_ROLE_ERRORS, link);
    let slot = SLOT_CAPABILITIES_HOT_PLUG
        | SLOT_CAPABILITIES_SURPRISE
        | SLOT_CAPABILITIES_NO_COMMAND_COMPLETED
        | u32::from(slot & 0x1fff) << SLOT_CAPABILITIES_NUMBER_SHIFT;
    config.init(at + EXPRESS_SLOT_CAPABILITIES, &slot.to_le_bytes());
    let control = SLOT_CONTROL_PRESENCE | SLOT_CONTROL_HOT_PLUG | SLOT_CONTROL_LINK;
    config.allow(at + EXPRESS_SLOT_CONTROL, &control.to_le_bytes());
    let changed = SLOT_STATUS_PRESENCE_CHANGED | SLOT_STATUS_LINK_CHANGED;
    config.clears(at + EXPRESS_SLOT_STATUS, &changed.to_le_bytes());
    config.hardware(at + EXPRESS_SLOT_STATUS, &SLOT_STATUS_PRESENT.to_le_bytes());
    config.hardware(at + EXPRESS_LINK_STATUS, &(LINK_STATUS_ACTIVE | LINK as u16).to_le_bytes());
    config.allow(at + EXPRESS_ROOT_CONTROL, &ROOT_CONTROL_WRITABLE.to_le_bytes());
    config.clears(at + EXPRESS_ROOT_STATUS, &ROOT_STATUS_PME.to_le_bytes());
    at
}

/// Shows a root port's slot and link as occupied or empty. `at` is the capability's offset.
pub fn show_occupied(config: &mut ConfigSpace, at: usize, occupied: bool) {
    let present = if occupied { SLOT_STATUS_PRESENT } else { 0 };
    config.update16(at + EXPRESS_SLOT_STATUS, SLOT_STATUS_PRESENT, present);
    let disabled = config.u16(at + EXPRESS_LINK_CONTROL) & LINK_CONTROL_DISABLE != 0;
    let link = if occupied && !disabled { LINK_STATUS_ACTIVE | LINK as u16 } else { 0 };
    config.update16(at + EXPRESS_LINK_STATUS, LINK_STATUS_ACTIVE | LINK as u16, link);
}
