//! Disks: existing ones are used as they are, new ones are sparse raw images.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::DiskWish;
use super::undo::Undo;
use crate::failure::{Failure, Status};
use crate::machine::{Store, store};
use crate::plan::Disk;

/// Decides what a wish means.
pub(super) fn plan(store: &Store, machine: &str, wish: &DiskWish) -> Result<Disk, Failure> {
    let path = match &wish.path {
        Some(path) => std::path::absolute(path)
            .map_err(|e| Failure::new(Status::Usage, format!("--disk {}", path.display())).because(&e))?,
        None => free_name(store, machine),
    };
    let disk = |is_block, make| Disk { path: path.clone(), is_block, read_only: wish.read_only, make };
    match fs::metadata(&path) {
        Ok(about) if about.is_dir() => {
            Err(Failure::new(Status::Usage, format!("the disk {} can't be used", path.display()))
                .why("it is a folder")
                .advise("Name the image file in it."))
        }
        // What exists is used as it is, whatever size was asked for.
        Ok(about) => Ok(disk(about.file_type().is_block_device(), None)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match wish.size {
            Some(_) if folder_is_missing(store, &path) => {
                let folder = path.parent().unwrap_or(&path).display();
                Err(Failure::new(Status::NotFound, format!("the disk {} can't be made", path.display()))
                    .why(format!("there is no folder {folder}"))
                    .advise(format!("Make it first: mkdir -p {folder}")))
            }
            Some(size) => Ok(disk(false, Some(size))),
            None => Err(Failure::new(Status::NotFound, format!("the disk {} is not there", path.display()))
                .advise(format!("To make it: --disk path={},size=GIB", path.display()))),
        },
        Err(e) => {
            Err(Failure::new(Status::Failed, format!("the disk {} can't be looked at", path.display())).because(&e))
        }
    }
}

// The store's own folder comes with its first disk.
fn folder_is_missing(store: &Store, path: &Path) -> bool {
    path.parent().is_some_and(|folder| !folder.is_dir() && folder != store.folders().images())
}

// As virt-install: NAME.img, then NAME-1.img and on. One that lies there may hold somebody's data.
fn free_name(store: &Store, machine: &str) -> PathBuf {
    let images = store.folders().images();
    let first = images.join(format!("{machine}.img"));
    let others = (1..u32::MAX).map(|n| images.join(format!("{machine}-{n}.img")));
    std::iter::once(first.clone()).chain(others).find(|p| fs::symlink_metadata(p).is_err()).unwrap_or(first)
}

/// Makes a disk that is to be made.
pub(super) fn make(store: &Store, disk: &Disk, undo: &Undo) -> Result<(), Failure> {
    let Some(size) = disk.make else { return Ok(()) };
    let images = store.folders().images();
    if disk.path.parent() == Some(&images) {
        store::make_folder(&images)?;
    }
    undo.step(|| {
        kiln_image::raw::create(&disk.path, size).map_err(|e| {
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
    eprintln!("{:<8}{} GiB (sparse) {}", "disk", size as f64 / f64::from(1 << 30), disk.path.display());
    Ok(())
}
