//! `cargo xtask stages`, run inside the lab by `bench net` and `bench disk`: starts a guest whose program is
//! `crates/lab/examples/load`, lets it begin each stage, and tells what its monitor took for it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Let a guest go through its stages and tell what each took (for `bench`)
#[derive(Debug, Args)]
pub struct Stages {
    /// The monitor is the process with this argument, not the command itself
    #[arg(long)]
    process: Option<String>,
    /// The last stage
    #[arg(long)]
    last: String,
    /// The command; its standard input and output are the guest's console
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What had been taken at one moment.
struct Mark {
    at: Instant,
    exits: f64,
    /// Seconds of processor without those in which the guest ran.
    own: f64,
}

impl Stages {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.command[0]))?;
        let outcome = self.follow(&mut child);
        let _ = child.kill();
        let _ = child.wait();
        outcome.map(|()| ExitCode::SUCCESS)
    }

    // A line for each stage: its name, a tab, seconds, exits, own seconds of processor, what the guest counted.
    fn follow(&self, child: &mut Child) -> Result<()> {
        let mut to = child.stdin.take().context("no input")?;
        let from = BufReader::new(child.stdout.take().context("no output")?);
        let (mut all, mut begun) = (String::new(), None);
        for line in from.split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim().to_owned();
            all.push_str(&format!("{line}\n"));
            if let Some(name) = line.strip_prefix("STAGE ") {
                begun = Some((name.to_owned(), self.mark(child)?));
                to.write_all(b"\n")?;
            } else if let Some(count) = line.strip_prefix("DONE ") {
                let end = self.mark(child)?;
                let (name, begin) = begun.take().context("a stage ended that had not begun")?;
                let seconds = (end.at - begin.at).as_secs_f64();
                println!("{name}\t{seconds} {} {} {count}", end.exits - begin.exits, end.own - begin.own);
                if name == self.last {
                    return Ok(());
                }
            } else if line.starts_with("FAILED") {
                break;
            }
        }
        bail!("the guest didn't come to the end of {:?}:\n{all}", self.last)
    }

    fn mark(&self, child: &Child) -> Result<Mark> {
        let pid = match &self.process {
            Some(word) => process_with(word)?,
            None => child.id(),
        };
        let exits = fs::read_to_string("/sys/kernel/debug/kvm/exits")?.trim().parse()?;
        Ok(Mark { at: Instant::now(), exits, own: own_seconds(pid)? })
    }
}

fn process_with(word: &str) -> Result<u32> {
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if pid != std::process::id() && line.split(|b| *b == 0).any(|argument| argument == word.as_bytes()) {
            return Ok(pid);
        }
    }
    bail!("no process has the argument {word:?}")
}

// All threads that are or were, but for the guest's time, which the kernel counts by its ticks (proc(5), guest_time).
fn own_seconds(pid: u32) -> Result<f64> {
    let spent = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32))?.now()?;
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may have blanks; what follows it begins with the third field.
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let guest: f64 = fields.split(' ').nth(43 - 3).context("no guest_time in the monitor's stat")?.parse()?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")? as f64;
    Ok(spent.tv_sec() as f64 + spent.tv_nsec() as f64 / 1e9 - guest / ticks)
}
