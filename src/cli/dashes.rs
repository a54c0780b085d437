//! Long dashes: what word processors and web pages make of `--`.

use std::ffi::OsString;

use crate::failure::{Failure, Status};

/// Hyphens and dashes that are not ASCII's.
const DASHES: &[char] = &['\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2015}', '\u{2212}'];

/// Refuses arguments that begin with a long dash, and shows the line as it was meant.
pub(crate) fn check(args: &[OsString]) -> Result<(), Failure> {
    let text: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let Some(bad) = text.iter().skip(1).find(|a| a.starts_with(DASHES)) else { return Ok(()) };
    let dash = bad.chars().next().unwrap_or('-');
    let name = format!("U+{:04X}", u32::from(dash));
    let line: Vec<String> = text.iter().map(|a| mended(a)).collect();
    Err(Failure::new(Status::Usage, format!("{bad:?} begins with a long dash ({name}), not with a hyphen"))
        .why("text processors and web pages turn - and -- into longer dashes")
        .advise(line.join(" ")))
}

// One letter behind, or a number: a short option or less; more: a long one.
fn mended(arg: &str) -> String {
    if !arg.starts_with(DASHES) {
        return if arg.contains(' ') { format!("'{arg}'") } else { arg.to_owned() };
    }
    let word = arg.trim_start_matches(DASHES).trim_start_matches('-');
    let number = word.starts_with(|c: char| c.is_ascii_digit());
    let short = number || word.chars().nth(1).is_none_or(|c| !c.is_alphanumeric());
    format!("{}{word}", if short { "-" } else { "--" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_dashes_are_named_and_the_line_is_mended() {
        let line = |words: &str| -> Vec<OsString> { words.split(' ').map(OsString::from).collect() };
        assert!(check(&line("kiln install --name web")).is_ok());
        let text = check(&line("kiln install \u{2013}\u{2013}name web \u{2013}r 512 \u{2014}vcpus=2"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("U+2013"), "{text}");
        assert!(text.contains("> kiln install --name web -r 512 --vcpus=2"), "{text}");
        let text = check(&line("kiln disk resize disk.raw \u{2212}10G")).unwrap_err().to_string();
        assert!(text.contains("U+2212") && text.contains("> kiln disk resize disk.raw -10G"), "{text}");
    }
}
