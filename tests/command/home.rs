//! A scratch `KILN_HOME`, and words in which tests say what kiln was told and what it answered.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub const KILN: &str = env!("CARGO_BIN_EXE_kiln");

/// A scratch folder in which kiln keeps everything; `home` in it is `KILN_HOME`.
pub struct Home {
    folder: TempDir,
}

impl Home {
    pub fn new() -> Self {
        // Short: sockets lie below it.
        Self { folder: tempfile::Builder::new().prefix("k").tempdir().unwrap() }
    }

    /// A path beside the store, for disks and kernels of tests.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As [`Home::path`], as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A file beside the store.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// A file of the store.
    pub fn store(&self, name: &str) -> PathBuf {
        self.path("home").join(name)
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(KILN);
        command.args(words).env("KILN_HOME", self.path("home")).stdin(Stdio::null());
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        command
    }

    pub fn kiln(&self, words: &[&str]) -> Told {
        let output = self.command(words).output().unwrap();
        Told::from((words.join(" "), output))
    }

    /// Names and states of all machines.
    pub fn machines(&self) -> Vec<(String, String)> {
        let list: Vec<serde_json::Value> = serde_json::from_str(&self.kiln(&["list", "--all", "--json"]).out).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        list.iter().map(|row| (text(&row["name"]), text(&row["state"]))).collect()
    }

    /// Every file below the scratch folder, but for the two that a store has from its first change on, and those whose
    /// locks are machines' numbers and cards' names.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        collect(self.folder.path(), &mut found);
        for skeleton in ["config/format", "config/lock"] {
            found.remove(&self.store(skeleton));
        }
        let locks = [self.store("run/ids"), self.store("run/cards")];
        found.retain(|path| !locks.iter().any(|folder| path.starts_with(folder)));
        found
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that fails leaves no machine running.
        let Ok(output) = self.command(&["list", "--json"]).output() else { return };
        let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        for name in list.iter().filter_map(|row| row["name"].as_str()) {
            let _ = self.command(&["destroy", name]).output();
        }
    }
}

fn collect(folder: &Path, to: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), to);
        } else {
            to.insert(entry.path());
        }
    }
}

/// What kiln answered.
#[derive(Debug)]
pub struct Told {
    pub line: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<(String, Output)> for Told {
    fn from((line, output): (String, Output)) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { line, code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Told {
    fn all(&self) -> String {
        format!("kiln {}\n[{:?}]\n{}{}", self.line, self.code, self.out, self.err)
    }

    /// It ended so.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.all());
        self
    }

    /// It said each of these, in this order.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        let said = format!("{}{}", self.out, self.err);
        let mut from = 0;
        for text in texts {
            match said[from..].find(text) {
                Some(at) => from += at + text.len(),
                None => panic!("{text:?} is not said (in this order) by {}", self.all()),
            }
        }
        self
    }
}

/// `kiln install` with what every machine needs, and `words` after it.
pub fn install<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let has = |option: &str| words.contains(&option);
    let mut all = vec!["install"];
    for (option, value) in
        [("--name", "web"), ("--memory", "256"), ("--disk", "none"), ("--network", "none"), ("--graphics", "none")]
    {
        if !has(option) {
            all.extend([option, value]);
        }
    }
    all.extend(words);
    all
}
