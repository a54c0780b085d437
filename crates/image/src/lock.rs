//! Who may use an image at the same time, by the lock bytes that QEMU uses as well.
//!
//! QEMU marks how it uses a file by read locks on single bytes of it (its `block/file-posix.c`; `docs` call it image
//! locking): byte 100 + n says "I use permission n", byte 200 + n says "I let nobody else use permission n". Two users
//! get in each other's way when one uses what the other doesn't share. The bytes need not exist in the file. The
//! locks are open-file-description locks (fcntl(2), F_OFD_SETLK): they go with the opened file, also to another
//! process, and end with it, so no crash leaves one behind.

use std::os::fd::AsFd;
use std::{fs::File, io};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::Error;

const USED: i64 = 100;
const UNSHARED: i64 = 200;

/// A permission on an image's contents; the number is its lock byte's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Permission {
    ConsistentRead = 0,
    Write = 1,
    Resize = 3,
}

impl Permission {
    const ALL: [Permission; 3] = [Permission::ConsistentRead, Permission::Write, Permission::Resize];

    fn doing(self) -> &'static str {
        match self {
            Permission::ConsistentRead => "reads it",
            Permission::Write => "writes to it",
            Permission::Resize => "changes its size",
        }
    }

    fn refusing(self) -> &'static str {
        match self {
            Permission::ConsistentRead => "lets nobody read it",
            Permission::Write => "lets nobody else write to it",
            Permission::Resize => "lets nobody else change its size",
        }
    }
}

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading, while nobody writes.
    ReadOnly,
    /// Writing, with nobody else reading or writing.
    Write,
    /// Writing, while others may write, too: a disk that several machines share knowingly.
    SharedWrite,
}

impl Access {
    /// Whether the file must be opened for writing.
    pub fn writes(self) -> bool {
        self != Access::ReadOnly
    }

    fn used(self) -> &'static [Permission] {
        match self {
            Access::ReadOnly => &[Permission::ConsistentRead],
            Access::Write | Access::SharedWrite => &[Permission::ConsistentRead, Permission::Write],
        }
    }

    fn unshared(self) -> &'static [Permission] {
        match self {
            Access::ReadOnly | Access::Write => &[Permission::Write, Permission::Resize],
            Access::SharedWrite => &[Permission::Resize],
        }
    }
}

fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}

// File systems without such locks (some network ones): QEMU's "auto" goes on without, and so do we.
fn without_locks(error: Errno) -> bool {
    matches!(error, Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)
}

fn set(file: &File, kind: i32, byte: i64) -> Result<(), Errno> {
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&range(kind, byte))).map(drop)
}

// Whether another open file has a lock on the byte: a write lock there would be refused.
fn held_by_another(file: &File, byte: i64) -> Result<bool, Errno> {
    let mut probe = range(libc::F_WRLCK, byte);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

fn mark(file: &File, access: Access) -> Result<(), Errno> {
    for permission in Permission::ALL {
        let number = permission as i64;
        let wanted = |list: &[Permission]| if list.contains(&permission) { libc::F_RDLCK } else { libc::F_UNLCK };
        set(file, wanted(access.used()), USED + number)?;
        set(file, wanted(access.unshared()), UNSHARED + number)?;
    }
    Ok(())
}

fn conflict(file: &File, access: Access) -> Result<Option<&'static str>, Errno> {
    for permission in access.used() {
        if held_by_another(file, UNSHARED + *permission as i64)? {
            return Ok(Some(permission.refusing()));
        }
    }
    for permission in access.unshared() {
        if held_by_another(file, USED + *permission as i64)? {
            return Ok(Some(permission.doing()));
        }
    }
    Ok(None)
}

/// Takes the locks of `access` on an opened file, or changes those that it has. They last as long as the open file.
///
/// Marks first and looks then, so of two programs that start at once at most one goes on.
///
/// # Errors
/// When another program is in the way, or the host fails; the file has no lock then.
pub fn acquire(file: &File, name: &str, access: Access) -> Result<(), Error> {
    let outcome = mark(file, access).and_then(|()| conflict(file, access));
    let error = match outcome {
        Ok(None) => return Ok(()),
        Err(error) if without_locks(error) => return Ok(()),
        Ok(Some(other)) => Error::InUse { name: name.into(), other: other.into() },
        Err(error) => Error::Lock { name: name.into(), source: io::Error::from_raw_os_error(error as i32) },
    };
    release(file);
    Err(error)
}

/// Lets go of all lock bytes of the open file.
pub fn release(file: &File) {
    for permission in Permission::ALL {
        for base in [USED, UNSHARED] {
            // Letting go can't fail on a descriptor that is open; and if it did, closing would do it.
            let _ = set(file, libc::F_UNLCK, base + permission as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let (a, b) = (open(&path), open(&path));
        let both = |first, second| {
            acquire(&a, "disk", first).unwrap();
            let outcome = acquire(&b, "disk", second);
            release(&a);
            release(&b);
            outcome.is_ok()
        };
        use Access::*;
        assert!(both(ReadOnly, ReadOnly));
        assert!(both(SharedWrite, SharedWrite));
        for (first, second) in [(ReadOnly, Write), (Write, ReadOnly), (Write, Write), (Write, SharedWrite)] {
            assert!(!both(first, second), "{first:?} then {second:?}");
            assert!(!both(second, first), "{second:?} then {first:?}");
        }
        assert!(!both(ReadOnly, SharedWrite));
    }

    #[test]
    fn a_refused_one_leaves_no_lock_and_closing_ends_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let (a, b, c) = (open(&path), open(&path), open(&path));
        acquire(&a, "disk", Access::ReadOnly).unwrap();
        let refused = acquire(&b, "disk", Access::Write).unwrap_err();
        assert_eq!(refused.to_string(), "disk is in use: another program lets nobody else write to it");
        acquire(&c, "disk", Access::ReadOnly).unwrap();
        drop((a, c));
        acquire(&b, "disk", Access::Write).unwrap();
    }

    #[test]
    fn locks_go_with_a_duplicate_of_the_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let (a, b) = (open(&path), open(&path));
        acquire(&a, "disk", Access::Write).unwrap();
        let passed_on = a.try_clone().unwrap();
        drop(a);
        acquire(&passed_on, "disk", Access::Write).unwrap();
        assert!(acquire(&b, "disk", Access::ReadOnly).is_err());
        drop(passed_on);
        acquire(&b, "disk", Access::ReadOnly).unwrap();
    }
}
