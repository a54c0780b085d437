//! virt-install's `key=value,key=value` grammar: a backslash takes a comma's meaning away, the first bare word fills
//! the group's own key.

use crate::failure::{Failure, Status};

/// The pairs of one option, with the option's name for messages.
pub(super) struct Suboptions {
    option: &'static str,
    pairs: Vec<(String, Option<String>)>,
}

impl Suboptions {
    /// Splits an option's value. `bare` is the key that a first word without `=` fills.
    pub(super) fn parse(option: &'static str, bare: Option<&str>, text: &str) -> Self {
        let mut pairs = Vec::new();
        for (number, part) in split(text).into_iter().enumerate().filter(|(_, part)| !part.is_empty()) {
            // A path or URL may have the sign in it; a key has no slash before it.
            let pair = part.split_once('=').filter(|(key, _)| number > 0 || !key.contains('/'));
            match (pair, bare) {
                (Some((key, value)), _) => pairs.push((key.to_owned(), Some(value.to_owned()))),
                (None, Some(bare)) if number == 0 => pairs.push((bare.to_owned(), Some(part))),
                (None, _) => pairs.push((part, None)),
            }
        }
        Self { option, pairs }
    }

    /// The keys that are left.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(key, _)| key.as_str())
    }

    /// A key that is there and is `key` or below it.
    pub(super) fn below(&self, key: &str) -> Option<String> {
        let is_below = |k: &&str| k.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.keys().find(is_below).map(str::to_owned)
    }

    /// Takes a value out.
    pub(super) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(k, _)| k == key)?;
        // A key without a value is a yes.
        Some(self.pairs.remove(at).1.unwrap_or_else(|| "yes".into()))
    }

    /// Gives keys their first names.
    pub(super) fn rename(&mut self, aliases: &[(&str, &str)]) {
        for (key, _) in &mut self.pairs {
            if let Some((_, name)) = aliases.iter().find(|(alias, _)| alias == key) {
                *key = (*name).to_owned();
            }
        }
    }

    /// Takes a yes or no out.
    pub(super) fn take_flag(&mut self, key: &str) -> Result<Option<bool>, Failure> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("yes" | "on" | "1" | "true") => Ok(Some(true)),
            Some("no" | "off" | "0" | "false") => Ok(Some(false)),
            Some(other) => Err(self.wrong(key, other, "yes or no is expected")),
        }
    }

    /// Takes a number out.
    pub(super) fn take_number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, Failure> {
        let Some(text) = self.take(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.wrong(key, &text, "a number is expected"))
    }

    /// What to say of a value.
    pub(super) fn wrong(&self, key: &str, value: &str, why: &str) -> Failure {
        Failure::new(Status::Usage, format!("{} {key}={value}: {why}", self.option))
    }

    /// Everything must have been taken by now; `known` are the keys that exist, `later` those that don't work yet.
    pub(super) fn finish(self, known: &[&str], later: &[&str]) -> Result<(), Failure> {
        let Some((key, _)) = self.pairs.first() else { return Ok(()) };
        let option = self.option;
        if later.iter().any(|k| k == key) {
            return Err(Failure::new(Status::Usage, format!("not yet: {option} {key}=")));
        }
        let failure = Failure::new(Status::Usage, format!("{option} has no sub-option {key:?}"));
        Err(match super::nearest(key, known.iter().chain(later)) {
            Some(near) => failure.advise(format!("Did you mean {near}=?")),
            None => failure.advise(format!("There are: {}", known.join(", "))),
        })
    }
}

fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, parts.last_mut()) {
            (',', _) => parts.push(String::new()),
            ('\\', Some(last)) => match letters.next() {
                Some(',') => last.push(','),
                Some(other) => last.extend(['\\', other]),
                None => last.push('\\'),
            },
            (other, Some(last)) => last.push(other),
            (_, None) => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_bare_words_and_escaped_commas() {
        let mut options = Suboptions::parse("--disk", Some("path"), r"/a\,b,size=2,readonly,x=\y");
        assert_eq!(options.take("path").as_deref(), Some("/a,b"));
        assert_eq!(options.take_number::<u32>("size").unwrap(), Some(2));
        assert_eq!(options.take_flag("readonly").unwrap(), Some(true));
        assert_eq!(options.take("x").as_deref(), Some(r"\y"));
        let mut url = Suboptions::parse("--location", Some("location"), "http://a/?b=c,kernel=/d=e");
        assert_eq!(
            (url.take("location").as_deref(), url.take("kernel").as_deref()),
            (Some("http://a/?b=c"), Some("/d=e"))
        );
        options.finish(&[], &[]).unwrap();
    }

    #[test]
    fn what_is_left_over_is_named_with_the_nearest() {
        let left = |text| Suboptions::parse("--disk", Some("path"), text).finish(&["path", "size"], &["bus"]);
        assert!(left("sise=2").unwrap_err().to_string().contains("Did you mean size=?"));
        assert!(left("bus=sata").unwrap_err().to_string().contains("not yet: --disk bus="));
        assert!(left("banana=1").unwrap_err().to_string().contains("There are: path, size"));
        assert!(Suboptions::parse("--disk", None, "size=x").take_number::<u32>("size").is_err());
    }
}
