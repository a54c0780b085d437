//! Which characters stand on which keys: facts of X's keyboard data (xkeyboard-config), which systems share.
//!
//! For each level (alone, with Shift, with AltGr, with both) the four rows of keys, as [`KEYS`](super::KEYS) has them; a
//! blank where there is nothing. A dead key stands as the combining character that it makes.

use super::Table;

const NOTHING: [&str; 4] = [""; 4];

pub(super) const EN_US: Table = [
    ["`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", " zxcvbnm,./"],
    ["~!@#$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:\"|", " ZXCVBNM<>?"],
    NOTHING,
    NOTHING,
];

pub(super) const EN_GB: Table = [
    ["`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./"],
    ["¬!\"£$%^&*()_+", "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?"],
    ["|¹²³€½¾{[]}\\\u{327}", "@ſe¶ŧ←↓→øþ\u{308}\u{303}", "æßðđŋħ\u{309}ĸł\u{301}\u{302}\u{300}", "|«»¢„“”µ•·\u{323}"],
    ["|¡⅛£¼⅜⅝⅞™±°¿\u{328}", "Ω§E®Ŧ¥↑ıØÞ\u{30a}\u{304}", "ÆẞÐªŊĦ\u{31b}&Ł\u{30b}\u{30c}\u{306}", "¦<>©‚‘’º×÷\u{307}"],
];

pub(super) const DE: Table = [
    ["\u{302}1234567890ß\u{301}", "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-"],
    ["°!\"§$%&/()=?\u{300}", "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_"],
    ["\u{2032}¹²³¼½¬{[]}\\\u{327}", "@ſ€¶ŧ←↓→øþ\u{308}~", "æſðđŋħ\u{323}ĸł\u{30b}\u{302}’", "|»«¢„“”µ·…–"],
    ["\u{2033}¡⅛£¤⅜⅝⅞™±°¿\u{328}", "Ω§€®Ŧ¥↑ıØÞ\u{30a}¯", "ÆẞÐªŊĦ\u{307}&Ł\u{323}\u{30c}\u{306}", "\u{331}›‹©‚‘’º×÷—"],
];

pub(super) const FR: Table = [
    ["²&é\"'(-è_çà)=", "azertyuiop\u{302}$", "qsdfghjklmù*", "<wxcvbn,;:!"],
    ["~1234567890°+", "AZERTYUIOP\u{308}£", "QSDFGHJKLM%µ", ">WXCVBN?./§"],
    ["¬¹~#{[|`\\^@]}", "æ«€¶ŧ←↓→øþ\u{308}¤", "@ßðđŋħ\u{309}ĸłµ\u{302}\u{300}", "|ł»¢„“”\u{301}•·\u{323}"],
    ["¬¡⅛£$⅜⅝⅞™±°¿\u{328}", "Æ<¢®Ŧ¥↑ıØÞ\u{30a}\u{304}", "ΩẞÐªŊĦ\u{31b}&Łº\u{30c}\u{306}", "¦Ł>©‚‘’\u{30b}×÷\u{307}"],
];

/// Characters that Spanish keyboards have a second time, unprinted, are left out: not every system knows of them.
pub(super) const ES: Table = [
    ["º1234567890'¡", "qwertyuiop\u{300}+", "asdfghjklñ\u{301}ç", "<zxcvbnm,.-"],
    ["ª!\"·$%&/()=?¿", "QWERTYUIOP\u{302}*", "ASDFGHJKLÑ\u{308}Ç", ">ZXCVBNM;:_"],
    ["\\|@#~½¬     \u{327}", " ſ€¶ŧ←↓→øþ[]", "æßðđŋħ\u{309}ĸł\u{303}{}", "|«»¢„“”µ•·\u{323}"],
    ["\\¡⅛£$⅜⅝⅞™±°¿\u{328}", "Ω§¢®Ŧ¥↑ıØÞ\u{30a}\u{304}", "ÆẞÐªŊĦ\u{31b}&Ł\u{30b}\u{30c}\u{306}", "¦<>©‚‘’º×÷\u{307}"],
];

pub(super) const JA: Table = [
    [" 1234567890-^¥", "qwertyuiop@[", "asdfghjkl;:]", " zxcvbnm,./\\"],
    [" !\"#$%&'() =~|", "QWERTYUIOP`{", "ASDFGHJKL+*}", " ZXCVBNM<>?_"],
    NOTHING,
    NOTHING,
];

/// Characters whose X keysym is neither their Latin-1 nor their Unicode number (X11's keysymdef.h).
pub(super) const OLD_KEYSYMS: [(u32, char); 29] = [
    (0x1a3, 'Ł'),
    (0x1b3, 'ł'),
    (0x1f0, 'đ'),
    (0x2a1, 'Ħ'),
    (0x2b1, 'ħ'),
    (0x2b9, 'ı'),
    (0x3a2, 'ĸ'),
    (0x3ac, 'Ŧ'),
    (0x3bc, 'ŧ'),
    (0x3bd, 'Ŋ'),
    (0x3bf, 'ŋ'),
    (0x7d9, 'Ω'),
    (0x8fb, '←'),
    (0x8fc, '↑'),
    (0x8fd, '→'),
    (0x8fe, '↓'),
    (0xaa9, '—'),
    (0xaaa, '–'),
    (0xac3, '⅛'),
    (0xac4, '⅜'),
    (0xac5, '⅝'),
    (0xac6, '⅞'),
    (0xac9, '™'),
    (0xad0, '‘'),
    (0xad1, '’'),
    (0xad2, '“'),
    (0xad3, '”'),
    (0xafd, '‚'),
    (0xafe, '„'),
];
