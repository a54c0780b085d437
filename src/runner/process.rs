//! The process of one machine, from its order to its end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use kiln_domain::Domain;
use kiln_domain::address::PciAddress;
use kiln_domain::domain;
use kiln_image::Image;
use kiln_rfb::Server;
use kiln_vmm::config::{
    Action, Actions, Backing, Config, Display, Legacy, Linux, Memory, PciDevice, PciKind, Rtc, Topology,
};
use kiln_vmm::display::VideoMemory;
use kiln_vmm::machine::{Event, Machine, Outcome};
use kiln_vmm::pci::Place;
use kiln_vmm::thread::{Role, spawn};
use kiln_vmm::virtio::blk::{Consequence, DiskError, Drive, Witness};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::blueprint::{Blueprint, CacheMode};
use super::cards::Cards;
use super::console::Console;
use super::disks;
use super::handover::{self, Answer, Descriptors, Order};
use super::leavings::Leavings;
use super::qmp::{self, Hub, Subject};
use super::screen::Screen;
use super::start::{Begin, Record};
use super::state::{RunningDisk, State};
use super::viewers;
use super::visitors::Visitors;
use crate::failure::{self, Failure};

/// What the main thread is woken for.
pub(super) enum Wake {
    Event(Event),
    Disk(DiskError),
    Reset,
    /// Why, in QMP's words.
    Quit(&'static str),
}

/// How a machine's last run ended, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ending {
    /// `shutdown`, `reboot`, `destroyed`, `crashed` or `failed`.
    pub reason: String,
    /// More words, if there are any.
    pub detail: Option<String>,
}

/// Runs the machine whose order waits on standard input.
pub fn main() -> ExitCode {
    start_log();
    // A write past the limit for files is to fail, not to end the machine.
    let _ = signal_hook::flag::register(libc::SIGXFSZ, Arc::default());
    // Nothing that happens to the starter's terminal happens to the machine. It fails only for a group's leader.
    let _ = rustix::process::setsid();
    match attend() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

struct StderrLog;

impl log::Log for StderrLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let _ = writeln!(io::stderr(), "{} {}", record.level(), record.args());
        }
    }
    fn flush(&self) {}
}

fn start_log() {
    static LOG: StderrLog = StderrLog;
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

fn attend() -> io::Result<()> {
    let mut starter = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let (order, mut descriptors) = handover::receive_order(&mut starter)?;
    let mut life = match Life::begin(&order, &mut descriptors) {
        Ok(life) => life,
        Err(failure) => return handover::send(&mut starter, &Answer::from(&failure)),
    };
    // A starter that went away meanwhile ends nothing: the machine was asked for.
    let _ = handover::send(&mut starter, &Answer::Started);
    drop(starter);
    life.live();
    Ok(())
}

struct Life {
    machine: Arc<Machine>,
    console: Option<Arc<Console>>,
    server: Option<Server>,
    state: Arc<State>,
    troubles: Arc<AtomicUsize>,
    wakes: Receiver<Wake>,
    outcome: Option<File>,
    leavings: Option<Leavings>,
    // The machine runs as long as the first is locked, and has its number as long as the second is.
    locks: [Option<OwnedFd>; 2],
}

/// Requests that failed and that the main thread has yet to hear of; more are not told, unless they stop the machine.
const MOST_TROUBLES: usize = 64;

impl Life {
    fn begin(order: &Order, files: &mut Descriptors) -> Result<Self, Failure> {
        let understood = Domain::parse(&order.xml)
            .map_err(|e| Failure::new(failure::Status::Failed, "the definition can't be understood").because(&e))?;
        let blueprint = Blueprint::read(&understood)?;
        let host =
            |e: io::Error| Failure::new(failure::Status::Failed, "the machine's process can't be set up").because(&e);
        let (wake, wakes) = mpsc::channel();
        let troubles = Arc::new(AtomicUsize::new(0));
        let images = images(&blueprint, order, files)?;
        let cards = Cards::start(&blueprint, &order.record.network, files).map_err(host)?;
        let backends = Backends { images: &images, witness: &witness(wake.clone(), troubles.clone()), cards: &cards };
        let config = config(&blueprint, &backends, files)?;
        let (machine, events) = Machine::new(config).map_err(|e| refusal(&e))?;
        let machine = Arc::new(machine);
        forward(events, wake.clone()).map_err(host)?;
        let console = match (machine.serial(0), files.remove("console")) {
            (Some(serial), Some(listener)) => {
                Some(Console::open(serial.clone(), UnixListener::from(listener)).map_err(host)?)
            }
            _ => None,
        };
        let screen = machine.display().map(|d| Screen::new(d.clone(), machine.ps2().cloned()));
        let hub = Arc::new(Hub::default());
        let visitors = Visitors::new(hub.clone(), order.record.vnc_password);
        let server = match (&screen, &blueprint.vnc) {
            (Some(screen), Some(vnc)) => {
                let server = viewers::show(screen, &machine, vnc, &blueprint.name).map_err(host)?;
                viewers::let_in(&server, &visitors, files).map_err(host)?;
                Some(server)
            }
            _ => None,
        };
        let disks = running_disks(&blueprint, images)?;
        let about = (blueprint.name.as_str(), &order.record);
        let state = State::new(about, machine.clone(), (screen, visitors), (disks, cards), (hub.clone(), wake.clone()));
        if let Some(listener) = files.remove("control") {
            qmp::serve(UnixListener::from(listener), hub, state.clone()).map_err(host)?;
        }
        end_on_signals(wake).map_err(host)?;
        write_down(&order.record, file(files, "record")?).map_err(host)?;
        match order.begin {
            Begin::Running => machine.start(),
            Begin::Paused => state.pause(),
        }
        let outcome = files.remove("outcome").map(File::from);
        Ok(Self {
            machine,
            console,
            server,
            state,
            troubles,
            wakes,
            outcome,
            leavings: Leavings::of(&blueprint.name, files),
            locks: [files.remove("lock"), files.remove("id")],
        })
    }

    fn live(&mut self) {
        let (ending, by_guest, reason) = self.follow();
        log::info!("the machine ended: {}", ending.reason);
        self.state.hub().tell("SHUTDOWN", Some(json!({ "guest": by_guest, "reason": reason })));
        self.machine.pause();
        self.state.end_cards();
        if let Some(server) = &self.server {
            server.disconnect_all();
        }
        if let (Some(outcome), Ok(text)) = (&mut self.outcome, serde_json::to_vec(&ending)) {
            let _ = outcome.write_all(&text);
        }
        if let Some(console) = &self.console {
            console.drain();
        }
        for running in self.state.all_disks() {
            if let Err(error) = running.image.close() {
                log::error!("{}", chain(&error));
            }
        }
        if let Some(Err(error)) = self.leavings.as_ref().map(Leavings::remove_unless_kept) {
            log::error!("what the machine leaves in the store can't be removed: {error}");
        }
        self.state.hub().close();
        // Let go by the end of the process, so that nothing of it is left when the machine counts as ended.
        self.locks.iter_mut().for_each(|lock| std::mem::forget(lock.take()));
    }

    // How it ends, whether the guest has ended it, and why in QMP's words.
    fn follow(&self) -> (Ending, bool, &'static str) {
        let end = |reason: &str, detail: Option<String>| Ending { reason: reason.into(), detail };
        while let Ok(wake) = self.wakes.recv() {
            match wake {
                Wake::Quit(why) => return (end("destroyed", None), false, why),
                Wake::Reset => {
                    if let Err(error) = self.state.turn(|machine| machine.reset().map(|()| Outcome::Runs)) {
                        return (end("failed", Some(chain(&error))), false, "host-error");
                    }
                    self.tell_reset(false, "host-qmp-system-reset");
                }
                Wake::Disk(error) => {
                    self.troubles.fetch_sub(1, Ordering::AcqRel);
                    self.state.disk_failed(&error);
                }
                Wake::Event(event) => {
                    if let Some(ended) = self.happened(&event) {
                        return ended;
                    }
                }
            }
        }
        (end("failed", Some("nothing is left that could end the machine".into())), false, "host-error")
    }

    fn happened(&self, event: &Event) -> Option<(Ending, bool, &'static str)> {
        let (reason, detail, told) = match event {
            Event::PoweredOff => ("shutdown", None, "guest-shutdown"),
            Event::Reset(cause) => ("reboot", Some(format!("{cause:?}")), "guest-reset"),
            Event::Broken(fault) => ("crashed", Some(fault.to_string()), "guest-panic"),
        };
        log::info!("the guest: {reason} {}", detail.as_deref().unwrap_or_default());
        let starts_again = *event == Event::PoweredOff && self.state.starts_again();
        let outcome = self.state.turn(|machine| match starts_again {
            true => machine.reset().map(|()| Outcome::Runs),
            false => machine.act(event),
        });
        match outcome {
            Ok(Outcome::Runs) => self.tell_reset(true, told),
            Ok(Outcome::Stands) => {}
            Ok(Outcome::Ended) => return Some((Ending { reason: reason.into(), detail }, true, told)),
            Err(error) => {
                let ending = Ending { reason: "failed".into(), detail: Some(chain(&error)) };
                return Some((ending, false, "host-error"));
            }
        }
        None
    }

    fn tell_reset(&self, by_guest: bool, reason: &str) {
        self.state.hub().tell("RESET", Some(json!({ "guest": by_guest, "reason": reason })));
    }
}

// Tells the main thread of requests that failed. A guest that makes them faster than they can be told loses some.
fn witness(wake: Sender<Wake>, troubles: Arc<AtomicUsize>) -> Arc<Witness> {
    Arc::new(move |error| {
        if troubles.fetch_add(1, Ordering::AcqRel) >= MOST_TROUBLES && error.consequence != Consequence::Stopped {
            troubles.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        // It is gone only when the process is about to be.
        let _ = wake.send(Wake::Disk(error));
    })
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

fn forward(events: Receiver<Event>, wake: Sender<Wake>) -> io::Result<()> {
    spawn(Role::Main, move || {
        while let Ok(event) = events.recv() {
            if wake.send(Wake::Event(event)).is_err() {
                return;
            }
        }
    })
    .map(drop)
}

fn end_on_signals(wake: Sender<Wake>) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    spawn(Role::Main, move || {
        if signals.forever().next().is_some() {
            let _ = wake.send(Wake::Quit("host-signal"));
        }
    })
    .map(drop)
}

fn refusal(error: &kiln_vmm::machine::Error) -> Failure {
    use kiln_vmm::machine::Error;
    let busy = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()));
    let status = match error {
        Error::Kvm(_) => failure::Status::NoKvm,
        _ => failure::Status::Failed,
    };
    let failure = Failure::new(status, "the machine can't be made").because(error);
    match error {
        Error::Kvm(_) if busy => failure.advise("Another hypervisor holds the processor: kiln doctor tells more."),
        Error::Kvm(_) => failure.advise("kiln doctor tells what this host's KVM lacks."),
        _ => failure,
    }
}

fn write_down(record: &Record, to: OwnedFd) -> io::Result<()> {
    let record = Record { pid: std::process::id(), ..record.clone() };
    File::from(to).write_all(&serde_json::to_vec_pretty(&record)?)
}

fn file(files: &mut Descriptors, label: &str) -> Result<OwnedFd, Failure> {
    files
        .remove(label)
        .ok_or_else(|| Failure::new(failure::Status::Failed, format!("the machine's process got no {label}")))
}

fn running_disks(blueprint: &Blueprint, images: Vec<Arc<Image>>) -> Result<Vec<RunningDisk>, Failure> {
    let each = blueprint.disks.iter().zip(images);
    each.map(|(disk, image)| Ok(RunningDisk { disk: disk.clone(), image, place: place(blueprint, disk.address)? }))
        .collect()
}

// The images of all disks, of the files that came with the order.
fn images(blueprint: &Blueprint, order: &Order, files: &mut Descriptors) -> Result<Vec<Arc<Image>>, Failure> {
    let mut all = Vec::new();
    for (number, disk) in blueprint.disks.iter().enumerate() {
        let names = order.disks.get(number).map(Vec::as_slice).unwrap_or_default();
        let mut chain = Vec::new();
        for (depth, name) in names.iter().enumerate() {
            chain.push((name.clone(), file(files, &handover::disk_label(number, depth))?));
        }
        all.push(disks::open_handed(disk, chain)?);
    }
    Ok(all)
}

/// What is behind the devices.
struct Backends<'a> {
    images: &'a [Arc<Image>],
    witness: &'a Arc<Witness>,
    cards: &'a Cards,
}

fn config(blueprint: &Blueprint, backends: &Backends<'_>, files: &mut Descriptors) -> Result<Config, Failure> {
    let domain::Topology { sockets, dies, cores, threads } = blueprint.cpus;
    let offset = if blueprint.local_time { super::start::local_offset() } else { 0 };
    let legacy = Legacy { rtc: Some(Rtc { offset }), ..Legacy::full() };
    let legacy = if blueprint.legacy { legacy } else { Legacy::small() };
    let display = match blueprint.display {
        None => None,
        Some(address) => {
            let memory = VideoMemory::new()
                .map_err(|e| Failure::new(failure::Status::Failed, "the display's memory can't be had").because(&e))?;
            Some(Display { place: place(blueprint, address)?, memory })
        }
    };
    Ok(Config {
        kvm: file(files, "kvm")?,
        cpus: Topology { sockets, dies, cores, threads },
        memory: Memory { bytes: blueprint.memory, backing: Backing::Private },
        boot: Linux {
            kernel: file(files, "kernel")?.into(),
            initrd: files.remove("initrd").map(File::from),
            cmdline: blueprint.cmdline.clone(),
        },
        uuid: blueprint.uuid,
        legacy: Legacy { serials: usize::from(blueprint.serial), ..legacy },
        pci: devices(blueprint, backends)?,
        display,
        actions: Actions {
            poweroff: action(blueprint.on_poweroff),
            reboot: action(blueprint.on_reboot),
            crash: action(blueprint.on_crash),
        },
    })
}

fn action(action: domain::Action) -> Action {
    match action {
        domain::Action::Destroy => Action::Destroy,
        domain::Action::Restart => Action::Restart,
        domain::Action::Preserve => Action::Preserve,
    }
}

// An address's bus is a root port's index, whatever number software will give to that bus.
fn place(blueprint: &Blueprint, address: PciAddress) -> Result<Place, Failure> {
    if address.bus == 0 {
        return Ok(Place::root(address.slot, address.function));
    }
    let port = blueprint.ports.iter().find(|(index, _)| *index == address.bus);
    match port {
        Some((_, port)) if address.slot == 0 => Ok(Place::behind(port.slot, port.function, address.function)),
        _ => Err(Failure::new(failure::Status::Failed, format!("nothing can be plugged at the PCI address {address}"))
            .why("behind a root port there is slot 0 alone, and each bus needs a root port of that index")),
    }
}

fn devices(blueprint: &Blueprint, backends: &Backends<'_>) -> Result<Vec<PciDevice>, Failure> {
    let Backends { images, witness, cards } = *backends;
    let mut all = Vec::new();
    for (index, port) in &blueprint.ports {
        let multifunction = blueprint.ports.iter().any(|(_, p)| p.slot == port.slot && p.function != 0);
        let kind = PciKind::RootPort { slot: u16::from(*index), multifunction };
        all.push(PciDevice { place: place(blueprint, *port)?, kind });
    }
    for (disk, image) in blueprint.disks.iter().zip(images) {
        let drive = Drive {
            queues: u16::try_from(blueprint.vcpus()).unwrap_or(u16::MAX),
            serial: disk.serial.clone().unwrap_or_default(),
            write_cache: disk.cache.has_write_cache(),
            ignore_flush: disk.cache == CacheMode::Unsafe,
            unmap: disk.unmap,
            detect_zeroes: disk.detect_zeroes,
            on_read_error: disk.on_read_error,
            on_write_error: disk.on_write_error,
            witness: witness.clone(),
            ..Drive::new(&disk.target, image.clone())
        };
        all.push(PciDevice { place: place(blueprint, disk.address)?, kind: PciKind::Disk(drive) });
    }
    for (number, card) in blueprint.cards.iter().enumerate() {
        let Some(network) = cards.network(number) else {
            return Err(Failure::new(failure::Status::Failed, "the machine's process got no network for a card"));
        };
        let kind = PciKind::Net { network, mac: card.mac, mtu: card.mtu(), link: card.interface.link };
        all.push(PciDevice { place: place(blueprint, card.address)?, kind });
    }
    for address in &blueprint.rngs {
        all.push(PciDevice { place: place(blueprint, *address)?, kind: PciKind::Rng });
    }
    Ok(all)
}
