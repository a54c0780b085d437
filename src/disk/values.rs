//! Values of options: formats, cache modes, sizes, file names. Each says what was expected where it is refused.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{names, size};
use crate::cli;
use crate::failure::{Failure, Status};

/// A disk's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The guest's bytes and nothing else.
    Raw,
    /// QEMU's own, versions 2 and 3.
    Qcow2,
}

const FORMATS: &[&str] = &["raw", "qcow2"];
/// QEMU's other formats, and what people call them.
const LATER: &[&str] =
    &["vmdk", "vdi", "vhdx", "vpc", "vhd", "qed", "luks", "parallels", "qcow", "dmg", "bochs", "cloop"];

impl Format {
    /// The format of that name.
    pub(super) fn named(name: &str) -> Result<Self, Failure> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            later if LATER.contains(&later) => {
                Err(Failure::new(Status::Usage, format!("not yet: format {later}")).why("kiln has raw and qcow2"))
            }
            _ => {
                let failure = Failure::new(Status::Usage, format!("there is no format {name:?}"));
                Err(cli::suggest(failure.why("kiln has raw and qcow2"), name, FORMATS))
            }
        }
    }

    /// The format that a new file's name speaks of, if it does.
    ///
    /// # Errors
    /// When that is one that can't be made yet.
    pub(crate) fn of_suffix(suffix: &str) -> Result<Option<Self>, Failure> {
        match &*suffix.to_ascii_lowercase() {
            "qcow2" | "qcow" => Ok(Some(Self::Qcow2)),
            "img" | "raw" => Ok(Some(Self::Raw)),
            later if LATER.contains(&later) => Self::named(later).map(Some),
            _ => Ok(None),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// How a file is opened and flushed; QEMU's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// O_DIRECT, flushed at the end.
    None,
    /// Through the page cache, flushed at the end.
    Writeback,
    /// Through the page cache, each write flushed.
    Writethrough,
    /// O_DIRECT, each write flushed.
    Directsync,
    /// Through the page cache, never flushed.
    Unsafe,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// How much of a new disk is laid out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The tables; the data stays a hole. qcow2 only.
    Metadata,
    /// Everything, by fallocate.
    Falloc,
    /// Everything, by writing zeros.
    Full,
}

impl Preallocation {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "off" => Self::Off,
            "metadata" => Self::Metadata,
            "falloc" => Self::Falloc,
            "full" => Self::Full,
            _ => return None,
        })
    }
}

/// How `-l` names an internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// By id, and if there is none, by name.
    IdOrName(String),
    /// By what is given of the two.
    Exact {
        /// Its id.
        id: Option<String>,
        /// Its name.
        name: Option<String>,
    },
}

/// Keeps a value that could be read.
pub(super) fn put<S: From<T>, T>(slot: &mut S, value: Result<T, Failure>) -> Result<(), Failure> {
    *slot = value?.into();
    Ok(())
}

/// An option's value as it was typed.
pub(super) struct Value<'a> {
    /// The option as it was typed.
    pub(super) option: &'a str,
    pub(super) given: &'a OsStr,
}

impl Value<'_> {
    pub(super) fn text(&self) -> Result<&str, Failure> {
        self.given.to_str().ok_or_else(|| self.wrong("that is not UTF-8"))
    }

    pub(super) fn wrong(&self, why: impl Into<String>) -> Failure {
        Failure::new(Status::Usage, format!("{} {:?} can't be meant", self.option, self.given)).why(why)
    }

    pub(super) fn format(&self) -> Result<Format, Failure> {
        Format::named(self.text()?)
            .map_err(|failure| Failure { what: format!("{}: {}", self.option, failure.what), ..failure })
    }

    pub(super) fn cache(&self) -> Result<Cache, Failure> {
        Ok(match self.text()? {
            "none" | "off" => Cache::None,
            "writeback" => Cache::Writeback,
            "writethrough" => Cache::Writethrough,
            "directsync" => Cache::Directsync,
            "unsafe" => Cache::Unsafe,
            _ => return Err(self.wrong("there are none, writeback, writethrough, directsync and unsafe")),
        })
    }

    pub(super) fn output(&self) -> Result<Output, Failure> {
        match self.text()? {
            "human" => Ok(Output::Human),
            "json" => Ok(Output::Json),
            _ => Err(self.wrong("there are human and json")),
        }
    }

    pub(super) fn preallocation(&self) -> Result<Preallocation, Failure> {
        Preallocation::named(self.text()?).ok_or_else(|| self.wrong("there are off, metadata, falloc and full"))
    }

    pub(super) fn size(&self) -> Result<u64, Failure> {
        size::parse(self.text()?).map_err(|no| self.wrong(no.why()))
    }

    pub(super) fn number(&self, range: RangeInclusive<u8>) -> Result<u8, Failure> {
        let number = self.text()?.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.wrong(format!("a number from {} to {} is expected", range.start(), range.end())))
    }

    pub(super) fn file(&self) -> Result<PathBuf, Failure> {
        names::file(self.given)
    }

    /// `NAME`, `ID`, or `snapshot.id=ID,snapshot.name=NAME`.
    pub(super) fn snapshot(&self) -> Result<Snapshot, Failure> {
        let text = self.text()?;
        if !text.starts_with("snapshot.") {
            return Ok(Snapshot::IdOrName(text.to_owned()));
        }
        let (mut id, mut name) = (None, None);
        for part in super::options::split(text) {
            match part.split_once('=') {
                Some(("snapshot.id", value)) => id = Some(value.to_owned()),
                Some(("snapshot.name", value)) => name = Some(value.to_owned()),
                _ => return Err(self.wrong("NAME is expected, or snapshot.id=ID, snapshot.name=NAME, or both")),
            }
        }
        Ok(Snapshot::Exact { id, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value<'_> {
        Value { option: "-x", given: OsStr::new(text) }
    }

    #[test]
    fn formats_that_come_later_are_told_from_those_that_never_were() {
        assert_eq!(value("raw").format().unwrap(), Format::Raw);
        assert_eq!(value("qcow2").format().unwrap(), Format::Qcow2);
        for later in LATER {
            let text = value(later).format().unwrap_err().to_string();
            assert!(text.contains(&format!("-x: not yet: format {later}")), "{text}");
        }
        let text = value("qcow3").format().unwrap_err().to_string();
        assert!(text.contains("no format \"qcow3\"") && text.contains("Did you mean qcow2?"), "{text}");
        assert!(value("QCOW2").format().is_err());
        assert!(value("").format().is_err());
    }

    #[test]
    fn suffixes_speak_of_formats() {
        for (suffix, want) in
            [("qcow2", Some(Format::Qcow2)), ("QCOW", Some(Format::Qcow2)), ("img", Some(Format::Raw))]
        {
            assert_eq!(Format::of_suffix(suffix).unwrap(), want);
        }
        assert_eq!(Format::of_suffix("raw").unwrap(), Some(Format::Raw));
        assert_eq!(Format::of_suffix("disk").unwrap(), None);
        for later in ["vmdk", "vdi", "vhdx", "vpc", "vhd", "qed", "VMDK"] {
            assert!(Format::of_suffix(later).unwrap_err().to_string().contains("not yet: format"), "{later}");
        }
    }

    #[test]
    fn words_that_stand_for_modes() {
        for (text, want) in [
            ("none", Cache::None),
            ("off", Cache::None),
            ("writeback", Cache::Writeback),
            ("writethrough", Cache::Writethrough),
            ("directsync", Cache::Directsync),
            ("unsafe", Cache::Unsafe),
        ] {
            assert_eq!(value(text).cache().unwrap(), want);
        }
        assert!(value("fast").cache().unwrap_err().to_string().contains("directsync"));
        assert_eq!(value("json").output().unwrap(), Output::Json);
        assert_eq!(value("human").output().unwrap(), Output::Human);
        assert!(value("xml").output().is_err() && value("").output().is_err());
        assert_eq!(value("falloc").preallocation().unwrap(), Preallocation::Falloc);
        assert!(value("on").preallocation().is_err());
        assert_eq!(value("16").number(1..=16).unwrap(), 16);
        assert!(value("17").number(1..=16).is_err() && value("4k").number(1..=16).is_err());
    }

    #[test]
    fn snapshots_by_name_id_or_both() {
        assert_eq!(value("s1").snapshot().unwrap(), Snapshot::IdOrName("s1".into()));
        assert_eq!(value("").snapshot().unwrap(), Snapshot::IdOrName(String::new()));
        let exact = |id: Option<&str>, name: Option<&str>| Snapshot::Exact {
            id: id.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        assert_eq!(value("snapshot.id=1").snapshot().unwrap(), exact(Some("1"), None));
        assert_eq!(value("snapshot.name=a,,b,snapshot.id=2").snapshot().unwrap(), exact(Some("2"), Some("a,b")));
        for wrong in ["snapshot.", "snapshot.foo", "snapshot.bogus=1", "snapshot.name=a,b"] {
            assert!(value(wrong).snapshot().is_err(), "{wrong}");
        }
    }
}
