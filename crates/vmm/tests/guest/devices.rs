//! PCI and virtio devices as Linux finds and drives them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_image::raw::{Raw, create};
use kiln_image::{Access, BlockDevice};
use kiln_vmm::config::{PciDevice, PciKind, Topology};
use kiln_vmm::pci::Place;
use kiln_vmm::virtio::blk::Drive;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::story::{Guest, Recipe};

const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_console", "virtio-rng"];
const SIZE: u64 = 16 << 20;
const PART: u64 = SIZE / 4;

/// A guest with a disk behind a root port, an empty port, a console and an entropy source.
struct Furnished {
    guest: Guest,
    console: UnixStream,
    image: PathBuf,
    _folder: TempDir,
}

fn image(name: &str) -> (TempDir, PathBuf, Arc<dyn BlockDevice>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    create(&path, SIZE).unwrap();
    let disk = Arc::new(Raw::open(&path, Access::Write).unwrap());
    (folder, path, disk)
}

fn drive(disk: Arc<dyn BlockDevice>, queues: u16, serial: &str) -> Drive {
    Drive { queues, serial: serial.into(), unmap: true, ..Drive::new(serial, disk) }
}

fn port(function: u8) -> PciDevice {
    let kind = PciKind::RootPort { slot: u16::from(function) + 1, multifunction: function == 0 };
    PciDevice { place: Place::root(2, function), kind }
}

fn furnished(append: &'static str) -> Furnished {
    let recipe = Recipe { cpus: Topology::one_socket(4), modules: MODULES, append, ..Recipe::default() };
    let (folder, path, disk) = image("disk.img");
    let (console, theirs) = UnixStream::pair().unwrap();
    console.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (input, output) = (theirs.try_clone().unwrap().into(), theirs.into());
    let mut config = recipe.config();
    config.pci = vec![
        port(0),
        port(1),
        PciDevice { place: Place::behind(2, 0, 0), kind: PciKind::Disk(drive(disk, 4, "KILN-1")) },
        PciDevice { place: Place::root(5, 0), kind: PciKind::Console { input, output, columns: 90, rows: 30 } },
        PciDevice { place: Place::root(6, 0), kind: PciKind::Rng },
    ];
    Furnished { guest: recipe.boot_with(config), console, image: path, _folder: folder }
}

/// Writes and reads the whole disk in the guest and compares with the file on the host.
fn disk_works(guest: &Guest, name: &str, image: &Path) {
    const FOUR: &str = "/tmp/r /tmp/r /tmp/r /tmp/r";
    guest.runs(&format!("head -c {PART} /dev/urandom > /tmp/r; cat {FOUR} > /dev/{name}; sync"));
    let sums = format!("sha256sum < /dev/{name}; cat {FOUR} | sha256sum");
    let inside = guest.runs(&format!("echo 3 > /proc/sys/vm/drop_caches; {sums}"));
    let sums: Vec<&str> = inside.split_whitespace().filter(|word| word.len() == 64).collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{inside}");
    let outside = Sha256::digest(std::fs::read(image).unwrap());
    let outside: String = outside.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(outside, sums[0]);
}

#[test]
fn linux_finds_the_devices_where_they_are_and_has_nothing_to_complain_of() {
    kiln_lab::needs_kvm!(120);
    let Furnished { guest, mut console, image, _folder } = furnished("");
    let devices =
        guest.runs("for d in /sys/bus/pci/devices/*; do echo ${d##*/} $(cat $d/vendor $d/device $d/class); done");
    for line in [
        "0000:00:00.0 0x8086 0x29c0 0x060000",
        "0000:00:02.0 0x1b36 0x000c 0x060400",
        "0000:00:02.1 0x1b36 0x000c 0x060400",
        "0000:00:05.0 0x1af4 0x1043 0x078000",
        "0000:00:06.0 0x1af4 0x1044 0xff0000",
        "0000:00:1f.0 0x8086 0x2918 0x060100",
        "0000:01:00.0 0x1af4 0x1042 0x010000",
    ] {
        assert!(devices.contains(line), "no {line} in:\n{devices}");
    }
    assert_eq!(devices.lines().count(), 7, "{devices}");
    let complaints = guest.runs(
        "dmesg | grep -iE 'pci|virtio|vda' | grep -v 'report a bug' | \
         grep -iE 'error|fail|bug|can.t|no space|bogus|conflict|not assigned|invalid|disabled'",
    );
    assert_eq!(complaints, "");

    let queue = guest.runs(
        "cd /sys/block/vda; cat size serial; echo; cd queue; cat logical_block_size physical_block_size \
         discard_max_bytes write_zeroes_max_bytes; ls ../mq | wc -l; cd /",
    );
    assert_eq!(queue, format!("{}\nKILN-1\n512\n4096\n1073741824\n1073741824\n4\n", SIZE / 512));
    let interrupts = guest.runs("grep -c 'MSI.*virtio2-req' /proc/interrupts");
    assert_eq!(interrupts, "4\n");
    disk_works(&guest, "vda", &image);

    guest.runs("blkdiscard /dev/vda; sync");
    let metadata = std::fs::metadata(&image).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 < 1 << 20, "the discard came through");

    assert_eq!(guest.runs("head -c 5000 /dev/hwrng | wc -c"), "5000\n");
    guest.runs("echo from the guest > /dev/hvc0");
    let mut text = [0; 16];
    console.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"from the guest\r\n");
    guest.types("head -n 1 < /dev/hvc0 | sed 's/^/heard: /'");
    console.write_all(b"from the host\n").unwrap();
    guest.sees("heard: from the host");
}

#[test]
fn wires_do_where_messages_are_off() {
    kiln_lab::needs_kvm!(120);
    let Furnished { guest, image, _folder, .. } = furnished("pci=nomsi");
    let interrupts = guest.runs("grep virtio2 /proc/interrupts");
    // Pin A of the port's device 2 leads to PIRQ G.
    assert!(interrupts.contains("IO-APIC") && interrupts.trim_start().starts_with("22:"), "{interrupts}");
    disk_works(&guest, "vda", &image);
    assert_eq!(guest.runs("head -c 100 /dev/hwrng | wc -c"), "100\n");
    let nobody = guest.runs("dmesg | grep -c 'nobody cared'");
    assert_eq!(nobody, "0\n");
}

#[test]
fn a_disk_is_plugged_into_an_empty_port_and_pulled_out_again() {
    kiln_lab::needs_kvm!(120);
    let Furnished { guest, .. } = furnished("");
    let place = Place::behind(2, 1, 0);
    let board = guest.machine().board();
    let (_folder, path, disk) = image("second.img");
    let kind = PciKind::Disk(drive(disk, 1, "KILN-2"));
    board.plug(&PciDevice { place, kind }).unwrap();
    guest.types("until [ -e /sys/block/vdb/serial ]; do sleep 0.1; done; cat /sys/block/vdb/serial");
    guest.sees("\nKILN-2");
    disk_works(&guest, "vdb", &path);
    assert!(board.unplug(place));
    guest.types("while [ -e /sys/block/vdb ]; do sleep 0.1; done; echo go''ne");
    guest.sees("gone");
    assert_eq!(guest.runs("cat /sys/block/vda/serial; echo"), "KILN-1\n");
}

#[test]
fn the_pics_do_where_the_io_apic_is_off() {
    kiln_lab::needs_kvm!(120);
    let Furnished { guest, image, _folder, .. } = furnished("pci=nomsi noapic");
    let interrupts = guest.runs("grep virtio /proc/interrupts");
    assert!(interrupts.contains("XT-PIC"));
    disk_works(&guest, "vda", &image);
    assert_eq!(guest.runs("dmesg | grep -c 'nobody cared'"), "0\n");
}
