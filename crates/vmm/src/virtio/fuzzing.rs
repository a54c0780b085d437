//! Body of the fuzz target of rings and requests: any bytes are memory with rings in it.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::bits::*;
use super::blk::{Blk, Drive};
use super::device::{Need, Outcome, QueueHandler, VirtioDevice};
use super::net::{Card, Net, Offload};
use super::ring::{Addresses, Gathered, Progress, Ring};
use super::rng::Rng;
use crate::memory::GuestRam;
use crate::testing::{Cable, Input, MemoryDisk};

const MEMORY: u64 = 0x1_0000;
/// An indirect table.
const TABLE: u64 = 0x5000;
/// Request headers.
const HEADERS: u64 = 0x6000;
/// No input needs more chains than this: what comes after repeats.
const MOST_CHAINS: usize = 600;

// Most lengths are such as fit into memory, some are huge.
fn length(input: &mut Input<'_>) -> u32 {
    match input.byte() {
        0..=3 => input.u32(),
        4..=63 => 1,
        64..=127 => 16,
        128..=191 => 512 * u32::from(input.byte() % 16),
        _ => u32::from(input.u16()),
    }
}

fn descriptor(memory: &GuestRam, table: u64, index: u16, (address, len, flags, next): (u64, u32, u16, u16)) {
    let bytes = [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat();
    // Whatever doesn't fit into memory isn't there.
    let _ = memory.write_slice(&bytes, GuestAddress(table + u64::from(index) * 16));
}

fn write_descriptors(memory: &GuestRam, at: u64, count: u16, input: &mut Input<'_>) {
    for index in 0..count {
        if input.is_empty() {
            return;
        }
        let address = match input.byte() {
            0..=3 => input.u64(),
            // A request header, or the table that an indirect descriptor could mean.
            header @ 4..=119 => HEADERS + u64::from(header % 8) * 16,
            120..=135 => TABLE,
            _ => u64::from(input.u16()),
        };
        // Plain, NEXT, WRITE, both, INDIRECT; next is mostly the neighbour, as a driver would have it.
        let flags = [0u16, 1, 1, 1, 2, 2, 3, 4][usize::from(input.byte() & 7)];
        let (len, jump) = (length(input), u16::from(input.byte()));
        let next = if jump < 224 { index + 1 } else { jump % (count + 1) };
        descriptor(memory, at, index, (address, len, flags, next));
    }
}

// Requests as a driver makes them, of three descriptors each, then some bytes written over.
fn write_requests(memory: &GuestRam, at: &Addresses, input: &mut Input<'_>) {
    const REQUESTS: u16 = 4;
    for request in 0..REQUESTS {
        let first = request * 3;
        let (header, data) = (u64::from(input.byte() % 8), 0x7000 + u64::from(request) * 0x2000);
        let writes = if input.byte() & 1 == 0 { 2 } else { 0 };
        let len = if input.byte() & 7 == 0 { u32::from(input.u16()) } else { 512 * u32::from(input.byte() % 17) };
        let chain = [(HEADERS + header * 16, 16, 1), (data, len, 1 | writes), (HEADERS + 0x100, 1, 2)];
        for (index, (address, len, flags)) in (first..).zip(chain) {
            descriptor(memory, at.descriptors, index, (address, len, flags, index + 1));
        }
        let slot = GuestAddress(at.available + 4 + u64::from(request) * 2);
        let _ = memory.write_obj(first, slot);
    }
    let _ = memory.write_obj(REQUESTS, GuestAddress(at.available + 2));
    for _ in 0..input.byte() % 4 {
        let _ = memory.write_obj(input.byte(), GuestAddress(input.u16().into()));
    }
}

fn device(choice: u8) -> Arc<dyn VirtioDevice> {
    match choice % 6 {
        0 => Rng::new(),
        1 => Blk::new(Drive::new("read-only", MemoryDisk::new(0x8000, true))),
        2 | 3 => {
            let cable = Cable::new();
            for len in [0, 60, 700, 5000, 1, 65_534, 300] {
                cable.put(&vec![len as u8; len], Offload { valid: len % 2 == 0, ..Offload::default() });
            }
            Arc::new(Card(Net::new(cable, [2; 6], 1500)))
        }
        _ => Blk::new(Drive::new("disk", MemoryDisk::new(0x8000, false))),
    }
}

/// Serves whatever chains the bytes make, on a block, network or entropy device, until the ring ends or breaks.
///
/// # Panics
/// When the host gives no memory; and on a finding.
#[allow(clippy::expect_used)] // Failing is how a finding shows.
pub fn fuzz_queue(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).expect("a little memory");
    let choice = input.byte();
    let (device, queue) = (device(choice), if choice % 6 == 3 { u16::from(choice / 6 % 3) } else { 0 });
    let size = 1 << (input.byte() % 9);
    let spread = input.byte();
    let at = match spread & 1 {
        0 => Addresses { descriptors: 0x1000, available: 0x3000, used: 0x4000 },
        _ => Addresses { descriptors: input.u16().into(), available: input.u16().into(), used: input.u16().into() },
    };
    let event_index = spread & 2 != 0;
    let features = if event_index { FEATURE_EVENT_IDX } else { 0 } | u64::from(input.u16());
    write_descriptors(&memory, at.descriptors, size, &mut input);
    write_descriptors(&memory, TABLE, 8, &mut input);
    // Request headers where short addresses may find them, then the available ring.
    for header in 0..8 {
        let request =
            [&(u32::from(input.byte()) % 16).to_le_bytes()[..], &[0; 4], &u64::from(input.byte()).to_le_bytes()];
        let _ = memory.write_slice(&request.concat(), GuestAddress(HEADERS + header * 16));
    }
    let index = input.u16() % (size + 2);
    let heads: Vec<u8> = (0..16).flat_map(|_| (u16::from(input.byte()) % (size + 1)).to_le_bytes()).collect();
    let _ = memory.write_slice(&[&[0; 2][..], &index.to_le_bytes(), &heads].concat(), GuestAddress(at.available));
    if spread & 4 != 0 && size >= 16 {
        write_requests(&memory, &at, &mut input);
    }
    let progress = Progress { next_available: 0, next_used: input.u16() };
    let Some(mut ring) = Ring::new(memory, (256, size), &at, progress, event_index) else { return };
    serve(&mut ring, device.handler(queue, features).as_mut());
}

fn serve(ring: &mut Ring, handler: &mut dyn QueueHandler) {
    for _ in 0..MOST_CHAINS {
        let gathered = match handler.need() {
            Need::Chain => ring.next().map(|next| next.map_or(Gathered::Short(0), Gathered::Chain)),
            Need::Room(room) => ring.gather(room),
            Need::Input(_) => return,
        };
        let mut chain = match gathered {
            Ok(Gathered::Chain(chain)) => chain,
            Ok(Gathered::Short(_)) | Err(_) => return,
        };
        let room = chain.writable.len();
        let outcome = handler.handle(&mut chain);
        let heads = chain.heads;
        match outcome {
            Ok(Outcome::Done(written)) => {
                assert!(u64::from(written) <= room, "{written} bytes written into {room}");
                if ring.complete(&heads, written).is_err() || ring.listen().is_err() {
                    return;
                }
            }
            Ok(Outcome::Kept) => ring.put_back(heads.count()),
            Ok(_) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn a_driver_that_does_anything_finds_nothing_in_rings_and_requests() {
        kiln_lab::testing::hostile(20_000, |seed| fuzz_queue(&noise(seed, (seed % 1500) as usize)));
    }
}
