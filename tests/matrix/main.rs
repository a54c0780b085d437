//! Coverage: every kind of image under every verb, with images of kiln's in QEMU's hands and the reverse.
//!
//! A row is a kind of image, a column what is done with it. In each cell one tool makes the image and the other one acts;
//! then both read it, compare it with what it must hold, and check it. What the format excludes is tried as well, and
//! both must refuse it. The table is printed, and a cell that was not run is a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

mod nouns;
mod tools;
mod verbs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nouns::{NOUNS, Noun, Scene};
use tools::{TOOLS, Tool, Trouble};
use verbs::{VERBS, Verb, judge, qemu_differs, refusal};

/// What a cell says in one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Done,
    /// Refused, as it must be.
    Refused,
    /// QEMU doesn't do what it should.
    Differs,
}

fn cell(noun: &'static Noun, verb: &Verb, tool: Tool) -> Result<Mark, String> {
    let told = |trouble| match trouble {
        Trouble::Refused(what) => format!("refused: {what}"),
        Trouble::Wrong(what) => format!("wrong: {what}"),
    };
    let why = refusal(noun, verb.name);
    let excused = tool == Tool::Qemu && qemu_differs(noun.name, verb.name).is_some();
    let mut scene = match Scene::new(noun, tool.other()) {
        Err(Trouble::Refused(_)) if noun.excluded => return Ok(Mark::Refused),
        Ok(_) if noun.excluded => return Err("it was made, and there can't be any".into()),
        made => made.map_err(|trouble| format!("when it was made: {}", told(trouble)))?,
    };
    match (verb.run(&mut scene, tool), why) {
        (Ok(()), None) => Ok(Mark::Done),
        (Ok(()), Some(_)) | (Err(_), None) if excused => Ok(Mark::Differs),
        (Ok(()), Some(why)) => Err(format!("it was done, though {why}")),
        (Err(Trouble::Refused(_)), Some(_)) => {
            // QEMU may lose a cluster when it fails halfway.
            if tool == Tool::Kiln {
                judge(&mut scene).map_err(|trouble| format!("after it was refused: {}", told(trouble)))?;
            }
            Ok(Mark::Refused)
        }
        (Err(trouble), _) => Err(told(trouble)),
    }
}

type Marks = BTreeMap<(usize, usize), [Option<Mark>; 2]>;

// Runs every cell in both directions, on all processors. Returns what they say, and what is wrong.
fn run() -> (Marks, Vec<String>) {
    let next = AtomicUsize::new(0);
    let (marks, wrong) = (Mutex::new(Marks::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (row, column) = (number / VERBS.len(), number % VERBS.len());
                    let (Some(noun), verb) = (NOUNS.get(row), &VERBS[column]) else { return };
                    for (side, tool) in TOOLS.into_iter().enumerate() {
                        match cell(noun, verb, tool) {
                            Ok(mark) => marks.lock().unwrap().entry((row, column)).or_default()[side] = Some(mark),
                            Err(what) => {
                                let what = format!("{}, {} by {tool:?}: {what}", noun.name, verb.name);
                                wrong.lock().unwrap().push(what);
                            }
                        }
                    }
                }
            });
        }
    });
    (marks.into_inner().unwrap(), wrong.into_inner().unwrap())
}

fn table(marks: &Marks) -> String {
    let width = NOUNS.iter().map(|noun| noun.name.len()).max().unwrap_or(0);
    let mut text = String::from(
        "\nk: kiln acts on QEMU's image; q: QEMU acts on kiln's; x: refused by both; !: see below; ?: not run\n",
    );
    let _ = write!(text, "{:width$}", "");
    for verb in VERBS {
        let _ = write!(text, " {:>8}", verb.name);
    }
    for (row, noun) in NOUNS.iter().enumerate() {
        let _ = write!(text, "\n{:width$}", noun.name);
        for column in 0..VERBS.len() {
            let sides = marks.get(&(row, column)).copied().unwrap_or_default();
            let letter = |(side, letter): (usize, char)| match sides[side] {
                Some(Mark::Done) => letter,
                Some(Mark::Refused) => 'x',
                Some(Mark::Differs) => '!',
                None => '?',
            };
            let letters: String = [(0, 'k'), (1, 'q')].into_iter().map(letter).collect();
            let _ = write!(text, " {letters:>8}");
        }
    }
    for ((row, column), sides) in marks {
        if sides.contains(&Some(Mark::Differs)) {
            let (noun, verb) = (NOUNS[*row].name, VERBS[*column].name);
            let _ = write!(text, "\n! {noun}, {verb}: {}", qemu_differs(noun, verb).unwrap_or_default());
        }
    }
    text + "\n"
}

#[test]
fn every_kind_of_image_under_every_verb() {
    let (marks, wrong) = run();
    // Past the capture of what tests print: the table is for whoever reads the log.
    std::io::stderr().write_all(table(&marks).as_bytes()).unwrap();
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    for (row, noun) in NOUNS.iter().enumerate() {
        for (column, verb) in VERBS.iter().enumerate() {
            let sides = marks.get(&(row, column)).copied().unwrap_or_default();
            assert!(!sides.contains(&None), "{} under {} was not run", noun.name, verb.name);
        }
    }
}
