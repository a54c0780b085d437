//! A running lab: QEMU's software PC with SVM, and the wire to the agent inside.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use crate::elf;
use crate::options::{Disk, Options};
use crate::packages;
use crate::protocol::{self, CHUNK, Exit, Message, Run};

/// How long the lab may take to come up. Some 5 s on a quiet machine, 20 on a loaded one.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// How much longer than a command's own limit the agent may stay silent before the lab counts as dead.
const GRACE: Duration = Duration::from_secs(60);

/// Labs of this process with a monitor socket: `KILN_LAB_MONITOR` names the folder for QEMU's own monitors, one socket
/// `PID.NUMBER` for each lab, for whom a lab hangs.
static MONITORS: AtomicU32 = AtomicU32::new(0);

/// The lab itself ended or hangs: no fault of the command that ran in it.
#[derive(Debug)]
pub struct Died {
    /// Last lines of the lab kernel's console and of QEMU's messages.
    pub console: String,
}

impl std::fmt::Display for Died {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the lab itself died; the last of its console:\n{}", self.console)
    }
}

impl std::error::Error for Died {}

/// Where output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a command in the lab printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// End.
    pub exit: Exit,
}

type Routes = Arc<Mutex<Option<HashMap<u32, Sender<Message>>>>>;

/// A running lab. Dropping it ends it.
pub struct Lab {
    wire: Mutex<UnixStream>,
    routes: Routes,
    next: AtomicU32,
    qemu: Mutex<Child>,
    console: Mutex<File>,
    messages: Mutex<File>,
    /// Time from QEMU's start to the agent's first word.
    pub boot: Duration,
}

impl Lab {
    /// Boots a lab.
    ///
    /// # Errors
    /// When QEMU or a package is missing, or the lab doesn't come up ([`Died`]).
    pub fn start(options: &Options) -> Result<Self> {
        let kernel = packages::cloud_kernel()?;
        // Everything in this folder is open in QEMU once the agent speaks, so the folder goes then.
        let folder = tempfile::Builder::new().prefix("kiln-lab.").tempdir()?;
        let initrd = folder.path().join("initramfs");
        crate::initramfs::write(std::io::BufWriter::new(File::create(&initrd)?), &kernel, &agent()?, options)?;
        let console = open_log(&folder.path().join("console"))?;
        let messages = open_log(&folder.path().join("messages"))?;
        let (ours, theirs) = UnixStream::pair()?;
        let started = Instant::now();
        let arguments = arguments(options, &kernel.vmlinux, &initrd, folder.path())?;
        let qemu = spawn_qemu(arguments, theirs.into(), messages.try_clone()?)?;
        let routes: Routes = Arc::new(Mutex::new(Some(HashMap::new())));
        let (ready_to, ready) = mpsc::channel();
        if let Some(map) = routes.lock().as_mut() {
            map.insert(0, ready_to);
        }
        route(ours.try_clone()?, routes.clone());
        let mut lab = Self {
            wire: Mutex::new(ours),
            routes,
            next: AtomicU32::new(1),
            qemu: Mutex::new(qemu),
            console: Mutex::new(console),
            messages: Mutex::new(messages),
            boot: Duration::ZERO,
        };
        if ready.recv_timeout(BOOT_LIMIT).is_err() {
            return Err(lab.died());
        }
        lab.boot = started.elapsed();
        Ok(lab)
    }

    /// Runs a command and hands on what it prints as it comes.
    ///
    /// # Errors
    /// When the program can't be started, or the lab dies meanwhile ([`Died`]).
    pub fn run(&self, run: Run, mut on_output: impl FnMut(Stream, &[u8])) -> Result<Exit> {
        let deadline = (run.limit_ms > 0).then(|| Instant::now() + Duration::from_millis(run.limit_ms) + GRACE);
        let (id, answers) = self.open()?;
        self.send(id, &Message::Run(run))?;
        let exit = loop {
            match self.next(&answers, deadline)? {
                Message::Out(bytes) => on_output(Stream::Out, &bytes),
                Message::Err(bytes) => on_output(Stream::Err, &bytes),
                Message::Exit(exit) => break exit,
                Message::Failed(why) => bail!("in the lab: {why}"),
                _ => {}
            }
        };
        self.close(id);
        Ok(exit)
    }

    /// Runs a command and collects what it prints.
    ///
    /// # Errors
    /// As [`Lab::run`].
    pub fn output(&self, run: Run) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = self.run(run, |stream, bytes| match stream {
            Stream::Out => stdout.extend_from_slice(bytes),
            Stream::Err => stderr.extend_from_slice(bytes),
        })?;
        Ok(Output { stdout, stderr, exit })
    }

    /// Brings a file into the running lab, with the libraries of an ELF file.
    ///
    /// # Errors
    /// When it can't be read here or written there, or the lab dies ([`Died`]).
    pub fn put(&self, here: &Path, there: &str) -> Result<()> {
        self.put_one(here, there)?;
        let mut magic = [0; 4];
        let is_elf = File::open(here)?.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
        if is_elf {
            for (name, file) in elf::libraries(here)? {
                self.put_one(&file, &name)?;
            }
        }
        Ok(())
    }

    fn put_one(&self, here: &Path, there: &str) -> Result<()> {
        let mut file = File::open(here).with_context(|| format!("opening {}", here.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let (id, answers) = self.open()?;
        self.send(id, &Message::Create(there.into(), mode))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                n => self.send(id, &Message::Data(chunk[..n].to_vec()))?,
            }
        }
        self.send(id, &Message::End)?;
        let answer = self.next(&answers, Some(Instant::now() + GRACE))?;
        self.close(id);
        if let Message::Failed(why) = answer {
            bail!("in the lab: {there}: {why}");
        }
        Ok(())
    }

    /// Brings a file back.
    ///
    /// # Errors
    /// When it isn't there, or the lab dies ([`Died`]).
    pub fn fetch(&self, there: &str) -> Result<Vec<u8>> {
        let (id, answers) = self.open()?;
        self.send(id, &Message::Fetch(there.into()))?;
        let mut whole = Vec::new();
        loop {
            match self.next(&answers, Some(Instant::now() + GRACE))? {
                Message::Data(bytes) => whole.extend_from_slice(&bytes),
                Message::Failed(why) => bail!("in the lab: {why}"),
                _ => break,
            }
        }
        self.close(id);
        Ok(whole)
    }

    /// The last of the lab kernel's own console and of QEMU's messages.
    pub fn console(&self) -> String {
        let mut text = tail(&self.messages);
        text.push_str(&tail(&self.console));
        text
    }

    /// Ends the lab at once. What runs in it is lost.
    pub fn kill(&self) {
        let mut qemu = self.qemu.lock();
        let _ = qemu.kill();
        let _ = qemu.wait();
    }

    fn open(&self) -> Result<(u32, Receiver<Message>)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (to, from) = mpsc::channel();
        match self.routes.lock().as_mut() {
            Some(map) => drop(map.insert(id, to)),
            None => return Err(self.died()),
        }
        Ok((id, from))
    }

    fn close(&self, id: u32) {
        if let Some(map) = self.routes.lock().as_mut() {
            map.remove(&id);
        }
    }

    fn send(&self, id: u32, message: &Message) -> Result<()> {
        protocol::send(&mut *self.wire.lock(), id, message).map_err(|_| self.died())
    }

    fn next(&self, answers: &Receiver<Message>, deadline: Option<Instant>) -> Result<Message> {
        let answer = match deadline {
            None => answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => answers.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        answer.map_err(|_| self.died())
    }

    fn died(&self) -> anyhow::Error {
        self.kill();
        Died { console: self.console() }.into()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.wire.lock().shutdown(Shutdown::Both);
        self.kill();
    }
}

fn open_log(path: &Path) -> Result<File> {
    let options = File::options().read(true).append(true).create(true).open(path);
    options.with_context(|| format!("creating {}", path.display()))
}

fn tail(file: &Mutex<File>) -> String {
    const LAST: u64 = 4000;
    let mut file = file.lock();
    let mut bytes = Vec::new();
    let len = file.metadata().map_or(0, |m| m.len());
    if file.seek(SeekFrom::Start(len.saturating_sub(LAST))).is_ok() {
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    // QEMU warns once for each feature of the CPU model that it can't emulate.
    text.lines().filter(|l| !l.contains("TCG doesn't support requested feature")).map(|l| format!("{l}\n")).collect()
}

fn route(mut from: UnixStream, routes: Routes) {
    thread::spawn(move || {
        while let Ok(Some((id, message))) = protocol::receive(&mut from) {
            if let Some(to) = routes.lock().as_ref().and_then(|map| map.get(&id)) {
                let _ = to.send(message);
            }
        }
        // Every waiting caller learns by this that the lab is gone.
        *routes.lock() = None;
    });
}

// QEMU dies with the thread that started it (PR_SET_PDEATHSIG), so the thread lives as long as the process.
fn spawn_qemu(arguments: Vec<OsString>, wire: OwnedFd, messages: File) -> Result<Child> {
    let (to, from) = mpsc::channel();
    thread::Builder::new().name("lab-keeper".into()).spawn(move || {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(arguments)
            .stdin(wire)
            .stdout(Stdio::null())
            .stderr(messages)
            .spawn();
        let _ = to.send(child);
        loop {
            thread::park();
        }
    })?;
    from.recv()?.context("starting setpriv and qemu-system-x86_64 (packages util-linux, qemu-system-x86)")
}

fn arguments(options: &Options, kernel: &Path, initrd: &Path, folder: &Path) -> Result<Vec<OsString>> {
    let threads = if options.icount { "single" } else { "multi" };
    let mut all: Vec<OsString> = Vec::new();
    let mut add = |parts: &[&str]| all.extend(parts.iter().map(OsString::from));
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-machine", "q35,hpet=off", "-cpu", "EPYC,+svm"]);
    add(&["-m", &options.memory_mib.to_string(), "-smp", &options.processors().to_string()]);
    add(&["-accel", &format!("tcg,tb-size=512,thread={threads}")]);
    if options.icount {
        add(&["-icount", "shift=0,sleep=off"]);
    }
    add(&["-kernel", text(kernel)?, "-initrd", text(initrd)?]);
    add(&["-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check random.trust_cpu=on"]);
    add(&["-chardev", &format!("file,id=console,append=on,path={}", text(&folder.join("console"))?)]);
    add(&["-serial", "chardev:console"]);
    add(&["-chardev", "socket,id=agent,fd=0", "-device", "virtio-serial-pci"]);
    add(&["-device", "virtserialport,chardev=agent,name=kiln.lab"]);
    if !options.forwards.is_empty() {
        let ports: String = options
            .forwards
            .iter()
            .map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-10.0.2.15:{there}"))
            .collect();
        add(&["-nic", &format!("user,model=virtio-net-pci{ports}")]);
    } else {
        add(&["-nic", "none"]);
    }
    if let Some(folder) = std::env::var_os("KILN_LAB_MONITOR") {
        let at =
            Path::new(&folder).join(format!("{}.{}", std::process::id(), MONITORS.fetch_add(1, Ordering::Relaxed)));
        add(&["-monitor", &format!("unix:{},server=on,wait=off", text(&at)?)]);
    }
    for (number, disk) in options.disks.iter().enumerate() {
        let path = match disk {
            Disk::Image(path) => path.clone(),
            Disk::Blank(size) => blank(folder, number, *size)?,
        };
        add(&["-drive", &format!("if=virtio,format=raw,cache=unsafe,discard=unmap,file={}", text(&path)?)]);
    }
    Ok(all)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .filter(|p| !p.contains(','))
        .with_context(|| format!("{}: QEMU takes no path with a comma or without UTF-8", path.display()))
}

fn blank(folder: &Path, number: usize, size: u64) -> Result<PathBuf> {
    let path = folder.join(format!("disk{number}"));
    File::create(&path)?.set_len(size).with_context(|| format!("a blank disk of {size} bytes"))?;
    Ok(path)
}

/// The agent's program, built if need be. It is part of this crate, so it lies beside whatever is running, or one
/// folder above for tests.
fn agent() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", "kiln-lab", "--bin", "kiln-lab-agent"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo to build the lab's agent")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let built = text.lines().rev().find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next());
    match built {
        Some(path) if output.status.success() => Ok(fs::canonicalize(path)?),
        _ => bail!("building kiln-lab-agent failed"),
    }
}

/// Writes all of `bytes` to a file by temporary name and rename.
///
/// # Errors
/// When the file system refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
