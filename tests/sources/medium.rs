//! Install media made here, by the programs that distributions make theirs with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::home::Home;

pub const XORRISO: &str = "/usr/bin/xorriso";
pub const GENISOIMAGE: &str = "/usr/bin/genisoimage";

/// Runs a program; its output.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A folder with files.
pub fn folder(home: &Home, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = home.path(name);
    fs::create_dir_all(&folder).unwrap();
    for (path, bytes) in files {
        home.file(&format!("{name}/{path}"), bytes);
    }
    folder
}

/// An image of a folder, by xorriso with these options.
pub fn xorriso(home: &Home, from: &Path, name: &str, options: &[&str]) -> String {
    let to = home.text(name);
    let args = [&["-as", "mkisofs", "-quiet"], options, &["-o", &to, from.to_str().unwrap()]].concat();
    run(XORRISO, &args);
    to
}

/// An image of files with Rock Ridge and Joliet names.
pub fn iso(home: &Home, name: &str, files: &[(&str, &[u8])]) -> String {
    let folder = folder(home, &format!("{name}.d"), files);
    xorriso(home, &folder, name, &["-r", "-J", "-V", "KILN_TEST"])
}

/// So many bytes, no two places alike.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state as u8
    };
    (0..len).map(|_| step(&mut state)).collect()
}
