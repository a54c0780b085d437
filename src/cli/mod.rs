//! The words that the user types. One file per verb or group of verbs.

mod cards;
mod clone;
pub(crate) mod dashes;
mod define;
mod doctor;
mod hands;
mod install;
mod later;
mod limits;
mod link;
mod list;
mod machine;
mod manner;
mod network;
mod power;
pub(crate) mod size;
mod suboptions;
mod table;
mod tell;
mod template;
mod undefine;
mod virsh;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::disk::{self, Dialect};
use crate::failure::{Failure, Status};
use crate::plan::template::confined::{self, FILL_TEMPLATE};
use crate::runner::{self, start::RUN_MACHINE};

/// Creates virtual machines with one command and runs them on its own KVM monitor.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 100, disable_help_subcommand = true, after_help = FIRST_STEPS)]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

const FIRST_STEPS: &str = "\
First steps:
  kiln doctor                    can this host run machines?
  kiln install --help            how to make one
  kiln list --all                those there are
  kiln VERB --help               a verb's options";

#[derive(Debug, Subcommand)]
enum Verb {
    Install(Box<install::Install>),
    Clone(clone::Clone),
    #[command(visible_alias = "ls")]
    List(list::List),
    Define(define::Define),
    Edit(define::Edit),
    Start(power::Start),
    Create(power::Create),
    /// Stop a machine where it is: it goes on when it is resumed
    Suspend(machine::One),
    /// Let a paused machine go on; what its disks could not do is tried again
    Resume(machine::One),
    SendKey(hands::SendKey),
    #[command(name = "blockresize")]
    BlockResize(hands::BlockResize),
    #[command(name = "setmem")]
    SetMem(limits::SetMem),
    #[command(name = "setvcpus")]
    SetVcpus(limits::SetVcpus),
    Shutdown(power::Shutdown),
    Reboot(power::Reboot),
    #[command(visible_aliases = ["stop", "kill"])]
    Destroy(power::Destroy),
    /// Reset a machine, as its button does
    Reset(machine::One),
    #[command(visible_alias = "rm")]
    Undefine(undefine::Undefine),
    /// Tell about a machine
    Dominfo(machine::OneData),
    Domstate(tell::State),
    /// Print a running machine's number
    Domid(machine::OneData),
    Domname(tell::Name),
    /// Print a machine's uuid
    Domuuid(machine::OneData),
    Dumpxml(tell::Dump),
    Domblklist(tell::Disks),
    /// Print where a machine's screen is
    Vncdisplay(machine::OneData),
    Domiflist(cards::List),
    Domifstat(cards::Statistics),
    Domifaddr(cards::Addresses),
    #[command(name = "domif-getlink")]
    DomifGetlink(cards::GetLink),
    #[command(name = "domif-setlink")]
    DomifSetlink(cards::SetLink),
    Screenshot(machine::Screenshot),
    /// Join this terminal to a machine's serial port; Ctrl-] leaves
    Console(machine::One),
    /// Show a machine's screen in an installed viewer
    View(machine::One),
    /// Templates of domain XML: list, show, check
    #[command(subcommand)]
    Template(template::Template),
    Doctor(doctor::Doctor),
    /// Make, copy, check and change disks, as qemu-img does: kiln disk --help
    #[command(disable_help_flag = true)]
    Disk(DiskWords),
    Link(link::Link),
}

/// What comes after `disk`, which has a reader of its own.
#[derive(Debug, Args)]
struct DiskWords {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
    words: Vec<OsString>,
}

impl Verb {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Verb::Install(install) => install.run(),
            Verb::Clone(clone) => clone.run(),
            Verb::List(list) => list.run(),
            Verb::Define(define) => define.run(),
            Verb::Edit(edit) => edit.run(),
            Verb::Start(start) => start.run(),
            Verb::Create(create) => create.run(),
            Verb::Suspend(one) => power::suspend(&one),
            Verb::Resume(one) => power::resume(&one),
            Verb::SendKey(keys) => keys.run(),
            Verb::BlockResize(resize) => resize.run(),
            Verb::SetMem(setmem) => setmem.run(),
            Verb::SetVcpus(setvcpus) => setvcpus.run(),
            Verb::Shutdown(shutdown) => shutdown.run(),
            Verb::Reboot(reboot) => reboot.run(),
            Verb::Destroy(destroy) => destroy.run(),
            Verb::Reset(one) => power::reset(&one),
            Verb::Undefine(undefine) => undefine.run(),
            Verb::Dominfo(one) => tell::dominfo(&one),
            Verb::Domstate(state) => state.run(),
            Verb::Domid(one) => tell::domid(&one),
            Verb::Domname(name) => name.run(),
            Verb::Domuuid(one) => tell::domuuid(&one),
            Verb::Dumpxml(dump) => dump.run(),
            Verb::Domblklist(disks) => disks.run(),
            Verb::Vncdisplay(one) => machine::vncdisplay(&one),
            Verb::Domiflist(list) => list.run(),
            Verb::Domifstat(statistics) => statistics.run(),
            Verb::Domifaddr(addresses) => addresses.run(),
            Verb::DomifGetlink(link) => link.run(),
            Verb::DomifSetlink(link) => link.run(),
            Verb::Screenshot(screenshot) => screenshot.run(),
            Verb::Console(one) => machine::console(&one),
            Verb::View(one) => machine::view(&one),
            Verb::Template(template) => template.run(),
            Verb::Doctor(doctor) => doctor.run(),
            Verb::Disk(disk) => Ok(disk::main(Dialect::Kiln, &disk.words)),
            Verb::Link(link) => link.run(),
        }
    }
}

/// Runs kiln with the given arguments, the first being its own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|arg| arg == RUN_MACHINE) && args.len() == 2 {
        return runner::main();
    }
    if args.get(1).is_some_and(|arg| arg == FILL_TEMPLATE) && args.len() == 2 {
        return confined::main();
    }
    let name = args.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "qemu-img") {
        return disk::main(Dialect::QemuImg, &args[1..]);
    }
    if name.is_some_and(|name| name == "virsh") {
        return virsh::main(&args);
    }
    if args.get(1).is_some_and(|verb| verb == "disk") {
        return disk::main(Dialect::Kiln, &args[2..]);
    }
    match parse(&args).and_then(|words| words.map_or_else(Ok, |words| words.verb.run())) {
        Ok(code) => code,
        Err(failure) => {
            let _ = write!(std::io::stderr(), "{failure}");
            failure.status.into()
        }
    }
}

// `Err(code)` inside: clap has answered by itself.
fn parse(args: &[OsString]) -> Result<Result<Words, ExitCode>, Failure> {
    dashes::check(args)?;
    match Words::command().try_get_matches_from(args).and_then(|m| Words::from_arg_matches(&m)) {
        Ok(words) => Ok(Ok(words)),
        Err(error) => {
            if error.kind() == ErrorKind::UnknownArgument
                && let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg)
                && let Some(failure) = later::option(option)
            {
                return Err(failure);
            }
            if error.kind() == ErrorKind::InvalidSubcommand
                && let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
                && let Some(failure) = later::verb(verb)
            {
                return Err(failure);
            }
            // clap's own: help and version go to stdout with 0, usage errors to stderr with 2.
            let _ = error.print();
            Ok(Err(if error.use_stderr() { Status::Usage.into() } else { ExitCode::SUCCESS }))
        }
    }
}

/// The known word that is at most two edits away.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a &'a str>) -> Option<&'a str> {
    known.map(|k| (crate::machine::store::distance(k, word), *k)).filter(|(d, _)| *d <= 2).min().map(|(_, k)| k)
}

/// What to say of a word that is none of the known ones.
pub(crate) fn suggest(failure: Failure, word: &str, known: &[&str]) -> Failure {
    match nearest(word, known.iter()) {
        Some(near) => failure.advise(format!("Did you mean {near}?")),
        None => failure,
    }
}

/// Writes data to standard output. A reader that went away is no failure of ours.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Status::Failed, "writing to standard output failed").because(&e))
        }
        _ => Ok(()),
    }
}

/// Prints `data` as JSON.
fn print_json(data: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(data)
        .map_err(|e| Failure::new(Status::Failed, "this can't be written as JSON").because(&e))?;
    print(&format!("{text}\n"))
}
