//! Two linked clones in the lab: each writes, and neither sees the other.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::guest::{self, SHELL};
use crate::home::{Home, KILN, install};
use crate::stage::QEMU_IMG;
use crate::talk::{PATIENCE, Talk};

fn asks(console: &mut Talk, line: &str) -> String {
    // The echo of what is typed must not look like the answer.
    console.types(&format!("{line}; echo do''ne $?.\r"));
    let text = console.sees("done ");
    format!("{text}{}", console.sees("."))
}

fn goes_off(home: &Home, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while home.machines().iter().any(|(machine, state)| machine == name && state != "shut off") {
        assert!(Instant::now() < deadline, "{name} never is off");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn on_console(home: &Home, name: &str) -> Talk {
    let console = Talk::on_terminal(&home.command(&["console", name]));
    console.sees("GUEST READY");
    console
}

#[test]
fn two_linked_clones_write_without_seeing_each_other() {
    kiln_lab::needs_kvm!(300, KILN, QEMU_IMG);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let disk = format!("path={},size=0.0625", home.text("web.qcow2"));
    home.kiln(&install(&["--boot", &boot, "--disk", &disk, "--noautoconsole"])).ends(0);
    let mut console = on_console(&home, "web");
    let write = |letter: &str| {
        format!("head -c 1048576 /dev/zero | tr '\\0' {letter} | dd of=/dev/vda bs=64k conv=fsync 2>/dev/null")
    };
    assert!(asks(&mut console, &write("A")).ends_with("0"));
    // While it runs, and while it stands still, it is not cloned.
    home.kiln(&["clone", "web", "--name", "two", "--linked"]).ends(4).says(&["is running or paused"]);
    home.kiln(&["suspend", "web"]).ends(0);
    home.kiln(&["clone", "web", "--name", "two"]).ends(4).says(&["is running or paused"]);
    home.kiln(&["resume", "web"]).ends(0);
    console.types("poweroff -f\r");
    goes_off(&home, "web");
    let base = fs::read(home.text("web.qcow2")).unwrap();

    for name in ["two", "three"] {
        home.kiln(&["clone", "web", "--name", name, "--linked"]).ends(0);
        home.kiln(&["start", name]).ends(0);
    }
    let (mut two, mut three) = (on_console(&home, "two"), on_console(&home, "three"));
    let first = "dd if=/dev/vda bs=1 count=8 skip=4096 iflag=direct 2>/dev/null || head -c 4104 /dev/vda | tail -c 8";
    assert!(asks(&mut two, first).contains("AAAAAAAA"));
    assert!(asks(&mut two, &write("B")).ends_with("0"));
    assert!(asks(&mut three, first).contains("AAAAAAAA"), "three sees nothing of what two wrote");
    assert!(asks(&mut three, &write("C")).ends_with("0"));
    for console in [&mut two, &mut three] {
        asks(console, "echo 3 > /proc/sys/vm/drop_caches");
    }
    assert!(asks(&mut two, first).contains("BBBBBBBB") && asks(&mut three, first).contains("CCCCCCCC"));
    for (console, name) in [(&mut two, "two"), (&mut three, "three")] {
        console.types("poweroff -f\r");
        goes_off(&home, name);
    }
    assert!(fs::read(home.text("web.qcow2")).unwrap() == base, "the base is what it was");
    for (name, letter) in [("web-top-1", b'A'), ("two", b'B'), ("three", b'C')] {
        let path = home.text(&format!("{name}.qcow2"));
        let raw = home.text("content.raw");
        let read = Command::new(QEMU_IMG).args(["convert", "-O", "raw", &path, &raw]).status().unwrap();
        assert!(read.success() && Command::new(QEMU_IMG).args(["check", "-q", &path]).status().unwrap().success());
        assert!(fs::read(&raw).unwrap()[..1 << 20].iter().all(|byte| *byte == letter), "{name}");
    }
}
