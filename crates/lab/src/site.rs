//! Where a test runs a program: here, or in a lab. Either way it has a folder, and shell lines that find the program.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::machine::Lab;
use crate::options::Options;
use crate::protocol::{Exit, Run};

/// How long a line may take in the lab, in milliseconds.
const LIMIT_MS: u64 = 600_000;

/// A folder and a program, here or in a lab.
pub enum Site {
    /// On this machine.
    Here {
        /// The folder.
        folder: PathBuf,
        /// Where the program is.
        programs: PathBuf,
        /// Names the folder to the program.
        variable: String,
    },
    /// In a lab.
    Lab {
        /// The lab.
        lab: Box<Lab>,
        /// The folder in there.
        folder: String,
        /// Names the folder to the program.
        variable: String,
    },
}

impl Site {
    /// Here, in a folder that stays. The program is told of it by an environment variable.
    pub fn here(program: &Path, folder: PathBuf, variable: &str) -> Self {
        let programs = program.parent().map(Path::to_path_buf).unwrap_or_default();
        Site::Here { folder, programs, variable: variable.into() }
    }

    /// In a lab of its own, in a folder of its root. The program lies in `/bin` of it.
    ///
    /// # Errors
    /// When no lab can be had.
    pub fn lab(program: &Path, options: Options, folder: &str, variable: &str) -> Result<Self> {
        let name = program.file_name().and_then(|name| name.to_str()).context("the program has no name")?;
        let mut options = options;
        options.files.push((program.into(), format!("/bin/{name}")));
        let lab = Box::new(Lab::start(&options)?);
        Ok(Site::Lab { lab, folder: folder.into(), variable: variable.into() })
    }

    /// A path in the folder, there.
    pub fn path(&self, name: &str) -> String {
        match self {
            Site::Here { folder, .. } => folder.join(name).display().to_string(),
            Site::Lab { folder, .. } => format!("{folder}/{name}"),
        }
    }

    /// A file from there.
    ///
    /// # Errors
    /// When there is none.
    pub fn fetch(&self, path: &str) -> Result<Vec<u8>> {
        match self {
            Site::Here { .. } => std::fs::read(path).with_context(|| format!("reading {path}")),
            Site::Lab { lab, .. } => lab.fetch(path),
        }
    }

    /// Runs a shell line in the folder and gives what it said.
    ///
    /// # Panics
    /// When it doesn't succeed. This is a test's own failure.
    #[allow(clippy::panic, reason = "panicking is how a test fails")]
    pub fn sh(&self, line: &str) -> String {
        let mut text = Vec::new();
        let exit = self.run(line, &mut |bytes| text.extend_from_slice(bytes));
        let text = String::from_utf8_lossy(&text).into_owned();
        match exit {
            Ok(0) => text,
            Ok(status) => panic!("{line}: status {status}\n{text}"),
            Err(error) => panic!("{line}: {error:#}"),
        }
    }

    /// Runs a shell line in the folder; gives its exit status, -1 when a signal has ended it. What it says comes as it
    /// is said, errors too.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn run(&self, line: &str, on_output: &mut dyn FnMut(&[u8])) -> Result<i32> {
        match self {
            Site::Here { folder, programs, variable } => {
                let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
                let mut command = Command::new("sh");
                command.args(["-c", &format!("exec 2>&1; {line}")]).current_dir(folder);
                command.env(variable, folder).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped());
                let mut child = command.spawn()?;
                let mut output = child.stdout.take().context("its output")?;
                let mut bytes = [0; 4096];
                while let got @ 1.. = output.read(&mut bytes)? {
                    on_output(bytes.get(..got).unwrap_or_default());
                }
                Ok(child.wait()?.code().unwrap_or(-1))
            }
            Site::Lab { lab, folder, variable } => {
                let line = format!("mkdir -p {folder}; cd {folder}; {line}");
                let argv = ["sh", "-c", &line].map(str::to_owned).to_vec();
                let env = vec![(variable.clone(), folder.clone())];
                let exit = lab.run(Run { argv, env, limit_ms: LIMIT_MS }, |_, bytes| on_output(bytes))?;
                Ok(if let Exit::Status(status) = exit { status } else { -1 })
            }
        }
    }
}
