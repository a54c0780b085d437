//! Guests that ask for a reset at port 0xcf9 and are never heard of again.
//!
//! They are a few instructions long: no system would fall silent just there.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use kiln_vmm::config::Linux;
use kiln_vmm::machine::{Event, Machine};
use kiln_vmm::power::ResetCause;

use super::story::Recipe;

const LOADED_AT: u32 = 0x10_0000;

/// Writes CONFIG_ADDRESS as often as a scan does, then reset control, in 32-bit mode without interrupts.
const SCAN_AND_RESET: &[u8] = &[
    0xfa, // cli
    0xb9, 0x40, 0, 0, 0, // mov ecx, 64
    0xb8, 0, 0, 0, 0x80, // mov eax, 0x80000000
    0xba, 0xf8, 0x0c, 0, 0,    // mov edx, 0xcf8
    0xef, // again: out dx, eax
    0xe2, 0xfd, // loop again
    0xba, 0xf9, 0x0c, 0, 0, // mov edx, 0xcf9
    0xb0, 0x02, 0xee, // mov al, 2; out dx, al
    0xb0, 0x06, 0xee, // mov al, 6; out dx, al
];
const SPIN: &[u8] = &[0xeb, 0xfe]; // jmp $
const HALT: &[u8] = &[0xf4, 0xeb, 0xfd]; // again: hlt; jmp again

/// An ELF kernel of one segment and the note that names its entry (PVH).
fn kernel(code: &[&[u8]]) -> File {
    let code = code.concat();
    let header = |kind: u32, offset: u64, address: u64, len: u64| {
        let mut entry = [kind.to_le_bytes(), 7u32.to_le_bytes()].concat();
        [offset, address, address, len, len, 4].iter().for_each(|word| entry.extend(word.to_le_bytes()));
        entry
    };
    let note = [&[4u8, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0][..], b"Xen\0", &LOADED_AT.to_le_bytes()].concat();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[16] = 2;
    elf[18] = 62;
    elf[20] = 1;
    elf[24..32].copy_from_slice(&u64::from(LOADED_AT).to_le_bytes());
    elf[32] = 64;
    elf[52] = 64;
    elf[54] = 56;
    elf[56] = 2;
    let first = 64 + 2 * 56;
    elf.extend(header(4, first, 0, note.len() as u64));
    elf.extend(header(1, first + note.len() as u64, LOADED_AT.into(), code.len() as u64));
    elf.extend([note, code].concat());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&elf).unwrap();
    file
}

fn resets(code: &[&[u8]]) {
    let mut config = Recipe::default().config();
    config.boot = Linux { kernel: kernel(code), initrd: None, cmdline: String::new() };
    let (machine, events) = Machine::new(config).unwrap();
    machine.start();
    let event = events.recv_timeout(Duration::from_secs(20));
    assert_eq!(event, Ok(Event::Reset(ResetCause::ResetControl)));
}

#[test]
fn a_guest_that_spins_after_its_reset_is_reset() {
    kiln_lab::needs_kvm!(60);
    resets(&[SCAN_AND_RESET, SPIN]);
}

#[test]
fn a_guest_that_halts_for_ever_after_its_reset_is_reset() {
    kiln_lab::needs_kvm!(60);
    resets(&[SCAN_AND_RESET, HALT]);
}
