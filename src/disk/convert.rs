//! `convert`: a copy, in another format or laid out otherwise.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::{self, Layout, New, Options, clash};
use super::table::Opt;
use super::values::{Cache, Format, Preallocation, Snapshot, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::{Failure, Status};

/// Copy disks into another one.
#[derive(Debug)]
pub struct Convert {
    /// From where; several come one behind the other.
    pub sources: Vec<PathBuf>,
    /// The format of all of them, if it was given.
    pub source_format: Option<Format>,
    /// How they are opened.
    pub source_cache: Cache,
    /// The first one as it was then.
    pub snapshot: Option<Snapshot>,
    /// What can't be read becomes zeros.
    pub salvage: bool,
    /// Read although somebody writes to them.
    pub force_share: bool,
    /// Where to.
    pub file: PathBuf,
    /// Into what.
    pub target: Target,
    /// How it is opened, and whether it is flushed at the end.
    pub cache: Cache,
    /// Write compressed clusters.
    pub compress: bool,
    /// So many zero bytes in a row become a hole; 0 never. None: 4096.
    pub sparse: Option<u32>,
    /// How many workers.
    pub workers: u8,
    /// Clusters need not be written in order.
    pub out_of_order: bool,
    /// Let the kernel copy.
    pub copy_offload: bool,
    /// Bytes a second at most.
    pub rate_limit: Option<u64>,
    /// Show how far it is.
    pub progress: bool,
    /// Print nothing.
    pub quiet: bool,
}

/// What is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A new disk.
    New {
        /// What it is to be; its size is the sources'.
        new: New,
        /// It may take the place of a file. Always so under the name qemu-img.
        force: bool,
    },
    /// A disk that is there.
    Existing {
        /// Its format.
        format: Format,
        /// It reads as zeros, so zeros need not be written.
        is_zero: bool,
    },
}

#[derive(Debug, Default)]
struct Draft {
    source_format: Option<Format>,
    source_cache: Option<Cache>,
    snapshot: Option<Snapshot>,
    salvage: bool,
    force_share: bool,
    target_format: Option<Format>,
    options: Options,
    cache: Option<Cache>,
    backing: Option<PathBuf>,
    backing_format: Option<Format>,
    no_create: bool,
    is_zero: bool,
    force: bool,
    compress: bool,
    sparse: Option<u32>,
    workers: Option<u8>,
    out_of_order: bool,
    copy_offload: bool,
    rate_limit: u64,
    progress: bool,
    quiet: bool,
}

const WORKERS: u8 = 8;

pub(super) const ABOUT: About = About {
    name: "convert",
    operands: "SOURCE… TARGET",
    signed: false,
    about: "Copy a disk into another format, or into one that is laid out otherwise",
    notes: &[
        "Without -t nothing waits for the target to reach the disk: after a power loss it may be incomplete.",
        "-t writeback and the others wait. -o help lists what the target's format lets you choose.",
    ],
};

const BITMAPS: &str = "bitmaps aren't copied so far; without this option the rest is";

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["source-format"], "FMT", "format of the sources; found out if not given",
        |d, v| put(&mut d.source_format, v.format())),
    Opt::value(Some('O'), &["target-format"], "FMT", "format of the target; raw if not given",
        |d, v| put(&mut d.target_format, v.format())),
    Opt::value(Some('o'), &["target-format-options"], "NAME=VALUE,…", "what else that format lets you choose",
        |d, v| d.options.add(v)),
    Opt::flag(Some('c'), &["compress"], "compress (qcow2)", |d| d.compress = true),
    Opt::value(Some('B'), &["backing"], "FILE", "put the target on top of this disk",
        |d, v| put(&mut d.backing, v.file())),
    Opt::value(Some('F'), &["backing-format"], "FMT", "format of that disk",
        |d, v| put(&mut d.backing_format, v.format())),
    Opt::value(Some('l'), &["snapshot"], "SNAPSHOT", "the source as it was in that snapshot",
        |d, v| put(&mut d.snapshot, v.snapshot())),
    Opt::value(Some('S'), &["sparse-size"], "SIZE", "zeros in a row that become a hole; 0: none do", |d, v| {
        let size = u32::try_from(v.size()?).ok().filter(|size| size % 512 == 0 && *size <= 16 << 20);
        d.sparse = Some(size.ok_or_else(|| v.wrong("0 or a multiple of 512 up to 16M is expected"))?);
        Ok(())
    }),
    Opt::flag(Some('n'), &["no-create"], "write into a target that is there", |d| d.no_create = true),
    Opt::flag(None, &["target-is-zero"], "with -n: the target reads as zeros", |d| d.is_zero = true),
    Opt::force(|d| d.force = true),
    Opt::value(Some('t'), &["target-cache"], "CACHE", "how to open the target; unsafe if not given",
        |d, v| put(&mut d.cache, v.cache())),
    Opt::value(Some('T'), &["source-cache"], "CACHE", "how to open the sources",
        |d, v| put(&mut d.source_cache, v.cache())),
    Opt::flag(None, &["salvage"], "what can't be read becomes zeros", |d| d.salvage = true),
    Opt::flag(Some('U'), &["force-share"], "read even while something writes to the sources", |d| d.force_share = true),
    Opt::value(Some('m'), &["parallel"], "N", "how much is under way at once, 1 to 16",
        |d, v| put(&mut d.workers, v.number(1..=16))),
    Opt::flag(Some('W'), &["oob-writes"], "the target need not be written in order", |d| d.out_of_order = true),
    Opt::flag(Some('C'), &["copy-range-offloading"], "let the kernel copy where it can", |d| d.copy_offload = true),
    Opt::value(Some('r'), &["rate-limit"], "RATE", "bytes a second at most", |d, v| put(&mut d.rate_limit, v.size())),
    Opt::flag(Some('p'), &["progress"], "show how far it is", |d| d.progress = true),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::refused(&["bitmaps"], BITMAPS),
    Opt::refused(&["skip-broken-bitmaps"], BITMAPS),
    Opt::refused(&["target-image-opts"], "name the file, and its format with -O"),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| draft.finish(dialect, operands))
}

impl Draft {
    fn finish(self, dialect: Dialect, operands: &[OsString]) -> Result<Parsed, Failure> {
        self.check()?;
        let format = self.target_format.unwrap_or(Format::Raw);
        if self.options.asks_for_help() {
            return Ok(Parsed::Print(options::help(format)));
        }
        let Some((file, sources)) = operands.split_last().filter(|(_, sources)| !sources.is_empty()) else {
            return Err(Failure::new(Status::Usage, "a source and a target are expected"));
        };
        let sources = sources.iter().map(|source| names::file(source)).collect::<Result<Vec<_>, _>>()?;
        let file = names::file(file)?;
        if sources.contains(&file) {
            return Err(clash(format!("{} can't be source and target at once", file.display())));
        }
        if sources.len() > 1 && matches!(self.snapshot, Some(Snapshot::IdOrName(_))) {
            return Err(clash("-l names a snapshot of one source, and there are several"));
        }
        let (source_format, source_cache) = (self.source_format, self.source_cache.unwrap_or(Cache::Writeback));
        let convert = Convert {
            source_format,
            source_cache,
            snapshot: self.snapshot.clone(),
            salvage: self.salvage,
            force_share: self.force_share,
            cache: self.cache.unwrap_or(Cache::Unsafe),
            compress: self.compress,
            sparse: self.sparse,
            workers: self.workers.unwrap_or(WORKERS),
            out_of_order: self.out_of_order,
            copy_offload: self.copy_offload,
            rate_limit: Some(self.rate_limit).filter(|rate| *rate > 0),
            progress: self.progress && !self.quiet,
            quiet: self.quiet,
            target: self.target(dialect, format, sources.len())?,
            sources,
            file,
        };
        Ok(Parsed::Do(Request::Convert(Box::new(convert))))
    }

    // What goes together whatever the files are.
    fn check(&self) -> Result<(), Failure> {
        if self.copy_offload {
            let others = [(self.compress, "-c"), (self.sparse.is_some(), "-S"), (self.salvage, "--salvage")];
            if let Some((_, name)) = others.iter().find(|(given, _)| *given) {
                return Err(clash(format!("-C lets the kernel copy, and {name} must see the data")));
            }
        }
        if self.no_create && !self.options.is_empty() {
            return Err(clash("-o describes a new disk, and -n writes into one that is there"));
        }
        if self.is_zero && !self.no_create {
            return Err(clash("--target-is-zero speaks of a target that is there: add -n"));
        }
        Ok(())
    }

    fn target(self, dialect: Dialect, format: Format, sources: usize) -> Result<Target, Failure> {
        if self.backing.is_some() && sources > 1 {
            return Err(clash("-B puts a copy of one source on top of a disk, and there are several"));
        }
        if self.no_create {
            if self.is_zero && self.backing.is_some() {
                return Err(clash("--target-is-zero: a target with a backing file doesn't read as zeros"));
            }
            if dialect == Dialect::Kiln && (self.backing.is_some() || self.backing_format.is_some()) {
                return Err(clash("-B and -F describe a new disk, and -n writes into one that is there"));
            }
            if self.compress && format == Format::Raw {
                return Err(raw_compressed());
            }
            return Ok(Target::Existing { format, is_zero: self.is_zero });
        }
        let mut draft = self.options.read(format)?;
        draft.backing_file = self.backing.or(draft.backing_file);
        draft.backing_fmt = self.backing_format.or(draft.backing_fmt);
        if draft.backing_file.is_some() && sources > 1 {
            return Err(clash("backing_file puts a copy of one source on top of a disk, and there are several"));
        }
        let mut new = draft.finish(format)?;
        if dialect == Dialect::Kiln && new.size.is_some() {
            return Err(clash("-o size=: a copy is as large as its source").advise("kiln disk resize makes it larger"));
        }
        new.size = None;
        if self.compress {
            compressible(&new.layout)?;
        }
        Ok(Target::New { new, force: self.force || dialect == Dialect::QemuImg })
    }
}

fn raw_compressed() -> Failure {
    clash("-c: a raw disk can't be compressed").advise("-O qcow2 can")
}

fn compressible(layout: &Layout) -> Result<(), Failure> {
    match layout {
        Layout::Raw { .. } => Err(raw_compressed()),
        Layout::Qcow2(qcow2) if qcow2.preallocation != Preallocation::Off => {
            Err(clash("-c and -o preallocation exclude each other"))
        }
        Layout::Qcow2(qcow2) if qcow2.data_file.is_some() => Err(clash("-c and -o data_file exclude each other")),
        Layout::Qcow2(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
