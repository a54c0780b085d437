//! Between the monitor's display and input devices and the VNC server.

use std::sync::Arc;
use std::sync::OnceLock;

use kiln_rfb::{FrameSource, Input, Rect, Server, Size};
use kiln_vmm::display::{Area, Display};
use kiln_vmm::legacy::i8042::{Key, KeyboardController, LEFT, MIDDLE, RIGHT};
use parking_lot::Mutex;

use super::keymap;

/// The display as a frame source. It also carries the keyboard's lights to viewers: they change rarely, and looking at
/// them when the screen is looked at costs no wake-up.
pub(super) struct Screen {
    display: Arc<Display>,
    keyboard: Option<Arc<KeyboardController>>,
    server: OnceLock<Server>,
    lights: Mutex<Option<u8>>,
}

impl Screen {
    pub(super) fn new(display: Arc<Display>, keyboard: Option<Arc<KeyboardController>>) -> Arc<Self> {
        Arc::new(Self { display, keyboard, server: OnceLock::new(), lights: Mutex::new(None) })
    }

    /// The server that shows it.
    pub(super) fn shown_by(&self, server: Server) {
        // There is one server per machine; a second is not made.
        let _ = self.server.set(server);
    }

    fn carry_lights(&self) {
        let (Some(keyboard), Some(server)) = (&self.keyboard, self.server.get()) else { return };
        let now = keyboard.lights();
        if self.lights.lock().replace(now) != Some(now) {
            server.set_leds(now);
        }
    }
}

impl FrameSource for Screen {
    fn size(&self) -> Size {
        let (w, h) = self.display.size();
        Size { w, h }
    }

    fn watch(&self, on: bool) {
        self.display.watch(on);
    }

    fn changes(&self, areas: &mut Vec<Rect>) {
        self.carry_lights();
        let mut changed = Vec::new();
        self.display.changes(&mut changed);
        areas.extend(changed.into_iter().map(|Area { x, y, w, h }| Rect { x, y, w, h }));
    }

    fn copy(&self, area: Rect, to: &mut [u32]) -> bool {
        self.display.copy(Area { x: area.x, y: area.y, w: area.w, h: area.h }, to)
    }
}

/// Keys and pointer of viewers as PS/2 keyboard and mouse.
pub(super) struct Hands {
    ps2: Option<Arc<KeyboardController>>,
    last: Mutex<Pointed>,
}

/// Where the pointer was last, by its positions, and its buttons.
#[derive(Default)]
struct Pointed {
    place: Option<(u16, u16)>,
    buttons: u8,
}

/// RFB's wheel buttons (RFC 6143, 7.5.5).
const WHEEL_UP: u8 = 1 << 3;
const WHEEL_DOWN: u8 = 1 << 4;

impl Hands {
    pub(super) fn new(ps2: Option<Arc<KeyboardController>>) -> Arc<Self> {
        Arc::new(Self { ps2, last: Mutex::default() })
    }

    fn press(&self, scancode: u8, down: bool) {
        if let Some(ps2) = &self.ps2 {
            let code = scancode & 0x7f;
            // A guest that has its keyboard off doesn't hear it: as with a real one.
            let _ = ps2.key(if scancode & 0x80 != 0 { Key::Extended(code) } else { Key::Plain(code) }, down);
        }
    }

    fn mouse(&self, last: &mut Pointed, [right, down]: [i32; 2], buttons: u8) {
        let Some(ps2) = &self.ps2 else { return };
        let pressed = buttons & !std::mem::replace(&mut last.buttons, buttons);
        let wheel = i32::from(pressed & WHEEL_DOWN != 0) - i32::from(pressed & WHEEL_UP != 0);
        let mut held = 0;
        for (bit, button) in [(0, LEFT), (1, MIDDLE), (2, RIGHT)] {
            if buttons >> bit & 1 != 0 {
                held |= button;
            }
        }
        let _ = ps2.mouse([right, down, wheel], held);
    }
}

impl Input for Hands {
    fn key(&self, keysym: u32, down: bool) {
        if let Some(scancode) = keymap::us(keysym) {
            self.press(scancode, down);
        }
    }

    fn scancode(&self, scancode: u32, down: bool) {
        if let Ok(scancode) = u8::try_from(scancode) {
            self.press(scancode, down);
        }
    }

    // A PS/2 mouse knows motion only: the guest's pointer follows the viewer's by what it moved.
    fn pointer(&self, x: u16, y: u16, buttons: u8) {
        let mut last = self.last.lock();
        let (old_x, old_y) = last.place.replace((x, y)).unwrap_or((x, y));
        self.mouse(&mut last, [i32::from(x) - i32::from(old_x), i32::from(y) - i32::from(old_y)], buttons);
    }

    fn motion(&self, right: i32, down: i32, buttons: u8) {
        self.mouse(&mut self.last.lock(), [right, down], buttons);
    }
}
