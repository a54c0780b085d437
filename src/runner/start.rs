//! Starting a machine: everything it needs is opened here, then a process of its own takes over.
//!
//! Ports and sockets are bound and disks locked before anything is written down, so that two starts never meet.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_domain::Domain;
use kiln_vmm::probe;
use serde::{Deserialize, Serialize};

use super::blueprint::Blueprint;
use super::cards::{self, Network};
use super::disks;
use super::handover::{self, Answer, Descriptors, Order};
use super::ids;
use super::leavings;
use super::ports::{self, Bound};
use crate::failure::{Failure, Status};
use crate::host::TrialResult;
use crate::machine::folders::{self, Folders};
use crate::machine::running::DOCUMENT;
use crate::machine::{lock, store};

/// Longest path of a unix socket (unix(7)).
const SOCKET_PATH: usize = 107;

/// What is written down of a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its process.
    pub pid: u32,
    /// Its number.
    #[serde(default)]
    pub id: u32,
    /// Where its VNC server listens.
    pub vnc: Option<(String, u16)>,
    /// Whether viewers are asked for a password.
    pub vnc_password: bool,
    /// Where its WebSocket for browsers listens.
    #[serde(default)]
    pub websocket: Option<(String, u16)>,
    /// Its console socket.
    pub console: Option<PathBuf>,
    /// Its control socket.
    pub control: PathBuf,
    /// Its network cards.
    #[serde(default)]
    pub network: Network,
}

impl Record {
    /// The WebSocket's address as browsers write it.
    pub fn websocket_url(&self) -> Option<String> {
        let (address, port) = self.websocket.as_ref()?;
        Some(format!("ws://{}:{port}/", reached_by(address)))
    }
}

/// What programs of this host are told to reach an address by that is listened on: IPv6 in brackets, and this host for
/// all addresses.
pub fn reached_by(address: &str) -> String {
    match address {
        "0.0.0.0" | "::" => "127.0.0.1".into(),
        _ if address.contains(':') => format!("[{address}]"),
        _ => address.into(),
    }
}

/// Name of the record in a running machine's folder.
pub const RECORD: &str = "running.json";
/// Name of its lock.
pub const LOCK: &str = "lock";
/// Name of its last ending among the logs.
pub const ENDING: &str = "ending.json";

fn failed(what: impl Into<String>, error: &io::Error) -> Failure {
    Failure::new(Status::Failed, what).because(error)
}

/// Looks at everything that a start will need and changes nothing. `is_there` tells the files that are there already from
/// those that will be made or fetched before the start. The user's own mistakes are told first, the host's after them.
///
/// # Errors
/// What [`start`] would fail with.
pub fn rehearse(blueprint: &Blueprint, is_there: impl Fn(&Path) -> bool) -> Result<(), Failure> {
    check_memory(blueprint.memory)?;
    let boot = [("kernel", Some(&blueprint.kernel)), ("initrd", blueprint.initrd.as_ref())];
    for (what, path) in boot {
        if let Some(path) = path.filter(|path| is_there(path)) {
            plain_file(what, path)?;
        }
    }
    // All at once: two of them may be one.
    let there = blueprint.disks.iter().filter(|disk| is_there(&disk.path));
    let _held = there.map(disks::open).collect::<Result<Vec<_>, _>>()?;
    cards::rehearse(blueprint)?;
    blueprint.vnc.as_ref().map(ports::listen).transpose()?;
    kvm().map(drop)
}

/// How a machine is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Begin {
    /// Its guest runs.
    #[default]
    Running,
    /// Its guest waits until it is resumed.
    Paused,
}

/// Starts the machine of a definition whose addresses have been given.
///
/// # Errors
/// When it runs already, can't run on this host, or lacks a file, disk or port. Nothing is left behind then.
pub fn start(folders: &Folders, domain: &Domain, begin: Begin) -> Result<(Record, Blueprint), Failure> {
    let blueprint = Blueprint::read(domain)?;
    let folder = folders.running(&blueprint.name);
    private_folder(&folder)?;
    let path = folder.join(LOCK);
    let lock = lock::try_lock(&path).map_err(|e| failed(format!("locking {}", path.display()), &e))?;
    let lock = lock.ok_or_else(|| {
        Failure::new(Status::Conflict, format!("{:?} is running already", blueprint.name))
            .advise(format!("kiln console {0}, kiln vncdisplay {0}, or kiln destroy {0}", blueprint.name))
            .in_virsh("Domain is already active")
    })?;
    let opened = Opened::all(folders, &folder, &blueprint, lock)?;
    let document = running_document(domain, &opened.record).to_string();
    store::write_whole(&folder.join(DOCUMENT), document.as_bytes())?;
    let pid = launch(folders, &blueprint.name, domain, &opened, begin)?;
    Ok((Record { pid, ..opened.record }, blueprint))
}

struct Opened {
    files: Descriptors,
    chains: Vec<Vec<OsString>>,
    record: Record,
}

impl Opened {
    fn all(folders: &Folders, folder: &Path, blueprint: &Blueprint, lock: File) -> Result<Self, Failure> {
        check_memory(blueprint.memory)?;
        let mut files = Descriptors::from([("lock".to_owned(), lock.into())]);
        files.insert("kernel".into(), plain_file("kernel", &blueprint.kernel)?.into());
        if let Some(initrd) = &blueprint.initrd {
            files.insert("initrd".into(), plain_file("initrd", initrd)?.into());
        }
        let mut chains = Vec::new();
        for (number, disk) in blueprint.disks.iter().enumerate() {
            let (names, opened): (Vec<_>, Vec<_>) = disks::open(disk)?.into_iter().unzip();
            files.extend((0..).zip(opened).map(|(depth, file)| (handover::disk_label(number, depth), file)));
            chains.push(names);
        }
        let network = cards::open(folders, blueprint, &mut files)?;
        let screen = blueprint.vnc.as_ref().map(ports::listen).transpose()?.unwrap_or_default();
        let mut bound = |label: &str, port: Option<Bound>| {
            let (listener, address) = port?;
            files.insert(label.into(), listener.into());
            Some(address)
        };
        let (vnc, websocket) = (bound("vnc", screen.vnc), bound("websocket", screen.websocket));
        files.insert("kvm".into(), kvm()?);
        let (id, held) = ids::take(folders)?;
        files.insert("id".into(), held);
        let (listener, control) = socket(folder, &blueprint.name, "control")?;
        files.insert("control".into(), listener.into());
        let mut console = None;
        if blueprint.serial {
            let (listener, path) = socket(folder, &blueprint.name, "console")?;
            files.insert("console".into(), listener.into());
            console = Some(path);
        }
        let logs = folders.logs(&blueprint.name);
        private_folder(&logs)?;
        // The machine's own process writes both: whoever started it may be gone by then.
        for (label, path) in [("record", folder.join(RECORD)), ("outcome", logs.join(ENDING))] {
            let file = File::create(&path).map_err(|e| failed(format!("creating {}", path.display()), &e))?;
            files.insert(label.into(), file.into());
        }
        leavings::hand_over(folders, &blueprint.name, &mut files)
            .map_err(|e| failed("the store's folders can't be handed to the machine's process", &e))?;
        let vnc_password = blueprint.vnc.as_ref().is_some_and(|v| v.password.is_some());
        Ok(Self {
            files,
            chains,
            record: Record { pid: 0, id, vnc, vnc_password, websocket, console, control, network },
        })
    }
}

// What the machine was started from, with what the host has given it.
fn running_document(domain: &Domain, record: &Record) -> Domain {
    let mut document = domain.clone();
    document.root_mut().set("id", record.id.to_string());
    let mut cards = record.network.cards.iter();
    for device in document.root_mut().find_or_make("devices").children_mut() {
        match device.name() {
            "interface" => {
                if let Some(card) = cards.next() {
                    device.find_or_make("target").set("dev", &card.name);
                }
            }
            "graphics" if device.attribute("type") == Some("vnc") => {
                let Some((_, port)) = &record.vnc else { continue };
                if device.attribute("port").is_none_or(|fixed| fixed == "-1") {
                    device.set("autoport", "yes");
                }
                device.set("port", port.to_string());
            }
            _ => {}
        }
    }
    document
}

/// Makes a folder that is this user's alone.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn private_folder(path: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| {
        failed(format!("creating the folder {}", path.display()), &e)
            .advise("Make it writable, or keep machines elsewhere: export KILN_HOME=/some/folder")
    })
}

/// Opens `/dev/kvm` after its trial guest has shown that it runs kernels.
fn kvm() -> Result<OwnedFd, Failure> {
    let outcome = TrialResult::from(&probe::run_default());
    if !matches!(outcome, TrialResult::Passed { .. }) {
        let advice = crate::host::kvm_advice(Path::new("/"), &outcome);
        let mut failure = Failure::new(Status::NoKvm, "machines can't run on this host").why(outcome.describe());
        failure.advice = advice;
        return Err(failure.advise("kiln doctor tells more."));
    }
    let device = File::options().read(true).write(true).open("/dev/kvm");
    Ok(device.map_err(|e| Failure::new(Status::NoKvm, "/dev/kvm can't be opened").because(&e))?.into())
}

fn check_memory(wanted: u64) -> Result<(), Failure> {
    let memory = crate::host::memory(Path::new("/"));
    let most = [memory.total, memory.cgroup_limit].into_iter().flatten().min();
    match most {
        Some(most) if wanted > most => {
            let (wanted, most) = (wanted >> 20, most >> 20);
            Err(Failure::new(Status::Failed, format!("{wanted} MiB of memory can't be had: there are {most} MiB"))
                .why(memory.describe())
                .advise("Give the machine less: --memory MIB"))
        }
        _ => Ok(()),
    }
}

fn plain_file(what: &str, path: &Path) -> Result<File, Failure> {
    let refuse = |status, why: String| {
        Err(Failure::new(status, format!("the {what} {} can't be used", path.display())).why(why))
    };
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => refuse(Status::NotFound, "there is no such file".into()),
        Err(e) => refuse(Status::Failed, e.to_string()),
        Ok(file) if file.metadata().is_ok_and(|m| m.is_dir()) => refuse(Status::Failed, "it is a folder".into()),
        Ok(file) => Ok(file),
    }
}

fn socket(folder: &Path, name: &str, what: &str) -> Result<(UnixListener, PathBuf), Failure> {
    let mut path = folder.join(what);
    if path.as_os_str().len() > SOCKET_PATH {
        let short = folders::short_private();
        private_folder(&short)?;
        path = short.join(format!("{:016x}.{what}", fingerprint(&folder.join(name))));
    }
    // Whoever had it is gone: this process holds the machine's lock.
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(failed(format!("removing {}", path.display()), &e));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(&path).map_err(|e| failed(format!("making the socket {}", path.display()), &e))?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(|e| failed(format!("protecting {}", path.display()), &e))?;
    Ok((listener, path))
}

// FNV-1a: a short name for a long path.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn launch(folders: &Folders, name: &str, domain: &Domain, opened: &Opened, begin: Begin) -> Result<u32, Failure> {
    let trouble = |e: io::Error| failed("the machine's process can't be started", &e);
    let path = folders.log(name);
    let log = File::options().append(true).create(true).mode(0o600).open(&path).map_err(trouble)?;
    let (mut ours, theirs) = UnixStream::pair().map_err(trouble)?;
    let mut child = Command::new(std::env::current_exe().map_err(trouble)?)
        .arg(RUN_MACHINE)
        // The C library else keeps what a picture of the screen took, once for each thread that took one.
        .env("MALLOC_MMAP_THRESHOLD_", (1 << 20).to_string())
        .stdin(OwnedFd::from(theirs))
        .stdout(log.try_clone().map_err(trouble)?)
        .stderr(log)
        .current_dir("/")
        .spawn()
        .map_err(trouble)?;
    let order = Order {
        xml: domain.to_string(),
        record: opened.record.clone(),
        disks: opened.chains.clone(),
        begin,
        labels: Vec::new(),
    };
    let answer =
        handover::send_order(&mut ours, order, &opened.files).and_then(|()| handover::receive::<Answer>(&mut ours));
    match answer {
        Ok(answer) => {
            let pid = child.id();
            match answer.into_result() {
                Ok(()) => {
                    // A machine outlives this process; while it doesn't, its end must not leave a zombie.
                    std::thread::spawn(move || child.wait());
                    Ok(pid)
                }
                Err(failure) => {
                    let _ = child.wait();
                    Err(failure)
                }
            }
        }
        Err(e) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(failed("the machine's process ended before it began", &e)
                .advise(format!("Its log may say why: {}", path.display())))
        }
    }
}

/// The argument by which this program runs a machine whose order waits on its standard input.
pub const RUN_MACHINE: &str = "run-machine";

/// Seconds that this host's local time is east of UTC now.
pub(super) fn local_offset() -> i64 {
    // The C library alone knows the zone's rules; `date` asks it.
    let output = Command::new("date").arg("+%z").stdin(Stdio::null()).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let number: i64 = text.parse().unwrap_or(0);
    (number / 100) * 3600 + (number % 100) * 60
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_with_what_the_host_gave() {
        let domain = Domain::parse(
            "<domain type='kvm'><devices><interface type='user'/><graphics type='vnc' port='-1'/>\
             </devices></domain>",
        );
        let card = cards::Plugged { name: "vnet3".into(), mac: String::new(), kind: "user".into(), source: None };
        let record = Record {
            pid: 1,
            id: 7,
            vnc: Some(("127.0.0.1".into(), 5901)),
            vnc_password: false,
            websocket: None,
            console: None,
            control: "/run/control".into(),
            network: Network { cards: vec![card], resolvers: vec![] },
        };
        let told = running_document(&domain.unwrap(), &record).to_string();
        for part in ["<domain type='kvm' id='7'>", "<target dev='vnet3'/>", "port='5901'", "autoport='yes'"] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[test]
    fn addresses_that_programs_understand() {
        let cases = [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("::", "127.0.0.1"),
            ("fe80::1", "[fe80::1]"),
            ("192.0.2.1", "192.0.2.1"),
        ];
        for (address, told) in cases {
            assert_eq!(reached_by(address), told);
        }
    }
}
