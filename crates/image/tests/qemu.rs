//! kiln and QEMU keep each other off an image that is in use, and read each other's bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // All of it is tests.

use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_image::raw::{Raw, create};
use kiln_image::{Access, BlockDevice, Error, Image, Open};
use tempfile::TempDir;

/// One test at a time: between fork and exec a program that another test starts has this test's open files too, and keeps
/// their locks.
static ALONE: Mutex<()> = Mutex::new(());

struct Scene {
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

fn scene() -> Scene {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Scene { folder: tempfile::tempdir().unwrap(), _alone: alone }
}

fn image() -> (Scene, PathBuf) {
    let scene = scene();
    let path = scene.folder.path().join("disk.img");
    create(&path, 1 << 20).unwrap();
    (scene, path)
}

fn qcow2() -> (Scene, PathBuf) {
    let scene = scene();
    let path = scene.folder.path().join("disk.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").status().unwrap();
    assert!(made.success());
    (scene, path)
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Output {
    Command::new(program).args(arguments).arg(path).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// A qemu-io that has the image open and waits for the end of its input.
struct QemuIo(Child);

impl QemuIo {
    fn open(path: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(options).arg(path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("qemu-io");
        // It answers only once the image is open, and its answer says so.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut answer = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !answer.contains("MiB") {
            answer.clear();
            assert_ne!(lines.read_line(&mut answer).unwrap(), 0, "qemu-io ended early");
        }
        Self(child)
    }
    fn close(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn qemu_does_not_write_to_what_kiln_has_open() {
    let (_folder, path) = image();
    for access in [Access::ReadOnly, Access::Write] {
        let disk = Raw::open(&path, access).unwrap();
        let write = run("qemu-io", &["-f", "raw", "-c", "write -P 9 0 512"], &path);
        assert!(String::from_utf8_lossy(&write.stderr).contains("lock"), "{access:?}: {write:?}");
        let mut first = [7];
        disk.read_at(&mut [IoSliceMut::new(&mut first)], 0).unwrap();
        assert_eq!(first, [0]);
    }
    assert!(run("qemu-io", &["-f", "raw", "-c", "write -P 9 0 512"], &path).status.success());
}

// A format with metadata: QEMU lets nobody write beneath it, not even while it only reads.
#[test]
fn qemu_does_not_even_read_a_qcow2_that_kiln_writes() {
    let (_folder, path) = qcow2();
    let disk = Raw::open(&path, Access::Write).unwrap();
    let info = run("qemu-img", &["info", "-f", "qcow2"], &path);
    assert!(!info.status.success() && String::from_utf8_lossy(&info.stderr).contains("lock"), "{info:?}");
    drop(disk);
    let _reader = Raw::open(&path, Access::ReadOnly).unwrap();
    assert!(run("qemu-img", &["info", "-f", "qcow2"], &path).status.success());
}

#[test]
fn kiln_keeps_off_what_qemu_writes() {
    let (_folder, path) = qcow2();
    let qemu = QemuIo::open(&path, &["-f", "qcow2"]);
    for access in [Access::Write, Access::ReadOnly, Access::SharedWrite] {
        let error = Raw::open(&path, access).err().expect("in use");
        assert!(matches!(error, Error::InUse { .. }), "{access:?}: {error}");
    }
    qemu.close();
    Raw::open(&path, Access::Write).unwrap();
}

// On a raw image qemu-io shares writing itself, so one who shares as well may join it.
#[test]
fn kiln_joins_a_qemu_that_shares_only_when_it_shares_too() {
    let (_folder, path) = image();
    let qemu = QemuIo::open(&path, &["-f", "raw"]);
    for access in [Access::Write, Access::ReadOnly] {
        assert!(matches!(Raw::open(&path, access), Err(Error::InUse { .. })), "{access:?}");
    }
    Raw::open(&path, Access::SharedWrite).unwrap();
    qemu.close();
}

#[test]
fn kiln_reads_but_does_not_write_what_qemu_reads() {
    let (_folder, path) = qcow2();
    let qemu = QemuIo::open(&path, &["-f", "qcow2", "-r"]);
    Raw::open(&path, Access::ReadOnly).unwrap();
    for access in [Access::Write, Access::SharedWrite] {
        assert!(matches!(Raw::open(&path, access), Err(Error::InUse { .. })), "{access:?}");
    }
    qemu.close();
}

#[test]
fn both_read_what_the_other_wrote() {
    let (_folder, path) = image();
    let disk = Raw::open(&path, Access::Write).unwrap();
    disk.write_at(&[IoSlice::new(&[0xa5; 65536])], 4096).unwrap();
    drop(disk);
    let verify = run("qemu-io", &["-f", "raw", "-c", "read -P 0xa5 4096 65536", "-c", "read -P 0 0 4096"], &path);
    let output = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(verify.status.success() && !output.contains("Pattern verification failed"), "{output}");
    assert!(run("qemu-io", &["-f", "raw", "-c", "write -P 0x3c 100k 1k"], &path).status.success());
    let disk = Raw::open(&path, Access::ReadOnly).unwrap();
    let mut data = [0; 1024];
    disk.read_at(&mut [IoSliceMut::new(&mut data)], 100 << 10).unwrap();
    assert_eq!(data, [0x3c; 1024]);
}

// An overlay, and what it lies on.
fn chain() -> (Scene, PathBuf, PathBuf) {
    let (scene, base) = qcow2();
    let top = scene.folder.path().join("top.qcow2");
    let made = run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2"], &top);
    assert!(made.status.success());
    (scene, top, base)
}

#[test]
fn who_writes_to_an_overlay_lets_others_read_its_base() {
    let (_scene, top, base) = chain();
    let kiln = Image::open(&top, Open::writing(None)).unwrap();
    assert!(!run("qemu-img", &["info"], &top).status.success());
    assert!(run("qemu-img", &["check", "-q"], &base).status.success());
    assert!(!run("qemu-io", &["-c", "write 0 512"], &base).status.success());
    drop(kiln);
    assert!(run("qemu-io", &["-c", "write 0 512"], &base).status.success());

    let qemu = QemuIo::open(&top, &[]);
    assert!(matches!(Image::open(&top, Open::reading(None)), Err(Error::InUse { .. })));
    assert!(Image::open(&base, Open::reading(None)).is_ok());
    assert!(matches!(Image::open(&base, Open::writing(None)), Err(Error::InUse { .. })));
    qemu.close();
    assert!(Image::open(&base, Open::writing(None)).is_ok());
}
