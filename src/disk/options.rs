//! `-o name=value,…`: what a new disk's format lets one choose.
//!
//! A comma in a value is doubled. A name alone is a yes, with `no` in front a no; the last of equal names counts.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::size;
use super::values::{Format, Preallocation, Value, put};
use super::{help, names};
use crate::cli;
use crate::failure::{Failure, Status};

/// What a new disk is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// Bytes that the guest sees; none if they are the source's or the backing file's.
    pub size: Option<u64>,
    /// The format and what it lets one choose.
    pub layout: Layout,
    /// No copy on write by the file system (btrfs).
    pub nocow: bool,
    /// Bytes of XFS's extent size hint.
    pub extent_size_hint: Option<u32>,
}

/// A format's own choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// The guest's bytes.
    Raw {
        /// Off, falloc or full.
        preallocation: Preallocation,
    },
    /// QEMU's format.
    Qcow2(Box<Qcow2>),
}

/// qcow2's choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2 {
    /// Version 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u8,
    /// What lies below.
    pub backing: Option<Backing>,
    /// How much is laid out at once.
    pub preallocation: Preallocation,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u32,
    /// Refcounts may be rebuilt at open instead of being written in time.
    pub lazy_refcounts: bool,
    /// Bits of a refcount: a power of two up to 64.
    pub refcount_bits: u8,
    /// What compressed clusters are compressed with.
    pub compression: Compression,
    /// Subclusters.
    pub extended_l2: bool,
    /// The file that holds the guest's data in place of the image.
    pub data_file: Option<PathBuf>,
    /// The data file is to be a raw image by itself.
    pub data_file_raw: bool,
}

/// A backing file and its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name as it is written into the image: relative to the image's folder.
    pub file: PathBuf,
    /// Its format.
    pub format: Format,
}

/// qcow2's compressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Raw deflate.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

/// What `-o`, `-b` and `-F` of one line say, before it is known which format they are for.
#[derive(Debug, Default)]
pub(super) struct Draft {
    size: Option<u64>,
    compat: Option<u8>,
    pub(super) backing_file: Option<PathBuf>,
    pub(super) backing_fmt: Option<Format>,
    preallocation: Preallocation,
    cluster_size: Option<u64>,
    lazy_refcounts: bool,
    refcount_bits: Option<u64>,
    compression: Compression,
    extended_l2: bool,
    data_file: Option<PathBuf>,
    data_file_raw: bool,
    nocow: bool,
    extent_size_hint: Option<u32>,
}

/// One name that `-o` knows.
struct Row {
    name: &'static str,
    what: &'static str,
    about: &'static str,
    /// Raw disks have it, too.
    raw: bool,
    set: fn(&mut Draft, &Given<'_>) -> Result<(), Failure>,
}

struct Given<'a> {
    name: &'a str,
    value: &'a str,
}

impl Given<'_> {
    fn wrong(&self, why: impl Into<String>) -> Failure {
        Failure::new(Status::Usage, format!("-o {}={}", self.name, self.value)).why(why)
    }

    fn switch(&self) -> Result<bool, Failure> {
        match self.value {
            "on" | "yes" | "true" | "y" => Ok(true),
            "off" | "no" | "false" | "n" => Ok(false),
            _ => Err(self.wrong("on or off is expected")),
        }
    }

    fn size(&self) -> Result<u64, Failure> {
        size::parse(self.value).map_err(|no| self.wrong(no.why()))
    }

    fn preallocation(&self) -> Result<Preallocation, Failure> {
        Preallocation::named(self.value).ok_or_else(|| self.wrong("there are off, metadata, falloc, full"))
    }

    fn hint(&self) -> Result<u32, Failure> {
        u32::try_from(self.size()?).map_err(|_| self.wrong("that is 4 GiB or more"))
    }

    fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Failure> {
        let found = words.iter().find(|(word, _)| *word == self.value);
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        found.map(|(_, meaning)| *meaning).ok_or_else(|| self.wrong(format!("there are {}", known.join(", "))))
    }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { name: "size", what: "SIZE", about: "bytes that the guest sees", raw: true,
        set: |d, v| put(&mut d.size, v.size()) },
    Row { name: "preallocation", what: "HOW", about: "what is laid out at once: off, falloc, full; qcow2: metadata too",
        raw: true,
        set: |d, v| put(&mut d.preallocation, v.preallocation()) },
    Row { name: "nocow", what: "on|off", about: "no copy on write by btrfs", raw: true,
        set: |d, v| put(&mut d.nocow, v.switch()) },
    Row { name: "extent_size_hint", what: "SIZE", about: "how much XFS allocates at once", raw: true,
        set: |d, v| put(&mut d.extent_size_hint, v.hint()) },
    Row { name: "compat", what: "VERSION", about: "1.1 (version 3, the default) or 0.10 (version 2)", raw: false,
        set: |d, v| put(&mut d.compat, v.one_of(&[("1.1", 3), ("0.10", 2), ("v3", 3), ("v2", 2)])) },
    Row { name: "backing_file", what: "FILE", about: "what lies below, as -b", raw: false,
        set: |d, v| put(&mut d.backing_file, names::file(OsStr::new(v.value))) },
    Row { name: "backing_fmt", what: "FMT", about: "the format of what lies below, as -F", raw: false,
        set: |d, v| put(&mut d.backing_fmt, Format::named(v.value)) },
    Row { name: "cluster_size", what: "SIZE", about: "512 to 2M, a power of two; 64k if not given", raw: false,
        set: |d, v| put(&mut d.cluster_size, v.size()) },
    Row { name: "refcount_bits", what: "N", about: "1, 2, 4, 8, 16, 32 or 64; 16 if not given", raw: false,
        set: |d, v| put(&mut d.refcount_bits, number(v)) },
    Row { name: "lazy_refcounts", what: "on|off", about: "write refcounts late and mend them after a crash", raw: false,
        set: |d, v| put(&mut d.lazy_refcounts, v.switch()) },
    Row { name: "compression_type", what: "HOW", about: "zlib (the default) or zstd", raw: false,
        set: |d, v| put(&mut d.compression, v.one_of(&[("zlib", Compression::Zlib), ("zstd", Compression::Zstd)])) },
    Row { name: "extended_l2", what: "on|off", about: "allocate by subclusters; clusters of 16k and more", raw: false,
        set: |d, v| put(&mut d.extended_l2, v.switch()) },
    Row { name: "data_file", what: "FILE", about: "keep the guest's data in this file", raw: false,
        set: |d, v| put(&mut d.data_file, names::file(OsStr::new(v.value))) },
    Row { name: "data_file_raw", what: "on|off", about: "keep the data file readable as a raw disk", raw: false,
        set: |d, v| put(&mut d.data_file_raw, v.switch()) },
];

// A number of QEMU's: decimal, hexadecimal or octal, without a letter.
fn number(given: &Given<'_>) -> Result<u64, Failure> {
    let text = given.value;
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    u64::from_str_radix(digits, radix).map_err(|_| given.wrong("a number is expected"))
}

/// Splits at single commas; two commas are one.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
    }
    parts
}

/// All that `-o` said on one line, in order.
#[derive(Debug, Default)]
pub(super) struct Options(Vec<String>);

impl Options {
    /// Takes one more `-o` in.
    pub(super) fn add(&mut self, value: &Value<'_>) -> Result<(), Failure> {
        let text = value.text()?;
        // Two commas at the end are one that belongs to the value.
        let trailing = text.len() - text.trim_end_matches(',').len();
        if text.is_empty() || text.starts_with(',') || trailing % 2 == 1 {
            return Err(value.wrong("name=value is expected, and a comma only between two of them"));
        }
        self.0.extend(split(text));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of the last value of that name.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }

    /// True if `help` or `?` is among them.
    pub(super) fn asks_for_help(&self) -> bool {
        self.0.iter().any(|part| part == "help" || part == "?")
    }

    /// Reads them as options of a format.
    pub(super) fn read(self, format: Format) -> Result<Draft, Failure> {
        let mut draft = Draft::default();
        for part in &self.0 {
            let (name, value) = part.split_once('=').unwrap_or((part, "on"));
            let known = |name: &str| rows(format).find(|row| row.name == name);
            let (row, value) = match (known(name), part.strip_prefix("no").and_then(known)) {
                (Some(row), _) => (row, value),
                (None, Some(row)) => (row, "off"),
                (None, None) => return Err(unknown(name, format)),
            };
            (row.set)(&mut draft, &Given { name: row.name, value })?;
        }
        Ok(draft)
    }
}

fn rows(format: Format) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.raw || format == Format::Qcow2)
}

fn unknown(name: &str, format: Format) -> Failure {
    if name.starts_with("encrypt") {
        return Failure::new(Status::Usage, format!("not yet: -o {name}"))
            .why("kiln neither reads nor writes encrypted disks");
    }
    let failure = Failure::new(Status::Usage, format!("{format} has no option {name:?}"));
    if format == Format::Raw && ROWS.iter().any(|row| row.name == name) {
        return failure.advise("It is qcow2's: name the format, -f or -O qcow2");
    }
    let known: Vec<&str> = rows(format).map(|row| row.name).collect();
    cli::suggest(failure, name, &known).advise("-o help lists those there are")
}

/// The table that `-o help` prints.
pub(super) fn help(format: Format) -> String {
    let lines: Vec<(String, &str)> =
        rows(format).map(|row| (format!("{}={}", row.name, row.what), row.about)).collect();
    format!("What -o can say of a new {format} disk:\n{}", help::columns(&lines))
}

impl Draft {
    /// Checks what doesn't go together and gives the new disk's description.
    pub(super) fn finish(self, format: Format) -> Result<New, Failure> {
        let (size, nocow, extent_size_hint) = (self.size, self.nocow, self.extent_size_hint);
        let layout = match format {
            Format::Raw => self.raw()?,
            Format::Qcow2 => Layout::Qcow2(Box::new(self.qcow2()?)),
        };
        Ok(New { size, layout, nocow, extent_size_hint })
    }

    /// Forgets what has no bearing on the space that a disk takes: qemu-img's measure doesn't look at it either.
    pub(super) fn for_measure(self, format: Format) -> Self {
        let Self { preallocation, cluster_size, refcount_bits, extended_l2, backing_file, backing_fmt, .. } = self;
        // Only that there is a backing file counts.
        let below = format == Format::Qcow2 && backing_file.is_some() && backing_fmt.is_some();
        let (backing_file, backing_fmt) = if below { (backing_file, backing_fmt) } else { (None, None) };
        let preallocation = if format == Format::Raw { Preallocation::Off } else { preallocation };
        Self { preallocation, cluster_size, refcount_bits, extended_l2, backing_file, backing_fmt, ..Self::default() }
    }

    fn raw(self) -> Result<Layout, Failure> {
        if self.backing_file.is_some() || self.backing_fmt.is_some() {
            return Err(clash("a raw disk has no backing file").advise("-f or -O qcow2 makes a disk that can have one"));
        }
        if self.preallocation == Preallocation::Metadata {
            return Err(
                clash("-o preallocation=metadata: a raw disk has no metadata").advise("There are off, falloc and full")
            );
        }
        Ok(Layout::Raw { preallocation: self.preallocation })
    }

    fn qcow2(self) -> Result<Qcow2, Failure> {
        let backing = backing(self.backing_file, self.backing_fmt)?;
        let cluster_size = self.cluster_size.unwrap_or(64 << 10);
        let cluster_size = u32::try_from(cluster_size)
            .ok()
            .filter(|size| size.is_power_of_two() && (512..=2 << 20).contains(size))
            .ok_or_else(|| clash(format!("-o cluster_size={cluster_size} is no power of two from 512 to 2M")))?;
        let bits = self.refcount_bits.unwrap_or(16);
        let refcount_bits = u8::try_from(bits)
            .ok()
            .filter(|bits| bits.is_power_of_two() && *bits <= 64)
            .ok_or_else(|| clash(format!("-o refcount_bits={bits} is no power of two up to 64")))?;
        let qcow2 = Qcow2 {
            version: self.compat.unwrap_or(3),
            backing,
            preallocation: self.preallocation,
            cluster_size,
            lazy_refcounts: self.lazy_refcounts,
            refcount_bits,
            compression: self.compression,
            extended_l2: self.extended_l2,
            data_file: self.data_file,
            data_file_raw: self.data_file_raw,
        };
        qcow2.check()?;
        Ok(qcow2)
    }
}

impl Qcow2 {
    fn check(&self) -> Result<(), Failure> {
        let newer = [
            (self.lazy_refcounts, "lazy_refcounts"),
            (self.refcount_bits != 16, "refcount_bits"),
            (self.compression != Compression::Zlib, "compression_type"),
            (self.extended_l2, "extended_l2"),
            (self.data_file.is_some(), "data_file"),
        ];
        if let Some((_, name)) = newer.iter().find(|(given, _)| *given && self.version < 3) {
            return Err(clash(format!("-o {name} needs version 3")).advise("Leave compat=0.10 out"));
        }
        if self.extended_l2 && self.cluster_size < 16 << 10 {
            return Err(clash("-o extended_l2 needs clusters of 16k or more"));
        }
        if self.data_file_raw && self.data_file.is_none() {
            return Err(clash("-o data_file_raw says how to keep a data file, and there is none"));
        }
        if self.data_file_raw && self.backing.is_some() {
            return Err(clash("-o data_file_raw and a backing file exclude each other"));
        }
        if self.preallocation != Preallocation::Off && self.backing.is_some() && !self.extended_l2 {
            return Err(
                clash("-o preallocation would hide the backing file").advise("With extended_l2=on it can be done")
            );
        }
        Ok(())
    }
}

/// A backing file is never probed later on, so its format goes with it.
pub(super) fn backing(file: Option<PathBuf>, format: Option<Format>) -> Result<Option<Backing>, Failure> {
    match (file, format) {
        (Some(file), Some(format)) => Ok(Some(Backing { file, format })),
        (None, None) => Ok(None),
        (Some(file), None) => Err(clash(format!("the format of the backing file {} is missing", file.display()))
            .why("a format that is guessed at every start can be forged by a guest")
            .advise("Add -F raw or -F qcow2: kiln disk info FILE tells which")),
        (None, Some(_)) => Err(clash("a backing format without a backing file").advise("Add -b FILE")),
    }
}

pub(super) fn clash(what: impl Into<String>) -> Failure {
    Failure::new(Status::Usage, what)
}

#[cfg(test)]
mod tests;
