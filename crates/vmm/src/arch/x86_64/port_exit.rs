//! Port accesses as KVM hands them over (`KVM_EXIT_IO`), string instructions included.

use std::slice;

use kvm_bindings::{KVM_EXIT_IO_IN, kvm_run};

use crate::bus::Bus;

/// An access, as far as its kind goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Port.
    pub port: u16,
    /// Bytes of one item.
    pub width: usize,
    /// A write, not a read.
    pub write: bool,
}

/// Answers the port access that the last entry ended with, and says what it was.
///
/// `REP INS` and `REP OUTS` bring several items of one width for one port.
#[allow(unsafe_code)]
pub fn serve(run: &mut kvm_run, run_len: usize, ports: &Bus) -> Option<Access> {
    // SAFETY: the caller saw KVM_EXIT_IO, for which the kernel fills this member of the union.
    let io = unsafe { run.__bindgen_anon_1.io };
    let (width, count) = (usize::from(io.size), io.count as usize);
    let len = width.checked_mul(count).filter(|len| *len > 0)?;
    let offset = io.data_offset as usize;
    if offset.checked_add(len).is_none_or(|end| end > run_len) {
        return None;
    }
    // SAFETY: the kernel maps `run_len` bytes from `run` on, offset and length were checked against it, and the
    // processor stands, so nobody else uses them.
    let data = unsafe { slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(offset), len) };
    let write = u32::from(io.direction) != KVM_EXIT_IO_IN;
    for item in data.chunks_exact_mut(width) {
        if write {
            ports.write(u64::from(io.port), item);
        } else {
            ports.read(u64::from(io.port), item);
        }
    }
    Some(Access { port: io.port, width, write })
}
