//! Files out of an ISO 9660 image (ECMA-119), by their Rock Ridge or Joliet names: no mount, no root.
//!
//! The format itself is hadris-iso's (docs/decisions/iso.md). What is added here: an image is told from what looks like
//! one, and whatever an image says about itself, looking into it ends after [`MOST_READS`] reads and takes no memory
//! that grows with it. Images of UDF alone (ECMA-167) are recognised, not read.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use hadris_fs::sync::FileSystem;
use hadris_fs::{Error, ErrorKind, FileType, MountOptions, NodeId, OpenMode, Resolve};
use hadris_iso::IsoId;
use hadris_iso::sync::IsoFs;
use hadris_storage::sync::BlockDevice;
use hadris_storage::{BlockIndex, BlockSize};

use super::{LARGEST, NO_SPACE};
use crate::failure::{Failure, Status};

/// Bytes of a sector (ECMA-119, 6.1.2).
const SECTOR: u64 = 2048;
/// The first volume descriptor's sector (ECMA-119, 6.2.1).
const FIRST_DESCRIPTOR: u64 = 16;
/// Sectors in which a volume's kind is looked for.
const DESCRIPTORS: u64 = 64;
/// Reads that all looks into one image may take together: some seconds' worth.
pub const MOST_READS: u64 = 1 << 18;
/// Longest text file that is read whole.
const LONGEST_TEXT: u64 = 1 << 20;

/// Why a sector couldn't be read.
#[derive(Debug)]
enum Trouble {
    Host(io::Error),
    Spent,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(error) => error.fmt(f),
            Self::Spent => write!(f, "its directories lead in circles or are absurdly large"),
        }
    }
}

impl std::error::Error for Trouble {}

/// The image's sectors, so many reads long.
struct Sectors {
    file: File,
    size: BlockSize,
    count: u64,
    reads_left: u64,
}

impl hadris_io::ErrorType for Sectors {
    type Error = Trouble;
}

impl BlockDevice for Sectors {
    fn block_size(&self) -> BlockSize {
        self.size
    }

    fn block_count(&self) -> u64 {
        self.count
    }

    fn read_blocks(&mut self, first: BlockIndex, buf: &mut [u8]) -> Result<(), Error<Trouble>> {
        self.reads_left =
            self.reads_left.checked_sub(1).ok_or_else(|| Error::device(Trouble::Spent, "too many reads"))?;
        let at = first.get().saturating_mul(SECTOR);
        self.file.read_exact_at(buf, at).map_err(|error| Error::device(Trouble::Host(error), "reading failed"))
    }
}

/// An image whose files can be read.
pub struct Iso {
    path: PathBuf,
    is_block: bool,
    len: u64,
    has_udf: bool,
    volume: String,
    files: RefCell<IsoFs<Sectors>>,
}

impl Iso {
    /// Opens an image, or a drive with a medium in it.
    ///
    /// # Errors
    /// When it isn't there, is no ISO 9660 image (one of UDF alone is named as such), or is cut short.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let trouble = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Failure::new(Status::NotFound, format!("there is no {}", path.display())),
            _ => Failure::new(Status::Failed, format!("{} can't be read", path.display())).because(&e),
        };
        let kind = fs::metadata(path).map_err(trouble)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(unusable(path, Status::Usage, "it is neither a folder nor a file nor a block device"));
        }
        Self::of(File::open(path).map_err(trouble)?, path, kind.is_block_device())
    }

    /// The same of a file that has been opened; `path` names it for people.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(file: File, path: &Path, is_block: bool) -> Result<Self, Failure> {
        let trouble =
            |e: io::Error| Failure::new(Status::Failed, format!("{} can't be read", path.display())).because(&e);
        let len = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(trouble)?;
        let found = Recognised::read(&file, len).map_err(trouble)?;
        let volume_len = found.volume_len.ok_or_else(|| found.refusal(path))?;
        if volume_len > len {
            return Err(Failure::new(Status::Verification, format!("{} is cut short", path.display()))
                .why(format!("the volume in it has {volume_len} bytes, the file {len}"))
                .advise("Get it again, and compare its checksum."));
        }
        let size = BlockSize::new(SECTOR as u32).ok_or_else(|| trouble(io::ErrorKind::Unsupported.into()))?;
        let sectors = Sectors { file, size, count: len / SECTOR, reads_left: MOST_READS };
        let files = IsoFs::mount(sectors, MountOptions::new()).map_err(|e| damaged(path, &e.into_error()))?;
        let volume = files.info().id(IsoId::Volume).to_vec();
        let volume = String::from_utf8_lossy(&volume).chars().filter(|c| !c.is_control()).collect();
        Ok(Self { path: path.into(), is_block, len, has_udf: found.has_udf, volume, files: RefCell::new(files) })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It is a drive, not a file.
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// The volume has a second tree, of UDF, which isn't looked into.
    pub fn has_udf(&self) -> bool {
        self.has_udf
    }

    /// The volume's name (ECMA-119, 8.4.7).
    pub fn volume(&self) -> &str {
        &self.volume
    }

    fn find(&self, files: &mut IsoFs<Sectors>, path: &str) -> Result<Option<(NodeId, u64)>, Failure> {
        let found = files.resolve(path.as_bytes(), Resolve::Follow);
        let about = found.and_then(|node| Ok((node, files.stat(node)?)));
        match about {
            Ok((node, about)) if about.file_type() == FileType::File => Ok(Some((node, about.len()))),
            Ok(_) => Ok(None),
            Err(e) => match e.kind() {
                // A link may lead nowhere, or in circles.
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::Symlink | ErrorKind::NameTooLong => {
                    Ok(None)
                }
                ErrorKind::InvalidInput | ErrorKind::LimitExceeded => Ok(None),
                _ => Err(damaged(&self.path, &e)),
            },
        }
    }

    /// Whether there is a file of that path (links are followed, inside the image alone).
    ///
    /// # Errors
    /// When the image is damaged or can't be read.
    pub fn has(&self, path: &str) -> Result<bool, Failure> {
        Ok(self.find(&mut self.files.borrow_mut(), path)?.is_some())
    }

    /// A small text file; `None` when there is none.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn text(&self, path: &str) -> Result<Option<String>, Failure> {
        let Some((node, len)) = self.find(&mut self.files.borrow_mut(), path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        self.contents(node, len).take(LONGEST_TEXT).read_to_end(&mut bytes).map_err(|e| self.unread(path, &e))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Copies a file out of the image; gives its length.
    ///
    /// # Errors
    /// When it isn't there, is larger than the image, the image is damaged, or `to` can't be written.
    pub fn copy(&self, path: &str, to: &mut impl Write) -> Result<u64, Failure> {
        let missing = || {
            Failure::new(Status::NotFound, format!("there is no {path} in {}", self.path.display()))
                .advise("Paths in it begin at its root; xorriso or isoinfo lists them.")
        };
        let (node, len) = self.find(&mut self.files.borrow_mut(), path)?.ok_or_else(missing)?;
        if len > self.len.min(LARGEST) {
            return Err(Failure::new(Status::Verification, format!("{path} in {} can't be", self.path.display()))
                .why(format!("it claims to have {len} bytes; the image has {}", self.len))
                .advise("The image is damaged: get it again, and compare its checksum."));
        }
        io::copy(&mut self.contents(node, len), to).map_err(|e| self.unread(path, &e))
    }

    fn contents(&self, node: NodeId, len: u64) -> io::BufReader<Contents<'_>> {
        io::BufReader::with_capacity(256 << 10, Contents { iso: self, node, at: 0, len })
    }

    fn unread(&self, path: &str, error: &io::Error) -> Failure {
        let what = format!("{path} can't be copied out of {}", self.path.display());
        let failure = Failure::new(Status::Failed, what).because(error);
        match error.kind() {
            io::ErrorKind::StorageFull => failure.advise(NO_SPACE),
            _ => failure,
        }
    }
}

/// The bytes of one file.
struct Contents<'a> {
    iso: &'a Iso,
    node: NodeId,
    at: u64,
    len: u64,
}

impl Read for Contents<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.len || buf.is_empty() {
            return Ok(0);
        }
        let mut files = self.iso.files.borrow_mut();
        let open = |files: &mut IsoFs<Sectors>| files.open(self.node, OpenMode::Read);
        let got = open(&mut files).and_then(|()| files.read(self.node, self.at, buf));
        let got = got.map_err(|e| io::Error::other(told(&e)))?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

fn unusable(path: &Path, status: Status, why: &str) -> Failure {
    Failure::new(status, format!("{} is no install medium that can be read", path.display())).why(why)
}

fn told(error: &Error<Trouble>) -> String {
    match error.device_error() {
        Some(trouble) => trouble.to_string(),
        None => error.message().to_owned(),
    }
}

fn damaged(path: &Path, error: &Error<Trouble>) -> Failure {
    Failure::new(Status::Verification, format!("{} is damaged", path.display()))
        .why(told(error))
        .advise("Get it again, and compare its checksum.")
}

/// What the volume descriptors say (ECMA-119, 8.1; ECMA-167 2/9).
#[derive(Debug, Default)]
struct Recognised {
    /// Bytes of the ISO 9660 volume.
    volume_len: Option<u64>,
    has_udf: bool,
    start: [u8; 6],
}

impl Recognised {
    fn read(file: &File, len: u64) -> io::Result<Self> {
        let mut found = Self::default();
        let start = (len as usize).min(found.start.len());
        file.read_exact_at(&mut found.start[..start], 0)?;
        let mut sector = [0; SECTOR as usize];
        for number in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + DESCRIPTORS {
            if (number + 1) * SECTOR > len {
                break;
            }
            file.read_exact_at(&mut sector, number * SECTOR)?;
            match (&sector[1..6], sector[0]) {
                (b"CD001", 1) if found.volume_len.is_none() => {
                    let blocks = u32::from_le_bytes([sector[80], sector[81], sector[82], sector[83]]);
                    let block = u16::from_le_bytes([sector[128], sector[129]]);
                    found.volume_len = Some(u64::from(blocks) * u64::from(block));
                }
                (b"CD001" | b"BEA01" | b"BOOT2", _) => {}
                (b"NSR02" | b"NSR03", _) => found.has_udf = true,
                _ => break,
            }
        }
        Ok(found)
    }

    fn refusal(&self, path: &Path) -> Failure {
        if self.has_udf {
            return unusable(path, Status::Usage, "it has a UDF file system alone; kiln reads ISO 9660")
                .advise("Mount it (root's work) and name the folder: mount -o loop,ro IMAGE /mnt");
        }
        let packed = match self.start {
            [0x1f, 0x8b, ..] => Some("gunzip"),
            [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("unxz"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("unzstd"),
            [b'P', b'K', 3, 4, ..] => Some("unzip"),
            _ => None,
        };
        match packed {
            Some(tool) => unusable(path, Status::Usage, "it is packed").advise(format!("Unpack it first: {tool}")),
            None => unusable(path, Status::Usage, "it is no ISO 9660 image: no volume descriptor in sector 16")
                .advise("Name an installer's ISO image, the folder of an install tree, or its URL.")
                .advise("A disk that boots already: --import --disk path=FILE"),
        }
    }
}
