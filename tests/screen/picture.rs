//! One picture, seen by everybody who can look.

use sha2::{Digest, Sha256};

use crate::pattern::{HEIGHT, Picture, WIDTH, assert_same, pattern};
use crate::peers::{TigerVnc, vncdo, vncdo_capture};
use crate::stage::Machine;
use crate::viewer::Viewer;

fn sum(picture: &Picture) -> String {
    Sha256::digest(picture.bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn everybody_sees(machine: &Machine, viewer: &mut TigerVnc, which: u32) {
    let wanted = pattern(which);
    let drawn = machine.sees(&format!("DREW pattern{which} "));
    assert_eq!(drawn, sum(&wanted), "the guest's framebuffer holds something else than it wrote");
    viewer.waits_for(&wanted, || {
        let seen = Viewer::new(machine.port).look().difference(&wanted);
        format!("a viewer of ours: {seen:?}\n{}", machine.threads())
    });
    assert_same("vncdotool", &vncdo_capture(machine.port), &wanted);
    assert_same("kiln screenshot", &Picture::from_png(&machine.screenshot()), &wanted);
    let mut raw = Viewer::new(machine.port);
    assert_eq!(sum(raw.look()), drawn, "VNC's bytes aren't the framebuffer's");
}

/// Everybody sees the first pattern, and after a change the second one.
pub fn looking(machine: &Machine) {
    let screen = machine.sees("SCREEN ");
    assert_eq!(screen, format!("VESA VGA {WIDTH},{HEIGHT} {}", WIDTH * 4));
    let mut viewer = TigerVnc::connect(machine.port);
    everybody_sees(machine, &mut viewer, 1);
    // What changes reaches a viewer that is there already; the line that asks for it is typed by another.
    vncdo(machine.port, &["type", "pattern2", "key", "enter"]);
    machine.sees("TYPED pattern2");
    everybody_sees(machine, &mut viewer, 2);
}
