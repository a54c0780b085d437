//! getopt_long's habits over a table of options: what qemu-img's users have in their fingers.
//!
//! Bundled letters (`-cpO qcow2`), glued values (`-Oqcow2`, `--output=json`), unique prefixes of long names (`--out
//! json`) and options after operands, up to a `--`. The crates that read arguments lack the prefixes, and clap's cost
//! is what small verbs would spend most of their time on.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::Dialect;
use super::table::{Does, Opt};
use super::values::Value;
use crate::cli;
use crate::failure::{Failure, Status};

/// What a line holds besides its options.
pub(super) enum Read {
    /// `--help` came before any error.
    Help,
    Operands(Vec<OsString>),
}

/// Why a line is refused. qemu-img's compare has an exit status for each.
pub(super) enum Wrong {
    /// The line has another shape.
    Line(Failure),
    /// A value can't be meant.
    Value(Failure),
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Line(failure) | Wrong::Value(failure) => failure,
        }
    }
}

/// Reads lines.
pub(super) struct Reader<'a, T: 'static> {
    dialect: Dialect,
    table: &'a [Opt<T>],
    signed: bool,
    rest: std::slice::Iter<'a, OsString>,
}

impl<'a, T> Reader<'a, T> {
    pub(super) fn new(dialect: Dialect, table: &'a [Opt<T>], args: &'a [OsString]) -> Self {
        Self { dialect, table, signed: false, rest: args.iter() }
    }

    /// Behind an operand, a number with a minus is another one: `resize disk.raw -1G`.
    pub(super) fn signed(self, signed: bool) -> Self {
        Self { signed, ..self }
    }

    /// Reads a line into `draft`.
    pub(super) fn read(mut self, draft: &mut T) -> Result<Read, Wrong> {
        let mut operands = Vec::new();
        while let Some(arg) = self.rest.next() {
            match arg.as_bytes() {
                b"--" => {
                    operands.extend(self.rest.cloned());
                    break;
                }
                [b'-', b'0'..=b'9', ..] if self.signed && !operands.is_empty() => operands.push(arg.clone()),
                [b'-', b'-', long @ ..] => {
                    if self.long(draft, long)? {
                        return Ok(Read::Help);
                    }
                }
                [b'-', letters @ ..] if !letters.is_empty() => {
                    if self.letters(draft, letters)? {
                        return Ok(Read::Help);
                    }
                }
                _ => operands.push(arg.clone()),
            }
        }
        Ok(Read::Operands(operands))
    }

    // True: help is asked for.
    fn letters(&mut self, draft: &mut T, letters: &[u8]) -> Result<bool, Wrong> {
        for (at, letter) in letters.iter().map(|byte| char::from(*byte)).enumerate() {
            let name = format!("-{letter}");
            let known = self.known().find(|opt| opt.short == Some(letter));
            let Some(opt) = known else {
                return if letter == 'h' { Ok(true) } else { Err(self.unknown(&name)) };
            };
            let glued = &letters[at + 1..];
            let value = opt.takes_value() && !glued.is_empty();
            self.apply(draft, opt, &name, value.then(|| OsStr::from_bytes(glued)))?;
            if opt.takes_value() {
                break;
            }
        }
        Ok(false)
    }

    fn long(&mut self, draft: &mut T, long: &[u8]) -> Result<bool, Wrong> {
        let (word, value) = match long.iter().position(|byte| *byte == b'=') {
            Some(at) => (&long[..at], Some(OsStr::from_bytes(&long[at + 1..]))),
            None => (long, None),
        };
        let word = String::from_utf8_lossy(word);
        let name = format!("--{word}");
        if word.is_empty() {
            return Err(self.unknown(&name));
        }
        let exact = self.known().find(|opt| opt.longs.contains(&&*word));
        let candidates: Vec<&Opt<T>> = match exact {
            Some(opt) => vec![opt],
            None => self.known().filter(|opt| opt.longs.iter().any(|long| long.starts_with(&*word))).collect(),
        };
        let help = exact.is_none() && "help".starts_with(&*word);
        match &candidates[..] {
            [] if help => Ok(true),
            [] => Err(self.unknown(&name)),
            [opt] if !help => self.apply(draft, opt, &name, value).map(|()| false),
            _ => {
                let longs = candidates.iter().flat_map(|opt| opt.longs).filter(|long| long.starts_with(&*word));
                let names: Vec<String> = longs.chain(help.then_some(&"help")).map(|l| format!("--{l}")).collect();
                Err(Wrong::Line(usage(format!("{name} may be {}", names.join(" or ")))))
            }
        }
    }

    fn apply(&mut self, draft: &mut T, opt: &Opt<T>, name: &str, value: Option<&OsStr>) -> Result<(), Wrong> {
        match (&opt.does, value) {
            (Does::Refused { why, .. }, _) => {
                let full = opt.longs.iter().find(|long| name.starts_with("--") && long.starts_with(&name[2..]));
                let name = full.map_or(name.to_owned(), |long| format!("--{long}"));
                Err(Wrong::Line(usage(format!("not yet: {name}")).why(*why)))
            }
            (Does::Flag(_), Some(_)) => Err(Wrong::Line(usage(format!("{name} takes no value")))),
            (Does::Flag(set), None) => {
                set(draft);
                Ok(())
            }
            (Does::Value(what, set), value) => match value.or_else(|| self.rest.next().map(OsString::as_os_str)) {
                None => Err(Wrong::Line(usage(format!("{name} needs a value: {what}")))),
                Some(given) => set(draft, &Value { option: name, given }).map_err(Wrong::Value),
            },
        }
    }

    fn known(&self) -> impl Iterator<Item = &'a Opt<T>> + use<'a, T> {
        let dialect = self.dialect;
        self.table.iter().filter(move |opt| !opt.own || dialect == Dialect::Kiln)
    }

    fn unknown(&self, name: &str) -> Wrong {
        let longs: Vec<String> = self.known().flat_map(|opt| opt.longs).map(|long| format!("--{long}")).collect();
        let longs: Vec<&str> = longs.iter().map(String::as_str).collect();
        Wrong::Line(cli::suggest(usage(format!("there is no option {name}")), name, &longs))
    }
}

fn usage(what: String) -> Failure {
    Failure::new(Status::Usage, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::testing::{K, Q, words};

    #[derive(Debug, Default, PartialEq)]
    struct Seen(Vec<String>);

    impl Seen {
        fn value(&mut self, value: &Value<'_>) -> Result<(), Failure> {
            self.0.push(format!("{}={}", value.option, value.text()?));
            Ok(())
        }
    }

    const TABLE: &[Opt<Seen>] = &[
        Opt::flag(Some('c'), &["compress"], "", |seen| seen.0.push("c".into())),
        Opt::flag(Some('p'), &["progress"], "", |seen| seen.0.push("p".into())),
        Opt::value(Some('O'), &["output-format"], "FMT", "", Seen::value),
        Opt::value(None, &["output"], "FMT", "", Seen::value),
        Opt::value(Some('o'), &["options", "settings"], "LIST", "", Seen::value),
        Opt::force(|seen| seen.0.push("force".into())),
        Opt::object(),
    ];

    fn line(dialect: Dialect, text: &str) -> Result<String, String> {
        let mut seen = Seen::default();
        match Reader::new(dialect, TABLE, &words(text)).signed(text.contains("1G")).read(&mut seen) {
            Ok(Read::Help) => Ok("help".into()),
            Ok(Read::Operands(operands)) => {
                let operands = operands.iter().map(|operand| operand.to_string_lossy().into_owned());
                Ok(seen.0.into_iter().chain(["|".into()]).chain(operands).collect::<Vec<_>>().join(" "))
            }
            Err(wrong) => Err(Failure::from(wrong).to_string()),
        }
    }

    #[test]
    fn habits() {
        for (text, want) in [
            ("-cpO qcow2 a b", "c p -O=qcow2 | a b"),
            ("-cOqcow2 a", "c -O=qcow2 | a"),
            ("-oa=b -o c=d a", "-o=a=b -o=c=d | a"),
            ("a b -c", "c | a b"),
            ("a -- -c --compress", "| a -c --compress"),
            ("--output=json a", "--output=json | a"),
            ("--output json a", "--output=json | a"),
            ("--opt=a=b x", "--opt=a=b | x"),
            ("--settings x y", "--settings=x | y"),
            ("--set x y", "--set=x | y"),
            ("--compress --prog", "c p |"),
            ("-O -c a", "-O=-c | a"),
            ("-O= a", "-O== | a"),
            ("--output= a", "--output= | a"),
            ("a - b", "| a - b"),
            ("a -1G", "| a -1G"),
            ("'' a", "|  a"),
            ("-ch --bogus", "help"),
            ("--he", "help"),
            ("a --force", "force | a"),
        ] {
            assert_eq!(line(K, text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        for (text, says) in [
            ("-x a", "no option -x"),
            ("-cx a", "no option -x"),
            ("--bogus", "no option --bogus"),
            ("--compres5", "Did you mean --compress?"),
            ("--out json", "--out may be --output-format or --output"),
            ("--compress=1", "--compress takes no value"),
            ("-O", "-O needs a value: FMT"),
            ("--output", "--output needs a value: FMT"),
            ("--object x", "not yet: --object"),
            ("--obj=x", "not yet: --object"),
            ("-1", "no option -1"),
            ("-1G a", "no option -1"),
            ("a -1", "no option -1"),
            ("--=x", "no option --"),
        ] {
            let text = line(K, text).unwrap_err();
            assert!(text.contains(says), "{text}");
        }
        assert!(line(Q, "--force").unwrap_err().contains("no option --force"));
    }

    #[test]
    fn names_of_files_need_not_be_utf8() {
        let args = [OsString::from("-c"), OsStr::from_bytes(b"\xff").to_owned()];
        let Ok(Read::Operands(operands)) = Reader::new(K, TABLE, &args).read(&mut Seen::default()) else { panic!() };
        assert_eq!(operands, args[1..]);
        let args = [OsStr::from_bytes(b"-O\xff").to_owned()];
        let wrong = Reader::new(K, TABLE, &args).read(&mut Seen::default()).err().map(Failure::from).unwrap();
        assert!(wrong.to_string().contains("not UTF-8"), "{wrong}");
    }
}
