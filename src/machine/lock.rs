//! Open-file-description locks (fcntl(2), `F_OFD_SETLK`): they go with the opened file, also to another process, and
//! end with it, so a crash never leaves one to remove.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

fn whole(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Opens the file of a lock, creating it.
///
/// # Errors
/// When the file system refuses.
pub fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Locks the file at `path`, creating it; `None` when somebody else has it.
///
/// # Errors
/// When the file can't be made or locked.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = open(path)?;
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
            // Whoever had it before may have removed the file between the two: then another has to be locked.
            Ok(_) if is_at(&file, path)? => return Ok(Some(file)),
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Locks the file at `path`, creating it, when whoever has it lets go.
///
/// # Errors
/// When the file can't be made or locked.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    wait(&file)?;
    Ok(file)
}

/// Locks an opened file when whoever has it lets go.
///
/// # Errors
/// When it can't be locked.
pub fn wait(file: &File) -> io::Result<()> {
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLKW(&whole(libc::F_WRLCK))) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets go of a lock without closing its file.
///
/// # Errors
/// When the kernel refuses.
pub fn let_go(file: &File) -> io::Result<()> {
    Ok(fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK))).map(drop)?)
}

/// Whether somebody has the lock. A file that isn't there is not locked.
///
/// # Errors
/// When the file can't be looked at.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::options().read(true).write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let mut probe = whole(libc::F_WRLCK);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lasts_as_long_as_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_locked(&path).unwrap());
        let first = try_lock(&path).unwrap().unwrap();
        assert!(is_locked(&path).unwrap());
        assert!(try_lock(&path).unwrap().is_none());
        let copy = first.try_clone().unwrap();
        drop(first);
        assert!(is_locked(&path).unwrap(), "a second descriptor holds it, as a child's would");
        drop(copy);
        assert!(!is_locked(&path).unwrap());
        drop(lock(&path).unwrap());
    }
}
