//! kill -9 at random moments of verbs that write: nothing is lost, and nothing half-made has a name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::QEMU_IMG;

/// Moments of each verb.
const MOMENTS: u32 = 50;

/// A verb that is killed.
pub struct Verb {
    /// Its words, with the folder's file names.
    pub words: &'static [&'static str],
    /// The file that is looked at afterwards.
    pub looked_at: &'static str,
    /// Whether it is new: whole, or not there.
    pub is_new: bool,
}

const VERBS: [Verb; 6] = [
    Verb {
        words: &["create", "-f", "qcow2", "-o", "preallocation=metadata", "new", "8G"],
        looked_at: "new",
        is_new: true,
    },
    Verb { words: &["convert", "-c", "-O", "qcow2", "disk.qcow2", "new"], looked_at: "new", is_new: true },
    Verb { words: &["resize", "disk.qcow2", "+100G"], looked_at: "disk.qcow2", is_new: false },
    Verb { words: &["snapshot", "-c", "s", "disk.qcow2"], looked_at: "disk.qcow2", is_new: false },
    Verb { words: &["commit", "top.qcow2"], looked_at: "top.qcow2", is_new: false },
    Verb { words: &["rebase", "-b", "", "top.qcow2"], looked_at: "top.qcow2", is_new: false },
];

fn qemu_img(folder: &Path, words: &[&str]) -> std::process::Output {
    Command::new(QEMU_IMG).args(words).current_dir(folder).output().unwrap()
}

#[track_caller]
fn done(folder: &Path, words: &[&str]) {
    let output = qemu_img(folder, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

// A disk of 8 MiB with data here and there, and one on top of it that changes some of them. `.raw` is what each holds.
pub fn prepare(folder: &Path) {
    let disk = fs::File::create(folder.join("disk.raw")).unwrap();
    disk.set_len(8 << 20).unwrap();
    for number in 0..80u64 {
        let bytes: Vec<u8> = (0..50_000u64).map(|n| (n * number + n / 512) as u8).collect();
        disk.write_all_at(&bytes, number * 100_000).unwrap();
    }
    let small = ["convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "disk.raw", "disk.qcow2"];
    done(folder, &small);
    done(folder, &["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", "top.qcow2"]);
    let writes: Vec<String> =
        (0..40).map(|n| format!("write -q -P {} {} 35k", n + 1, n * 200_000 / 512 * 512)).collect();
    let words = writes.iter().flat_map(|write| ["-c", write.as_str()]);
    let output = Command::new("qemu-io").args(words).arg(folder.join("top.qcow2")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    done(folder, &["convert", "-O", "raw", "top.qcow2", "top.raw"]);
}

pub fn copy(from: &Path, to: &Path) -> BTreeSet<PathBuf> {
    let names = ["disk.raw", "disk.qcow2", "top.qcow2", "top.raw"];
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    names.iter().map(PathBuf::from).collect()
}

// Runs the verb, for so long at most. Says how long it took.
fn run(folder: &Path, verb: &Verb, limit: Option<Duration>) -> Duration {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kiln"));
    command.arg("disk").args(verb.words).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    if let Some(limit) = limit {
        // The moment is what is tried out; nothing is waited for.
        std::thread::sleep(limit);
        child.kill().unwrap();
        child.wait().unwrap();
    } else {
        assert!(child.wait().unwrap().success(), "{:?}", verb.words);
    }
    begun.elapsed()
}

pub fn judge(folder: &Path, verb: &Verb, before: &BTreeSet<PathBuf>, what: &str) {
    let there = |name: &str| folder.join(name).exists();
    for entry in folder.read_dir().unwrap() {
        let name = PathBuf::from(entry.unwrap().file_name());
        assert!(before.contains(&name) || name == Path::new("new"), "{what}: {} was left", name.display());
    }
    if verb.is_new {
        let source = qemu_img(folder, &["compare", "-f", "raw", "-F", "qcow2", "disk.raw", "disk.qcow2"]);
        assert!(source.status.success(), "{what}: the source has changed");
        if !there("new") {
            return;
        }
    }
    for name in [verb.looked_at, "disk.qcow2"] {
        // What is marked is repaired when it is opened; anything else may have lost space at most.
        let mut header = [0; 80];
        fs::File::open(folder.join(name)).unwrap().read_exact_at(&mut header, 0).unwrap();
        let words: &[&str] =
            if header[79] & 1 != 0 { &["check", "-q", "-r", "all", name] } else { &["check", "-q", name] };
        let check = qemu_img(folder, words);
        let code = check.status.code();
        assert!(code == Some(0) || code == Some(3), "{what}: {name}: {}", String::from_utf8_lossy(&check.stdout));
    }
    let raw = if verb.looked_at == "top.qcow2" { "top.raw" } else { "disk.raw" };
    if verb.words[0] != "create" {
        let same = qemu_img(folder, &["compare", "-q", "-f", "raw", "-F", "qcow2", raw, verb.looked_at]);
        assert!(same.status.success(), "{what}: {}", String::from_utf8_lossy(&same.stdout));
    }
}

#[test]
fn a_verb_that_is_killed_loses_nothing() {
    let stage = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    prepare(stage.path());
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut killed = 0;
    for verb in &VERBS {
        let fresh = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let folder = fresh();
        copy(stage.path(), folder.path());
        let whole = run(folder.path(), verb, None);
        for number in 0..MOMENTS {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let moment = whole.mul_f64((noise % 1100) as f64 / 1000.0);
            let folder = fresh();
            let before = copy(stage.path(), folder.path());
            run(folder.path(), verb, Some(moment));
            judge(folder.path(), verb, &before, &format!("{:?} killed after {moment:?} ({number})", verb.words));
            killed += 1;
        }
    }
    println!("{killed} kills");
}
