//! Menus of GRUB (its manual, "Commands" and "Shell-like scripting"), as far as a menu on an install medium goes:
//! entries, variables that were set to a word, files that are named by a path. Conditions are taken both ways.

use std::collections::BTreeMap;

use super::menu::{Entry, Files, MOST_ENTRIES};
use super::{Tree, paths};
use crate::failure::Failure;

/// Longest word after variables have been put in (they may name each other), and longest line.
const LONGEST_WORD: usize = 4096;
const LONGEST_LINE: usize = 16 * LONGEST_WORD;
/// What stands for a variable of which nothing is known: GRUB may set it from what it finds.
const UNKNOWN: char = '\0';
/// Variables that are remembered.
const MOST_VARIABLES: usize = 256;

struct Reading<'a> {
    files: Files<'a>,
    variables: BTreeMap<String, String>,
    entries: Vec<Entry>,
}

/// Reads the menu that begins in a file.
pub(super) fn read(tree: &dyn Tree, path: &str) -> Result<Vec<Entry>, Failure> {
    let mut reading = Reading { files: Files::of(tree), variables: BTreeMap::new(), entries: Vec::new() };
    // GRUB looks for a medium's files from its root.
    reading.variables.insert("prefix".into(), format!("/{}", paths::folder(path)));
    reading.file(path)?;
    let default = reading.variables.get("default").cloned().unwrap_or_else(|| "0".into());
    for (number, entry) in reading.entries.iter_mut().enumerate() {
        entry.is_default = entry.label == default || number.to_string() == default;
    }
    Ok(reading.entries)
}

impl Reading<'_> {
    fn file(&mut self, path: &str) -> Result<(), Failure> {
        let Some(text) = self.files.text(path)? else { return Ok(()) };
        for line in text.replace("\\\r\n", " ").replace("\\\n", " ").lines() {
            let words = words(line, &self.variables);
            if let Some((command, arguments)) = words.split_first() {
                self.command(command, arguments)?;
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &str, arguments: &[String]) -> Result<(), Failure> {
        match command {
            "set" => {
                let room = self.variables.len() < MOST_VARIABLES;
                if let Some((name, value)) = arguments.first().and_then(|word| word.split_once('=')).filter(|_| room) {
                    self.variables.insert(name.to_owned(), value.to_owned());
                }
            }
            "source" | "." | "configfile" => {
                if let Some(path) = arguments.first().and_then(|path| inside(path)) {
                    self.file(&path)?;
                }
            }
            "menuentry" if self.entries.len() < MOST_ENTRIES => {
                let label = arguments.first().cloned().unwrap_or_default();
                self.entries.push(Entry { label, ..Entry::default() });
            }
            "linux" | "linux16" | "linuxefi" => {
                if let (Some(entry), Some((kernel, words))) = (self.entries.last_mut(), arguments.split_first()) {
                    entry.kernel = inside(kernel).unwrap_or_default();
                    entry.words = words.iter().filter(|word| !word.contains(UNKNOWN)).cloned().collect();
                }
            }
            "initrd" | "initrd16" | "initrdefi" => {
                if let Some(entry) = self.entries.last_mut() {
                    let paths: Option<Vec<String>> = arguments.iter().map(|path| inside(path)).collect();
                    entry.initrd = paths.unwrap_or_default();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

// A device in brackets is the medium itself, and what is unknown mostly nothing.
fn inside(path: &str) -> Option<String> {
    let path = match path.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?.1,
        None => path,
    };
    paths::inside("", &path.replace(UNKNOWN, ""))
}

/// The words of a line, quotes taken away and variables put in. Comments and lone braces are none.
fn words(line: &str, variables: &BTreeMap<String, String>) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut len = 0;
    let mut quote = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (_, Some(end)) if letter == end => quote = None,
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            ('$', None | Some('"')) => {
                let mut name = String::new();
                let braced = letters.next_if_eq(&'{').is_some();
                while let Some(letter) = letters.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(letter);
                }
                if braced {
                    letters.next_if_eq(&'}');
                }
                let value = variables.get(&name).map_or(UNKNOWN.to_string(), String::clone);
                word.get_or_insert_default().push_str(&value);
            }
            ('#', None) if word.is_none() => break,
            (' ' | '\t' | '\r' | ';', None) => {
                len += word.as_ref().map_or(0, String::len);
                words.extend(word.take());
            }
            (letter, _) => word.get_or_insert_default().push(letter),
        }
        if len > LONGEST_LINE || word.as_ref().is_some_and(|word| word.len() > LONGEST_WORD) {
            return Vec::new();
        }
    }
    words.extend(word);
    words.retain(|word| !matches!(word.as_str(), "{" | "}"));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::find::testing::Files;

    #[test]
    fn a_menu_with_variables_and_a_second_file() {
        let tree = Files::new(&[
            (
                "boot/grub/grub.cfg",
                "probe --set id --fs-uuid $root\nset default=\"1\"\nset where='/casper' # here\nsource $prefix/more.cfg\n\
                 menuentry \"Try it\" --class os {\n\tset gfxpayload=keep\n\tlinux\t$where/vmlinuz layerfs=\"a b\" from=UUID=${id} --- \\\n quiet\n\
                 \tinitrd\t($root)/ucode.img ${where}/initrd\n}\n",
            ),
            (
                "boot/grub/more.cfg",
                "source /boot/grub/grub.cfg\nmenuentry 'Memory' { linux16 /boot/memtest86+.bin; }\n",
            ),
        ]);
        let entries = read(&tree, "boot/grub/grub.cfg").unwrap();
        assert_eq!(entries.iter().map(|e| e.label.as_str()).collect::<Vec<_>>(), ["Memory", "Try it"]);
        assert_eq!(entries[1].kernel, "casper/vmlinuz");
        assert_eq!(entries[1].initrd, ["ucode.img", "casper/initrd"]);
        assert_eq!(entries[1].words, ["layerfs=a b", "---", "quiet"]);
        assert!(entries[1].is_default);
    }

    #[test]
    fn variables_that_name_each_other_stay_short() {
        let mut text = String::from("set a=xxxxxxxxxxxxxxxx\n");
        for _ in 0..40 {
            text.push_str("set a=$a$a\n");
        }
        let tree = Files::new(&[("grub.cfg", &format!("{text}menuentry x {{\nlinux /$a\ninitrd /i\n}}\n"))]);
        let entries = read(&tree, "grub.cfg").unwrap();
        assert!(entries[0].kernel.len() <= LONGEST_WORD, "{}", entries[0].kernel.len());
    }
}
