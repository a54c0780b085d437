//! `commit`.

use std::io::IoSlice;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kiln_image::chain::{Image, Open};
use kiln_image::convert::{Pace, Source};
use kiln_image::{BlockDevice, Format, zeros};

use super::super::Commit;
use super::open;
use crate::failure::{Failure, Status};

/// Bytes copied at once.
const PIECE: u64 = 1 << 20;

pub(super) fn perform(commit: &Commit) -> Result<ExitCode, Failure> {
    let stop = open::stopper();
    let how = open::writing_alone(commit.format, commit.cache);
    let top = Image::open(&commit.file, how).map_err(|error| open::failed(&error))?;
    let file = commit.file.display();
    let depth = base_of(commit, &top)?;
    let Some(base) = top.chain().nth(depth) else {
        return Err(Failure::new(Status::Failed, format!("{file} lies on nothing that its changes could go to")));
    };
    // Its format is what the image above it says.
    let how = Open { format: Some(base.format()), ..open::writing_alone(None, commit.cache) };
    let base = Image::open(base.path(), how).map_err(|error| open::failed(&error))?;
    if base.len() < top.len() {
        base.resize(top.len()).map_err(|error| open::failed(&error))?;
    }
    let progress = open::progress(commit.progress);
    let pace = Pace::new(commit.rate_limit, &stop);
    let mut at = 0;
    while at < top.len() {
        if stop.load(Ordering::Relaxed) {
            return Err(open::stopped());
        }
        at += copy(&top, &base, depth, at).map_err(|error| open::failed(&error))?;
        progress(at, top.len());
        pace.keep(at);
    }
    // The changes are in the base for good before they leave the top.
    base.flush().and_then(|()| base.close()).map_err(|error| open::failed(&error))?;
    if !commit.keep
        && depth == 1
        && let Some(qcow2) = top.qcow2()
    {
        qcow2.make_empty().map_err(|error| open::failed(&error))?;
    }
    top.close().map_err(|error| open::failed(&error))?;
    open::leave(&base, commit.cache)?;
    open::leave(&top, commit.cache)?;
    open::tell_notes(&top, commit.quiet);
    if !commit.quiet {
        println!("Image committed.");
    }
    Ok(ExitCode::SUCCESS)
}

// How deep in the chain the changes go.
fn base_of(commit: &Commit, top: &Arc<Image>) -> Result<usize, Failure> {
    let Some(base) = &commit.base else { return Ok(1) };
    let same = |image: &Image| {
        let canonical = |path: &std::path::Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let named = kiln_image::chain::below(&commit.file, base.as_os_str());
        canonical(image.path()) == canonical(base) || canonical(image.path()) == canonical(&named)
    };
    top.chain().enumerate().skip(1).find(|(_, image)| same(image)).map(|(depth, _)| depth).ok_or_else(|| {
        let what = format!("{} doesn't lie below {}", base.display(), commit.file.display());
        Failure::new(Status::NotFound, what)
    })
}

// Copies the next stretch, if an image above the base says anything of it. Returns its length.
fn copy(top: &Arc<Image>, base: &Arc<Image>, depth: usize, at: u64) -> Result<u64, kiln_image::Error> {
    let mut len = BlockDevice::len(top.as_ref()) - at;
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
    match said {
        None => {}
        Some(true) => base.write_zeroes(at, len, base.format() == Format::Qcow2)?,
        Some(false) => {
            len = len.min(PIECE);
            let mut bytes = vec![0; len as usize];
            Source::read(top.as_ref(), &mut bytes, at)?;
            if zeros::is_zero(&bytes) {
                base.write_zeroes(at, len, base.format() == Format::Qcow2)?;
            } else {
                base.write_at(&[IoSlice::new(&bytes)], at)?;
            }
        }
    }
    Ok(len)
}
