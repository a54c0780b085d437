//! Block devices whose sectors have 4 KiB: a loop device stands for one. To set one up takes root; without, this can't be
//! tested.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::QEMU_IMG;
use crate::killed::prepare;

/// A loop device on a file, until it is dropped.
struct Device(String);

impl Device {
    fn new(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["-f", "--show", "-b", "4096"]).arg(file).output().ok()?;
        if !output.status.success() {
            println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(String::from_utf8(output.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn run(program: &str, folder: &Path, words: &[&str]) -> Output {
    Command::new(program).args(words).current_dir(folder).output().unwrap()
}

#[track_caller]
fn done(folder: &Path, line: &str) {
    let mut words = vec!["disk"];
    words.extend(line.split(' '));
    let output = run(env!("CARGO_BIN_EXE_kiln"), folder, &words);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn same(folder: &Path, device: &str, format: &str) {
    let compare = run(QEMU_IMG, folder, &["compare", "-f", "raw", "-F", format, "disk.raw", device]);
    assert!(compare.status.success(), "{}", String::from_utf8_lossy(&compare.stdout));
    if format == "qcow2" {
        let check = run(QEMU_IMG, folder, &["check", device]);
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    }
}

#[test]
fn devices_with_sectors_of_4_kib() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    prepare(folder);
    // As long as the disk, and room for a qcow2 image of it.
    for (len, format) in [(8 << 20, "raw"), (32 << 20, "qcow2")] {
        let file = folder.join(format);
        fs::File::create(&file).unwrap().set_len(len).unwrap();
        let Some(device) = Device::new(&file) else { return };
        let name = device.0.as_str();
        for cache in ["none", "directsync", "writeback"] {
            if format == "raw" {
                done(folder, &format!("convert -n -t {cache} -T {cache} -O raw disk.qcow2 {name}"));
                same(folder, name, format);
                continue;
            }
            // Tables that are smaller than a sector of the device.
            for cluster in ["512", "64k"] {
                done(folder, &format!("create -q -f qcow2 --force -o cluster_size={cluster} {name} 8M"));
                done(folder, &format!("convert -n -t {cache} -f raw -O qcow2 disk.raw {name}"));
                same(folder, name, format);
                for verb in ["snapshot -c s", "resize -q", "snapshot -a s", "snapshot -d s"] {
                    let size = if verb.starts_with("resize") { " 9M" } else { "" };
                    done(folder, &format!("{verb} {name}{size}"));
                }
                same(folder, name, format);
                done(folder, &format!("check -q -T {cache} {name}"));
            }
        }
    }
}
