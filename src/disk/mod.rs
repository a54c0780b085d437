//! `kiln disk` and the name `qemu-img`: from words to a typed [`Request`].
//!
//! One file per verb holds its request, its table of options and what can't go together. Only the called verb's table
//! is looked at. What a verb does to files is not here: that is [`perform`] and the image library.

mod check;
mod commit;
mod compare;
mod convert;
mod create;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod getopt;
mod help;
mod info;
mod map;
mod measure;
mod names;
mod options;
mod perform;
mod rebase;
mod resize;
mod size;
mod snapshot;
mod table;
mod values;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

pub use check::{Check, Repair};
pub use commit::Commit;
pub use compare::{Compare, Side};
pub use convert::{Convert, Target};
pub use create::{ChosenBy, Create};
pub use info::Info;
pub use map::Map;
pub use measure::{Measure, Measured};
pub use options::{Backing, Compression, Layout, New, Qcow2};
pub(crate) use perform::lengthen_raw;
pub use perform::perform;
pub use rebase::{Onto, Rebase};
pub use resize::Resize;
pub use size::Change;
pub use snapshot::{Action, SnapshotVerb};
pub use values::{Cache, Format, Output, Preallocation, Snapshot};

use crate::cli::{self, dashes};
use crate::failure::{Failure, Status};
use help::About;

/// Whose habits a line is read with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `kiln disk`: kiln's exit statuses and safer defaults.
    Kiln,
    /// The name `qemu-img`: its defaults and exit statuses.
    QemuImg,
}

impl Dialect {
    /// What one types to get here.
    pub fn words(self) -> &'static str {
        match self {
            Self::Kiln => "kiln disk",
            Self::QemuImg => "qemu-img",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Kiln => "kiln",
            Self::QemuImg => "qemu-img",
        }
    }
}

/// What is asked for, every value checked as far as it can be without looking at files.
#[derive(Debug)]
pub enum Request {
    /// Make a disk.
    Create(Create),
    /// Tell about one.
    Info(Info),
    /// Look for damage, and mend it.
    Check(Check),
    /// Copy into another format.
    Convert(Box<Convert>),
    /// Make one larger or smaller.
    Resize(Resize),
    /// Internal snapshots.
    Snapshot(SnapshotVerb),
    /// Give one another backing file.
    Rebase(Rebase),
    /// Write one's changes into what lies below.
    Commit(Commit),
    /// List what is allocated where.
    Map(Map),
    /// Tell whether two hold the same.
    Compare(Compare),
    /// Tell how much space one would take.
    Measure(Measure),
}

impl Request {
    /// The verb that asked.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => create::ABOUT.name,
            Self::Info(_) => info::ABOUT.name,
            Self::Check(_) => check::ABOUT.name,
            Self::Convert(_) => convert::ABOUT.name,
            Self::Resize(_) => resize::ABOUT.name,
            Self::Snapshot(_) => snapshot::ABOUT.name,
            Self::Rebase(_) => rebase::ABOUT.name,
            Self::Commit(_) => commit::ABOUT.name,
            Self::Map(_) => map::ABOUT.name,
            Self::Compare(_) => compare::ABOUT.name,
            Self::Measure(_) => measure::ABOUT.name,
        }
    }
}

/// What a line comes to.
#[derive(Debug)]
enum Parsed {
    Do(Request),
    /// Help was asked for: this is it.
    Print(String),
}

struct Verb {
    about: &'static About,
    parse: fn(Dialect, &[OsString]) -> Result<Parsed, Failure>,
}

const VERBS: &[Verb] = &[
    Verb { about: &create::ABOUT, parse: create::parse },
    Verb { about: &info::ABOUT, parse: info::parse },
    Verb { about: &check::ABOUT, parse: check::parse },
    Verb { about: &convert::ABOUT, parse: convert::parse },
    Verb { about: &resize::ABOUT, parse: resize::parse },
    Verb { about: &snapshot::ABOUT, parse: snapshot::parse },
    Verb { about: &rebase::ABOUT, parse: rebase::parse },
    Verb { about: &commit::ABOUT, parse: commit::parse },
    Verb { about: &map::ABOUT, parse: map::parse },
    Verb { about: &compare::ABOUT, parse: compare::parse },
    Verb { about: &measure::ABOUT, parse: measure::parse },
];

/// qemu-img's verbs that kiln lacks: why, and what to do instead.
const LATER: &[(&str, &str)] = &[
    ("amend", "convert to a new disk with the options that you want, or rebase for the backing file"),
    ("bench", "it measures QEMU's own engine, which isn't here; fio measures a disk"),
    ("bitmap", "bitmaps are kept, not changed so far"),
    ("dd", "convert copies whole disks; of a raw disk's parts dd(1) itself makes a copy"),
];

/// The options before any verb.
#[derive(Default)]
struct Standard {
    version: bool,
}

const STANDARD: &[table::Opt<Standard>] = &[
    table::Opt::flag(Some('V'), &["version"], "print the version", |s| s.version = true),
    table::Opt {
        short: Some('T'),
        longs: &["trace"],
        does: table::Does::Refused { value: true, why: "there are no trace points" },
        about: "",
        own: false,
    },
];

/// Runs `kiln disk …` or `qemu-img …`; `args` begin with the verb.
pub fn main(dialect: Dialect, args: &[OsString]) -> ExitCode {
    let result = parse(dialect, args).and_then(|parsed| match parsed {
        Parsed::Do(request) => perform(dialect, request),
        Parsed::Print(text) => cli::print(&text).map(|()| ExitCode::SUCCESS),
    });
    result.unwrap_or_else(|failure| {
        let _ = std::io::stderr().write_all(failure.told_by(dialect.program()).as_bytes());
        exit(dialect, args, &failure)
    })
}

// qemu-img has one status for every error, but compare's 1 means "they differ" once the line is understood.
fn exit(dialect: Dialect, args: &[OsString], failure: &Failure) -> ExitCode {
    let compare = args.first().is_some_and(|verb| verb == compare::ABOUT.name);
    match (dialect, failure.status) {
        (Dialect::Kiln, status) | (_, status @ Status::Interrupted) => status.into(),
        (Dialect::QemuImg, Status::Usage) => ExitCode::from(1),
        (Dialect::QemuImg, _) => ExitCode::from(if compare { 2 } else { 1 }),
    }
}

fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    let program = dialect.words().split(' ').map(OsString::from);
    dashes::check(&program.chain(args.iter().cloned()).collect::<Vec<_>>())?;
    // A lone dash is a word, and two end the options.
    let is_option = |arg: &OsString| arg != "-" && arg.to_string_lossy().starts_with('-');
    let first = args.iter().position(|arg| !is_option(arg)).unwrap_or(args.len());
    let first = args.iter().position(|arg| arg == "--").map_or(first, |end| first.min(end + 1));
    let (before, after) = args.split_at(first);
    let mut standard = Standard::default();
    if let getopt::Read::Help = getopt::Reader::new(dialect, STANDARD, before).read(&mut standard)? {
        return Ok(Parsed::Print(help::all(dialect, VERBS.iter().map(|verb| verb.about))));
    }
    if standard.version {
        return Ok(Parsed::Print(version(dialect)));
    }
    let Some((name, args)) = after.split_first() else {
        let failure = Failure::new(Status::Usage, "which verb?");
        return Err(failure.advise(format!("{} --help lists those there are", dialect.words())));
    };
    let name = name.to_string_lossy();
    match VERBS.iter().find(|verb| verb.about.name == name) {
        Some(verb) => (verb.parse)(dialect, args),
        None => Err(no_verb(dialect, &name)),
    }
}

// Reads a verb's line and makes a request of it, unless its help was asked for.
fn verb<T: Default>(
    dialect: Dialect,
    about: &About,
    table: &[table::Opt<T>],
    args: &[OsString],
    request: impl FnOnce(T, &[OsString]) -> Result<Parsed, Failure>,
) -> Result<Parsed, Failure> {
    let mut draft = T::default();
    match getopt::Reader::new(dialect, table, args).signed(about.signed).read(&mut draft)? {
        getopt::Read::Help => Ok(Parsed::Print(help::verb(dialect, about, table))),
        getopt::Read::Operands(operands) => request(draft, &operands),
    }
}

fn no_verb(dialect: Dialect, name: &str) -> Failure {
    if let Some((_, why)) = LATER.iter().find(|(later, _)| *later == name) {
        return Failure::new(Status::Usage, format!("not yet: {} {name}", dialect.words())).why(*why);
    }
    let failure = Failure::new(Status::Usage, format!("{} has no verb {name:?}", dialect.words()));
    let known: Vec<&str> = VERBS.iter().map(|verb| verb.about.name).collect();
    cli::suggest(failure, name, &known).advise(format!("{} --help lists those there are", dialect.words()))
}

// Programs read the number behind "version" to find out what they can ask for.
fn version(dialect: Dialect) -> String {
    let own = env!("CARGO_PKG_VERSION");
    match dialect {
        Dialect::Kiln => format!("kiln {own}\n"),
        Dialect::QemuImg => format!("qemu-img version 10.0.0 (kiln {own})\n"),
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
