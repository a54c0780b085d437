//! Linked clones: the original's disk becomes a base that nobody writes to, and both machines go on in images of their
//! own on top of it.
//!
//! The order keeps the original whole at every moment, whatever ends this program:
//!
//! 1. Both new images are made, whole and durable. Nothing names them yet.
//! 2. The original's definition is replaced by one that names its new image: one rename. Before it the original uses the
//!    disk itself, behind it an empty image on it; both read the same.
//! 3. The disk, and what it lies on, is written down as a base and made read-only. From 2 on nobody writes to it.
//! 4. The clone is defined.
//!
//! An end between two steps leaves at most new images that nothing names; the next linked clone takes other names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_domain::Domain;
use kiln_image::{BlockDevice, Format, Image, Open};

use super::Plan;
use super::definition::{self, disks};
use super::disks::{Disk, What};
use crate::failure::{Failure, Status};
use crate::install::disk::write;
use crate::machine::bases::{self, is_same, source_of};
use crate::machine::store::Changing;
use crate::machine::{Store, lock};
use crate::plan::NewDisk;
use crate::runner::start::LOCK;

/// The original can't be started while this lives.
pub(super) fn hold_still(store: &Store, name: &str) -> Result<fs::File, Failure> {
    let folder = store.folders().running(name);
    crate::runner::start::private_folder(&folder)?;
    let path = folder.join(LOCK);
    let trouble = |e| Failure::new(Status::Failed, format!("locking {}", path.display())).because(&e);
    lock::try_lock(&path).map_err(trouble)?.ok_or_else(|| super::is_on(name))
}

/// Refuses a disk that can't be a base.
pub(super) fn check(store: &Store, original: &str, from: &Path, is_block: bool) -> Result<(), Failure> {
    let refuse = |status, why: String| {
        Err(Failure::new(status, format!("no linked clone can be made of the disk {}", from.display())).why(why))
    };
    if is_block {
        return refuse(Status::Failed, "it is a block device, whose writers can't be kept away".into());
    }
    // Others that lie on it already only read it.
    for other in store.names()?.into_iter().filter(|name| name != original) {
        let Ok(domain) = store.read(&other) else { continue };
        let mut disks = domain.devices().filter(|device| device.name() == "disk" && device.find("readonly").is_none());
        if disks.any(|disk| source_of(disk).is_some_and(|path| is_same(Path::new(path), from))) {
            return refuse(Status::Conflict, format!("{other:?} writes to it, too"));
        }
    }
    Ok(())
}

/// How a step is taken back, with the store's lock held.
type Back<'a> = Box<dyn FnOnce(&Changing<'_>) + 'a>;

/// Makes the images, turns the original over to its own, and defines the clone. What fails leaves all as it was.
pub(super) fn make(changing: &Changing<'_>, plan: &Plan) -> Result<(), Failure> {
    let mut done: Vec<Back<'_>> = Vec::new();
    let outcome = steps(changing, plan, &mut done);
    if outcome.is_err() {
        done.into_iter().rev().for_each(|back| back(changing));
    }
    outcome
}

fn steps<'a>(changing: &Changing<'_>, plan: &'a Plan, done: &mut Vec<Back<'a>>) -> Result<(), Failure> {
    let links: Vec<(&'a Disk, [&'a PathBuf; 2])> = plan
        .disks
        .iter()
        .filter_map(|disk| match &disk.what {
            What::Link { top, to } => Some((disk, [top, to])),
            _ => None,
        })
        .collect();
    // Held to the end: nobody else uses them.
    let held = links.iter().map(|(disk, _)| alone(changing.store(), disk)).collect::<Result<Vec<_>, _>>()?;
    for ((disk, new), base) in links.iter().zip(&held) {
        for path in *new {
            overlay(path, disk, base.len())?;
            done.push(Box::new(move |_| drop(fs::remove_file(path))));
        }
    }
    let after = turned_over(changing.store(), plan)?;
    done.push(Box::new(move |changing| drop(changing.write(&plan.original, &plan.before))));
    changing.write(&plan.original, &after)?;
    for (disk, _) in &links {
        for file in bases::files_of(&disk.from, Some(disk.format)) {
            if !bases::is_base(changing.store(), &file)? {
                let file = file.clone();
                done.push(Box::new(move |changing| drop(changing.unprotect(&file))));
            }
            changing.protect(&file)?;
        }
    }
    super::define(changing, plan)
}

// As its only user: nobody else writes, or waits to. One that is a base already is written to by nobody.
fn alone(store: &Store, disk: &Disk) -> Result<Arc<Image>, Failure> {
    let is_base = bases::is_base(store, &disk.from)?;
    let how = Open { passive: true, ..Open::writing(Some(disk.format)) };
    let held = Image::open(&disk.from, if is_base { Open::reading(Some(disk.format)) } else { how });
    held.map_err(|e| Failure::new((&e).into(), format!("the disk {} can't be used", disk.from.display())).because(&e))
}

fn overlay(path: &Path, disk: &Disk, size: u64) -> Result<(), Failure> {
    let new = NewDisk { size: None, sparse: true, backing: Some((disk.from.clone(), disk.format)) };
    write(path, Format::Qcow2, &new, size).map_err(|e| {
        let failure = Failure::new((&e).into(), format!("the disk {} can't be made", path.display())).because(&e);
        match e.hint() {
            Some(hint) => failure.advise(hint),
            None => failure,
        }
    })
}

fn turned_over(store: &Store, plan: &Plan) -> Result<Domain, Failure> {
    let mut domain = store.read(&plan.original)?;
    if domain != plan.before {
        return Err(Failure::new(Status::Conflict, format!("the definition of {:?} has just changed", plan.original))
            .advise("Look at it, and try again."));
    }
    for (element, disk) in disks(&mut domain).zip(&plan.disks) {
        if let What::Link { top, .. } = &disk.what {
            definition::point(element, &top.to_string_lossy(), Format::Qcow2.name(), false);
        }
    }
    Ok(domain)
}
