//! Copying between raw and qcow2 by qcow2-rs, as fast as it can be had: its device on this thread, plain buffered I/O,
//! 2 MiB at once, and only what has data.

use std::fs::File;
use std::io::{self, Error};
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures::executor::block_on;
use kiln_peers::adapter::Device;
use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::error::Qcow2Error;
use qcow2_rs::meta::{MappingSource, Qcow2Header};
use qcow2_rs::utils::qcow2_setup_dev_sync;

/// Bytes that are copied at once.
const PIECE: u64 = 2 << 20;
/// As qemu-img's defaults have them: clusters of 64 KiB, refcounts of 16 bits.
const CLUSTER_BITS: usize = 16;
const REFCOUNT_ORDER: u8 = 4;
const BLOCK: usize = 512;

fn failed(error: Qcow2Error) -> Error {
    Error::other(error.to_string())
}

fn open(path: &Path, read_only: bool) -> io::Result<Device> {
    let params = Qcow2DevParams::new(BLOCK.trailing_zeros() as u8, None, None, read_only, false);
    let device = qcow2_setup_dev_sync(path, &params).map_err(failed)?;
    block_on(device.qcow2_prep_io()).map_err(failed)?;
    Ok(device)
}

// Makes an image whose disk has `size` bytes. The crate gives the tables; putting them into a file is left to its caller.
fn create(path: &Path, size: u64) -> io::Result<()> {
    let (table, block, _) = Qcow2Header::calculate_meta_params(size, CLUSTER_BITS, REFCOUNT_ORDER, BLOCK);
    let clusters = 1 + u64::from(table.1) + u64::from(block.1);
    let mut bytes = vec![0; (clusters << CLUSTER_BITS) as usize + BLOCK];
    Qcow2Header::format_qcow2(&mut bytes, size, CLUSTER_BITS, REFCOUNT_ORDER, BLOCK).map_err(failed)?;
    let file = File::create(path)?;
    file.write_all_at(&bytes, 0)?;
    // The L1 table lies behind, as zeros.
    let l1 = (size >> (2 * CLUSTER_BITS - 3)) + 1;
    file.set_len((clusters << CLUSTER_BITS) + (l1 * 8).next_multiple_of(1 << CLUSTER_BITS))
}

/// Copies a raw disk into a new qcow2 image.
///
/// # Errors
/// When a file can't be opened, read or written, or qcow2-rs says so.
pub fn to_qcow2(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let size = source.metadata()?.len();
    create(to, size)?;
    let device = open(to, false)?;
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        // A search that finds no more data fails with ENXIO.
        let Ok(start) = data(&source, at) else { break };
        let end = hole(&source, start)?.min(size);
        at = start / BLOCK as u64 * BLOCK as u64;
        while at < end {
            let part = &mut buffer[..(end - at).min(PIECE - at % PIECE) as usize];
            source.read_exact_at(part, at)?;
            block_on(device.write_at(part, at)).map_err(failed)?;
            at += part.len() as u64;
        }
    }
    block_on(device.flush_meta()).map_err(failed)
}

fn data(file: &File, from: u64) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from))?)
}

fn hole(file: &File, from: u64) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(from))?)
}

/// Copies a qcow2 image into a new raw file.
///
/// # Errors
/// As [`to_qcow2`].
pub fn to_raw(from: &Path, to: &Path) -> io::Result<()> {
    let device = open(from, true)?;
    let target = File::create(to)?;
    let (size, cluster) = (device.info.virtual_size(), device.info.cluster_size() as u64);
    target.set_len(size)?;
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < size {
        let mut end = at;
        while end < size && end - at < PIECE && has_data(&device, end)? {
            end = (end + cluster).min(size);
        }
        if end == at {
            at += cluster;
            continue;
        }
        let part = &mut buffer[..(end - at) as usize];
        if block_on(device.read_at(part, at)).map_err(failed)? != part.len() {
            return Err(Error::other("qcow2-rs read less than was asked for"));
        }
        target.write_all_at(part, at)?;
        at = end;
    }
    Ok(())
}

fn has_data(device: &Device, at: u64) -> io::Result<bool> {
    let mapping = block_on(device.get_mapping(at)).map_err(failed)?;
    Ok(!matches!(mapping.source, MappingSource::Zero | MappingSource::Unallocated))
}
