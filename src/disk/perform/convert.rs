//! `convert`.

use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use kiln_image::chain::{Image, Open};
use kiln_image::convert::{self, Before, Joined};
use kiln_image::{BlockDevice, SECTOR};

use super::super::{Cache, Convert, Dialect, Format, Layout, New, Target};
use super::open;
use super::target::{self, Place};
use crate::failure::{Failure, Status};
use crate::machine::bases;

pub(super) fn perform(dialect: Dialect, convert: &Convert) -> Result<ExitCode, Failure> {
    let stop = open::stopper();
    let mut sources = Vec::new();
    let cache = open::cached(convert.source_cache);
    let how = Open { cache, ..open::for_reading(convert.source_format, convert.force_share) };
    for (number, path) in convert.sources.iter().enumerate() {
        sources.push(match convert.snapshot.as_ref().filter(|_| number == 0) {
            None => open::reading(path, how)?,
            Some(which) => open::at_snapshot(path, how, which)?,
        });
    }
    for source in &sources {
        refuse_itself(source, &convert.file)?;
    }
    let joined = Joined(sources.clone());
    let len: u64 = sources.iter().map(|source| BlockDevice::len(source.as_ref())).sum();
    let durable = !matches!(convert.cache, Cache::Unsafe);
    let (image, place, before) = match &convert.target {
        Target::New { new, force } => {
            let place = Place::find(dialect, &convert.file, *force)?;
            let size = new.size.unwrap_or(len).next_multiple_of(SECTOR);
            if size < len {
                let what = format!("the new disk would have {size} bytes, less than what is copied ({len})");
                return Err(Failure::new(Status::Usage, what));
            }
            target::format(dialect, &convert.file, new, size, &place)?;
            let image = reopen(convert, new, &place)?;
            (image, Some(place), before(new, convert))
        }
        Target::Existing { format, is_zero } => {
            bases::check_writable(&convert.file)?;
            let how = open::for_writing(Some(*format), convert.cache);
            let image = Image::open(&convert.file, how).map_err(|error| open::failed(&error))?;
            if image.len() < len {
                let what =
                    format!("{} has {} bytes, less than what is copied ({len})", convert.file.display(), image.len());
                return Err(Failure::new(Status::Failed, what).advise("Resize it first, or let convert make it."));
            }
            let is_new = *is_zero;
            (image, None, if is_new { Before::Zeros } else { Before::Unknown })
        }
    };
    let progress = open::progress(convert.progress);
    let how = convert::Convert {
        source: &joined,
        before,
        sparse: convert.sparse.map_or(4096, u64::from),
        in_place: place.is_none(),
        offload: convert.copy_offload,
        compress: convert.compress,
        salvage: convert.salvage,
        workers: NonZeroUsize::new(usize::from(convert.workers)).filter(|_| convert.out_of_order),
        rate_limit: convert.rate_limit,
        stop: &stop,
        progress: &progress,
    };
    let outcome = convert::convert(&how, &image).map_err(|error| open::failed(&error))?;
    if outcome.stopped {
        return Err(open::stopped());
    }
    image.close().map_err(|error| open::failed(&error))?;
    if durable {
        image.flush().map_err(|error| open::failed(&error))?;
    }
    for source in &sources {
        open::tell_notes(source, convert.quiet);
    }
    drop(image);
    if let Some(place) = place {
        place.finish(durable)?;
    }
    if let Some((bytes, why)) = outcome.unreadable
        && !convert.quiet
    {
        eprintln!("kiln: {bytes} bytes could not be read and are zeros now: {why}");
    }
    Ok(ExitCode::SUCCESS)
}

fn before(new: &New, convert: &Convert) -> Before {
    match &new.layout {
        Layout::Qcow2(layout) if layout.backing.is_some() => Before::Backing,
        // A device keeps what was on it.
        Layout::Raw { .. } if is_device(&convert.file) => Before::Unknown,
        _ => Before::Zeros,
    }
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|about| about.file_type().is_block_device())
}

// The new disk, opened to be filled; it may have no name yet.
fn reopen(convert: &Convert, new: &New, place: &Place) -> Result<Arc<Image>, Failure> {
    let format = match &new.layout {
        Layout::Raw { .. } => Format::Raw,
        Layout::Qcow2(_) => Format::Qcow2,
    };
    let file = place
        .file()
        .try_clone()
        .map_err(|error| Failure::new(Status::Failed, "can't open the new disk").because(&error))?;
    // Before it has its name nobody relies on it, so nothing is waited for on the way.
    let how = Open { no_barriers: true, cache: open::cached(convert.cache), ..Open::writing(Some(format.into())) };
    Image::from_file(file, &convert.file, how).map_err(|error| open::failed(&error))
}

// Whether the target is one of the files that are read: it would be emptied before.
fn refuse_itself(source: &Image, target: &Path) -> Result<(), Failure> {
    let Ok(about) = std::fs::metadata(target) else { return Ok(()) };
    for image in source.chain() {
        let same = |file: &std::fs::File| {
            file.metadata().is_ok_and(|other| other.dev() == about.dev() && other.ino() == about.ino())
        };
        let data = image.data_file().and_then(|(_, data)| data.as_file());
        if image.file().into_iter().chain(data).any(|file| same(file.file())) {
            let what = format!("{} is what is copied, or lies below it", target.display());
            return Err(Failure::new(Status::Conflict, what).advise("Copy to another name, and rename it afterwards."));
        }
    }
    Ok(())
}
