//! The rows: kinds of images, and how each tool makes one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_image::Format;
use tempfile::TempDir;

use crate::tools::{Request, Tool, Trouble, run};

/// Bytes of each disk: no multiple of any cluster.
pub const SIZE: u64 = (3 << 20) + 1536;
/// A header extension that nobody knows.
pub const EXTENSION: [u8; 16] = *b"\x6b\x69\x6c\x6e\0\0\0\x05hello\0\0\0";
/// An autoclear bit that nobody knows.
pub const AUTOCLEAR: u64 = 1 << 40;

/// What is done to an image after it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    Written,
    /// On another disk: a format, and its bytes.
    Over(&'static str, u64),
    Zeros {
        kept: bool,
    },
    Discarded,
    Compressed,
    Snapshot,
    /// A snapshot of a machine with its memory. QEMU alone makes one.
    VmState,
    /// QEMU alone makes them.
    Bitmaps,
    Extension,
    Autoclear,
    Dirty,
    Corrupt,
}

pub struct Noun {
    pub name: &'static str,
    pub format: Format,
    /// As `create -o` takes them; `FILE` stands for the image's name.
    pub options: &'static str,
    pub made: Made,
    /// The format excludes it: no tool makes one.
    pub excluded: bool,
}

const fn noun(name: &'static str, options: &'static str, made: Made) -> Noun {
    Noun { name, format: Format::Qcow2, options, made, excluded: false }
}

const fn excluded(name: &'static str, options: &'static str, made: Made) -> Noun {
    Noun { excluded: true, ..noun(name, options, made) }
}

pub const NOUNS: &[Noun] = &[
    Noun { format: Format::Raw, ..noun("raw", "", Made::Written) },
    noun("version 2", "compat=0.10", Made::Written),
    noun("version 3", "compat=1.1", Made::Written),
    noun("clusters of 512 B", "cluster_size=512", Made::Written),
    noun("clusters of 4 KiB", "cluster_size=4k", Made::Written),
    noun("clusters of 2 MiB", "cluster_size=2M", Made::Written),
    noun("refcounts of 1 bit", "refcount_bits=1", Made::Written),
    noun("refcounts of 2 bits", "refcount_bits=2", Made::Written),
    noun("refcounts of 4 bits", "refcount_bits=4", Made::Written),
    noun("refcounts of 8 bits", "refcount_bits=8", Made::Written),
    noun("refcounts of 32 bits", "refcount_bits=32", Made::Written),
    noun("refcounts of 64 bits", "refcount_bits=64", Made::Written),
    noun("on a qcow2", "", Made::Over("qcow2", SIZE)),
    noun("on a shorter one", "cluster_size=4k", Made::Over("qcow2", (1 << 20) + 512)),
    noun("on a longer one", "", Made::Over("qcow2", (5 << 20) + 512)),
    noun("on a raw one", "", Made::Over("raw", SIZE)),
    noun("on a raw one, version 2", "compat=0.10", Made::Over("raw", (1 << 20) + 512)),
    noun("zero clusters", "", Made::Zeros { kept: false }),
    noun("zero clusters, version 2", "compat=0.10", Made::Zeros { kept: false }),
    noun("allocated zero clusters", "", Made::Zeros { kept: true }),
    noun("discarded clusters", "", Made::Discarded),
    noun("extended L2", "extended_l2=on", Made::Written),
    noun("extended L2 of 16 KiB", "extended_l2=on,cluster_size=16k", Made::Discarded),
    noun("extended L2 on a qcow2", "extended_l2=on", Made::Over("qcow2", (1 << 20) + 512)),
    noun("compressed, zlib", "", Made::Compressed),
    noun("compressed, version 2", "compat=0.10,cluster_size=4k", Made::Compressed),
    noun("compressed, zstd", "compression_type=zstd", Made::Compressed),
    noun("compressed, extended L2", "compression_type=zstd,extended_l2=on", Made::Compressed),
    noun("lazy refcounts", "lazy_refcounts=on", Made::Written),
    noun("dirty", "lazy_refcounts=on", Made::Dirty),
    noun("marked corrupt", "", Made::Corrupt),
    noun("a snapshot", "", Made::Snapshot),
    noun("a snapshot, version 2", "compat=0.10,cluster_size=512", Made::Snapshot),
    noun("a snapshot, extended L2", "extended_l2=on", Made::Snapshot),
    noun("a snapshot with VM state", "", Made::VmState),
    noun("preallocation=off", "preallocation=off", Made::Written),
    noun("preallocation=metadata", "preallocation=metadata", Made::Written),
    noun("preallocation=falloc", "preallocation=falloc", Made::Written),
    noun("preallocation=full", "preallocation=full", Made::Written),
    noun("an unknown extension", "", Made::Extension),
    noun("an unknown autoclear bit", "", Made::Autoclear),
    noun("an external data file", "data_file=FILE.data", Made::Discarded),
    noun("an external raw data file", "data_file=FILE.data,data_file_raw=on", Made::Written),
    noun("bitmaps", "", Made::Bitmaps),
    excluded("version 2 with zstd", "compat=0.10,compression_type=zstd", Made::Written),
    excluded("version 2 with lazy refcounts", "compat=0.10,lazy_refcounts=on", Made::Written),
    excluded("version 2 with extended L2", "compat=0.10,extended_l2=on", Made::Written),
    excluded("version 2 with a data file", "compat=0.10,data_file=FILE.data", Made::Written),
    excluded("extended L2 of 8 KiB", "extended_l2=on,cluster_size=8k", Made::Written),
    excluded("compressed with a data file", "data_file=FILE.data", Made::Compressed),
    excluded("a snapshot with a data file", "data_file=FILE.data", Made::Snapshot),
    excluded("a snapshot of 1-bit refcounts", "refcount_bits=1", Made::Snapshot),
];

/// An image `a`, and what it must hold.
pub struct Scene {
    folder: TempDir,
    pub noun: &'static Noun,
    pub model: Vec<u8>,
    /// Contents by name.
    pub snapshots: BTreeMap<String, Vec<u8>>,
}

impl Noun {
    /// Its options for an image of this name.
    pub fn options_for(&self, file: &str) -> String {
        self.options.replace("FILE", file)
    }

    /// Who makes one when this tool is to.
    fn maker(&self, tool: Tool) -> Tool {
        if matches!(self.made, Made::VmState | Made::Bitmaps) { Tool::Qemu } else { tool }
    }
}

/// What a request leaves in a disk's contents, but for discarding.
pub fn note(model: &mut [u8], request: Request) {
    match request {
        Request::Write { byte, at, len } => model[at as usize..(at + len) as usize].fill(byte),
        Request::Zero { at, len, .. } => model[at as usize..(at + len) as usize].fill(0),
        Request::Discard { .. } => {}
    }
}

const DATA: [Request; 3] = [
    Request::Write { byte: 1, at: 66_048, len: 300_032 },
    Request::Write { byte: 2, at: 700_416, len: 262_144 },
    Request::Write { byte: 3, at: SIZE - 5_632, len: 5_632 },
];
const MORE: [Request; 2] =
    [Request::Write { byte: 4, at: 131_072, len: 100_352 }, Request::Write { byte: 5, at: 1_300_480, len: 70_144 }];

impl Scene {
    /// Lets a tool make an image of this kind.
    pub fn new(noun: &'static Noun, tool: Tool) -> Result<Self, Trouble> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut scene = Self { folder, noun, model: vec![0; SIZE as usize], snapshots: BTreeMap::new() };
        scene.make(noun.maker(tool))?;
        Ok(scene)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Does requests on the image; all but discarding is told to the model.
    pub fn io(&mut self, tool: Tool, requests: &[Request]) -> Result<(), Trouble> {
        tool.io(self.path(), "a", self.noun.format, requests)?;
        for request in requests {
            note(&mut self.model, *request);
        }
        Ok(())
    }

    /// Discards a range of the image. What it reads then is what it did, or zeros.
    pub fn discard(&mut self, tool: Tool, at: u64, len: u64) -> Result<(), Trouble> {
        self.io(tool, &[Request::Discard { at, len }])?;
        let is = Tool::Qemu.read(self.path(), "a", self.noun.format)?;
        let range = at as usize..(at + len) as usize;
        let wrong = is
            .iter()
            .zip(&self.model)
            .enumerate()
            .find(|(place, (new, old))| new != old && !(**new == 0 && range.contains(place)));
        if let Some((place, (new, old))) = wrong {
            return Err(Trouble::Wrong(format!("discard of {range:?} has turned {old} at {place} into {new}")));
        }
        self.model = is;
        Ok(())
    }

    fn make(&mut self, tool: Tool) -> Result<(), Trouble> {
        let (noun, size) = (self.noun, SIZE.to_string());
        let options = noun.options_for("a");
        let mut create = vec!["create", "-q", "-f", noun.format.name()];
        if !options.is_empty() {
            create.extend(["-o", &options]);
        }
        if let Made::Over(format, len) = noun.made {
            self.make_base(tool, format, len)?;
            create.extend(["-b", "base", "-F", format]);
        }
        create.extend(["a", &size]);
        let folder = self.folder.path().to_owned();
        if noun.made == Made::Compressed {
            return self.make_compressed(tool, &options);
        }
        tool.img(&folder, &create)?;
        if tool == Tool::Qemu && noun.made == Made::Dirty {
            // It ends without a word, so that the mark stays.
            for request in DATA {
                note(&mut self.model, request);
            }
            let writes = DATA.map(|request| match request {
                Request::Write { byte, at, len } => format!("write -P {byte} {at} {len}"),
                _ => String::new(),
            });
            let [a, b, c] = &writes;
            let words = ["-f", "qcow2", "-c", a, "-c", b, "-c", c, "-c", "flush", "-c", "sigraise 9", "a"];
            let ended = run(Path::new("qemu-io"), &folder, &words);
            assert!(ended.is_err());
            return Ok(());
        }
        self.io(tool, &DATA)?;
        match noun.made {
            Made::Written | Made::Over(..) | Made::Compressed => {}
            Made::Zeros { kept } => {
                let zero = |at, len| Request::Zero { at, len, unmap: !kept };
                self.io(tool, &[zero(131_072, 131_072), zero(720_896, 66_048)])?;
            }
            Made::Discarded => self.discard(tool, 131_072, 131_072)?,
            Made::Snapshot => {
                tool.img(&folder, &["snapshot", "-c", "first", "a"])?;
                self.snapshots.insert("first".into(), self.model.clone());
                self.io(tool, &MORE)?;
            }
            Made::VmState => {
                // A stopped machine without any guest.
                let drive = "if=none,id=a,format=qcow2,file=a";
                let machine =
                    ["-machine", "isapc", "-accel", "tcg", "-m", "1", "-nodefaults", "-display", "none", "-S"];
                let script = "echo savevm first; echo quit";
                let line =
                    format!("({script}) | qemu-system-x86_64 {} -drive {drive} -monitor stdio", machine.join(" "));
                run(Path::new("sh"), &folder, &["-c", &line])?;
                let list = tool.img(&folder, &["snapshot", "-l", "a"])?;
                assert!(list.contains("first"), "{list}");
                self.snapshots.insert("first".into(), self.model.clone());
                self.io(tool, &MORE)?;
            }
            Made::Bitmaps => {
                tool.img(&folder, &["bitmap", "--add", "a", "one"])?;
                tool.img(&folder, &["bitmap", "--add", "-g", "512", "a", "two"])?;
                self.io(tool, &MORE)?;
            }
            Made::Extension => self.patch(|header| {
                let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap()) as usize;
                // Each has its kind and its length, and is padded; the last one is of kind 0.
                let mut end = number(100);
                while number(end) != 0 {
                    end += 8 + number(end + 4).next_multiple_of(8);
                }
                header[end..end + EXTENSION.len()].copy_from_slice(&EXTENSION);
            }),
            Made::Autoclear => self.patch(|header| header[88..96].copy_from_slice(&AUTOCLEAR.to_be_bytes())),
            Made::Dirty => self.patch(|header| header[79] |= 1),
            Made::Corrupt => self.patch(|header| header[79] |= 2),
        }
        Ok(())
    }

    /// The image's first bytes, more than any header has.
    pub fn header(&self) -> Vec<u8> {
        let mut header = vec![0; 4096];
        let read = fs::File::open(self.path().join("a")).unwrap().read_at(&mut header, 0).unwrap();
        header.truncate(read);
        header
    }

    fn patch(&self, change: impl FnOnce(&mut [u8])) {
        let mut header = self.header();
        change(&mut header);
        fs::File::options().write(true).open(self.path().join("a")).unwrap().write_all_at(&header, 0).unwrap();
    }

    fn make_base(&mut self, tool: Tool, format: &str, len: u64) -> Result<(), Trouble> {
        tool.img(self.path(), &["create", "-q", "-f", format, "base", &len.to_string()])?;
        let writes = [
            Request::Write { byte: 11, at: 0, len: 200_192 },
            Request::Write { byte: 12, at: len - 400_896, len: 400_896 },
        ];
        tool.io(self.path(), "base", Format::from_name(format).unwrap(), &writes)?;
        let mut base = vec![0; len as usize];
        for request in writes {
            note(&mut base, request);
        }
        let shared = base.len().min(self.model.len());
        self.model[..shared].copy_from_slice(&base[..shared]);
        Ok(())
    }

    fn make_compressed(&mut self, tool: Tool, options: &str) -> Result<(), Trouble> {
        for request in DATA {
            note(&mut self.model, request);
        }
        // Something that is worth it, and something that isn't.
        let mut noise = 1u32;
        for byte in &mut self.model[1_000_000..1_200_000] {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (noise >> 24) as u8;
        }
        fs::write(self.path().join("source"), &self.model).unwrap();
        let mut convert = vec!["convert", "-q", "-c", "-f", "raw", "-O", "qcow2"];
        if !options.is_empty() {
            convert.extend(["-o", options]);
        }
        convert.extend(["source", "a"]);
        tool.img(self.path(), &convert).map(drop)
    }
}
