//! The guest: Debian's installer kernel, which has a driver for boot screens, and a script that draws and listens.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kiln_lab::cpio::{self, Archive};
use kiln_lab::packages;

use crate::pattern::pattern;

/// Kernel and initramfs, as files.
pub struct Files {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// Draws the first pattern; then events of keyboard and mouse go to the serial port as `od` prints them, and a line
/// typed on the keyboard names the pattern to draw next, or says `reboot` or `poweroff`. Nothing else is ever shown: the terminal doesn't echo.
const SCRIPT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
insmod /evdev.ko
insmod /psmouse.ko
event() { sed -n "/$1/,/^\$/s/.*\\(event[0-9]*\\).*/\\1/p" /proc/bus/input/devices; }
until [ -n "$(event 'AT Translated')" ] && [ -n "$(event Mouse)" ]; do sleep 0.1; done
draw() { cat /$1 > /dev/fb0; echo "DREW $1 $(head -c 4096000 /dev/fb0 | sha256sum | cut -c1-64)"; }
for device in 'AT Translated' Mouse; do od -v -An -tu2 -w24 /dev/input/$(event "$device") & done
until [ $(ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c /dev/input/event) -ge 2 ]; do sleep 0.1; done
echo "SCREEN $(cat /sys/class/graphics/fb0/name /sys/class/graphics/fb0/virtual_size /sys/class/graphics/fb0/stride | tr '\n' ' ')"
draw pattern1
{
    # Only while somebody has it open does a terminal keep its settings.
    stty -echo
    echo GUEST READY
    while read -r line; do
        echo "TYPED $line"
        case $line in
            pattern*) draw $line ;;
            scroll)
                head -c 4096000 /dev/fb0 > /whole
                tail -c +81921 /whole > /scroll
                tail -c 81920 /whole >> /scroll
                draw scroll
                ;;
            reboot | poweroff) $line -f ;;
        esac
    done
} < /dev/tty1
"#;

const TREE: &str = "usr/lib/debian-installer/images/12/amd64";

/// Makes the files, once.
pub fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let package = packages::package("debian-installer-12-netboot-amd64").unwrap().join(TREE);
        // One name, so that nothing piles up; whole at once, because other runs may read it.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let initrd = folder.join("screen.initrd");
        let mut new = tempfile::NamedTempFile::new_in(folder).unwrap();
        new.write_all(&initramfs(&package.join("gtk/debian-installer/amd64/initrd.gz"))).unwrap();
        new.persist(&initrd).unwrap();
        Files { kernel: package.join("text/debian-installer/amd64/linux"), initrd }
    })
}

// The graphical installer's own initrd has the modules of keyboards and mice.
fn initramfs(installer: &Path) -> Vec<u8> {
    let unpacked = unzip(installer);
    let module = |name: &str| {
        let found = cpio::files(&unpacked).find(|file| file.name.ends_with(&format!("/{name}.ko")));
        found.unwrap_or_else(|| panic!("{} has no {name}", installer.display())).data
    };
    let mut archive = Archive::new(Vec::new());
    archive.file("/init", 0o755, SCRIPT.as_bytes()).unwrap();
    archive.file("/bin/busybox", 0o755, &fs::read(packages::busybox().unwrap()).unwrap()).unwrap();
    archive.char_device("/dev/console", 0o600, 5, 1).unwrap();
    for folder in ["proc", "sys", "tmp"] {
        archive.folder(folder).unwrap();
    }
    for name in ["evdev", "psmouse"] {
        archive.file(&format!("/{name}.ko"), 0o644, module(name)).unwrap();
    }
    for which in [1, 2] {
        archive.file(&format!("/pattern{which}"), 0o644, &pattern(which).bytes()).unwrap();
    }
    archive.finish().unwrap()
}

fn unzip(file: &Path) -> Vec<u8> {
    let mut gzip = Command::new("gzip").arg("-dc").arg(file).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = Vec::new();
    gzip.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(gzip.wait().unwrap().success());
    bytes
}
