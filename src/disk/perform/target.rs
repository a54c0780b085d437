//! Places for new disks: a new name, or a file that is there.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_image::newfile::{Existing, NewFile};
use kiln_image::qcow2::{self, create};
use kiln_image::storage::{self, Storage};
use kiln_image::{Access, Error, chain};

use super::super::{Compression, Dialect, Layout, New, Preallocation};
use super::open::failed;
use crate::failure::{Failure, Status};
use crate::machine::bases;

/// Everybody may read it, as far as the umask lets them: as qemu-img makes its files.
const MODE: u32 = 0o666;

/// Where a new disk comes to lie.
pub enum Place {
    /// It gets its name in the end.
    New(NewFile, Existing),
    /// A file or block device whose contents are lost.
    InPlace(PathBuf, File),
}

impl Place {
    /// Looks for a place. Under the name qemu-img a file that is there is emptied, after its lock was taken; kiln disk
    /// replaces it when `force` says so, and its contents stay until then.
    pub fn find(dialect: Dialect, path: &Path, force: bool) -> Result<Self, Failure> {
        let there = fs::metadata(path);
        let new = |existing| {
            let made = NewFile::create(path, MODE);
            made.map(|file| Place::New(file, existing)).map_err(|error| cannot_create(path, &error))
        };
        let Ok(about) = there else {
            // A link that leads nowhere is followed.
            let target = fs::read_link(path).ok().filter(|_| dialect == Dialect::QemuImg);
            return match target {
                Some(target) => Self::find(dialect, &chain::below(path, target.as_os_str()), force),
                None => new(if force { Existing::Replace } else { Existing::Keep }),
            };
        };
        if about.is_dir() {
            return Err(Failure::new(Status::Failed, format!("{} is a folder", path.display())));
        }
        let is_device = about.file_type().is_block_device();
        if dialect == Dialect::Kiln && !force {
            let failure = Failure::new(Status::Conflict, format!("{} exists already", path.display()));
            return Err(failure.advise("--force puts the new disk in its place, when that is done."));
        }
        bases::check_writable(path)?;
        let open = File::options().read(true).write(true).open(path);
        let file = open.map_err(|error| cannot_create(path, &error))?;
        chain::lock_for_writing(&file, path).map_err(|error| failed(&error))?;
        if dialect == Dialect::Kiln && !is_device {
            return new(Existing::Replace);
        }
        if !is_device {
            file.set_len(0).map_err(|error| cannot_create(path, &error))?;
        }
        Ok(Place::InPlace(path.into(), file))
    }

    /// The open file.
    pub fn file(&self) -> &File {
        match self {
            Place::New(new, _) => new.file(),
            Place::InPlace(_, file) => file,
        }
    }

    /// The name that a new file has meanwhile, if it has any.
    pub fn temporary(&self) -> Option<&Path> {
        match self {
            Place::New(new, _) => new.temporary(),
            Place::InPlace(..) => None,
        }
    }

    /// Ends it: the disk is there under its name.
    pub fn finish(self, durable: bool) -> Result<(), Failure> {
        match self {
            Place::InPlace(path, file) if durable => file.sync_all().map_err(|error| cannot_create(&path, &error)),
            Place::InPlace(..) => Ok(()),
            Place::New(new, existing) => new
                .publish(existing, durable)
                .map_err(|error| Failure::new(Status::Failed, "the new disk can't get its name").because(&error)),
        }
    }
}

fn cannot_create(path: &Path, error: &std::io::Error) -> Failure {
    let status = match error.kind() {
        std::io::ErrorKind::NotFound => Status::NotFound,
        _ => Status::Failed,
    };
    let failure = Failure::new(status, format!("can't create {}", path.display())).because(error);
    if status == Status::NotFound { failure.advise("Make its folder first.") } else { failure }
}

/// The library's name for it.
pub fn qcow2_preallocation(of: Preallocation) -> create::Preallocation {
    match of {
        Preallocation::Off => create::Preallocation::Off,
        Preallocation::Metadata => create::Preallocation::Metadata,
        Preallocation::Falloc => create::Preallocation::Falloc,
        Preallocation::Full => create::Preallocation::Full,
    }
}

/// Makes an empty disk of `size` bytes there.
pub fn format(dialect: Dialect, path: &Path, new: &New, size: u64, place: &Place) -> Result<(), Failure> {
    if new.nocow && matches!(place, Place::New(..)) {
        // Only btrfs has it, and elsewhere there is nothing to switch off.
        let flags = rustix::fs::ioctl_getflags(place.file()).map(|flags| flags | rustix::fs::IFlags::NOCOW);
        if let Err(errno) = flags.and_then(|flags| rustix::fs::ioctl_setflags(place.file(), flags)) {
            log::debug!("nocow: {errno}");
        }
    }
    if new.extent_size_hint.is_some_and(|hint| hint > 0) {
        eprintln!("kiln: extent_size_hint has no effect: XFS chooses its extents by itself");
    }
    let file = place.file().try_clone().map_err(|error| cannot_create(path, &error))?;
    let name = path.display().to_string();
    let file = storage::File::from_file(file, &name, Access::Write).map_err(|error| failed(&error))?;
    let told = |error: &Error| failed(error);
    match &new.layout {
        Layout::Raw { preallocation } => raw(&file, size, *preallocation, 0).map_err(|e| cannot_create(path, &e)),
        Layout::Qcow2(layout) => {
            let create = as_created(layout, size);
            if let Some(what) = create.fault() {
                return Err(Failure::new(Status::Failed, format!("{name} can't be made so")).why(what));
            }
            let data = layout.data_file.as_ref().map(|data| data_file(dialect, path, data)).transpose()?;
            create::format(Arc::new(file), data.map(|data| data as Arc<dyn Storage>), &create).map_err(|e| told(&e))
        }
    }
}

/// What the library is to make.
pub fn as_created(layout: &super::super::Qcow2, size: u64) -> qcow2::Create {
    qcow2::Create {
        size,
        version: layout.version.into(),
        cluster_bits: layout.cluster_size.trailing_zeros(),
        refcount_order: u32::from(layout.refcount_bits).trailing_zeros(),
        lazy_refcounts: layout.lazy_refcounts,
        compression: match layout.compression {
            Compression::Zlib => qcow2::Compression::Zlib,
            Compression::Zstd => qcow2::Compression::Zstd,
        },
        extended_l2: layout.extended_l2,
        backing: layout.backing.as_ref().map(|backing| {
            let format = kiln_image::Format::from(backing.format).name().to_owned();
            (backing.file.clone().into_os_string(), Some(format))
        }),
        data_file: layout.data_file.as_ref().map(|file| (file.clone().into_os_string(), layout.data_file_raw)),
        preallocation: qcow2_preallocation(layout.preallocation),
    }
}

// The external data file, emptied if it is there.
fn data_file(dialect: Dialect, image: &Path, data: &Path) -> Result<Arc<storage::File>, Failure> {
    let there = data.exists();
    if there && dialect == Dialect::Kiln {
        let failure = Failure::new(Status::Conflict, format!("the data file {} exists already", data.display()));
        return Err(failure.advise("Remove it, or name another one."));
    }
    if data == image {
        return Err(Failure::new(Status::Usage, "the data file can't be the image itself"));
    }
    bases::check_writable(data)?;
    let open = File::options().read(true).write(true).create(true).truncate(false).open(data);
    let file = open.map_err(|error| cannot_create(data, &error))?;
    chain::lock_for_writing(&file, data).map_err(|error| failed(&error))?;
    file.set_len(0).map_err(|error| cannot_create(data, &error))?;
    let name = data.display().to_string();
    storage::File::from_file(file, &name, Access::Write).map(Arc::new).map_err(|error| failed(&error))
}

/// Lengthens a raw disk from `from` to `size` bytes, and takes space for what is added.
pub fn raw(file: &dyn Storage, size: u64, preallocation: Preallocation, from: u64) -> std::io::Result<()> {
    if file.as_file().is_some_and(storage::File::is_device) {
        let there = file.len()?;
        if there < size {
            let what = format!("the device has {there} bytes, less than {size}");
            return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, what));
        }
        return Ok(());
    }
    file.set_len(size)?;
    let len = size.saturating_sub(from);
    match preallocation {
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc if len == 0 || file.allocate(from, len)? => Ok(()),
        Preallocation::Falloc | Preallocation::Full => {
            static ZEROES: [u8; 256 << 10] = [0; 256 << 10];
            let mut at = from;
            while at < size {
                let part = ZEROES.get(..(size - at).min(ZEROES.len() as u64) as usize).unwrap_or(&ZEROES);
                storage::write(file, part, at)?;
                at += part.len() as u64;
            }
            Ok(())
        }
    }
}
