//! Body of the fuzz target of the firmware configuration device: a guest that reads and writes its ports in any way.

#![allow(clippy::expect_used)] // Failing is how a finding shows.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::bits::*;
use super::{Content, FwCfg, Items};
use crate::bus::BusDevice;
use crate::device::Device;
use crate::memory::{Backing, GuestRam, allocate};
use crate::testing::{Input, noise};

const RAM: u64 = 1 << 20;
/// No input needs more accesses.
const MOST: usize = 400;

fn device(ram: &GuestRam) -> Arc<FwCfg> {
    let mut items = Items::default();
    items.number(0x8002, Content::Fixed(vec![1; 5])).expect("a key");
    items.file("opt/long", Content::Fixed(noise(1, 70_000))).expect("a name");
    items.file("etc/made", Content::Made { len: 100, make: Arc::new(|| vec![7; 90]) }).expect("a name");
    FwCfg::new(items, ram.clone())
}

// A request: most of them lie in memory and are of a length that does.
fn request(input: &mut Input<'_>, ram: &GuestRam) -> u64 {
    let control = u32::from(input.u16() % 0x30) << 16 | u32::from(input.byte() % 32);
    let len = if input.byte() < 16 { input.u32() } else { u32::from(input.u16()) };
    let at = if input.byte() < 16 { u64::from(input.u32()) << (input.byte() % 33) } else { u64::from(input.u16()) };
    let bytes = [&control.to_be_bytes()[..], &len.to_be_bytes(), &at.to_be_bytes()].concat();
    let place = RAM - 16 - u64::from(input.byte() % 32);
    let _ = ram.write_slice(&bytes, GuestAddress(place));
    place
}

/// Does what the bytes say to a device; a saved state must come back as it was.
///
/// # Panics
/// On a finding.
pub fn fuzz_fw_cfg(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let ram = allocate(RAM, Backing::Private).expect("memory");
    let mut one = device(&ram);
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 => one.write(SELECTOR, &(input.u16() % 0x30).to_le_bytes()),
            1 | 2 => {
                let place = request(&mut input, &ram);
                one.write(DMA_HIGH, &place.to_be_bytes());
            }
            3 => {
                one.reset();
            }
            4 => {
                let saved = one.save().expect("a state");
                let two = device(&ram);
                two.restore(&saved).expect("its own state");
                assert_eq!(two.save().expect("a state"), saved);
                one = two;
            }
            5 => {
                let data: Vec<u8> = (0..input.byte() % 17).map(|_| input.byte()).collect();
                one.write(u64::from(input.byte()) % (LEN + 4), &data);
            }
            _ => {
                let mut data = vec![0xff; usize::from(input.byte())];
                one.read(u64::from(input.byte()) % (LEN + 4), &mut data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_does_anything_finds_nothing_in_the_firmware_configuration() {
        kiln_lab::testing::hostile(300, |seed| fuzz_fw_cfg(&noise(seed, 1200)));
    }
}
