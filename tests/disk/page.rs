//! The examples of docs/disk.md, run in their order.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

#[test]
fn the_examples_of_the_page_work() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/disk.md");
    let text = fs::read_to_string(page).unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    symlink(env!("CARGO_BIN_EXE_kiln"), programs.join("kiln")).unwrap();
    let mut count = 0;
    for block in text.split("```sh\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            let mut command = Command::new("/bin/sh");
            let output = command.args(["-c", line]).current_dir(folder.path()).env("PATH", &programs).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            count += 1;
        }
    }
    assert!(count >= 15, "{count} examples");
}

/// The verbs that the page tells of are those that the help lists.
#[test]
fn every_verb_has_an_example() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/disk.md");
    let text = fs::read_to_string(page).unwrap();
    for verb in crate::VERBS {
        assert!(text.contains(&format!("\nkiln disk {verb} ")), "{verb}");
    }
}
