//! What docs/ shows of the code is what the code says. `KILN_BLESS=1 cargo test --test docs` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The part of a page between `<!-- name -->` and `<!-- /name -->`.
fn shows(page: &str, name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(&path).unwrap();
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&open).unwrap_or_else(|| panic!("{page} has no {open}"));
    let (shown, after) = rest.split_once(&close).unwrap_or_else(|| panic!("{page} has no {close}"));
    if std::env::var_os("KILN_BLESS").is_some() {
        fs::write(&path, format!("{before}{open}{wanted}{close}{after}")).unwrap();
    } else {
        assert_eq!(shown, wanted, "{page}: KILN_BLESS=1 cargo test --test docs writes it anew");
    }
}

#[test]
fn the_table_of_addresses_is_the_monitors() {
    shows("architecture.md", "layout", &kiln_vmm::memory::layout::markdown());
}

#[test]
fn the_templates_shown_are_the_embedded_ones() {
    for name in ["default.xml.j2", "small.xml.j2"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name);
        shows("install.md", name, &format!("```xml\n{}```\n", fs::read_to_string(path).unwrap()));
    }
}

/// Words that begin with two dashes, without their values.
fn options(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let words = text
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with("--") && !word.starts_with("---") && word.len() > 2);
    words.map(str::to_owned).collect()
}

/// What a verb, or a word of a group of verbs, says of itself.
fn help(line: &str) -> String {
    let words = line.split_whitespace().take(if line.starts_with("template ") { 2 } else { 1 });
    let output = Command::new(env!("CARGO_BIN_EXE_kiln")).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "kiln {line} --help");
    String::from_utf8(output.stdout).unwrap()
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_options_of_install_are_all_told() {
    let mut known = options(&help("install"));
    known.remove("--help");
    let text = page("docs/install.md");
    let (_, table) = text.split_once("## Options").unwrap();
    let (table, _) = table.split_once("## What happens").unwrap();
    assert_eq!(options(table), known);
}

#[test]
fn the_options_of_clone_are_all_told() {
    let mut known = options(&help("clone"));
    known.remove("--help");
    let text = page("docs/clone.md");
    let (_, table) = text.split_once("## Options").unwrap();
    let (table, _) = table.split_once("## What is new").unwrap();
    assert_eq!(options(table), known);
}

#[test]
fn commands_in_pages_have_the_options_that_they_name() {
    let mut seen = 0;
    for name in [
        "README.md",
        "docs/install.md",
        "docs/network.md",
        "docs/store.md",
        "docs/differences.md",
        "docs/viewers.md",
        "docs/clone.md",
        "docs/templates.md",
    ] {
        let joined = page(name).replace("\\\n", " ");
        for line in joined.lines().filter_map(|line| line.strip_prefix("    ")) {
            let Some(words) = line.trim_start().strip_prefix("kiln ") else { continue };
            let known = options(&help(words));
            let unknown: Vec<_> = options(words).difference(&known).cloned().collect();
            assert!(unknown.is_empty(), "{name}: {line}: {unknown:?}");
            seen += 1;
        }
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn the_verbs_on_machines_have_the_options_that_their_rows_name() {
    let mut seen = 0;
    for row in page("docs/machines.md").lines().filter(|line| line.starts_with("| `kiln ")) {
        // A row may be of more than one verb.
        let verbs = row.split("kiln ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        let known: BTreeSet<String> = verbs.flat_map(|verb| options(&help(verb.trim_matches('`')))).collect();
        let unknown: Vec<_> = options(row).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{row}: {unknown:?}");
        seen += 1;
    }
    assert!(seen >= 20, "{seen}");
}
