//! `cargo xtask lab`: runs a command in the lab.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use kiln_lab::machine::{Died, Lab, Stream, write_file};
use kiln_lab::options::{Disk, Options};
use kiln_lab::protocol;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::setup;

/// Run a command in the lab: an emulated PC in which /dev/kvm is real kvm-amd
///
/// Output and exit status become this command's own; 124 when the time limit ended it, 125 when the lab itself died.
#[derive(Debug, Args)]
pub struct Run {
    /// Time counts instructions: repeatable, slower, one CPU
    #[arg(long)]
    icount: bool,
    /// Nested paging; only for one guest with one CPU at a time
    #[arg(long)]
    npt: bool,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    mem: u32,
    /// CPUs
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// A disk: a raw image, or the size of an empty one (e.g. 4G); /dev/vda and on
    #[arg(long, value_name = "IMAGE|SIZE")]
    disk: Vec<String>,
    /// A file or folder that comes along, programs with their libraries
    #[arg(long, value_name = "HERE[:THERE]")]
    file: Vec<String>,
    /// A TCP port on 127.0.0.1 here that leads to one inside
    #[arg(long, value_name = "HERE:THERE")]
    forward: Vec<String>,
    /// More kernel modules
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// A file to bring back when the command has ended
    #[arg(long, value_name = "THERE:HERE")]
    fetch: Vec<String>,
    /// Time limit in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// The command; a single word is a shell line
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Run {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(&["qemu-system-x86"])?;
        let options = self.options()?;
        let lab = Arc::new(Lab::start(&options)?);
        eprintln!("lab: {}, up after {:.1} s", options.describe(), lab.boot.as_secs_f64());
        end_on_signals(lab.clone())?;
        let argv = match &self.command[..] {
            [line] => vec!["sh".into(), "-c".into(), line.clone()],
            words => words.to_vec(),
        };
        let run = protocol::Run { argv, env: vec![], limit_ms: self.limit * 1000 };
        let outcome = lab.run(run, |stream, bytes| {
            // A reader that went away doesn't end the command.
            let _ = match stream {
                Stream::Out => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
                Stream::Err => std::io::stderr().write_all(bytes),
            };
        });
        let exit = match outcome {
            Err(error) if error.is::<Died>() => {
                eprintln!("lab: {error:#}");
                return Ok(ExitCode::from(125));
            }
            other => other?,
        };
        for pair in &self.fetch {
            let (there, here) = pair.split_once(':').context("--fetch takes THERE:HERE")?;
            write_file(Path::new(here), &lab.fetch(there)?)?;
        }
        Ok(match exit {
            protocol::Exit::Status(n) => ExitCode::from(n as u8),
            protocol::Exit::Signal(n) => ExitCode::from(128u8.wrapping_add(n as u8)),
            protocol::Exit::TimeLimit => {
                eprintln!("lab: not done after {} s", self.limit);
                ExitCode::from(124)
            }
        })
    }

    fn options(&self) -> Result<Options> {
        Ok(Options {
            cpus: self.cpus,
            memory_mib: self.mem,
            npt: self.npt,
            icount: self.icount,
            files: self.file.iter().map(|f| file(f)).collect::<Result<_>>()?,
            disks: self.disk.iter().map(|d| disk(d)).collect::<Result<_>>()?,
            forwards: self.forward.iter().map(|f| forward(f)).collect::<Result<_>>()?,
            modules: self.module.clone(),
        })
    }
}

// Ctrl-C reaches QEMU by itself; SIGTERM doesn't.
fn end_on_signals(lab: Arc<Lab>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            lab.kill();
            std::process::exit(130);
        }
    });
    Ok(())
}

fn file(text: &str) -> Result<(PathBuf, String)> {
    let (here, there) = match text.split_once(':') {
        Some((here, there)) => (here, there.to_owned()),
        None => (text, std::path::absolute(text)?.to_string_lossy().into_owned()),
    };
    if !Path::new(here).exists() {
        bail!("--file {here}: no such file");
    }
    Ok((here.into(), there))
}

fn disk(text: &str) -> Result<Disk> {
    if Path::new(text).exists() {
        return Ok(Disk::Image(text.into()));
    }
    let (number, shift) = match text.chars().last() {
        Some('K' | 'k') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().ok().with_context(|| format!("--disk {text}: neither a file nor a size"))?;
    Ok(Disk::Blank(number.checked_shl(shift).context("--disk: too big")?))
}

fn forward(text: &str) -> Result<(u16, u16)> {
    let (here, there) = text.split_once(':').context("--forward takes HERE:THERE")?;
    Ok((here.parse().context("--forward: port here")?, there.parse().context("--forward: port inside")?))
}
