//! Sizes as qemu-img reads them: bytes, or a number with one letter of `b k K M G T P E`.

use crate::cli::size::scaled;

/// Why a text is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSize {
    NoNumber,
    /// Above 2^63 - 1.
    TooLarge,
}

impl NoSize {
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::NoNumber => "bytes are expected, or a number with one of the letters k M G T P E",
            Self::TooLarge => "that is more than a file can have, 2^63 - 1 bytes",
        }
    }
}

/// Bytes of `10G`, `1.5M`, `0x200`, `512`. A fraction needs a letter above `b`; as with strtoull(3) a plus or blanks
/// may come first.
pub(super) fn parse(text: &str) -> Result<u64, NoSize> {
    let text = text.trim_ascii_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (number, radix) = hex.map_or((text, 10), |hex| (hex, 16));
    let end = number.find(|c: char| !(c.is_digit(radix) || c == '.' && radix == 10)).unwrap_or(number.len());
    let (number, letter) = number.split_at(end);
    let unit = unit(letter).ok_or(NoSize::NoNumber)?;
    let shaped = number.starts_with(|c: char| c.is_digit(radix)) && number.matches('.').count() <= 1;
    if !shaped || (number.contains('.') && unit == 1) {
        return Err(NoSize::NoNumber);
    }
    let bytes = match radix {
        16 => u64::from_str_radix(number, 16).ok().and_then(|number| number.checked_mul(unit)),
        _ => scaled(number, unit),
    };
    bytes.filter(|bytes| *bytes <= i64::MAX as u64).ok_or(NoSize::TooLarge)
}

/// True when the text ends in a letter, so that no one took it for gigabytes.
pub(super) fn has_unit(text: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphabetic())
}

fn unit(letter: &str) -> Option<u64> {
    Some(match letter {
        "" | "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return None,
    })
}

/// How `resize` says the new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To so many bytes.
    To(u64),
    /// By so many bytes more.
    Grow(u64),
    /// By so many bytes less.
    Shrink(u64),
}

/// A size with a sign that makes it relative.
pub(super) fn change(text: &str) -> Result<Change, NoSize> {
    match text.as_bytes().first() {
        Some(b'+') => parse(&text[1..]).map(Change::Grow),
        Some(b'-') => parse(&text[1..]).map(Change::Shrink),
        _ => parse(text).map(Change::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1 << 10;

    // Each row was tried with qemu-img 7.2.
    #[test]
    fn sizes_are_read_as_qemu_img_reads_them() {
        for (text, want) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("1B", 1),
            ("1k", K),
            ("1K", K),
            ("1m", K * K),
            ("1.5G", 3 << 29),
            ("5.M", 5 * K * K),
            ("1t", 1 << 40),
            ("1P", 1 << 50),
            ("1E", 1 << 60),
            ("7.9E", 9_108_079_886_394_091_136),
            ("1.5k", 1536),
            ("010", 10),
            ("0x1000", 4096),
            ("0x1k", K),
            (" 10", 10),
            ("+10", 10),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(parse(text), Ok(want), "{text:?}");
        }
        for text in [
            "", "x", "1x", "1kk", "1KiB", "1kB", "10 ", "1e3", ".5M", "1.5", "1.5b", "-1", "nan", "inf", "0x",
            "0x1.8M", "1.2.3G",
        ] {
            assert_eq!(parse(text), Err(NoSize::NoNumber), "{text:?}");
        }
        for text in ["8E", "9223372036854775808", "99999999999999999999", "12345678901G", "0xffffffffffffffffff"] {
            assert_eq!(parse(text), Err(NoSize::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn a_sign_makes_a_size_relative() {
        assert_eq!(change("1M"), Ok(Change::To(K * K)));
        assert_eq!(change("+1.5k"), Ok(Change::Grow(1536)));
        assert_eq!(change("++1k"), Ok(Change::Grow(K)));
        assert_eq!(change("-1k"), Ok(Change::Shrink(K)));
        assert_eq!(change("--1k"), Err(NoSize::NoNumber));
        assert_eq!(change("+x"), Err(NoSize::NoNumber));
        assert_eq!(change("+8E"), Err(NoSize::TooLarge));
    }

    #[test]
    fn only_a_letter_says_the_unit() {
        assert!(has_unit("10b") && has_unit("1.5k"));
        assert!(!has_unit("10") && !has_unit(""));
    }
}
