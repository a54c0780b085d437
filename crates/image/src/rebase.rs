//! Giving an image another backing file, with the same contents to read.

use std::ffi::OsString;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chain::Image;
use crate::convert::Source;
use crate::qcow2::Qcow2;
use crate::qcow2::compress::Compressor;
use crate::{BlockDevice, Error, zeros};

/// Bytes compared at once.
const PIECE: u64 = 1 << 20;

/// How to do it.
pub struct Rebase<'a> {
    /// What the image is to lie on.
    pub onto: Option<Onto<'a>>,
    /// What is copied up is written compressed.
    pub compress: bool,
    /// Whether the whole is to be given up.
    pub stop: &'a AtomicBool,
    /// Hears how many of how many bytes are done.
    pub progress: &'a dyn Fn(u64, u64),
}

/// A new backing file.
pub struct Onto<'a> {
    /// Its contents.
    pub image: &'a Image,
    /// Its name as the header has it.
    pub name: OsString,
}

/// Copies up what would read otherwise on the new backing file, and then names that. A power loss at any time leaves the
/// contents as they were: what is copied up is durable before the name changes. The image is as good as closed afterwards.
/// Says whether it has come to its end.
///
/// # Errors
/// When one of them can't be read, or the image is raw or can't be written.
pub fn rebase(how: &Rebase<'_>, image: &Image) -> Result<bool, Error> {
    let Some(qcow2) = image.qcow2() else {
        let what = "it is raw, and can't lie on another disk".into();
        return Err(Error::Unsupported { name: image.path().display().to_string(), what });
    };
    qcow2.expect_backing();
    let mut work = Work { how, image, qcow2, cluster: qcow2.header().cluster_size(), compressor: None };
    let mut at = 0;
    while at < image.len() {
        if how.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        at += work.keep(at)?;
        (how.progress)(at, image.len());
    }
    // Makes what was copied up durable first.
    let format = |onto: &Onto<'_>| Some(onto.image.format().name().to_owned());
    qcow2.set_backing(how.onto.as_ref().map(|onto| (onto.name.clone(), format(onto))))?;
    image.close()?;
    Ok(true)
}

struct Work<'a> {
    how: &'a Rebase<'a>,
    image: &'a Image,
    qcow2: &'a Qcow2,
    cluster: u64,
    compressor: Option<Compressor>,
}

impl Work<'_> {
    // What the image itself doesn't say, and what would read otherwise on the new backing file, is copied up. Returns how
    // far this has got.
    fn keep(&mut self, at: u64) -> Result<u64, Error> {
        let new = self.how.onto.as_ref().map(|onto| onto.image);
        let rest = BlockDevice::len(self.image) - at;
        let status = self.image.status(at, rest)?;
        if status.allocated {
            return Ok(status.len);
        }
        let len = status.len.min(PIECE.max(self.cluster));
        // Where both read zeros without a look at any byte, there is nothing to do.
        let old = self.image.stretch(at, len, false)?;
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
        Source::read(self.image, &mut before, at)?;
        let mut after = vec![0; len as usize];
        if let Some(new) = new {
            let there = BlockDevice::len(new).saturating_sub(at).min(len) as usize;
            if let Some(part) = after.get_mut(..there).filter(|part| !part.is_empty()) {
                Source::read(new, part, at)?;
            }
        }
        // Clusters, as they lie: the first and the last may be parts.
        let unit = self.cluster as usize;
        let mut start = 0;
        while start < before.len() {
            let end = (((at as usize + start) / unit + 1) * unit - at as usize).min(before.len());
            let (old, new) = (before.get(start..end).unwrap_or_default(), after.get(start..end).unwrap_or_default());
            if old != new {
                self.write(at + start as u64, old)?;
            }
            start = end;
        }
        Ok(len)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if zeros::is_zero(bytes) {
            return self.image.write_zeroes(at, bytes.len() as u64, true);
        }
        let ends = at + bytes.len() as u64 == BlockDevice::len(self.image);
        let whole = at.is_multiple_of(self.cluster) && (bytes.len() as u64 == self.cluster || ends);
        if self.how.compress && whole {
            if self.compressor.is_none() {
                let failed = |source| Error::Open { path: self.image.path().into(), source };
                self.compressor = Some(Compressor::new(self.qcow2.header().compression).map_err(failed)?);
            }
            let mut cluster = bytes.to_vec();
            cluster.resize(self.cluster as usize, 0);
            let mut out = vec![0; self.cluster as usize - 1];
            if let Some(len) = self.compressor.as_mut().and_then(|it| it.compress(&cluster, &mut out)) {
                return self.qcow2.write_compressed(at, out.get(..len).unwrap_or_default());
            }
        }
        self.image.write_at(&[IoSlice::new(bytes)], at)
    }
}
