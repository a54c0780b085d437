//! Runs one of the peers in a process of its own, for tests of what makes it die and for `cargo xtask bench image`.
//!
//! | words | what is done |
//! |---|---|
//! | `read imago IMAGE`, `read qcow2-rs IMAGE` | opens it and reads its first 16 MiB |
//! | `use qcow2-rs IMAGE` | the same, then writes two sectors, flushes, and runs its check |
//! | `convert raw qcow2 FROM TO`, `convert qcow2 raw FROM TO` | copies a disk by qcow2-rs, holes left out |

mod convert;

use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::process::ExitCode;

use kiln_image::{Access, BlockDevice, Error, SECTOR};
use kiln_peers::{adapter::Peer, other};

/// Most bytes that are read of an image that may claim any length.
const MOST: u64 = 16 << 20;
const PIECE: usize = 256 << 10;

fn read(image: &Path) -> Result<Peer, Error> {
    let peer = Peer::open(image, Access::Write)?;
    let mut bytes = vec![0; peer.len().min(MOST) as usize];
    for (number, part) in bytes.chunks_mut(PIECE).enumerate() {
        peer.read_at(&mut [IoSliceMut::new(part)], (number * PIECE) as u64)?;
    }
    Ok(peer)
}

fn use_it(image: &Path) -> Result<(), Error> {
    let peer = read(image)?;
    for offset in [0, (peer.len() / 2).next_multiple_of(SECTOR)] {
        peer.write_at(&[IoSlice::new(&[1; SECTOR as usize])], offset)?;
    }
    peer.flush()?;
    // It looks at each cluster that there could be: that may take years.
    if peer.len() <= MOST { peer.check() } else { Ok(()) }
}

fn run(words: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    match words {
        ["read", "imago", image] => drop(other::read(Path::new(image), MOST)?),
        ["read", "qcow2-rs", image] => drop(read(Path::new(image))?),
        ["use", "qcow2-rs", image] => use_it(Path::new(image))?,
        ["convert", "raw", "qcow2", from, to] => convert::to_qcow2(Path::new(from), Path::new(to))?,
        ["convert", "qcow2", "raw", from, to] => convert::to_raw(Path::new(from), Path::new(to))?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "see the head of its source for its words").into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}
