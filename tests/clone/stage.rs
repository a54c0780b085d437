//! A store with a machine named web, whose disks hold known bytes; and QEMU's and libvirt's tools as judges.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::home::{Home, Told};

/// A program of QEMU's, as a judge.
pub const QEMU_IMG: &str = "/usr/bin/qemu-img";
/// Bytes of each disk.
pub const LEN: usize = 8 << 20;

/// A store and a folder `d` with disks.
pub struct Stage {
    pub home: Home,
}

/// Runs a judge, which must be content.
#[track_caller]
pub fn judge(program: &str, words: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(program).args(words).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{program} {words:?}: {said}");
    said
}

/// Bytes that tell a disk by its letter, with holes and runs of zeros between them.
pub fn pattern(letter: u8) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    for start in (0..LEN).step_by(1 << 20) {
        bytes[start..start + 100_000].fill(letter);
    }
    bytes
}

impl Stage {
    /// web has a qcow2 disk, a raw one, and a read-only one.
    pub fn new() -> Self {
        let stage = Self::empty();
        stage.qcow2("d/web.qcow2", b'w');
        stage.home.file("d/data.img", pattern(b'd'));
        stage.home.file("d/tools.img", pattern(b't'));
        let disks = [("qcow2", "d/web.qcow2", ""), ("raw", "d/data.img", ""), ("raw", "d/tools.img", "<readonly/>")];
        stage.define("web", &disks, "");
        stage
    }

    /// No machine.
    pub fn empty() -> Self {
        let stage = Self { home: Home::new() };
        stage.home.file("kernel", "nothing that boots");
        fs::create_dir_all(stage.home.path("d")).unwrap();
        stage
    }

    /// A qcow2 image with a pattern.
    pub fn qcow2(&self, name: &str, letter: u8) {
        let raw = self.home.file("pattern.raw", pattern(letter));
        judge(QEMU_IMG, &["convert", "-f", "raw", "-O", "qcow2", &raw, &self.home.text(name)]);
        fs::remove_file(raw).unwrap();
    }

    /// Defines a machine with disks (format, file, more elements) and more devices.
    pub fn define(&self, name: &str, disks: &[(&str, &str, &str)], devices: &str) {
        let disk = |(number, (format, file, more)): (usize, &(&str, &str, &str))| {
            let target = ["vda", "vdb", "vdc", "vdd"][number];
            let path = self.home.text(file);
            format!(
                "    <disk type='file' device='disk'>\n      <driver name='qemu' type='{format}'/>\n      \
                 <source file='{path}'/>\n      <target dev='{target}' bus='virtio'/>{more}\n    </disk>\n"
            )
        };
        let disks: String = disks.iter().enumerate().map(disk).collect();
        let xml = format!(
            "<domain type='kvm'>\n  <name>{name}</name>\n  <memory unit='MiB'>256</memory>\n  <vcpu>1</vcpu>\n  <os>\n    \
             <type arch='x86_64' machine='q35'>hvm</type>\n    <kernel>{}</kernel>\n  </os>\n  <devices>\n{disks}{devices}  \
             </devices>\n</domain>\n",
            self.home.text("kernel")
        );
        let file = self.home.file("definition.xml", xml);
        self.home.kiln(&["define", &file]).ends(0);
        fs::remove_file(file).unwrap();
    }

    /// `kiln clone`.
    pub fn clone(&self, words: &[&str]) -> Told {
        self.home.kiln(&[&["clone"], words].concat())
    }

    /// A machine's definition.
    pub fn xml(&self, name: &str) -> String {
        self.home.kiln(&["dumpxml", name, "--security-info"]).ends(0).out
    }

    /// Files of a machine's disks, as its definition names them.
    pub fn disks(&self, name: &str) -> Vec<String> {
        let xml = self.xml(name);
        let sources = xml.split("<source file='").skip(1);
        sources.map(|rest| rest.split('\'').next().unwrap().to_owned()).collect()
    }

    /// What QEMU reads of an image is this disk's pattern.
    #[track_caller]
    pub fn holds(&self, path: &str, letter: u8) {
        let raw = self.home.file("expected.raw", pattern(letter));
        let said = judge(QEMU_IMG, &["compare", "-f", "raw", &raw, path]);
        assert!(said.contains("identical"), "{path}: {said}");
        fs::remove_file(raw).unwrap();
    }

    /// A file's permissions.
    pub fn mode(&self, path: impl AsRef<Path>) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Everything below the scratch folder: names, permissions and contents.
    pub fn everything(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        // A machine's lock is there from the first time that it was held.
        let locks = self.home.store("run/machines");
        let is_lock = |path: &PathBuf| path.starts_with(&locks) && path.ends_with("lock");
        let files = self.home.files().into_iter().filter(|path| !is_lock(path));
        files.map(|path| (path.clone(), self.mode(&path), fs::read(&path).unwrap_or_default())).collect()
    }
}
