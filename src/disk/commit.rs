//! `commit`: a disk's changes go into what lies below.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::table::Opt;
use super::values::{Cache, Format, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// Write a disk's changes into one that lies below it.
#[derive(Debug)]
pub struct Commit {
    /// The disk on top.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// Which of those below; the next one if none.
    pub base: Option<PathBuf>,
    /// Leave the changes where they are as well. Always so with a base: those between would read wrong else.
    pub keep: bool,
    /// How files are opened.
    pub cache: Cache,
    /// Bytes a second at most.
    pub rate_limit: Option<u64>,
    /// Show how far it is.
    pub progress: bool,
    /// Print nothing.
    pub quiet: bool,
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    base: Option<PathBuf>,
    keep: bool,
    cache: Option<Cache>,
    rate_limit: u64,
    progress: bool,
    quiet: bool,
}

pub(super) const ABOUT: About = About {
    name: "commit",
    operands: "FILE",
    signed: false,
    about: "Write a disk's changes into the disk below",
    notes: &[
        "The disk is emptied afterwards, unless -d or -b is given.",
        "Other disks on top of the one that is written to show wrong data from then on.",
    ],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('b'), &["base"], "FILE", "write into this one, further below", |d, v| put(&mut d.base, v.file())),
    Opt::flag(Some('d'), &["drop"], "don't empty the disk: it is going to be removed", |d| d.keep = true),
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::value(Some('t'), &["cache"], "CACHE", "how to open the files", |d, v| put(&mut d.cache, v.cache())),
    Opt::value(Some('r'), &["rate-limit"], "RATE", "bytes a second at most", |d, v| put(&mut d.rate_limit, v.size())),
    Opt::flag(Some('p'), &["progress"], "show how far it is", |d| d.progress = true),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        Ok(Parsed::Do(Request::Commit(Commit {
            file: names::one(operands)?,
            format: draft.format,
            keep: draft.keep || draft.base.is_some(),
            base: draft.base,
            cache: draft.cache.unwrap_or(Cache::Writeback),
            rate_limit: Some(draft.rate_limit).filter(|rate| *rate > 0),
            progress: draft.progress && !draft.quiet,
            quiet: draft.quiet,
        })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, Q};

    fn commit(line: &str) -> Commit {
        match testing::request(parse, Q, line) {
            Request::Commit(commit) => commit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-b a -d -f qcow2 -t none -r 1M -p -q x",
                "--base a --drop --format qcow2 --cache none --rate-limit 1M --progress --quiet x",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        let full = commit("-dp -b a -f qcow2 -t directsync -r 1M x");
        assert!(full.keep && full.progress && !full.quiet);
        assert_eq!((full.base, full.format, full.cache), (Some("a".into()), Some(Format::Qcow2), Cache::Directsync));
        assert_eq!(full.rate_limit, Some(1 << 20));
        let plain = commit("x");
        assert!(!plain.keep && !plain.progress && plain.base.is_none() && plain.rate_limit.is_none());
        assert!(commit("-q -p x").quiet && !commit("-q -p x").progress);
    }

    #[test]
    fn a_base_keeps_the_changes_and_no_rate_is_none() {
        assert!(commit("-b a x").keep);
        assert!(commit("-d x").keep);
        assert_eq!(commit("-r 0 x").rate_limit, None);
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "", "which image?");
        testing::refused(parse, Q, "a b", "too many: b");
        testing::refused(parse, Q, "-r x a", "-r \"x\"");
        testing::refused(parse, Q, "-t bogus a", "-t \"bogus\"");
        testing::refused(parse, Q, "-b '' a", "name is empty");
        testing::refused(parse, Q, "-U a", "no option -U");
    }
}
