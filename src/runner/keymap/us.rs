//! The US layout: which key has which character, with and without Shift.

/// Rows of keys: the first key's scancode, characters without Shift, characters with.
const ROWS: [(u8, &str, &str); 4] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
];
const SPACE: u8 = 0x39;

/// The key of a character's keysym, which for Latin-1 is the character's own number.
pub(super) fn key(keysym: u32) -> Option<u8> {
    let wanted = char::from_u32(keysym)?;
    if wanted == ' ' {
        return Some(SPACE);
    }
    ROWS.iter().find_map(|(first, plain, shifted)| {
        let at = plain.chars().position(|c| c == wanted).or_else(|| shifted.chars().position(|c| c == wanted))?;
        Some(first + at as u8)
    })
}
