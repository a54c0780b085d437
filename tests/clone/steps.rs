//! A clone that is killed, interrupted or refused by the host at each of its steps. strace brings it about: at the n-th
//! call of a kind the program gets a signal, or the call fails.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use crate::home::KILN;
use crate::stage::{QEMU_IMG, Stage, judge};

/// Calls by which anything comes to be on a disk.
const CALLS: [&str; 7] = ["linkat", "rename", "fchmod", "fsync", "pwrite64", "ftruncate", "mkdir"];

/// Runs `kiln clone` with what happens at the `number`-th `call`.
fn clone_with(stage: &Stage, words: &[&str], call: &str, what: &str, number: u32) -> ExitStatus {
    let inject = format!("inject={call}:{what}:when={number}");
    let mut command = Command::new("strace");
    command.args(["-q", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, KILN, "clone"]).args(words);
    command.env("KILN_HOME", stage.home.path("home")).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap()
}

/// web can go on with its data, and so can the clone if it is there.
fn is_whole(stage: &Stage, what: &str) {
    for name in ["web", "two"] {
        if !stage.home.machines().iter().any(|(machine, _)| machine == name) {
            assert_eq!(name, "two", "{what}: web is gone");
            continue;
        }
        let disks = stage.disks(name);
        stage.holds(&disks[0], b'w');
        stage.holds(&disks[1], b'd');
        judge(QEMU_IMG, &["check", "-q", &disks[0]]);
        // What start says next is about the kernel or the host, not about a disk.
        let told = stage.home.kiln(&["start", name]);
        assert!(!told.err.contains("the disk ") && !told.err.contains(" base "), "{what}: {}", told.err);
    }
}

/// Tries each step in turn; `judge` looks at what is left of those that didn't come to their end.
fn each_step(words: &[&str], what: &str, judge: impl Fn(&Stage, &str, ExitStatus)) -> u32 {
    let mut tried = 0;
    for call in CALLS {
        for number in 1.. {
            let stage = Stage::new();
            let status = clone_with(&stage, words, call, what, number);
            judge(&stage, &format!("{what} at {call} {number}"), status);
            if status.success() {
                break;
            }
            tried += 1;
        }
    }
    tried
}

#[test]
fn a_linked_clone_that_is_killed_at_any_step_leaves_the_original_whole() {
    let tried = each_step(&["web", "--name", "two", "--linked"], "signal=KILL", |stage, what, status| {
        assert!(status.success() || status.signal() == Some(9), "{what}: {status}");
        is_whole(stage, what);
        // It needs no hand-work either: the next one works.
        stage.clone(&["web", "--name", "three", "--linked"]).ends(0);
        let disks = stage.disks("three");
        stage.holds(&disks[0], b'w');
        assert_eq!(stage.mode(stage.home.path("d/web.qcow2")), 0o444, "{what}");
    });
    assert!(tried >= 20, "{tried} steps");
}

#[test]
fn a_clone_that_the_host_fails_or_the_user_ends_leaves_nothing() {
    for words in [&["web", "--name", "two"][..], &["web", "--name", "two", "--linked"]] {
        for what in ["error=ENOSPC", "signal=INT"] {
            let tried = each_step(words, what, |stage, what, status| {
                is_whole(stage, what);
                if status.success() {
                    return;
                }
                let files = stage.everything();
                let fresh = Stage::new();
                let (left, before) = (files.len(), fresh.everything().len());
                assert_eq!(
                    left,
                    before,
                    "{words:?} {what}: {:?}",
                    files.iter().map(|(path, ..)| path).collect::<Vec<_>>()
                );
                assert_ne!(stage.mode(stage.home.path("d/web.qcow2")), 0o444, "{words:?} {what}");
                assert_eq!(stage.disks("web")[0], stage.home.text("d/web.qcow2"), "{words:?} {what}");
            });
            // A linked clone is so short that Ctrl-C finds it done.
            let is_long = what != "signal=INT" || words.len() == 3;
            assert!(tried >= if is_long { 4 } else { 0 }, "{words:?} {what}: {tried} steps");
        }
    }
}
