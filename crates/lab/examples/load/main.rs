//! What a guest does while `cargo xtask bench net` and `bench disk` measure, and the server that it talks to.
//!
//! The work is cut into stages. Each is named on standard output and begins with the next line of standard input, so that
//! whoever measures has looked at the clocks before it begins; `DONE COUNT` ends it.

mod disk;
mod host;
mod net;

use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", address] => host::serve(address),
        ["net", address, seconds] => duration(seconds).and_then(|time| net::run(address, time)),
        ["disk", device, seconds] => duration(seconds).and_then(|time| disk::run(device, time)),
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "load serve ADDRESS | net ADDRESS SECONDS | disk DEVICE SECONDS",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

fn duration(seconds: &str) -> io::Result<Duration> {
    let seconds = seconds.parse().map_err(|e| io::Error::new(ErrorKind::InvalidInput, e))?;
    Ok(Duration::from_secs(seconds))
}

/// Names a stage, waits until it may begin, does it, and tells what it came to: bytes, connections or requests.
fn stage(name: &str, work: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
    println!("STAGE {name}");
    io::stdin().read_line(&mut String::new())?;
    println!("DONE {}", work()?);
    Ok(())
}
