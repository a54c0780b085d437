//! `--set NAME=VALUE`: what the user fills a template with.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::Value;

use super::engine::forbidden;
use super::sources::nearest;
use crate::failure::{Failure, Status};

/// Settings, each of its own name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets(BTreeMap<String, String>);

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Takes words as `NAME=VALUE` apart.
///
/// # Errors
/// When one has no `=`.
pub(crate) fn pairs(words: &[String]) -> Result<Vec<(String, String)>, Failure> {
    words.iter().map(|word| pair(word)).collect()
}

fn pair(word: &str) -> Result<(String, String), Failure> {
    let pair = word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.ok_or_else(|| Failure::new(Status::Usage, format!("--set {word}: NAME=VALUE is expected")))
}

impl Sets {
    /// Checks settings.
    ///
    /// # Errors
    /// When a name can't be a variable's, is given twice, or a value has a character that XML 1.0 (section 2.2) has no
    /// place for.
    pub fn of(given: &[(String, String)]) -> Result<Self, Failure> {
        let mut sets = BTreeMap::new();
        for (name, value) in given {
            let refuse = |why: String| Err(Failure::new(Status::Usage, format!("--set {name}=…: {why}")));
            if !is_name(name) {
                return refuse(
                    "a variable's name has letters, digits and underscores, and begins with no digit".into(),
                );
            }
            if let Some(bad) = forbidden(value) {
                return refuse(format!("its value has the character U+{:04X}, which XML can't hold", u32::from(bad)));
            }
            if sets.insert(name.clone(), value.clone()).is_some() {
                return refuse("it is given twice".into());
            }
        }
        Ok(Self(sets))
    }

    /// As [`Sets::of`], from words as `NAME=VALUE`.
    ///
    /// # Errors
    /// As [`Sets::of`], and when a word has no `=`.
    pub fn of_words(words: &[String]) -> Result<Self, Failure> {
        Self::of(&pairs(words)?)
    }

    /// Names that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// As a template sees them: `true`, `false` and whole numbers in their usual spelling are such in conditions and
    /// sums, and are written as they were given; everything else is text.
    pub fn values(&self) -> Value {
        Value::from(self.0.iter().map(|(name, value)| (name.clone(), typed(value))).collect::<BTreeMap<_, _>>())
    }

    /// Refuses settings that nothing asks for.
    ///
    /// # Errors
    /// When there is one.
    pub fn check_asked_for(&self, variables: &BTreeSet<String>) -> Result<(), Failure> {
        let Some(name) = self.names().find(|name| !variables.contains(*name)) else { return Ok(()) };
        let failure = Failure::new(Status::Usage, format!("--set {name}=…: the template takes no such variable"));
        let known: Vec<&str> = variables.iter().map(String::as_str).collect();
        let failure = match nearest(name, known.iter().copied()) {
            Some(near) => failure.advise(format!("Did you mean {near}?")),
            None => failure,
        };
        Err(match known.is_empty() {
            true => failure.advise("It takes none at all."),
            false => failure.advise(format!("It takes: {}", known.join(", "))),
        })
    }
}

fn typed(text: &str) -> Value {
    match (text, text.parse::<i64>()) {
        ("true", _) => true.into(),
        ("false", _) => false.into(),
        (_, Ok(number)) if number.to_string() == text => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::template::engine::written;

    fn of(pairs: &[(&str, &str)]) -> Result<Sets, String> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sets::of(&pairs).map_err(|failure| failure.to_string())
    }

    #[test]
    fn settings_are_typed_and_written_as_given() {
        for text in ["true", "false", "7", "-1", "007", "1.0", "+1", "9999999999999999999", "True", ""] {
            assert_eq!(written(&typed(text)).unwrap(), text);
        }
        assert!(!typed("false").is_true() && typed("7").is_integer() && !typed("007").is_integer());
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        assert!(of(&[("a.b", "1")]).unwrap_err().contains("--set a.b=…"));
        assert!(of(&[("", "1")]).is_err() && of(&[("1a", "1")]).is_err());
        assert!(of(&[("a", "1"), ("a", "2")]).unwrap_err().contains("twice"));
        assert!(
            of(&[("title", "bell\u{7}")]).unwrap_err().contains("--set title=…: its value has the character U+0007")
        );
        assert!(of(&[("title", "\u{fffe}")]).is_err());
        assert!(of(&[("_title2", "tab\tand\nline")]).is_ok());
        assert_eq!(pair("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(pair("a").is_err());
    }
}
