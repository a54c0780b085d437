//! What the verbs' tests share.

use std::ffi::OsString;

use super::table::Opt;
use super::{Dialect, Parsed, Request};
use crate::failure::Failure;

pub(super) const K: Dialect = Dialect::Kiln;
pub(super) const Q: Dialect = Dialect::QemuImg;

type Parse = fn(Dialect, &[OsString]) -> Result<Parsed, Failure>;

/// A line's words. Two quotes are an empty word.
pub(super) fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(|word| if word == "''" { "" } else { word }).map(OsString::from).collect()
}

#[track_caller]
pub(super) fn request(parse: Parse, dialect: Dialect, line: &str) -> Request {
    match parse(dialect, &words(line)) {
        Ok(Parsed::Do(request)) => request,
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
pub(super) fn printed(parse: Parse, dialect: Dialect, line: &str) -> String {
    match parse(dialect, &words(line)) {
        Ok(Parsed::Print(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[track_caller]
pub(super) fn refused(parse: Parse, dialect: Dialect, line: &str, says: &str) {
    match parse(dialect, &words(line)) {
        Err(failure) => assert!(failure.to_string().contains(says), "{line}: {failure}"),
        Ok(parsed) => panic!("{line}: {parsed:?}"),
    }
}

/// Every spelling of every option stands in one of the lines, and each line is understood, or refused by name.
#[track_caller]
pub(super) fn covers<T>(parse: Parse, table: &[Opt<T>], lines: &[&str]) {
    for line in lines {
        if let Err(failure) = parse(K, &words(line)) {
            assert!(failure.what.starts_with("not yet: --"), "{line}: {failure}");
        }
    }
    let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
    for opt in table {
        for long in opt.longs {
            let long = format!("--{long}");
            let is = |word: &&str| **word == long || word.starts_with(&format!("{long}="));
            assert!(words.iter().any(is), "no line has {long}");
        }
        if let Some(short) = opt.short {
            let is = |word: &&str| word.starts_with('-') && !word.starts_with("--") && word.contains(short);
            assert!(words.iter().any(is), "no line has -{short}");
        }
    }
}
