//! `rebase`.

use std::io::IoSlice;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiln_image::chain::{self, Image, Open};
use kiln_image::convert::Source;
use kiln_image::qcow2::Qcow2;
use kiln_image::qcow2::compress::Compressor;
use kiln_image::{BlockDevice, Error, zeros};

use super::super::{Onto, Rebase};
use super::open;
use crate::failure::{Failure, Status};

/// Bytes compared at once.
const PIECE: u64 = 1 << 20;

pub(super) fn perform(rebase: &Rebase) -> Result<ExitCode, Failure> {
    let stop = open::stopper();
    // Unchecked, the old backing file need not even be there.
    let how = Open {
        backing: !rebase.unchecked,
        backing_locks: !rebase.force_share,
        ..open::writing_alone(rebase.format, rebase.cache)
    };
    let image = Image::open(&rebase.file, how).map_err(|error| open::failed(&error))?;
    let Some(qcow2) = image.qcow2() else {
        let failure = Failure::new(Status::Failed, format!("{} can't lie on another disk", rebase.file.display()));
        return Err(failure.why("it is raw"));
    };
    let told = |error: Error| open::failed(&error);
    if !rebase.unchecked {
        qcow2.expect_backing();
        let new = new_backing(rebase)?;
        let progress = open::progress(rebase.progress);
        let mut compressor = None;
        let mut at = 0;
        while at < image.len() {
            if stop.load(Ordering::Relaxed) {
                return Err(open::stopped());
            }
            at += keep(rebase, &image, qcow2, new.as_deref(), at, &mut compressor).map_err(told)?;
            progress(at, image.len());
        }
        if let Some(new) = &new {
            open::leave(new, rebase.backing_cache)?;
        }
        // What was copied up is there for good before the name changes.
        image.flush().map_err(told)?;
    }
    let backing = match &rebase.onto {
        Onto::Nothing => None,
        Onto::Disk(backing) => {
            let format = kiln_image::Format::from(backing.format).name().to_owned();
            Some((backing.file.clone().into_os_string(), Some(format)))
        }
    };
    qcow2.set_backing(backing).map_err(told)?;
    image.close().map_err(told)?;
    open::leave(&image, rebase.cache)?;
    open::tell_notes(&image, rebase.quiet);
    Ok(ExitCode::SUCCESS)
}

fn new_backing(rebase: &Rebase) -> Result<Option<Arc<Image>>, Failure> {
    let Onto::Disk(backing) = &rebase.onto else { return Ok(None) };
    let path = chain::below(&rebase.file, backing.file.as_os_str());
    let how = Open { locks: !rebase.force_share, ..Open::reading(Some(backing.format.into())) };
    let image = Image::open(&path, how).map_err(|error| open::failed_reading(&error))?;
    let own = std::fs::canonicalize(&rebase.file).ok();
    if image.chain().any(|image| std::fs::canonicalize(image.path()).ok() == own) {
        let what = format!("{} lies below {} already", rebase.file.display(), path.display());
        return Err(Failure::new(Status::Conflict, what));
    }
    Ok(Some(image))
}

// What the image itself doesn't say, and what would read otherwise on the new backing file, is copied up. Returns how far
// this has got.
fn keep(
    rebase: &Rebase,
    image: &Image,
    qcow2: &Qcow2,
    new: Option<&Image>,
    at: u64,
    compressor: &mut Option<Compressor>,
) -> Result<u64, Error> {
    let rest = BlockDevice::len(image) - at;
    let status = image.status(at, rest)?;
    if status.allocated {
        return Ok(status.len);
    }
    let cluster = qcow2.header().cluster_size();
    let len = status.len.min(PIECE.max(cluster));
    // Where both read zeros without a look at any byte, there is nothing to do.
    let old = image.stretch(at, len, false)?;
    let new_zero = match new {
        None => len,
        Some(new) if at >= BlockDevice::len(new) => len,
        Some(new) => {
            let there = BlockDevice::len(new) - at;
            let status = new.stretch(at, len.min(there), false)?;
            if status.zero { status.len } else { 0 }
        }
    };
    if old.zero && new_zero > 0 {
        return Ok(old.len.min(new_zero));
    }
    let mut before = vec![0; len as usize];
    Source::read(image, &mut before, at)?;
    let mut after = vec![0; len as usize];
    if let Some(new) = new {
        let there = BlockDevice::len(new).saturating_sub(at).min(len) as usize;
        if let Some(part) = after.get_mut(..there).filter(|part| !part.is_empty()) {
            Source::read(new, part, at)?;
        }
    }
    let unit = cluster as usize;
    let mut start = 0;
    // Clusters, as they lie: the first and the last may be parts.
    while start < before.len() {
        let end = (((at as usize + start) / unit + 1) * unit - at as usize).min(before.len());
        let (old, new) = (before.get(start..end).unwrap_or_default(), after.get(start..end).unwrap_or_default());
        if old != new {
            write(rebase, image, qcow2, at + start as u64, old, compressor)?;
        }
        start = end;
    }
    Ok(len)
}

fn write(
    rebase: &Rebase,
    image: &Image,
    qcow2: &Qcow2,
    at: u64,
    bytes: &[u8],
    compressor: &mut Option<Compressor>,
) -> Result<(), Error> {
    let header = qcow2.header();
    let cluster = header.cluster_size();
    if zeros::is_zero(bytes) {
        return image.write_zeroes(at, bytes.len() as u64, true);
    }
    let ends = at + bytes.len() as u64 == BlockDevice::len(image);
    if rebase.compress && at.is_multiple_of(cluster) && (bytes.len() as u64 == cluster || ends) {
        if compressor.is_none() {
            let failed = |source| Error::Open { path: image.path().into(), source };
            *compressor = Some(Compressor::new(header.compression).map_err(failed)?);
        }
        let mut whole = bytes.to_vec();
        whole.resize(cluster as usize, 0);
        let mut out = vec![0; cluster as usize - 1];
        if let Some(len) = compressor.as_mut().and_then(|compressor| compressor.compress(&whole, &mut out)) {
            return qcow2.write_compressed(at, out.get(..len).unwrap_or_default());
        }
    }
    image.write_at(&[IoSlice::new(bytes)], at)
}
