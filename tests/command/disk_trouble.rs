//! Disks that go wrong under a guest, or are used in ways in which much could: the guest is told, the log says why, and
//! nothing crashes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use kiln_lab::packages::cloud_kernel;

use super::bad_disks::patch;
use super::disks::{asks, checked, reason};
use super::endings::process_of;
use super::guest::{self, SHELL};
use super::home::{Home, KILN, install};
use super::talk::Talk;

const MIB: usize = 1 << 20;

/// A block device in memory, of which parts can be made to fail.
struct Bad {
    folder: String,
    path: String,
}

impl Bad {
    const DEVICES: &str = "/sys/kernel/config/nullb";

    fn new(name: &str, mib: u32) -> Self {
        if !Path::new(Self::DEVICES).exists() {
            load(&["null_blk"], "nr_devices=0");
            // The folder comes with the file system; where that is mounted already, this fails and nothing is lost.
            let _ = Command::new("mount").args(["-t", "configfs", "configfs", "/sys/kernel/config"]).status();
        }
        let folder = format!("{}/{name}", Self::DEVICES);
        fs::create_dir(&folder).unwrap();
        let set = |what: &str, value: &str| fs::write(format!("{folder}/{what}"), value).unwrap();
        set("size", &mib.to_string());
        set("memory_backed", "1");
        set("power", "1");
        // Newer kernels name the device after the folder.
        let index = fs::read_to_string(format!("{folder}/index")).unwrap();
        let path = [format!("/dev/{name}"), format!("/dev/nullb{}", index.trim())];
        let path = path.into_iter().find(|path| Path::new(path).exists()).unwrap();
        Self { folder, path }
    }

    /// These sectors fail; with `-` before them they don't any more.
    fn sectors(&self, which: &str) {
        fs::write(format!("{}/badblocks", self.folder), which).unwrap();
    }
}

/// Loads modules and what they need into this kernel; the last one gets a parameter.
fn load(names: &[&str], parameter: &str) {
    for module in cloud_kernel().unwrap().modules(names).unwrap() {
        let is_there = fs::read_to_string("/proc/modules")
            .unwrap()
            .lines()
            .any(|line| line.split(' ').next() == Some(&module.name));
        if is_there {
            continue;
        }
        let path = format!("/tmp/{}.ko", module.name);
        fs::write(&path, &module.bytes).unwrap();
        let mut command = Command::new("insmod");
        command.arg(&path).args(names.contains(&module.name.as_str()).then_some(parameter));
        assert!(command.status().unwrap().success(), "{}", module.name);
    }
}

/// A qcow2 image of 4 MiB, each full of its number and all clusters in place.
fn filled(home: &Home, name: &str) -> String {
    let pattern: Vec<u8> = (0..4 * MIB).map(|at| 1 + (at / (64 << 10)) as u8).collect();
    let (raw, path) = (home.file("pattern.img", pattern), home.text(name));
    home.kiln(&["disk", "convert", "-O", "qcow2", &raw, &path]).ends(0);
    path
}

fn number_at(path: &str, at: u64) -> u64 {
    let mut bytes = [0; 8];
    fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

/// Whether the machine's process has the file open past the page cache.
fn is_direct(home: &Home, path: &str) -> bool {
    let process = format!("/proc/{}", process_of(home, "web").as_raw_nonzero());
    let entries = fs::read_dir(format!("{process}/fd")).unwrap().map(|entry| entry.unwrap());
    let mut found = entries.filter(|entry| fs::read_link(entry.path()).is_ok_and(|there| there == Path::new(path)));
    found.any(|entry| {
        let info = format!("{process}/fdinfo/{}", entry.file_name().to_str().unwrap());
        let info = fs::read_to_string(info).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        // O_DIRECT of x86 (open(2)).
        u32::from_str_radix(flags.trim(), 8).unwrap() & 0o40000 != 0
    })
}

#[test]
fn disks_that_go_wrong_under_a_guest() {
    kiln_lab::needs_lab!(500, KILN, "/usr/bin/qemu-img");
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let file = |name: &str, bytes: usize| home.file(name, vec![0; bytes]);
    let (gone, grown, shared) = (file("gone.img", MIB), file("grown.img", MIB), file("shared.img", MIB));
    let (bent, refs, cut) = (filled(&home, "bent.qcow2"), home.text("refs.qcow2"), filled(&home, "cut.qcow2"));
    // The first cluster's entry leads to where no cluster can begin (docs/interop/qcow2, L2 table entry).
    let l2 = number_at(&bent, number_at(&bent, 40)) & 0x00ff_ffff_ffff_fe00;
    patch(&bent, l2, &(1 << 63 | 0x5_0200u64).to_be_bytes());
    // The refcounts are told to lie far behind the file's end.
    home.kiln(&["disk", "create", "-q", "-f", "qcow2", &refs, "4M"]).ends(0);
    patch(&refs, number_at(&refs, 48), &(1u64 << 50).to_be_bytes());
    let (stops, sync) = (Bad::new("stops", 8), Bad::new("sync", 8));
    let disks = [
        format!("path={gone}"),
        format!("path={bent}"),
        format!("path={refs}"),
        format!("path={cut}"),
        format!("path={grown}"),
        format!("path={shared},perms=sh"),
        format!("path={},cache=none,error_policy=stop", stops.path),
        format!("path={},cache=directsync", sync.path),
        format!("path={},size=0.0078125,detect_zeroes=unmap,discard=unmap", home.text("zeros.qcow2")),
        format!("path={},size=0.0078125,sparse=no", home.text("full.img")),
    ];
    let mut line = vec!["--boot", &boot, "--template", "small", "--noautoconsole"];
    disks.iter().for_each(|disk| line.extend(["--disk", disk]));
    home.kiln(&install(&line)).ends(0);
    assert_eq!(fs::metadata(home.text("full.img")).unwrap().blocks() * 512, 8 << 20, "all its space is taken");
    // A file system that has no way past the page cache: told by name.
    let ram = home.text("ram");
    fs::create_dir(&ram).unwrap();
    assert!(Command::new("mount").args(["-t", "ramfs", "ramfs", &ram]).status().unwrap().success());
    for mode in ["none", "directsync"] {
        let disk = format!("path={},cache={mode}", home.file("ram/disk.img", vec![0; MIB]));
        let told = home.kiln(&install(&["--name", "direct", "--boot", &boot, "--noautoconsole", "--disk", &disk]));
        told.ends(1).says(&["disk.img can't be used", "O_DIRECT", "> Use cache=writeback"]);
    }
    assert!(Command::new("umount").arg(&ram).status().unwrap().success());
    // A second machine writes to the shared one; a third may not have it for itself.
    let other = ["--name", "other", "--memory", "128", "--boot", &boot, "--template", "small", "--noautoconsole"];
    home.kiln(&install(&[&other[..], &["--disk", &disks[5]]].concat())).ends(0);
    let alone = format!("path={shared}");
    let third = ["--name", "third", "--boot", &boot, "--disk", &alone, "--noautoconsole"];
    home.kiln(&install(&third)).ends(4).says(&["shared.img can't be used", "> "]);

    let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    let mut ask = |line: &str| asks(&mut console, line);
    let fails = "2>&1 | grep -c 'Input/output error'";
    // Tables that are wrong: what needs them fails, the rest goes on.
    assert!(ask(&format!("dd if=/dev/vdb of=/dev/null bs=4k count=1 {fails}")).contains("1\r\n"));
    assert!(ask("dd if=/dev/vdb bs=64k skip=1 count=1 2>/dev/null | tr -d '\\002' | wc -c").contains("\n0\r\n"));
    assert!(ask(&format!("echo x | dd of=/dev/vdc bs=4k conv=fsync {fails}")).contains("1\r\n"));
    // A file is cut short, one grows, one loses its name.
    let len = fs::metadata(&cut).unwrap().len();
    fs::File::options().write(true).open(&cut).unwrap().set_len(len / 2).unwrap();
    assert!(ask(&format!("dd if=/dev/vdd of=/dev/null bs=64k skip=60 {fails}")).contains("1\r\n"));
    assert!(ask("dd if=/dev/vdd bs=64k count=1 2>/dev/null | tr -d '\\001' | wc -c").contains("\n0\r\n"));
    fs::File::options().write(true).open(&grown).unwrap().set_len(3 << 20).unwrap();
    assert!(ask("cat /sys/block/vde/size; dd if=/dev/vde of=/dev/null bs=1M && echo re''ad").contains("2048\r\n"));
    home.kiln(&["blockresize", "web", "vde", "5M"]).ends(0);
    let said =
        ask("until grep -q 10240 /sys/block/vde/size; do :; done; echo end | dd of=/dev/vde seek=10239 conv=fsync");
    assert!(said.ends_with('0'), "{said}");
    fs::remove_file(&gone).unwrap();
    let said = ask(
        "head -c 4096 /dev/zero | tr '\\0' G | dd of=/dev/vda conv=fsync && echo 3 > /proc/sys/vm/drop_caches; head -c 4096 /dev/vda | tr -d G | wc -c",
    );
    assert!(said.contains("\n0\r\n"), "{said}");
    // Zeros take no space, and what was written before them gives its back.
    let zeros = home.text("zeros.qcow2");
    ask("head -c 4194304 /dev/zero | tr '\\0' Z | dd of=/dev/vdi bs=1M conv=fsync");
    let before = fs::metadata(&zeros).unwrap().blocks() * 512;
    ask("dd if=/dev/zero of=/dev/vdi bs=1M count=4 conv=fsync");
    let after = fs::metadata(&zeros).unwrap().blocks() * 512;
    assert!(before > 4 << 20 && after < 1 << 20, "{before} bytes before the zeros, {after} after them");
    // Past the page cache.
    assert!(is_direct(&home, &stops.path) && is_direct(&home, &sync.path) && !is_direct(&home, &shared));
    let said = ask(
        "head -c 1000000 /dev/zero | tr '\\0' D > /tmp/d; cat /sys/block/vdg/queue/write_cache /sys/block/vdh/queue/write_cache; dd if=/tmp/d of=/dev/vdh bs=1000; sync",
    );
    assert!(said.contains("write back\r\nwrite through\r\n"), "{said}");
    let there = fs::read(&sync.path).unwrap();
    assert!(there[..1_000_000].iter().all(|byte| *byte == b'D') && there[1_000_000..].iter().all(|byte| *byte == 0));

    // Both machines see what the other has written.
    let mut second = Talk::on_terminal(&home.command(&["console", "other"]));
    second.sees("GUEST READY");
    let drop_caches = "echo 3 > /proc/sys/vm/drop_caches";
    ask("echo from-web | dd of=/dev/vdf conv=fsync");
    let said = asks(
        &mut second,
        &format!("{drop_caches}; head -n 1 /dev/vda; echo from-other | dd of=/dev/vda seek=8 conv=fsync"),
    );
    assert!(said.contains("from-web\r\n"), "{said}");
    let said = ask(&format!("{drop_caches}; dd if=/dev/vdf skip=8 count=1 2>/dev/null | head -n 1"));
    assert!(said.contains("from-other\r\n"), "{said}");
    home.kiln(&["destroy", "other"]).ends(0);

    // A device that fails: the machine stands, and goes on as if nothing had been.
    stops.sectors("+2048-4095");
    console.types("dd if=/tmp/d of=/dev/vdg bs=1000 seek=1000 conv=fsync 2>/dev/null; echo wri''tten $?.\r");
    reason(&home, "paused (I/O error)");
    stops.sectors("-2048-4095");
    home.kiln(&["resume", "web"]).ends(0);
    console.sees("written 0.");
    assert!(fs::read(&stops.path).unwrap()[1_000_000..2_000_000].iter().all(|byte| *byte == b'D'));
    let log = fs::read_to_string(home.store("state/machines/web/machine.log")).unwrap();
    for says in [
        "vdb: a read failed (report)",
        "vdc: a write failed (report)",
        "vdd: a read failed (report)",
        "vdg: a write failed (stop)",
    ] {
        assert!(log.contains(says), "{says}: {log}");
    }
    assert!(log.contains("cut.qcow2") && log.contains("cut short while it was in use"), "{log}");
    console.types("poweroff -f\r");
    reason(&home, "shut off (shutdown)");
    let log = fs::read_to_string(home.store("state/machines/web/machine.log")).unwrap();
    assert!(log.contains("its file was cut short while it was in use, and data in it is lost"), "{log}");
    assert!(fs::metadata(&cut).unwrap().len() == len / 2, "nobody makes up what is lost");
    checked(&zeros);
    home.kiln(&["start", "web"]).ends(3).says(&["gone.img can't be used", "> Put it back"]);
}
