//! Body of the fuzz target of kernel files: any bytes are a kernel, or change one that is right.

#![allow(clippy::unwrap_used, reason = "failing is how a finding shows")]

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};

use super::header::{Header, PEEK, put};
use super::samples::{elf, minimal};
use super::{Linux, Told, load};
use crate::memory::layout::RamSplit;
use crate::memory::{Backing, GuestRam, allocate};
use crate::testing::Input;

/// Memory of the machine that the kernels are loaded into: enough for those that are right.
const MEMORY: u64 = 32 << 20;

thread_local! {
    static RAM: GuestRam = allocate(MEMORY, Backing::Private).unwrap();
}

// The bytes as they are, or changes to a file that is right: a place among the first, and what comes there.
fn kernel(input: &mut Input<'_>) -> Vec<u8> {
    let mut file = match input.byte() % 4 {
        0 => {
            let mut raw = Vec::new();
            while !input.is_empty() {
                raw.push(input.byte());
            }
            return raw;
        }
        1 => elf(),
        _ => minimal(),
    };
    while !input.is_empty() {
        let at = usize::from(input.u16()) % (PEEK + 64);
        match input.byte() % 4 {
            0 => put(&mut file, at, &[input.byte()]),
            1 => put(&mut file, at, &input.bytes::<4>()),
            2 => put(&mut file, at, &input.bytes::<8>()),
            _ => file.truncate(at * 4),
        }
    }
    file
}

/// Reads headers and loads what passes for a kernel, with an initrd, into a small machine.
pub fn fuzz_kernel(bytes: &[u8]) {
    let file = kernel(&mut Input::new(bytes));
    if let Ok(header) = Header::parse(file.get(..PEEK.min(file.len())).unwrap(), file.len() as u64) {
        // What is believed of it lies inside the file and inside the boot parameters.
        assert!(header.kernel_offset < file.len() as u64);
        assert!(header.raw.len() <= 0x1000 - 0x1f1);
    }
    let linux = Linux { kernel: open(&file), initrd: Some(open(b"initrd")), cmdline: "quiet".into() };
    RAM.with(|ram| drop(load(ram, RamSplit::of(MEMORY), &linux, Told::default())));
}

fn open(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn a_kernel_file_that_says_anything_finds_nothing() {
        for seed in 0..5000 {
            fuzz_kernel(&noise(seed, (seed % 60) as usize));
        }
    }
}
