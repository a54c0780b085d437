//! A command's words as virsh reads them, made the words that kiln's own reader takes.
//!
//! virsh's operands have names: each may be given as `--NAME VALUE` or `--NAME=VALUE`, at any place; plain words fill those
//! that are left, in their order. What follows an option that has a value is the value, whatever it looks like, and
//! nothing is given twice.

use std::collections::BTreeSet;

use clap::{Arg, ArgAction, Command};

use super::{Words, wrong};
use crate::failure::Failure;

/// A verb's operands under virsh's names, in the order in which plain words fill them.
type Operands = (&'static str, &'static [&'static str]);

/// Verbs that this name has, virsh's among kiln's.
pub(super) const VERBS: &[Operands] = &[
    ("blockresize", &["domain", "path", "size"]),
    ("console", &["domain"]),
    ("create", &["file", "pass-fds"]),
    ("define", &["file"]),
    ("destroy", &["domain"]),
    ("domblklist", &["domain"]),
    ("domid", &["domain"]),
    ("domif-getlink", &["domain", "interface"]),
    ("domif-setlink", &["domain", "interface", "state"]),
    ("domifaddr", &["domain", "interface", "source"]),
    ("domiflist", &["domain"]),
    ("domifstat", &["domain", "interface"]),
    ("dominfo", &["domain"]),
    ("domname", &["domain"]),
    ("domstate", &["domain"]),
    ("domuuid", &["domain"]),
    ("dumpxml", &["domain"]),
    ("edit", &["domain"]),
    ("list", &[]),
    ("reboot", &["domain", "mode"]),
    ("reset", &["domain"]),
    ("resume", &["domain"]),
    ("screenshot", &["domain", "file"]),
    ("send-key", &["domain", "keycode"]),
    ("setmem", &["domain", "size"]),
    ("setvcpus", &["domain", "count"]),
    ("shutdown", &["domain", "mode"]),
    ("start", &["domain", "pass-fds"]),
    ("suspend", &["domain"]),
    ("undefine", &["domain", "storage"]),
    ("vncdisplay", &["domain"]),
];

/// Second names that virsh has for options: verb, name, the option.
const ALIASES: &[(&str, &str, &str)] = &[
    ("setmem", "kilobytes", "size"),
    ("domif-getlink", "persistent", "config"),
    ("domif-setlink", "persistent", "config"),
];

/// Options whose value virsh calls a number.
const NUMBERS: &[&str] = &["size", "count", "holdtime"];

/// A verb's operands; `None` when virsh has no such verb, or kiln not.
pub(super) fn operands(verb: &str) -> Option<&'static [&'static str]> {
    VERBS.iter().find(|(name, _)| *name == verb).map(|(_, operands)| *operands)
}

/// An option or operand of a verb, under virsh's name.
struct Word<'a> {
    name: &'a str,
    of: &'a Arg,
    /// Plain words fill it.
    is_operand: bool,
}

impl Word<'_> {
    fn has_value(&self) -> bool {
        matches!(self.of.get_action(), ArgAction::Set | ArgAction::Append)
    }

    fn is_many(&self) -> bool {
        self.is_operand && matches!(self.of.get_action(), ArgAction::Append)
    }
}

// All words that a verb knows, operands first.
fn known<'a>(verb: &'a Command, operands: &[&'static str]) -> Vec<Word<'a>> {
    let mut positionals = verb.get_positionals();
    let option = |name: &str| verb.get_opts().find(|option| option.get_long() == Some(name));
    let operand = |name: &&'static str| {
        let of = option(name).or_else(|| positionals.next())?;
        Some(Word { name, of, is_operand: true })
    };
    let mut all: Vec<Word<'a>> = operands.iter().filter_map(operand).collect();
    let others = verb.get_arguments().filter_map(|of| Some(Word { name: of.get_long()?, of, is_operand: false }));
    all.extend(others.filter(|word| !operands.contains(&word.name)));
    all
}

/// What was given for a word.
#[derive(Default)]
struct Given {
    flags: Vec<String>,
    options: Vec<String>,
    /// By the operand's place.
    operands: Vec<(usize, String)>,
    seen: BTreeSet<String>,
}

/// Makes the words of one command, its verb first, those of kiln's own reader.
///
/// # Errors
/// In virsh's words, where virsh does not understand it either.
pub(super) fn read(words: Words, verb: &Command, operands: &'static [&'static str]) -> Result<Words, Failure> {
    let name = verb.get_name();
    let known = known(verb, operands);
    let mut given = Given::default();
    let mut words = words.into_iter().skip(1);
    let mut plain_alone = false;
    while let Some(word) = words.next() {
        match word.strip_prefix("--").filter(|_| !plain_alone) {
            Some("") => plain_alone = true,
            Some(option) if option.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
                let (option, glued) = match option.split_once('=') {
                    Some((option, value)) => (option, Some(value.to_owned())),
                    None => (option, None),
                };
                given.option(name, &known, option, glued, &mut words)?;
            }
            _ => given.plain(&known, word)?,
        }
    }
    given.all(name, &known)
}

impl Given {
    fn option(
        &mut self,
        verb: &str,
        known: &[Word<'_>],
        option: &str,
        glued: Option<String>,
        more: &mut impl Iterator<Item = String>,
    ) -> Result<(), Failure> {
        let alias = ALIASES.iter().find(|(of, name, _)| *of == verb && *name == option);
        let option = alias.map_or(option, |(.., meant)| meant);
        let found = known.iter().enumerate().find(|(_, word)| word.name == option);
        let (place, word) =
            found.ok_or_else(|| wrong(format!("command '{verb}' doesn't support option --{option}")))?;
        if !word.is_many() && !self.seen.insert(option.to_owned()) {
            return Err(wrong(format!("option --{option} already seen")));
        }
        if !word.has_value() {
            if glued.is_some() {
                return Err(wrong(format!("invalid '=' after option --{option}")));
            }
            self.flags.push(format!("--{option}"));
            return Ok(());
        }
        let kind = if NUMBERS.contains(&option) { "number" } else { "string" };
        let value = glued.or_else(|| more.next());
        let value = value.ok_or_else(|| wrong(format!("expected syntax: --{option} <{kind}>")))?;
        self.value(place, word, value);
        Ok(())
    }

    fn plain(&mut self, known: &[Word<'_>], text: String) -> Result<(), Failure> {
        let mut free = known.iter().enumerate().filter(|(_, word)| word.is_operand);
        let next = free.find(|(_, word)| word.is_many() || !self.seen.contains(word.name));
        let (place, word) = next.ok_or_else(|| wrong(format!("unexpected data '{text}'")))?;
        self.seen.insert(word.name.to_owned());
        self.value(place, word, text);
        Ok(())
    }

    fn value(&mut self, place: usize, word: &Word<'_>, value: String) {
        match word.of.get_long() {
            // An operand without a value is one that wasn't given.
            Some(_) if value.is_empty() && word.is_operand => {}
            Some(long) => self.options.push(format!("--{long}={value}")),
            None => self.operands.push((place, value)),
        }
    }

    fn all(mut self, verb: &str, known: &[Word<'_>]) -> Result<Words, Failure> {
        for (place, word) in known.iter().enumerate().filter(|(_, word)| word.of.is_required_set()) {
            if !self.operands.iter().any(|(there, _)| *there == place) {
                return Err(wrong(format!("command '{verb}' requires <{}> option", word.name)));
            }
        }
        self.operands.sort_by_key(|(place, _)| *place);
        let mut words = vec!["virsh".into(), verb.to_owned()];
        words.extend(self.flags);
        words.extend(self.options);
        words.push("--".into());
        words.extend(self.operands.into_iter().map(|(_, value)| value));
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Line;
    use super::*;

    #[test]
    fn every_verb_has_names_for_its_operands() {
        let line = Line::command();
        for (name, operands) in VERBS {
            let verb = line.find_subcommand(name).unwrap_or_else(|| panic!("no verb {name}"));
            let known = known(verb, operands);
            let named = || known.iter().filter(|word| word.is_operand);
            assert_eq!(named().count(), operands.len(), "{name}");
            let positionals = named().filter(|word| word.of.get_long().is_none()).count();
            assert_eq!(positionals, verb.get_positionals().count(), "{name}");
        }
    }

    fn words(line: &str) -> Result<String, String> {
        let words: Words = line.split(' ').map(str::to_owned).collect();
        let line = Line::command();
        let verb = line.find_subcommand(&words[0]).unwrap();
        let operands = operands(&words[0]).unwrap();
        read(words, verb, operands).map(|words| words[2..].join(" ")).map_err(|failure| failure.told_by_virsh())
    }

    #[test]
    fn operands_have_names_and_any_place() {
        for line in [
            "setmem web 1024 --config",
            "setmem --size 1024 --domain web --config",
            "setmem --config --domain=web 1024",
            "setmem --kilobytes=1024 web --config",
            "setmem --config -- web 1024",
        ] {
            assert_eq!(words(line).unwrap(), "--config -- web 1024", "{line}");
        }
        assert_eq!(words("domifaddr web vnet0 lease").unwrap(), "--interface=vnet0 --source=lease -- web");
        assert_eq!(words("send-key web --keycode 37 18 --codeset usb").unwrap(), "--codeset=usb -- web 37 18");
        assert_eq!(words("domid --domain --all").unwrap(), "-- --all");
        assert_eq!(words("domid -x").unwrap(), "-- -x");
    }

    #[test]
    fn what_virsh_does_not_understand() {
        for (line, why) in [
            ("setmem web --size 1 --size 2", "option --size already seen"),
            ("setmem 1 --domain web", "option --domain already seen"),
            ("setmem --domain web web 1", "unexpected data '1'"),
            ("domid --domain", "expected syntax: --domain <string>"),
            ("setmem web --size", "expected syntax: --size <number>"),
            ("list --all=yes", "invalid '=' after option --all"),
            ("domid --dom web", "command 'domid' doesn't support option --dom"),
            ("send-key web", "command 'send-key' requires <keycode> option"),
            ("dumpxml web x", "unexpected data 'x'"),
        ] {
            assert_eq!(words(line), Err(format!("error: {why}\n")), "{line}");
        }
    }
}
