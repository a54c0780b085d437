//! kill -9 of a machine's process while its guest writes: whatever the guest was told is flushed is there in its next
//! life, the image is sound, and the machine starts again without anybody's help.
//!
//! What a killed process has written stays in the host's page cache, so this is no power loss (that is
//! `crates/image/tests/qcow2/powerfail.rs`). It shows that metadata is written whole and in order (no mapping before the
//! reference count of what it maps to, no new cluster before what is copied into it from below), that nothing which was
//! flushed lives in the process alone, and that no lock outlives it.
//!
//! `KILN_KILLS` says how many kills each format gets; `cargo xtask e2e kill` sets it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, kill_process};

use super::endings::process_of;
use super::guest;
use super::home::{Home, KILN, install};
use super::talk::{PATIENCE, Talk};

/// A program of QEMU's, as a judge.
const QEMU_IMG: &str = "/usr/bin/qemu-img";
/// Blocks of a disk.
const SLOTS: u64 = 2048;
/// Bytes of a block.
const BLOCK: usize = 4096;
/// The first number that a guest writes. Each number has seven digits.
const FIRST: u64 = 1_000_000;
/// The number of the base image's first block.
const BASE: u64 = 2_000_000;
/// Kills of one machine.
const LIVES: u32 = 5;

/// Reads the last number that the host has seen, compares the disk with it, and goes on from there: each number is a
/// block of a text made of it, flushed before its number is told. [`slot`] and [`block`] are the same in Rust.
const LOAD: &str = r#"echo GUEST READY; read last
    strings -n 64 -t d /dev/vda | awk -v last=$last '
        function block(n,  i, b) {
            b = n ":" (n * 48271 % 90000000 + 10000000)
            for (i = 0; i < 8; i++) b = b b
            return substr(b, 1, 4095)
        }
        function wrong(what) { faults++; print "slot " slot ": " what }
        BEGIN { for (n = 1000000; n <= last; n++) wanted[n * 1597 % 2048] = n }
        {
            slot = $1 / 4096; n = substr($2, 1, 7) + 0; there[slot] = n
            if ($2 != block(n)) wrong("torn")
            else if (n >= 2000000) { if (n - 2000000 != slot || slot in wanted) wrong("is the base: " n) }
            else if (n * 1597 % 2048 != slot) wrong("of another place: " n)
            else if (slot in wanted && n < wanted[slot]) wrong("old: " n)
        }
        END {
            for (slot in wanted) { count++; if (!(slot in there)) wrong("lost: " wanted[slot]) }
            print "VERIFIED " count + 0 " blocks, " faults + 0 " wrong."
        }'
    while last=$((last + 1)); do
        b=$last:$((last * 48271 % 90000000 + 10000000))
        b=$b$b; b=$b$b; b=$b$b; b=$b$b; b=$b$b; b=$b$b; b=$b$b; b=$b$b
        dd of=/dev/vda bs=4096 seek=$((last * 1597 % 2048)) conv=fsync 2>/dev/null <<END || break
${b%?}
END
        echo "flushed $last."
    done; echo LOAD ENDED; exec sh"#;

/// Where a number's block lies. 2048 numbers in a row have as many places.
fn slot(number: u64) -> u64 {
    if number >= BASE { number - BASE } else { number * 1597 % SLOTS }
}

/// A number's block: its text again and again, the last letter a line's end.
fn block(number: u64) -> Vec<u8> {
    let mut bytes = format!("{number}:{}", number * 48271 % 90_000_000 + 10_000_000).repeat(BLOCK / 16).into_bytes();
    bytes[BLOCK - 1] = b'\n';
    bytes
}

/// The disk of one machine.
struct Disk<'a> {
    home: &'a Home,
    path: String,
    format: &'static str,
    /// The image that shines through, if any.
    base: Option<String>,
}

impl<'a> Disk<'a> {
    /// A raw one.
    fn raw(home: &'a Home) -> Self {
        let path = home.text("disk.img");
        let size = (SLOTS * BLOCK as u64).to_string();
        home.kiln(&["disk", "create", "-q", "-f", "raw", &path, &size]).ends(0);
        Self { home, path, format: "raw", base: None }
    }

    /// A qcow2 one in which each block is a cluster, or (`is_chained`) sixteen share one that is first copied from a base.
    fn qcow2(home: &'a Home, is_chained: bool) -> Self {
        let path = home.text("disk.qcow2");
        let mut disk = Self { home, path, format: "qcow2", base: None };
        if is_chained {
            let base = home.file("base.img", (BASE..BASE + SLOTS).flat_map(block).collect::<Vec<u8>>());
            home.kiln(&["disk", "create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", &disk.path]).ends(0);
            disk.base = Some(base);
        } else {
            let size = (SLOTS * BLOCK as u64).to_string();
            let words = ["disk", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", &disk.path, &size];
            home.kiln(&words).ends(0);
        }
        disk
    }

    /// No error is in its tables, and each block is the one that was last flushed there, or one written after it.
    #[track_caller]
    fn is_sound(&self, last: u64) {
        let content = if self.format == "raw" { self.path.clone() } else { self.is_checked() };
        let content = fs::read(content).unwrap();
        assert_eq!(content.len() as u64, SLOTS * BLOCK as u64);
        let mut least: Vec<u64> = vec![0; SLOTS as usize];
        (FIRST..=last).for_each(|number| least[slot(number) as usize] = number);
        for (at, bytes) in content.chunks(BLOCK).enumerate() {
            let number = std::str::from_utf8(&bytes[..7]).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            if number == 0 {
                let is_empty = bytes.iter().all(|byte| *byte == 0);
                assert!(is_empty && self.base.is_none() && least[at] == 0, "slot {at}: not {}", least[at]);
                continue;
            }
            assert!(bytes == block(number) && slot(number) == at as u64, "slot {at} is no whole block: {number}");
            let is_base = number >= BASE && self.base.is_some() && least[at] == 0;
            assert!(is_base || (least[at]..BASE).contains(&number), "slot {at}: {number}, not {}", least[at]);
        }
        if let Some(base) = &self.base {
            assert!(fs::read(base).unwrap().chunks(BLOCK).zip(BASE..).all(|(bytes, number)| bytes == block(number)));
        }
    }

    /// Has the tables judged by QEMU and by kiln (lost space is allowed); gives a file with what QEMU reads.
    #[track_caller]
    fn is_checked(&self) -> String {
        for program in [vec![QEMU_IMG], vec![KILN, "disk"]] {
            let words = [&program[1..], &["check", self.path.as_str()]].concat();
            let output = Command::new(program[0]).args(words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 3)), "{program:?} check: {}\n{said}", output.status);
        }
        let content = self.home.text("content.raw");
        let status = Command::new(QEMU_IMG).args(["convert", "-O", "raw", &self.path, &content]).status().unwrap();
        assert!(status.success());
        content
    }
}

/// Lets a guest live, write and be killed; gives the last number that it told.
#[track_caller]
fn life(home: &Home, last: u64, noise: u64) -> u64 {
    let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    console.types(&format!("{last}\r"));
    let found = console.sees(" wrong.");
    assert!(found.contains("VERIFIED ") && found.ends_with(", 0"), "up to {last}: {found}");
    for _ in 0..=noise % 24 {
        console.sees("flushed ");
    }
    // The moment is what is tried out; nothing is waited for. A block takes some ten milliseconds.
    std::thread::sleep(Duration::from_micros(noise / 24 % 30_000));
    kill_process(process_of(home, "web"), Signal::KILL).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while home.machines() != [("web".into(), "shut off".into())] {
        assert!(Instant::now() < deadline, "a killed machine goes on");
    }
    let said = console.ends().1;
    let told = said.split("flushed ").skip(1).filter_map(|rest| rest.split_once('.')?.0.parse().ok());
    told.fold(last, u64::max)
}

/// Kills one machine again and again.
fn kill(disk: &Disk, cache: &str, lives: u32, noise: &mut u64) -> u64 {
    let home = disk.home;
    let boot = guest::boot(home, LOAD);
    let words = format!("path={},format={},cache={cache}", disk.path, disk.format);
    let line = ["--boot", &boot, "--disk", &words, "--template", "small", "--memory", "128", "--noautoconsole"];
    home.kiln(&install(&line)).ends(0);
    let mut last = FIRST - 1;
    for number in 0..lives {
        if number > 0 {
            home.kiln(&["start", "web"]).ends(0);
        }
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        let before = last;
        last = life(home, last, *noise);
        assert!(last > before, "nothing was flushed");
        disk.is_sound(last);
    }
    // One more life, for what the last kill has left.
    home.kiln(&["start", "web"]).ends(0);
    life(home, last, 0) + 1 - FIRST
}

/// The cache modes of this place: a file system without O_DIRECT has no `none`.
fn modes(home: &Home) -> [&'static str; 2] {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::DIRECT;
    let is_direct = rustix::fs::open(home.path("direct"), flags, Mode::RUSR | Mode::WUSR).is_ok();
    ["writeback", if is_direct { "none" } else { "writethrough" }]
}

fn kills() -> u32 {
    std::env::var("KILN_KILLS").map_or(2 * LIVES, |kills| kills.parse().unwrap())
}

/// Kills machines, each with a new disk, until it is enough.
fn kill_all(format: &str, disk: impl Fn(&Home, usize) -> Disk) {
    let mut noise = 0x2545_f491_4f6c_dd1d;
    let mut left = kills();
    let mut blocks = 0;
    for machine in 0.. {
        let lives = left.min(LIVES);
        if lives == 0 {
            break;
        }
        left -= lives;
        let home = Home::new();
        blocks += kill(&disk(&home, machine), modes(&home)[machine % 2], lives, &mut noise);
        println!("{format}: {} kills, {blocks} blocks flushed, all there", kills() - left);
    }
}

#[test]
fn a_raw_disk_holds_all_that_was_flushed_before_a_kill() {
    kiln_lab::needs_kvm!(200 + 20 * u64::from(kills()), KILN, QEMU_IMG);
    kill_all("raw", |home, _| Disk::raw(home));
}

#[test]
fn a_qcow2_disk_holds_all_that_was_flushed_before_a_kill() {
    kiln_lab::needs_kvm!(200 + 20 * u64::from(kills()), KILN, QEMU_IMG);
    // Both kinds meet both cache modes.
    kill_all("qcow2", |home, machine| Disk::qcow2(home, machine / 2 % 2 == machine % 2));
}
