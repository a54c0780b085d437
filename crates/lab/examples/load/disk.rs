//! The disk's stages: past the guest's page cache, 4 KiB at random places with one and sixteen requests at once, then a
//! mebibyte after another.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::stage;

/// What O_DIRECT wants of a buffer's address.
const ALIGNMENT: usize = 4096;
const SMALL: usize = 4 << 10;
const LARGE: usize = 1 << 20;

#[derive(Clone, Copy)]
struct Load {
    writes: bool,
    random: bool,
    piece: usize,
    depth: u64,
}

/// All stages, `time` each, on a block device that is written over.
pub fn run(device: &str, time: Duration) -> io::Result<()> {
    let mut options = File::options();
    let file = options.read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(device)?;
    let file = Arc::new(file);
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
    let small = |writes, depth| Load { writes, random: true, piece: SMALL, depth };
    let large = |writes| Load { writes, random: false, piece: LARGE, depth: 1 };
    // What a stage costs in which nothing is done is taken off the others.
    stage("nothing", || Ok(1))?;
    for (name, load) in [
        ("4k read, depth 1", small(false, 1)),
        ("4k write, depth 1", small(true, 1)),
        ("4k read, depth 16", small(false, 16)),
        ("4k write, depth 16", small(true, 16)),
        ("1M read", large(false)),
        ("1M write", large(true)),
    ] {
        stage(name, || loaded(&file, size, load, time))?;
    }
    Ok(())
}

// Requests done. As many threads as requests may be under way, each with the next as soon as the one before is done.
fn loaded(file: &Arc<File>, size: u64, load: Load, time: Duration) -> io::Result<u64> {
    let end = Instant::now() + time;
    let threads: Vec<_> = (0..load.depth)
        .map(|number| {
            let file = file.clone();
            thread::spawn(move || requests(&file, size, load, number, end))
        })
        .collect();
    let done = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("it panicked"))));
    done.sum()
}

fn requests(file: &File, size: u64, load: Load, number: u64, end: Instant) -> io::Result<u64> {
    let mut memory = vec![number as u8 + 1; load.piece + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + load.piece];
    let places = size / load.piece as u64;
    let mut noise = 0x9e37_79b9_7f4a_7c15 ^ (number + 1);
    let mut count = 0;
    while Instant::now() < end {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        let place = if load.random { noise } else { count };
        let at = place % places * load.piece as u64;
        match load.writes {
            true => file.write_all_at(buffer, at)?,
            false => file.read_exact_at(buffer, at)?,
        }
        count += 1;
    }
    Ok(count)
}
