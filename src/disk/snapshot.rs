//! `snapshot`: an image's internal snapshots.

use std::ffi::OsString;
use std::path::PathBuf;

use super::help::About;
use super::options::clash;
use super::table::Opt;
use super::values::{Format, Value, put};
use super::{Dialect, Parsed, Request, names};
use crate::failure::Failure;

/// List, make, go back to or remove an internal snapshot.
#[derive(Debug)]
pub struct SnapshotVerb {
    /// Where.
    pub file: PathBuf,
    /// Its format, if it was given.
    pub format: Option<Format>,
    /// What.
    pub action: Action,
    /// Look although somebody writes to it.
    pub force_share: bool,
    /// Print nothing.
    pub quiet: bool,
}

/// What is done with snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// List them.
    List,
    /// Make one of this name.
    Create(String),
    /// Give the disk the content that it had.
    Apply(String),
    /// Remove it.
    Delete(String),
}

#[derive(Debug, Default)]
struct Draft {
    format: Option<Format>,
    actions: Vec<Action>,
    force_share: bool,
    quiet: bool,
}

impl Draft {
    fn named(&mut self, value: &Value<'_>, action: fn(String) -> Action) -> Result<(), Failure> {
        self.actions.push(action(value.text()?.to_owned()));
        Ok(())
    }
}

pub(super) const ABOUT: About = About {
    name: "snapshot",
    operands: "FILE",
    signed: false,
    about: "List, make, go back to or remove snapshots inside a qcow2 disk",
    notes: &["Without -l, -c, -a or -d the snapshots are listed. -a and -d take an id or a name."],
};

#[rustfmt::skip]
const OPTIONS: &[Opt<Draft>] = &[
    Opt::flag(Some('l'), &["list"], "list them", |d| d.actions.push(Action::List)),
    Opt::value(Some('c'), &["create"], "NAME", "make one", |d, v| d.named(v, Action::Create)),
    Opt::value(Some('a'), &["apply"], "SNAPSHOT", "give the disk the content that it had then",
        |d, v| d.named(v, Action::Apply)),
    Opt::value(Some('d'), &["delete"], "SNAPSHOT", "remove one", |d, v| d.named(v, Action::Delete)),
    Opt::value(Some('f'), &["format"], "FMT", "raw or qcow2; found out if not given",
        |d, v| put(&mut d.format, v.format())),
    Opt::flag(Some('U'), &["force-share"], "list even while something writes to the disk", |d| d.force_share = true),
    Opt::flag(Some('q'), &["quiet"], "print nothing but errors, and what -l lists", |d| d.quiet = true),
    Opt::image_opts(),
    Opt::object(),
];

pub(super) fn parse(dialect: Dialect, args: &[OsString]) -> Result<Parsed, Failure> {
    super::verb(dialect, &ABOUT, OPTIONS, args, |draft: Draft, operands| {
        let Draft { format, actions, force_share, quiet } = draft;
        let action = match &actions[..] {
            [] => Action::List,
            [action] => action.clone(),
            _ => return Err(clash("only one of -l, -c, -a and -d can be done at a time")),
        };
        if force_share && action != Action::List {
            return Err(clash("-U only looks, and this writes"));
        }
        let file = names::one(operands)?;
        Ok(Parsed::Do(Request::Snapshot(SnapshotVerb { file, format, action, force_share, quiet })))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{self, Q};

    fn snapshot(line: &str) -> SnapshotVerb {
        match testing::request(parse, Q, line) {
            Request::Snapshot(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option() {
        testing::covers(
            parse,
            OPTIONS,
            &[
                "-l -U -f qcow2 -q x",
                "-c a x",
                "-a a x",
                "-d a x",
                "--list --force-share --format qcow2 --quiet x",
                "--create a x",
                "--apply a x",
                "--delete a x",
                "--image-opts driver=raw",
                "--object secret x",
            ],
        );
        assert_eq!(snapshot("x").action, Action::List);
        assert_eq!(snapshot("-l x").action, Action::List);
        assert_eq!(snapshot("-c a x").action, Action::Create("a".into()));
        assert_eq!(snapshot("-aa x").action, Action::Apply("a".into()));
        assert_eq!(snapshot("x -d a").action, Action::Delete("a".into()));
        assert_eq!(snapshot("-c '' x").action, Action::Create(String::new()));
        let full = snapshot("-qUlf qcow2 x");
        assert!(full.quiet && full.force_share);
        assert_eq!((full.format, full.file.to_str()), (Some(Format::Qcow2), Some("x")));
    }

    #[test]
    fn one_thing_at_a_time() {
        for line in ["-l -c y x", "-c y -l x", "-c y -d y x", "-a y -d y x", "-l -l x", "-c y -c z x"] {
            testing::refused(parse, Q, line, "only one of");
        }
        for line in ["-U -c y x", "-U -a y x", "-U -d y x"] {
            testing::refused(parse, Q, line, "-U only looks");
        }
        testing::refused(parse, Q, "-c x", "which image?");
        testing::refused(parse, Q, "-c", "-c needs a value");
        testing::refused(parse, Q, "-l a b", "too many: b");
    }
}
