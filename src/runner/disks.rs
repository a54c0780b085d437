//! A machine's disks, from the process that starts it to the one that runs it.
//!
//! The starter opens and locks every file of every image's chain and looks at what the headers say, without writing a
//! byte. The files go over with their locks; the machine's own process builds the same chains of them and opens no
//! path.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use kiln_image::chain::{Files, HostFiles};
use kiln_image::format::{Guess, guess_storage};
use kiln_image::{Error, Format, Image, Open, storage};

use super::blueprint::Disk;
use crate::failure::{Failure, Status};
use crate::machine::bases;

/// The files of one disk's chain, each with the path that finds it there.
pub type Chain = Vec<(OsString, OwnedFd)>;

/// Remembers what is opened.
struct Gathering {
    opened: RefCell<Chain>,
}

impl Files for Gathering {
    fn has(&self, path: &Path) -> bool {
        HostFiles.has(path)
    }

    fn open(&self, path: &Path, how: Open) -> Result<storage::File, Error> {
        let file = HostFiles.open(path, how)?;
        // The same open file under another number: its locks live as long as either.
        let copy = file.file().try_clone().map_err(|source| Error::Open { path: path.into(), source })?;
        self.opened.borrow_mut().push((path.into(), copy.into()));
        Ok(file)
    }
}

/// Files that another process has opened.
struct Handed {
    files: RefCell<Chain>,
}

impl Files for Handed {
    fn has(&self, path: &Path) -> bool {
        self.files.borrow().iter().any(|(name, _)| name == path.as_os_str())
    }

    fn open(&self, path: &Path, how: Open) -> Result<storage::File, Error> {
        let mut files = self.files.borrow_mut();
        let at = files.iter().position(|(name, _)| name == path.as_os_str());
        let at = at.ok_or_else(|| Error::Open { path: path.into(), source: std::io::ErrorKind::NotFound.into() })?;
        let (_, file) = files.swap_remove(at);
        storage::File::from_file_with(File::from(file), &path.display().to_string(), how.access, how.cache)
    }
}

/// Opens and locks the files of a disk, and looks whether a machine can run on them. Nothing is written.
///
/// # Errors
/// When one is missing, in use, damaged, of another format than said, or another one than the definition says.
pub fn open(disk: &Disk) -> Result<Chain, Failure> {
    if disk.access().writes() {
        bases::check_writable(&disk.path)?;
    }
    let files = Gathering { opened: RefCell::default() };
    let how = Open { passive: true, ..disk.how() };
    let image = Image::open_from(&files, &disk.path, how).map_err(|error| failed(disk, &error))?;
    check(disk, &image)?;
    drop(image);
    Ok(files.opened.into_inner())
}

/// Opens a disk from files that were handed over, for the guest.
///
/// # Errors
/// When it can't be used.
pub fn open_handed(disk: &Disk, chain: Chain) -> Result<Arc<Image>, Failure> {
    let files = Handed { files: RefCell::new(chain) };
    let image = Image::open_from(&files, &disk.path, disk.how()).map_err(|error| failed(disk, &error))?;
    for note in image.notes() {
        log::warn!("{note}");
    }
    Ok(image)
}

fn refuse(disk: &Disk, status: Status) -> Failure {
    Failure::new(status, format!("the disk {} can't be used", disk.path.display()))
}

fn check(disk: &Disk, image: &Image) -> Result<(), Failure> {
    let said = |path: &Path| format!("the definition says that {} lies below it", path.display());
    let mut below = image.backing();
    for (path, format) in &disk.below.files {
        let Some(next) = below else {
            return Err(refuse(disk, Status::Failed)
                .why(said(path))
                .why("the image says that nothing does")
                .advise("Take <backingStore> out of the definition: the image's own word counts."));
        };
        if !is_same(path, next.path()) || format.is_some_and(|format| format != next.format()) {
            let (name, kind) = (next.path().display(), next.format().name());
            return Err(refuse(disk, Status::Failed)
                .why(format!("{}{}", said(path), format.map(|f| format!(" as {}", f.name())).unwrap_or_default()))
                .why(format!("the image says that {name} does, as {kind}"))
                .advise(
                    "Mend whichever is wrong: the definition's <backingStore>, or the image with kiln disk rebase -u.",
                ));
        }
        below = next.backing();
    }
    match below.filter(|_| disk.below.ends) {
        None => Ok(()),
        Some(more) => Err(refuse(disk, Status::Failed)
            .why("the definition says that nothing else lies below it (<backingStore/>)")
            .why(format!("the image lies on {}", more.path().display()))
            .advise("Take <backingStore/> out of the definition: the image's own word counts.")),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || fs::canonicalize(one).ok().is_some_and(|one| fs::canonicalize(other).ok() == Some(one))
}

// A disk that can't be used for what is wrong with one of its files.
fn unusable(path: &Path, error: &Error) -> Failure {
    let failure = Failure::new(error.into(), format!("the disk {} can't be used", path.display()));
    match error {
        // Which file it is has just been said.
        Error::Open { path: file, source } if file == path => denied(failure.because(source), source),
        Error::Open { source, .. } => denied(failure.because(error), source),
        _ => failure.because(error),
    }
}

fn denied(failure: Failure, why: &std::io::Error) -> Failure {
    match why.kind() {
        std::io::ErrorKind::PermissionDenied => failure.advise("Look at its permissions: ls -l shows them."),
        _ => failure,
    }
}

// What the user reads of a file of a disk's chain that can't be used.
fn failed(disk: &Disk, error: &Error) -> Failure {
    let path = disk.path.display();
    let failure = unusable(&disk.path, error);
    match error {
        Error::Open { path: missing, source } if source.kind() == std::io::ErrorKind::NotFound => {
            if *missing == disk.path {
                return failure.advise("Put it back, or change the machine's definition.");
            }
            failure
                .advise(format!("The disk lies on that file: kiln disk info -U --backing-chain {path} shows how."))
                .advise(format!(
                    "Put it back, or, if it has another name now: kiln disk rebase -u -b NEW -F FORMAT {path}"
                ))
        }
        Error::Open { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => failure,
        Error::Open { source, .. } if source.kind() == std::io::ErrorKind::Unsupported => {
            failure.advise("Use cache=writeback (or leave cache out), or a disk on another file system.")
        }
        Error::NotADisk { what: "a folder", .. } => failure.advise("Name the image file in it."),
        Error::Damaged { .. } if disk.format == Format::Qcow2 => failure
            .advise(format!("Look at it: kiln disk check {path}"))
            .advise(format!("To mend what can be mended, after a copy of the file: kiln disk check -r all {path}")),
        _ => match error.hint() {
            Some(hint) => failure.advise(hint),
            None => failure,
        },
    }
}

/// The format of a file by its first bytes, for a disk whose format nobody has said.
///
/// # Errors
/// When it can't be read, or has a format that can't be run.
pub fn find_format(path: &Path) -> Result<Format, Failure> {
    let named = |what: &str| Failure::new(Status::Failed, format!("the disk {} {what}", path.display()));
    let opened = storage::File::open_unlocked(path, storage::Cache::default());
    let file = opened.map_err(|error| unusable(path, &error))?;
    let guess = guess_storage(&file);
    match guess.map_err(|error| named("can't be read").because(&error))? {
        Guess::Format(format) => Ok(format),
        Guess::Foreign(name) => Err(named(&format!("has the format {name}; kiln runs raw and qcow2"))
            .advise("Where qemu-img is: qemu-img convert -O qcow2 OLD NEW.qcow2")),
    }
}
