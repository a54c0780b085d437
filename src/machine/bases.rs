//! Bases: images that linked clones lie on. A write to one would destroy every disk above it, so each is written down in
//! the store, its file is made read-only (mode 0444), and kiln refuses to write to it under whatever name.
//!
//! ```text
//! config/bases.json    [{"path": "/…/web.qcow2", "mode": 384}]    mode: permissions before, given back on release
//! ```

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_domain::Domain;
use kiln_domain::xml::Element;
use kiln_image::qcow2::Header;
use kiln_image::{Format, Image, Open, chain};
use serde::{Deserialize, Serialize};

use super::Store;
use super::store::{Changing, write_whole};
use crate::failure::{Failure, Status};

const FILE: &str = "bases.json";
/// Nobody writes.
const READ_ONLY: u32 = 0o444;
/// Most images below each other, as in [`chain`].
const DEEPEST: usize = 200;

/// A base, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its file.
    pub path: PathBuf,
    /// Its permissions before it became one.
    pub mode: u32,
}

/// Whether two paths are one file.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|about| (about.dev(), about.ino()));
    one == other || id(one).is_some_and(|one| id(other) == Some(one))
}

fn file(store: &Store) -> PathBuf {
    store.folders().config.join(FILE)
}

/// All bases of a store.
///
/// # Errors
/// When the list is there and can't be read.
pub fn all(store: &Store) -> Result<Vec<Base>, Failure> {
    let path = file(store);
    let failed = || {
        Failure::new(Status::Failed, format!("the list of bases {} can't be read", path.display())).advise(
            "It names the images that linked clones lie on. Mend it, or remove it if there are no linked clones.",
        )
    };
    match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) => Err(failed().because(&e)),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| failed().because(&e)),
    }
}

fn header(path: &Path, format: Option<Format>) -> Option<Header> {
    // To open a pipe would wait for whoever writes to it.
    let kind = fs::metadata(path).ok()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return None;
    }
    let how = Open { locks: false, backing: false, ..Open::reading(format) };
    Some(Image::open(path, how).ok()?.qcow2()?.header())
}

/// An image and what its headers say lies below it, from the top, as far as they can be read. `format` is the top's,
/// where it is known.
pub fn files_of(path: &Path, format: Option<Format>) -> Vec<PathBuf> {
    let (mut files, mut next, mut format) = (Vec::new(), Some(path.to_path_buf()), format);
    while let Some(path) = next.take().filter(|_| files.len() < DEEPEST) {
        if let Some(header) = header(&path, format) {
            files.extend(header.data_file.as_ref().map(|name| chain::below(&path, name.as_ref())));
            next = header.backing.as_ref().map(|name| chain::below(&path, name));
            format = header.backing_format.as_deref().and_then(Format::from_name);
        }
        files.push(path);
    }
    files
}

/// A disk's file or block device.
pub fn source_of(disk: &Element) -> Option<&str> {
    let source = disk.find("source")?;
    source.attribute("file").or_else(|| source.attribute("dev"))
}

/// A disk's format, as its definition says it.
pub fn format_of(disk: &Element) -> Option<Format> {
    disk.find("driver")?.attribute("type").and_then(Format::from_name)
}

/// Every file that a machine's disks consist of.
pub fn files_of_machine(domain: &Domain) -> Vec<PathBuf> {
    let disks = domain.devices().filter(|device| device.name() == "disk");
    let sources = disks.filter_map(|disk| Some((PathBuf::from(source_of(disk)?), format_of(disk))));
    sources.flat_map(|(path, format)| files_of(&path, format)).collect()
}

/// Names of the machines that use a file, as a disk or below one, sorted.
pub fn users(store: &Store, path: &Path) -> Vec<String> {
    let uses = |name: &String| {
        store.read(name).is_ok_and(|domain| files_of_machine(&domain).iter().any(|file| is_same(file, path)))
    };
    store.names().unwrap_or_default().into_iter().filter(uses).collect()
}

/// Bases among `files` that no machine uses.
pub fn idle(store: &Store, files: &[PathBuf]) -> Vec<PathBuf> {
    let bases = all(store).unwrap_or_default().into_iter().map(|base| base.path);
    bases.filter(|base| files.iter().any(|file| is_same(file, base)) && users(store, base).is_empty()).collect()
}

/// How a base that no machine uses is let go of.
pub fn how_to_release(path: &Path) -> String {
    format!("If no other image lies on it: kiln clone --release {}", path.display())
}

/// Whether a file is written down as a base.
///
/// # Errors
/// When the list can't be read.
pub fn is_base(store: &Store, path: &Path) -> Result<bool, Failure> {
    Ok(all(store)?.iter().any(|base| is_same(&base.path, path)))
}

/// Refuses to write to a base of this user's store.
///
/// # Errors
/// When the file is one; the machines that use it are named.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    // Without a store that can be read there are no bases.
    let Ok(store) = Store::here() else { return Ok(()) };
    if !is_base(&store, path)? {
        return Ok(());
    }
    let failure =
        Failure::new(Status::Conflict, format!("{} is a base of linked clones and stays as it is", path.display()));
    let users = users(&store, path);
    Err(match users.is_empty() {
        true => failure.why("no machine of the store uses it any more").advise(how_to_release(path)),
        false => failure
            .why(format!("what is written to it would destroy the disks of {}", users.join(", ")))
            .advise("Write to a copy (kiln disk convert), or to an image on top of it (kiln disk create -b)."),
    })
}

fn trouble(path: &Path) -> impl Fn(io::Error) -> Failure {
    move |e| Failure::new(Status::Failed, format!("the permissions of {} can't be changed", path.display())).because(&e)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    let file = File::open(path).map_err(trouble(path))?;
    file.set_permissions(Permissions::from_mode(mode)).and_then(|()| file.sync_all()).map_err(trouble(path))
}

impl Changing<'_> {
    fn write_bases(&self, bases: &[Base]) -> Result<(), Failure> {
        let path = file(self.store());
        if bases.is_empty() {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(Failure::new(Status::Failed, format!("removing {} failed", path.display())).because(&e))
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec_pretty(bases)
            .map_err(|e| Failure::new(Status::Failed, "the list of bases can't be written").because(&e))?;
        write_whole(&path, &text)
    }

    /// Makes a file a base, if it isn't one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn protect(&self, path: &Path) -> Result<(), Failure> {
        let mut bases = all(self.store())?;
        // One whose file is gone protects nothing.
        bases.retain(|base| base.path.exists());
        if !bases.iter().any(|base| is_same(&base.path, path)) {
            let mode = fs::metadata(path).map_err(trouble(path))?.permissions().mode() & 0o7777;
            bases.push(Base { path: path.into(), mode });
            self.write_bases(&bases)?;
        }
        set_mode(path, READ_ONLY)
    }

    /// Lets go of a base: its permissions are again what they were.
    ///
    /// # Errors
    /// When it is none, machines use it, or the file system refuses.
    pub fn release(&self, path: &Path) -> Result<(), Failure> {
        // One that can't be read may be one that uses it.
        self.store().names()?.iter().try_for_each(|name| self.store().read(name).map(drop))?;
        let users = users(self.store(), path);
        if is_base(self.store(), path)? && !users.is_empty() {
            let what = format!("{} is the base of {}", path.display(), users.join(", "));
            return Err(Failure::new(Status::Conflict, what).advise("Undefine those first."));
        }
        self.unprotect(path)
    }

    /// As [`Changing::release`], whoever uses it.
    ///
    /// # Errors
    /// When it is none, or the file system refuses.
    pub fn unprotect(&self, path: &Path) -> Result<(), Failure> {
        let mut bases = all(self.store())?;
        let Some(at) = bases.iter().position(|base| is_same(&base.path, path)) else {
            return Err(Failure::new(Status::NotFound, format!("{} is no base of linked clones", path.display())));
        };
        let base = bases.swap_remove(at);
        if base.path.exists() {
            set_mode(&base.path, base.mode)?;
        }
        self.write_bases(&bases)
    }
}
