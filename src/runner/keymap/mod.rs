//! From keysyms to the keys of a PC keyboard.
//!
//! A viewer without the extended key event sends X keysyms: what is printed on the key, Shift already taken into
//! account. The guest wants the key itself, and applies its own layout. So each keysym is looked up in the layout that
//! the guest is set to. Scancodes are XT's (set 1), keys with the 0xe0 prefix have bit 7 set.

pub mod codeset;
mod layouts;
pub mod qcode;

/// For each level of a key its four rows.
type Table = [[&'static str; 4]; 4];

/// The keys of the four rows. The first of the first row is left of 1, its last one the Japanese yen key; the third row
/// ends with the key left of (or above) Return; the last one begins with the European key right of Shift and ends with
/// the Japanese ro key.
const KEYS: [&[u8]; 4] = [
    &[0x29, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x7d],
    &[0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b],
    &[0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x2b],
    &[0x56, 0x2c, 0x2d, 0x2e, 0x2f, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x73],
];
const SPACE: u8 = 0x39;

/// Dead keys: keysym (X11's keysymdef.h), combining character, and the character that stands alone.
const DEAD: [(u32, char, char); 17] = [
    (0xfe50, '\u{300}', '`'),
    (0xfe51, '\u{301}', '\u{b4}'),
    (0xfe52, '\u{302}', '^'),
    (0xfe53, '\u{303}', '~'),
    (0xfe54, '\u{304}', '\u{af}'),
    (0xfe55, '\u{306}', '\u{2d8}'),
    (0xfe56, '\u{307}', '\u{2d9}'),
    (0xfe57, '\u{308}', '\u{a8}'),
    (0xfe58, '\u{30a}', '\u{b0}'),
    (0xfe59, '\u{30b}', '\u{2dd}'),
    (0xfe5a, '\u{30c}', '\u{2c7}'),
    (0xfe5b, '\u{327}', '\u{b8}'),
    (0xfe5c, '\u{328}', '\u{2db}'),
    (0xfe60, '\u{323}', '.'),
    (0xfe61, '\u{309}', '?'),
    (0xfe62, '\u{31b}', '\''),
    (0xfe68, '\u{331}', '_'),
];

/// A keyboard layout, under libvirt's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// en-us
    #[default]
    EnUs,
    /// en-gb
    EnGb,
    /// de
    De,
    /// fr
    Fr,
    /// es
    Es,
    /// ja
    Ja,
}

/// All layouts with their names.
pub const LAYOUTS: [(&str, Layout); 6] = [
    ("en-us", Layout::EnUs),
    ("en-gb", Layout::EnGb),
    ("de", Layout::De),
    ("fr", Layout::Fr),
    ("es", Layout::Es),
    ("ja", Layout::Ja),
];

/// Modifiers that are held, as far as they choose among a key's characters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    pub(super) shift: bool,
    pub(super) alt_gr: bool,
}

impl Held {
    /// Notes that the key of a keysym went down or up.
    pub(super) fn note(&mut self, keysym: u32, down: bool) {
        match keysym {
            0xffe1 | 0xffe2 => self.shift = down,
            0xfe03 | 0xffea | 0xff7e => self.alt_gr = down,
            _ => {}
        }
    }

    fn level(self) -> usize {
        usize::from(self.shift) + 2 * usize::from(self.alt_gr)
    }
}

impl Layout {
    /// The layout of a name.
    pub fn named(name: &str) -> Option<Self> {
        LAYOUTS.into_iter().find(|(other, _)| *other == name).map(|(_, layout)| layout)
    }

    /// All names, for a message.
    pub fn names() -> String {
        LAYOUTS.map(|(name, _)| name).join(", ")
    }

    fn table(self) -> &'static Table {
        match self {
            Layout::EnUs => &layouts::EN_US,
            Layout::EnGb => &layouts::EN_GB,
            Layout::De => &layouts::DE,
            Layout::Fr => &layouts::FR,
            Layout::Es => &layouts::ES,
            Layout::Ja => &layouts::JA,
        }
    }

    /// The key that has `keysym`: where several have, the one that has it with the modifiers that are held.
    pub(super) fn key(self, keysym: u32, held: Held) -> Option<u8> {
        let printed =
            character(keysym).and_then(|wanted| self.find(wanted, held).or_else(|| self.find(twin(wanted)?, held)));
        printed.or_else(|| if self == Layout::Ja { japanese(keysym) } else { None }).or_else(|| special(keysym))
    }

    fn find(self, wanted: char, held: Held) -> Option<u8> {
        if wanted == ' ' {
            return Some(SPACE);
        }
        let on = |level: &[&str; 4]| {
            level.iter().zip(KEYS).find_map(|(row, keys)| {
                let at = row.chars().position(|c| c == wanted)?;
                keys.get(at).copied()
            })
        };
        let table = self.table();
        table.get(held.level()).and_then(on).or_else(|| table.iter().find_map(on))
    }
}

// The character of a keysym: Latin-1's are their own number, Unicode's have bit 24 set.
fn character(keysym: u32) -> Option<char> {
    match keysym {
        0x20..=0x7e | 0xa0..=0xff => char::from_u32(keysym),
        // The euro sign's old keysym is its Unicode number.
        0x20ac => Some('\u{20ac}'),
        0x0100_0100..=0x0110_ffff => char::from_u32(keysym & 0x00ff_ffff),
        _ => {
            let old = layouts::OLD_KEYSYMS.iter().find(|(number, _)| *number == keysym).map(|(_, c)| *c);
            old.or_else(|| DEAD.iter().find(|(number, ..)| *number == keysym).map(|(_, c, _)| *c))
        }
    }
}

// What comes nearest to a character that a layout doesn't have: `^` is a dead key on one, and a plain one on another.
fn twin(wanted: char) -> Option<char> {
    DEAD.iter().find_map(|(_, dead, alone)| match wanted {
        c if c == *dead => Some(*alone),
        c if c == *alone => Some(*dead),
        _ => None,
    })
}

// Keys of a Japanese keyboard that print nothing.
fn japanese(keysym: u32) -> Option<u8> {
    Some(match keysym {
        0xff2a | 0xff28 | 0xff29 | 0xff21 => 0x29, // Zenkaku_Hankaku, Zenkaku, Hankaku, Kanji
        0xff23 => 0x79,                            // Henkan
        0xff22 => 0x7b,                            // Muhenkan
        0xff24..=0xff27 => 0x70,                   // Romaji, Hiragana, Katakana, Hiragana_Katakana
        0xff30 => 0x3a,                            // Eisu_toggle
        _ => return None,
    })
}

// Keysyms: X11's keysymdef.h. Keys that no layout moves.
fn special(keysym: u32) -> Option<u8> {
    const PAD_DIGITS: [u8; 10] = [0x52, 0x4f, 0x50, 0x51, 0x4b, 0x4c, 0x4d, 0x47, 0x48, 0x49];
    Some(match keysym {
        0xff08 => 0x0e,                   // BackSpace
        0xff09 | 0xfe20 => 0x0f,          // Tab, with Shift
        0xff0d => 0x1c,                   // Return
        0xff13 => 0xc6,                   // Pause
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
        0xff7e => 0xb8,                                    // Mode_switch, an AltGr of old
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

    const NONE: Held = Held { shift: false, alt_gr: false };
    const SHIFT: Held = Held { shift: true, ..NONE };
    const ALT_GR: Held = Held { alt_gr: true, ..NONE };
    const BOTH: Held = Held { shift: true, alt_gr: true };

    fn keysyms(printed: char) -> Vec<u32> {
        let number = u32::from(printed);
        let old = layouts::OLD_KEYSYMS.iter().filter(|(_, c)| *c == printed).map(|(keysym, _)| *keysym);
        let dead = DEAD.iter().filter(|(_, c, _)| *c == printed).map(|(keysym, ..)| *keysym);
        let own = (number < 0x100 || number == 0x20ac).then_some(number);
        old.chain(dead).chain(own).chain((number >= 0x100).then_some(0x0100_0000 | number)).collect()
    }

    #[test]
    fn every_character_of_every_layout_leads_to_a_key_that_has_it() {
        for (name, layout) in LAYOUTS {
            for (level, held) in [NONE, SHIFT, ALT_GR, BOTH].into_iter().enumerate() {
                for (row, keys) in layout.table()[level].iter().zip(KEYS) {
                    assert!(row.chars().count() <= keys.len(), "{name}: {row}");
                }
                let places = || {
                    let rows = layout.table()[level].iter().zip(KEYS);
                    rows.flat_map(|(row, keys)| row.chars().zip(keys.iter().copied())).filter(|(c, _)| *c != ' ')
                };
                for (printed, _) in places() {
                    let having: Vec<u8> = places().filter(|(c, _)| *c == printed).map(|(_, key)| key).collect();
                    assert!(!keysyms(printed).is_empty());
                    for keysym in keysyms(printed) {
                        let found = layout.key(keysym, held);
                        assert!(found.is_some_and(|key| having.contains(&key)), "{name}, {printed:?}: {found:x?}");
                    }
                }
            }
            // Programs that type know nothing of levels.
            for keysym in 0x20..0x7f {
                assert!(layout.key(keysym, NONE).is_some(), "{name}: {keysym:#x}");
            }
            assert_eq!(Layout::named(name), Some(layout));
        }
        assert_eq!(Layout::named("tlh"), None);
    }

    // Keysym, modifiers, key: as printed on keyboards.
    fn stand(layout: Layout, cases: &[(u32, Held, u8)]) {
        for (keysym, held, key) in cases {
            assert_eq!(layout.key(*keysym, *held), Some(*key), "{layout:?}, {keysym:#x}, {held:?}");
        }
    }

    #[test]
    fn american_and_british_keys() {
        let a = [(0x61, NONE, 0x1e), (0x41, SHIFT, 0x1e), (0x31, NONE, 0x02), (0x21, SHIFT, 0x02), (0x20, NONE, 0x39)];
        stand(Layout::EnUs, &a);
        // Backslash and bar, at and double quote, hash and tilde, less than.
        stand(Layout::EnUs, &[(0x5c, NONE, 0x2b), (0x7c, SHIFT, 0x2b), (0x40, SHIFT, 0x03), (0x22, SHIFT, 0x28)]);
        stand(Layout::EnUs, &[(0x23, SHIFT, 0x04), (0x7e, SHIFT, 0x29), (0x3c, SHIFT, 0x33), (0x3c, NONE, 0x33)]);
        assert_eq!(Layout::EnUs.key(0x20ac, NONE), None, "the euro sign is not on an American keyboard");
        stand(Layout::EnGb, &a);
        stand(Layout::EnGb, &[(0x5c, NONE, 0x56), (0x7c, SHIFT, 0x56), (0x40, SHIFT, 0x28), (0x22, SHIFT, 0x03)]);
        stand(Layout::EnGb, &[(0x23, NONE, 0x2b), (0x7e, SHIFT, 0x2b), (0xa3, SHIFT, 0x04), (0x20ac, ALT_GR, 0x05)]);
    }

    #[test]
    fn german_keys() {
        // z and y, umlauts, sharp s.
        stand(Layout::De, &[(0x7a, NONE, 0x15), (0x79, NONE, 0x2c), (0x5a, SHIFT, 0x15), (0x59, SHIFT, 0x2c)]);
        stand(Layout::De, &[(0xfc, NONE, 0x1a), (0xdc, SHIFT, 0x1a), (0xf6, NONE, 0x27), (0xe4, NONE, 0x28)]);
        stand(Layout::De, &[(0xdf, NONE, 0x0c), (0x3f, SHIFT, 0x0c), (0x5c, ALT_GR, 0x0c), (0x2f, SHIFT, 0x08)]);
        // @ and the euro sign, braces and brackets, the key of < > |.
        stand(Layout::De, &[(0x40, ALT_GR, 0x10), (0x20ac, ALT_GR, 0x12), (0x7b, ALT_GR, 0x08), (0x5d, ALT_GR, 0x0a)]);
        stand(Layout::De, &[(0x3c, NONE, 0x56), (0x3e, SHIFT, 0x56), (0x7c, ALT_GR, 0x56), (0x7e, ALT_GR, 0x1b)]);
        // Dead circumflex, acute and grave; ^ and ` by themselves are on the same keys.
        stand(Layout::De, &[(0xfe52, NONE, 0x29), (0xfe51, NONE, 0x0d), (0xfe50, SHIFT, 0x0d)]);
        stand(Layout::De, &[(0x5e, NONE, 0x29), (0x60, SHIFT, 0x0d), (0xb0, SHIFT, 0x29)]);
    }

    #[test]
    fn french_keys() {
        stand(Layout::Fr, &[(0x61, NONE, 0x10), (0x71, NONE, 0x1e), (0x7a, NONE, 0x11), (0x77, NONE, 0x2c)]);
        stand(Layout::Fr, &[(0x6d, NONE, 0x27), (0x31, SHIFT, 0x02), (0x26, NONE, 0x02), (0xe9, NONE, 0x03)]);
        stand(Layout::Fr, &[(0x40, ALT_GR, 0x0b), (0x23, ALT_GR, 0x04), (0x7e, ALT_GR, 0x03), (0x5c, ALT_GR, 0x09)]);
        stand(Layout::Fr, &[(0x21, NONE, 0x35), (0x2e, SHIFT, 0x33), (0x3c, NONE, 0x56), (0xb2, NONE, 0x29)]);
        stand(Layout::Fr, &[(0xfe52, NONE, 0x1a), (0xfe57, SHIFT, 0x1a), (0xf9, NONE, 0x28), (0x2a, NONE, 0x2b)]);
    }

    #[test]
    fn spanish_keys() {
        stand(Layout::Es, &[(0xf1, NONE, 0x27), (0xd1, SHIFT, 0x27), (0xe7, NONE, 0x2b), (0xa1, NONE, 0x0d)]);
        stand(Layout::Es, &[(0xbf, SHIFT, 0x0d), (0x27, NONE, 0x0c), (0x40, ALT_GR, 0x03), (0x7c, ALT_GR, 0x02)]);
        stand(Layout::Es, &[(0x5c, ALT_GR, 0x29), (0x5b, ALT_GR, 0x1a), (0x7d, ALT_GR, 0x2b), (0xba, NONE, 0x29)]);
        stand(Layout::Es, &[(0xfe50, NONE, 0x1a), (0xfe52, SHIFT, 0x1a), (0xfe51, NONE, 0x28), (0xfe57, SHIFT, 0x28)]);
    }

    #[test]
    fn japanese_keys() {
        stand(Layout::Ja, &[(0x40, NONE, 0x1a), (0x60, SHIFT, 0x1a), (0x5b, NONE, 0x1b), (0x5d, NONE, 0x2b)]);
        stand(Layout::Ja, &[(0x5e, NONE, 0x0d), (0x7e, SHIFT, 0x0d), (0x3a, NONE, 0x28), (0x2a, SHIFT, 0x28)]);
        stand(Layout::Ja, &[(0x22, SHIFT, 0x03), (0x27, SHIFT, 0x08), (0x3d, SHIFT, 0x0c), (0x3c, SHIFT, 0x33)]);
        stand(Layout::Ja, &[(0xa5, NONE, 0x7d), (0x7c, SHIFT, 0x7d), (0x5c, NONE, 0x73), (0x5f, SHIFT, 0x73)]);
        stand(Layout::Ja, &[(0xff2a, NONE, 0x29), (0xff23, NONE, 0x79), (0xff22, NONE, 0x7b), (0xff27, NONE, 0x70)]);
        assert_eq!(Layout::EnUs.key(0xff23, NONE), None);
    }

    #[test]
    fn keys_that_no_layout_moves() {
        for (_, layout) in LAYOUTS {
            stand(layout, &[(0xff0d, NONE, 0x1c), (0xff52, NONE, 0xc8), (0xffbe, NONE, 0x3b), (0xffc7, NONE, 0x44)]);
            stand(layout, &[(0xffb5, NONE, 0x4c), (0xfe03, NONE, 0xb8), (0xffe1, NONE, 0x2a)]);
        }
    }
}
