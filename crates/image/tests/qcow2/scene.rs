//! Images on real files, and what the peers say of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Create, Options, Qcow2};
use kiln_image::storage::{File, Storage};
use kiln_image::{Access, BlockDevice, Error};
use tempfile::TempDir;

/// A folder with images in it.
pub struct Scene(TempDir);

impl Scene {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes an image.
    pub fn create(&self, name: &str, new: &Create) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create_new(&path).unwrap();
        let data = new.data_file.as_ref().map(|(name, _)| {
            let path = self.0.path().join(name);
            std::fs::File::create(&path).unwrap();
            storage(&path)
        });
        format(storage(&path), data, new).unwrap();
        path
    }
}

/// Opens what nobody else uses. A program that another test has just forked keeps this one's locks until it is what it is
/// to be.
pub fn opened<T>(open: impl Fn() -> Result<T, Error>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match open() {
            Err(Error::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn file(path: &Path, access: Access) -> File {
    opened(|| File::open(path, access))
}

fn storage(path: &Path) -> Arc<dyn Storage> {
    Arc::new(file(path, Access::Write))
}

/// Opens an image for writing.
pub fn open(path: &Path, backing: Option<Arc<dyn BlockDevice>>) -> Qcow2 {
    let storage = storage(path);
    let header = read_header(storage.as_ref()).unwrap();
    let data = header.data_file.as_ref().map(|name| self::storage(&path.with_file_name(name)));
    Qcow2::open(storage, header, Options { backing, data, ..Options::default() }).unwrap()
}

/// What kiln's check and qemu-img's say, which must be nothing.
#[track_caller]
pub fn check(path: &Path) {
    let storage = file(path, Access::ReadOnly);
    let header = read_header(&storage).unwrap();
    let mut found = Vec::new();
    let report = kiln_image::qcow2::check::check(&storage, &header, &mut |finding| found.push(finding)).unwrap();
    assert!(report.corruptions == 0 && report.leaks == 0, "{found:?}");
    drop(storage);
    let output = qemu_img(path).args(["check", "-f", "qcow2"]).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}", output.status);
}

/// Exit status of qemu-img check with options, and what it says.
pub fn qemu_check(path: &Path, options: &[&str]) -> (i32, String) {
    let output = qemu_img(path).args(["check", "-f", "qcow2"]).args(options).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// The disk's contents, as QEMU reads them.
#[track_caller]
pub fn qemu_reads(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("raw-copy");
    let output = qemu_img(path).args(["convert", "-O", "raw"]).arg(path).arg(&raw).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

// QEMU takes a data file's name from where it runs.
fn qemu_img(path: &Path) -> Command {
    let mut command = Command::new("qemu-img");
    command.current_dir(path.parent().unwrap());
    command
}
