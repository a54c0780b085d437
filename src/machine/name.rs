//! Names of machines: they are folder names, arguments and lines of lists.

use crate::failure::{Failure, Status};

/// Longest name in bytes: a file name's limit.
pub const LONGEST: usize = 255;

/// Checks a name.
///
/// # Errors
/// When it is empty, too long, or would be trouble as a folder name or in a terminal.
pub fn check(name: &str) -> Result<(), Failure> {
    let refuse = |why: String| {
        Err(Failure::new(Status::Usage, format!("{:?} can't be a machine's name: {why}", shortened(name)))
            .advise("Use letters, digits, dots, dashes and underscores, e.g. --name web-1"))
    };
    if name.is_empty() {
        return refuse("it is empty".into());
    }
    if name.len() > LONGEST {
        return refuse(format!("it has {} bytes, at most {LONGEST} fit", name.len()));
    }
    if name == "." || name == ".." {
        return refuse("it names a folder".into());
    }
    if name.starts_with('-') {
        return refuse("it would be taken for an option".into());
    }
    if let Some(bad) = name.chars().find(|c| *c == '/' || c.is_control()) {
        return refuse(format!("it contains {bad:?}"));
    }
    Ok(())
}

fn shortened(name: &str) -> String {
    let start: String = name.chars().take(40).collect();
    if start.len() < name.len() { format!("{start}…") } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_trouble_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\nb", "a\0", "-x", "\u{7f}", &"x".repeat(256)] {
            assert_eq!(check(bad).unwrap_err().status, Status::Usage, "{bad:?}");
        }
        for good in ["web", "web-1.example", "Ünïcode", "with space", "...", &"x".repeat(255)] {
            check(good).unwrap();
        }
    }
}
