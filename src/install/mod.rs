//! The install pipeline: each step takes what the one before made, and knows how to undo itself.
//!
//! Undo covers the time before the guest first runs. After that nothing is ever undone: an interrupt, a hang-up and the
//! end of a wait leave the machine running, and say how to watch and how to remove it.

pub(crate) mod disk;
mod finish;
mod location;
pub(crate) mod network;
mod tree;
pub(crate) mod undo;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kiln_domain::Domain;
use kiln_image::Format;
use parking_lot::Mutex;

use crate::failure::{Failure, Status};
use crate::machine::{Store, lock, name, store};
use crate::plan::{self, Boot, Disk, NetworkWish, Plan, Step, template};
use crate::runner::blueprint::{Blueprint, Vnc};
use crate::runner::start;
pub(crate) use network::fresh as fresh_mac;
use undo::{Action, Undo};

/// A disk as it was asked for.
#[derive(Debug, Clone)]
pub struct DiskWish {
    /// Image or block device; by default a new image named after the machine.
    pub path: Option<PathBuf>,
    /// Bytes of a new one.
    pub size: Option<u64>,
    /// Its format; found by its contents, or chosen by its name, if none is given.
    pub format: Option<Format>,
    /// Space of a new one is taken when it is written to.
    pub sparse: bool,
    /// What a new one lies on, and that one's format.
    pub backing: Option<(PathBuf, Option<Format>)>,
    /// Attributes of `<driver>` other than name and type.
    pub driver: Vec<(&'static str, String)>,
    /// The guest may not write.
    pub read_only: bool,
    /// Several machines may write.
    pub shareable: bool,
    /// Serial number.
    pub serial: Option<String>,
    /// Its place among what firmware boots from.
    pub boot_order: Option<u32>,
}

/// An installer as it was asked for.
#[derive(Debug, Clone)]
pub struct TreeWish {
    /// Folder, ISO image or URL.
    pub location: String,
    /// Paths of kernel and initrd in it, where it isn't to be searched.
    pub files: Option<(String, String)>,
    /// More words for the kernel.
    pub extra: String,
    /// Files for the root of its initrd.
    pub inject: Vec<PathBuf>,
}

/// Where the first boot's kernel comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An installer, out of a tree or from a medium.
    Tree(TreeWish),
    /// Files; every boot loads them.
    Kernel {
        /// Kernel.
        kernel: PathBuf,
        /// Initial RAM disk.
        initrd: Option<PathBuf>,
        /// Command line.
        cmdline: String,
    },
}

/// What is shown while waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The serial port, on standard output.
    Text,
    /// Nothing.
    Nothing,
}

/// What happens after the guest has started.
#[derive(Debug, Clone, Copy)]
pub struct Afterwards {
    /// What is shown.
    pub watch: Watch,
    /// How long to wait for the first boot's end; `None`: for ever.
    pub wait: Option<Duration>,
    /// Start the machine again after its installer's reboot.
    pub start_again: bool,
}

/// A new machine as it was asked for.
#[derive(Debug, Clone)]
pub struct Wishes {
    /// Name.
    pub name: String,
    /// Template.
    pub template: template::Source,
    /// What the user fills it with besides.
    pub sets: template::Sets,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors.
    pub vcpus: u32,
    /// Sockets, dies, cores, threads.
    pub topology: Option<[u32; 4]>,
    /// Disks.
    pub disks: Vec<DiskWish>,
    /// What boots.
    pub source: Source,
    /// Network cards.
    pub networks: Vec<NetworkWish>,
    /// VNC.
    pub vnc: Option<Vnc>,
    /// The system's short name.
    pub os: Option<String>,
    /// Afterwards.
    pub afterwards: Afterwards,
}

const CONSOLE: &str = "console=ttyS0";

impl Wishes {
    fn plan(&self, store: &Store, installer: Option<Boot>, medium: Option<Disk>) -> Result<Plan, Failure> {
        name::check(&self.name)?;
        let boot = match &self.source {
            Source::Tree(_) => None,
            Source::Kernel { kernel, initrd, cmdline } => {
                let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
                Some(Boot { kernel: absolute(kernel), initrd: initrd.as_ref().map(absolute), cmdline: cmdline.clone() })
            }
        };
        Ok(Plan {
            name: self.name.clone(),
            uuid: plan::new_uuid()?,
            template: self.template.clone(),
            sets: self.sets.clone(),
            memory_mib: self.memory_mib,
            vcpus: self.vcpus,
            topology: self.topology,
            disks: self.disks.iter().map(|d| disk::plan(store, &self.name, d)).collect::<Result<_, _>>()?,
            cards: network::plan(store, &self.networks)?,
            host_loopback: self.networks.iter().any(|wish| wish.host_loopback),
            vnc: self.vnc.clone(),
            install: installer,
            medium,
            boot,
            os: self.os.as_deref().map(|os| format!("http://libosinfo.org/linux/{os}")),
        })
    }

    /// The installer, where one is to boot.
    fn installer(&self) -> Result<Option<Installer>, Failure> {
        let Source::Tree(wish) = &self.source else { return Ok(None) };
        let found = tree::find(wish)?;
        let mut added = found.words(&wish.extra);
        let mut cmdline: Vec<&str> = added.iter().map(String::as_str).collect();
        cmdline.extend(Some(wish.extra.trim()).filter(|extra| !extra.is_empty()));
        // A machine without a screen needs its kernel to talk on the serial port.
        let talks = wish.extra.contains("console=") || added.iter().any(|word| word.starts_with(CONSOLE));
        let is_mute = self.vnc.is_none() && !talks;
        cmdline.extend(is_mute.then_some(CONSOLE));
        let cmdline = cmdline.join(" ");
        if is_mute {
            added.push(format!("{CONSOLE} (the machine has no screen)"));
        }
        Ok(Some(Installer { found, cmdline, added }))
    }
}

/// The installer that the first boot starts.
struct Installer {
    found: tree::Found,
    cmdline: String,
    /// Words in it that kiln has added, for people.
    added: Vec<String>,
}

impl Installer {
    fn boot(&self, store: &Store, wishes: &Wishes) -> Boot {
        self.found.boot(store, &wishes.name, &self.cmdline)
    }

    fn plan(&self, store: &Store, wishes: &Wishes) -> Result<Plan, Failure> {
        wishes.plan(store, Some(self.boot(store, wishes)), self.found.medium())
    }
}

/// The documents as `--print-xml` shows them: `1` the first boot's, `2` the permanent one, `all` both.
///
/// # Errors
/// When the wishes can't be met, or `which` names no document.
pub fn xml(wishes: &Wishes, which: &str) -> Result<String, Failure> {
    let store = Store::here()?;
    let plan = draft(wishes, &store, wishes.installer()?.as_ref())?;
    let first = plan.document(Step::Install)?.to_string();
    let kept = plan.document(Step::Permanent)?.to_string();
    match (which, plan.install.is_some()) {
        ("1", _) | ("all", false) => Ok(format!("{first}\n")),
        ("2", true) => Ok(format!("{kept}\n")),
        ("all", true) => Ok(format!("{first}\n{kept}\n")),
        ("2", false) => Err(Failure::new(Status::Usage, "--print-xml 2: without an installer there is one document")),
        _ => Err(Failure::new(Status::Usage, format!("--print-xml {which}: 1, 2 or all is expected"))),
    }
}

/// Everything that can be checked without doing anything.
///
/// # Errors
/// When the wishes can't be met.
pub fn check(wishes: &Wishes) -> Result<(), Failure> {
    let store = Store::here()?;
    free(wishes, &store)?;
    rehearse(wishes, &store, wishes.installer()?.as_ref())
}

// With the names that files have now or will have.
fn draft(wishes: &Wishes, store: &Store, installer: Option<&Installer>) -> Result<Plan, Failure> {
    match installer {
        Some(installer) => installer.plan(store, wishes),
        None => wishes.plan(store, None, None),
    }
}

// Before anything is fetched or made.
fn rehearse(wishes: &Wishes, store: &Store, installer: Option<&Installer>) -> Result<(), Failure> {
    let plan = draft(wishes, store, installer)?;
    let mut document = plan.document(Step::Install)?;
    addresses(&mut document)?;
    let blueprint = Blueprint::read(&document)?;
    let comes_later = |path: &Path| {
        let is_brought = match (installer, &plan.install) {
            (Some(installer), Some(boot)) => installer.found.comes(boot, path),
            _ => false,
        };
        is_brought || plan.disks.iter().any(|disk| disk.make.is_some() && disk.path == path)
    };
    start::rehearse(&blueprint, |path| !comes_later(path))
}

fn free(wishes: &Wishes, store: &Store) -> Result<(), Failure> {
    name::check(&wishes.name)?;
    if store.has(&wishes.name) { Err(taken(&wishes.name)) } else { Ok(()) }
}

/// That a name is another machine's.
pub(crate) fn taken(name: &str) -> Failure {
    Failure::new(Status::Conflict, format!("there is a machine {name:?} already"))
        .advise(format!("Take another name, or remove it: kiln undefine {name}"))
}

fn addresses(document: &mut Domain) -> Result<(), Failure> {
    document
        .assign_addresses()
        .map_err(|e| Failure::new(Status::Failed, "the machine's devices can't be placed").because(&e))
}

/// Makes the machine and starts it.
///
/// # Errors
/// When a step fails; those before it are undone.
pub fn run(wishes: &Wishes) -> Result<ExitCode, Failure> {
    let store = Store::here()?;
    free(wishes, &store)?;
    let undo = Undo::begin(&wishes.name)?;
    match make(wishes, &store, &undo) {
        Ok((record, blueprint)) => finish::follow(wishes, &store, &record, &blueprint),
        Err(failure) => {
            undo.now();
            Err(failure)
        }
    }
}

fn make(wishes: &Wishes, store: &Store, undo: &Undo) -> Result<(start::Record, Blueprint), Failure> {
    let reservation = undo.step(|| {
        let ours = Arc::new(Mutex::new(Some(Reservation::of(wishes, store)?)));
        let held = ours.clone();
        Ok((ours, Box::new(move || drop(held.lock().take()))))
    })?;
    let installer = wishes.installer()?;
    rehearse(wishes, store, installer.as_ref())?;
    let plan = match &installer {
        Some(installer) => {
            let boot = installer.found.fetch(store, &wishes.name, &installer.cmdline, undo)?;
            for words in &installer.added {
                eprintln!("added to the kernel's command line: {words}");
            }
            wishes.plan(store, Some(boot), installer.found.medium())?
        }
        None => wishes.plan(store, None, None)?,
    };
    let (mut first, mut kept) = (plan.document(Step::Install)?, plan.document(Step::Permanent)?);
    addresses(&mut first)?;
    addresses(&mut kept)?;
    let blueprint = Blueprint::read(&first)?;
    blueprint.warnings.iter().for_each(|warning| eprintln!("note: {warning}"));
    tell_medium(&plan, &blueprint);
    for disk in &plan.disks {
        disk::make(store, disk, undo)?;
    }
    undo.step(|| define(wishes, store, &kept))?;
    let started = undo.start(|| start::start(store.folders(), &first, start::Begin::Running))?;
    drop(reservation.lock().take());
    tree::forget(store, &wishes.name);
    Ok(started)
}

fn tell_medium(plan: &Plan, blueprint: &Blueprint) {
    let Some(medium) = &plan.medium else { return };
    let name = medium.path.display();
    match blueprint.disks.iter().rev().find(|disk| disk.path == medium.path && disk.read_only) {
        Some(disk) => {
            eprintln!(
                "{:<8}{name} is {} of the first boot, read-only (machines have no CD drive yet)",
                "medium", disk.target
            );
        }
        None => eprintln!("note: the template {:?} has no place for a medium: {name} is not attached", plan.template),
    }
}

fn define(wishes: &Wishes, store: &Store, document: &Domain) -> Result<((), Action), Failure> {
    let changing = store.change()?;
    if store.has(&wishes.name) {
        return Err(taken(&wishes.name));
    }
    let (name, again) = (wishes.name.clone(), store.clone());
    let remove = move || drop(again.change().and_then(|c| c.remove(&name)));
    if let Err(failure) = changing.write(&wishes.name, document) {
        drop(changing);
        let _ = fs::remove_dir_all(store.folders().definition(&wishes.name));
        return Err(failure);
    }
    Ok(((), Box::new(remove)))
}

/// Two installs of one name at once: the second is told, however far the first is. Held until the machine is defined; a
/// crash lets go of it.
struct Reservation {
    path: PathBuf,
    // Let go after the file is removed: see `lock::try_lock`.
    _lock: fs::File,
}

impl Reservation {
    fn of(wishes: &Wishes, store: &Store) -> Result<Self, Failure> {
        let folder = store.folders().runtime.join("installs");
        store::make_folder(&folder)?;
        let path = folder.join(&wishes.name);
        let trouble = |e| Failure::new(Status::Failed, format!("locking {}", path.display())).because(&e);
        let lock = lock::try_lock(&path).map_err(trouble)?.ok_or_else(|| {
            Failure::new(Status::Conflict, format!("{:?} is being installed right now", wishes.name))
                .advise("Wait for that, or take another name.")
        })?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
