//! Words in which guest tests are told: make, boot, wait for this text, type that, see this.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kiln_image::Access;
use kiln_image::BlockDevice;
use kiln_image::raw::Raw;
use kiln_lab::guest::initramfs;
use kiln_lab::packages::cloud_kernel;
use kiln_vmm::config::{Actions, Backing, Config, Legacy, Linux, Memory, PciDevice, PciKind, Topology};
use kiln_vmm::legacy::serial::{Output, Tap};
use kiln_vmm::machine::{Event, Machine, MachineState, Outcome};
use kiln_vmm::memory::GuestRam;
use kiln_vmm::pci::Place;
use kiln_vmm::virtio::blk::Drive;
use parking_lot::{Condvar, Mutex};

pub const MIB: u64 = 1 << 20;

/// How long a guest may take to say something, wherever it runs.
const PATIENCE: Duration = Duration::from_secs(100);

/// What to boot, and on what.
pub struct Recipe {
    pub cpus: Topology,
    pub memory: u64,
    pub legacy: Legacy,
    pub actions: Actions,
    pub pvh: bool,
    pub append: &'static str,
    pub modules: &'static [&'static str],
    pub script: &'static str,
    /// A disk behind the root port at 00:01.0, and one on bus 0.
    pub disks: Vec<Arc<dyn BlockDevice>>,
}

/// A blank disk of so many MiB.
pub fn blank_disk(mib: u64) -> Arc<dyn BlockDevice> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(mib * MIB).unwrap();
    Arc::new(Raw::from_file(file, "disk.img", Access::Write).unwrap())
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            cpus: Topology::flat(1),
            memory: 256 * MIB,
            legacy: Legacy::full(),
            actions: Actions::default(),
            pvh: false,
            append: "",
            modules: &[],
            script: "echo GUEST READY; exec sh",
            disks: Vec::new(),
        }
    }
}

impl Recipe {
    pub fn config(&self) -> Config {
        let kernel = cloud_kernel().unwrap();
        let mut initrd = tempfile::tempfile().unwrap();
        initrd.write_all(&initramfs(&kernel, self.modules, self.script).unwrap()).unwrap();
        Config {
            kvm: File::options().read(true).write(true).open("/dev/kvm").unwrap().into(),
            cpus: self.cpus,
            memory: Memory { bytes: self.memory, backing: Backing::Private },
            boot: Linux {
                kernel: File::open(if self.pvh { kernel.vmlinux } else { kernel.bzimage }).unwrap(),
                initrd: Some(initrd),
                cmdline: format!("console=ttyS0 quiet panic=1 {}", self.append),
            },
            uuid: *b"\x2f\x1c\x54\x9a\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b",
            legacy: self.legacy,
            actions: self.actions,
            pci: self.pci(),
            display: None,
        }
    }

    fn pci(&self) -> Vec<PciDevice> {
        let port = PciKind::RootPort { slot: 1, multifunction: false };
        let places = [Place::behind(1, 0, 0), Place::root(2, 0)];
        let disks = places.into_iter().zip(&self.disks).map(|(place, disk)| PciDevice {
            place,
            kind: PciKind::Disk(Drive {
                queues: self.cpus.processors() as u16,
                serial: "0123".into(),
                ..Drive::new("vda", disk.clone())
            }),
        });
        [PciDevice { place: Place::root(1, 0), kind: port }].into_iter().chain(disks).collect()
    }

    /// Boots it and waits for its script's greeting.
    pub fn boot(self) -> Guest {
        let config = self.config();
        self.boot_with(config)
    }

    /// Boots it with a configuration of its own.
    pub fn boot_with(self, config: Config) -> Guest {
        let (machine, events) = Machine::new(config).unwrap();
        let guest = Guest::around(self, machine, events, Console::default());
        guest.machine().start();
        guest.sees("GUEST READY");
        guest
    }
}

/// What has come out of the serial port.
#[derive(Clone, Default)]
pub struct Console(Arc<(Mutex<Text>, Condvar)>);

#[derive(Default)]
struct Text {
    all: String,
    /// Where the next wait begins to look.
    seen: usize,
}

impl Console {
    fn follow(&self, tap: Tap) -> JoinHandle<()> {
        let console = self.0.clone();
        std::thread::spawn(move || {
            loop {
                match tap.wait() {
                    Output::Bytes(bytes) => console.0.lock().all.push_str(&String::from_utf8_lossy(&bytes)),
                    Output::Lost(n) => panic!("{n} bytes of console output lost"),
                    Output::End => return,
                }
                console.1.notify_all();
            }
        })
    }

    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut console = self.0.0.lock();
        loop {
            let from = console.seen;
            if let Some(at) = console.all[from..].find(text) {
                console.seen = from + at + text.len();
                return console.all[from..from + at].to_owned();
            }
            let late = self.0.1.wait_until(&mut console, deadline).timed_out();
            assert!(!late, "no {text:?} on the console, which ends:\n{}", tail(&console.all));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().rev().take(40).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A guest that runs.
pub struct Guest {
    machine: Option<Machine>,
    pub events: Receiver<Event>,
    console: Console,
    recipe: Recipe,
    follower: Option<JoinHandle<()>>,
}

impl Guest {
    fn around(recipe: Recipe, machine: Machine, events: Receiver<Event>, console: Console) -> Self {
        let follower = Some(console.follow(machine.serial(0).unwrap().tap(1 << 20)));
        Self { machine: Some(machine), events, console, recipe, follower }
    }

    pub fn machine(&self) -> &Machine {
        self.machine.as_ref().unwrap()
    }

    /// Waits for a text after the last one; gives what came before it.
    pub fn sees(&self, text: &str) -> String {
        self.console.wait_for(text)
    }

    /// Types a line.
    pub fn types(&self, line: &str) {
        self.machine().serial(0).unwrap().send(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Runs a command in the guest's shell and gives what it printed.
    pub fn runs(&self, command: &str) -> String {
        // What is typed is echoed; the quotes keep the echo from being taken for the answer.
        self.types(&format!("echo BE''GIN; {command}; echo EN''D"));
        self.sees("BEGIN\r\n");
        self.sees("END\r\n").replace('\r', "")
    }

    /// Waits for the machine's next event.
    pub fn event(&self) -> Event {
        self.events
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no event; {}", tail(&self.console.0.0.lock().all)))
    }

    /// Waits for an event and does what the configuration says.
    pub fn event_and_action(&self) -> (Event, Outcome) {
        let event = self.event();
        let outcome = self.machine().act(&event).unwrap();
        (event, outcome)
    }

    /// Pauses, saves, drops everything but RAM, builds anew, restores, goes on.
    pub fn next_life(&mut self) {
        let (ram, state) = self.put_down();
        let state: MachineState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        let (machine, events) = Machine::restore(self.recipe.config(), ram, &state).unwrap();
        self.follower = Some(self.console.follow(machine.serial(0).unwrap().tap(1 << 20)));
        machine.resume();
        (self.machine, self.events) = (Some(machine), events);
    }

    fn put_down(&mut self) -> (GuestRam, MachineState) {
        let machine = self.machine.take().unwrap();
        machine.pause();
        let state = machine.save().unwrap();
        let ram = machine.ram().clone();
        drop(machine);
        // What it said before it went comes before what it says in its next life.
        self.follower.take().unwrap().join().unwrap();
        (ram, state)
    }
}
