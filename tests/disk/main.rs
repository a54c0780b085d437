//! kiln under the name qemu-img beside the real one: the same argument lists, the same answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

mod answer;
mod device;
mod failing;
mod full;
mod killed;
mod lists;
mod page;
mod stage;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use answer::{Answer, Kind, differences};
use lists::List;
use stage::{QEMU_IMG, Stage};
use tempfile::TempDir;

const VERBS: &[&str] =
    &["create", "info", "check", "convert", "resize", "snapshot", "rebase", "commit", "map", "compare", "measure"];

/// Where kiln means to differ: list, in what, why.
const DIFFERENCES: &[(&str, Kind, &str)] = &[
    ("create out 1E", Kind::Files, TAKEN_BACK),
    ("create out 9223372036854775807", Kind::Files, TAKEN_BACK),
    ("create -f raw -o preallocation=metadata out 1M", Kind::Files, TAKEN_BACK),
    ("convert -O qcow2 -B missing -F qcow2 disk.raw out", Kind::Files, TAKEN_BACK),
    ("convert -O qcow2 -c -o data_file=out.d disk.raw out", Kind::Files, TAKEN_BACK),
    ("convert -O qcow2 -t bogus disk.raw out", Kind::Files, TAKEN_BACK),
    ("create -f qcow2 -b file:disk.raw -F raw out", Kind::Json, "a name is written into the image without file:"),
];

const TAKEN_BACK: &str = "a new file appears when it is done, so that one that fails leaves nothing behind";

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);
static LISTS: LazyLock<Vec<List>> = LazyLock::new(|| lists::all(&stage::images()));
static THEIRS: LazyLock<Vec<Answer>> = LazyLock::new(|| answers(Path::new(QEMU_IMG)));

/// Every list's answer, by as many workers as there are processors.
fn answers(program: &Path) -> Vec<Answer> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = vec![];
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(list) = LISTS.get(number) else { return done };
            done.push((number, answer::run(&STAGE, program, &list.words, list.locked)));
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<(usize, Answer)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, answer)| answer).collect()
}

/// How many lists there are of each verb.
fn tally() -> BTreeMap<&'static str, usize> {
    let verb = |list: &List| VERBS.iter().find(|verb| list.words.first().is_some_and(|word| word == *verb));
    let mut tally = BTreeMap::new();
    for list in LISTS.iter() {
        *tally.entry(verb(list).copied().unwrap_or("no verb")).or_default() += 1;
    }
    tally
}

#[test]
fn there_are_lists_enough() {
    let tally = tally();
    println!("{} argument lists: {tally:?}", LISTS.len());
    assert!(LISTS.len() >= 400);
    for verb in VERBS {
        assert!(tally.get(verb).is_some_and(|count| *count >= 20), "{verb}");
    }
}

/// What the real one answers can be compared with only if it answers so each time.
#[test]
fn the_real_one_answers_each_list_the_same_twice() {
    let again = answers(Path::new(QEMU_IMG));
    let mut wrong = vec![];
    for ((list, once), twice) in LISTS.iter().zip(THEIRS.iter()).zip(&again) {
        if once.status.is_none() {
            wrong.push(format!("{}: killed", list.line));
        }
        if once != twice {
            wrong.push(format!(
                "{}: {:?}",
                list.line,
                differences(once, twice, &|file| answer::original(&STAGE, file))
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let count = |good: bool| THEIRS.iter().filter(|answer| (answer.status == Some(0)) == good).count();
    println!("{} argument lists: {} done, {} refused; {:?}", LISTS.len(), count(true), count(false), tally());
}

/// kiln under a link that is called qemu-img.
fn link() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let link = folder.path().join(QEMU_IMG);
    symlink(env!("CARGO_BIN_EXE_kiln"), &link).unwrap();
    (folder, link)
}

#[test]
fn kiln_answers_as_the_real_one() {
    let (_folder, link) = link();
    let mut wrong = vec![];
    let mut met = vec![];
    for ((list, theirs), ours) in LISTS.iter().zip(THEIRS.iter()).zip(answers(&link)) {
        for (kind, what) in differences(theirs, &ours, &|file| answer::original(&STAGE, file)) {
            match DIFFERENCES.iter().find(|(line, meant, _)| *line == list.line && *meant == kind) {
                Some(difference) => met.push(difference),
                None => wrong.push(format!("{}: {kind:?}: {what}", list.line)),
            }
        }
    }
    println!("{} argument lists: {:?}", LISTS.len(), tally());
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    for difference in DIFFERENCES {
        assert!(met.contains(&difference), "{difference:?} is none any more");
    }
}

#[test]
fn the_differences_are_few_and_harmless() {
    assert!(DIFFERENCES.len() <= 8);
    for (line, kind, why) in DIFFERENCES {
        assert!(matches!(kind, Kind::Json | Kind::Files), "{line}");
        assert!(LISTS.iter().any(|list| list.line == *line) && !why.is_empty(), "{line}");
    }
}
