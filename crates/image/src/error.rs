//! What can go wrong with a disk image: what, why, and what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading data.
    Read,
    /// Writing data.
    Write,
    /// Making writes durable.
    Flush,
    /// Giving space back.
    Discard,
    /// Writing zeros.
    WriteZeroes,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Flush => "flush",
            Operation::Discard => "discard",
            Operation::WriteZeroes => "zero",
        })
    }
}

/// Why a disk image can't be used as asked. [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be opened.
    #[error("can't open the disk image {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, socket, terminal or the like.
    #[error("{name} is {what}, not a disk image")]
    NotADisk {
        /// The file.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// Somebody else uses it in a way that excludes this one.
    #[error("{name} is in use: another program {other}")]
    InUse {
        /// The file.
        name: String,
        /// What the other one does, or doesn't let others do.
        other: String,
    },
    /// Its locks can't be taken or asked for.
    #[error("can't lock {name}")]
    Lock {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The disk was opened for reading only.
    #[error("can't {operation} {name}: it is read-only")]
    ReadOnly {
        /// The file.
        name: String,
        /// What was asked for.
        operation: Operation,
    },
    /// The range is not within the disk.
    #[error("can't {operation} {len} bytes at {offset} of {name}: it ends at {end}")]
    OutOfRange {
        /// The file.
        name: String,
        /// What was asked for.
        operation: Operation,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Length of the disk.
        end: u64,
    },
    /// The host failed.
    #[error("can't {operation} {name} at {offset}")]
    Io {
        /// The file.
        name: String,
        /// What was asked for.
        operation: Operation,
        /// First byte.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The image contradicts itself or its format.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong, as a main clause about "it".
        what: String,
    },
    /// The image needs something that this program doesn't have, or can't have with what was asked for.
    #[error("can't use {name}: {what}")]
    Unsupported {
        /// The file.
        name: String,
        /// What, as a main clause about "it".
        what: String,
    },
    /// There is a file of this name.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A new image can't be made.
    #[error("can't create the disk image {} of {size} bytes", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// Length asked for.
        size: u64,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What the user can do about it, as a whole sentence without its full stop.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "check the path, or give a size to create it"
            }
            Error::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "give yourself access to the file and its folders"
            }
            Error::NotADisk { .. } => "name a regular file or a block device",
            Error::InUse { .. } => "stop the machine or program that uses it, or open it shareable in both",
            Error::Damaged { .. } => "look at it with kiln disk check, and at your backups before it repairs anything",
            Error::ReadOnly { .. } => "open it for writing",
            Error::Exists { .. } => "choose another name, or remove the file if nothing needs it",
            Error::Create { source, .. } | Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space on its file system"
            }
            Error::Create { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
                "choose a smaller size, or a file system that allows files as large"
            }
            Error::Create { source, .. } if source.kind() == io::ErrorKind::NotFound => "make the folder first",
            _ => return None,
        })
    }
}
