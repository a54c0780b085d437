//! A file system that gets full: nothing is lost, nothing half-made stays, and the message says what is wrong.
//!
//! Each verb runs on a tmpfs of its own, with ever more room until it succeeds, so that it fails at ever later moments. The
//! tmpfs is mounted in a user and mount namespace; where the host allows none, this can't be tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::killed::{Verb, judge, prepare};

const VERBS: [Verb; 9] = [
    Verb { words: &["create", "-f", "qcow2", "-o", "preallocation=full", "new", "4M"], looked_at: "new", is_new: true },
    Verb { words: &["create", "-f", "raw", "-o", "preallocation=falloc", "new", "4M"], looked_at: "new", is_new: true },
    Verb { words: &["convert", "-O", "qcow2", "disk.raw", "new"], looked_at: "new", is_new: true },
    Verb { words: &["convert", "-c", "-O", "qcow2", "disk.qcow2", "new"], looked_at: "new", is_new: true },
    Verb { words: &["convert", "-O", "raw", "-S", "0", "top.qcow2", "new"], looked_at: "new", is_new: true },
    Verb { words: &["commit", "top.qcow2"], looked_at: "top.qcow2", is_new: false },
    Verb { words: &["rebase", "-b", "", "top.qcow2"], looked_at: "top.qcow2", is_new: false },
    Verb { words: &["snapshot", "-c", "s", "disk.qcow2"], looked_at: "disk.qcow2", is_new: false },
    Verb { words: &["resize", "--preallocation", "full", "disk.qcow2", "+2M"], looked_at: "disk.qcow2", is_new: false },
];

/// KiB of room beside what is there already, in the order in which they are tried.
const ROOM: [u64; 12] = [0, 4, 12, 40, 100, 300, 700, 1500, 3000, 6000, 12_000, 40_000];

/// $1: KiB of room; $2: the program; the rest: its words. The folder has `before`, and gets `after`.
const SCRIPT: &str = "
set -e
mount -t tmpfs -o size=1G none full
cp --sparse=always before/* full
cd full
# Room is counted from what these take, whole pages.
used=$(df --output=used -k . | tail -n 1)
mount -o remount,size=$((used + $1))k .
program=$2
shift 2
set +e
\"$program\" disk \"$@\" 2> ../message
echo $? > ../status
set -e
mount -o remount,size=1G .
cp --sparse=always ./* ../after
ls -A > ../names
";

fn has_namespaces() -> bool {
    Command::new("unshare").args(["-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]).status().is_ok_and(|s| s.success())
}

// Exit status and message. What is left lies in `after`.
fn run(folder: &Path, verb: &Verb, room: u64) -> (i32, String) {
    for name in ["full", "after"] {
        let _ = fs::remove_dir_all(folder.join(name));
        fs::create_dir(folder.join(name)).unwrap();
    }
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", SCRIPT, "sh", &room.to_string(), env!("CARGO_BIN_EXE_kiln")])
        .args(verb.words)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    (read("status").trim().parse().unwrap(), read("message"))
}

#[test]
fn a_full_file_system_loses_nothing() {
    if !has_namespaces() {
        println!("skipped: this host allows no user namespaces, so there is no file system to fill");
        return;
    }
    let stage = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let before = stage.path().join("before");
    fs::create_dir(&before).unwrap();
    prepare(&before);
    for verb in &VERBS {
        let mut failures = 0;
        let mut done = false;
        for room in ROOM {
            let what = format!("{:?} with {room} KiB left", verb.words);
            let (status, message) = run(stage.path(), verb, room);
            let after = stage.path().join("after");
            let names = copy_names(&before);
            // A raw disk has nothing to check.
            if !(status == 0 && verb.words.contains(&"raw")) {
                judge(&after, verb, &names, &what);
            }
            for name in names.iter().filter(|name| verb.is_new || name.as_path() == Path::new("disk.raw")) {
                assert!(
                    fs::read(before.join(name)).unwrap() == fs::read(after.join(name)).unwrap(),
                    "{what}: {name:?}"
                );
            }
            if status == 0 {
                done = true;
                break;
            }
            failures += 1;
            assert_eq!(status, 1, "{what}: {message}");
            assert!(message.starts_with("kiln: ") && message.contains("No space left on device"), "{what}: {message}");
            assert!(!verb.is_new || !after.join("new").exists(), "{what}: a file was left");
        }
        assert!(done && failures > 0, "{:?}: {failures} failures", verb.words);
        println!("{:?}: {failures} failures", verb.words);
    }
}

fn copy_names(folder: &Path) -> BTreeSet<PathBuf> {
    folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}
