//! `kiln clone`: another machine like one that is off, with disks of its own.
//!
//! Everything is decided and checked before anything is made (`Plan`); what is made is taken back on failure and on
//! Ctrl-C (`install/undo.rs`). Files that are there are never written to.

mod copy;
mod definition;
mod disks;
mod linked;
mod names;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln_domain::Domain;
use kiln_image::Format;
use kiln_vmm::virtio::net::Mac;

use crate::failure::{Failure, Status};
use crate::install::undo::Undo;
use crate::install::{self, taken};
use crate::machine::running::is_running;
use crate::machine::store::{Changing, make_folder};
use crate::machine::{Store, name};
use crate::network::Interface;
use crate::plan::{NetworkWish, new_uuid};
use disks::{Disk, What};

/// A clone as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// The machine that is cloned.
    pub original: String,
    /// The clone's name; made up if none.
    pub name: Option<String>,
    /// Its uuid; a random one if none.
    pub uuid: Option<String>,
    /// Files for the copies, in the order of the disks that are copied; others are made up.
    pub files: Vec<PathBuf>,
    /// Addresses of its network cards, in their order; those missing are made up.
    pub macs: Vec<Option<Mac>>,
    /// Disks (`vda`) that are copied though they are read-only or shareable.
    pub force: Vec<String>,
    /// Disks that both machines use.
    pub skip: Vec<String>,
    /// The files are there, and are used as they are.
    pub preserve: bool,
    /// Both machines get images on top of the original's disks.
    pub linked: bool,
    /// Copies take all their space.
    pub whole: bool,
    /// Copies share their blocks with the originals.
    pub reflink: bool,
}

/// Everything that is decided.
struct Plan {
    original: String,
    name: String,
    /// The original's definition.
    before: Domain,
    /// The clone's.
    domain: Domain,
    /// All of the original's disks, in the document's order.
    disks: Vec<Disk>,
    notes: Vec<String>,
}

fn is_on(name: &str) -> Failure {
    Failure::new(Status::Conflict, format!("{name:?} is running or paused; it can be cloned when it is off"))
        .advise(format!("Turn it off first: kiln shutdown {name}"))
}

fn exists(path: &Path) -> Failure {
    Failure::new(Status::Conflict, format!("{} exists already", path.display()))
        .advise("Take another --file, or use it as it is with --preserve-data.")
}

fn usage(what: impl Into<String>) -> Failure {
    Failure::new(Status::Usage, what)
}

/// The clone's definition, and nothing else.
///
/// # Errors
/// When the clone can't be made.
pub fn xml(wishes: &Wishes) -> Result<String, Failure> {
    let plan = plan(&Store::here()?, wishes)?;
    Ok(plan.domain.to_string())
}

/// Makes the clone.
///
/// # Errors
/// When it can't be made; nothing is left of it then.
pub fn run(wishes: &Wishes) -> Result<(ExitCode, String), Failure> {
    let store = Store::here()?;
    let plan = plan(&store, wishes)?;
    let undo = Undo::begin(&plan.name)?;
    match make(wishes, &store, &plan, &undo) {
        Ok(()) => {
            plan.notes.iter().for_each(|note| eprintln!("note: {note}"));
            Ok((ExitCode::SUCCESS, plan.name))
        }
        Err(failure) => {
            undo.now();
            Err(failure)
        }
    }
}

/// Lets go of a base that no machine uses.
///
/// # Errors
/// When it is none, or is used.
pub fn release(path: &Path) -> Result<(), Failure> {
    Store::here()?.change()?.release(path)
}

fn plan(store: &Store, wishes: &Wishes) -> Result<Plan, Failure> {
    let before = store.read(&wishes.original)?;
    if is_running(store.folders(), &wishes.original) {
        return Err(is_on(&wishes.original));
    }
    let name = match &wishes.name {
        Some(name) => name.clone(),
        None => names::machine(&wishes.original, |name| store.has(name)),
    };
    name::check(&name)?;
    if store.has(&name) {
        return Err(taken(&name));
    }
    let uuid = uuid(store, wishes.uuid.as_deref())?;
    let macs = macs(store, wishes, &before)?;
    let disks = disks::plan(store, wishes, &name, &before)?;
    let mut domain = before.clone();
    let generation = new_uuid()?;
    let who = definition::Identity {
        original: &wishes.original,
        name: &name,
        uuid: &uuid,
        generation: &generation,
        macs: &macs,
    };
    let mut notes = definition::renew(&mut domain, &who);
    for (element, disk) in definition::disks(&mut domain).zip(&disks) {
        let (path, format, below) = match &disk.what {
            What::Share => continue,
            What::Copy { to } => (to, disk.format, true),
            What::Use { file, format } => (file, *format, false),
            What::Link { to, .. } => (to, Format::Qcow2, false),
        };
        definition::point(element, &path.to_string_lossy(), format.name(), below);
    }
    notes.extend(wishes.skip.iter().map(|target| format!("both machines use the disk {target}: run one at a time")));
    let original = wishes.original.clone();
    Ok(Plan { original, name, before, domain, disks, notes })
}

fn uuid(store: &Store, given: Option<&str>) -> Result<String, Failure> {
    let Some(given) = given else { return new_uuid() };
    let probe = Domain::parse(&format!("<domain><uuid>{}</uuid></domain>", kiln_domain::xml::escaped(given)));
    let bytes = |domain: &Domain| domain.uuid().ok().flatten();
    let Some(wanted) = probe.ok().as_ref().and_then(bytes) else {
        return Err(usage(format!("--uuid {given}: 32 hex digits are expected")));
    };
    for other in store.names()? {
        if store.read(&other).ok().as_ref().and_then(bytes) == Some(wanted) {
            return Err(Failure::new(Status::Conflict, format!("--uuid {given}: it is the uuid of {other:?}")));
        }
    }
    Ok(given.to_owned())
}

fn macs(store: &Store, wishes: &Wishes, before: &Domain) -> Result<Vec<Mac>, Failure> {
    let cards = before.devices().filter(|device| device.name() == "interface").count();
    if wishes.macs.len() > cards {
        let what =
            format!("--mac is given {} times; {:?} has {cards} network cards", wishes.macs.len(), wishes.original);
        return Err(usage(what));
    }
    let given = wishes.macs.iter().copied().chain(std::iter::repeat(None)).take(cards);
    let wish = |mac| NetworkWish { card: Interface { mac, ..Interface::default() }, ..NetworkWish::default() };
    let planned = install::network::plan(store, &given.map(wish).collect::<Vec<_>>())?;
    Ok(planned.into_iter().map(|(_, mac)| mac).collect())
}

fn make(wishes: &Wishes, store: &Store, plan: &Plan, undo: &Undo) -> Result<(), Failure> {
    make_folder(&store.folders().images())?;
    if !wishes.linked {
        copy_all(wishes, plan, undo)?;
        return undo.finish(|| define(&store.change()?, plan));
    }
    let _still = linked::hold_still(store, &plan.original)?;
    undo.finish(|| linked::make(&store.change()?, plan))?;
    for disk in &plan.disks {
        if let What::Link { top, to } = &disk.what {
            eprintln!("{:<8}{} (read-only from now on)", "base", disk.from.display());
            eprintln!("{:<8}{} of {:?}, {} of {:?}", "disks", top.display(), plan.original, to.display(), plan.name);
        }
    }
    Ok(())
}

fn copy_all(wishes: &Wishes, plan: &Plan, undo: &Undo) -> Result<(), Failure> {
    let how = match (wishes.reflink, wishes.whole) {
        (true, _) => copy::How::Reflink,
        (false, true) => copy::How::Whole,
        (false, false) => copy::How::Sparse,
    };
    let copies = plan.disks.iter().filter_map(|disk| match &disk.what {
        What::Copy { to } => Some((disk, to)),
        _ => None,
    });
    // All held before the first is copied: the copies are of one moment.
    let held: Vec<_> =
        copies.map(|(disk, to)| Ok((copy::hold(&disk.from, disk.format)?, to))).collect::<Result<_, Failure>>()?;
    for (image, to) in held {
        copy::copy(&image, to, how, undo)?;
        eprintln!("{:<8}{} to {}", "copied", image.path().display(), to.display());
    }
    Ok(())
}

fn define(changing: &Changing<'_>, plan: &Plan) -> Result<(), Failure> {
    if changing.store().has(&plan.name) {
        return Err(taken(&plan.name));
    }
    changing.write(&plan.name, &plan.domain).inspect_err(|_| {
        let _ = fs::remove_dir_all(changing.store().folders().definition(&plan.name));
    })
}
