//! `.treeinfo`: what Fedora, its relatives and SUSE say about their install trees.
//!
//! An INI file (productmd's documentation, "Treeinfo file format"): `[general]` or `[release]` names the system,
//! `[images-ARCH]` its kernel and initrd, `[checksums]` sums of files. All paths are relative to the tree's root.

use configparser::ini::{Ini, IniDefault};

use super::{Installer, Sums, System, paths};

/// Names under which it is looked for.
pub const NAMES: [&str; 2] = [".treeinfo", "treeinfo"];
/// The only processors that machines have.
const ARCH: &str = "x86_64";
/// First Fedora whose installer knows `inst.repo=`.
const FEDORA_WITH_INST: u32 = 19;
/// First release of Red Hat's whose installer knows it.
const RED_HAT_WITH_INST: u32 = 7;
/// Red Hat's system and those that are rebuilt from it.
const RED_HATS: [&str; 7] =
    ["Red Hat Enterprise Linux", "RHEL", "CentOS", "Scientific", "AlmaLinux", "Rocky Linux", "Oracle Linux"];

/// Why a treeinfo leads to no installer.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// It lacks something, or is for another machine: the tree may have an installer all the same.
    Lacks(String),
    /// A path of it leads out of the tree.
    Outside(String),
}

/// Reads a file's text. `None` when it is no treeinfo at all (some servers have a page for every address).
///
/// # Errors
/// What it lacks, or which of its paths can't be.
pub fn read(text: &str) -> Option<Result<Installer, Problem>> {
    let mut defaults = IniDefault::default();
    defaults.case_sensitive = true;
    defaults.delimiters = vec!['='];
    defaults.comment_symbols = vec!['#', ';'];
    defaults.inline_comment_symbols = Some(Vec::new());
    let mut ini = Ini::new_from_defaults(defaults);
    ini.read(text.to_owned()).ok()?;
    let general = |key: &str| {
        let sections = [("general", key), ("release", if key == "family" { "name" } else { key }), ("tree", key)];
        sections.iter().find_map(|(section, key)| ini.get(section, key)).filter(|value| !value.is_empty())
    };
    let family = general("family")?;
    Some(installer(&ini, &family, &general("version").unwrap_or_default(), general("arch").as_deref()))
}

fn installer(ini: &Ini, family: &str, version: &str, arch: Option<&str>) -> Result<Installer, Problem> {
    if let Some(arch) = arch.filter(|arch| *arch != ARCH) {
        return Err(Problem::Lacks(format!("it is for {}; kiln's machines are {ARCH}", arch.escape_debug())));
    }
    let path = |what: &str| {
        let value = ini.get(&format!("images-{ARCH}"), what).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Problem::Lacks(format!("it names no {what} for {ARCH}")))?;
        let outside = || Problem::Outside(format!("the {what} that it names ({value:?}) isn't inside the tree"));
        if value.starts_with('/') || value.contains("://") {
            return Err(outside());
        }
        paths::inside("", &value).ok_or_else(outside)
    };
    Ok(Installer {
        system: system(family, version),
        kernel: path("kernel")?,
        initrd: vec![path("initrd")?],
        words: Vec::new(),
        sums: sums(ini),
        by: None,
    })
}

// By virt-install's rules, but for releases between two that it knows.
fn system(family: &str, version: &str) -> System {
    let number: Option<u32> = version.split('.').next().and_then(|major| major.parse().ok());
    let since = |first: u32| if number.is_some_and(|number| number < first) { "method" } else { "inst.repo" };
    let url_argument = if family.contains("Fedora") {
        Some(since(FEDORA_WITH_INST))
    } else if RED_HATS.iter().any(|name| family.contains(name)) {
        Some(since(RED_HAT_WITH_INST))
    } else if family.contains("SUSE") {
        Some("install")
    } else {
        None
    };
    System::named(&format!("{family} {version}"), url_argument)
}

fn sums(ini: &Ini) -> Sums {
    let listed = ini.get_map_ref().get("checksums");
    let known = listed.into_iter().flatten().filter_map(|(path, sum)| {
        let sum = sum.as_deref()?.strip_prefix("sha256:")?;
        let is_sum = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        is_sum.then(|| (path.clone(), sum.to_ascii_lowercase()))
    });
    Sums::Known(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEDORA: &str = "[checksums]\nimages/pxeboot/vmlinuz = sha256:AB\nimages/x = md5:12\n\
        [general]\narch = x86_64\nfamily = Fedora\nname = Fedora 40\nversion = 40\n\
        [images-x86_64]\nkernel = images/pxeboot/vmlinuz\ninitrd = images/pxeboot/initrd.img\n";

    #[test]
    fn a_tree_of_fedoras() {
        let text = FEDORA.replace("AB", &"AB".repeat(32));
        let found = read(&text).unwrap().unwrap();
        assert_eq!(found.kernel, "images/pxeboot/vmlinuz");
        assert_eq!(found.initrd, ["images/pxeboot/initrd.img"]);
        assert_eq!(found.system, System { name: "Fedora 40".into(), url_argument: Some("inst.repo") });
        assert_eq!(found.sums, Sums::Known(vec![("images/pxeboot/vmlinuz".into(), "ab".repeat(32))]));
    }

    #[test]
    fn systems_and_their_arguments() {
        let rows = [
            ("Fedora", "18", Some("method")),
            ("Fedora", "rawhide", Some("inst.repo")),
            ("Red Hat Enterprise Linux Server", "6.10", Some("method")),
            ("Red Hat Enterprise Linux", "9.4", Some("inst.repo")),
            ("CentOS Stream", "9", Some("inst.repo")),
            ("openSUSE Leap", "15.6", Some("install")),
            ("Hannah Montana Linux", "1", None),
        ];
        for (family, version, wanted) in rows {
            assert_eq!(system(family, version).url_argument, wanted, "{family} {version}");
        }
    }

    #[test]
    fn paths_that_lead_out_and_what_is_missing() {
        let told = |from: &str, to: &str| read(&FEDORA.replace(from, to)).unwrap().unwrap_err();
        for outside in ["/etc/passwd", "../vmlinuz", "images/../../vmlinuz", "http://elsewhere/vmlinuz"] {
            let problem = told("images/pxeboot/vmlinuz\ninitrd", &format!("{outside}\ninitrd"));
            assert!(matches!(&problem, Problem::Outside(why) if why.contains(outside)), "{problem:?}");
        }
        let lacks = |from: &str, to: &str, text: &str| match told(from, to) {
            Problem::Lacks(why) => assert!(why.contains(text), "{why}"),
            Problem::Outside(why) => panic!("{why}"),
        };
        lacks("kernel = ", "kernel_ = ", "it names no kernel for x86_64");
        lacks("initrd = images/pxeboot/initrd.img", "initrd =", "it names no initrd");
        lacks("arch = x86_64", "arch = aarch64", "it is for aarch64");
        assert_eq!(read("<!DOCTYPE html><title>Welcome</title>"), None);
        assert_eq!(read("[general]\nnothing = here\n"), None);
        assert_eq!(read(""), None);
    }
}
