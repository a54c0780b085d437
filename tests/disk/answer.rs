//! What one run of an argument list comes to, as far as it must be the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_image::{Access, raw::Raw};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::stage::{QEMU_IMG, Stage};

const PATIENCE: Duration = Duration::from_secs(30);

/// What differs from run to run, or is the host's.
const PASSING: &[&str] = &["actual-size", "date-sec", "date-nsec"];

/// The outcome of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// None: killed by a signal.
    pub status: Option<i32>,
    /// What `--output=json` printed.
    pub json: Option<Value>,
    /// Names in the folder.
    pub left: BTreeSet<String>,
    /// Each disk in the folder that the run has made or changed.
    pub disks: BTreeMap<String, Disk>,
    /// For the reader of a failed test; never compared.
    pub said: Said,
}

/// A disk as the real qemu-img sees it afterwards.
#[derive(Debug, Clone, PartialEq)]
pub struct Disk {
    /// Hash of what a guest reads.
    pub content: String,
    /// Exit status of `check`.
    pub check: Option<i32>,
    /// What `info` tells, less offsets in the file.
    pub info: Value,
}

/// Everything is equal to everything.
#[derive(Debug, Clone)]
pub struct Said(pub String);

impl PartialEq for Said {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Runs `program` under the name qemu-img in a fresh copy of the files that the list names.
pub fn run(stage: &Stage, program: &Path, words: &[String], locked: Option<&str>) -> Answer {
    let mut files = stage.named(words);
    files.extend(locked);
    let folder = stage.copy(&files);
    let before: BTreeMap<&str, String> = files.iter().map(|f| (*f, hash(&folder.path().join(f)))).collect();
    let lock = locked.map(|file| Raw::open(&folder.path().join(file), Access::Write).unwrap());
    let side = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let out = |name: &str| File::create(side.path().join(name)).unwrap();
    let mut command = Command::new(program);
    command.args(words).current_dir(folder.path()).env("LC_ALL", "C").stdin(Stdio::null());
    let status = ends(command.stdout(out("out")).stderr(out("err")), words);
    drop(lock);
    let said = |name: &str| String::from_utf8_lossy(&fs::read(side.path().join(name)).unwrap()).into_owned();
    let left: BTreeSet<String> =
        folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let changed = left.iter().filter(|f| before.get(f.as_str()) != Some(&hash(&folder.path().join(f))));
    let disks = changed.map(|f| (f.clone(), disk(folder.path(), f))).collect();
    let json = serde_json::from_str(&said("out")).ok().map(lasting);
    Answer { status, json, left, disks, said: Said(said("err")) }
}

fn ends(command: &mut Command, words: &[String]) -> Option<i32> {
    let mut child = command.spawn().expect("apt install qemu-utils");
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > PATIENCE {
            eprintln!("{words:?} does not end");
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The guest content of a disk as the stage has it.
pub fn original(stage: &Stage, file: &str) -> String {
    let all: BTreeSet<&str> = stage.named(&[file.to_owned()]);
    let folder = stage.copy(&all);
    disk(folder.path(), file).content
}

fn disk(folder: &Path, file: &str) -> Disk {
    let mut magic = [0; 4];
    let qcow2 = File::open(folder.join(file)).unwrap().read_exact(&mut magic).is_ok() && magic == *b"QFI\xfb";
    let format = if qcow2 { "qcow2" } else { "raw" };
    let name = format!("./{file}");
    let told = |args: &[&str]| {
        Command::new(QEMU_IMG).args(args).arg(&name).current_dir(folder).stdin(Stdio::null()).output().unwrap()
    };
    let info = told(&["info", "-f", format, "--output=json"]).stdout;
    let info: Value = serde_json::from_slice(&info).unwrap_or_default();
    let content = if qcow2 { contents(folder, &name, &info) } else { hash(&folder.join(file)) };
    let check = qcow2.then(|| told(&["check", "-f", format]).status.code()).flatten();
    Disk { content, check, info: lasting(info) }
}

// What a guest reads, now and in each snapshot.
fn contents(folder: &Path, name: &str, info: &Value) -> String {
    let snapshots = info["snapshots"].as_array().into_iter().flatten().filter_map(|snapshot| snapshot["id"].as_str());
    let read = snapshots.map(|id| guest_content(folder, name, &["-l", &format!("snapshot.id={id}")]));
    [guest_content(folder, name, &[])].into_iter().chain(read).collect::<Vec<_>>().join(" ")
}

// What a guest reads, by way of a raw copy. A disk that can't be read is called by that.
fn guest_content(folder: &Path, name: &str, options: &[&str]) -> String {
    let side = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let raw = side.path().join("raw");
    let mut command = Command::new(QEMU_IMG);
    command.args(["convert", "-f", "qcow2", "-O", "raw"]).args(options).arg(name).arg(&raw).current_dir(folder);
    let told = command.stdin(Stdio::null()).output().unwrap();
    if told.status.success() { hash(&raw) } else { "unreadable".into() }
}

/// A hash of length and content that takes no time for holes.
fn hash(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut hash = Sha256::new_with_prefix(len.to_le_bytes());
    let mut block = vec![0; 65536];
    let mut at = 0;
    while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
        at = data / 65536 * 65536;
        file.seek(SeekFrom::Start(at)).unwrap();
        let count = read_full(&mut file, &mut block);
        if block[..count].iter().any(|byte| *byte != 0) {
            hash.update(at.to_le_bytes());
            hash.update(&block[..count]);
        }
        at += 65536;
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read_full(file: &mut File, block: &mut [u8]) -> usize {
    let mut count = 0;
    while count < block.len() {
        match file.read(&mut block[count..]).unwrap() {
            0 => break,
            more => count += more,
        }
    }
    count
}

// Without the fields that never last.
fn lasting(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| !PASSING.contains(&name.as_str()))
            .map(|(name, value)| (name, lasting(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(lasting).collect(),
        other => other,
    }
}

/// Every way in which `ours` isn't `theirs`, each with its kind in front. Fields that only we have are newer than the
/// installed qemu-img. What fails may leave disks as they were even where theirs has begun to change them.
pub fn differences(theirs: &Answer, ours: &Answer, original: &dyn Fn(&str) -> String) -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    if theirs.status != ours.status {
        all.push((Kind::Status, format!("{:?}, not {:?}: {}", ours.status, theirs.status, ours.said.0.trim())));
    }
    match (&theirs.json, &ours.json) {
        (Some(theirs), Some(ours)) => fields("", theirs, ours, &mut all),
        (Some(_), None) => all.push((Kind::Json, "no JSON".into())),
        _ => {}
    }
    if theirs.left != ours.left {
        all.push((Kind::Files, format!("{:?}, not {:?}", ours.left, theirs.left)));
    }
    for (name, their) in &theirs.disks {
        match ours.disks.get(name) {
            // The same bytes may have been written once more.
            None if ours.left.contains(name) && theirs.status == Some(0) && their.content != original(name) => {
                all.push((Kind::Content, format!("{name} has not changed")))
            }
            None => {}
            Some(our) => {
                if their.content != our.content {
                    all.push((Kind::Content, name.clone()));
                }
                if their.check != our.check {
                    all.push((Kind::Check, format!("{name}: {:?}, not {:?}", our.check, their.check)));
                }
                fields(name, &their.info, &our.info, &mut all);
            }
        }
    }
    let more = ours.disks.keys().filter(|name| theirs.left.contains(*name) && !theirs.disks.contains_key(*name));
    all.extend(more.map(|name| (Kind::Content, format!("{name} has changed"))));
    all
}

/// In what two answers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Status,
    Json,
    Files,
    Content,
    Check,
}

fn fields(at: &str, theirs: &Value, ours: &Value, all: &mut Vec<(Kind, String)>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, their) in theirs {
                let at = format!("{at}.{name}");
                match ours.get(name) {
                    Some(our) => fields(&at, their, our, all),
                    None => all.push((Kind::Json, format!("{at} is missing"))),
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            for (number, (their, our)) in theirs.iter().zip(ours).enumerate() {
                fields(&format!("{at}[{number}]"), their, our, all);
            }
        }
        _ if theirs != ours => all.push((Kind::Json, format!("{at}: {ours}, not {theirs}"))),
        _ => {}
    }
}

#[test]
fn every_kind_of_difference_shows() {
    let disk = |content: &str, check, info: &str| Disk {
        content: content.into(),
        check: Some(check),
        info: serde_json::from_str(info).unwrap(),
    };
    let theirs = Answer {
        status: Some(0),
        json: Some(serde_json::json!({ "a": [1, { "b": 2 }] })),
        left: ["x".to_owned()].into(),
        disks: [("x".to_owned(), disk("c", 0, r#"{"format": "raw"}"#))].into(),
        said: Said(String::new()),
    };
    let kinds = |change: &dyn Fn(&mut Answer)| {
        let mut ours = theirs.clone();
        change(&mut ours);
        differences(&theirs, &ours, &|_| String::new()).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&|_| {}), []);
    assert_eq!(kinds(&|ours| ours.said = Said("other words".into())), []);
    assert_eq!(kinds(&|ours| ours.json = Some(serde_json::json!({ "a": [1, { "b": 2, "new": 3 }], "c": 4 }))), []);
    assert_eq!(kinds(&|ours| ours.status = Some(1)), [Kind::Status]);
    assert_eq!(kinds(&|ours| ours.json = None), [Kind::Json]);
    for json in [r#"{"a": [1]}"#, r#"{"a": [1, {}]}"#, r#"{"a": [2, {"b": 2}]}"#, "{}", r#"{"a": [{"b": 2}, 1]}"#] {
        assert!(!kinds(&|ours| ours.json = serde_json::from_str(json).unwrap()).is_empty(), "{json}");
    }
    assert_eq!(
        kinds(&|ours| {
            ours.left.insert("y".into());
        }),
        [Kind::Files]
    );
    assert_eq!(
        kinds(&|ours| drop(ours.disks.insert("x".into(), disk("d", 0, r#"{"format": "raw"}"#)))),
        [Kind::Content]
    );
    assert_eq!(kinds(&|ours| drop(ours.disks.insert("x".into(), disk("c", 3, r#"{"format": "raw"}"#)))), [Kind::Check]);
    assert_eq!(kinds(&|ours| drop(ours.disks.insert("x".into(), disk("c", 0, r#"{"format": "qed"}"#)))), [Kind::Json]);
    assert_eq!(kinds(&|ours| ours.disks.clear()), [Kind::Content]);
}
