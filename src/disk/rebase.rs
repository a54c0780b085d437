//! `rebase`: another backing file.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::{self, Backing, clash};
use super::table::Opt;
use super::values::{Cache, Format, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// Give a disk another backing file.
#[derive(Debug)]
pub struct Rebase {
    /// Which.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// What is to lie below.
    pub onto: Onto,
    /// Only the name is changed: the guest's data is the caller's care.
    pub unchecked: bool,
    /// What differs is copied up compressed.
    pub compress: bool,
    /// How the disk is opened.
    pub cache: Cache,
    /// How the old and the new backing file are opened.
    pub backing_cache: Cache,
    /// Read backing files although somebody writes to them.
    pub force_share: bool,
    /// Show how far it is.
    pub progress: bool,
    /// Print nothing.
    pub quiet: bool,
}

/// What is to lie below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Onto {
    /// Nothing: the disk is to stand by itself.
    Nothing,
    /// Another disk.
    Disk(Backing),
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    /// Some(None): an empty name.
    backing: Option<Option<PathBuf>>,
    backing_format: Option<Format>,
    unchecked: bool,
    compress: bool,
    cache: Option<Cache>,
    backing_cache: Option<Cache>,
    force_share: bool,
    progress: bool,
    quiet: bool,
}

pub(super) const ABOUT: About = About {
    name: "rebase",
    operands: "FILE",
    signed: false,
    about: "Put a disk on top of another one, or make it stand by itself",
    notes: &[
        "What the guest sees stays the same: where the old and the new disk below differ, data is copied up first.",
        "With -u nothing is compared and only the name is written. -b '' leaves nothing below.",
    ],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('b'), &["backing"], "FILE", "what is to lie below; '' for nothing", |d, v| {
        d.backing = Some(if v.given.is_empty() { None } else { Some(v.file()?) });
        Ok(())
    }),
    Opt::value(Some('F'), &["backing-format"], "FMT", "its format", |d, v| put(&mut d.backing_format, v.format())),
    Opt::flag(Some('u'), &["backing-unsafe"], "change the name only", |d| d.unchecked = true),
    Opt::value(Some('f'), &["format"], "FMT", "format of the disk; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::flag(Some('c'), &["compress"], "compress what is copied up", |d| d.compress = true),
    Opt::value(Some('t'), &["cache"], "CACHE", "how to open the disk", |d, v| put(&mut d.cache, v.cache())),
    Opt::value(Some('T'), &["backing-cache"], "CACHE", "how to open what lies below",
        |d, v| put(&mut d.backing_cache, v.cache())),
    Opt::flag(Some('U'), &["force-share"], "read what lies below even while something writes to it",
        |d| d.force_share = true),
    Opt::flag(Some('p'), &["progress"], "show how far it is", |d| d.progress = true),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let file = names::one(operands)?;
        let onto = match draft.backing {
            // qemu-img's rebase -u alone takes the backing file away. It may have been forgotten here.
            None if draft.unchecked && dialect == Dialect::QemuImg => Onto::Nothing,
            None => return Err(clash("what is to lie below?").advise("-b FILE -F FMT, or -b '' for nothing")),
            Some(None) => Onto::Nothing,
            Some(backing) => options::backing(backing, draft.backing_format)?.map_or(Onto::Nothing, Onto::Disk),
        };
        Ok(Parsed::Do(Request::Rebase(Rebase {
            file,
            format: draft.format,
            onto,
            unchecked: draft.unchecked,
            compress: draft.compress,
            cache: draft.cache.unwrap_or(Cache::Writeback),
            backing_cache: draft.backing_cache.unwrap_or(Cache::Writeback),
            force_share: draft.force_share,
            progress: draft.progress && !draft.quiet,
            quiet: draft.quiet,
        })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, K, Q};

    fn rebase(line: &str) -> Rebase {
        match testing::request(parse, Q, line) {
            Request::Rebase(rebase) => rebase,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-b a -F raw -u -f qcow2 -c -t none -T none -U -p -q x",
                "--backing a --backing-format raw --backing-unsafe --format qcow2 --compress x",
                "--backing a --backing-format raw --cache none --backing-cache none --force-share --progress --quiet x",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        let full = rebase("-ucUp -b a -F raw -f qcow2 -t none -T unsafe x");
        assert!(full.unchecked && full.compress && full.force_share && full.progress && !full.quiet);
        assert_eq!(full.onto, Onto::Disk(Backing { file: "a".into(), format: Format::Raw }));
        assert_eq!((full.format, full.cache, full.backing_cache), (Some(Format::Qcow2), Cache::None, Cache::Unsafe));
        let plain = rebase("-b a -F raw x");
        assert!(!plain.unchecked && !plain.compress && !plain.force_share && !plain.progress && !plain.quiet);
        assert_eq!((plain.cache, plain.backing_cache), (Cache::Writeback, Cache::Writeback));
        assert!(rebase("-p -q -b a -F raw x").quiet && !rebase("-p -q -b a -F raw x").progress);
    }

    #[test]
    fn nothing_below_is_said_aloud() {
        assert_eq!(rebase("-b '' x").onto, Onto::Nothing);
        assert_eq!(rebase("-b '' -F qcow2 x").onto, Onto::Nothing);
        assert_eq!(rebase("-u x").onto, Onto::Nothing);
        testing::refused(parse, K, "-u x", "what is to lie below?");
        testing::refused(parse, Q, "x", "what is to lie below?");
        testing::refused(parse, Q, "-F qcow2 x", "what is to lie below?");
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "-b a x", "format of the backing file a is missing");
        testing::refused(parse, Q, "-u -b a x", "format of the backing file a is missing");
        testing::refused(parse, Q, "-b a -F bogus x", "no format");
        testing::refused(parse, Q, "-b '' -F bogus x", "no format");
        testing::refused(parse, Q, "-b nbd:a -F raw x", "protocol");
        testing::refused(parse, Q, "-t bogus -b a -F raw x", "-t \"bogus\"");
        testing::refused(parse, Q, "-T bogus -b a -F raw x", "-T \"bogus\"");
        testing::refused(parse, Q, "-b a -F raw x c", "too many: c");
    }
}
