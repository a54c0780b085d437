//! Opening images for verbs, and telling what went wrong with them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_image::Error;
use kiln_image::chain::{Image, Open};
use kiln_image::qcow2::snapshots;
use kiln_image::storage;

use super::super::{Cache, Dialect, Format, Snapshot};
use crate::failure::{Failure, Status};
use crate::machine::bases;

impl From<Format> for kiln_image::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => kiln_image::Format::Raw,
            Format::Qcow2 => kiln_image::Format::Qcow2,
        }
    }
}

/// A library's error as the user reads it.
pub fn failed(error: &Error) -> Failure {
    let mut failure = Failure::new(error.into(), error.to_string());
    if let Some(source) = std::error::Error::source(error) {
        failure = failure.because(source);
    }
    match error.hint() {
        Some(hint) => failure.advise(format!("{hint}.")),
        None => failure,
    }
}

/// As [`failed`], for a verb that only reads.
pub fn failed_reading(error: &Error) -> Failure {
    let failure = failed(error);
    if matches!(error, Error::InUse { .. }) {
        return failure.advise("-U reads it nevertheless; what it says may then be wrong.");
    }
    failure
}

/// Whether anything is to be waited for before the image is closed.
pub fn is_unsafe(cache: Cache) -> bool {
    matches!(cache, Cache::Unsafe)
}

/// Whether each write is to be durable before the next one.
fn is_sync(cache: Cache) -> bool {
    matches!(cache, Cache::Writethrough | Cache::Directsync)
}

/// How the library is to use files.
pub fn cached(cache: Cache) -> storage::Cache {
    storage::Cache { direct: matches!(cache, Cache::None | Cache::Directsync), sync: is_sync(cache) }
}

/// How an image is opened for writing with a cache mode.
pub fn for_writing(format: Option<Format>, cache: Cache) -> Open {
    Open { cache: cached(cache), no_barriers: is_unsafe(cache), ..Open::writing(format.map(Into::into)) }
}

/// How an image is opened for reading. With `force_share` nobody's locks are in the way.
pub fn for_reading(format: Option<Format>, force_share: bool) -> Open {
    Open { locks: !force_share, ..Open::reading(format.map(Into::into)) }
}

/// Opens for reading, with everything below.
pub fn reading(path: &Path, how: Open) -> Result<Arc<Image>, Failure> {
    Image::open(path, how).map_err(|error| failed_reading(&error))
}

/// Opens for a verb that only looks. qemu-img lets such verbs look at a raw disk that is in use, and so do we under its
/// name.
pub fn looking(dialect: Dialect, path: &Path, how: Open) -> Result<Arc<Image>, Failure> {
    match Image::open(path, how) {
        Err(error @ Error::InUse { .. }) if dialect == Dialect::QemuImg => {
            let unlocked = Image::open(path, Open { locks: false, ..how }).ok();
            let raw = unlocked.filter(|image| image.format() == kiln_image::Format::Raw);
            raw.ok_or_else(|| failed_reading(&error))
        }
        other => other.map_err(|error| failed_reading(&error)),
    }
}

/// Opens for writing, with everything below.
pub fn writing(path: &Path, format: Option<Format>, cache: Cache) -> Result<Arc<Image>, Failure> {
    bases::check_writable(path)?;
    Image::open(path, for_writing(format, cache)).map_err(|error| failed(&error))
}

/// Opens for reading, as it was when a snapshot was made.
pub fn at_snapshot(path: &Path, how: Open, which: &Snapshot) -> Result<Arc<Image>, Failure> {
    Image::open_snapshot(path, how, |all| find(all, which)).map_err(|error| failed_reading(&error))
}

/// The index of a snapshot: by id, and if there is none, by name.
pub fn find(all: &[snapshots::Snapshot], which: &Snapshot) -> Option<usize> {
    match which {
        Snapshot::IdOrName(word) => {
            let by_id = all.iter().position(|snapshot| snapshot.id == *word);
            by_id.or_else(|| all.iter().position(|snapshot| snapshot.name == *word))
        }
        Snapshot::Exact { id, name } => all.iter().position(|snapshot| {
            id.as_ref().is_none_or(|id| snapshot.id == *id) && name.as_ref().is_none_or(|name| snapshot.name == *name)
        }),
    }
}

/// Tells what an image has to say, on standard error.
pub fn tell_notes(image: &Image, quiet: bool) {
    let notes = image.notes();
    if !quiet {
        for note in notes {
            eprintln!("kiln: {note}");
        }
    }
}

/// Whether the user has asked to stop, by Ctrl-C or kill.
pub fn stopper() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Without a handler the signal ends the process at once, which loses nothing either.
        let _ = signal_hook::flag::register(signal, stop.clone());
    }
    stop
}

/// That the user has stopped it.
pub fn stopped() -> Failure {
    Failure::new(Status::Interrupted, "stopped")
}

/// As [`for_writing`], while what lies below may be in use.
pub fn writing_alone(format: Option<Format>, cache: Cache) -> Open {
    Open { backing_locks: false, ..for_writing(format, cache) }
}

/// Prints how far it is, as qemu-img does.
pub fn progress(show: bool) -> impl Fn(u64, u64) + Sync {
    use std::io::{IsTerminal, Write};
    use std::sync::atomic::{AtomicU64, Ordering};
    let last = AtomicU64::new(u64::MAX);
    let terminal = std::io::stdout().is_terminal();
    move |done, total| {
        if !show {
            return;
        }
        // In hundredths of a percent.
        let now = if total == 0 { 10_000 } else { (u128::from(done) * 10_000 / u128::from(total)) as u64 };
        let before = last.swap(now, Ordering::Relaxed);
        if before == now || (now != 10_000 && now / 100 == before / 100) {
            return;
        }
        let end = if now == 10_000 { "\n" } else { "\r" };
        let (whole, part) = (now / 100, now % 100);
        if terminal || now == 10_000 {
            let _ = write!(std::io::stdout(), "    ({whole}.{part:02}/100%){end}");
            let _ = std::io::stdout().flush();
        }
    }
}
