//! The control socket, judged by QEMU's own QMP library and by a real QEMU beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

#[path = "../screen/guest.rs"]
mod guest;
#[path = "../screen/pattern.rs"]
#[allow(dead_code, reason = "shared with tests/screen")]
mod pattern;
mod stage;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use stage::Stage;

/// Where `cargo xtask test` puts Python packages.
fn python() -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("vnc-clients").join("bin/python");
    assert!(path.exists(), "{} is missing: run the tests by `cargo xtask test`, which installs it", path.display());
    path
}

#[test]
fn clients_of_qemus_monitor_find_what_they_know() {
    let stage = Stage::new();
    stage.site.sh("kiln disk create -q -f qcow2 disk.qcow2 1M");
    let machine = stage.install("web");
    let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qmp/judge.py");
    let mut child = Command::new(python())
        .args([judge, &machine.endpoint(), &stage.site.path("picture")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut said = String::new();
    let mut boots = 1;
    for line in from.lines() {
        let line = line.unwrap();
        said.push_str(&format!("{line}\n"));
        if ["RESET DONE", "REBOOTED"].contains(&line.as_str()) {
            boots += 1;
            machine.sees_times("GUEST READY", boots);
            to.write_all(b"go on\n").unwrap();
        }
    }
    assert!(child.wait().unwrap().success(), "{said}\n{}", machine.heard());
    assert!(said.ends_with("ALL RIGHT\n"), "{said}");

    // What the guest saw: the pointer, its right button (BTN_RIGHT), the arrow (KEY_UP).
    let heard = machine.heard();
    for event in ["2 0 5 0", "2 1 65533 65535", "1 273 1 0", "1 273 0 0", "1 103 1 0", "1 103 0 0"] {
        let seen = heard.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").ends_with(event));
        assert!(seen, "{event}:\n{heard}");
    }
    // Both pictures are the screen as it was drawn.
    let png = pattern::Picture::from_png(&stage.site.fetch(&stage.site.path("picture.png")).unwrap());
    let ppm = stage.site.fetch(&stage.site.path("picture.ppm")).unwrap();
    let header = format!("P6\n{} {}\n255\n", png.width, png.pixels.len() / png.width);
    assert!(ppm.starts_with(header.as_bytes()), "{:?}", &ppm[..20]);
    let pixels: Vec<u32> = ppm[header.len()..]
        .chunks(3)
        .map(|rgb| u32::from(rgb[0]) << 16 | u32::from(rgb[1]) << 8 | u32::from(rgb[2]))
        .collect();
    assert!(pixels == png.pixels, "PPM and PNG show the same");
    assert!(pixels.iter().any(|pixel| *pixel != pixels[0]), "something is on the screen");
}
