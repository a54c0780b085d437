//! The two that must agree: kiln (its library, and its name qemu-img) and QEMU's programs.

use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, RwLock};

use kiln_image::{BlockDevice, Error, Format, Image, Open};
use tempfile::TempDir;

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Kiln,
    Qemu,
}

pub const TOOLS: [Tool; 2] = [Tool::Kiln, Tool::Qemu];

/// Why something wasn't done.
#[derive(Debug)]
pub enum Trouble {
    /// The tool has refused it.
    Refused(String),
    /// It was done, and wrong.
    Wrong(String),
}

/// A request of a guest; places are bytes.
#[derive(Debug, Clone, Copy)]
pub enum Request {
    Write { byte: u8, at: u64, len: u64 },
    Zero { at: u64, len: u64, unmap: bool },
    Discard { at: u64, len: u64 },
}

/// kiln under the name qemu-img.
static LINKS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    symlink(env!("CARGO_BIN_EXE_kiln"), folder.path().join("qemu-img")).unwrap();
    folder
});

/// A program that is being started holds the locks that this one has, until it is what it is to be.
static STARTS: RwLock<()> = RwLock::new(());

/// Runs a program in a folder and returns what it says. It is refused when the program fails.
pub fn run(program: &Path, folder: &Path, words: &[&str]) -> Result<String, Trouble> {
    let mut command = Command::new(program);
    command.args(words).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _alone = STARTS.write().unwrap();
        command.spawn().unwrap()
    };
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(Trouble::Refused(format!("{} {words:?}: {}: {text}{error}", program.display(), output.status)))
}

fn told(error: &Error) -> Trouble {
    Trouble::Refused(error.to_string())
}

impl Tool {
    pub fn other(self) -> Self {
        match self {
            Tool::Kiln => Tool::Qemu,
            Tool::Qemu => Tool::Kiln,
        }
    }

    /// Runs qemu-img with these words.
    pub fn img(self, folder: &Path, words: &[&str]) -> Result<String, Trouble> {
        match self {
            Tool::Kiln => run(&LINKS.path().join("qemu-img"), folder, words),
            Tool::Qemu => run(Path::new("qemu-img"), folder, words),
        }
    }

    /// Does requests on an image, which is closed afterwards.
    pub fn io(self, folder: &Path, file: &str, format: Format, requests: &[Request]) -> Result<(), Trouble> {
        match self {
            Tool::Kiln => {
                let _locks = STARTS.read().unwrap();
                let image = Image::open(&folder.join(file), Open::writing(Some(format))).map_err(|e| told(&e))?;
                for request in requests {
                    let done = match *request {
                        Request::Write { byte, at, len } => {
                            image.write_at(&[IoSlice::new(&vec![byte; len as usize])], at)
                        }
                        Request::Zero { at, len, unmap } => image.write_zeroes(at, len, unmap),
                        Request::Discard { at, len } => image.discard(at, len),
                    };
                    done.map_err(|error| told(&error))?;
                }
                image.close().map_err(|error| told(&error))
            }
            Tool::Qemu => {
                let mut words = vec!["-f".to_owned(), format.name().to_owned(), "-d".to_owned(), "unmap".to_owned()];
                for request in requests {
                    words.push("-c".to_owned());
                    words.push(match request {
                        Request::Write { byte, at, len } => format!("write -P {byte} {at} {len}"),
                        Request::Zero { at, len, unmap: true } => format!("write -z -u {at} {len}"),
                        Request::Zero { at, len, unmap: false } => format!("write -z {at} {len}"),
                        Request::Discard { at, len } => format!("discard {at} {len}"),
                    });
                }
                words.push(file.to_owned());
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let text = run(Path::new("qemu-io"), folder, &words)?;
                if text.contains("failed") { Err(Trouble::Refused(text)) } else { Ok(()) }
            }
        }
    }

    /// Reads all of an image.
    pub fn read(self, folder: &Path, file: &str, format: Format) -> Result<Vec<u8>, Trouble> {
        match self {
            Tool::Kiln => {
                let _locks = STARTS.read().unwrap();
                let image = Image::open(&folder.join(file), Open::reading(Some(format))).map_err(|e| told(&e))?;
                let mut bytes = vec![7; image.len() as usize];
                image.read_at(&mut [IoSliceMut::new(&mut bytes)], 0).map_err(|error| told(&error))?;
                Ok(bytes)
            }
            Tool::Qemu => {
                self.img(folder, &["convert", "-f", format.name(), "-O", "raw", file, "contents"])?;
                let bytes = std::fs::read(folder.join("contents")).unwrap();
                std::fs::remove_file(folder.join("contents")).unwrap();
                Ok(bytes)
            }
        }
    }

    /// Reads an image as it was when a snapshot was made.
    pub fn read_snapshot(self, folder: &Path, file: &str, name: &str) -> Result<Vec<u8>, Trouble> {
        self.img(folder, &["convert", "-l", &format!("snapshot.name={name}"), "-O", "raw", file, "contents"])?;
        let bytes = std::fs::read(folder.join("contents")).unwrap();
        std::fs::remove_file(folder.join("contents")).unwrap();
        Ok(bytes)
    }
}
