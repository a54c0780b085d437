//! Makes a new raw image: whole under its name, or not there at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::Error;

/// Disks hold secrets: only their owner reads them.
const MODE: u32 = 0o600;
/// Tries for a temporary name that nobody has.
const TRIES: u32 = 1000;

/// Removes the temporary file unless it has got its name.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // There is nobody to tell, and the name shows what the file is.
            let _ = fs::remove_file(path);
        }
    }
}

/// Creates a sparse raw image of `size` bytes at `path`. An existing file is never replaced.
///
/// The file appears under its name complete and durable.
///
/// # Errors
/// When there is such a file, or the file system refuses.
pub fn create(path: &Path, size: u64) -> Result<(), Error> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::Exists { path: path.into() });
    }
    write(path, size).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::Create { path: path.into(), size, source },
    })
}

fn write(path: &Path, size: u64) -> io::Result<()> {
    let (file, mut temporary) = temporary(path)?;
    file.set_len(size)?;
    file.sync_all()?;
    if let Some(from) = &temporary.0 {
        give_name(from, path)?;
    }
    temporary.0 = None;
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary(path: &Path) -> io::Result<(File, Temporary)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    for attempt in 0..TRIES {
        let mut candidate = OsString::from(".");
        candidate.push(name);
        candidate.push(format!(".{}-{attempt}.part", std::process::id()));
        let candidate = folder(path).join(candidate);
        match File::options().write(true).create_new(true).mode(MODE).open(&candidate) {
            Ok(file) => return Ok((file, Temporary(Some(candidate)))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn give_name(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems can't refuse to replace; a second link refuses everywhere.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}
