//! An initrd made of pieces, and of files that are injected into its root.
//!
//! Linux unpacks whatever archives follow each other, each packed in its own way or not at all, and takes a later file
//! for an earlier one of the same name ("initramfs buffer format" of its documentation). A plain archive must begin at
//! a multiple of four bytes; zeros before it are skipped.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cpio::newc;

use super::{LARGEST, NO_SPACE};
use crate::failure::{Failure, Status};

/// What the start of archives is a multiple of.
const ALIGNMENT: u64 = 4;
/// The type bits of a regular file (cpio's `c_mode`).
const REGULAR: u32 = 0o100_000;

/// Files that are to lie in the root of an initrd, under their own names.
#[derive(Debug, Clone, Default)]
pub struct Injection(Vec<PathBuf>);

impl Injection {
    /// Takes files.
    ///
    /// # Errors
    /// When one isn't there or is no plain file, or two have the same name.
    pub fn new(files: &[PathBuf]) -> Result<Self, Failure> {
        let mut names: BTreeMap<OsString, &PathBuf> = BTreeMap::new();
        for path in files {
            let refuse = |status, why: String| {
                Failure::new(status, format!("--initrd-inject {}: it can't be injected", path.display())).why(why)
            };
            let about = fs::metadata(path).and_then(|about| File::open(path).map(|_| about)).map_err(|e| {
                let missing = e.kind() == io::ErrorKind::NotFound;
                refuse(if missing { Status::NotFound } else { Status::Failed }, e.to_string())
            })?;
            if !about.is_file() {
                return Err(refuse(Status::Usage, "it is no plain file".into())
                    .advise("Name each file of a folder; all lie in the initrd's root."));
            }
            if about.len() > LARGEST {
                return Err(refuse(Status::Usage, "an initrd's archive holds files up to 4 GiB".into()));
            }
            let name = path.file_name().unwrap_or_default().to_owned();
            if name.to_str().is_none_or(|name| name == TRAILER) {
                return Err(refuse(Status::Usage, "an initrd can't have that name".into()));
            }
            if let Some(other) = names.insert(name, path) {
                return Err(refuse(Status::Conflict, format!("{} would have the same name", other.display()))
                    .advise("All lie in the initrd's root: give one of them another name."));
            }
        }
        Ok(Self(files.to_vec()))
    }

    /// Whether there is nothing to inject.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names under which they lie in the initrd.
    pub fn names(&self) -> String {
        let names = self.0.iter().filter_map(|path| path.file_name());
        names.map(|name| format!("/{}", name.to_string_lossy())).collect::<Vec<_>>().join(", ")
    }
}

/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// An initrd in the making, under a temporary name.
pub struct Builder {
    to: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Builder {
    /// Begins the initrd that will be at `to`.
    ///
    /// # Errors
    /// When its file can't be made.
    pub fn new(to: &Path) -> Result<Self, Failure> {
        let temporary = to.with_extension("part");
        let file = File::create(&temporary).map_err(|e| unmade(to, &e))?;
        Ok(Self { to: to.into(), temporary, file })
    }

    /// Adds what `write` writes, at a boundary.
    ///
    /// # Errors
    /// When it can't be written, and those of `write`.
    pub fn piece(&mut self, write: impl FnOnce(&mut File) -> Result<u64, Failure>) -> Result<(), Failure> {
        let at = self.file.metadata().map_err(|e| unmade(&self.to, &e))?.len();
        let gap = vec![0; (at.next_multiple_of(ALIGNMENT) - at) as usize];
        self.file.write_all(&gap).map_err(|e| unmade(&self.to, &e))?;
        write(&mut self.file).map(drop)
    }

    /// Adds a file as it is.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn file(&mut self, path: &Path) -> Result<(), Failure> {
        let to = self.to.clone();
        let unread =
            |e: io::Error| Failure::new(Status::Failed, format!("{} can't be read", path.display())).because(&e);
        let mut from = File::open(path).map_err(unread)?;
        self.piece(|file| io::copy(&mut from, file).map_err(|e| unmade(&to, &e)))
    }

    /// Adds an archive of files; nothing for none.
    ///
    /// # Errors
    /// When one can't be read, changes meanwhile, or can't be written.
    pub fn inject(&mut self, files: &Injection) -> Result<(), Failure> {
        if files.is_empty() {
            return Ok(());
        }
        let to = self.to.clone();
        self.piece(|file| {
            for (number, path) in (1..).zip(&files.0) {
                entry(file, number, path).map_err(|e| {
                    Failure::new(Status::Failed, format!("{} can't be injected into the initrd", path.display()))
                        .because(&e)
                })?;
            }
            newc::trailer(file).map(|_| 0).map_err(|e| unmade(&to, &e))
        })
    }

    /// Puts it under its name.
    ///
    /// # Errors
    /// When it is larger than an initrd can be, or can't be written.
    pub fn finish(self) -> Result<u64, Failure> {
        let len = self.file.metadata().map_err(|e| unmade(&self.to, &e))?.len();
        if len > LARGEST {
            return Err(Failure::new(Status::Failed, "the initrd is larger than a kernel can be given (4 GiB)"));
        }
        fs::rename(&self.temporary, &self.to).map_err(|e| unmade(&self.to, &e))?;
        Ok(len)
    }
}

fn unmade(to: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Status::Failed, format!("{} can't be written", to.display())).because(error);
    match error.kind() {
        io::ErrorKind::StorageFull => failure.advise(NO_SPACE),
        _ => failure,
    }
}

fn entry(to: &mut File, number: u32, path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let len = u32::try_from(about.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let entry = newc::Builder::new(&name)
        .ino(number)
        .mode(REGULAR | about.permissions().mode() & 0o7777)
        .mtime(u32::try_from(about.mtime()).unwrap_or(0));
    let mut archive = entry.write(to, len);
    if io::copy(&mut file.take(about.len()), &mut archive)? != about.len() {
        return Err(io::Error::other("it became shorter while it was read"));
    }
    archive.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_begin_at_boundaries_and_files_lie_in_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("base"), [1; 5]).unwrap();
        fs::write(path("preseed.cfg"), "d-i\n").unwrap();
        fs::set_permissions(path("preseed.cfg"), PermissionsExt::from_mode(0o640)).unwrap();
        let mut builder = Builder::new(&path("initrd")).unwrap();
        builder.file(&path("base")).unwrap();
        builder.inject(&Injection::new(&[path("preseed.cfg")]).unwrap()).unwrap();
        builder.finish().unwrap();
        let bytes = fs::read(path("initrd")).unwrap();
        assert_eq!(&bytes[..8], [1, 1, 1, 1, 1, 0, 0, 0]);
        // The header as the kernel's documentation has it: magic, inode, mode.
        assert!(bytes[8..].starts_with(b"07070100000001000081a0"), "{:?}", String::from_utf8_lossy(&bytes[8..40]));
        let mut reader = newc::Reader::new(&bytes[8..]).unwrap();
        assert_eq!(reader.entry().name(), "preseed.cfg");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "d-i\n");
        assert!(newc::Reader::new(reader.finish().unwrap()).unwrap().entry().is_trailer());
        assert!(!path("initrd.part").exists());
    }

    #[test]
    fn what_cannot_be_injected_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("a")).unwrap();
        for name in ["same", "a/same"] {
            fs::write(path(name), "x").unwrap();
        }
        let told = |files: &[&str]| {
            let files: Vec<PathBuf> = files.iter().map(|name| path(name)).collect();
            Injection::new(&files).unwrap_err()
        };
        assert_eq!(told(&["same", "a/same"]).status, Status::Conflict);
        assert_eq!(told(&["none"]).status, Status::NotFound);
        assert!(told(&["a"]).to_string().contains("it is no plain file"));
    }
}
