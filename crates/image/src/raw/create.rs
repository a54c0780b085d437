//! Makes a new raw image: whole under its name, or not there at all.

use std::fs;
use std::io;
use std::path::Path;

use crate::Error;
use crate::newfile::{Existing, NewFile};

/// Disks hold secrets: only their owner reads them.
const MODE: u32 = 0o600;

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
    let write = || -> io::Result<()> {
        let new = NewFile::create(path, MODE)?;
        new.file().set_len(size)?;
        new.publish(Existing::Keep, true)
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::Create { path: path.into(), size, source },
    })
}
