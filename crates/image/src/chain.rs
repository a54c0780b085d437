//! Opening any image: a format node on a file, and below it whatever it lies on.
//!
//! ```text
//! Image ── qcow2 ── File            one file of the chain
//!   └ backing: Image ── raw ── File
//! ```

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::format::{self, Format, Guess};
use crate::lock::{self, Access};
use crate::qcow2::image::read_header;
use crate::qcow2::read::Contents;
use crate::qcow2::{self, Header, Qcow2};
use crate::raw::Raw;
use crate::storage::{Cache, File, Storage};
use crate::{BlockDevice, Error, Geometry, InPlace, Operation, SECTOR};

/// Most images below each other.
const DEEPEST: usize = 200;

/// How an image is opened.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    /// What it is opened for.
    pub access: Access,
    /// Its format; found by its first bytes if none.
    pub format: Option<Format>,
    /// Whether locks of others are respected. Without, the image is only read, and may change meanwhile.
    pub locks: bool,
    /// Whether what lies below is opened as well; without, unallocated clusters read zeros.
    pub backing: bool,
    /// Whether others' locks on what lies below are respected.
    pub backing_locks: bool,
    /// How files are used by way of the page cache.
    pub cache: Cache,
    /// Nothing is waited for before the image is closed.
    pub no_barriers: bool,
    /// Space that becomes free is given back to the host.
    pub unmap: bool,
    /// An image that is marked corrupt is opened for writing nevertheless.
    pub even_corrupt: bool,
    /// Files are opened and locked as `access` says, but nothing is written: a look at what another process will use.
    pub passive: bool,
}

impl Open {
    /// For reading, with everything below.
    pub fn reading(format: Option<Format>) -> Self {
        Self {
            access: Access::ReadOnly,
            format,
            locks: true,
            backing: true,
            backing_locks: true,
            cache: Cache::default(),
            no_barriers: false,
            unmap: false,
            even_corrupt: false,
            passive: false,
        }
    }

    fn writes(&self) -> bool {
        self.access.writes() && !self.passive
    }

    /// For writing, with everything below.
    pub fn writing(format: Option<Format>) -> Self {
        Self { access: Access::Write, ..Self::reading(format) }
    }
}

/// What a format makes of a file.
pub enum Node {
    /// Nothing but bytes.
    Raw(Raw),
    /// Clusters.
    Qcow2(Box<Qcow2>),
}

/// A stretch of an image's own contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes.
    pub len: u64,
    /// Whether the image itself says what is there; otherwise what lies below does.
    pub allocated: bool,
    /// Whether it reads zeros for sure, as far as this image says it.
    pub zero: bool,
    /// Whether it has bytes of its own that must be read.
    pub data: bool,
    /// Whether they are compressed.
    pub compressed: bool,
    /// Where they lie in its file (or external data file), if they lie there as they are.
    pub host: Option<u64>,
}

/// An open image.
pub struct Image {
    path: PathBuf,
    format: Format,
    /// Nobody said that it is raw.
    guessed: bool,
    node: Node,
    storage: Arc<dyn Storage>,
    data: Option<(PathBuf, Arc<dyn Storage>)>,
    backing: Option<Arc<Image>>,
    /// Whether its file has holes where clusters have their places.
    holes: OnceLock<bool>,
    notes: Mutex<Vec<String>>,
}

/// A file below another by its name: relative names begin where the upper one lies.
pub fn below(path: &Path, name: &OsStr) -> PathBuf {
    let name = name.as_bytes().strip_prefix(b"file:").map_or(name, OsStr::from_bytes);
    path.parent().map_or_else(|| PathBuf::from(name), |folder| folder.join(name))
}

// Names that mean something else than a file to QEMU: "nbd:…", "json:…".
fn refuse_protocol(of: &Path, name: &OsStr) -> Result<(), Error> {
    let bytes = name.as_bytes();
    let head = bytes.split(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(colon) = head.iter().position(|byte| *byte == b':') else { return Ok(()) };
    let protocol = String::from_utf8_lossy(head.get(..colon).unwrap_or_default()).into_owned();
    if protocol == "file" {
        return Ok(());
    }
    let what = format!("the file below it is {:?}, and {protocol}: is no file", name.to_string_lossy());
    Err(Error::Unsupported { name: of.display().to_string(), what })
}

/// Where the files of an image come from.
pub trait Files {
    /// Whether there is one of that name.
    fn has(&self, path: &Path) -> bool;

    /// Opens one, and locks it if `how` says so.
    ///
    /// # Errors
    /// When there is none, or it can't be used like that.
    fn open(&self, path: &Path, how: Open) -> Result<File, Error>;
}

/// The host's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn has(&self, path: &Path) -> bool {
        path.exists()
    }

    fn open(&self, path: &Path, how: Open) -> Result<File, Error> {
        if how.locks { File::open_with(path, how.access, how.cache) } else { File::open_unlocked(path, how.cache) }
    }
}

fn below_itself(name: String) -> Error {
    Error::Damaged { name, what: "it lies below itself".into() }
}

/// Where files come from, and those that the chain has so far, by device and inode.
struct Descent<'f> {
    files: &'f dyn Files,
    above: HashSet<(u64, u64)>,
}

impl<'f> Descent<'f> {
    fn new(files: &'f dyn Files) -> Self {
        Self { files, above: HashSet::new() }
    }

    // An image that lies below itself finds its own lock in the way.
    fn explain(&self, error: Error, path: &Path) -> Error {
        let is_above = |about: std::fs::Metadata| self.above.contains(&(about.dev(), about.ino()));
        match error {
            Error::InUse { name, .. } if std::fs::metadata(path).is_ok_and(is_above) => below_itself(name),
            other => other,
        }
    }
}

impl Image {
    /// Opens the image at `path` and what lies below it.
    ///
    /// # Errors
    /// When a file of it can't be opened or read, is of a format that can't be used, or the chain has no end.
    pub fn open(path: &Path, how: Open) -> Result<Arc<Self>, Error> {
        Self::open_from(&HostFiles, path, how)
    }

    /// As [`open`](Self::open), with files from elsewhere.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_from(files: &dyn Files, path: &Path, how: Open) -> Result<Arc<Self>, Error> {
        Self::open_in(path, how, &mut Descent::new(files)).map(Arc::new)
    }

    fn open_in(path: &Path, how: Open, descent: &mut Descent<'_>) -> Result<Self, Error> {
        let file = descent.files.open(path, how).map_err(|error| descent.explain(error, path))?;
        Self::on(file, path, how, descent)
    }

    /// As [`open`](Self::open), with the file open already. It is locked when `how` says so; `path` is where what lies
    /// below is looked for.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_file(file: std::fs::File, path: &Path, how: Open) -> Result<Arc<Self>, Error> {
        let file = File::from_file_with(file, &path.display().to_string(), how.access, how.cache)?;
        Self::on(file, path, how, &mut Descent::new(&HostFiles)).map(Arc::new)
    }

    /// Opens a qcow2 image for reading as it was when one of its snapshots was made. `choose` picks it by its index.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when none is picked or the image can't have any.
    pub fn open_snapshot(
        path: &Path,
        how: Open,
        choose: impl FnOnce(&[qcow2::snapshots::Snapshot]) -> Option<usize>,
    ) -> Result<Arc<Self>, Error> {
        let mut image = Self::open_in(path, Open { access: Access::ReadOnly, ..how }, &mut Descent::new(&HostFiles))?;
        let name = path.display().to_string();
        let Node::Qcow2(qcow2) = &mut image.node else {
            return Err(Error::Unsupported { name, what: "a raw image has no snapshots".into() });
        };
        let all = qcow2.snapshots()?;
        let Some(snapshot) = choose(&all).and_then(|index| all.get(index)) else {
            return Err(Error::Unsupported { name, what: "it has no such snapshot".into() });
        };
        qcow2.show(snapshot)?;
        Ok(Arc::new(image))
    }

    /// An image on a storage that is open already, with its external data file and what it lies on. Both are known by
    /// the names that the header says. `how` tells the format.
    ///
    /// # Errors
    /// When it can't be read, or isn't of that format.
    pub fn over(
        storage: Arc<dyn Storage>,
        data: Option<Arc<dyn Storage>>,
        backing: Option<Arc<Image>>,
        how: Open,
    ) -> Result<Arc<Self>, Error> {
        let format = how.format.unwrap_or(Format::Raw);
        let mut image = Self::raw(storage, format, !how.writes())?;
        image.backing = backing;
        if format == Format::Qcow2 {
            let header = read_header(image.storage.as_ref())?;
            image.data = header.data_file.as_ref().map(PathBuf::from).zip(data);
            image.see_qcow2(header, how)?;
        }
        Ok(Arc::new(image))
    }

    // Its bytes, whatever they mean.
    fn raw(storage: Arc<dyn Storage>, format: Format, read_only: bool) -> Result<Self, Error> {
        let smallest = Geometry { logical_block: SECTOR as u32, physical_block: storage.block() };
        let geometry = storage.as_file().map_or(smallest, File::geometry);
        Ok(Image {
            path: storage.name().into(),
            format,
            guessed: false,
            node: Node::Raw(Raw::on(Box::new(storage.clone()), geometry, read_only)?),
            storage,
            data: None,
            backing: None,
            holes: OnceLock::new(),
            notes: Mutex::new(Vec::new()),
        })
    }

    fn on(file: File, path: &Path, how: Open, descent: &mut Descent<'_>) -> Result<Self, Error> {
        let name = || path.display().to_string();
        let about = file.file().metadata().map_err(|source| Error::Open { path: path.into(), source })?;
        if !descent.above.insert((about.dev(), about.ino())) {
            return Err(below_itself(name()));
        }
        if descent.above.len() > DEEPEST {
            return Err(Error::Damaged { name: name(), what: format!("it lies below {DEEPEST} others") });
        }
        let guess = format::guess_storage(&file).map_err(|source| Error::Io {
            name: name(),
            operation: Operation::Read,
            offset: 0,
            source,
        })?;
        let format = match (how.format, guess) {
            (Some(format), _) | (None, Guess::Format(format)) => format,
            (None, Guess::Foreign(foreign)) => {
                return Err(Error::Unsupported {
                    name: name(),
                    what: format!("its format is {foreign}, which isn't read yet"),
                });
            }
        };
        let mut image = Self::raw(Arc::new(file), format, !how.writes())?;
        image.path = path.into();
        image.guessed = how.format.is_none() && format == Format::Raw;
        if format == Format::Qcow2 {
            image.open_qcow2(how, descent)?;
        }
        Ok(image)
    }

    fn open_qcow2(&mut self, how: Open, descent: &mut Descent<'_>) -> Result<(), Error> {
        let header = read_header(self.storage.as_ref())?;
        if header.incompatible & qcow2::bits::incompatible::DATA_FILE != 0 {
            let Some(name) = &header.data_file else {
                let what = "it doesn't say where its external data file is".into();
                return Err(Error::Damaged { name: self.path.display().to_string(), what });
            };
            refuse_protocol(&self.path, name)?;
            // As QEMU has it, from where the program runs; and where the image lies if there is none.
            let name = Path::new(name);
            let beside = below(&self.path, name.as_os_str());
            let place = if descent.files.has(name) { name.to_path_buf() } else { beside };
            let file = descent.files.open(&place, how)?;
            self.data = Some((place, Arc::new(file)));
        }
        if let Some(name) = header.backing.as_ref().filter(|_| how.backing) {
            self.open_backing(name, header.backing_format.as_deref(), how, descent)?;
        }
        self.see_qcow2(header, how)
    }

    fn see_qcow2(&mut self, header: Header, how: Open) -> Result<(), Error> {
        if how.access.writes() && !how.even_corrupt {
            qcow2::image::refuse_corrupt(&header, self.storage.name())?;
        }
        let options = qcow2::Options {
            read_only: !how.writes(),
            no_barriers: how.no_barriers,
            unmap: how.unmap,
            backing: self.backing.clone().map(|backing| backing as Arc<dyn BlockDevice>),
            data: self.data.clone().map(|(_, data)| data),
            even_corrupt: how.even_corrupt,
        };
        self.node = Node::Qcow2(Box::new(Qcow2::open(self.storage.clone(), header, options)?));
        Ok(())
    }

    fn open_backing(
        &mut self,
        name: &OsStr,
        format: Option<&str>,
        how: Open,
        descent: &mut Descent<'_>,
    ) -> Result<(), Error> {
        refuse_protocol(&self.path, name)?;
        let format = match format {
            None => {
                self.notes.lock().push(format!(
                    "{} doesn't tell the format of its backing file {}; it is found by its contents",
                    self.path.display(),
                    name.to_string_lossy()
                ));
                None
            }
            Some(format) => Some(Format::from_name(format).ok_or_else(|| Error::Unsupported {
                name: self.path.display().to_string(),
                what: format!("its backing file has the format {format:?}, which isn't read yet"),
            })?),
        };
        let path = below(&self.path, name);
        let how = Open { access: Access::ReadOnly, format, locks: how.locks && how.backing_locks, ..how };
        self.backing = Some(Arc::new(Self::open_in(&path, how, descent)?));
        Ok(())
    }

    /// Its file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether its format was found by its first bytes to be raw, which a guest could make look otherwise.
    pub fn is_guessed_raw(&self) -> bool {
        self.guessed
    }

    /// What its format makes of it.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The qcow2 image, if it is one.
    pub fn qcow2(&self) -> Option<&Qcow2> {
        match &self.node {
            Node::Qcow2(qcow2) => Some(qcow2),
            Node::Raw(_) => None,
        }
    }

    /// Where its bytes lie.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Its file or block device, unless its bytes lie elsewhere.
    pub fn file(&self) -> Option<&File> {
        self.storage.as_file()
    }

    /// Its external data file.
    pub fn data_file(&self) -> Option<(&Path, &Arc<dyn Storage>)> {
        self.data.as_ref().map(|(path, data)| (path.as_path(), data))
    }

    /// What it lies on.
    pub fn backing(&self) -> Option<&Arc<Image>> {
        self.backing.as_ref()
    }

    /// It and everything below it, from the top.
    pub fn chain(&self) -> impl Iterator<Item = &Image> {
        std::iter::successors(Some(self), |image| image.backing.as_deref())
    }

    /// What the user should hear of, of the whole chain, since the last time this was asked.
    pub fn notes(&self) -> Vec<String> {
        let mut all = Vec::new();
        for image in self.chain() {
            all.append(&mut image.notes.lock());
            let about = |note: String| format!("{}: {note}", image.path.display());
            all.extend(image.qcow2().map(Qcow2::notes).unwrap_or_default().into_iter().map(about));
        }
        all
    }

    /// What the image itself says of `offset`, for at most `most` bytes.
    ///
    /// # Errors
    /// When its tables can't be read.
    pub fn status(&self, offset: u64, most: u64) -> Result<Status, Error> {
        match &self.node {
            Node::Raw(raw) => {
                let stretch = raw.storage().stretch(offset).map_err(|source| Error::Io {
                    name: self.path.display().to_string(),
                    operation: Operation::Read,
                    offset,
                    source,
                })?;
                // A file that ends within its last sector goes on with zeros.
                let behind = stretch.end <= offset;
                let len = if behind { most } else { (stretch.end - offset).min(most) };
                let data = stretch.data && !behind;
                Ok(Status { len, allocated: true, zero: !data, data, compressed: false, host: Some(offset) })
            }
            Node::Qcow2(qcow2) => {
                let extent = qcow2.extent(offset, most)?;
                let status = Status {
                    len: extent.len,
                    allocated: true,
                    zero: false,
                    data: false,
                    compressed: false,
                    host: None,
                };
                Ok(match extent.contents {
                    Contents::Unallocated => Status { allocated: false, ..status },
                    Contents::Kept { host } => Status { allocated: false, host: Some(host), ..status },
                    Contents::Zero { host } => Status { zero: true, host, ..status },
                    Contents::Data { host } => {
                        self.with_holes(Status { data: true, host: Some(host), ..status }, qcow2, host)?
                    }
                    Contents::Compressed { .. } => Status { data: true, compressed: true, ..status },
                })
            }
        }
    }

    // Where all places were given out beforehand, data that were never written are holes of the file.
    fn with_holes(&self, status: Status, qcow2: &Qcow2, host: u64) -> Result<Status, Error> {
        let failed = |source| Error::Io {
            name: self.path.display().to_string(),
            operation: Operation::Read,
            offset: host,
            source,
        };
        let holes = match self.holes.get() {
            Some(holes) => *holes,
            None => *self.holes.get_or_init(|| qcow2.is_preallocated().unwrap_or(false)),
        };
        if !holes {
            return Ok(status);
        }
        let storage = self.data.as_ref().map_or(&self.storage, |(_, data)| data);
        let stretch = storage.stretch(host).map_err(failed)?;
        let behind = stretch.end <= host;
        let len = if behind { status.len } else { status.len.min(stretch.end - host) };
        Ok(Status { len, zero: behind || !stretch.data, ..status })
    }

    /// Writes what is in memory, also what may wait at a flush.
    ///
    /// # Errors
    /// When the host fails.
    pub fn close(&self) -> Result<(), Error> {
        match &self.node {
            Node::Raw(_) => Ok(()),
            Node::Qcow2(qcow2) => qcow2.close(),
        }
    }

    /// Changes the disk's length. Contents that are added read zeros.
    ///
    /// # Errors
    /// When it can't have that length, or the host fails.
    pub fn resize(&self, len: u64) -> Result<(), Error> {
        match &self.node {
            Node::Raw(raw) => raw.resize(len),
            Node::Qcow2(qcow2) => qcow2.resize(len),
        }
    }

    fn device(&self) -> &dyn BlockDevice {
        match &self.node {
            Node::Raw(raw) => raw,
            Node::Qcow2(qcow2) => qcow2.as_ref(),
        }
    }

    // A guest (or a file that is copied) must not make a disk look like another format's image, when nobody has said
    // that it is raw: whoever opened it next would believe it.
    fn refuse_disguise(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        if !self.guessed || offset >= format::LOOKED_AT as u64 {
            return Ok(());
        }
        let len = (self.device().len() as usize).min(format::LOOKED_AT);
        let mut start = vec![0; len];
        self.device().read_at(&mut [IoSliceMut::new(&mut start)], 0)?;
        let new = buffers.iter().flat_map(|buffer| buffer.iter());
        for (place, byte) in start.iter_mut().skip(offset as usize).zip(new) {
            *place = *byte;
        }
        if format::guess(&start) == Guess::Format(Format::Raw) {
            return Ok(());
        }
        let what =
            "its format wasn't given, and what would be written makes it look like another format's image".into();
        Err(Error::Unsupported { name: self.path.display().to_string(), what })
    }
}

impl BlockDevice for Image {
    fn len(&self) -> u64 {
        self.device().len()
    }

    fn is_read_only(&self) -> bool {
        self.device().is_read_only()
    }

    fn geometry(&self) -> Geometry {
        self.device().geometry()
    }

    fn read_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<(), Error> {
        self.device().read_at(buffers, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> Result<(), Error> {
        self.refuse_disguise(buffers, offset)?;
        self.device().write_at(buffers, offset)
    }

    fn in_place(&self, operation: Operation, offset: u64, len: u64) -> Option<InPlace<'_>> {
        // What is written to a guessed format is looked at first.
        let is_looked_at = self.guessed && operation == Operation::Write;
        if is_looked_at { None } else { self.device().in_place(operation, offset, len) }
    }

    fn flush(&self) -> Result<(), Error> {
        self.device().flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.device().discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.device().write_zeroes(offset, len, unmap)
    }
}

/// Locks a file that is about to be overwritten or changed in place, before anything is done to it.
///
/// # Errors
/// When another program uses it.
pub fn lock_for_writing(file: &std::fs::File, path: &Path) -> Result<(), Error> {
    lock::acquire(file, &path.display().to_string(), Access::Write)
}
