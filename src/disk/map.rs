//! `map`: what is allocated, and where it lies.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::table::Opt;
use super::values::{Format, Output, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// List what is allocated where.
#[derive(Debug)]
pub struct Map {
    /// In which image.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// From this byte on.
    pub start: u64,
    /// So many bytes; to the end if none.
    pub length: Option<u64>,
    /// Look although somebody writes to it.
    pub force_share: bool,
    /// How to print.
    pub output: Output,
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    start: u64,
    length: Option<u64>,
    force_share: bool,
    output: Output,
}

pub(super) const ABOUT: About = About {
    name: "map",
    operands: "FILE",
    signed: false,
    about: "List what of a disk is allocated, and in which file",
    notes: &[],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::value(Some('s'), &["start-offset"], "OFFSET", "the first byte of interest",
        |d, v| put(&mut d.start, v.size())),
    Opt::value(Some('l'), &["max-length"], "SIZE", "how many bytes are of interest",
        |d, v| put(&mut d.length, v.size())),
    Opt::flag(Some('U'), &["force-share"], "look even while something writes to it", |d| d.force_share = true),
    Opt::value(None, &["output"], "human|json", "how to print", |d, v| put(&mut d.output, v.output())),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let Draft { format, start, length, force_share, output } = draft;
        let file = names::one(operands)?;
        Ok(Parsed::Do(Request::Map(Map { file, format, start, length, force_share, output })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, Q};

    fn map(line: &str) -> Map {
        match testing::request(parse, Q, line) {
            Request::Map(map) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-f raw -s 1M -l 1M -U x",
                "--format raw --start-offset 1M --max-length=1M --force-share --output json x",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        let full = map("-U -f raw --start=1.5k --max=0 --output=json x");
        assert!(full.force_share);
        assert_eq!((full.start, full.length, full.output), (1536, Some(0), Output::Json));
        let plain = map("x");
        assert_eq!((plain.start, plain.length, plain.format, plain.output), (0, None, None, Output::Human));
        assert!(!plain.force_share && plain.file.to_str() == Some("x"));
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "", "which image?");
        testing::refused(parse, Q, "a b", "too many: b");
        testing::refused(parse, Q, "--start-offset=-1 x", "can't be meant");
        testing::refused(parse, Q, "--max-length=x x", "can't be meant");
        testing::refused(parse, Q, "--output=bogus x", "human and json");
        testing::refused(parse, Q, "-q x", "no option -q");
    }
}
