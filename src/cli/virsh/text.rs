//! Several commands in one argument: a text, split as virsh splits it.

use super::{Words, wrong};
use crate::failure::Failure;

/// Splits a text into commands: words between blanks, quoted or escaped as in virsh, `;` or a new line between commands,
/// `#` before a comment (virsh(1), "DESCRIPTION" and "NOTES").
pub(super) fn split(text: &str) -> Result<Vec<Words>, Failure> {
    let (mut commands, mut words) = (Vec::new(), Words::new());
    let mut chars = text.chars().peekable();
    while let Some(&next) = chars.peek() {
        match next {
            ' ' | '\t' => drop(chars.next()),
            ';' | '\n' => {
                chars.next();
                commands.push(std::mem::take(&mut words));
            }
            '#' => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            _ => words.push(word(&mut chars)?),
        }
    }
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    Ok(commands)
}

fn word(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String, Failure> {
    let (mut word, mut quote) = (String::new(), None);
    while let Some(&c) = chars.peek() {
        if quote.is_none() && matches!(c, ' ' | '\t' | ';' | '\n') {
            break;
        }
        chars.next();
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.push(chars.next().ok_or_else(|| wrong("dangling \\"))?),
            (c, _) => word.push(c),
        }
    }
    // As virsh: a single quote that is never closed goes to the end.
    if quote == Some('"') { Err(wrong("missing \"")) } else { Ok(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_split_as_virsh_does() {
        let words = |text: &str| split(text).unwrap();
        assert_eq!(words("list --all; domid web"), [vec!["list", "--all"], vec!["domid", "web"]]);
        assert_eq!(
            words("define 'a b.xml';;\nstart a\\ b # it\nlist"),
            [vec!["define", "a b.xml"], vec!["start", "a b"], vec!["list"]]
        );
        assert_eq!(words("x \"a;'\\\"b\"''"), [vec!["x", "a;'\"b"]]);
        assert!(split("list \"x").is_err() && split("list x\\").is_err());
        assert!(words(" ; ").is_empty());
    }
}
