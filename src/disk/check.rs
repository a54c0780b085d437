//! `check`: is an image sound, and mending it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::clash;
use super::table::Opt;
use super::values::{Cache, Format, Output, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// Look for damage.
#[derive(Debug)]
pub struct Check {
    /// Where.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// What to mend; nothing if none.
    pub repair: Option<Repair>,
    /// How to open it.
    pub cache: Cache,
    /// Look although somebody writes to it.
    pub force_share: bool,
    /// How to print.
    pub output: Output,
    /// Print nothing.
    pub quiet: bool,
}

/// What is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Clusters that nothing uses are freed.
    Leaks,
    /// Everything.
    All,
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    repair: Option<Repair>,
    cache: Option<Cache>,
    force_share: bool,
    output: Output,
    quiet: bool,
}

pub(super) const ABOUT: About = About {
    name: "check",
    operands: "FILE",
    signed: false,
    about: "Look for damage in a disk image, and mend it",
    notes: &[
        "-r leaks only frees what nothing uses. -r all also decides what a damaged table may have meant: keep a copy.",
    ],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::value(Some('r'), &["repair"], "leaks|all", "mend", |d, v| {
        d.repair = Some(match v.text()? {
            "leaks" => Repair::Leaks,
            "all" => Repair::All,
            _ => return Err(v.wrong("there are leaks and all")),
        });
        Ok(())
    }),
    Opt::value(Some('T'), &["cache"], "CACHE", "how to open the image", |d, v| put(&mut d.cache, v.cache())),
    Opt::flag(Some('U'), &["force-share"], "look even while something writes to it; then nothing is mended",
        |d| d.force_share = true),
    Opt::value(None, &["output"], "human|json", "how to print", |d, v| put(&mut d.output, v.output())),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let Draft { format, repair, cache, force_share, output, quiet } = draft;
        if force_share && repair.is_some() {
            return Err(clash("-U only looks, -r writes"));
        }
        let cache = cache.unwrap_or(Cache::Writeback);
        let file = names::one(operands)?;
        Ok(Parsed::Do(Request::Check(Check { file, format, repair, cache, force_share, output, quiet })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, Q};

    fn check(line: &str) -> Check {
        match testing::request(parse, Q, line) {
            Request::Check(check) => check,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-f raw -r leaks -T none -q x",
                "-U x",
                "--format raw --repair all --cache unsafe --output json --quiet x",
                "--force-share x",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        let full = check("-q -fqcow2 -rall -T none --output=json x");
        assert!(full.quiet && !full.force_share);
        assert_eq!((full.format, full.repair, full.cache), (Some(Format::Qcow2), Some(Repair::All), Cache::None));
        assert_eq!((full.output, full.file.to_str()), (Output::Json, Some("x")));
        let plain = check("-U x");
        assert!(plain.force_share && !plain.quiet);
        assert_eq!((plain.repair, plain.cache), (None, Cache::Writeback));
        assert_eq!(check("--rep leaks x").repair, Some(Repair::Leaks));
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "-U -r all x", "-U only looks");
        testing::refused(parse, Q, "-r x", "there are leaks and all");
        testing::refused(parse, Q, "-T bogus x", "writethrough");
        testing::refused(parse, Q, "-t none x", "no option -t");
        testing::refused(parse, Q, "--output= x", "human and json");
        testing::refused(parse, Q, "a b", "too many: b");
        testing::refused(parse, Q, "", "which image?");
    }
}
