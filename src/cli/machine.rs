//! Verbs on one machine, and `list`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kiln_domain::Domain;
use serde_json::json;

use super::cards::table;
use super::{print, print_json};
use crate::console;
use crate::failure::{Failure, Status};
use crate::host::VIEWERS;
use crate::machine::running::{self, Running, is_running, last_ending};
use crate::machine::{Store, bases, name};
use crate::runner::start::{self, Record};

/// A machine's name.
#[derive(Debug, Args)]
pub(super) struct One {
    /// Name of the machine
    name: String,
}

/// A machine's name, and JSON.
#[derive(Debug, Args)]
pub(super) struct OneData {
    /// Name of the machine
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// List machines: those that run, or all
#[derive(Debug, Args)]
pub(super) struct List {
    /// Those that are shut off, too
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn done(text: &str) -> Result<ExitCode, Failure> {
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// The store, in which the machine is known or at least runs.
pub(super) fn known(name: &str) -> Result<Store, Failure> {
    let store = Store::here()?;
    name::check(name)?;
    if store.has(name) || is_running(store.folders(), name) { Ok(store) } else { Err(store.unknown(name)) }
}

// Its state, and why it is in it, in virsh's words; why it is off is written elsewhere.
fn state(running: Option<&Running>) -> Result<(&'static str, Option<&'static str>), Failure> {
    let status = running.map(Running::status).transpose()?.flatten();
    Ok(match status.as_deref() {
        None => ("shut off", None),
        Some("paused") => ("paused", Some("user")),
        Some("io-error") => ("paused", Some("I/O error")),
        Some(_) => ("running", Some("booted")),
    })
}

impl List {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let store = Store::here()?;
        let mut names = if self.all { store.names()? } else { vec![] };
        names.extend(running::names(store.folders()));
        names.sort();
        names.dedup();
        let rows: Vec<(String, &str)> = names
            .into_iter()
            .map(|name| {
                // One that doesn't answer must not hide the others.
                let running = Running::find(store.folders(), &name);
                let state = running.and_then(|running| state(running.as_ref())).map_or("no answer", |(state, _)| state);
                (name, state)
            })
            .collect();
        if self.json {
            let rows: Vec<_> = rows.iter().map(|(name, state)| json!({ "name": name, "state": state })).collect();
            print_json(&rows)?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<_> = rows.into_iter().map(|(name, state)| vec![name, state.to_owned()]).collect();
        done(&table(&["Name", "State"], &rows))
    }
}

pub(super) fn start(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    let domain = store.read(&one.name)?;
    let (record, blueprint) = start::start(store.folders(), &domain)?;
    blueprint.warnings.iter().for_each(|warning| eprintln!("note: {warning}"));
    if let Some((address, port)) = &record.vnc {
        eprintln!("screen: VNC at {address}:{port} (kiln view {})", one.name);
    }
    if let Some(url) = record.websocket_url() {
        eprintln!("browser: a page with noVNC, told {url}");
    }
    done(&format!("Domain '{}' started\n", one.name))
}

pub(super) fn shutdown(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    Running::get(store.folders(), &one.name)?.command("system_powerdown", None)?;
    done(&format!("Domain '{}' is being shutdown\n", one.name))
}

pub(super) fn destroy(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    Running::get(store.folders(), &one.name)?.destroy()?;
    done(&format!("Domain '{}' destroyed\n", one.name))
}

pub(super) fn reset(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    Running::get(store.folders(), &one.name)?.command("system_reset", None)?;
    done(&format!("Domain '{}' was reset\n", one.name))
}

pub(super) fn suspend(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    let running = Running::get(store.folders(), &one.name)?;
    if running.status()?.ok_or_else(|| running::not_running(&one.name))? != "running" {
        return Err(Failure::new(Status::Conflict, format!("{:?} is paused already", one.name))
            .advise(format!("kiln domstate --reason {0} tells why; kiln resume {0} lets it go on.", one.name)));
    }
    running.command("stop", None)?;
    done(&format!("Domain '{}' suspended\n", one.name))
}

pub(super) fn resume(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    let running = Running::get(store.folders(), &one.name)?;
    if running.status()?.ok_or_else(|| running::not_running(&one.name))? == "running" {
        return Err(Failure::new(Status::Conflict, format!("{:?} is not paused", one.name)));
    }
    running.command("cont", None)?;
    done(&format!("Domain '{}' resumed\n", one.name))
}

pub(super) fn undefine(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    if is_running(store.folders(), &one.name) {
        return Err(Failure::new(Status::Conflict, format!("{:?} is running", one.name))
            .advise(format!("Stop it first: kiln shutdown {0}, or kiln destroy {0}", one.name)));
    }
    let domain = store.read(&one.name).ok();
    let disks: Vec<String> = domain.as_ref().map(disks).unwrap_or_default();
    let files = domain.as_ref().map(bases::files_of_machine).unwrap_or_default();
    store.change()?.remove(&one.name)?;
    for disk in disks {
        eprintln!("kept: {disk}");
    }
    for base in bases::idle(&store, &files) {
        eprintln!("no machine lies on the base {} any more\n  > {}", base.display(), bases::how_to_release(&base));
    }
    done(&format!("Domain '{}' has been undefined\n", one.name))
}

fn disks(domain: &Domain) -> Vec<String> {
    let sources = domain.devices().filter(|d| d.name() == "disk").filter_map(|d| d.find("source"));
    sources.filter_map(|s| s.attribute("file").or(s.attribute("dev")).map(str::to_owned)).collect()
}

pub(super) fn domuuid(one: &OneData) -> Result<ExitCode, Failure> {
    let domain = known(&one.name)?.read(&one.name)?;
    let uuid = domain.text("uuid").unwrap_or_default();
    data(one, json!({ "uuid": uuid }), &format!("{uuid}\n"))
}

fn data(one: &OneData, value: serde_json::Value, text: &str) -> Result<ExitCode, Failure> {
    if one.json {
        print_json(&value)?
    } else {
        print(text)?
    }
    Ok(ExitCode::SUCCESS)
}

/// Print a machine's state, and why it is in it
#[derive(Debug, Args)]
pub(super) struct State {
    #[command(flatten)]
    one: OneData,
    /// With the reason
    #[arg(long)]
    reason: bool,
}

impl State {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let name = &self.one.name;
        let store = known(name)?;
        let (state, reason) = state(Running::find(store.folders(), name)?.as_ref())?;
        let ended = || last_ending(store.folders(), name).map_or("unknown".into(), |e| e.reason);
        let reason = reason.map_or_else(ended, str::to_owned);
        let text = if self.reason { format!("{state} ({reason})\n") } else { format!("{state}\n") };
        data(&self.one, json!({ "state": state, "reason": reason }), &text)
    }
}

pub(super) fn dominfo(one: &OneData) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    let domain = store.read(&one.name)?;
    let understood = |e: kiln_domain::DomainError| {
        Failure::new(Status::Failed, "the machine's definition can't be understood").because(&e)
    };
    let memory = domain.memory().map_err(understood)? >> 10;
    let vcpus = domain.vcpus().map_err(understood)?;
    let uuid = domain.text("uuid").unwrap_or_default();
    let running = Running::find(store.folders(), &one.name)?;
    let (state, _) = state(running.as_ref())?;
    let version = domain.root().find("metadata").and_then(|m| m.find(crate::runner::blueprint::METADATA));
    let version = version.and_then(|v| v.attribute("version")).unwrap_or(kiln_vmm::config::VERSION);
    let value = json!({
        "name": one.name, "uuid": uuid, "state": state, "vcpus": vcpus, "memory_kib": memory, "machine": version,
        "disks": disks(&domain), "running": running.as_ref().map(|r| &r.record),
    });
    let row = |key: &str, value: &str| format!("{:<15} {value}\n", format!("{key}:"));
    let text = [
        row("Name", &one.name),
        row("UUID", uuid.as_str()),
        row("State", state),
        row("CPU(s)", &vcpus.to_string()),
        row("Max memory", &format!("{memory} KiB")),
        row("Machine", version),
    ];
    data(one, value, &text.concat())
}

/// Print a machine's definition
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// Name of the machine
    name: String,
    /// With the screen's password
    #[arg(long)]
    security_info: bool,
}

impl Dump {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let mut domain = known(&self.name)?.read(&self.name)?;
        if !self.security_info {
            domain.hide_passwords();
        }
        done(&domain.to_string())
    }
}

fn display(one: &str) -> Result<(Record, String, u16), Failure> {
    let store = known(one)?;
    let record = Running::get(store.folders(), one)?.record;
    let (address, port) = record.vnc.clone().ok_or_else(|| {
        Failure::new(Status::Failed, format!("{one:?} has no VNC screen")).advise(format!("kiln console {one}"))
    })?;
    Ok((record, address, port))
}

pub(super) fn vncdisplay(one: &OneData) -> Result<ExitCode, Failure> {
    let (record, address, port) = display(&one.name)?;
    // As virsh: ports from 5900 on are written as display numbers.
    let number = port.checked_sub(5900).map_or(format!("{address}:{port}"), |n| format!("{address}:{n}"));
    let websocket = record.websocket_url();
    let second = websocket.as_ref().map(|url| format!("{url}\n")).unwrap_or_default();
    data(one, json!({ "address": address, "port": port, "websocket": websocket }), &format!("{number}\n{second}"))
}

/// Save the screen as a PNG picture
#[derive(Debug, Args)]
pub(super) struct Screenshot {
    /// Name of the machine
    name: String,
    /// File; by default NAME.png here
    file: Option<PathBuf>,
}

impl Screenshot {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let store = known(&self.name)?;
        let running = Running::get(store.folders(), &self.name)?;
        let path = self.file.clone().unwrap_or_else(|| PathBuf::from(format!("{}.png", self.name)));
        let temporary = path.with_extension("png.part");
        let trouble = |e: std::io::Error| {
            Failure::new(Status::Failed, format!("{} can't be written", path.display())).because(&e)
        };
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&temporary);
        let file = file.map_err(trouble)?;
        let taken = running.command("kiln-screenshot", Some(&file));
        if let Err(failure) = taken {
            let _ = std::fs::remove_file(&temporary);
            return Err(failure);
        }
        file.sync_all().and_then(|()| std::fs::rename(&temporary, &path)).map_err(trouble)?;
        done(&format!("Screenshot saved to {}\n", path.display()))
    }
}

pub(super) fn console(one: &One) -> Result<ExitCode, Failure> {
    let store = known(&one.name)?;
    let stream = Running::get(store.folders(), &one.name)?.console()?;
    eprintln!("Connected to domain '{}'. Ctrl-] leaves.", one.name);
    if console::attach(&stream)? {
        eprintln!("\nLeft; {:?} goes on.", one.name);
    } else {
        eprintln!("\n{:?} has ended.", one.name);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn view(one: &One) -> Result<ExitCode, Failure> {
    let (_, address, port) = display(&one.name)?;
    let local = start::reached_by(&address);
    let Some(program) = VIEWERS.iter().find(|v| on_path(v)) else {
        eprintln!("No VNC viewer is installed here (any will do, e.g. the package tigervnc-viewer).");
        eprintln!("From another computer: ssh -L {port}:{local}:{port} THIS-HOST");
        return done(&format!("{local}:{port}\n"));
    };
    let target = match *program {
        "remote-viewer" | "remmina" | "vinagre" | "krdc" => format!("vnc://{local}:{port}"),
        "virt-viewer" => return Err(Failure::new(Status::Failed, "virt-viewer asks libvirt; install remote-viewer")),
        // It takes display numbers alone, and counts them from 5900, downwards too.
        "gvncviewer" => format!("{local}:{}", i32::from(port) - 5900),
        // TigerVNC: two colons, a port; one, a display.
        _ => format!("{local}::{port}"),
    };
    let mut command = std::process::Command::new(program);
    if *program == "remmina" {
        command.arg("-c");
    }
    command.arg(target).stdin(std::process::Stdio::null());
    let child =
        command.spawn().map_err(|e| Failure::new(Status::Failed, format!("{program} can't be started")).because(&e));
    let mut child = child?;
    eprintln!("{program} shows {:?}.", one.name);
    // It is looked at for a moment: a viewer that can't open a window says so at once.
    std::thread::sleep(Duration::from_millis(300));
    match child.try_wait() {
        Ok(Some(status)) if !status.success() => {
            let _ = writeln!(std::io::stderr(), "{program} ended at once ({status}); the screen is at {local}:{port}");
            Ok(ExitCode::FAILURE)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}
