//! Disks: existing ones are used as they are, new ones are made.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_image::newfile::{Existing, NewFile};
use kiln_image::qcow2::{self, create};
use kiln_image::storage;
use kiln_image::{Access, BlockDevice, Error, Format, Image, Open};

use super::DiskWish;
use super::undo::Undo;
use crate::disk;
use crate::failure::{Failure, Status};
use crate::machine::{Store, store};
use crate::plan::{Disk, NewDisk};
use crate::runner::disks::find_format;

/// Disks hold secrets: only their owner reads them.
const MODE: u32 = 0o600;

/// Decides what a wish means.
pub(super) fn plan(store: &Store, machine: &str, wish: &DiskWish) -> Result<Disk, Failure> {
    let path = match &wish.path {
        Some(path) => absolute(path)?,
        None => free_name(store, machine, wish.format.unwrap_or(Format::Qcow2)),
    };
    let about = match fs::metadata(&path) {
        Ok(about) if about.is_dir() => {
            return Err(Failure::new(Status::Usage, format!("the disk {} can't be used", path.display()))
                .why("it is a folder")
                .advise("Name the image file in it."));
        }
        Ok(about) => Some(about),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            let what = format!("the disk {} can't be looked at", path.display());
            return Err(Failure::new(Status::Failed, what).because(&e));
        }
    };
    let is_block = about.as_ref().is_some_and(|about| about.file_type().is_block_device());
    let (format, make) = match about {
        // What exists is used as it is, whatever size was asked for.
        Some(_) => (existing(&path, wish)?, None),
        None => {
            let (format, new) = new(store, &path, wish)?;
            (format, Some(new))
        }
    };
    let mut driver = wish.driver.clone();
    // As virt-install: what takes its space by and by also gives it back.
    if make.as_ref().is_some_and(|new| new.sparse) && !driver.iter().any(|(key, _)| *key == "discard") {
        driver.push(("discard", "unmap".into()));
    }
    let (read_only, shareable, serial) = (wish.read_only, wish.shareable, wish.serial.clone());
    Ok(Disk { path, is_block, format, driver, read_only, shareable, serial, boot_order: wish.boot_order, make })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path);
    absolute.map_err(|e| Failure::new(Status::Usage, format!("--disk {}", path.display())).because(&e))
}

fn existing(path: &Path, wish: &DiskWish) -> Result<Format, Failure> {
    if let Some((backing, _)) = &wish.backing {
        let what = format!("--disk backing_store={}: {} exists already", backing.display(), path.display());
        return Err(Failure::new(Status::Conflict, what)
            .why("a backing file is given to a disk when it is made")
            .advise("Take another path for the new disk, or leave backing_store out to use this one as it is."));
    }
    match wish.format {
        Some(format) => Ok(format),
        None => find_format(path),
    }
}

fn new(store: &Store, path: &Path, wish: &DiskWish) -> Result<(Format, NewDisk), Failure> {
    if wish.size.is_none() && wish.backing.is_none() {
        return Err(Failure::new(Status::NotFound, format!("the disk {} is not there", path.display()))
            .advise(format!("To make it: --disk path={},size=GIB", path.display())));
    }
    if folder_is_missing(store, path) {
        let folder = path.parent().unwrap_or(path).display();
        return Err(Failure::new(Status::NotFound, format!("the disk {} can't be made", path.display()))
            .why(format!("there is no folder {folder}"))
            .advise(format!("Make it first: mkdir -p {folder}")));
    }
    let format = wish.format.map_or_else(|| by_name(path), Ok)?;
    let backing = match &wish.backing {
        None => None,
        Some(_) if format == Format::Raw => {
            return Err(Failure::new(Status::Usage, "a raw disk can't lie on another one")
                .advise("Leave format= out, or say format=qcow2, with backing_store=."));
        }
        Some((below, given)) => {
            let below = absolute(below)?;
            let given = given.map_or_else(|| find_format(&below), Ok)?;
            // A look tells now what would only be told at the start.
            image_below(&below, given)?;
            Some((below, given))
        }
    };
    Ok((format, NewDisk { size: wish.size, sparse: wish.sparse, backing }))
}

fn image_below(path: &Path, format: Format) -> Result<Arc<Image>, Failure> {
    let how = Open { locks: false, ..Open::reading(Some(format)) };
    let failed = |e: Error| Failure::new((&e).into(), format!("no disk can lie on {}", path.display())).because(&e);
    Image::open(path, how).map_err(failed)
}

// The store's own folder comes with its first disk.
fn folder_is_missing(store: &Store, path: &Path) -> bool {
    path.parent().is_some_and(|folder| !folder.is_dir() && folder != store.folders().images())
}

// As kiln disk create has it; what has another name is qcow2.
fn by_name(path: &Path) -> Result<Format, Failure> {
    let suffix = path.extension().map(|suffix| disk::Format::of_suffix(&suffix.to_string_lossy())).transpose();
    let advice = format!("To make it under that name: --disk path={},format=qcow2,size=GIB", path.display());
    let format = suffix.map_err(|failure| failure.advise(advice))?.flatten();
    Ok(format.map_or(Format::Qcow2, Into::into))
}

// As virt-install: NAME.qcow2, then NAME-1.qcow2 and on. One that lies there may hold somebody's data.
fn free_name(store: &Store, machine: &str, format: Format) -> PathBuf {
    let images = store.folders().images();
    let suffix = if format == Format::Raw { "img" } else { "qcow2" };
    let first = images.join(format!("{machine}.{suffix}"));
    let others = (1..u32::MAX).map(|n| images.join(format!("{machine}-{n}.{suffix}")));
    std::iter::once(first.clone()).chain(others).find(|p| fs::symlink_metadata(p).is_err()).unwrap_or(first)
}

/// Makes a disk that is to be made.
pub(super) fn make(store: &Store, disk: &Disk, undo: &Undo) -> Result<(), Failure> {
    let Some(new) = &disk.make else { return Ok(()) };
    let images = store.folders().images();
    if disk.path.parent() == Some(&images) {
        store::make_folder(&images)?;
    }
    let size = match (new.size, &new.backing) {
        (Some(size), _) => size,
        (None, Some((path, format))) => image_below(path, *format)?.len(),
        (None, None) => 0,
    };
    undo.step(|| {
        write(&disk.path, disk.format, new, size).map_err(|e| {
            let failure = Failure::new(Status::Failed, format!("the disk {} can't be made", disk.path.display()));
            let failure = failure.because(&e);
            match e.hint() {
                Some(hint) => failure.advise(hint),
                None => failure,
            }
        })?;
        let path = disk.path.clone();
        Ok(((), Box::new(move || drop(fs::remove_file(path)))))
    })?;
    let gib = size as f64 / f64::from(1 << 30);
    let how = match (&new.backing, new.sparse) {
        (Some((path, _)), _) => format!("on {}", path.display()),
        (None, true) => "sparse".into(),
        (None, false) => "all its space taken".into(),
    };
    eprintln!("{:<8}{gib} GiB {} ({how}) {}", "disk", disk.format.name(), disk.path.display());
    Ok(())
}

/// Writes a new disk: whole under its name, or not there at all.
///
/// # Errors
/// When there is such a file, or the file system refuses.
pub(crate) fn write(path: &Path, format: Format, new_disk: &NewDisk, size: u64) -> Result<(), Error> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::Exists { path: path.into() });
    }
    let failed = |source| Error::Create { path: path.into(), size, source };
    let new = NewFile::create(path, MODE).map_err(failed)?;
    let file = new.file().try_clone().map_err(failed)?;
    let file = Arc::new(storage::File::from_file(file, &path.display().to_string(), Access::Write)?);
    match format {
        Format::Raw => {
            let space = if new_disk.sparse { disk::Preallocation::Off } else { disk::Preallocation::Falloc };
            disk::lengthen_raw(file.as_ref(), size, space, 0).map_err(failed)?;
        }
        Format::Qcow2 => {
            let backing = new_disk.backing.as_ref();
            let space = if new_disk.sparse { create::Preallocation::Off } else { create::Preallocation::Falloc };
            let create = qcow2::Create {
                size,
                backing: backing.map(|(path, format)| (path.into(), Some(format.name().to_owned()))),
                // Where something lies below, taken places would hide it.
                preallocation: if backing.is_some() { create::Preallocation::Off } else { space },
                ..qcow2::Create::default()
            };
            create::format(file, None, &create)?;
        }
    }
    new.publish(Existing::Keep, true).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => failed(source),
    })
}
