//! One picture, seen by everybody who can look.

use std::net::{Ipv4Addr, TcpStream};

use sha2::{Digest, Sha256};

use crate::browser::{Browser, Key};
use crate::desktop::Window;
use crate::pattern::{HEIGHT, Picture, WIDTH, assert_same, pattern};
use crate::peers::{vncdo, vncdo_capture};
use crate::stage::Machine;
use crate::viewer::Viewer;

/// Numbers of encodings (RFC 6143, 7.7).
const COPY_RECT: i32 = 1;
const ZRLE: i32 = 16;

fn sum(picture: &Picture) -> String {
    Sha256::digest(picture.bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Viewers that stay: two of TigerVNC with an encoding each, gvncviewer, and noVNC in a browser.
struct Audience {
    windows: [Window; 3],
    browser: Browser,
}

fn everybody_sees(machine: &Machine, audience: &mut Audience, wanted: &Picture, which: &str) {
    let drawn = machine.sees(&format!("DREW {which} "));
    assert_eq!(drawn, sum(wanted), "the guest's framebuffer holds something else than it wrote");
    for window in &mut audience.windows {
        window.waits_for(wanted, || {
            let seen = Viewer::new(machine.port).look().difference(wanted);
            format!("a viewer of ours: {seen:?}\n{}", machine.threads())
        });
    }
    audience.browser.waits_for(wanted);
    assert_same("vncdotool", &vncdo_capture(machine.port), wanted);
    assert_same("kiln screenshot", &Picture::from_png(&machine.screenshot()), wanted);
    let mut raw = Viewer::new(machine.port);
    assert_eq!(sum(raw.look()), drawn, "VNC's bytes aren't the framebuffer's");
}

/// What the guest's `scroll` makes of a picture: all goes up, and the last rows stay as well.
fn scrolled(picture: &Picture) -> Picture {
    const ROWS: usize = 16;
    let kept = &picture.pixels[ROWS * picture.width..];
    let last = &picture.pixels[(HEIGHT - ROWS) * picture.width..];
    Picture { width: picture.width, pixels: [kept, last].concat() }
}

/// "scroll" and Return.
const SCROLL: [Key; 7] =
    [(0x73, "KeyS"), (0x63, "KeyC"), (0x72, "KeyR"), (0x6f, "KeyO"), (0x6c, "KeyL"), (0x6c, "KeyL"), (0xff0d, "Enter")];

/// Everybody sees the first pattern, after a change the second one, and that one scrolled.
pub fn looking(machine: &Machine) {
    let screen = machine.sees("SCREEN ");
    assert_eq!(screen, format!("VESA VGA {WIDTH},{HEIGHT} {}", WIDTH * 4));
    let [zrle, hextile] = ["ZRLE", "Hextile"].map(|encoding| Window::tiger_vnc(machine.port, encoding));
    let windows = [zrle, hextile, Window::gvncviewer(machine.port)];
    let mut audience = Audience { windows, browser: Browser::open(machine.websocket) };
    everybody_sees(machine, &mut audience, &pattern(1), "pattern1");
    // What changes reaches viewers that are there already; the line that asks for it is typed by another.
    vncdo(machine.port, &["type", "pattern2", "key", "enter"]);
    machine.sees("TYPED pattern2");
    everybody_sees(machine, &mut audience, &pattern(2), "pattern2");

    let ours = TcpStream::connect((Ipv4Addr::LOCALHOST, machine.port)).unwrap();
    let mut ours = kiln_rfb::viewer::Viewer::connect(ours, None).unwrap();
    ours.set_encodings(&[COPY_RECT, ZRLE]).unwrap();
    ours.request(false).unwrap();
    ours.update().unwrap();
    // By the browser's keys this time.
    audience.browser.types(&SCROLL);
    let wanted = scrolled(&pattern(2));
    while ours.pixels() != wanted.pixels {
        ours.request(true).unwrap();
        ours.update().unwrap();
    }
    assert!(ours.seen().contains_key(&COPY_RECT), "scrolling was sent as pixels: {:?}", ours.seen());
    everybody_sees(machine, &mut audience, &wanted, "scroll");
    pulling(machine, &audience.windows[2]);
}

/// gvncviewer knows that the pointer is a mouse: it holds it, and sends how far it went, past any edge.
fn pulling(machine: &Machine, window: &Window) {
    let before = machine.waits("anything", |text| Some(crate::input::motion(text)));
    window.xdotool(&["mousemove", "700", "500", "click", "1"]);
    for _ in 0..40 {
        window.xdotool(&["mousemove_relative", "--", "50", "0"]);
    }
    // 2,000 pixels to the right on a screen of 1,280 that began in its middle.
    machine.waits("motion beyond the screen's edge", |text| {
        let (right, _) = crate::input::motion(text);
        (right - before.0 >= 1500).then_some(())
    });
}
