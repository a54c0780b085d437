//! `info`: what an image is.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::table::Opt;
use super::values::{Format, Output, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// Tell about an image.
#[derive(Debug)]
pub struct Info {
    /// Which.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// Tell about what lies below as well.
    pub backing_chain: bool,
    /// Look although somebody writes to it.
    pub force_share: bool,
    /// How to print.
    pub output: Output,
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    backing_chain: bool,
    force_share: bool,
    output: Output,
}

pub(super) const ABOUT: About =
    About { name: "info", operands: "FILE", signed: false, about: "Tell what a disk image is", notes: &[] };

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::flag(None, &["backing-chain"], "tell about all that lies below as well", |d| d.backing_chain = true),
    Opt::flag(Some('U'), &["force-share"], "look even while something writes to it", |d| d.force_share = true),
    Opt::value(None, &["output"], "human|json", "how to print", |d, v| put(&mut d.output, v.output())),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let Draft { format, backing_chain, force_share, output } = draft;
        let file = names::one(operands)?;
        Ok(Parsed::Do(Request::Info(Info { file, format, backing_chain, force_share, output })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, Q};

    fn info(line: &str) -> Info {
        match testing::request(parse, Q, line) {
            Request::Info(info) => info,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-f raw -U x",
                "--format raw --force-share --backing-chain --output=json x",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        let full = info("-Uf qcow2 x --backing --out json");
        assert!(full.backing_chain && full.force_share);
        assert_eq!((full.format, full.output), (Some(Format::Qcow2), Output::Json));
        let plain = info("-- -x");
        assert!(!plain.backing_chain && !plain.force_share);
        assert_eq!((plain.file.to_str(), plain.format, plain.output), (Some("-x"), None, Output::Human));
        assert_eq!(info("x --output=json --output=human").output, Output::Human);
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "", "which image?");
        testing::refused(parse, Q, "a b", "too many: b");
        testing::refused(parse, Q, "''", "name is empty");
        testing::refused(parse, Q, "x:y", "protocol");
        testing::refused(parse, Q, "--output=xml x", "human and json");
        testing::refused(parse, Q, "--backing-chain=1 x", "takes no value");
        testing::refused(parse, Q, "-q x", "no option -q");
        testing::refused(parse, Q, "-f", "-f needs a value: FMT");
        testing::refused(parse, Q, "-f bogus x", "no format \"bogus\"");
        testing::refused(parse, Q, "--image-opts driver=raw", "not yet: --image-opts");
    }
}
