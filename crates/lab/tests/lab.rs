//! The lab itself: what goes in, what comes out, and that nothing stays behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_lab::machine::{Died, Lab};
use kiln_lab::options::{Disk, Options};
use kiln_lab::protocol::{Exit, Run};

fn shell(line: &str, limit_ms: u64) -> Run {
    Run { argv: ["sh", "-c", line].map(str::to_owned).to_vec(), limit_ms, ..Run::default() }
}

#[test]
fn output_status_files_and_disks_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("greeting");
    fs::write(&here, "hello from outside\n").unwrap();
    let image = folder.path().join("disk");
    fs::write(&image, vec![0u8; 1 << 20]).unwrap();
    let lab = Lab::start(&Options {
        files: vec![(here.clone(), "/data/greeting".into())],
        disks: vec![Disk::Blank(8 << 20), Disk::Image(image.clone())],
        ..Options::default()
    })
    .unwrap();

    let output = lab.output(shell("cat /data/greeting; echo oops >&2; exit 7", 30_000)).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from outside\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "oops\n");
    assert_eq!(output.exit, Exit::Status(7));

    // Real hardware-like KVM, without nested paging, with the processor's own module.
    let kvm = lab.output(shell("ls -l /dev/kvm; cat /sys/module/kvm_amd/parameters/npt; nproc", 30_000)).unwrap();
    assert!(String::from_utf8_lossy(&kvm.stdout).ends_with("N\n2\n"), "{kvm:?}");

    let big: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let sent = folder.path().join("big");
    fs::write(&sent, &big).unwrap();
    lab.put(&sent, "/data/deep/big").unwrap();
    assert!(lab.fetch("/data/deep/big").unwrap() == big, "a file changed on its way in and out");
    assert!(lab.fetch("/data/none").is_err());

    let disks = lab.output(shell("cat /sys/block/vda/size /sys/block/vdb/size; echo mark | dd of=/dev/vdb", 30_000));
    assert_eq!(String::from_utf8_lossy(&disks.unwrap().stdout), "16384\n2048\n");
    drop(lab);
    assert!(fs::read(&image).unwrap().starts_with(b"mark\n"));
}

#[test]
fn a_limit_ends_a_command_and_all_it_started() {
    let lab = Lab::start(&Options::default()).unwrap();
    let line = "setsid sleep 1000 & echo $! > /tmp/child; echo begun; sleep 1000";
    let output = lab.output(shell(line, 1500)).unwrap();
    assert_eq!(output.exit, Exit::TimeLimit);
    assert_eq!(output.stdout, b"begun\n");
    let alive = lab.output(shell("kill -0 $(cat /tmp/child)", 30_000)).unwrap();
    assert_ne!(alive.exit, Exit::Status(0), "the command's child outlived it");
    // What a command leaves running goes with it, too: each command is a world of its own.
    lab.output(shell("setsid sleep 1000 >/dev/null 2>&1 & echo $! > /tmp/child", 30_000)).unwrap();
    let alive = lab.output(shell("kill -0 $(cat /tmp/child)", 30_000)).unwrap();
    assert_ne!(alive.exit, Exit::Status(0));
    assert!(
        lab.run(Run { argv: vec!["/no/such/program".into()], ..Run::default() }, |_, _| ()).unwrap() != Exit::Status(0)
    );
}

#[test]
fn a_dying_lab_is_told_apart_and_shows_its_console() {
    let lab = Lab::start(&Options::default()).unwrap();
    let error = lab.output(shell("echo the last words > /dev/console; echo c > /proc/sysrq-trigger; sleep 60", 90_000));
    let died = error.unwrap_err();
    let died = died.downcast_ref::<Died>().expect("a lab that panics is a dead lab, not a failed command");
    assert!(died.console.contains("the last words") && died.console.contains("panic"), "{died}");
}

#[test]
fn two_labs_at_once_do_not_meet() {
    let [one, two] = ["one", "two"].map(|name| {
        std::thread::spawn(move || {
            let lab = Lab::start(&Options::default()).unwrap();
            lab.output(shell(&format!("echo {name} > /tmp/name; sleep 1; cat /tmp/name"), 60_000)).unwrap().stdout
        })
    });
    assert_eq!(one.join().unwrap(), b"one\n");
    assert_eq!(two.join().unwrap(), b"two\n");
}

/// QEMU processes whose parent chain holds `ancestor`, found by their command line's mark.
fn qemu_of(ancestor: u32) -> Vec<u32> {
    let number = |p: &Path| p.file_name()?.to_str()?.parse::<u32>().ok();
    let all = fs::read_dir("/proc").unwrap().filter_map(|e| number(&e.ok()?.path()));
    all.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1)?.parse::<u32>().ok());
        parent == Some(ancestor) && stat.contains("qemu-system")
    })
    .collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn other_process() -> Child {
    // This same test program, asked for nothing but the lab below. A shell that runs tests in the background lets them
    // ignore SIGINT.
    Command::new("env")
        .arg("--default-signal=INT")
        .arg(std::env::current_exe().unwrap())
        .args(["holds_a_lab_until_killed", "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "started by the test below"]
fn holds_a_lab_until_killed() {
    let lab = Lab::start(&Options::default()).unwrap();
    let _ = lab.output(shell("sleep 600", 0));
}

#[test]
fn ctrl_c_and_kill_leave_no_qemu_behind() {
    for signal in ["INT", "KILL"] {
        let mut child = other_process();
        let mut qemu = Vec::new();
        wait_until("QEMU runs", || {
            qemu = qemu_of(child.id());
            !qemu.is_empty()
        });
        let killed = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status().unwrap();
        assert!(killed.success());
        child.wait().unwrap();
        wait_until("QEMU is gone", || {
            qemu.iter().all(|pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.contains("qemu-system") || stat.contains(") Z ")
            })
        });
    }
}
