//! Sizes as people type them.

/// Bytes of `2G`, `512M`, `1.5T`, or of a bare number that counts in `unit`. `None` when it is none, or too large.
pub(super) fn parse(text: &str, unit: u64) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let unit = match suffix.trim_end_matches("iB").trim_end_matches('B') {
        "" if suffix.is_empty() => unit,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        _ => return None,
    };
    scaled(number, unit)
}

/// Bytes of a number, with or without a fraction, that counts in `unit`.
pub(crate) fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut bytes = whole.checked_mul(unit)?;
    if !fraction.is_empty() {
        let part: f64 = format!("0.{fraction}").parse().ok()?;
        bytes = bytes.checked_add((part * unit as f64) as u64)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        const G: u64 = 1 << 30;
        for (text, unit, want) in [
            ("20", G, Some(20 * G)),
            ("2G", 1, Some(2 * G)),
            ("2GiB", 1, Some(2 * G)),
            ("0.5", G, Some(G / 2)),
            ("1.5g", 1, Some(G + G / 2)),
            ("512M", G, Some(512 << 20)),
            ("", G, None),
            ("x", G, None),
            ("1.2.3", G, None),
            ("-1", G, None),
            ("99999999999G", 1, None),
            ("5Q", 1, None),
        ] {
            assert_eq!(parse(text, unit), want, "{text:?}");
        }
    }
}
