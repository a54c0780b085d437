//! What a run leaves in the store, removed by the machine's own process at its end when no definition keeps the machine:
//! it was made by `create`, or undefined while it ran.
//!
//! The lock stays: it tells that the machine runs until its process is gone. Whoever starts or destroys a machine next
//! removes the empty folder.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, statat, unlinkat};

use super::handover::Descriptors;
use super::start::LOCK;
use crate::machine::{Folders, Store, lock};

// Descriptors by which the process finds it, as it opens no path.
const STORE_LOCK: &str = "store-lock";
const CONFIG: &str = "config-folder";
const RUN: &str = "run-folder";
const LOGS: &str = "logs-folder";

/// Opens what [`Leavings::of`] needs; the machine's folders are there.
///
/// # Errors
/// When the file system refuses.
pub(super) fn hand_over(folders: &Folders, name: &str, files: &mut Descriptors) -> io::Result<()> {
    fs::create_dir_all(&folders.config)?;
    let folder = |path: &Path| open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    files.insert(STORE_LOCK.into(), lock::open(&folders.lock())?.into());
    files.insert(CONFIG.into(), folder(&folders.config)?);
    files.insert(RUN.into(), folder(&folders.running(name))?);
    files.insert(LOGS.into(), folder(&folders.logs(name))?);
    Ok(())
}

/// What is left of a run.
pub(super) struct Leavings {
    store_lock: File,
    config: OwnedFd,
    definition: PathBuf,
    name: String,
    run: OwnedFd,
    logs: OwnedFd,
}

impl Leavings {
    /// Takes its descriptors out of those that were handed over.
    pub(super) fn of(name: &str, files: &mut Descriptors) -> Option<Self> {
        Some(Self {
            store_lock: files.remove(STORE_LOCK)?.into(),
            config: files.remove(CONFIG)?,
            definition: Store::definition_in_config(name),
            name: name.into(),
            run: files.remove(RUN)?,
            logs: files.remove(LOGS)?,
        })
    }

    /// Removes it unless the machine is kept.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(super) fn remove_unless_kept(&self) -> io::Result<()> {
        // Nobody defines the machine meanwhile.
        lock::wait(&self.store_lock)?;
        let removed = match statat(&self.config, &self.definition, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => self.remove(),
            other => other.map(drop).map_err(io::Error::from),
        };
        lock::let_go(&self.store_lock)?;
        removed
    }

    fn remove(&self) -> io::Result<()> {
        empty(&self.run, Some(LOCK))?;
        empty(&self.logs, None)?;
        Ok(unlinkat(&self.logs, Path::new("..").join(&self.name), AtFlags::REMOVEDIR)?)
    }
}

fn empty(folder: &OwnedFd, kept: Option<&str>) -> io::Result<()> {
    for entry in Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        let stays =
            [Some("."), Some(".."), kept].into_iter().flatten().any(|stays| name.to_bytes() == stays.as_bytes());
        if !stays {
            unlinkat(folder, name, AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_kept_keeps_its_log() {
        let (_home, store) = Store::scratch();
        let folders = store.folders();
        let files = [
            folders.running("web").join(LOCK),
            folders.running("web").join("domain.xml"),
            folders.logs("web").join("machine.log"),
        ];
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        let mut handed = Descriptors::new();
        hand_over(folders, "web", &mut handed).unwrap();
        let leavings = Leavings::of("web", &mut handed).unwrap();
        assert!(handed.is_empty());
        let definition = folders.definition("web").join("domain.xml");
        fs::create_dir_all(definition.parent().unwrap()).unwrap();
        fs::write(&definition, "").unwrap();
        leavings.remove_unless_kept().unwrap();
        assert_eq!(files.each_ref().map(|file| file.exists()), [true; 3]);
        fs::remove_file(definition).unwrap();
        leavings.remove_unless_kept().unwrap();
        assert_eq!(files.each_ref().map(|file| file.exists()), [true, false, false]);
        assert!(!folders.logs("web").exists());
        // Others can change the store again.
        assert!(lock::try_lock(&folders.lock()).unwrap().is_some());
    }
}
