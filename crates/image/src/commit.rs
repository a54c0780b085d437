//! Merging an image's contents into one that it lies on.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::chain::Image;
use crate::convert::{Pace, Source};
use crate::{BlockDevice, Error, Format, zeros};

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

/// How to merge.
pub struct Commit<'a> {
    /// How far below the image the base lies: 1 is its backing file.
    pub depth: usize,
    /// The image keeps its contents afterwards. It keeps them also when the base is no backing file of it.
    pub keep: bool,
    /// Bytes copied a second at most.
    pub rate_limit: Option<u64>,
    /// Whether the whole is to be given up.
    pub stop: &'a AtomicBool,
    /// Hears how many of how many bytes are done.
    pub progress: &'a dyn Fn(u64, u64),
}

/// Writes into `base` what the images above it say, and empties `top`. `base` is opened for writing, besides as a part of
/// `top`'s chain; it grows when it is shorter. A power loss at any time leaves `top` with the contents that it had: what
/// goes into the base stays hidden below it until all of it is durable. Both are as good as closed afterwards. Says
/// whether it has come to its end.
///
/// # Errors
/// When one of them can't be read or written, or the base can't grow.
pub fn commit(how: &Commit<'_>, top: &Image, base: &Image) -> Result<bool, Error> {
    if base.len() < top.len() {
        base.resize(top.len())?;
    }
    let pace = Pace::new(how.rate_limit, how.stop);
    let (mut at, mut copied) = (0, 0);
    while at < top.len() {
        if how.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let (len, is_copied) = merge(how.depth, top, base, at)?;
        at += len;
        (how.progress)(at, top.len());
        if is_copied {
            copied += len;
            pace.keep(copied);
        }
    }
    // The changes are in the base for good before they leave the top.
    base.flush()?;
    base.close()?;
    if !how.keep
        && how.depth == 1
        && let Some(qcow2) = top.qcow2()
    {
        qcow2.make_empty()?;
    }
    top.close()?;
    Ok(true)
}

// Merges the next stretch, if an image above the base says anything of it. Returns its length, and whether its bytes were
// copied.
fn merge(depth: usize, top: &Image, base: &Image, at: u64) -> Result<(u64, bool), Error> {
    let mut len = BlockDevice::len(top) - at;
    let mut said = None;
    for image in top.chain().take(depth) {
        if at >= image.len() {
            // It ends here, and what it covers reads zeros.
            said = Some(true);
            break;
        }
        let status = image.status(at, len.min(image.len() - at))?;
        len = status.len;
        if status.allocated {
            said = Some(status.zero);
            break;
        }
    }
    let zero = |len| base.write_zeroes(at, len, base.format() == Format::Qcow2);
    match said {
        None => Ok((len, false)),
        Some(true) => zero(len).map(|()| (len, false)),
        Some(false) => {
            len = len.min(PIECE);
            let mut bytes = vec![0; len as usize];
            Source::read(top, &mut bytes, at)?;
            if zeros::is_zero(&bytes) {
                zero(len)?;
            } else {
                base.write_at(&[IoSlice::new(&bytes)], at)?;
            }
            Ok((len, true))
        }
    }
}
