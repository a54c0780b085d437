//! Viewers come, go, crowd and misbehave; the machine doesn't mind.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Barrier;

use crate::pattern::{assert_same, pattern};
use crate::stage::{Machine, PATIENCE};
use crate::viewer::{Viewer, connect, until_closed};

/// Threads and descriptors of the machine's process.
fn held(machine: &Machine) -> String {
    let pid = machine.pid();
    machine.stage.sh(&format!("ls /proc/{pid}/task | wc -l; ls /proc/{pid}/fd | wc -l"))
}

fn wait_until_held(machine: &Machine, wanted: &str) {
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        let now = held(machine);
        if now == wanted {
            return;
        }
        assert!(std::time::Instant::now() < end, "threads and descriptors: {now:?} are left, {wanted:?} were there");
    }
}

/// Two hundred, one after the other, then twenty at once.
pub fn crowding(machine: &Machine) {
    let before = held(machine);
    for round in 0..200 {
        // They leave at every stage: unheard, greeted, let in, while pictures are on their way, satisfied.
        match round % 5 {
            0 => drop(connect(machine.port)),
            1 => connect(machine.port).write_all(b"RFB 003.008\n").unwrap(),
            2 => drop(Viewer::new(machine.port)),
            3 => Viewer::new(machine.port).request(false),
            _ if round % 40 == 4 => drop(Viewer::new(machine.port).look()),
            _ => {
                let mut viewer = Viewer::new(machine.port);
                viewer.request(false);
                viewer.request(true);
            }
        }
    }
    let all = Barrier::new(20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut viewer = Viewer::new(machine.port);
                all.wait();
                assert_same("one of twenty", viewer.look(), &pattern(1));
            });
        }
    });
    wait_until_held(machine, &before);
}

/// Bad bytes at every stage end the viewer that sent them, and nobody else.
pub fn misbehaving(machine: &Machine) {
    let mut good = Viewer::new(machine.port);
    let before = held(machine);
    for bad in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"RFB 003.008\n\x63", b"RFB 003.008\n\x02", b"RFB 999"] {
        let mut stream = connect(machine.port);
        stream.write_all(bad).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        until_closed(&mut stream);
    }
    let palette: &[u8] = &[0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for bad in [&[99u8][..], palette, &[255, 9], &[6, 0, 0, 0, 255, 255, 255, 255], &[2, 0, 255, 255, 1], &[3, 0, 255]]
    {
        let mut viewer = Viewer::new(machine.port);
        viewer.stream.write_all(bad).unwrap();
        viewer.stream.shutdown(Shutdown::Write).unwrap();
        assert!(until_closed(&mut viewer.stream).is_empty(), "{bad:?} was answered");
    }
    assert_same("the viewer that stayed", good.look(), &pattern(1));
    wait_until_held(machine, &before);
}
