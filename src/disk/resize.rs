//! `resize`: more or less room in a disk.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::clash;
use super::size::{self, Change};
use super::table::Opt;
use super::values::{Format, Preallocation, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::{Failure, Status};

/// Make a disk larger or smaller.
#[derive(Debug)]
pub struct Resize {
    /// Which.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// To what, or by how much.
    pub change: Change,
    /// It may lose its end.
    pub shrink: bool,
    /// How the room that comes is laid out.
    pub preallocation: Preallocation,
    /// Print nothing.
    pub quiet: bool,
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    shrink: bool,
    preallocation: Preallocation,
    quiet: bool,
}

pub(super) const ABOUT: About = About {
    name: "resize",
    operands: "FILE [+|-]SIZE",
    signed: true,
    about: "Give a disk more room, or take some away",
    notes: &[
        "SIZE is in bytes, or a number with k, M, G, T, P or E behind; + and - count from what the disk has.",
        "The guest's partitions and file systems stay as they are: make them smaller before, larger afterwards.",
    ],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::flag(None, &["shrink"], "the disk may become smaller and lose its end", |d| d.shrink = true),
    Opt::value(None, &["preallocation"], "HOW", "how new room is laid out: off, metadata, falloc or full",
        |d, v| put(&mut d.preallocation, v.preallocation())),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let Draft { format, shrink, preallocation, quiet } = draft;
        let (file, size) = match operands {
            [file, size] => (names::file(file)?, size.to_string_lossy()),
            [_, _, more, ..] => return Err(names::too_many(more)),
            [] | [_] => return Err(clash("an image and its new size are expected")),
        };
        let wrong = |why: &str| Failure::new(Status::Usage, format!("size {size:?} can't be meant")).why(why);
        let change = size::change(&size).map_err(|no| wrong(no.why()))?;
        if change == Change::To(0) {
            return Err(wrong("a disk without room is none"));
        }
        if matches!(change, Change::Shrink(_)) && preallocation != Preallocation::Off {
            return Err(clash("--preallocation is for room that comes, and a minus takes some away"));
        }
        Ok(Parsed::Do(Request::Resize(Resize { file, format, change, shrink, preallocation, quiet })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, Q};

    fn resize(line: &str) -> Resize {
        match testing::request(parse, Q, line) {
            Request::Resize(resize) => resize,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-f raw -q x 1M",
                "--format raw --shrink --preallocation=full --quiet x 1M",
                "--image-opts driver=raw",
                "--object secret x 1M",
            ],
        );
        let full = resize("-qf raw --shrink --preallocation falloc x 1M");
        assert!(full.quiet && full.shrink);
        assert_eq!((full.format, full.preallocation), (Some(Format::Raw), Preallocation::Falloc));
        assert_eq!((full.file.to_str(), full.change), (Some("x"), Change::To(1 << 20)));
        let plain = resize("x 1M");
        assert!(!plain.quiet && !plain.shrink && plain.preallocation == Preallocation::Off);
    }

    #[test]
    fn a_minus_needs_no_dashes_before() {
        assert_eq!(resize("x -1G").change, Change::Shrink(1 << 30));
        assert_eq!(resize("x +1G").change, Change::Grow(1 << 30));
        assert_eq!(resize("x -- -1G").change, Change::Shrink(1 << 30));
        assert_eq!(resize("-- x -1G").change, Change::Shrink(1 << 30));
        assert!(resize("x -1G --shrink").shrink);
        assert!(resize("--shrink x -1G").shrink);
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "", "an image and its new size");
        testing::refused(parse, Q, "x", "an image and its new size");
        testing::refused(parse, Q, "x 1M 2M", "too many: 2M");
        testing::refused(parse, Q, "x ''", "can't be meant");
        testing::refused(parse, Q, "x y", "can't be meant");
        testing::refused(parse, Q, "x 0", "without room");
        testing::refused(parse, Q, "x +8E", "2^63 - 1");
        testing::refused(parse, Q, "x --1M", "no option --1M");
        testing::refused(parse, Q, "-1G", "no option -1");
        testing::refused(parse, Q, "--preallocation=bogus x +1M", "there are off");
        testing::refused(parse, Q, "--preallocation=full x -1M", "a minus takes some away");
        testing::refused(parse, Q, "-U x +1M", "no option -U");
    }
}
