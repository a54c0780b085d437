//! Keys by the names that QMP gives them (QEMU's `QKeyCode`), and by those of Linux (`KEY_…`,
//! linux/input-event-codes.h). Scancodes are XT's, with bit 7 for the 0xe0 prefix.

/// QMP's name, Linux's name without `KEY_`, scancode.
const KEYS: &[(&str, &str, u8)] = &[
    ("esc", "ESC", 0x01),
    ("1", "1", 0x02),
    ("2", "2", 0x03),
    ("3", "3", 0x04),
    ("4", "4", 0x05),
    ("5", "5", 0x06),
    ("6", "6", 0x07),
    ("7", "7", 0x08),
    ("8", "8", 0x09),
    ("9", "9", 0x0a),
    ("0", "0", 0x0b),
    ("minus", "MINUS", 0x0c),
    ("equal", "EQUAL", 0x0d),
    ("backspace", "BACKSPACE", 0x0e),
    ("tab", "TAB", 0x0f),
    ("q", "Q", 0x10),
    ("w", "W", 0x11),
    ("e", "E", 0x12),
    ("r", "R", 0x13),
    ("t", "T", 0x14),
    ("y", "Y", 0x15),
    ("u", "U", 0x16),
    ("i", "I", 0x17),
    ("o", "O", 0x18),
    ("p", "P", 0x19),
    ("bracket_left", "LEFTBRACE", 0x1a),
    ("bracket_right", "RIGHTBRACE", 0x1b),
    ("ret", "ENTER", 0x1c),
    ("ctrl", "LEFTCTRL", 0x1d),
    ("a", "A", 0x1e),
    ("s", "S", 0x1f),
    ("d", "D", 0x20),
    ("f", "F", 0x21),
    ("g", "G", 0x22),
    ("h", "H", 0x23),
    ("j", "J", 0x24),
    ("k", "K", 0x25),
    ("l", "L", 0x26),
    ("semicolon", "SEMICOLON", 0x27),
    ("apostrophe", "APOSTROPHE", 0x28),
    ("grave_accent", "GRAVE", 0x29),
    ("shift", "LEFTSHIFT", 0x2a),
    ("backslash", "BACKSLASH", 0x2b),
    ("z", "Z", 0x2c),
    ("x", "X", 0x2d),
    ("c", "C", 0x2e),
    ("v", "V", 0x2f),
    ("b", "B", 0x30),
    ("n", "N", 0x31),
    ("m", "M", 0x32),
    ("comma", "COMMA", 0x33),
    ("dot", "DOT", 0x34),
    ("slash", "SLASH", 0x35),
    ("shift_r", "RIGHTSHIFT", 0x36),
    ("kp_multiply", "KPASTERISK", 0x37),
    ("alt", "LEFTALT", 0x38),
    ("spc", "SPACE", 0x39),
    ("caps_lock", "CAPSLOCK", 0x3a),
    ("f1", "F1", 0x3b),
    ("f2", "F2", 0x3c),
    ("f3", "F3", 0x3d),
    ("f4", "F4", 0x3e),
    ("f5", "F5", 0x3f),
    ("f6", "F6", 0x40),
    ("f7", "F7", 0x41),
    ("f8", "F8", 0x42),
    ("f9", "F9", 0x43),
    ("f10", "F10", 0x44),
    ("num_lock", "NUMLOCK", 0x45),
    ("scroll_lock", "SCROLLLOCK", 0x46),
    ("kp_7", "KP7", 0x47),
    ("kp_8", "KP8", 0x48),
    ("kp_9", "KP9", 0x49),
    ("kp_subtract", "KPMINUS", 0x4a),
    ("kp_4", "KP4", 0x4b),
    ("kp_5", "KP5", 0x4c),
    ("kp_6", "KP6", 0x4d),
    ("kp_add", "KPPLUS", 0x4e),
    ("kp_1", "KP1", 0x4f),
    ("kp_2", "KP2", 0x50),
    ("kp_3", "KP3", 0x51),
    ("kp_0", "KP0", 0x52),
    ("kp_decimal", "KPDOT", 0x53),
    ("less", "102ND", 0x56),
    ("f11", "F11", 0x57),
    ("f12", "F12", 0x58),
    ("ro", "RO", 0x73),
    ("henkan", "HENKAN", 0x79),
    ("muhenkan", "MUHENKAN", 0x7b),
    ("yen", "YEN", 0x7d),
    ("kp_enter", "KPENTER", 0x9c),
    ("ctrl_r", "RIGHTCTRL", 0x9d),
    ("kp_divide", "KPSLASH", 0xb5),
    ("print", "PRINT", 0xb7),
    ("sysrq", "SYSRQ", 0x54),
    ("alt_r", "RIGHTALT", 0xb8),
    ("pause", "PAUSE", 0xc6),
    ("home", "HOME", 0xc7),
    ("up", "UP", 0xc8),
    ("pgup", "PAGEUP", 0xc9),
    ("left", "LEFT", 0xcb),
    ("right", "RIGHT", 0xcd),
    ("end", "END", 0xcf),
    ("down", "DOWN", 0xd0),
    ("pgdn", "PAGEDOWN", 0xd1),
    ("insert", "INSERT", 0xd2),
    ("delete", "DELETE", 0xd3),
    ("meta_l", "LEFTMETA", 0xdb),
    ("meta_r", "RIGHTMETA", 0xdc),
    ("menu", "MENU", 0xdd),
    ("compose", "COMPOSE", 0xdd),
    ("power", "POWER", 0xde),
    ("sleep", "SLEEP", 0xdf),
    ("wake", "WAKEUP", 0xe3),
];

/// The key of one of QMP's names.
pub fn qcode(name: &str) -> Option<u8> {
    KEYS.iter().find(|(qcode, ..)| *qcode == name).map(|(.., key)| *key)
}

/// The key of one of Linux's names, as virsh takes them: `KEY_A`.
pub fn linux(name: &str) -> Option<u8> {
    let name = name.strip_prefix("KEY_")?;
    KEYS.iter().find(|(_, linux, _)| *linux == name).map(|(.., key)| *key)
}

#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = u8> {
    KEYS.iter().map(|(.., key)| *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_codes_under_both_names() {
        for (one, other, key) in [("a", "KEY_A", 0x1e), ("ret", "KEY_ENTER", 0x1c), ("delete", "KEY_DELETE", 0xd3)] {
            assert_eq!((qcode(one), linux(other)), (Some(key), Some(key)));
        }
        assert_eq!((qcode("KEY_A"), linux("a"), qcode("nokey")), (None, None, None));
    }

    #[test]
    fn no_name_stands_twice() {
        for (number, (one, other, _)) in KEYS.iter().enumerate() {
            assert!(!KEYS[..number].iter().any(|(a, b, _)| a == one || b == other), "{one} {other}");
        }
    }
}
