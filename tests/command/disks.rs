//! Guests on disks: what they write is there, in every cache mode and through chains; and what becomes of them when the
//! host can't go on.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::control::{Client, misbehave};
use super::guest::{self, SHELL};
use super::home::{Home, KILN, install};
use super::talk::{PATIENCE, Talk};

/// A program of QEMU's, as a judge.
const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// Waits until `domstate --reason` says this of the machine "web".
#[track_caller]
pub fn reason(home: &Home, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let told = home.kiln(&["domstate", "web", "--reason"]).ends(0).out;
        if told.trim() == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "it is {told:?}, never {wanted:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Types a line into the guest's shell and gives what it says, up to its status.
#[track_caller]
pub fn asks(console: &mut Talk, line: &str) -> String {
    // The echo of what is typed must not look like the answer.
    console.types(&format!("{line}; echo do''ne $?.\r"));
    let text = console.sees("done ");
    let status = console.sees(".");
    format!("{text}{status}")
}

/// qemu-img finds nothing wrong with it.
#[track_caller]
pub fn checked(path: &str) {
    let status = Command::new(QEMU_IMG).args(["check", "-q", path]).status().unwrap();
    assert!(status.success(), "{path}: {status}");
}

/// What QEMU reads there.
fn content(home: &Home, path: &str) -> Vec<u8> {
    let raw = home.text("content.raw");
    let status = Command::new(QEMU_IMG).args(["convert", "-O", "raw", path, &raw]).status().unwrap();
    assert!(status.success(), "{path}: {status}");
    fs::read(raw).unwrap()
}

#[test]
fn what_a_guest_writes_is_there_in_every_mode_and_through_chains() {
    kiln_lab::needs_kvm!(300, KILN, QEMU_IMG);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let mut pattern = vec![0; 4 << 20];
    pattern[..4096].fill(b'B');
    pattern[3 << 20..].fill(b'E');
    let base = home.file("base.img", &pattern);
    let middle = home.text("middle.qcow2");
    home.kiln(&["disk", "create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw", &middle]).ends(0);
    let top = home.text("top.qcow2");
    let modes = ["writeback", "writethrough", "unsafe"];
    let mut line = vec!["--boot", &boot, "--vcpus", "2", "--noautoconsole"];
    let chain = format!("path={top},backing_store={middle},discard=unmap,serial=CHAIN-1");
    let other = modes.map(|mode| format!("path={},size=0.0625,cache={mode}", home.text(&format!("{mode}.qcow2"))));
    let raw = format!("path={},size=0.0625,cache=writethrough", home.text("raw.img"));
    for disk in [&chain, &other[0], &other[1], &other[2], &raw, "size=1"] {
        line.extend(["--disk", disk]);
    }
    home.kiln(&install(&line)).ends(0).says(&["qcow2 (on ", "middle.qcow2", "GiB raw (sparse)", "images/web.qcow2"]);
    let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    let said = asks(&mut console, "cat /sys/block/vda/serial /sys/block/vd?/queue/write_cache");
    let caches = ["back", "back", "through", "back", "through", "back"].map(|cache| format!("write {cache}\r\n"));
    assert!(said.contains(&format!("CHAIN-1\r\n{}", caches.concat())) || said.contains(&caches.concat()), "{said}");
    misbehave(&home, "web");
    // A disk grows while the guest runs, which learns of it.
    home.kiln(&["blockresize", "web", "vdf", "2G"]).ends(0).says(&["Block device 'vdf' is resized"]);
    home.kiln(&["blockresize", "web", "vdf", "1G"]).ends(4).says(&["would cut it", "> Make the file system smaller"]);
    home.kiln(&["blockresize", "web", "vdz", "1G"]).ends(3).says(&["has no disk vdz", "> There are: vda, vdb"]);
    home.kiln(&["send-key", "web", "KEY_LEFTCTRL", "KEY_C"]).ends(0);
    let said = asks(&mut console, "until grep -q 4194304 /sys/block/vdf/size; do :; done; cat /sys/block/vdf/size");
    assert!(said.contains("4194304"), "{said}");
    // The base shines through; what is written over it hides it.
    let said = asks(
        &mut console,
        "dd if=/dev/vda bs=4k count=1 2>/dev/null | md5sum; dd if=/dev/vda bs=1M skip=3 2>/dev/null | md5sum",
    );
    let sum = |bytes: &[u8]| md5(&home, bytes);
    assert!(said.contains(&sum(&pattern[..4096])) && said.contains(&sum(&pattern[3 << 20..])), "{said}");
    let fill = "head -c 1000000 /dev/zero | tr '\\0' G > /tmp/g";
    asks(&mut console, fill);
    for disk in ["vda", "vdb", "vdc", "vdd", "vde", "vdf"] {
        let said = asks(&mut console, &format!("dd if=/tmp/g of=/dev/{disk} bs=1000 seek=1000 conv=fsync 2>/dev/null"));
        assert!(said.ends_with("0"), "{said}");
    }
    // Space that the guest gives back is given back; elsewhere a discard is taken and does nothing.
    let said =
        asks(&mut console, "blkdiscard -o 3145728 -l 1048576 /dev/vda; blkdiscard -o 3145728 -l 1048576 /dev/vdc");
    assert!(said.ends_with("0"), "{said}");
    console.types("poweroff -f\r");
    reason(&home, "shut off (shutdown)");

    let mut expected = pattern.clone();
    expected[1_000_000..2_000_000].fill(b'G');
    let got = content(&home, &top);
    assert!(got[..3 << 20] == expected[..3 << 20], "the chain holds what was written, and the rest of the base");
    assert!(got[3 << 20..].iter().all(|byte| *byte == 0), "what was discarded reads zeros, not the base");
    assert!(fs::read(&base).unwrap() == pattern, "what lies below is never written");
    for image in modes.map(|mode| home.text(&format!("{mode}.qcow2"))) {
        checked(&image);
        let got = content(&home, &image);
        assert!(got[1_000_000..2_000_000].iter().all(|byte| *byte == b'G'), "{image}");
        assert!(got[..1_000_000].iter().chain(&got[2_000_000..]).all(|byte| *byte == 0), "{image}");
    }
    checked(&top);
    assert_eq!(fs::read(home.text("raw.img")).unwrap()[1_000_000..2_000_000], vec![b'G'; 1_000_000]);
}

fn md5(home: &Home, bytes: &[u8]) -> String {
    let path = home.file("to-sum", bytes);
    let output = Command::new("md5sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..32].to_owned()
}

/// A small file system in memory at `path`, gone with this.
struct Small(String);

impl Small {
    fn new(path: &str, kib: u32) -> Self {
        fs::create_dir_all(path).unwrap();
        let small = Self(path.into());
        small.mount(&format!("size={kib}k"));
        small
    }

    fn mount(&self, options: &str) {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs", &self.0]).status().unwrap();
        assert!(status.success());
    }

    fn grow(&self, kib: u32) {
        self.mount(&format!("remount,size={kib}k"));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_host_without_space_pauses_the_machine_and_resume_goes_on() {
    kiln_lab::needs_lab!(300, KILN, QEMU_IMG);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    for (format, file) in [("qcow2", "disk.qcow2"), ("raw", "disk.img")] {
        let small = Small::new(&home.text("small"), 6 << 10);
        let path = home.text(&format!("small/{file}"));
        let disk = format!("path={path},size=0.0625,format={format}");
        home.kiln(&install(&["--boot", &boot, "--disk", &disk, "--noautoconsole"])).ends(0);
        let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
        console.sees("GUEST READY");
        let mut control = Client::of(&home, "web");
        asks(&mut console, "head -c 16777216 /dev/urandom > /tmp/r; md5sum < /tmp/r > /tmp/sum; cat /tmp/sum");
        console.types("dd if=/tmp/r of=/dev/vda bs=1M conv=fsync; echo wri''tten $?.\r");
        reason(&home, "paused (I/O error)");
        home.kiln(&["list"]).ends(0).says(&["web", "paused"]);
        let told = control.hears("BLOCK_IO_ERROR");
        let about = [&told["device"], &told["operation"], &told["action"], &told["nospace"]];
        assert_eq!(about, [&json!("vda"), &json!("write"), &json!("stop"), &json!(true)], "{told}");
        control.hears("STOP");
        let blocks = control.ask(&json!({ "execute": "query-block" }));
        assert_eq!(blocks["return"][0]["io-status"], "nospace", "{blocks}");
        // Nobody else in there is in the way of what follows.
        drop(control);
        // Still full: it stands again. With space it goes on as if nothing had been.
        home.kiln(&["resume", "web"]).ends(0).says(&["Domain 'web' resumed"]);
        reason(&home, "paused (I/O error)");
        small.grow(40 << 10);
        home.kiln(&["resume", "web"]).ends(0);
        console.sees("written 0.");
        reason(&home, "running (booted)");
        let log = fs::read_to_string(home.store("state/machines/web/machine.log")).unwrap_or_default();
        let said =
            asks(&mut console, "echo 3 > /proc/sys/vm/drop_caches; head -c 16777216 /dev/vda | md5sum; cat /tmp/sum");
        let sums: Vec<&str> = said.lines().filter(|line| line.ends_with("  -")).collect();
        assert!(sums.len() == 2 && sums[0] == sums[1], "{said}\n{log}");
        console.types("poweroff -f\r");
        reason(&home, "shut off (shutdown)");
        if format == "qcow2" {
            checked(&path);
        }
        home.kiln(&["undefine", "web"]).ends(0);
    }
}

/// A machine that an error has paused is reset: it stands, what its disk was asked for is forgotten.
fn stays_paused_in_a_reset(home: &Home) -> Client {
    let mut control = Client::of(home, "web");
    home.kiln(&["reset", "web"]).ends(0).says(&["Domain 'web' was reset"]);
    assert_eq!(control.hears("RESET"), json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    let status = control.ask(&json!({ "execute": "query-status" }))["return"].clone();
    assert_eq!((&status["status"], &status["running"]), (&json!("prelaunch"), &json!(false)), "{status}");
    let blocks = control.ask(&json!({ "execute": "query-block" }));
    assert_eq!(blocks["return"][0]["io-status"], "ok", "{blocks}");
    reason(home, "paused (user)");
    home.kiln(&["suspend", "web"]).ends(4).says(&["is paused already"]);
    control
}

#[test]
fn a_host_that_fails_is_told_or_stops_the_machine_as_it_was_asked() {
    kiln_lab::needs_lab!(400, KILN, "/usr/bin/prlimit");
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let limit = |home: &Home, bytes: &str| {
        let info = home.kiln(&["dominfo", "web", "--json"]).ends(0).out;
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let pid = info["running"]["pid"].to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}")]).status().unwrap();
        assert!(status.success());
    };
    for policy in ["report", "stop", "ignore"] {
        let disk = format!("path={},size=0.0625,error_policy={policy}", home.text(&format!("{policy}.img")));
        home.kiln(&install(&["--boot", &boot, "--disk", &disk, "--noautoconsole"])).ends(0);
        let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
        console.sees("GUEST READY");
        asks(&mut console, "head -c 4194304 /dev/zero | tr '\\0' X > /tmp/x");
        // Files may not grow past this; writes behind it fail, for another reason than want of space.
        limit(&home, "1048576");
        console.types("dd if=/tmp/x of=/dev/vda bs=1M conv=fsync 2>/dev/null; echo wri''tten $?.\r");
        match policy {
            "report" => {
                console.sees("written 1.");
                // Cut short by somebody else: told to the guest and in the log, never read as zeros.
                fs::File::options().write(true).open(home.text("report.img")).unwrap().set_len(4096).unwrap();
                let said = asks(
                    &mut console,
                    "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1M count=8 2>&1",
                );
                assert!(said.contains("Input/output error"), "{said}");
                let log = fs::read_to_string(home.store("state/machines/web/machine.log")).unwrap();
                assert!(log.contains("the file ends at byte 4096: it was cut short while it was in use"), "{log}");
            }
            "ignore" => drop(console.sees("written 0.")),
            _ => {
                reason(&home, "paused (I/O error)");
                home.kiln(&["suspend", "web"]).ends(4).says(&["is paused already", "> kiln domstate --reason web"]);
                limit(&home, "unlimited");
                home.kiln(&["resume", "web"]).ends(0);
                console.sees("written 0.");
                limit(&home, "1048576");
                console.types("dd if=/tmp/x of=/dev/vda bs=1M seek=8 conv=fsync\r");
                reason(&home, "paused (I/O error)");
                let mut control = stays_paused_in_a_reset(&home);
                limit(&home, "unlimited");
                home.kiln(&["resume", "web"]).ends(0);
                control.hears("RESUME");
                console.sees("GUEST READY");
                let said =
                    asks(&mut console, "head -c 4096 /dev/vda | md5sum; echo Z | dd of=/dev/vda conv=fsync seek=9999");
                assert!(said.contains(&md5(&home, &[b'X'; 4096])) && said.ends_with('0'), "{said}");
            }
        }
        reason(&home, "running (booted)");
        home.kiln(&["suspend", "web"]).ends(0).says(&["Domain 'web' suspended"]);
        reason(&home, "paused (user)");
        home.kiln(&["resume", "web"]).ends(0).says(&["Domain 'web' resumed"]);
        home.kiln(&["resume", "web"]).ends(4).says(&["is not paused"]);
        home.kiln(&["destroy", "web"]).ends(0);
        home.kiln(&["undefine", "web"]).ends(0);
        let written = fs::read(home.text(&format!("{policy}.img"))).unwrap();
        if policy == "report" {
            assert_eq!(written.len(), 4096, "what was cut is not written anew");
        }
        let whole = written.iter().filter(|byte| **byte == b'X').count() == 4 << 20;
        assert_eq!(whole, policy == "stop", "{policy}");
    }
}
