//! What docs/ shows of the code is what the code says. `KILN_BLESS=1 cargo test --test docs` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

use std::fs;
use std::path::Path;

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
