//! The installer's kernel and initrd, out of a folder or from a server.

use std::fs;
use std::path::{Path, PathBuf};

use super::undo::Undo;
use crate::failure::{Failure, Status};
use crate::machine::{Store, store};
use crate::media::fetch::Fetcher;
use crate::os::tree::{CANDIDATES, Candidate, listed_sum};
use crate::plan::Boot;

/// A tree in which an installer was found.
pub(super) struct Found {
    location: Location,
    candidate: Candidate,
}

enum Location {
    Folder(PathBuf),
    Server { base: String, fetcher: Fetcher },
}

impl Found {
    /// The installer by its names in the tree.
    pub(super) fn names(&self, cmdline: &str) -> Boot {
        let at = |path: &str| match &self.location {
            Location::Folder(folder) => folder.join(path),
            Location::Server { base, .. } => format!("{base}{path}").into(),
        };
        let initrd = Some(at(self.candidate.initrd));
        Boot { kernel: at(self.candidate.kernel), initrd, cmdline: cmdline.into() }
    }
}

/// Whether a location is on a server.
pub(super) fn is_on_server(location: &str) -> bool {
    location.starts_with("http://") || location.starts_with("https://")
}

/// Looks for an installer at a location.
pub(super) fn find(location: &str) -> Result<Found, Failure> {
    let refuse = |why: &str| Failure::new(Status::Usage, format!("--location {location:?}: {why}"));
    if location.is_empty() {
        return Err(refuse("it is empty").advise("Name a folder or an http(s) URL."));
    }
    if is_on_server(location) {
        return on_server(location);
    }
    if let Some((scheme, _)) = location.split_once("://") {
        return Err(refuse(&format!("not yet: {scheme}")).advise("Trees come from a folder or over http(s) so far."));
    }
    in_folder(location)
}

fn unknown(location: &str) -> Failure {
    Failure::new(Status::NotFound, format!("there is no install tree at {location}"))
        .why("neither kernel nor initrd of a layout that kiln knows (Debian's) is there")
        .advise("For Debian: the folder that holds debian-installer/amd64/linux, or …/installer-amd64/")
}

fn in_folder(location: &str) -> Result<Found, Failure> {
    let folder = std::path::absolute(location)
        .map_err(|e| Failure::new(Status::Usage, format!("--location {location:?}")).because(&e))?;
    if !folder.exists() {
        return Err(Failure::new(Status::NotFound, format!("there is no {}", folder.display())));
    }
    if folder.is_file() {
        return Err(Failure::new(Status::Usage, format!("not yet: --location {location} (a file)"))
            .why("install media (ISO) are not read so far")
            .advise("Name the folder of an install tree, or its URL."));
    }
    let here = |c: &&Candidate| folder.join(c.kernel).is_file() && folder.join(c.initrd).is_file();
    match CANDIDATES.iter().find(here) {
        Some(candidate) => Ok(Found { location: Location::Folder(folder), candidate: *candidate }),
        None => Err(unknown(location)),
    }
}

fn on_server(location: &str) -> Result<Found, Failure> {
    let fetcher = Fetcher::new(location)?;
    let base = if location.ends_with('/') { location.to_owned() } else { format!("{location}/") };
    for candidate in CANDIDATES {
        if fetcher.exists(&format!("{base}{}", candidate.kernel))? {
            return Ok(Found { location: Location::Server { base, fetcher }, candidate: *candidate });
        }
    }
    Err(unknown(location))
}

fn folder(store: &Store, machine: &str) -> PathBuf {
    store.folders().cache.join("installs").join(machine)
}

/// Brings the installer here, if it isn't.
pub(super) fn fetch(store: &Store, machine: &str, location: &str, cmdline: &str, undo: &Undo) -> Result<Boot, Failure> {
    let found = find(location)?;
    eprintln!("{:<8}{} at {location}", "tree", found.candidate.layout);
    let Location::Server { base, fetcher } = &found.location else {
        return check_folder(&found, cmdline);
    };
    let folder = folder(store, machine);
    undo.step(|| {
        store::make_folder(&folder)?;
        let gone = folder.clone();
        Ok(((), Box::new(move || drop(fs::remove_dir_all(gone)))))
    })?;
    let Candidate { kernel, initrd, sums, .. } = found.candidate;
    let list = fetcher.text(&format!("{base}{sums}SHA256SUMS"))?.unwrap_or_default();
    let boot = Boot { kernel: folder.join("linux"), initrd: Some(folder.join("initrd")), cmdline: cmdline.into() };
    for (what, path, to) in [("kernel", kernel, "linux"), ("initrd", initrd, "initrd")] {
        let sum = listed_sum(&list, sums, path);
        fetcher.file(what, &format!("{base}{path}"), &folder.join(to), sum.as_deref())?;
    }
    Ok(boot)
}

// A folder may have a list of sums as well.
fn check_folder(found: &Found, cmdline: &str) -> Result<Boot, Failure> {
    let boot = found.names(cmdline);
    if let Location::Folder(folder) = &found.location {
        let sums = found.candidate.sums;
        let list = fs::read_to_string(folder.join(sums).join("SHA256SUMS")).unwrap_or_default();
        for path in [found.candidate.kernel, found.candidate.initrd] {
            if let Some(wanted) = listed_sum(&list, sums, path) {
                check_sum(&folder.join(path), &wanted)?;
            }
        }
    }
    Ok(boot)
}

fn check_sum(path: &Path, wanted: &str) -> Result<(), Failure> {
    use sha2::{Digest, Sha256};
    let trouble = |e| Failure::new(Status::Failed, format!("{} can't be read", path.display())).because(&e);
    let mut hash = Sha256::new();
    std::io::copy(&mut fs::File::open(path).map_err(trouble)?, &mut HashWriter(&mut hash)).map_err(trouble)?;
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found == wanted {
        return Ok(());
    }
    Err(Failure::new(Status::Verification, format!("{} has a wrong checksum", path.display()))
        .why(format!("the tree's SHA256SUMS says {wanted}"))
        .why(format!("the file has {found}"))
        .advise("Get the tree again."))
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The downloads have served: an installer's kernel is for the first boot alone, whose process has it open.
pub(super) fn forget(store: &Store, machine: &str) {
    let _ = fs::remove_dir_all(folder(store, machine));
}
