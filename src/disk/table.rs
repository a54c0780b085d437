//! Tables of options: what is read, and what the help lists.

use super::values::Value;
use crate::failure::Failure;

/// What an option does to a verb's draft.
pub(super) enum Does<T> {
    Flag(fn(&mut T)),
    /// Takes a value, called by this name in the help.
    Value(&'static str, fn(&mut T, &Value<'_>) -> Result<(), Failure>),
    /// Known from qemu-img and refused: what is missing, and what to do instead.
    Refused {
        value: bool,
        why: &'static str,
    },
}

/// An option with all its spellings.
pub(super) struct Opt<T: 'static> {
    pub(super) short: Option<char>,
    /// The first is the one that the help shows.
    pub(super) longs: &'static [&'static str],
    pub(super) does: Does<T>,
    /// What it is for, for the help.
    pub(super) about: &'static str,
    /// `kiln disk` has it, qemu-img doesn't.
    pub(super) own: bool,
}

impl<T> Opt<T> {
    pub(super) const fn flag(
        short: Option<char>,
        longs: &'static [&'static str],
        about: &'static str,
        set: fn(&mut T),
    ) -> Self {
        Self { short, longs, does: Does::Flag(set), about, own: false }
    }

    pub(super) const fn value(
        short: Option<char>,
        longs: &'static [&'static str],
        what: &'static str,
        about: &'static str,
        set: fn(&mut T, &Value<'_>) -> Result<(), Failure>,
    ) -> Self {
        Self { short, longs, does: Does::Value(what, set), about, own: false }
    }

    /// `--force`, which qemu-img doesn't know.
    pub(super) const fn force(set: fn(&mut T)) -> Self {
        Self { short: None, longs: &["force"], does: Does::Flag(set), about: "replace a file that is there", own: true }
    }

    pub(super) const fn object() -> Self {
        let why = "objects carry the keys of encrypted images, which kiln can't read yet";
        Self { short: None, longs: &["object"], does: Does::Refused { value: true, why }, about: "", own: false }
    }

    pub(super) const fn image_opts() -> Self {
        let why = "name the file, and its format with -f";
        let does = Does::Refused { value: false, why };
        Self { short: None, longs: &["image-opts"], does, about: "", own: false }
    }

    pub(super) const fn refused(longs: &'static [&'static str], why: &'static str) -> Self {
        Self { short: None, longs, does: Does::Refused { value: false, why }, about: "", own: false }
    }

    pub(super) fn takes_value(&self) -> bool {
        matches!(self.does, Does::Value(..) | Does::Refused { value: true, .. })
    }
}
