//! Boots a Linux kernel, its serial port on stdin and stdout: for experiments and benchmarks.
//!
//! `boot --kernel FILE [--initrd FILE] [--append TEXT] [--memory MIB] [--vcpus N] [--disk FILE]... [--rng] [--small]
//! [--stats]`

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use kiln_image::Access;
use kiln_image::raw::Raw;
use kiln_vmm::config::{Actions, Backing, Config, Legacy, Linux, Memory, PciDevice, PciKind, Topology};
use kiln_vmm::legacy::serial::{Output, Serial};
use kiln_vmm::machine::{Machine, Outcome};
use kiln_vmm::pci::Place;
use kiln_vmm::thread::{Role, spawn};
use kiln_vmm::virtio::blk::Drive;

struct Args {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    append: String,
    memory: u64,
    vcpus: u32,
    disks: Vec<PathBuf>,
    rng: bool,
    small: bool,
    stats: bool,
}

fn args() -> Result<Args, Box<dyn Error>> {
    let mut args = Args {
        kernel: PathBuf::new(),
        initrd: None,
        append: "console=ttyS0".into(),
        memory: 256,
        vcpus: 1,
        disks: Vec::new(),
        rng: false,
        small: false,
        stats: false,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut value = || given.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            "--kernel" => args.kernel = value()?.into(),
            "--initrd" => args.initrd = Some(value()?.into()),
            "--append" => args.append = value()?,
            "--memory" => args.memory = value()?.parse()?,
            "--vcpus" => args.vcpus = value()?.parse()?,
            "--disk" => args.disks.push(value()?.into()),
            "--rng" => args.rng = true,
            "--small" => args.small = true,
            "--stats" => args.stats = true,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(args)
}

// The entropy device stands at 00:02.0, disks at 00:03.0 and after.
fn pci(args: &Args) -> Result<Vec<PciDevice>, Box<dyn Error>> {
    let mut devices = Vec::new();
    if args.rng {
        devices.push(PciDevice { place: Place::root(2, 0), kind: PciKind::Rng });
    }
    for (n, path) in args.disks.iter().enumerate() {
        let disk = Arc::new(Raw::open(path, Access::Write)?);
        let name = format!("disk{n}");
        let queues = u16::try_from(args.vcpus)?;
        let kind = PciKind::Disk(Drive { queues, serial: name.clone(), ..Drive::new(&name, disk) });
        devices.push(PciDevice { place: Place::root(3 + u8::try_from(n)?, 0), kind });
    }
    Ok(devices)
}

// Copies between the serial port and stdin and stdout; the thread ends with the machine.
fn attach(serial: Arc<Serial>) -> std::io::Result<JoinHandle<()>> {
    let tap = serial.tap(1 << 20);
    let out = spawn(Role::Client(0), move || {
        let mut stdout = std::io::stdout();
        loop {
            let written = match tap.wait() {
                Output::Bytes(bytes) => stdout.write_all(&bytes).and_then(|()| stdout.flush()),
                Output::Lost(n) => writeln!(stdout, "[{n} bytes lost]"),
                Output::End => return,
            };
            if written.is_err() {
                return;
            }
        }
    })?;
    spawn(Role::Client(1), move || {
        let mut buffer = [0; 256];
        while let Ok(n @ 1..) = std::io::stdin().read(&mut buffer) {
            if serial.send(buffer.get(..n).unwrap_or_default()).is_err() {
                return;
            }
        }
    })?;
    Ok(out)
}

fn run(args: &Args) -> Result<Outcome, Box<dyn Error>> {
    let config = Config {
        kvm: File::options().read(true).write(true).open("/dev/kvm")?.into(),
        cpus: Topology::one_socket(args.vcpus),
        memory: Memory { bytes: args.memory << 20, backing: Backing::Private },
        boot: Linux {
            kernel: File::open(&args.kernel)?,
            initrd: args.initrd.as_ref().map(File::open).transpose()?,
            cmdline: args.append.clone(),
        },
        uuid: [0; 16],
        legacy: if args.small { Legacy::small() } else { Legacy::full() },
        pci: pci(args)?,
        display: None,
        actions: Actions::default(),
    };
    let (machine, events) = Machine::new(config)?;
    let serial = machine.serial(0).ok_or("no serial port")?.clone();
    let out = attach(serial)?;
    machine.start();
    let outcome = loop {
        let event = events.recv()?;
        eprintln!("[{event:?}]");
        match machine.act(&event)? {
            Outcome::Runs => {}
            end => break end,
        }
    };
    if args.stats {
        for line in std::fs::read_to_string("/proc/self/smaps_rollup")?.lines().filter(|l| l.starts_with("Rss")) {
            eprintln!("[{line}]");
        }
    }
    drop(machine);
    let _ = out.join();
    Ok(outcome)
}

fn main() -> ExitCode {
    match args().and_then(|args| run(&args)) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("boot: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                text.push_str(&format!(": {error}"));
                source = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
