//! The `kiln` program: parse, run, print what went wrong, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    kiln::cli::main(std::env::args_os())
}
