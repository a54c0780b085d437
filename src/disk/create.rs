//! `create`: a new disk.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::{self, New, Options, clash};
use super::table::Opt;
use super::values::{Format, put};
use super::{Dialect, Parsed, Request, names, size};
use crate::failure::{Failure, Status};

/// Make a disk.
#[derive(Debug)]
pub struct Create {
    /// Where.
    pub file: PathBuf,
    /// What.
    pub new: New,
    /// What the format was taken from.
    pub chosen_by: ChosenBy,
    /// The backing file isn't looked at; it need not be there.
    pub backing_unchecked: bool,
    /// Print nothing.
    pub quiet: bool,
    /// Replace a file that is there. Always so under the name qemu-img.
    pub force: bool,
}

/// What a new disk's format was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    /// It was given.
    Option,
    /// The file's name.
    Suffix,
    /// Nothing said any other.
    Default,
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    backing: Option<PathBuf>,
    backing_format: Option<Format>,
    options: Options,
    backing_unchecked: bool,
    quiet: bool,
    force: bool,
}

pub(super) const ABOUT: About = About {
    name: "create",
    operands: "FILE [SIZE]",
    signed: false,
    about: "Make a new disk",
    notes: &[
        "SIZE is in bytes, or a number with k, M, G, T, P or E behind. With a backing file it may be left out.",
        "-o help lists what the format lets you choose.",
    ],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2", |d, v| put(&mut d.format, v.format())),
    Opt::value(Some('o'), &["options"], "NAME=VALUE,…", "what else the format lets you choose",
        |d, v| d.options.add(v)),
    Opt::value(Some('b'), &["backing"], "FILE", "the disk below, of which the new one holds the changes",
        |d, v| put(&mut d.backing, v.file())),
    Opt::value(Some('F'), &["backing-format"], "FMT", "format of the disk below",
        |d, v| put(&mut d.backing_format, v.format())),
    Opt::flag(Some('u'), &["backing-unsafe"], "don't look for the disk below; SIZE must be given",
        |d| d.backing_unchecked = true),
    Opt::force(|d| d.force = true),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors", |d| d.quiet = true),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft, operands| draft.finish(dialect, operands))
}

impl Draft {
    fn finish(self, dialect: Dialect, operands: &[OsString]) -> Result<Parsed, Failure> {
        let named = operands.first().map(|name| names::file(name)).transpose();
        let (format, chosen_by) = match (self.format, &named, dialect) {
            (Some(format), ..) => (format, ChosenBy::Option),
            (None, Ok(Some(file)), Dialect::Kiln) => by_suffix(file)?,
            _ => (Format::Raw, ChosenBy::Default),
        };
        if self.options.asks_for_help() {
            return Ok(Parsed::Print(options::help(format)));
        }
        let Some(file) = named? else {
            return Err(Failure::new(Status::Usage, "which file?").why("a name for the new disk is expected"));
        };
        if let Some(more) = operands.get(2) {
            return Err(names::too_many(more));
        }
        if let Some(size) = self.options.last("size") {
            meant(dialect, size)?;
        }
        let mut draft = self.options.read(format)?;
        // -b and -F go before what -o says.
        draft.backing_file = self.backing.or(draft.backing_file);
        draft.backing_fmt = self.backing_format.or(draft.backing_fmt);
        let backed = draft.backing_file.is_some();
        if draft.backing_file.as_ref() == Some(&file) {
            return Err(clash("a disk can't lie below itself"));
        }
        let mut new = draft.finish(format)?;
        if let Some(size) = operands.get(1) {
            if new.size.is_some() {
                return Err(clash("the size is given twice, by itself and by -o size="));
            }
            new.size = Some(meant(dialect, &size.to_string_lossy())?);
        }
        if new.size.is_none() && (!backed || self.backing_unchecked) {
            return Err(clash("the size is missing").advise(format!(
                "{} create … {} 10G",
                dialect.words(),
                file.display()
            )));
        }
        let force = self.force || dialect == Dialect::QemuImg;
        let Self { backing_unchecked, quiet, .. } = self;
        Ok(Parsed::Do(Request::Create(Create { file, new, chosen_by, backing_unchecked, quiet, force })))
    }
}

fn by_suffix(file: &std::path::Path) -> Result<(Format, ChosenBy), Failure> {
    let suffix = file.extension().map(|suffix| suffix.to_string_lossy());
    let format = suffix.map(|suffix| Format::of_suffix(&suffix)).transpose();
    let advice = "-f raw or -f qcow2 makes one of these under that name";
    Ok(match format.map_err(|failure| failure.advise(advice))?.flatten() {
        Some(format) => (format, ChosenBy::Suffix),
        None => (Format::Raw, ChosenBy::Default),
    })
}

// Who types 10 has gigabytes in mind.
fn meant(dialect: Dialect, text: &str) -> Result<u64, Failure> {
    let wrong = |why: &str| Failure::new(Status::Usage, format!("size {text:?} can't be meant")).why(why);
    let bytes = size::parse(text).map_err(|no| wrong(no.why()))?;
    if dialect == Dialect::QemuImg || size::has_unit(text) || bytes >= 1 << 20 {
        return Ok(bytes);
    }
    let failure = wrong("sizes are in bytes");
    Err(match bytes {
        0 => failure.advise("0b if the disk is to be empty"),
        _ => failure.advise(format!("Did you mean {bytes}G?")).advise(format!("{bytes}b if it is to be that small")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::options::{Backing, Layout};
    use crate::disk::testing::{self, K, Q};

    fn create(dialect: Dialect, line: &str) -> Create {
        match testing::request(parse, dialect, line) {
            Request::Create(create) => create,
            other => panic!("{other:?}"),
        }
    }

    fn backing(create: &Create) -> Option<&Backing> {
        match &create.new.layout {
            Layout::Qcow2(qcow2) => qcow2.backing.as_ref(),
            Layout::Raw { .. } => None,
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-f qcow2 -o cluster_size=4k -b a -F raw -u -q x 1M",
                "--format=qcow2 --options compat=1.1 --backing a --backing-format qcow2 --backing-unsafe x 1M",
                "--quiet --force x 1M",
                "--object secret x",
            ],
        );
        let full = create(K, "-uqf qcow2 -b a -Fraw -o cluster_size=4k -o lazy_refcounts=on --force x 1M");
        assert!(full.backing_unchecked && full.quiet && full.force && full.chosen_by == ChosenBy::Option);
        assert_eq!((full.file.to_str(), full.new.size), (Some("x"), Some(1 << 20)));
        assert_eq!(backing(&full), Some(&Backing { file: "a".into(), format: Format::Raw }));
        let Layout::Qcow2(qcow2) = &full.new.layout else { panic!() };
        assert!(qcow2.lazy_refcounts && qcow2.cluster_size == 4096);
        let plain = create(Q, "x 1M");
        assert!(!plain.backing_unchecked && !plain.quiet && plain.force);
        assert_eq!(create(Q, "x 1M -f qcow2").chosen_by, ChosenBy::Option);
    }

    #[test]
    fn the_format_is_given_or_the_suffix_or_raw() {
        let chosen = |dialect, line: &str| {
            let create = create(dialect, line);
            (matches!(create.new.layout, Layout::Qcow2(_)), create.chosen_by)
        };
        assert_eq!(chosen(K, "a.qcow2 1G"), (true, ChosenBy::Suffix));
        assert_eq!(chosen(K, "a.qcow 1G"), (true, ChosenBy::Suffix));
        assert_eq!(chosen(K, "a.img 1G"), (false, ChosenBy::Suffix));
        assert_eq!(chosen(K, "a.raw 1G"), (false, ChosenBy::Suffix));
        assert_eq!(chosen(K, "a 1G"), (false, ChosenBy::Default));
        assert_eq!(chosen(K, "-f raw a.qcow2 1G"), (false, ChosenBy::Option));
        assert_eq!(chosen(K, "-f raw a.vmdk 1G"), (false, ChosenBy::Option));
        assert_eq!(chosen(Q, "a.qcow2 1G"), (false, ChosenBy::Default));
        assert_eq!(chosen(Q, "a.vmdk 1G"), (false, ChosenBy::Default));
        testing::refused(parse, K, "a.vmdk 1G", "not yet: format vmdk");
        testing::refused(parse, K, "-f vdi a 1G", "-f: not yet: format vdi");
    }

    #[test]
    fn a_small_size_is_asked_back_by_kiln_only() {
        testing::refused(parse, K, "a 10", "Did you mean 10G?");
        testing::refused(parse, K, "a 1048575", "1048575b if it is to be that small");
        testing::refused(parse, K, "-o size=10 a", "Did you mean 10G?");
        testing::refused(parse, K, "a 0", "0b if the disk is to be empty");
        for (line, want) in [("a 10b", 10), ("a 1k", 1024), ("a 0b", 0), ("a 1048576", 1 << 20)] {
            assert_eq!(create(K, line).new.size, Some(want), "{line}");
        }
        assert_eq!(create(Q, "a 10").new.size, Some(10));
        for line in ["a 1x", "a -- -1", "a 1KiB", "a 8E"] {
            testing::refused(parse, Q, line, "can't be meant");
        }
    }

    #[test]
    fn the_size_comes_once_or_from_below() {
        assert_eq!(create(Q, "-f qcow2 -o size=1M a").new.size, Some(1 << 20));
        assert_eq!(create(Q, "-f qcow2 -b b -F qcow2 a").new.size, None);
        testing::refused(parse, Q, "-f qcow2 -o size=1M a 2M", "given twice");
        testing::refused(parse, Q, "a", "the size is missing");
        testing::refused(parse, Q, "-u -f qcow2 -b b -F qcow2 a", "the size is missing");
    }

    #[test]
    fn what_lies_below_has_a_format_and_is_another_file() {
        testing::refused(parse, Q, "-f qcow2 -b b a", "format of the backing file b is missing");
        testing::refused(parse, Q, "-f qcow2 -u -b b a 1M", "format of the backing file b is missing");
        testing::refused(parse, Q, "-f qcow2 -F qcow2 a 1M", "without a backing file");
        testing::refused(parse, Q, "-b b -F qcow2 a 1M", "a raw disk has no backing file");
        testing::refused(parse, Q, "-f qcow2 -b a -F qcow2 a", "below itself");
        testing::refused(parse, Q, "-f qcow2 -b json:{} -F qcow2 a", "protocol");
        let both = create(Q, "-f qcow2 -b b -F qcow2 -o backing_file=c,backing_fmt=raw a");
        assert_eq!(backing(&both), Some(&Backing { file: "b".into(), format: Format::Qcow2 }));
    }

    #[test]
    fn lines_of_another_shape() {
        testing::refused(parse, Q, "", "which file?");
        testing::refused(parse, Q, "a 1M 2M", "too many: 2M");
        testing::refused(parse, Q, "-p a 1M", "no option -p");
        testing::refused(parse, Q, "--force a 1M", "no option --force");
        testing::refused(parse, Q, "nbd:x 1M", "protocol");
        testing::refused(parse, Q, "--object secret,id=a a 1M", "not yet: --object");
    }

    #[test]
    fn help_of_options_needs_no_file() {
        for line in ["-f qcow2 -o help", "-f qcow2 -o ? a 1M", "-f qcow2 -o cluster_size=4k,help a"] {
            assert!(testing::printed(parse, Q, line).contains("cluster_size="), "{line}");
        }
        assert!(!testing::printed(parse, Q, "-o help").contains("cluster_size="));
        assert!(testing::printed(parse, K, "-o help a.qcow2").contains("cluster_size="));
    }
}
