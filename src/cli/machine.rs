//! Words that all verbs on a machine share, and the verbs that show one: screenshot, console, view.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::manner::{mentioned, said};
use super::{print, print_json};
use crate::console;
use crate::failure::{Failure, Status};
use crate::host::VIEWERS;
use crate::machine::Known;
use crate::runner::start::{self, Record};

/// A machine's name.
#[derive(Debug, Args)]
pub(super) struct One {
    /// Name of the machine, its uuid, or its number while it runs
    name: String,
}

/// A machine's name, and JSON.
#[derive(Debug, Args)]
pub(super) struct OneData {
    /// Name of the machine, its uuid, or its number while it runs
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl One {
    pub(super) fn known(&self) -> Result<Known, Failure> {
        Known::of(&self.name)
    }
}

impl OneData {
    pub(super) fn known(&self) -> Result<Known, Failure> {
        Known::of(&self.name)
    }

    /// Prints what was asked for.
    pub(super) fn end(&self, value: &serde_json::Value, text: &str) -> Result<ExitCode, Failure> {
        end(self.json, value, text)
    }
}

/// Prints text.
pub(super) fn done(text: &str) -> Result<ExitCode, Failure> {
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints data as text or JSON.
pub(super) fn end(json_wanted: bool, value: &serde_json::Value, text: &str) -> Result<ExitCode, Failure> {
    if json_wanted {
        print_json(value)?;
        Ok(ExitCode::SUCCESS)
    } else {
        done(text)
    }
}

// Where its screen is.
fn display(known: &Known) -> Result<(Record, String, u16), Failure> {
    let record = known.running().map_err(|f| f.in_virsh("Domain is not running"))?.record;
    let (address, port) = record.vnc.clone().ok_or_else(|| {
        Failure::new(Status::Failed, format!("{:?} has no VNC screen", known.name))
            .advise(format!("kiln console {}", known.name))
            .in_virsh("VNC is disabled, or no VNC display is configured")
    })?;
    Ok((record, address, port))
}

pub(super) fn vncdisplay(one: &OneData) -> Result<ExitCode, Failure> {
    let (record, address, port) = display(&one.known()?)?;
    // As virsh: ports from 5900 on are written as display numbers.
    let number = port.checked_sub(5900).map_or(format!("{address}:{port}"), |n| format!("{address}:{n}"));
    let websocket = record.websocket_url();
    let second = websocket.as_ref().map(|url| format!("{url}\n")).unwrap_or_default();
    one.end(&json!({ "address": address, "port": port, "websocket": websocket }), &format!("{number}\n{second}"))
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
        let known = Known::of(&self.name)?;
        let running = known.running()?;
        let path = self.file.clone().unwrap_or_else(|| PathBuf::from(format!("{}.png", known.name)));
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
        said(&format!("Screenshot saved to {}\n", path.display()))
    }
}

pub(super) fn console(one: &One) -> Result<ExitCode, Failure> {
    join(&one.known()?)
}

/// Joins this terminal to a machine's serial port.
pub(super) fn join(known: &Known) -> Result<ExitCode, Failure> {
    let stream = known.running().map_err(|f| f.in_virsh("The domain is not running"))?.console()?;
    mentioned(&format!("Connected to domain '{}'. Ctrl-] leaves.", known.name));
    if console::attach(&stream)? {
        mentioned(&format!("\nLeft; {:?} goes on.", known.name));
    } else {
        mentioned(&format!("\n{:?} has ended.", known.name));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn view(one: &One) -> Result<ExitCode, Failure> {
    let known = one.known()?;
    let (_, address, port) = display(&known)?;
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
    eprintln!("{program} shows {:?}.", known.name);
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
