//! Copies of image files: bytes as they are, with holes, internal snapshots and the name of what lies below.
//!
//! The copy lies on the same backing file as the original; no image below it is copied.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use kiln_image::newfile::{Existing, NewFile};
use kiln_image::{Error, Format, Image, Open, chain, zeros};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::failure::{Failure, Status};
use crate::install::undo::Undo;

/// Disks hold secrets: only their owner reads them.
const MODE: u32 = 0o600;
/// Bytes copied at once where the kernel can't do it alone, and the hole that is looked for.
const PIECE: usize = 1 << 20;
const HOLE: usize = 4096;

/// How a file is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Zeros become holes.
    Sparse,
    /// All its space is taken.
    Whole,
    /// By reference to the same blocks, where the file system can do that.
    Reflink,
}

fn failed(path: &Path, error: &Error) -> Failure {
    let failure = Failure::new(error.into(), format!("the disk {} can't be copied", path.display())).because(error);
    match error.hint() {
        Some(hint) => failure.advise(hint),
        None => failure,
    }
}

/// An image and all below it, held so that nobody writes to it.
///
/// # Errors
/// When it is in use, can't be read, or has its data in another file.
pub(super) fn hold(path: &Path, format: Format) -> Result<Arc<Image>, Failure> {
    let image = Image::open(path, Open::reading(Some(format))).map_err(|e| failed(path, &e))?;
    if let Some((data, _)) = image.data_file() {
        return Err(Failure::new(Status::Failed, format!("the disk {} can't be copied", path.display()))
            .why(format!("its data lie in another file, {}", data.display()))
            .advise("Make one file of it first: kiln disk convert -O qcow2 DISK NEW, and kiln edit."));
    }
    Ok(image)
}

/// Copies a held image to a new file.
///
/// # Errors
/// When there is such a file, or the file system refuses. Nothing is left then.
pub(super) fn copy(image: &Image, to: &Path, how: How, undo: &Undo) -> Result<(), Failure> {
    let from = image.path();
    let trouble = |e: io::Error| {
        let failure = Failure::new(Status::Failed, format!("{} can't be copied to {}", from.display(), to.display()));
        failure.because(&e)
    };
    let new = NewFile::create(to, MODE).map_err(trouble)?;
    if let Some(temporary) = new.temporary().map(Path::to_path_buf) {
        undo.step(|| Ok(((), Box::new(move || drop(std::fs::remove_file(temporary))))))?;
    }
    let source = File::open(from).map_err(trouble)?;
    match how {
        How::Reflink => reflink(&source, new.file()).map_err(|failure| failure.why(trouble_text(from, to)))?,
        How::Sparse | How::Whole => bytes(&source, new.file()).map_err(trouble)?,
    }
    if how == How::Whole {
        take_space(new.file()).map_err(trouble)?;
    }
    if let Some(name) = moved_backing(image, to) {
        let file = new.file().try_clone().map_err(trouble)?;
        name_backing(image, file, to, name).map_err(|e| failed(from, &e))?;
    }
    undo.step(|| {
        new.publish(Existing::Keep, true).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => super::exists(to),
            _ => trouble(e),
        })?;
        let path = to.to_path_buf();
        Ok(((), Box::new(move || drop(std::fs::remove_file(path)))))
    })
}

fn trouble_text(from: &Path, to: &Path) -> String {
    format!("{} to {}", from.display(), to.display())
}

fn reflink(from: &File, to: &File) -> Result<(), Failure> {
    rustix::fs::ioctl_ficlone(to, from).map_err(|errno| {
        Failure::new(Status::Failed, "--reflink: this file system can't share blocks between these files")
            .because(&io::Error::from(errno))
            .advise("Leave --reflink out for a copy, or use --linked for a disk on top of the original's.")
    })
}

// Stretches with data, of which zeros are left out.
fn bytes(from: &File, to: &File) -> io::Result<()> {
    // A block device tells its length by its end alone.
    let len = rustix::fs::seek(from, SeekFrom::End(0))?;
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            // Not every file system and device tells.
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).ok().filter(|end| *end > start).unwrap_or(len);
        stretch(from, to, start, end.min(len))?;
        at = end;
    }
    Ok(())
}

fn stretch(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..want).unwrap_or_default();
        from.read_exact_at(piece, at)?;
        for (start, len, _) in zeros::runs(piece, HOLE).into_iter().filter(|(.., is_zero)| !is_zero) {
            to.write_all_at(piece.get(start..start + len).unwrap_or_default(), at + start as u64)?;
        }
        at += want as u64;
    }
    Ok(())
}

fn take_space(file: &File) -> io::Result<()> {
    let len = file.metadata()?.len();
    if len == 0 {
        return Ok(());
    }
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)?)
}

// A relative name is meant from where the image lies: elsewhere it leads nowhere.
fn moved_backing(image: &Image, to: &Path) -> Option<OsString> {
    let name = image.qcow2()?.header().backing?;
    let is_same_folder = image.path().parent() == to.parent();
    let below = chain::below(image.path(), &name);
    (!is_same_folder && !Path::new(&name).is_absolute())
        .then(|| std::path::absolute(&below).unwrap_or(below).into_os_string())
}

fn name_backing(image: &Image, file: File, to: &Path, name: OsString) -> Result<(), Error> {
    let how = Open { backing: false, ..Open::writing(Some(Format::Qcow2)) };
    let copy = Image::from_file(file, to, how)?;
    let format = image.backing().map(|below| below.format().name().to_owned());
    if let Some(qcow2) = copy.qcow2() {
        qcow2.set_backing(Some((name, format)))?;
    }
    copy.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_copied_with_its_holes_and_its_odd_end() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let len = (3 * PIECE + 77) as u64;
        from.set_len(len).unwrap();
        from.write_all_at(&[7; 100], PIECE as u64 - 50).unwrap();
        from.write_all_at(&[8; 77], len - 77).unwrap();
        bytes(&from, &to).unwrap();
        let read = |file: &File| {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(to.metadata().unwrap().len(), len);
        assert!(read(&from) == read(&to));
    }
}
