//! Between the monitor's display and input devices and the VNC server.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use kiln_rfb::{FrameSource, Input, Rect, Server, Size};
use kiln_vmm::display::{Area, Display};
use kiln_vmm::legacy::i8042::{Key, KeyboardController, LEFT, MIDDLE, RIGHT};
use parking_lot::Mutex;

use super::keymap::{Held, Layout};

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
    layout: Layout,
    typing: Mutex<Typing>,
    last: Mutex<Pointed>,
}

/// What is held down by keysym. A key that goes up is the one that went down, whatever else was let go of in between.
#[derive(Default)]
struct Typing {
    held: Held,
    keys: HashMap<u32, u8>,
}

impl Typing {
    fn key(&mut self, layout: Layout, keysym: u32, down: bool) -> Option<u8> {
        let pressed = if down { self.keys.get(&keysym).copied() } else { self.keys.remove(&keysym) };
        let key = pressed.or_else(|| layout.key(keysym, self.held))?;
        self.held.note(keysym, down);
        if down {
            self.keys.insert(keysym, key);
        }
        Some(key)
    }
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
    pub(super) fn new(ps2: Option<Arc<KeyboardController>>, layout: Layout) -> Arc<Self> {
        Arc::new(Self { ps2, layout, typing: Mutex::default(), last: Mutex::default() })
    }

    fn press(&self, scancode: u8, down: bool) {
        if let Some(ps2) = &self.ps2 {
            // A guest that has its keyboard off doesn't hear it: as with a real one.
            let _ = ps2.key(Key::from(scancode), down);
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
        if let Some(scancode) = self.typing.lock().key(self.layout, keysym, down) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHIFT: u32 = 0xffe1;
    const ALT_GR: u32 = 0xfe03;

    #[test]
    fn a_key_goes_up_where_it_went_down() {
        let mut typing = Typing::default();
        let mut key = |keysym, down| typing.key(Layout::Fr, keysym, down);
        // The tilde is on two keys of a French keyboard.
        assert_eq!([key(ALT_GR, true), key(0x7e, true), key(ALT_GR, false)], [Some(0xb8), Some(0x03), Some(0xb8)]);
        assert_eq!(key(0x7e, false), Some(0x03), "AltGr was let go of first");
        assert_eq!([key(SHIFT, true), key(0x7e, true), key(0x7e, true)], [Some(0x2a), Some(0x29), Some(0x29)]);
        assert_eq!([key(SHIFT, false), key(0x7e, false)], [Some(0x2a), Some(0x29)]);
        assert!(typing.keys.is_empty());
        assert_eq!(typing.key(Layout::Fr, 0x0100_1234, true), None);
    }
}
