//! The commands.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::arguments::{Arguments, Refusal};
use super::input;
use crate::runner::state::RunningDisk;

/// How a picture of the screen is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runner) enum Picture {
    /// Portable pixmap (PPM, P6).
    Ppm,
    /// PNG.
    Png,
}

/// What follows when a guest powers off because its button was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runner) enum PowerOff {
    /// What the definition says (`<on_poweroff>`).
    AsDefined,
    /// The machine starts again.
    StartsAgain,
}

/// What commands act on.
pub(in crate::runner) trait Subject: Send + Sync {
    /// The machine's name.
    fn name(&self) -> &str;
    /// `running`, `paused`, `io-error` when a disk's error has paused it, or `prelaunch` when it was reset since.
    fn status(&self) -> &'static str;
    /// Stops the guest where it is; it doesn't notice.
    fn pause(&self);
    /// Lets it go on.
    fn resume(&self);
    /// Presses the power button.
    fn press_power_button(&self, then: PowerOff);
    /// Resets the machine.
    fn reset(&self);
    /// Ends the machine.
    fn quit(&self);
    /// Writes the screen.
    fn screenshot(&self, to: OwnedFd, picture: Picture) -> Result<(), String>;
    /// A key by its scancode (XT's, bit 7 for the 0xe0 prefix).
    fn key(&self, scancode: u8, down: bool);
    /// The pointer moved so far, right and down positive.
    fn pointer_moved(&self, x: i32, y: i32);
    /// A button of the pointer: 0 left, 1 middle, 2 right; 3 and 4 wheel up and down.
    fn button(&self, number: u8, down: bool);
    /// What `query-block` tells.
    fn disks(&self) -> Value;
    /// The disk of a name.
    fn disk(&self, name: &str) -> Option<&RunningDisk>;
    /// Changes a disk's length in bytes, and tells the guest.
    fn resize(&self, disk: &RunningDisk, bytes: u64) -> Result<(), String>;
    /// The network cards: names, addresses, counts, leases.
    fn cards(&self) -> Value;
    /// Plugs a card's cable in or out; it is named by its name or its MAC address.
    fn set_link(&self, card: &str, up: bool) -> Result<(), String>;
    /// What `query-vnc` tells.
    fn vnc(&self) -> Value;
    /// What `query-chardev` tells.
    fn character_devices(&self) -> Value;
}

/// All commands but `qmp_capabilities`.
const NAMES: &[&str] = &[
    "block_resize",
    "cont",
    "input-send-event",
    "kiln-cards",
    "kiln-reboot",
    "kiln-screenshot",
    "qmp_capabilities",
    "query-block",
    "query-chardev",
    "query-commands",
    "query-cpus-fast",
    "query-kvm",
    "query-name",
    "query-status",
    "query-version",
    "query-vnc",
    "quit",
    "screendump",
    "send-key",
    "set_link",
    "stop",
    "system_powerdown",
    "system_reset",
];

/// Does a command.
pub(super) fn execute(
    command: &str,
    arguments: Arguments,
    files: &mut VecDeque<OwnedFd>,
    subject: &dyn Subject,
) -> Result<Value, Refusal> {
    match command {
        "screendump" => screendump(arguments, subject),
        "send-key" => input::send_key(arguments, subject),
        "input-send-event" => input::send_events(arguments, subject),
        "block_resize" => block_resize(arguments, subject),
        "set_link" => set_link(arguments, subject),
        command if NAMES.contains(&command) => {
            arguments.finish()?;
            plain(command, files, subject)
        }
        command => Err(Refusal::not_found(format!("The command {command} has not been found"))),
    }
}

// Commands without arguments.
fn plain(command: &str, files: &mut VecDeque<OwnedFd>, subject: &dyn Subject) -> Result<Value, Refusal> {
    match command {
        "query-status" => {
            let status = subject.status();
            return Ok(json!({ "status": status, "running": status == "running", "singlestep": false }));
        }
        "query-name" => return Ok(json!({ "name": subject.name() })),
        "query-version" => return Ok(super::version()),
        "query-commands" => return Ok(NAMES.iter().map(|name| json!({ "name": name })).collect()),
        "query-block" => return Ok(subject.disks()),
        "kiln-cards" => return Ok(subject.cards()),
        "query-vnc" => return Ok(subject.vnc()),
        "query-chardev" => return Ok(subject.character_devices()),
        "query-cpus-fast" => return Ok(cpus()),
        "query-kvm" => return Ok(json!({ "enabled": true, "present": true })),
        "stop" => subject.pause(),
        "cont" => subject.resume(),
        "system_powerdown" => subject.press_power_button(PowerOff::AsDefined),
        "kiln-reboot" => subject.press_power_button(PowerOff::StartsAgain),
        "system_reset" => subject.reset(),
        "kiln-screenshot" => {
            let file = files.pop_front().ok_or_else(|| Refusal::generic("no file came with the command"))?;
            subject.screenshot(file, Picture::Png).map_err(Refusal::generic)?;
        }
        _ => {}
    }
    Ok(json!({}))
}

// Processors by their threads, which bear their names.
fn cpus() -> Value {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut all: Vec<(u32, u32)> = tasks
        .filter_map(|task| {
            let thread = task.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            Some((name.trim().strip_prefix("vcpu")?.parse().ok()?, thread))
        })
        .collect();
    all.sort_unstable();
    let row = |(index, thread): &(u32, u32)| json!({ "cpu-index": index, "thread-id": thread, "qom-path": format!("/machine/cpu[{index}]"), "target": "x86_64" });
    all.iter().map(row).collect()
}

fn screendump(mut arguments: Arguments, subject: &dyn Subject) -> Result<Value, Refusal> {
    let path = arguments.string("filename")?.ok_or_else(|| arguments.missing("filename"))?;
    let picture = match arguments.string("format")?.as_deref() {
        None | Some("ppm") => Picture::Ppm,
        Some("png") => Picture::Png,
        Some(other) => return Err(Refusal::no_value("format", other)),
    };
    if let (Some(_), _) | (_, Some(_)) = (arguments.string("device")?, arguments.integer("head")?) {
        return Err(Refusal::generic("the machine has one screen; leave 'device' and 'head' out"));
    }
    arguments.finish()?;
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.map_err(|e| Refusal::generic(format!("failed to open file '{path}': {}", told(&e))))?;
    subject.screenshot(file.into(), picture).map_err(Refusal::generic)?;
    Ok(json!({}))
}

// As strerror(3) says it, without the number that Rust adds.
fn told(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn set_link(mut arguments: Arguments, subject: &dyn Subject) -> Result<Value, Refusal> {
    let name = arguments.string("name")?.ok_or_else(|| arguments.missing("name"))?;
    let up = arguments.boolean("up")?.ok_or_else(|| arguments.missing("up"))?;
    arguments.finish()?;
    subject.set_link(&name, up).map_err(|desc| Refusal { class: "DeviceNotFound", desc })?;
    Ok(json!({}))
}

fn block_resize(mut arguments: Arguments, subject: &dyn Subject) -> Result<Value, Refusal> {
    let (device, node) = (arguments.string("device")?, arguments.string("node-name")?);
    let size = arguments.integer("size")?.ok_or_else(|| arguments.missing("size"))?;
    arguments.finish()?;
    let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
    let name = match (device.as_str(), node.as_str()) {
        (name, "") | ("", name) => Some(name),
        _ => None,
    };
    let disk = name.and_then(|name| subject.disk(name));
    let disk = disk.ok_or_else(|| Refusal::generic(format!("Cannot find device='{device}' nor node-name='{node}'")))?;
    let size = u64::try_from(size).map_err(|_| Refusal::generic("Parameter 'size' expects a >0 size"))?;
    if !size.is_multiple_of(kiln_image::SECTOR) {
        return Err(Refusal::generic("The new size must be a multiple of 512"));
    }
    subject.resize(disk, size).map_err(Refusal::generic)?;
    Ok(json!({}))
}
