//! `cargo xtask meter`, run inside the lab by `bench`: starts a monitor and tells when its guest says a word, how often
//! the guest left KVM by then, and how much memory the monitor takes beside the guest's.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

/// Meter a monitor's boot (for `bench`)
#[derive(Debug, Args)]
pub struct Meter {
    /// Text that the guest writes when it has booted
    #[arg(long)]
    until: String,
    /// Guest memory in MiB, to tell it from the monitor's own
    #[arg(long)]
    ram: u64,
    /// The monitor is the process in whose command line this stands, not the command itself
    #[arg(long)]
    process: Option<String>,
    /// The command; the guest's console is its standard output
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Meter {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let begun = Instant::now();
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.command[0]))?;
        let found = self.follow(&mut child);
        let seconds = begun.elapsed().as_secs_f64();
        let report = found.and_then(|()| {
            let exits = fs::read_to_string("/sys/kernel/debug/kvm/exits")?;
            let own = own_kib(self.monitor(&child)?, self.ram << 10)?;
            println!("{seconds:.4} {} {own}", exits.trim());
            Ok(())
        });
        let _ = child.kill();
        let _ = child.wait();
        report.map(|()| ExitCode::SUCCESS)
    }

    fn follow(&self, child: &mut Child) -> Result<()> {
        let mut out = child.stdout.take().context("no output")?;
        let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let n = out.read(&mut chunk)?;
            if n == 0 {
                bail!("the guest ended before it said {:?}:\n{}", self.until, String::from_utf8_lossy(&all));
            }
            all.extend_from_slice(&chunk[..n]);
            if all.windows(self.until.len()).any(|w| w == self.until.as_bytes()) {
                return Ok(());
            }
        }
    }

    fn monitor(&self, child: &Child) -> Result<u32> {
        let Some(words) = &self.process else { return Ok(child.id()) };
        for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
            let pid = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok());
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if let Some(pid) = pid
                && pid != std::process::id()
                && line.contains(words.as_str())
                && !line.contains("meter")
            {
                return Ok(pid);
            }
        }
        bail!("no process with {words:?} in its command line")
    }
}

/// Resident memory without that of the guest: a mapping as large as its RAM, give or take.
fn own_kib(pid: u32, ram_kib: u64) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("reading the monitor's memory map")?;
    let number = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let (mut own, mut size) = (0, 0);
    for line in text.lines() {
        if line.starts_with("Size:") {
            size = number(line);
        } else if line.starts_with("Rss:") && !(ram_kib / 2..=ram_kib * 2).contains(&size) {
            own += number(line);
        }
    }
    Ok(own)
}
