//! The words that the user types. One file per verb.

mod doctor;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::{Failure, Status};

/// Creates virtual machines with one command and runs them on its own KVM monitor.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 100, disable_help_subcommand = true)]
struct Words {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Doctor(doctor::Doctor),
}

/// Runs kiln with the given arguments, the first being its own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = match Words::command().try_get_matches_from(args).and_then(|m| Words::from_arg_matches(&m)) {
        Ok(words) => words,
        Err(error) => {
            // clap's own: help and version go to stdout with 0, usage errors to stderr with 2.
            let _ = error.print();
            return if error.use_stderr() { Status::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match words.verb {
        Verb::Doctor(doctor) => doctor.run(),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            let _ = write!(std::io::stderr(), "{failure}");
            failure.status.into()
        }
    }
}

/// Writes data to standard output. A reader that went away is no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
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
