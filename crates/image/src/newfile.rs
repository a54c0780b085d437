//! A new file that appears whole under its name, or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, RenameFlags};
use rustix::io::Errno;

/// Tries for a temporary name that nobody has.
const TRIES: u32 = 1000;

/// What becomes of a file that has the name already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and publishing fails.
    Keep,
    /// The new one takes its place.
    Replace,
}

/// A file without its name yet. Dropped, it is gone.
pub struct NewFile {
    path: PathBuf,
    file: File,
    /// Where the file system has no nameless files.
    temporary: Option<PathBuf>,
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take() {
            // There is nobody to tell, and the name shows what the file is.
            let _ = fs::remove_file(path);
        }
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl NewFile {
    /// Makes one, to be called `path` in the end, with permissions `mode` less the umask.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut options = File::options();
        options.read(true).write(true).mode(mode);
        let nameless = options.clone().custom_flags(OFlags::TMPFILE.bits() as i32).open(folder(path));
        if let Ok(file) = nameless {
            return Ok(Self { path: path.into(), file, temporary: None });
        }
        for attempt in 0..TRIES {
            let candidate = temporary_name(path, attempt);
            match options.clone().create_new(true).open(&candidate) {
                Ok(file) => return Ok(Self { path: path.into(), file, temporary: Some(candidate) }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name that it has meanwhile, where the file system has no nameless files.
    pub fn temporary(&self) -> Option<&Path> {
        self.temporary.as_deref()
    }

    /// Gives it its name. `durable` waits until file and name are on stable storage.
    ///
    /// # Errors
    /// When there is such a file and it is to be kept, or the file system refuses. Nothing has changed then, but where one
    /// was replaced and that can't be made durable.
    pub fn publish(mut self, existing: Existing, durable: bool) -> io::Result<()> {
        if durable {
            self.file.sync_all()?;
        }
        match (&self.temporary, existing) {
            (None, Existing::Keep) => link(&self.file, &self.path)?,
            (None, Existing::Replace) => match link(&self.file, &self.path) {
                Err(Errno::EXIST) => {
                    self.temporary = Some(link_temporarily(&self.file, &self.path)?);
                    self.rename(Existing::Replace)?;
                }
                other => other?,
            },
            (Some(_), existing) => self.rename(existing)?,
        }
        self.temporary = None;
        if !durable {
            return Ok(());
        }
        File::open(folder(&self.path)).and_then(|folder| folder.sync_all()).inspect_err(|_| {
            // What was there before is gone already; what is new need not stay.
            if existing == Existing::Keep {
                let _ = fs::remove_file(&self.path);
            }
        })
    }

    fn rename(&self, existing: Existing) -> io::Result<()> {
        let Some(from) = &self.temporary else { return Ok(()) };
        if existing == Existing::Replace {
            return fs::rename(from, &self.path);
        }
        match rustix::fs::renameat_with(CWD, from, CWD, &self.path, RenameFlags::NOREPLACE) {
            // Some file systems can't refuse to replace; a second link refuses everywhere.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::hard_link(from, &self.path)?;
                fs::remove_file(from)
            }
            other => Ok(other?),
        }
    }
}

fn temporary_name(path: &Path, attempt: u32) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{attempt}.part", std::process::id()));
    folder(path).join(name)
}

// linkat(2): a nameless file gets its name through its descriptor.
fn link(file: &File, path: &Path) -> Result<(), Errno> {
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

fn link_temporarily(file: &File, path: &Path) -> io::Result<PathBuf> {
    for attempt in 0..TRIES {
        let candidate = temporary_name(path, attempt);
        match link(file, &candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let new = NewFile::create(&path, 0o600).unwrap();
        new.file().write_all(b"one").unwrap();
        assert_eq!(names(), 0);
        drop(new);
        assert_eq!(names(), 0);
        let write = |text: &[u8], existing| {
            let new = NewFile::create(&path, 0o600).unwrap();
            new.file().write_all(text).unwrap();
            new.publish(existing, true)
        };
        write(b"two", Existing::Keep).unwrap();
        assert_eq!(write(b"three", Existing::Keep).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        write(b"four", Existing::Replace).unwrap();
        assert_eq!((fs::read(&path).unwrap(), names()), (b"four".to_vec(), 1));
    }
}
