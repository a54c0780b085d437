//! Runs inside the lab: does what the host side asks for over the port `kiln.lab`, until that side goes away.
//!
//! Each command gets a cgroup of its own, so that its end, its time limit and `Kill` reach all that it started.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use kiln_lab::protocol::{CHUNK, Exit, Message, Run, receive, send};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use parking_lot::Mutex;

const CGROUPS: &str = "/sys/fs/cgroup";
const PORT: &str = "kiln.lab";

type Wire = Arc<Mutex<File>>;

/// A virtual machine that never runs.
///
/// The lab's kernel patches its own code (the scheduler's, among others) when the first machine comes and when the last
/// one goes, and when a local APIC is switched off. QEMU before 8.1 can keep executing the breakpoint that stands there
/// meanwhile, on all CPUs for ever: it translates a page while another CPU writes to it. With one machine always there,
/// whose APIC is never switched on, nothing is patched.
struct Idle {
    _machine: VmFd,
    _processor: VcpuFd,
}

impl Idle {
    fn new() -> Result<Self, kvm_ioctls::Error> {
        let machine = Kvm::new()?.create_vm()?;
        machine.create_irq_chip()?;
        let processor = machine.create_vcpu(0)?;
        Ok(Self { _machine: machine, _processor: processor })
    }
}

fn main() -> anyhow::Result<()> {
    let _idle = Idle::new().context("making the lab's idle machine")?;
    let mount = Command::new("/bin/busybox").args(["mount", "-t", "cgroup2", "cgroup2", CGROUPS]).status()?;
    anyhow::ensure!(mount.success(), "mounting cgroup2");
    let mut from = OpenOptions::new().read(true).write(true).open(port()?)?;
    let to: Wire = Arc::new(Mutex::new(from.try_clone()?));
    say(&to, 0, &Message::Ready(uptime_ms()));
    let mut files: HashMap<u32, io::Result<Incoming>> = HashMap::new();
    let mut killers: HashMap<u32, mpsc::Sender<()>> = HashMap::new();
    while let Some((id, message)) = receive(&mut from)? {
        match message {
            Message::Create(path, mode) => drop(files.insert(id, Incoming::create(Path::new(&path), mode))),
            Message::Data(bytes) => {
                if let Some(slot) = files.get_mut(&id) {
                    append(slot, &bytes);
                }
            }
            Message::End => {
                let done = files.remove(&id).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
                let done = done.and_then(|file| fs::rename(&file.temporary, &file.path));
                say(&to, id, &done.map_or_else(|e| Message::Failed(e.to_string()), |()| Message::End));
            }
            Message::Run(run) => {
                let (kill, killed) = mpsc::channel();
                killers.insert(id, kill);
                let to = to.clone();
                thread::Builder::new().spawn(move || execute(&to, id, &run, &killed))?;
            }
            Message::Kill => drop(killers.remove(&id).map(|kill| kill.send(()))),
            Message::Fetch(path) => fetch(&to, id, &path),
            Message::PowerOff => return Ok(()),
            Message::Ready(_) | Message::Out(_) | Message::Err(_) | Message::Exit(_) | Message::Failed(_) => {}
        }
    }
    Ok(())
}

fn port() -> anyhow::Result<PathBuf> {
    for _ in 0..200 {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|n| n.trim() == PORT) {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        // The port's name arrives by a control message some time after the device; nothing can be waited on for it.
        thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("no virtio-serial port {PORT}")
}

fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|s| s.parse::<f64>().ok()).map_or(0, |s| (s * 1000.0) as u64)
}

// A host side that is gone is noticed where the agent reads.
fn say(to: &Wire, id: u32, message: &Message) {
    let _ = send(&mut *to.lock(), id, message);
}

/// A file on its way in. It appears under its own name when it is whole: a library may be in use meanwhile.
struct Incoming {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Incoming {
    fn create(path: &Path, mode: u32) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".incoming");
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        Ok(Self { file, temporary, path: path.to_owned() })
    }
}

fn append(slot: &mut io::Result<Incoming>, bytes: &[u8]) {
    if let Ok(open) = slot
        && let Err(e) = io::Write::write_all(&mut open.file, bytes)
    {
        *slot = Err(e);
    }
}

fn fetch(to: &Wire, id: u32, path: &str) {
    let send_all = || -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(()),
                n => say(to, id, &Message::Data(chunk[..n].to_vec())),
            }
        }
    };
    say(to, id, &send_all().map_or_else(|e| Message::Failed(format!("{path}: {e}")), |()| Message::End));
}

fn execute(to: &Wire, id: u32, run: &Run, killed: &mpsc::Receiver<()>) {
    let group = PathBuf::from(format!("{CGROUPS}/command{id}"));
    let answer = match start(run, &group) {
        Ok(child) => Message::Exit(supervise(to, id, run, child, &group, killed)),
        Err(e) => Message::Failed(format!("{}: {e}", run.argv.first().map_or("", String::as_str))),
    };
    let _ = fs::remove_dir(&group);
    say(to, id, &answer);
}

fn start(run: &Run, group: &Path) -> io::Result<Child> {
    fs::create_dir(group)?;
    // The shell enters the cgroup before it becomes the command, so that nothing escapes.
    Command::new("/bin/busybox")
        .args(["sh", "-c", r#"echo 0 > "$0/cgroup.procs" && exec "$@""#])
        .arg(group)
        .args(&run.argv)
        .envs(run.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn supervise(to: &Wire, id: u32, run: &Run, child: Child, group: &Path, killed: &mpsc::Receiver<()>) -> Exit {
    let mut child = child;
    let pumps = [
        child.stdout.take().map(|pipe| pump(to.clone(), id, pipe, Message::Out)),
        child.stderr.take().map(|pipe| pump(to.clone(), id, pipe, Message::Err)),
    ];
    let (ended, end) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        let _ = ended.send(status);
    });
    let exit = wait(&end, run.limit_ms, killed, group);
    kill_all(group);
    let _ = waiter.join();
    for pump in pumps.into_iter().flatten() {
        let _ = pump.join();
    }
    exit
}

fn wait(
    end: &mpsc::Receiver<io::Result<ExitStatus>>,
    limit_ms: u64,
    killed: &mpsc::Receiver<()>,
    group: &Path,
) -> Exit {
    let mut left = if limit_ms == 0 { u64::MAX } else { limit_ms };
    loop {
        let slice = left.min(200);
        match end.recv_timeout(Duration::from_millis(slice)) {
            Ok(Ok(status)) => return exit_of(status),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Exit::Signal(9),
            Err(RecvTimeoutError::Timeout) => {}
        }
        left -= slice;
        if left == 0 {
            return Exit::TimeLimit;
        }
        if killed.try_recv().is_ok() {
            kill_all(group);
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Status(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}

// cgroup v2, "cgroup.kill": every process in the group and below gets SIGKILL.
fn kill_all(group: &Path) {
    let _ = fs::write(group.join("cgroup.kill"), "1");
}

fn pump(
    to: Wire,
    id: u32,
    mut from: impl Read + Send + 'static,
    message: fn(Vec<u8>) -> Message,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        while let Ok(n) = from.read(&mut chunk) {
            if n == 0 {
                return;
            }
            say(&to, id, &message(chunk[..n].to_vec()));
        }
    })
}
