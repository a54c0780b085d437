//! From keysyms to the keys of a PC keyboard.
//!
//! A viewer without the extended key event sends X keysyms: what is printed on the key, Shift already taken into
//! account. The guest wants the key itself, and applies its own layout. So each keysym is looked up in the layout that
//! the guest is set to. Scancodes are XT's (set 1), keys with the 0xe0 prefix have bit 7 set.

pub mod qcode;
mod us;

/// The key that has `keysym` in the US layout.
pub fn us(keysym: u32) -> Option<u8> {
    us::key(keysym).or_else(|| special(keysym))
}

// Keysyms: X11's keysymdef.h. Keys that no layout moves.
fn special(keysym: u32) -> Option<u8> {
    const PAD_DIGITS: [u8; 10] = [0x52, 0x4f, 0x50, 0x51, 0x4b, 0x4c, 0x4d, 0x47, 0x48, 0x49];
    Some(match keysym {
        0xff08 => 0x0e,                   // BackSpace
        0xff09 | 0xfe20 => 0x0f,          // Tab, with Shift
        0xff0d => 0x1c,                   // Return
        0xff13 => 0xc6,                   // Pause, as Ctrl-Break's key
        0xff14 => 0x46,                   // Scroll_Lock
        0xff15 | 0xff61 => 0xb7,          // Sys_Req, Print
        0xff1b => 0x01,                   // Escape
        0xff50 => 0xc7,                   // Home
        0xff51 => 0xcb,                   // Left
        0xff52 => 0xc8,                   // Up
        0xff53 => 0xcd,                   // Right
        0xff54 => 0xd0,                   // Down
        0xff55 => 0xc9,                   // Page_Up
        0xff56 => 0xd1,                   // Page_Down
        0xff57 => 0xcf,                   // End
        0xff63 => 0xd2,                   // Insert
        0xff67 => 0xdd,                   // Menu
        0xff7f => 0x45,                   // Num_Lock
        0xff8d => 0x9c,                   // KP_Enter
        0xff95 => 0x47,                   // KP_Home
        0xff96 => 0x4b,                   // KP_Left
        0xff97 => 0x48,                   // KP_Up
        0xff98 => 0x4d,                   // KP_Right
        0xff99 => 0x50,                   // KP_Down
        0xff9a => 0x49,                   // KP_Page_Up
        0xff9b => 0x51,                   // KP_Page_Down
        0xff9c => 0x4f,                   // KP_End
        0xff9d => 0x4c,                   // KP_Begin
        0xff9e => 0x52,                   // KP_Insert
        0xff9f | 0xffae | 0xffac => 0x53, // KP_Delete, KP_Decimal, KP_Separator
        0xffaa => 0x37,                   // KP_Multiply
        0xffab => 0x4e,                   // KP_Add
        0xffad => 0x4a,                   // KP_Subtract
        0xffaf => 0xb5,                   // KP_Divide
        0xffb0..=0xffb9 => PAD_DIGITS[(keysym - 0xffb0) as usize],
        0xffbe..=0xffc7 => 0x3b + (keysym - 0xffbe) as u8, // F1 to F10
        0xffc8 => 0x57,                                    // F11
        0xffc9 => 0x58,                                    // F12
        0xffe1 => 0x2a,                                    // Shift_L
        0xffe2 => 0x36,                                    // Shift_R
        0xffe3 => 0x1d,                                    // Control_L
        0xffe4 => 0x9d,                                    // Control_R
        0xffe5 => 0x3a,                                    // Caps_Lock
        0xffe7 | 0xffe9 => 0x38,                           // Meta_L, Alt_L
        0xffe8 | 0xffea | 0xfe03 => 0xb8,                  // Meta_R, Alt_R, AltGr
        0xffeb => 0xdb,                                    // Super_L
        0xffec => 0xdc,                                    // Super_R
        0xffff => 0xd3,                                    // Delete
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_ascii_character_has_a_key() {
        for keysym in 0x20..0x7f {
            assert!(us(keysym).is_some(), "{keysym:#x}");
        }
    }

    #[test]
    fn some_keys_are_where_they_are_on_a_pc() {
        for (keysym, key) in [(0x61, 0x1e), (0x41, 0x1e), (0x31, 0x02), (0x21, 0x02), (0x20, 0x39), (0x7c, 0x2b)] {
            assert_eq!(us(keysym), Some(key), "{keysym:#x}");
        }
        for (keysym, key) in [(0xff0d, 0x1c), (0xff52, 0xc8), (0xffbe, 0x3b), (0xffc7, 0x44), (0xffb5, 0x4c)] {
            assert_eq!(us(keysym), Some(key), "{keysym:#x}");
        }
        assert_eq!(us(0x20ac), None, "the euro sign is not on a US keyboard");
    }
}
