//! The disk of docs/first-hour.md, made here once by the page's own commands, with the mirror that this machine's apt uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_lab::packages::cache;
use sha2::{Digest, Sha256};

use crate::page::Page;
use crate::{KILN, MAKING};

/// Debian's own servers, which the page names.
const PUBLIC: &str = "http://deb.debian.org/debian";
/// Where it is to be found inside a lab.
pub const INSIDE: &str = "/lab/first-hour";
/// What comes of it: the disk, what starts it, and the key that opens it.
pub const FILES: [&str; 4] = ["web.qcow2", "vmlinuz", "initrd.img", "id_ed25519"];

/// The folder with [`FILES`].
pub fn made() -> PathBuf {
    if kiln_lab::inside() {
        return INSIDE.into();
    }
    let mut lines = Vec::new();
    let mut page = Page::of(MAKING);
    while let Some(line) = page.next() {
        lines.push(line);
    }
    let digest = Sha256::digest(lines.join("\n"));
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let home = cache().join(format!("first-hour_{name}"));
    fs::create_dir_all(cache()).unwrap();
    let lock = fs::File::create(cache().join("first-hour.lock")).unwrap();
    lock.lock().unwrap();
    if !home.exists() {
        make(&lines, &home);
    }
    home
}

fn make(lines: &[String], home: &Path) {
    let work = tempfile::tempdir_in(cache()).unwrap();
    let ssh = work.path().join(".ssh");
    fs::create_dir(&ssh).unwrap();
    run("ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519", work.path());
    let mirror = mirror();
    for line in lines {
        run(&line.replace(PUBLIC, &mirror), work.path());
    }
    fs::rename(ssh.join("id_ed25519"), work.path().join("id_ed25519")).unwrap();
    let new = work.path().join("new");
    fs::create_dir(&new).unwrap();
    for file in FILES {
        fs::rename(work.path().join(file), new.join(file)).unwrap();
    }
    fs::rename(new, home).unwrap();
    // The tree belongs to root.
    run("sudo rm -rf root", work.path());
}

fn mirror() -> String {
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"])
        .output();
    let text = String::from_utf8(targets.expect("apt-get").stdout).unwrap();
    let site = text.lines().filter_map(|line| line.split_once(' ')).find(|(site, release)| {
        site.trim_end_matches('/').ends_with("/debian") && !release.contains('-') && !release.contains('/')
    });
    site.expect("apt's configuration names no mirror of Debian").0.to_owned()
}

// As the page has it; root needs no sudo.
fn run(line: &str, folder: &Path) {
    let is_root = rustix::process::getuid().is_root();
    let line = if is_root { line.replace("sudo ", "") } else { line.replace("sudo ", "sudo -n ") };
    let path =
        format!("{}:/usr/sbin:/sbin:{}", Path::new(KILN).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output =
        Command::new("sh").args(["-ec", &line]).current_dir(folder).env("HOME", folder).env("PATH", path).output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{line}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}
