//! Verbs that start, stop and reset machines.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::machine::{One, join};
use super::manner::{mentioned, said};
use crate::failure::{Failure, Status};
use crate::machine::known::forget_gone;
use crate::machine::{Known, Store, definition, running, validate};
use crate::runner::blueprint::Blueprint;
use crate::runner::start::{self, Begin, Record};

/// How a machine begins.
#[derive(Debug, Args)]
struct Beginning {
    /// Join this terminal to its serial port; Ctrl-] leaves
    #[arg(long)]
    console: bool,
    /// Don't let the guest run until it is resumed
    #[arg(long)]
    paused: bool,
    /// End it when the manager goes: refused, for there is none
    #[arg(long, hide = true)]
    autodestroy: bool,
    /// Give its init open files: refused, for containers have one
    #[arg(long, hide = true, value_name = "N,M")]
    pass_fds: Option<String>,
    /// Make its firmware's variables anew: there are none
    #[arg(long, hide = true)]
    reset_nvram: bool,
}

/// Start a machine that is defined
#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    beginning: Beginning,
    /// Read saved state past the page cache: there is none
    #[arg(long, hide = true)]
    bypass_cache: bool,
    /// Throw saved state away: there is none
    #[arg(long, hide = true)]
    force_boot: bool,
}

/// Start a machine from domain XML without keeping its definition: it is gone when it stops
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The XML
    file: PathBuf,
    /// Refuse elements that libvirt's format does not have
    #[arg(long)]
    validate: bool,
    #[command(flatten)]
    beginning: Beginning,
}

/// How a guest is asked to stop.
#[derive(Debug, Args)]
struct Asking {
    /// How the guest is asked, several with commas between them: acpi is what there is
    #[arg(long, value_name = "MODES", default_value = "acpi")]
    mode: String,
}

/// What virsh has, whatever the hypervisor.
const MODES: [&str; 5] = ["acpi", "agent", "initctl", "signal", "paravirt"];

/// Press a machine's power button: its guest shuts down, if it listens
#[derive(Debug, Args)]
pub(super) struct Shutdown {
    #[command(flatten)]
    one: One,
    /// Wait so many seconds for its end; exit status 5 if it still runs then
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    #[command(flatten)]
    asking: Asking,
}

/// Press a machine's power button, and start it again when it has powered off
#[derive(Debug, Args)]
pub(super) struct Reboot {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    asking: Asking,
}

/// Stop a machine at once, as pulling the plug does
#[derive(Debug, Args)]
pub(super) struct Destroy {
    #[command(flatten)]
    one: One,
    /// Don't end its process by force if it doesn't answer
    #[arg(long)]
    graceful: bool,
    /// Remove what its process logged, too
    #[arg(long)]
    remove_logs: bool,
}

impl Asking {
    // Are all of its words modes? `last` stands before the last one where virsh lists them.
    fn words(&self, last: &str) -> Result<Vec<&str>, Failure> {
        let words: Vec<&str> = self.mode.split(',').collect();
        match words.iter().find(|word| !MODES.contains(word)) {
            None => Ok(words),
            Some(word) => Err(Failure::new(Status::Usage, format!("--mode {word}: acpi is expected")).in_virsh(
                format!("Unknown mode {word} value, expecting 'acpi', 'agent', 'initctl', 'signal'{last} 'paravirt'"),
            )),
        }
    }

    // Where the agent is asked first and the button next, the button is what is left.
    fn check(words: &[&str]) -> Result<(), Failure> {
        if let Some(other) = words.iter().find(|word| !matches!(**word, "acpi" | "agent")) {
            return Err(Failure::new(Status::Usage, format!("--mode {other} is not kiln's"))
                .why("initctl and signal are for containers, paravirt is Xen's")
                .advise("acpi presses the power button."));
        }
        if words.contains(&"acpi") {
            return Ok(());
        }
        Err(Failure::new(Status::Usage, "not yet: --mode agent")
            .why("kiln talks to no agent in guests so far")
            .advise("--mode acpi presses the power button."))
    }
}

impl Beginning {
    fn check(&self) -> Result<(), Failure> {
        if self.autodestroy {
            return Err(Failure::new(Status::Usage, "--autodestroy can't be done")
                .why("kiln's machines hang on no connection: this command ends at once, and the machine would with it")
                .advise("kiln destroy NAME ends it when you are done."));
        }
        match &self.pass_fds {
            Some(_) => Err(Failure::new(Status::Usage, "--pass-fds can't be done")
                .why("files are for a container's init; a virtual machine has nobody to give them to")),
            None => Ok(()),
        }
    }

    fn begin(&self) -> Begin {
        if self.paused { Begin::Paused } else { Begin::Running }
    }

    // Tells of a machine that has begun.
    fn tell(&self, known: &Known, record: &Record, blueprint: &Blueprint) {
        blueprint.warnings.iter().for_each(|warning| eprintln!("note: {warning}"));
        if let Some((address, port)) = &record.vnc {
            mentioned(&format!("screen: VNC at {address}:{port} (kiln view {})", known.name));
        }
        if let Some(url) = record.websocket_url() {
            mentioned(&format!("browser: a page with noVNC, told {url}"));
        }
    }

    fn end(&self, known: &Known, text: &str) -> Result<ExitCode, Failure> {
        let code = said(text)?;
        if self.console { join(known) } else { Ok(code) }
    }
}

fn failed_to_start(failure: Failure, known: &Known) -> Failure {
    failure.headed_in_virsh(format!("Failed to start domain '{}'", known.name))
}

impl Start {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        if !known.runs() {
            self.beginning.check().map_err(|failure| failed_to_start(failure, &known))?;
        }
        // One that runs and isn't kept is refused by the start itself, as every machine that runs.
        let definition = if known.is_persistent() { known.definition() } else { known.document() }?;
        let started = start::start(known.store.folders(), &definition, self.beginning.begin());
        let (record, blueprint) = started.map_err(|failure| match failure.virsh.is_empty() {
            true => failed_to_start(failure, &known),
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
        self.beginning.check()?;
        let store = Store::here()?;
        // Held until the machine runs: nobody defines or creates one of its name meanwhile.
        let changing = store.change()?;
        forget_gone(&changing);
        let prepared = definition::prepare(&store, text)?;
        if self.validate {
            validate::check(&prepared.domain)?;
        }
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
        let modes = self.asking.words(", or")?;
        let limit = self.timeout.map(limit).transpose()?;
        let known = self.one.known()?;
        let ask = || {
            Asking::check(&modes)?;
            let running = known.running()?;
            running.command("system_powerdown", None)?;
            Ok(running)
        };
        let asked: Result<_, Failure> = ask();
        let running =
            asked.map_err(|failure| failure.headed_in_virsh(format!("Failed to shutdown domain '{}'", known.name)))?;
        let code = said(&format!("Domain '{}' is being shutdown\n", known.name))?;
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
        let modes = self.asking.words(" or")?;
        let known = self.one.known()?;
        let asked = Asking::check(&modes).and_then(|()| known.running()?.command("kiln-reboot", None));
        asked.map_err(|failure| failure.headed_in_virsh(format!("Failed to reboot domain '{}'", known.name)))?;
        said(&format!("Domain '{}' is being rebooted\n", known.name))
    }
}

impl Destroy {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        let destroyed = known.running().and_then(|running| running.destroy(!self.graceful));
        destroyed.map_err(|failure| failure.headed_in_virsh(format!("Failed to destroy domain '{}'", known.name)))?;
        known.forget_if_gone();
        if self.remove_logs {
            known.remove_log()?;
        }
        said(&format!("Domain '{}' destroyed\n", known.name))
    }
}

pub(super) fn reset(one: &One) -> Result<ExitCode, Failure> {
    let known = one.known()?;
    let asked = known.running().and_then(|running| running.command("system_reset", None));
    asked.map_err(|failure| failure.headed_in_virsh(format!("Failed to reset domain '{}'", known.name)))?;
    said(&format!("Domain '{}' was reset\n", known.name))
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
    said(&format!("Domain '{}' suspended\n", known.name))
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
    said(&format!("Domain '{}' resumed\n", known.name))
}
