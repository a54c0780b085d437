//! A host whose calls fail, each in turn, under whole verbs: strace(1) puts the error in (`-e inject`). Where strace isn't
//! installed or may not trace, this can't be tested; what the library does then is tested in `crates/image` anyway.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::killed::{Verb, copy, judge, prepare};

const VERBS: [Verb; 6] = [
    Verb { words: &["convert", "-O", "qcow2", "-t", "writeback", "disk.qcow2", "new"], looked_at: "new", is_new: true },
    Verb { words: &["convert", "-c", "-O", "qcow2", "-m", "2", "disk.raw", "new"], looked_at: "new", is_new: true },
    Verb { words: &["commit", "-t", "writeback", "top.qcow2"], looked_at: "top.qcow2", is_new: false },
    Verb { words: &["rebase", "-b", "", "-t", "writeback", "top.qcow2"], looked_at: "top.qcow2", is_new: false },
    Verb { words: &["snapshot", "-c", "s", "disk.qcow2"], looked_at: "disk.qcow2", is_new: false },
    Verb { words: &["resize", "disk.qcow2", "+100G"], looked_at: "disk.qcow2", is_new: false },
];

/// System calls and the error that each meets.
const CALLS: [(&str, &str, &str); 5] = [
    ("preadv", "EIO", "Input/output error"),
    ("pwritev", "ENOSPC", "No space left on device"),
    ("fdatasync,fsync", "EIO", "Input/output error"),
    ("ftruncate", "EIO", "Input/output error"),
    ("linkat,renameat2,renameat", "EIO", "Input/output error"),
];

/// The n-th call fails for these n; far ones in wide steps, so that it ends.
fn numbers() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1u32), |number| Some(number + 1 + number / 6))
}

// Exit status, message, and whether a call was made to fail.
fn run(folder: &Path, verb: &Verb, calls: &str, errno: &str, number: u32) -> (Option<i32>, String, bool) {
    let inject = format!("inject={calls}:error={errno}:when={number}");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "trace", "-e", &format!("trace={calls}"), "-e", &inject])
        .arg(env!("CARGO_BIN_EXE_kiln"))
        .arg("disk")
        .args(verb.words)
        .current_dir(folder)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let trace = fs::read_to_string(folder.join("trace")).unwrap();
    fs::remove_file(folder.join("trace")).unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned(), trace.contains("(INJECTED)"))
}

#[test]
fn a_verb_whose_calls_fail_says_so_and_loses_nothing() {
    let traces = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    if !traces.is_ok_and(|status| status.success()) {
        println!("skipped: there is no strace that may trace");
        return;
    }
    let stage = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    prepare(stage.path());
    for verb in &VERBS {
        let (mut failed, mut unheard) = (0, 0);
        for (calls, errno, text) in CALLS {
            for number in numbers() {
                let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
                let before = copy(stage.path(), folder.path());
                let (status, message, injected) = run(folder.path(), verb, calls, errno, number);
                if !injected {
                    assert_eq!(status, Some(0), "{:?}: {message}", verb.words);
                    break;
                }
                let what = format!("{:?}, {errno} at call {number} of {calls}", verb.words);
                if status == Some(0) && calls == "preadv" {
                    // Refcounts are looked at to find out where a file has holes. It does without.
                    unheard += 1;
                    judge(folder.path(), verb, &before, &what);
                    continue;
                }
                assert_eq!(status, Some(1), "{what}: {message}");
                assert!(message.starts_with("kiln: ") && message.contains(text), "{what}: {message}");
                // It has its name before its folder is flushed, and is whole then.
                let named = errno == "EIO" && calls.contains("fsync");
                assert!(named || !folder.path().join("new").exists(), "{what}: a file was left");
                judge(folder.path(), verb, &before, &what);
                failed += 1;
            }
        }
        assert!(failed > 0 && unheard <= 1, "{:?}: {failed} failed, {unheard} unheard", verb.words);
        println!("{:?}: {failed} failures", verb.words);
    }
}
