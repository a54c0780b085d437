//! Verbs that start, stop and reset machines.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::machine::{One, done, join};
use crate::failure::{Failure, Status};
use crate::machine::known::forget_gone;
use crate::machine::{Known, Store, definition, running};
use crate::runner::blueprint::Blueprint;
use crate::runner::start::{self, Begin, Record};

/// How a machine begins.
#[derive(Debug, Clone, Copy, Args)]
struct Beginning {
    /// Join this terminal to its serial port; Ctrl-] leaves
    #[arg(long)]
    console: bool,
    /// Don't let the guest run until it is resumed
    #[arg(long)]
    paused: bool,
}

/// Start a machine that is defined
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    beginning: Beginning,
}

/// Start a machine from domain XML without keeping its definition: it is gone when it stops
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The XML
    file: PathBuf,
    #[command(flatten)]
    beginning: Beginning,
}

/// How a guest is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Acpi,
    Agent,
    Initctl,
    Signal,
    Paravirt,
}

/// Press a machine's power button: its guest shuts down, if it listens
#[derive(Debug, Args)]
pub(super) struct Shutdown {
    #[command(flatten)]
    one: One,
    /// Wait so many seconds for its end; exit status 5 if it still runs then
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// How the guest is asked: acpi is what there is
    #[arg(long, value_enum, default_value = "acpi")]
    mode: Mode,
}

/// Press a machine's power button, and start it again when it has powered off
#[derive(Debug, Args)]
pub(super) struct Reboot {
    #[command(flatten)]
    one: One,
    /// How the guest is asked: acpi is what there is
    #[arg(long, value_enum, default_value = "acpi")]
    mode: Mode,
}

/// Stop a machine at once, as pulling the plug does
#[derive(Debug, Args)]
pub(super) struct Destroy {
    #[command(flatten)]
    one: One,
    /// Don't end its process by force if it doesn't answer
    #[arg(long)]
    graceful: bool,
}

impl Mode {
    fn check(self) -> Result<(), Failure> {
        match self {
            Mode::Acpi => Ok(()),
            Mode::Agent => {
                Err(Failure::new(Status::Usage, "not yet: --mode agent").why("kiln talks to no agent in guests so far"))
            }
            Mode::Initctl | Mode::Signal | Mode::Paravirt => {
                Err(Failure::new(Status::Usage, "--mode is acpi: the others are for containers and Xen"))
            }
        }
    }
}

impl Beginning {
    fn begin(self) -> Begin {
        if self.paused { Begin::Paused } else { Begin::Running }
    }

    // Tells of a machine that has begun.
    fn tell(self, known: &Known, record: &Record, blueprint: &Blueprint) {
        blueprint.warnings.iter().for_each(|warning| eprintln!("note: {warning}"));
        if let Some((address, port)) = &record.vnc {
            eprintln!("screen: VNC at {address}:{port} (kiln view {})", known.name);
        }
        if let Some(url) = record.websocket_url() {
            eprintln!("browser: a page with noVNC, told {url}");
        }
    }

    fn end(self, known: &Known, text: &str) -> Result<ExitCode, Failure> {
        let code = done(text)?;
        if self.console { join(known) } else { Ok(code) }
    }
}

impl Start {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        // One that runs and isn't kept is refused by the start itself, as every machine that runs.
        let definition = if known.is_persistent() { known.definition() } else { known.document() }?;
        let started = start::start(known.store.folders(), &definition, self.beginning.begin());
        let (record, blueprint) = started.map_err(|failure| match failure.virsh.is_empty() {
            true => failure.headed_in_virsh(format!("Failed to start domain '{}'", known.name)),
            false => failure,
        })?;
        self.beginning.tell(&known, &record, &blueprint);
        self.beginning.end(&known, &format!("Domain '{}' started\n", known.name))
    }
}

impl Create {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let text = definition::read(&self.file)?;
        let known = self.start(&text).map_err(|failure| {
            failure.headed_in_virsh(format!("Failed to create domain from {}", self.file.display()))
        })?;
        self.beginning.end(&known, &format!("Domain '{}' created from {}\n", known.name, self.file.display()))
    }

    fn start(&self, text: &str) -> Result<Known, Failure> {
        let store = Store::here()?;
        // Held until the machine runs: nobody defines or creates one of its name meanwhile.
        let changing = store.change()?;
        forget_gone(&changing);
        let prepared = definition::prepare(&store, text)?;
        definition::check_identity(&store, &prepared)?;
        let known = Known { store: store.clone(), name: prepared.name.clone() };
        if known.is_persistent() {
            return Err(Failure::new(Status::Conflict, format!("the machine {:?} is defined", known.name))
                .why("create starts machines that are not kept")
                .advise(format!("kiln start {0}; or kiln define, then kiln start {0}.", known.name)));
        }
        let started = start::start(store.folders(), &prepared.domain, self.beginning.begin());
        drop(changing);
        if started.is_err() && !known.runs() {
            known.forget_if_gone();
        }
        let (record, blueprint) = started?;
        self.beginning.tell(&known, &record, &blueprint);
        Ok(known)
    }
}

impl Shutdown {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        self.mode.check()?;
        let limit = self.timeout.map(limit).transpose()?;
        let known = self.one.known()?;
        let asked = known.running().and_then(|running| running.command("system_powerdown", None).map(|_| running));
        let running =
            asked.map_err(|failure| failure.headed_in_virsh(format!("Failed to shutdown domain '{}'", known.name)))?;
        let code = done(&format!("Domain '{}' is being shutdown\n", known.name))?;
        let Some(limit) = limit else { return Ok(code) };
        if running.wait(Some(limit)) {
            known.forget_if_gone();
            return Ok(code);
        }
        let seconds = limit.as_secs_f64();
        let failure = Failure::new(Status::Timeout, format!("{:?} still runs after {seconds} s", known.name));
        if running.status()?.is_some_and(|status| status != "running") {
            return Err(failure.why("it is paused").advise(format!("kiln resume {} lets it go on.", known.name)));
        }
        Err(failure
            .why("its guest did not follow the power button in that time")
            .advise("In the guest systemd does that by itself; where there is none, acpid does:")
            .advise("  apt install acpid, dnf install acpid, or apk add acpid, and start its service")
            .advise(format!("The last resort, as pulling the plug: kiln destroy {}", known.name)))
    }
}

// Longer than this is for ever.
const CENTURY: f64 = 100.0 * 365.0 * 86_400.0;

fn limit(seconds: f64) -> Result<Duration, Failure> {
    if seconds >= 0.0 {
        return Ok(Duration::from_secs_f64(seconds.min(CENTURY)));
    }
    Err(Failure::new(Status::Usage, format!("--timeout {seconds}: a number of seconds is expected")))
}

impl Reboot {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        self.mode.check()?;
        let known = self.one.known()?;
        let asked = known.running().and_then(|running| running.command("kiln-reboot", None));
        asked.map_err(|failure| failure.headed_in_virsh(format!("Failed to reboot domain '{}'", known.name)))?;
        done(&format!("Domain '{}' is being rebooted\n", known.name))
    }
}

impl Destroy {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        let destroyed = known.running().and_then(|running| running.destroy(!self.graceful));
        destroyed.map_err(|failure| failure.headed_in_virsh(format!("Failed to destroy domain '{}'", known.name)))?;
        known.forget_if_gone();
        done(&format!("Domain '{}' destroyed\n", known.name))
    }
}

pub(super) fn reset(one: &One) -> Result<ExitCode, Failure> {
    let known = one.known()?;
    let asked = known.running().and_then(|running| running.command("system_reset", None));
    asked.map_err(|failure| failure.headed_in_virsh(format!("Failed to reset domain '{}'", known.name)))?;
    done(&format!("Domain '{}' was reset\n", known.name))
}

pub(super) fn suspend(one: &One) -> Result<ExitCode, Failure> {
    let known = one.known()?;
    let pause = || {
        let running = known.running()?;
        if running.status()?.ok_or_else(|| running::not_running(&known.name))? != "running" {
            return Err(Failure::new(Status::Conflict, format!("{:?} is paused already", known.name))
                .advise(format!("kiln domstate --reason {0} tells why; kiln resume {0} lets it go on.", known.name))
                .in_virsh("Requested operation is not valid: domain is already paused"));
        }
        running.command("stop", None)
    };
    pause().map_err(|failure| failure.headed_in_virsh(format!("Failed to suspend domain '{}'", known.name)))?;
    done(&format!("Domain '{}' suspended\n", known.name))
}

pub(super) fn resume(one: &One) -> Result<ExitCode, Failure> {
    let known = one.known()?;
    let go_on = || {
        let running = known.running()?;
        if running.status()?.ok_or_else(|| running::not_running(&known.name))? == "running" {
            return Err(Failure::new(Status::Conflict, format!("{:?} is not paused", known.name))
                .in_virsh("Requested operation is not valid: domain is already running"));
        }
        running.command("cont", None)
    };
    go_on().map_err(|failure| failure.headed_in_virsh(format!("Failed to resume domain '{}'", known.name)))?;
    done(&format!("Domain '{}' resumed\n", known.name))
}
