//! What becomes of the original's disks: which are copied, by virt-clone's rules, and what the copies are called.

use std::path::{Path, PathBuf};

use kiln_domain::Domain;
use kiln_domain::xml::Element;
use kiln_image::Format;

use super::{Wishes, exists, linked, names, usage};
use crate::failure::{Failure, Status};
use crate::machine::Store;
use crate::machine::bases::{is_same, source_of};
use crate::runner::disks::find_format;

/// What becomes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Both machines use it.
    Share,
    /// It is copied.
    Copy { to: PathBuf },
    /// The clone uses a file that is there.
    Use { file: PathBuf, format: Format },
    /// It becomes the base of two new images.
    Link { top: PathBuf, to: PathBuf },
}

/// A disk of the original.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// Its file or block device.
    pub from: PathBuf,
    /// Its format.
    pub format: Format,
    /// What becomes of it.
    pub what: What,
}

fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn target(disk: &Element) -> &str {
    disk.find("target").and_then(|target| target.attribute("dev")).unwrap_or_default()
}

// Whether a disk is the clone's own, by virt-clone's rules.
fn is_copied(disk: &Element, wishes: &Wishes) -> bool {
    let name = target(disk).to_owned();
    let kind = disk.attribute("device").unwrap_or("disk");
    let shared = kind != "disk" || disk.find("readonly").is_some() || disk.find("shareable").is_some();
    source_of(disk).is_some() && !wishes.skip.contains(&name) && (!shared || wishes.force.contains(&name))
}

/// Decides what becomes of each disk, in the document's order.
///
/// # Errors
/// When one can't be copied, or a file is wrong.
pub(super) fn plan(store: &Store, wishes: &Wishes, clone: &str, before: &Domain) -> Result<Vec<Disk>, Failure> {
    let elements: Vec<&Element> = before.devices().filter(|device| device.name() == "disk").collect();
    let targets: Vec<&str> = elements.iter().map(|disk| target(disk)).collect();
    for asked in wishes.force.iter().chain(&wishes.skip) {
        if !targets.contains(&asked.as_str()) {
            let failure = Failure::new(Status::NotFound, format!("{:?} has no disk {asked}", wishes.original));
            return Err(failure.advise(format!("There are: {}", targets.join(", "))));
        }
    }
    let copied = elements.iter().filter(|disk| is_copied(disk, wishes)).count();
    if wishes.files.len() > copied || (wishes.preserve && wishes.files.len() < copied) {
        let failure = usage(format!("--file is given {} times; {copied} disks are copied", wishes.files.len()));
        return Err(
            failure.advise("Read-only and shareable disks and media are used by both machines: no --file is theirs.")
        );
    }
    let mut files = wishes.files.iter();
    let mut planned: Vec<Disk> = Vec::new();
    for element in elements {
        let disk = disk(store, wishes, clone, element, &mut files, &planned)?;
        planned.push(disk);
    }
    Ok(planned)
}

// A disk that is written to and lies elsewhere than in a file would be written to by both.
fn refuse_remote(disk: &Element, wishes: &Wishes) -> Result<(), Failure> {
    let name = target(disk);
    let is_media = disk.attribute("device").is_some_and(|kind| kind != "disk");
    let is_shared = is_media || ["readonly", "shareable"].iter().any(|mark| disk.find(mark).is_some());
    if is_shared || disk.find("source").is_none() || source_of(disk).is_some() || wishes.skip.iter().any(|s| s == name)
    {
        return Ok(());
    }
    let kind = disk.attribute("type").unwrap_or("file");
    Err(Failure::new(Status::Failed, format!("the disk {name} of type {kind} can't be copied"))
        .why("it is neither a file nor a block device")
        .advise(format!("To let both machines use it: --skip-copy {name}")))
}

fn new_files(disk: &Disk) -> Vec<&Path> {
    match &disk.what {
        What::Share => vec![],
        What::Copy { to } => vec![to],
        What::Use { file, .. } => vec![file],
        What::Link { top, to } => vec![top, to],
    }
}

fn disk<'f>(
    store: &Store,
    wishes: &Wishes,
    clone: &str,
    element: &Element,
    files: &mut impl Iterator<Item = &'f PathBuf>,
    planned: &[Disk],
) -> Result<Disk, Failure> {
    // What lies on it finds it from anywhere.
    let path = Path::new(source_of(element).unwrap_or_default());
    let from = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let said = element.find("driver").and_then(|driver| driver.attribute("type")).unwrap_or("raw");
    let format = Format::from_name(said);
    if !is_copied(element, wishes) {
        refuse_remote(element, wishes)?;
        return Ok(Disk { from, format: format.unwrap_or(Format::Raw), what: What::Share });
    }
    let format = format.ok_or_else(|| {
        Failure::new(
            Status::Failed,
            format!("the disk {} has the format {said}; kiln copies raw and qcow2", target(element)),
        )
    })?;
    let is_taken = |path: &Path| is_there(path) || planned.iter().any(|disk| new_files(disk).contains(&path));
    let given = files.next().map(std::path::absolute).transpose();
    let given = given.map_err(|e| usage("--file").because(&e))?;
    if wishes.preserve {
        let file = given.ok_or_else(|| usage("--preserve-data goes with --file"))?;
        if planned.iter().any(|disk| new_files(disk).iter().any(|other| is_same(other, &file))) || is_same(&file, &from)
        {
            return Err(Failure::new(Status::Conflict, format!("{} would be two disks", file.display())));
        }
        let format = find_format(&file)?;
        return Ok(Disk { from, format, what: What::Use { file, format } });
    }
    if wishes.linked {
        linked::check(store, &wishes.original, &from, element.attribute("type") == Some("block"))?;
    }
    if let Some(file) = &given {
        if is_taken(file) {
            return Err(exists(file));
        }
        check_folder(store, file)?;
    }
    let suffix = wishes.linked.then_some(".qcow2");
    let to = given.unwrap_or_else(|| names::disk(&from, &wishes.original, clone, suffix, is_taken));
    let what = match wishes.linked {
        true => What::Link { top: names::top(&from, |path| path == to || is_taken(path)), to },
        false => What::Copy { to },
    };
    // A base is the file itself: a symbolic link may lead elsewhere tomorrow.
    let from = if wishes.linked { std::fs::canonicalize(&from).unwrap_or(from) } else { from };
    Ok(Disk { from, format, what })
}

fn check_folder(store: &Store, file: &Path) -> Result<(), Failure> {
    match file.parent() {
        Some(folder) if !folder.is_dir() && folder != store.folders().images() => {
            let folder = folder.display();
            Err(Failure::new(Status::NotFound, format!("the disk {} can't be made", file.display()))
                .why(format!("there is no folder {folder}"))
                .advise(format!("Make it first: mkdir -p {folder}")))
        }
        _ => Ok(()),
    }
}
