//! Scan codes: set 1 is what systems know keys by, set 2 what keyboards send, and the controller translates.
//!
//! The table is the one in every such controller (IBM, "Keyboard Scan Codes"; Microsoft's Keyboard Scan Code
//! Specification).

/// A key, by its set 1 make code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// A key with a code of one byte, below 0x80.
    Plain(u8),
    /// A key whose code follows 0xe0.
    Extended(u8),
    /// Pause, which has a code of six bytes and no release.
    Pause,
}

impl From<u8> for Key {
    /// The key of a byte as RFB's and QMP's clients write it: a set 1 code, with bit 7 for the 0xe0 prefix. Pause has the
    /// number that its place has with Ctrl held (Break).
    fn from(scancode: u8) -> Self {
        match scancode {
            0xc6 => Key::Pause,
            0x80.. => Key::Extended(scancode & 0x7f),
            _ => Key::Plain(scancode),
        }
    }
}

/// Print Screen, whose code has a shift around it.
const PRINT_SCREEN: u8 = 0x37;

/// Set 1 codes of set 2 codes 0 to 0x7f.
const FROM_SET_2: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, //
];
/// Set 2 codes past the table: F7, and Print Screen with Alt held.
const F7: (u8, u8) = (0x83, 0x41);
const SYSTEM_REQUEST: (u8, u8) = (0x84, 0x54);
/// Set 2: a release follows.
pub const RELEASE: u8 = 0xf0;
const EXTENDED: u8 = 0xe0;

/// The set 1 code of a set 2 byte, without what a release adds.
pub fn to_set_1(code: u8) -> u8 {
    match code {
        code if code == F7.0 => F7.1,
        code if code == SYSTEM_REQUEST.0 => SYSTEM_REQUEST.1,
        code => FROM_SET_2.get(usize::from(code)).copied().unwrap_or(code),
    }
}

/// The set 2 code of a set 1 make code.
pub fn to_set_2(code: u8) -> Option<u8> {
    match code {
        code if code == F7.1 => Some(F7.0),
        code if code == SYSTEM_REQUEST.1 => Some(SYSTEM_REQUEST.0),
        code => FROM_SET_2.iter().position(|set_1| *set_1 == code).map(|at| at as u8),
    }
}

/// What a keyboard in set 1 or 2 sends when a key goes down or up; nothing for codes that no key has.
pub fn sequence(key: Key, down: bool, set: u8) -> Vec<u8> {
    match key {
        Key::Pause if !down => Vec::new(),
        Key::Pause if set == 1 => vec![0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
        Key::Pause => vec![0xe1, 0x14, 0x77, 0xe1, RELEASE, 0x14, RELEASE, 0x77],
        Key::Plain(code) => one(code, down, set, false),
        Key::Extended(PRINT_SCREEN) => {
            let (shift, key) = (one(0x2a, down, set, true), one(PRINT_SCREEN, down, set, true));
            if down { [shift, key].concat() } else { [key, shift].concat() }
        }
        Key::Extended(code) => one(code, down, set, true),
    }
}

fn one(code: u8, down: bool, set: u8, extended: bool) -> Vec<u8> {
    let mut bytes = if extended { vec![EXTENDED] } else { Vec::new() };
    if code >= 0x80 || code == 0 {
        return Vec::new();
    }
    if set == 1 {
        bytes.push(if down { code } else { code | 0x80 });
        return bytes;
    }
    let Some(code) = to_set_2(code) else { return Vec::new() };
    if !down {
        bytes.push(RELEASE);
    }
    bytes.push(code);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the controller makes of set 2.
    fn translated(bytes: &[u8]) -> Vec<u8> {
        let mut release = 0;
        bytes
            .iter()
            .filter_map(|byte| {
                if *byte == RELEASE {
                    release = 0x80;
                    return None;
                }
                Some(to_set_1(*byte) | std::mem::take(&mut release))
            })
            .collect()
    }

    #[test]
    fn translation_undoes_what_the_keyboard_does() {
        for code in 1..0x80 {
            for key in [Key::Plain(code), Key::Extended(code)] {
                for down in [true, false] {
                    let two = sequence(key, down, 2);
                    assert_eq!(translated(&two), sequence(key, down, 1), "{key:?} {down}");
                    assert!(!two.is_empty(), "{key:?}");
                }
            }
        }
        assert_eq!(translated(&sequence(Key::Pause, true, 2)), sequence(Key::Pause, true, 1));
    }

    #[test]
    fn keys_of_one_byte() {
        assert_eq!([0x1e, 0xc8, 0xc6].map(Key::from), [Key::Plain(0x1e), Key::Extended(0x48), Key::Pause]);
    }

    #[test]
    fn well_known_keys() {
        assert_eq!(sequence(Key::Plain(0x1e), true, 2), [0x1c], "A");
        assert_eq!(sequence(Key::Plain(0x1e), false, 2), [0xf0, 0x1c]);
        assert_eq!(sequence(Key::Extended(0x48), false, 2), [0xe0, 0xf0, 0x75], "up arrow");
        assert_eq!(sequence(Key::Plain(0x41), true, 2), [0x83], "F7");
        assert_eq!(sequence(Key::Extended(0x37), true, 1), [0xe0, 0x2a, 0xe0, 0x37]);
        assert_eq!(sequence(Key::Extended(0x37), false, 2), [0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]);
        assert!(sequence(Key::Plain(0xff), true, 2).is_empty() && sequence(Key::Plain(0), true, 1).is_empty());
    }
}
