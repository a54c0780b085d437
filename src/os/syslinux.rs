//! Menus of isolinux and syslinux (syslinux.txt, "Configuration file format"). What only draws the menu is passed over.

use super::menu::{Entry, Files, MOST_ENTRIES};
use super::{Tree, paths};
use crate::failure::Failure;

struct Reading<'a> {
    files: Files<'a>,
    /// Relative paths begin at the first file's folder, wherever the line stands.
    folder: &'a str,
    default: Option<String>,
    /// What stands before the first label is for all.
    common: Option<Vec<String>>,
    entries: Vec<Entry>,
}

/// Reads the menu that begins in a file.
pub(super) fn read(tree: &dyn Tree, path: &str) -> Result<Vec<Entry>, Failure> {
    let folder = paths::folder(path);
    let mut reading = Reading { files: Files::of(tree), folder, default: None, common: None, entries: Vec::new() };
    reading.file(path)?;
    let default = reading.default.as_deref();
    for entry in &mut reading.entries {
        entry.is_default |= default.is_some_and(|name| name.eq_ignore_ascii_case(&entry.label));
    }
    Ok(reading.entries)
}

impl Reading<'_> {
    fn file(&mut self, path: &str) -> Result<(), Failure> {
        let Some(text) = self.files.text(path)? else { return Ok(()) };
        for line in text.lines() {
            let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
            self.line(&word.to_ascii_lowercase(), rest.trim())?;
        }
        Ok(())
    }

    fn line(&mut self, word: &str, rest: &str) -> Result<(), Failure> {
        match word {
            // A menu of several files may hand over as well as include.
            "include" | "config" => self.include(rest)?,
            "menu" => match rest.split_once(char::is_whitespace) {
                Some((word, path)) if word.eq_ignore_ascii_case("include") => self.include(path)?,
                _ if rest.eq_ignore_ascii_case("default") => {
                    self.entries.iter_mut().last().into_iter().for_each(|entry| entry.is_default = true);
                }
                _ => {}
            },
            "default" if self.default.is_none() => self.default = Some(rest.to_owned()),
            "label" if self.entries.len() < MOST_ENTRIES => {
                self.entries.push(Entry {
                    label: rest.to_owned(),
                    words: self.common.clone().unwrap_or_default(),
                    ..Entry::default()
                });
            }
            "kernel" | "linux" => self.kernel(rest),
            "initrd" => self.initrd(rest),
            "append" => self.append(rest),
            _ => {}
        }
        Ok(())
    }

    fn include(&mut self, rest: &str) -> Result<(), Failure> {
        let name = rest.split_whitespace().next().unwrap_or_default();
        match paths::inside(self.folder, name) {
            Some(path) => self.file(&path),
            None => Ok(()),
        }
    }

    fn kernel(&mut self, rest: &str) {
        let folder = self.folder;
        let Some(entry) = self.entries.last_mut() else { return };
        let mut words = rest.split_whitespace();
        entry.kernel = words.next().and_then(|path| paths::inside(folder, path)).unwrap_or_default();
        entry.words.extend(words.map(str::to_owned));
    }

    fn initrd(&mut self, rest: &str) {
        let folder = self.folder;
        let Some(entry) = self.entries.last_mut() else { return };
        // One that can't be meant makes the entry none: an initrd of which a part is missing boots nothing.
        let paths: Option<Vec<String>> = rest.split(',').map(|path| paths::inside(folder, path.trim())).collect();
        entry.initrd = paths.unwrap_or_default();
    }

    fn append(&mut self, rest: &str) {
        // A hyphen alone takes the common ones away.
        let words: Vec<String> = rest.split_whitespace().filter(|word| *word != "-").map(str::to_owned).collect();
        if self.entries.is_empty() {
            self.common = Some(words);
            return;
        }
        let initrd = words.iter().rev().find_map(|word| word.strip_prefix("initrd=")).map(str::to_owned);
        if let Some(initrd) = initrd {
            self.initrd(&initrd);
        }
        if let Some(entry) = self.entries.last_mut() {
            entry.words = words.into_iter().filter(|word| !word.starts_with("initrd=")).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::find::testing::Files;

    #[test]
    fn a_menu_over_several_files() {
        let tree = Files::new(&[
            ("isolinux/isolinux.cfg", "path \ninclude menu.cfg\ndefault vesamenu.c32\nprompt 0\n"),
            ("isolinux/menu.cfg", "menu title Debian\ninclude txt.cfg\nMENU INCLUDE /isolinux/menu.cfg\n"),
            (
                "isolinux/txt.cfg",
                "LABEL graphical\n\tkernel /install.amd/vmlinuz\n\tappend vga=788 initrd=/install.amd/gtk/initrd.gz --- quiet\n\
                 label install\n\tmenu default\n\tlinux ../install.amd/vmlinuz fb=false\n\tinitrd ucode.img,/install.amd/initrd.gz\n",
            ),
        ]);
        let entries = read(&tree, "isolinux/isolinux.cfg").unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].label, "graphical");
        assert_eq!(entries[0].kernel, "install.amd/vmlinuz");
        assert_eq!(entries[0].initrd, ["install.amd/gtk/initrd.gz"]);
        assert_eq!(entries[0].words, ["vga=788", "---", "quiet"]);
        assert!(!entries[0].is_default && entries[1].is_default);
        assert_eq!(entries[1].initrd, ["isolinux/ucode.img", "install.amd/initrd.gz"]);
        assert_eq!(entries[1].words, ["fb=false"]);
    }

    #[test]
    fn what_is_absurdly_long_is_passed_over() {
        let padding = "#".repeat(crate::os::menu::MOST_TEXT - 100);
        let first = format!("include long.cfg\nlabel one\nkernel a\ninclude more.cfg\n{padding}");
        let tree = Files::new(&[
            ("x.cfg", &first),
            ("long.cfg", &format!("label long\n{padding}")),
            ("more.cfg", "label two\n"),
        ]);
        let entries = read(&tree, "x.cfg").unwrap();
        assert_eq!(entries.iter().map(|e| e.label.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn the_default_is_found_by_its_label() {
        let tree = Files::new(&[
            (
                "isolinux.cfg",
                "default Two\nappend all=1\nlabel one\nkernel a\ninitrd i\nlabel other\nconfig more.cfg\n",
            ),
            ("more.cfg", "label two\nkernel b\nappend initrd=i x\n"),
        ]);
        let entries = read(&tree, "isolinux.cfg").unwrap();
        assert_eq!(entries.iter().map(|e| e.is_default).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!((entries[0].words.join(" "), entries[2].words.join(" ")), ("all=1".into(), "x".into()));
    }
}
