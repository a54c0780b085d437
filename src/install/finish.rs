//! After the guest has started: what to tell, what to show, and how it ends.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{Watch, Wishes};
use crate::console;
use crate::failure::{Failure, Status};
use crate::machine::Store;
use crate::machine::running::{Running, last_ending};
use crate::network::Kind;
use crate::network::interface::Range;
use crate::runner::blueprint::Blueprint;
use crate::runner::start::{self, Record};

/// Tells, shows and waits.
pub(super) fn follow(
    wishes: &Wishes,
    store: &Store,
    record: &Record,
    blueprint: &Blueprint,
) -> Result<ExitCode, Failure> {
    let name = &wishes.name;
    tell(name, record, blueprint);
    if wishes.afterwards.wait == Some(Duration::ZERO) {
        return Ok(ExitCode::SUCCESS);
    }
    // A machine that has ended already can't be found any more; its ending is written down.
    if let Some(running) = Running::find(store.folders(), name)? {
        eprintln!("Waiting for its end. Ctrl-C leaves it running.");
        let ended = match wishes.afterwards.watch {
            Watch::Text => text(&running, wishes.afterwards.wait)?,
            Watch::Nothing => running.wait(wishes.afterwards.wait),
        };
        if !ended {
            let minutes = wishes.afterwards.wait.map_or(0.0, |w| w.as_secs_f64() / 60.0);
            say_detached(name);
            return Err(Failure::new(Status::Timeout, format!("{name:?} has not ended after {minutes} min")));
        }
    }
    end(wishes, store)
}

fn tell(name: &str, record: &Record, blueprint: &Blueprint) {
    eprintln!("{name:?} runs.");
    if let Some((address, port)) = &record.vnc {
        let password = if record.vnc_password { "with a password" } else { "without a password" };
        eprintln!("  screen   VNC at {address}:{port}, {password}");
        eprintln!("  look     kiln view {name}");
        if let Some(url) = record.websocket_url() {
            eprintln!("  browser  a page with noVNC, told {url}");
        }
        let local = start::reached_by(address);
        eprintln!("  from far ssh -L {port}:{local}:{port} THIS-HOST, then a viewer to 127.0.0.1:{port}");
        let open = !record.vnc_password && !address.starts_with("127.") && address != "::1";
        if open {
            eprintln!("  warning  anybody who reaches {address} can use this screen: give it a password");
        }
        if kernel_without_screen(blueprint) {
            eprintln!("  note     an ELF kernel (PVH) has no boot screen: the screen is black until a driver comes");
        }
    }
    if record.console.is_some() {
        eprintln!("  console  kiln console {name}");
    }
    tell_cards(record, blueprint);
    for disk in &blueprint.disks {
        eprintln!("  disk     {} ({})", disk.path.display(), disk.target);
    }
    eprintln!("  stop     kiln shutdown {name}, or kiln destroy {name}");
}

fn tell_cards(record: &Record, blueprint: &Blueprint) {
    for (plugged, card) in record.network.cards.iter().zip(&blueprint.cards) {
        let network = match &card.interface.kind {
            Kind::Network(name) => format!("the network '{name}' by user mode"),
            Kind::User { passt: true } => "user mode; kiln's own network plays passt's part".into(),
            Kind::User { passt: false } => "user mode".into(),
        };
        eprintln!("  network  {} ({}), {network}", plugged.name, plugged.mac);
        for forward in &card.interface.forwards {
            let address = forward.address.map_or("127.0.0.1".to_owned(), |address| address.to_string());
            let protocol = forward.protocol.name();
            for Range { start, end, to, .. } in forward.ranges.iter().filter(|range| !range.exclude) {
                let last = if end > start { format!("-{end}") } else { String::new() };
                eprintln!("  forward  {address}, {protocol} {start}{last} to the guest's {to}");
            }
        }
    }
    if !record.network.cards.is_empty() {
        eprintln!("  note     machines on user mode don't see each other; forwarded ports of the host lead to one");
    }
}

fn kernel_without_screen(blueprint: &Blueprint) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    std::fs::File::open(&blueprint.kernel).is_ok_and(|mut f| f.read_exact(&mut magic).is_ok()) && magic == *b"\x7fELF"
}

/// The serial port on standard output, until the machine ends or the limit passes. Says whether it has ended.
fn text(running: &Running, limit: Option<Duration>) -> Result<bool, Failure> {
    let stream = running.console()?;
    let end = limit.map(|limit| Instant::now() + limit);
    console::follow(&stream, end)?;
    let left = end.map(|end| end.saturating_duration_since(Instant::now()));
    Ok(running.wait(left))
}

fn end(wishes: &Wishes, store: &Store) -> Result<ExitCode, Failure> {
    let name = &wishes.name;
    let ending = last_ending(store.folders(), name);
    let installed = matches!(wishes.source, super::Source::Tree(_));
    match ending.as_ref().map(|e| e.reason.as_str()) {
        Some("reboot") if installed => {
            eprintln!("The installer has restarted {name:?}, which is now shut off.");
            eprintln!("Booting from its disk needs firmware, which kiln doesn't have yet; until then --boot kernel=.");
            Ok(ExitCode::SUCCESS)
        }
        Some("shutdown" | "reboot") => {
            eprintln!("{name:?} has ended.");
            Ok(ExitCode::SUCCESS)
        }
        Some("destroyed") => {
            eprintln!("{name:?} was stopped.");
            Ok(ExitCode::FAILURE)
        }
        None if !store.has(name) => {
            eprintln!("{name:?} has ended, and nothing is left of it: it was undefined while it ran.");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            let why = ending.and_then(|e| e.detail).unwrap_or_else(|| "its process is gone".into());
            let log = store.folders().log(name);
            Err(Failure::new(Status::Failed, format!("{name:?} has failed"))
                .why(why)
                .advise(format!("Its log: {}", log.display())))
        }
    }
}

/// What an interrupt leaves before the guest runs.
pub(super) fn say_undone() {
    let _ = writeln!(std::io::stderr(), "\nkiln: interrupted before the guest ran; nothing is left of it");
}

/// What an interrupt or the end of a wait leaves.
pub(super) fn say_detached(name: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "\nkiln: {name:?} goes on.\n  > Look: kiln view {name}, kiln console {name}\n  > Stop: kiln destroy {name}; \
         remove: kiln undefine {name}"
    );
}

/// Ends this process from a signal's thread; the terminal is put right first.
pub(super) fn leave(status: i32) {
    console::restore_terminal();
    std::process::exit(status);
}
