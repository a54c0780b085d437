//! `rebase`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use kiln_image::chain::{self, Image, Open};
use kiln_image::{Error, rebase};

use super::super::{Onto, Rebase};
use super::open;
use crate::failure::{Failure, Status};
use crate::machine::bases;

pub(super) fn perform(words: &Rebase) -> Result<ExitCode, Failure> {
    let stop = open::stopper();
    // Unchecked, the old backing file need not even be there.
    let how = Open {
        backing: !words.unchecked,
        backing_locks: !words.force_share,
        ..open::writing_alone(words.format, words.cache)
    };
    bases::check_writable(&words.file)?;
    let image = Image::open(&words.file, how).map_err(|error| open::failed(&error))?;
    let Some(qcow2) = image.qcow2() else {
        let failure = Failure::new(Status::Failed, format!("{} can't lie on another disk", words.file.display()));
        return Err(failure.why("it is raw"));
    };
    let told = |error: Error| open::failed(&error);
    if words.unchecked {
        qcow2.set_backing(named(words)).and_then(|()| image.close()).map_err(told)?;
    } else {
        let new = new_backing(words)?;
        let onto = new.as_deref().zip(named(words)).map(|(image, (name, _))| rebase::Onto { image, name });
        let progress = open::progress(words.progress);
        let how = rebase::Rebase { onto, compress: words.compress, stop: &stop, progress: &progress };
        if !rebase::rebase(&how, &image).map_err(told)? {
            return Err(open::stopped());
        }
    }
    open::tell_notes(&image, words.quiet);
    Ok(ExitCode::SUCCESS)
}

// The new backing file, with its format, as the header is to name it.
fn named(words: &Rebase) -> Option<(OsString, Option<String>)> {
    let Onto::Disk(backing) = &words.onto else { return None };
    let format = kiln_image::Format::from(backing.format).name().to_owned();
    Some((backing.file.clone().into_os_string(), Some(format)))
}

fn new_backing(words: &Rebase) -> Result<Option<Arc<Image>>, Failure> {
    let Onto::Disk(backing) = &words.onto else { return Ok(None) };
    let path = chain::below(&words.file, backing.file.as_os_str());
    let cache = open::cached(words.backing_cache);
    let how = Open { locks: !words.force_share, cache, ..Open::reading(Some(backing.format.into())) };
    let image = Image::open(&path, how).map_err(|error| open::failed_reading(&error))?;
    let own = std::fs::canonicalize(&words.file).ok();
    if image.chain().any(|image| std::fs::canonicalize(image.path()).ok() == own) {
        let what = format!("{} lies below {} already", words.file.display(), path.display());
        return Err(Failure::new(Status::Conflict, what));
    }
    Ok(Some(image))
}
