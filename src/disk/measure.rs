//! `measure`: how much space a new disk would take.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::{self, New, Options, clash};
use super::table::Opt;
use super::values::{Format, Output, Snapshot, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// Tell how much space a disk would take.
#[derive(Debug)]
pub struct Measure {
    /// Of what.
    pub of: Measured,
    /// As what.
    pub new: New,
    /// Read although somebody writes to it.
    pub force_share: bool,
    /// How to print.
    pub output: Output,
}

/// What is measured.
#[derive(Debug, PartialEq, Eq)]
pub enum Measured {
    /// An empty disk of so many bytes.
    Empty(u64),
    /// A disk that is there.
    Disk {
        /// Which.
        file: PathBuf,
        /// Its format, if it was given.
        format: Option<Format>,
        /// As it was then.
        snapshot: Option<Snapshot>,
    },
}

#[derive(Debug, Default)]
struct Draft {
    target_format: Option<Format>,
    options: Options,
    format: Option<Format>,
    snapshot: Option<Snapshot>,
    size: Option<u64>,
    force_share: bool,
    output: Output,
}

pub(super) const ABOUT: About = About {
    name: "measure",
    operands: "[FILE]",
    signed: false,
    about: "Tell how much space a disk would take",
    notes: &["Either FILE or --size says what would be in it."],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('O'), &["target-format"], "FMT", "format of the new disk; raw if not given",
        |d, v| put(&mut d.target_format, v.format())),
    Opt::value(Some('o'), &["target-format-options"], "NAME=VALUE,…", "what else that format lets you choose",
        |d, v| d.options.add(v)),
    Opt::value(Some('s'), &["size"], "SIZE", "the new disk is empty and as large", |d, v| put(&mut d.size, v.size())),
    Opt::value(Some('f'), &["format"], "FMT", "format of FILE; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::value(Some('l'), &["snapshot"], "SNAPSHOT", "FILE as it was in that snapshot",
        |d, v| put(&mut d.snapshot, v.snapshot())),
    Opt::flag(Some('U'), &["force-share"], "read FILE even while something writes to it", |d| d.force_share = true),
    Opt::value(None, &["output"], "human|json", "how to print", |d, v| put(&mut d.output, v.output())),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let target = draft.target_format.unwrap_or(Format::Raw);
        // qemu-img's measure takes help for a wrong option.
        if draft.options.asks_for_help() && dialect == Dialect::Kiln {
            return Ok(Parsed::Print(options::help(target)));
        }
        let of = match (draft.size, operands) {
            (Some(_), []) if draft.format.is_some() || draft.snapshot.is_some() => {
                return Err(clash("-f and -l speak of a file, and none is named"));
            }
            (Some(size), []) => Measured::Empty(size),
            (Some(_), [_, ..]) => return Err(clash("--size and a file exclude each other")),
            (None, []) => return Err(clash("a file or --size is expected")),
            (None, [file]) => {
                Measured::Disk { file: names::file(file)?, format: draft.format, snapshot: draft.snapshot }
            }
            (None, [_, more, ..]) => return Err(names::too_many(more)),
        };
        let new = draft.options.read(target)?.for_measure(target).finish(target)?;
        let Draft { force_share, output, .. } = draft;
        Ok(Parsed::Do(Request::Measure(Measure { of, new, force_share, output })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::options::Layout;
    use crate::disk::testing::{self, K, Q};
    use crate::disk::values::Preallocation;

    fn measure(line: &str) -> Measure {
        match testing::request(parse, Q, line) {
            Request::Measure(measure) => measure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-O qcow2 -o cluster_size=4k -f raw -l s1 -U x",
                "--target-format qcow2 --target-format-options cluster_size=4k --format raw --snapshot s1 x",
                "-s 1G",
                "--size 1G --force-share --output json",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        let full = measure("-U -O qcow2 -o cluster_size=4k,preallocation=full -f raw -l snapshot.id=1 --output=json x");
        assert!(full.force_share && full.output == Output::Json);
        let snapshot = Some(Snapshot::Exact { id: Some("1".into()), name: None });
        assert_eq!(full.of, Measured::Disk { file: "x".into(), format: Some(Format::Raw), snapshot });
        let Layout::Qcow2(qcow2) = full.new.layout else { panic!() };
        assert_eq!((qcow2.cluster_size, qcow2.preallocation), (4096, Preallocation::Full));
        let plain = measure("--size 1G --size=2G");
        assert_eq!(plain.of, Measured::Empty(2 << 30));
        assert!(!plain.force_share && plain.output == Output::Human);
    }

    #[test]
    fn options_without_a_bearing_on_space_are_let_pass() {
        for line in [
            "-O qcow2 -o backing_file=zz --size 1G",
            "-O qcow2 -o lazy_refcounts=on,compat=0.10 --size 1G",
            "-O raw -o preallocation=metadata --size 1G",
        ] {
            measure(line);
        }
    }

    #[test]
    fn lines_that_are_refused() {
        testing::refused(parse, Q, "", "a file or --size");
        testing::refused(parse, Q, "-O qcow2 -o size=1G", "a file or --size");
        testing::refused(parse, Q, "--size 1G x", "exclude each other");
        testing::refused(parse, Q, "-f raw --size 1G", "speak of a file");
        testing::refused(parse, Q, "-l s1 --size 1G", "speak of a file");
        testing::refused(parse, Q, "a b", "too many: b");
        testing::refused(parse, Q, "--size 1x", "can't be meant");
        testing::refused(parse, Q, "-O vmdk --size 1G", "not yet: format vmdk");
        testing::refused(parse, Q, "-O bogus --size 1G", "no format");
        testing::refused(parse, Q, "-O qcow2 -o bogus=1 --size 1G", "no option \"bogus\"");
        testing::refused(parse, Q, "-O qcow2 -o cluster_size=3000 --size 1G", "no power of two");
        testing::refused(parse, Q, "-O qcow2 -o help --size 1G", "no option \"help\"");
        assert!(testing::printed(parse, K, "-O qcow2 -o help").contains("cluster_size="));
    }
}
