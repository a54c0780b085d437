//! The name `virsh`: its command line, its words for what goes wrong, and several commands in one argument.
//!
//! The verbs are kiln's own. What is otherwise under this name: an empty line after each command, errors as
//! `error: …`, exit status 0 or 1, `--domain NAME` and its kin beside plain words.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser};

use super::{Verb, dashes, later, print};
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
        [one] => split(one)?,
        _ => vec![words],
    };
    // As virsh: nothing is done before every command is understood.
    let verbs = commands.into_iter().map(|words| parse(words, &globals)).collect::<Result<Vec<_>, _>>()?;
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

/// Splits a text into commands: words between blanks, quoted or escaped as in virsh, `;` or a new line between commands,
/// `#` before a comment (virsh(1), "DESCRIPTION" and "NOTES").
fn split(text: &str) -> Result<Vec<Words>, Failure> {
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

/// Options of virsh that stand for plain words, in the words' order.
const PLAIN: [&str; 9] =
    ["--domain", "--file", "--size", "--count", "--path", "--interface", "--state", "--codeset", "--keycode"];

// `--domain web` is `web`. A name that the verb has as an option of its own stays one.
fn without_names_of_operands(words: Words, verb: &clap::Command) -> Words {
    let own: Vec<&str> = verb.get_opts().filter_map(|option| option.get_long()).collect();
    let is_plain = |name: &str| PLAIN.contains(&name) && !own.contains(&name.trim_start_matches('-'));
    let mut all = Words::new();
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if is_plain(name) => all.push(value.into()),
            _ if is_plain(&word) => {}
            _ => all.push(word),
        }
    }
    all
}

/// Verbs that this name has: virsh's among kiln's.
const VERBS: &[&str] = &[
    "blockresize",
    "console",
    "create",
    "define",
    "destroy",
    "domblklist",
    "domid",
    "domif-getlink",
    "domif-setlink",
    "domifaddr",
    "domiflist",
    "domifstat",
    "dominfo",
    "domname",
    "domstate",
    "domuuid",
    "dumpxml",
    "edit",
    "list",
    "reboot",
    "reset",
    "resume",
    "screenshot",
    "send-key",
    "setmem",
    "setvcpus",
    "shutdown",
    "start",
    "suspend",
    "undefine",
    "vncdisplay",
];

#[derive(Debug, Parser)]
#[command(name = "virsh", disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    verb: Verb,
}

fn is_verb(name: &str) -> bool {
    VERBS.contains(&name)
}

fn help() -> String {
    let mut text =
        String::from("virsh [--connect URI] [--quiet] COMMAND [WORDS]\nvirsh 'COMMAND [WORDS]; COMMAND …'\n\n");
    for verb in Line::command().get_subcommands().filter(|verb| is_verb(verb.get_name())) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("    {:<15}{about}\n", verb.get_name()));
    }
    text
}

// A command that virsh refuses only when its turn comes is an error inside.
fn parse(words: Words, globals: &Globals) -> Result<Result<Verb, Failure>, Failure> {
    let name = words.first().cloned().unwrap_or_default();
    let command = Line::command();
    let verb = command.find_subcommand(&name).filter(|_| is_verb(&name)).ok_or_else(|| match later::verb(&name) {
        Some(failure) => failure,
        None => wrong(format!("unknown command: '{name}'")),
    })?;
    let mut words = without_names_of_operands(words, verb);
    if name == "list" && globals.quiet {
        words.push("--bare".into());
    }
    words.insert(0, "virsh".into());
    let line = Line::command().try_get_matches_from(&words).and_then(|matches| Line::from_arg_matches(&matches));
    match line {
        Ok(line) => Ok(Ok(line.verb)),
        Err(error) if error.kind() == ErrorKind::ArgumentConflict => Ok(Err(explain(&name, &error))),
        Err(error) => Err(explain(&name, &error)),
    }
}

// clap's refusals in virsh's words.
fn explain(verb: &str, error: &clap::Error) -> Failure {
    let context = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(word)) => word.clone(),
        Some(ContextValue::Strings(words)) => words.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let given = context(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if given.starts_with('-') => {
            wrong(format!("command '{verb}' doesn't support option {given}"))
        }
        ErrorKind::UnknownArgument => wrong(format!("unexpected data '{given}'")),
        ErrorKind::MissingRequiredArgument => {
            let operand = given.trim_matches(['<', '>', '.', '[', ']']).to_lowercase();
            let operand = if operand == "name" || operand == "id" { "domain".to_owned() } else { operand };
            wrong(format!("command '{verb}' requires <{operand}> option"))
        }
        ErrorKind::ArgumentConflict => {
            let option = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
            let mut both = [option(given), option(context(ContextKind::PriorArg))];
            // virsh names this one first, however they are given.
            both.sort_by_key(|option| !matches!(option.as_str(), "--current" | "--table" | "--nvram"));
            wrong(format!("Options {} and {} are mutually exclusive", both[0], both[1]))
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

    fn refused(words: &[&str]) -> String {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        parse(words, &Globals::default()).and_then(|late| late).unwrap_err().told_by_virsh()
    }

    #[test]
    fn what_is_wrong_is_told_in_virshs_words() {
        assert_eq!(refused(&["bogus"]), "error: unknown command: 'bogus'\n");
        assert_eq!(refused(&["ls"]), "error: unknown command: 'ls'\n", "kiln's own names are not virsh's");
        assert_eq!(refused(&["list", "--bogus"]), "error: command 'list' doesn't support option --bogus\n");
        assert_eq!(refused(&["domid"]), "error: command 'domid' requires <domain> option\n");
        assert_eq!(refused(&["domid", "web", "extra"]), "error: unexpected data 'extra'\n");
        assert_eq!(refused(&["define"]), "error: command 'define' requires <file> option\n");
        assert_eq!(
            refused(&["setmem", "web", "1G", "--current", "--config"]),
            "error: Options --current and --config are mutually exclusive\n"
        );
    }

    #[test]
    fn operands_may_have_their_names() {
        let words = ["setmem", "--domain", "web", "--size=1G", "--config"].map(str::to_owned).to_vec();
        let verb = parse(words, &Globals::default()).unwrap().unwrap();
        assert!(matches!(verb, Verb::SetMem(_)));
        let words = ["domifaddr", "--domain", "web", "--interface", "vnet0"].map(str::to_owned).to_vec();
        assert!(
            matches!(parse(words, &Globals::default()).unwrap().unwrap(), Verb::Domifaddr(_)),
            "its own option stays"
        );
    }
}
