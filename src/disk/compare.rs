//! `compare`: do two disks hold the same?

use std::ffi::OsString;
use std::path::PathBuf;

use super::getopt::{self, Wrong};
use super::help::{self, About};
use super::table::Opt;
use super::values::{Cache, Format, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::{Failure, Status};

/// Compare two disks.
#[derive(Debug)]
pub struct Compare {
    /// One.
    pub left: Side,
    /// The other.
    pub right: Side,
    /// Sizes and allocation count as well.
    pub strict: bool,
    /// How both are opened.
    pub cache: Cache,
    /// Read although somebody writes to them.
    pub force_share: bool,
    /// Show how far it is.
    pub progress: bool,
    /// Print nothing.
    pub quiet: bool,
}

/// One of the two.
#[derive(Debug, PartialEq, Eq)]
pub struct Side {
    /// Where.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
}

#[derive(Debug, Default)]
struct Draft {
    left: Option<Format>,
    right: Option<Format>,
    strict: bool,
    cache: Option<Cache>,
    force_share: bool,
    progress: bool,
    quiet: bool,
}

pub(super) const ABOUT: About = About {
    name: "compare",
    operands: "FILE FILE",
    signed: false,
    about: "Tell whether two disks hold the same",
    notes: &["If one is longer, they are the same as long as the rest of it is zeros; not so with -s."],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["a-format"], "FMT", "format of the first; found out if not given",
        |d, v| put(&mut d.left, v.format())),
    Opt::value(Some('F'), &["b-format"], "FMT", "format of the second", |d, v| put(&mut d.right, v.format())),
    Opt::flag(Some('s'), &["strict"], "sizes and what is allocated must be the same too", |d| d.strict = true),
    Opt::value(Some('T'), &["cache"], "CACHE", "how to open both", |d, v| put(&mut d.cache, v.cache())),
    Opt::flag(Some('U'), &["force-share"], "read even while something writes to them", |d| d.force_share = true),
    Opt::flag(Some('p'), &["progress"], "show how far it is", |d| d.progress = true),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    // qemu-img's status 1 says that the line is wrong or that the disks differ, 2 that one can't be opened; formats,
    // cache modes and names are a part of opening there.
    let opening = |failure: Failure| match dialect {
        Dialect::Kiln => failure,
        Dialect::QemuImg => Failure { status: Status::Failed, ..failure },
    };
    let mut draft = Draft::default();
    let operands = match getopt::Reader::new(dialect, OPTIONS, args).read(&mut draft) {
        Ok(getopt::Read::Operands(operands)) => operands,
        Ok(getopt::Read::Help) => return Ok(Parsed::Print(help::verb(dialect, &ABOUT, OPTIONS))),
        Err(Wrong::Line(failure)) => return Err(failure),
        Err(Wrong::Value(failure)) => return Err(opening(failure)),
    };
    let [left, right] = &operands[..] else {
        return Err(match operands.get(2) {
            Some(more) => names::too_many(more),
            None => Failure::new(Status::Usage, "which images?").why("two files' names are expected"),
        });
    };
    Ok(Parsed::Do(Request::Compare(Compare {
        left: Side { file: names::file(left).map_err(opening)?, format: draft.left },
        right: Side { file: names::file(right).map_err(opening)?, format: draft.right },
        strict: draft.strict,
        cache: draft.cache.unwrap_or(Cache::Writeback),
        force_share: draft.force_share,
        progress: draft.progress && !draft.quiet,
        quiet: draft.quiet,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, K, Q};

    fn compare(line: &str) -> Compare {
        match testing::request(parse, Q, line) {
            Request::Compare(compare) => compare,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-f raw -F qcow2 -s -T none -U -p -q a b",
                "--a-format raw --b-format qcow2 --strict --cache none --force-share --progress --quiet a b",
                "--image-opts driver=raw b",
                "--object secret a b",
            ],
        );
        let full = compare("-sUp -f raw -F qcow2 -T none a b");
        assert!(full.strict && full.force_share && full.progress && !full.quiet);
        assert_eq!(full.left, Side { file: "a".into(), format: Some(Format::Raw) });
        assert_eq!(full.right, Side { file: "b".into(), format: Some(Format::Qcow2) });
        assert_eq!(full.cache, Cache::None);
        let plain = compare("a b");
        assert!(!plain.strict && !plain.force_share && !plain.progress && plain.cache == Cache::Writeback);
        assert!(compare("-p -q a b").quiet && !compare("-p -q a b").progress);
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "", "which images?");
        testing::refused(parse, Q, "a", "which images?");
        testing::refused(parse, Q, "a b c", "too many: c");
        testing::refused(parse, Q, "-x a b", "no option -x");
    }

    #[test]
    fn qemu_img_tells_a_wrong_line_from_what_it_can_not_open() {
        let status = |dialect, line: &str| parse(dialect, &testing::words(line)).unwrap_err().status;
        for line in ["-T bogus a b", "-f bogus a b", "-F bogus a b", "'' b", "a x:y"] {
            assert_eq!(status(Q, line), Status::Failed, "{line}");
            assert_eq!(status(K, line), Status::Usage, "{line}");
        }
        for line in ["a", "a b c", "-x a b"] {
            assert_eq!(status(Q, line), Status::Usage, "{line}");
        }
    }
}
