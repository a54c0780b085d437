//! Finds the installer in a tree: by what the tree says of itself, by its layout, and else by its boot menu.

use super::menu::Entry;
use super::tree::{CANDIDATES, listed_sum};
use super::treeinfo::Problem;
use super::{Installer, Place, Sums, System, Tree, menu, paths, treeinfo};
use crate::failure::{Failure, Status};

/// Words of a medium's own menu that its initrd needs to find the medium again, by their beginnings. The others choose
/// screens and languages.
const FINDS_ITSELF: [&str; 9] =
    ["inst.stage2=", "inst.repo=", "root=", "rd.live.", "archiso", "modules=", "alpine_dev=", "boot=", "live-media"];

/// What a search has brought.
#[derive(Debug)]
pub enum Search {
    /// An installer.
    Found(Installer),
    /// None; what speaks against it, where anything does.
    Nothing(Vec<String>),
}

/// Looks for an installer.
///
/// # Errors
/// When the tree can't be read, or describes itself by paths that lead out of it.
pub fn find(tree: &dyn Tree) -> Result<Search, Failure> {
    let mut reasons = Vec::new();
    for name in treeinfo::NAMES {
        let Some(found) = tree.text(name)?.and_then(|text| treeinfo::read(&text)) else { continue };
        match found {
            Ok(mut installer) => {
                check(tree, name, &installer)?;
                installer.words = own_words(tree, &installer.kernel)?;
                return Ok(Search::Found(installer));
            }
            Err(Problem::Outside(why)) => return Err(misleading(name, &why)),
            Err(Problem::Lacks(why)) => reasons.push(format!("{name}: {why}")),
        }
        break;
    }
    for candidate in CANDIDATES {
        if !tree.has(candidate.kernel)? {
            continue;
        }
        if !tree.has(candidate.initrd)? {
            reasons.push(format!("{} is there, {} isn't", candidate.kernel, candidate.initrd));
        } else {
            let mut installer = Installer::from(*candidate);
            installer.words = own_words(tree, candidate.kernel)?;
            return Ok(Search::Found(installer));
        }
    }
    if tree.place() == Place::Server {
        return Ok(Search::Nothing(reasons));
    }
    by_menu(tree, reasons)
}

fn misleading(name: &str, why: &str) -> Failure {
    Failure::new(Status::Verification, format!("the tree's {name} can't be followed"))
        .why(why)
        .advise("Name the files yourself: --location TREE,kernel=PATH,initrd=PATH")
}

fn check(tree: &dyn Tree, name: &str, installer: &Installer) -> Result<(), Failure> {
    for path in std::iter::once(&installer.kernel).chain(&installer.initrd) {
        if !tree.has(path)? {
            return Err(misleading(name, &format!("it names {path}, which isn't there")));
        }
    }
    Ok(())
}

// The words by which a medium's own menu makes this kernel find the medium. Of a folder or server there is none to find.
fn own_words(tree: &dyn Tree, kernel: &str) -> Result<Vec<String>, Failure> {
    if tree.place() != Place::Medium {
        return Ok(Vec::new());
    }
    let menus = menu::read(tree)?;
    let entries = || menus.iter().flat_map(|menu| &menu.entries);
    // A medium may have that kernel twice, and a menu for each: what boots by itself finds the same medium.
    let entry = entries().find(|entry| entry.kernel == kernel).or_else(|| entries().next());
    let mut words = entry.map(|entry| entry.words.clone()).unwrap_or_default();
    words.retain(|word| FINDS_ITSELF.iter().any(|start| word.starts_with(start)));
    Ok(words)
}

fn by_menu(tree: &dyn Tree, mut reasons: Vec<String>) -> Result<Search, Failure> {
    for menu in menu::read(tree)? {
        for entry in menu.entries {
            let files = std::iter::once(&entry.kernel).chain(&entry.initrd);
            let missing = files.map(|path| Ok((path, tree.has(path)?))).find(|look| !matches!(look, Ok((_, true))));
            match missing {
                None => return Ok(Search::Found(by_entry(entry, menu.file))),
                Some(Err(failure)) => return Err(failure),
                Some(Ok((path, _))) => reasons.push(format!("{}: {path} isn't there", menu.file)),
            }
        }
    }
    reasons.truncate(MOST_REASONS);
    Ok(Search::Nothing(reasons))
}

/// Reasons that are told.
const MOST_REASONS: usize = 4;

fn by_entry(entry: Entry, file: String) -> Installer {
    Installer {
        system: System::named(&entry.label, None),
        kernel: entry.kernel,
        initrd: entry.initrd,
        words: entry.words,
        sums: Sums::None,
        by: Some(file),
    }
}

/// The SHA-256 sum that a tree tells of one of its files.
///
/// # Errors
/// When its list can't be read.
pub fn sum(tree: &dyn Tree, sums: &Sums, path: &str) -> Result<Option<String>, Failure> {
    Ok(match sums {
        Sums::None => None,
        Sums::List(list) => tree.text(list)?.and_then(|text| listed_sum(&text, paths::folder(list), path)),
        Sums::Known(known) => known.iter().find(|(name, _)| name == path).map(|(_, sum)| sum.clone()),
    })
}

/// Where an installer was looked for, for people.
pub fn looked_for() -> String {
    let mut names: Vec<&str> = CANDIDATES.iter().map(|candidate| candidate.layout).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::collections::BTreeMap;

    /// A tree of texts.
    pub struct Files(BTreeMap<String, String>);

    impl Files {
        pub fn new(files: &[(&str, &str)]) -> Self {
            Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
        }
    }

    impl Tree for Files {
        fn has(&self, path: &str) -> Result<bool, Failure> {
            Ok(self.0.contains_key(path))
        }
        fn text(&self, path: &str) -> Result<Option<String>, Failure> {
            Ok(self.0.get(path).cloned())
        }
        fn place(&self) -> Place {
            Place::Medium
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Files;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Installer {
        match find(&Files::new(files)).unwrap() {
            Search::Found(installer) => installer,
            Search::Nothing(reasons) => panic!("{reasons:?}"),
        }
    }

    const INFO: &str = "[general]\nfamily = Fedora\nversion = 40\narch = x86_64\n[images-x86_64]\n\
        kernel = images/pxeboot/vmlinuz\ninitrd = images/pxeboot/initrd.img\n";

    #[test]
    fn a_medium_with_a_treeinfo_and_a_menu_gives_the_words_that_find_it() {
        let files = [
            (".treeinfo", INFO),
            ("images/pxeboot/vmlinuz", ""),
            ("images/pxeboot/initrd.img", ""),
            (
                "isolinux/isolinux.cfg",
                "label linux\nkernel vmlinuz\nappend initrd=/images/pxeboot/initrd.img inst.stage2=hd:LABEL=F-40 quiet\n",
            ),
        ];
        let found = found(&files);
        assert_eq!(
            (found.system.name.as_str(), found.words.join(" ")),
            ("Fedora 40", "inst.stage2=hd:LABEL=F-40".into())
        );
    }

    #[test]
    fn what_a_treeinfo_says_must_be_so() {
        let failure = find(&Files::new(&[("treeinfo", INFO), ("images/pxeboot/vmlinuz", "")])).unwrap_err();
        assert!(failure.to_string().contains("it names images/pxeboot/initrd.img, which isn't there"), "{failure}");
        let outside = INFO.replace("images/pxeboot/vmlinuz", "../vmlinuz");
        let failure = find(&Files::new(&[("treeinfo", &outside)])).unwrap_err();
        assert_eq!(failure.status, Status::Verification);
        // One of another kind of tree doesn't hide what lies there.
        let other = INFO.replace("images-x86_64", "images-xen");
        let found = found(&[("treeinfo", &other), ("linux", ""), ("initrd.gz", "")]);
        assert_eq!(found.system.name, "Debian");
    }

    #[test]
    fn an_unknown_medium_is_found_by_its_menu() {
        let menu = "default live\nlabel gone\nkernel /x\ninitrd /y\nlabel live\nmenu label Try\nkernel /live/k\n\
                    append initrd=/live/i boot=live\n";
        let tree = [("isolinux/isolinux.cfg", menu), ("live/k", ""), ("live/i", "")];
        let found = found(&tree);
        assert_eq!((found.kernel.as_str(), found.words.join(" ")), ("live/k", "boot=live".into()));
        assert_eq!(found.by.as_deref(), Some("isolinux/isolinux.cfg"));
        match find(&Files::new(&tree[..2])).unwrap() {
            Search::Nothing(reasons) => assert_eq!(reasons.len(), 2, "{reasons:?}"),
            Search::Found(installer) => panic!("{installer:?}"),
        }
    }

    #[test]
    fn every_layout_is_found() {
        for candidate in CANDIDATES {
            let found = found(&[(candidate.kernel, ""), (candidate.initrd, "")]);
            assert_eq!((found.kernel.as_str(), found.initrd[0].as_str()), (candidate.kernel, candidate.initrd));
        }
    }
}
