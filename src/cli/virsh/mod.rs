//! The name `virsh`: its command line, its words for what goes wrong, and several commands in one argument.
//!
//! The verbs are kiln's own. What is otherwise under this name: how words are read (`grammar`), an empty line after each
//! command, errors as `error: …`, exit status 0 or 1.

mod grammar;
mod text;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser};

use super::{Verb, dashes, later, manner, print};
use crate::failure::{Failure, Status};

/// What goes before a command.
#[derive(Debug, Default)]
struct Globals {
    quiet: bool,
}

/// A command's words, the verb first.
type Words = Vec<String>;

fn wrong(line: impl Into<String>) -> Failure {
    let line = line.into();
    Failure::new(Status::Usage, line.clone()).in_virsh(line)
}

/// Runs kiln under the name virsh.
pub(super) fn main(args: &[OsString]) -> ExitCode {
    match run(args) {
        Ok(code) => code,
        Err(failure) => {
            let _ = write!(std::io::stderr(), "{}", failure.told_by_virsh());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<ExitCode, Failure> {
    dashes::check(args)?;
    let words: Option<Words> = args.iter().map(|arg| arg.to_str().map(str::to_owned)).collect();
    let mut words = words.ok_or_else(|| wrong("an argument is no UTF-8"))?;
    words.remove(0);
    let Some(globals) = globals(&mut words)? else { return Ok(ExitCode::SUCCESS) };
    let commands = match words.as_slice() {
        [] => {
            return Err(wrong("not yet: virsh without a command, which asks for commands")
                .in_virsh("not yet: virsh without a command; give it one, e.g. virsh list --all"));
        }
        [one] => text::split(one)?,
        _ => vec![words],
    };
    // As virsh: nothing is done before every command is understood.
    let verbs = commands.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    if globals.quiet {
        manner::be_quiet();
    }
    let mut last = ExitCode::SUCCESS;
    for verb in verbs {
        last = verb.and_then(Verb::run).unwrap_or_else(|failure| {
            let _ = write!(std::io::stderr(), "{}", failure.told_by_virsh());
            ExitCode::FAILURE
        });
        if !globals.quiet {
            print("\n")?;
        }
    }
    Ok(last)
}

// Takes the options before the command; `None` when they were all that was asked.
fn globals(words: &mut Words) -> Result<Option<Globals>, Failure> {
    let mut globals = Globals::default();
    while let Some(first) = words.first().cloned().filter(|word| word.starts_with('-')) {
        words.remove(0);
        let (option, value) = match first.split_once('=') {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None if first.len() > 2 && !first.starts_with("--") && first.is_char_boundary(2) => {
                (first[..2].to_owned(), Some(first[2..].to_owned()))
            }
            None => (first.clone(), None),
        };
        let mut value = || match value.clone() {
            Some(value) => Ok(value),
            None if words.is_empty() => Err(wrong(format!("option '{option}' requires an argument"))),
            None => Ok(words.remove(0)),
        };
        match option.as_str() {
            "-c" | "--connect" => connect(&value()?)?,
            "-q" | "--quiet" => globals.quiet = true,
            "-v" | "-V" | "--version" => {
                print(concat!("kiln ", env!("CARGO_PKG_VERSION"), "\n"))?;
                return Ok(None);
            }
            "-h" | "--help" => {
                print(&help())?;
                return Ok(None);
            }
            "-r" | "--readonly" => return Err(wrong("not yet: --readonly")),
            "-d"
            | "--debug"
            | "-l"
            | "--log"
            | "-e"
            | "--escape"
            | "-k"
            | "--keepalive-interval"
            | "-K"
            | "--keepalive-count"
            | "-t"
            | "--timing" => return Err(wrong(format!("not yet: {option}"))),
            _ => return Err(wrong(format!("unsupported option '{first}'. See --help."))),
        }
    }
    Ok(Some(globals))
}

// Each user has one store, whose name is the session's, and root's is the system's.
fn connect(uri: &str) -> Result<(), Failure> {
    let is_root = rustix::process::geteuid().is_root();
    match uri {
        "qemu:///session" if !is_root => Ok(()),
        "qemu:///system" if is_root => Ok(()),
        "qemu:///system" => Err(wrong("failed to connect to the hypervisor: the system's machines are root's")
            .in_virsh("failed to connect to the hypervisor; the system's machines are root's: sudo virsh …")),
        "qemu:///session" => Err(wrong("not yet: root's session; root's machines are qemu:///system")),
        other => Err(wrong(format!(
            "failed to connect to the hypervisor {other}: kiln has qemu:///session and qemu:///system"
        ))),
    }
}

/// What virsh names first of two options that exclude each other.
const FIRST_OF_TWO: &[&str] = &["--current", "--table", "--nvram", "--tpm", "--guest"];

#[derive(Debug, Parser)]
#[command(name = "virsh", disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

fn help() -> String {
    let mut text =
        String::from("virsh [--connect URI] [--quiet] COMMAND [WORDS]\nvirsh 'COMMAND [WORDS]; COMMAND …'\n\n");
    for verb in Line::command().get_subcommands().filter(|verb| grammar::operands(verb.get_name()).is_some()) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("    {:<15}{about}\n", verb.get_name()));
    }
    text
}

// A command that virsh refuses only when its turn comes is an error inside.
fn parse(words: Words) -> Result<Result<Verb, Failure>, Failure> {
    let name = words.first().cloned().unwrap_or_default();
    let command = Line::command();
    let verb = command.find_subcommand(&name).zip(grammar::operands(&name));
    let (verb, operands) = verb.ok_or_else(|| match later::verb(&name) {
        Some(failure) => failure,
        None => wrong(format!("unknown command: '{name}'")),
    })?;
    let words = grammar::read(words, verb, operands)?;
    let line = Line::command().try_get_matches_from(&words).and_then(|matches| Line::from_arg_matches(&matches));
    Ok(line.map(|line| line.verb).map_err(|error| explain(&error)))
}

// What clap refuses of words that virsh would have taken so far.
fn explain(error: &clap::Error) -> Failure {
    let context = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(word)) => word.clone(),
        Some(ContextValue::Strings(words)) => words.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let option = |kind: ContextKind| {
        let text = context(kind);
        text.split([' ', '=']).next().unwrap_or_default().trim_matches(['<', '>', '.', '[', ']']).to_owned()
    };
    let given = option(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::ArgumentConflict => {
            let mut both = [given, option(ContextKind::PriorArg)];
            // virsh names this one first, however they are given.
            both.sort_by_key(|option| !FIRST_OF_TWO.contains(&option.as_str()));
            wrong(format!("Options {} and {} are mutually exclusive", both[0], both[1]))
        }
        ErrorKind::ValueValidation => {
            let (value, name) = (context(ContextKind::InvalidValue), given.trim_start_matches('-'));
            wrong(format!("Numeric value '{value}' for <{name}> option is malformed or out of range"))
        }
        _ => {
            let text = error.to_string();
            wrong(text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        let words = line.split(' ').map(str::to_owned).collect();
        parse(words).and_then(|late| late).unwrap_err().told_by_virsh()
    }

    #[test]
    fn what_is_wrong_is_told_in_virshs_words() {
        for (line, why) in [
            ("bogus", "unknown command: 'bogus'"),
            // kiln's own names are not virsh's.
            ("ls", "unknown command: 'ls'"),
            ("list --bogus", "command 'list' doesn't support option --bogus"),
            ("domid", "command 'domid' requires <domain> option"),
            ("domid web extra", "unexpected data 'extra'"),
            ("define", "command 'define' requires <file> option"),
            ("setmem web 1G --current --config", "Options --current and --config are mutually exclusive"),
            ("send-key web --holdtime x 1", "Numeric value 'x' for <holdtime> option is malformed or out of range"),
        ] {
            assert_eq!(refused(line), format!("error: {why}\n"), "{line}");
        }
    }
}
