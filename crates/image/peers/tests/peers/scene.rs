//! Images on real files, and their contents as each program has them.

use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_image::qcow2::check::{Report, check};
use kiln_image::qcow2::compress::Compressor;
use kiln_image::qcow2::create::format;
use kiln_image::qcow2::image::read_header;
use kiln_image::qcow2::{Compression, Create, Qcow2};
use kiln_image::storage::File;
use kiln_image::{Access, BlockDevice, Error, Image, Open};
use kiln_peers::adapter::Peer;
use tempfile::TempDir;

/// Says that a fault of a peer is still there; `what` is a main clause about it.
#[track_caller]
pub fn still(there: bool, what: &str) {
    assert!(
        there,
        "a fault is gone, which reopens the decision: no longer true that {what}. Look at docs/decisions/qcow2.md again, \
         and at this test."
    );
}

/// A small generator of repeatable noise (xorshift64).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that can be compressed a little.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 33) as u8 & 0x3f | 0x40).collect()
    }
}

/// A folder with images in it.
pub struct Scene(TempDir);

impl Scene {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes an image with kiln.
    pub fn create(&self, name: &str, new: &Create) -> PathBuf {
        let path = self.path(name);
        std::fs::File::create_new(&path).unwrap();
        format(Arc::new(patiently(|| File::open(&path, Access::Write))), None, new).unwrap();
        path
    }
}

// A program that another test has just forked keeps this one's locks until it is what it is to be.
fn patiently<T>(open: impl Fn() -> Result<T, Error>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match open() {
            Err(Error::InUse { .. }) if Instant::now() < until => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// Opens an image and what lies below it with kiln.
pub fn kiln(path: &Path, how: Open) -> Arc<Image> {
    patiently(|| Image::open(path, how))
}

/// Opens an image and what lies below it with qcow2-rs.
pub fn peer(path: &Path, access: Access) -> Peer {
    Peer::open(path, access).unwrap()
}

/// Lets kiln change an image.
pub fn change(path: &Path, change: impl FnOnce(&Qcow2)) {
    let image = kiln(path, Open::writing(None));
    change(image.qcow2().unwrap());
    image.close().unwrap();
}

pub fn write(disk: &dyn BlockDevice, bytes: &[u8], offset: u64) {
    disk.write_at(&[IoSlice::new(bytes)], offset).unwrap();
}

/// Writes bytes as compressed clusters.
pub fn write_compressed(image: &Qcow2, bytes: &[u8], offset: u64) {
    let cluster = image.header().cluster_size() as usize;
    let mut compressor = Compressor::new(Compression::Zlib).unwrap();
    for (number, bytes) in bytes.chunks(cluster).enumerate() {
        let mut out = vec![0; cluster];
        let len = compressor.compress(bytes, &mut out).expect("it can be compressed");
        image.write_compressed(offset + (number * cluster) as u64, &out[..len]).unwrap();
    }
}

/// Bytes that a cluster takes when it is compressed; more than it has itself when it can't be.
pub fn compressed_len(cluster: &[u8]) -> usize {
    let mut out = vec![0; cluster.len()];
    Compressor::new(Compression::Zlib).unwrap().compress(cluster, &mut out).unwrap_or(cluster.len() + 1)
}

/// Makes an image encrypted by LUKS, with 0x5a in the disk's first 64 KiB.
pub fn encrypted(scene: &Scene) -> PathBuf {
    let path = scene.path("encrypted.qcow2");
    let secret = "secret,id=s,data=abc";
    let run = |command: &mut Command| {
        // It measures how fast the processor is, and gives up where the clock doesn't help: then once more.
        let mut outcomes = (0..20).map(|_| command.output().unwrap());
        let output = outcomes
            .find(|output| !String::from_utf8_lossy(&output.stderr).contains("accurate CPU usage"))
            .expect("qemu-img can measure the processor");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    run(Command::new("qemu-img")
        .args(["create", "-q", "--object", secret, "-f", "qcow2", "-o", options])
        .arg(&path)
        .arg("1M"));
    let place = format!("driver=qcow2,encrypt.key-secret=s,file.filename={}", path.display());
    run(Command::new("qemu-io").args(["--object", secret, "-c", "write -P 0x5a 0 64k", "--image-opts", &place]));
    path
}

/// What kiln's check counts.
pub fn kiln_check(path: &Path) -> Report {
    let file = patiently(|| File::open(path, Access::ReadOnly));
    check(&file, &read_header(&file).unwrap(), &mut |_| {}).unwrap()
}

/// All of a disk. What a program leaves as it was shows as 0xa5.
pub fn all(disk: &dyn BlockDevice) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0xa5; disk.len() as usize];
    for (number, part) in bytes.chunks_mut(256 << 10).enumerate() {
        disk.read_at(&mut [IoSliceMut::new(part)], number as u64 * (256 << 10))?;
    }
    Ok(bytes)
}

/// All of a disk, as kiln reads it.
pub fn kiln_reads(path: &Path) -> Vec<u8> {
    all(kiln(path, Open::reading(None)).as_ref()).unwrap()
}

/// All of a disk, as QEMU reads it, or one of its snapshots.
#[track_caller]
pub fn qemu_reads(path: &Path, snapshot: Option<&str>) -> Vec<u8> {
    let raw = path.with_extension("raw-copy");
    let mut command = Command::new("qemu-img");
    command.arg("convert");
    if let Some(name) = snapshot {
        command.args(["-l", name]);
    }
    let output = command.args(["-O", "raw"]).arg(path).arg(&raw).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

/// Exit status of qemu-img check, and what it says.
pub fn qemu_check(path: &Path) -> (i32, String) {
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// Runs the program `peer` on an image, in a process of its own. One that takes 3 seconds of a processor, where a good
/// one takes a few thousandths, is in an endless loop; it is ended, and so is one that waits for nothing.
pub fn apart(words: &[&str], path: &Path) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60", "prlimit", "--cpu=3", env!("CARGO_BIN_EXE_peer")]).args(words).arg(path);
    command.env("RUST_BACKTRACE", "0").output().unwrap()
}
