//! Filling in templates of the user's own in a process that may take `SECONDS` and `MEMORY`, and no more: the
//! engine counts its own steps, but not what one step does to a list that is longer than the world.

use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};

use minijinja::Value;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{Rendered, engine};
use crate::failure::{Failure, Status};

/// The argument by which this program fills in the template that waits on its standard input.
pub const FILL_TEMPLATE: &str = "fill-template";

/// Processor time, in seconds.
const SECONDS: u64 = 3;
/// Address space, in bytes.
const MEMORY: u64 = 512 << 20;

#[derive(Serialize, Deserialize)]
struct Order {
    label: String,
    text: String,
    values: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Filled(Rendered),
    Failed { what: String, causes: Vec<String>, advice: Vec<String> },
}

/// As [`engine::render`], elsewhere.
pub(super) fn render(label: &str, text: &str, values: &Value) -> Result<Rendered, Failure> {
    let failed = || Failure::new(Status::Failed, format!("the template {label} can't be filled in"));
    let broken = |e: io::Error| failed().because(&e);
    let values = serde_json::to_value(values).map_err(|e| failed().because(&e))?;
    let order = serde_json::to_vec(&Order { label: label.into(), text: text.into(), values });
    let order = order.map_err(|e| failed().because(&e))?;
    let mut child = Command::new(std::env::current_exe().map_err(broken)?)
        .arg(FILL_TEMPLATE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(broken)?;
    // It reads everything before it writes anything. One that is gone already says so by its status.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(&order));
    let output = child.wait_with_output().map_err(broken)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Filled(rendered)) => Ok(rendered),
        Ok(Answer::Failed { what, causes, advice }) => {
            Err(Failure { status: Status::Failed, what, causes, advice, virsh: vec![] })
        }
        Err(_) => Err(failed()
            .why(format!("that takes more than {SECONDS} s, or more than {} MiB of memory", MEMORY >> 20))
            .why(format!("the process that tried it has ended: {}", output.status))
            .advise("Look at its loops, and at what it puts together.")),
    }
}

/// The other side: fills in what waits on standard input.
pub fn main() -> ExitCode {
    match fill() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fill() -> io::Result<()> {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Cpu, limit(SECONDS))?;
    setrlimit(Resource::As, limit(MEMORY))?;
    setrlimit(Resource::Core, limit(0))?;
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let order: Order = serde_json::from_slice(&bytes)?;
    let answer = match engine::render(&order.label, &order.text, &Value::from(minijinja::value::Serde(&order.values))) {
        Ok(rendered) => Answer::Filled(rendered),
        Err(Failure { what, causes, advice, .. }) => Answer::Failed { what, causes, advice },
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(&serde_json::to_vec(&answer)?)?;
    stdout.flush()
}
