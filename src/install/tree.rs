//! The installer's kernel and initrd: found, brought here and checked.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kiln_image::Format;
use sha2::{Digest, Sha256};

use super::TreeWish;
use super::location::Location;
use super::undo::Undo;
use crate::failure::{Failure, Status};
use crate::machine::{Store, store};
use crate::media::fetch::Job;
use crate::media::initrd::{Builder, Injection};
use crate::media::iso::Iso;
use crate::os::find::{self, Search};
use crate::os::{Installer, Place, Sums, System, Tree, paths};
use crate::plan::{Boot, Disk};

/// A tree in which an installer was found.
pub(super) struct Found {
    /// As it was asked for.
    wish: TreeWish,
    location: Location,
    installer: Installer,
    injection: Injection,
}

/// Looks for an installer.
pub(super) fn find(wish: &TreeWish) -> Result<Found, Failure> {
    let injection = Injection::new(&wish.inject)?;
    let location = Location::open(&wish.location)?;
    let installer = match &wish.files {
        Some((kernel, initrd)) => named(&location, kernel, initrd)?,
        None => match find::find(&location)? {
            Search::Found(installer) => installer,
            Search::Nothing(reasons) => return Err(unknown(wish, &location, reasons)),
        },
    };
    Ok(Found { wish: wish.clone(), location, installer, injection })
}

fn named(location: &Location, kernel: &str, initrd: &str) -> Result<Installer, Failure> {
    let path = |what: &str, path: &str| {
        let refuse = |status, why: &str| Failure::new(status, format!("--location …,{what}={path}: {why}"));
        let inside = paths::inside("", path)
            .ok_or_else(|| refuse(Status::Usage, "it leads out of the location").advise("Paths begin at its root."))?;
        match location.has(&inside)? {
            true => Ok(inside),
            false => Err(refuse(Status::NotFound, &format!("there is no {}", location.name(&inside).display()))),
        }
    };
    Ok(Installer {
        system: System { name: "the installer that was named".into(), url_argument: None },
        kernel: path("kernel", kernel)?,
        initrd: vec![path("initrd", initrd)?],
        words: Vec::new(),
        sums: Sums::None,
        by: None,
    })
}

fn unknown(wish: &TreeWish, location: &Location, reasons: Vec<String>) -> Failure {
    let mut failure = match location {
        Location::Medium(iso) => {
            let what = format!("there is no installer that kiln can start on {}", iso.path().display());
            let mut failure = Failure::new(Status::NotFound, what)
                .why(format!("looked for: .treeinfo, the layouts of {}", find::looked_for()))
                .why("and for a menu of isolinux, syslinux or GRUB that names a Linux kernel and an initrd");
            if iso.has_udf() {
                failure = failure.why("the volume has UDF files as well, into which kiln doesn't look");
            }
            failure.advise("Name them by their paths in it: --location ISO,kernel=PATH,initrd=PATH")
        }
        _ => Failure::new(Status::NotFound, format!("there is no install tree at {}", wish.location))
            .why(format!("neither kernel nor initrd of a layout that kiln knows is there ({})", find::looked_for()))
            .advise("For Debian: the folder that holds debian-installer/amd64/linux, or …/installer-amd64/")
            .advise("For Fedora, Red Hat, SUSE: the folder that holds .treeinfo")
            .advise("Or name them: --location TREE,kernel=PATH,initrd=PATH"),
    };
    failure.causes.extend(reasons);
    if location.place() == Place::Server && wish.location.to_ascii_lowercase().ends_with(".iso") {
        failure = failure.advise("An ISO image is to be downloaded first; then --location FILE.");
    }
    failure
}

fn folder(store: &Store, machine: &str) -> PathBuf {
    store.folders().cache.join("installs").join(machine)
}

impl Found {
    /// The kernel is used where it lies.
    fn has_kernel(&self) -> bool {
        matches!(self.location, Location::Folder(_))
    }

    /// The initrd is used where it lies.
    fn has_initrd(&self) -> bool {
        self.has_kernel() && self.injection.is_empty() && self.installer.initrd.len() == 1
    }

    /// What is to boot, by the names that it has or will have.
    pub(super) fn boot(&self, store: &Store, machine: &str, cmdline: &str) -> Boot {
        let lies = |path: &str| self.location.name(path);
        let folder = folder(store, machine);
        // Nobody has seen a server's file here yet.
        let shows = |name: &str, path: &str| {
            if self.location.place() == Place::Server { lies(path) } else { folder.join(name) }
        };
        let kernel = &self.installer.kernel;
        let initrd = self.installer.initrd.first().map_or("", String::as_str);
        Boot {
            kernel: if self.has_kernel() { lies(kernel) } else { shows("linux", kernel) },
            initrd: Some(if self.has_initrd() { lies(initrd) } else { shows("initrd", initrd) }),
            cmdline: cmdline.into(),
        }
    }

    /// The names of [`Self::boot`] that are no files yet.
    pub(super) fn comes(&self, boot: &Boot, path: &Path) -> bool {
        !self.has_kernel() && boot.kernel == path || !self.has_initrd() && boot.initrd.as_deref() == Some(path)
    }

    /// The words that the kernel needs, those it is given by the user being `extra`.
    pub(super) fn words(&self, extra: &str) -> Vec<String> {
        let quoted = |word: &String| {
            if word.contains(char::is_whitespace) { format!("\"{word}\"") } else { word.clone() }
        };
        let names = |word: &str| word.split_once('=').map_or(word.to_owned(), |(name, _)| format!("{name}="));
        // The user's own word of that name stands for it.
        let given = |word: &String| extra.split_whitespace().any(|own| names(own) == names(word));
        let mut words: Vec<String> = self.installer.words.iter().filter(|word| !given(word)).map(quoted).collect();
        if let (Location::Server { base, .. }, Some(argument)) = (&self.location, self.installer.system.url_argument) {
            let others = ["inst.repo=", "inst.stage2=", "method=", "install=", "repo="];
            if !extra.split_whitespace().any(|own| others.iter().any(|name| own.starts_with(name))) {
                words.push(format!("{argument}={}", base.trim_end_matches('/')));
            }
        }
        words
    }

    /// The medium that the installer goes on from, as a disk of the first boot.
    pub(super) fn medium(&self) -> Option<Disk> {
        let Location::Medium(iso) = &self.location else { return None };
        Some(Disk {
            path: iso.path().into(),
            is_block: iso.is_block(),
            format: Format::Raw,
            driver: Vec::new(),
            read_only: true,
            shareable: false,
            serial: None,
            boot_order: None,
            make: None,
        })
    }

    /// Says what was found.
    fn tell(&self) {
        let name = &self.installer.system.name;
        let by = self.installer.by.as_ref().map_or(String::new(), |file| format!(", by its {file}"));
        match &self.location {
            Location::Medium(iso) => {
                eprintln!("{:<8}{name} on {} (volume {:?}){by}", "medium", iso.path().display(), iso.volume());
            }
            _ => eprintln!("{:<8}{name} at {}{by}", "tree", self.wish.location),
        }
        let is_local = matches!(self.location, Location::Folder(_));
        if let (true, Some(argument)) = (is_local, self.installer.system.url_argument) {
            eprintln!("note: guests can't reach this folder; a server with the tree: --extra-args {argument}=URL");
        }
    }

    /// Brings the installer here, if it isn't.
    pub(super) fn fetch(&self, store: &Store, machine: &str, cmdline: &str, undo: &Undo) -> Result<Boot, Failure> {
        self.tell();
        let mut boot = self.boot(store, machine, cmdline);
        if self.has_kernel() && self.has_initrd() {
            self.check_folder()?;
            return Ok(boot);
        }
        let folder = folder(store, machine);
        undo.step(|| {
            store::make_folder(&folder)?;
            let gone = folder.clone();
            Ok(((), Box::new(move || drop(fs::remove_dir_all(gone)))))
        })?;
        let (kernel, initrd) = (folder.join("linux"), folder.join("initrd"));
        match &self.location {
            Location::Folder(_) => self.check_folder()?,
            Location::Server { base, fetcher } => {
                let job = |what, path: &String, to: &Path| {
                    let sum = find::sum(&self.location, &self.installer.sums, path)?;
                    Ok::<_, Failure>(Job { what, url: format!("{base}{path}"), to: to.into(), sum })
                };
                let mut jobs = vec![job("kernel", &self.installer.kernel, &kernel)?];
                for (number, path) in self.installer.initrd.iter().enumerate() {
                    jobs.push(job("initrd", path, &piece(&folder, number))?);
                }
                fetcher.files(&jobs)?.iter().for_each(|line| eprintln!("{line}"));
                boot.kernel = kernel;
            }
            Location::Medium(iso) => {
                let mut copy = Builder::new(&kernel)?;
                copy.piece(|file| self.copied(iso, &self.installer.kernel, file))?;
                copy.finish()?;
                boot.kernel = kernel;
            }
        }
        self.initrd(&folder, &initrd)?;
        boot.initrd = Some(initrd);
        Ok(boot)
    }

    // All of its pieces and what is injected, in one file.
    fn initrd(&self, folder: &Path, to: &Path) -> Result<(), Failure> {
        if self.location.place() == Place::Server && self.injection.is_empty() && self.installer.initrd.len() == 1 {
            return fs::rename(piece(folder, 0), to)
                .map_err(|e| Failure::new(Status::Failed, format!("{} can't be written", to.display())).because(&e));
        }
        let mut builder = Builder::new(to)?;
        for (number, path) in self.installer.initrd.iter().enumerate() {
            match &self.location {
                Location::Folder(folder) => builder.file(&folder.join(path))?,
                Location::Server { .. } => {
                    builder.file(&piece(folder, number))?;
                    let _ = fs::remove_file(piece(folder, number));
                }
                Location::Medium(iso) => {
                    builder.piece(|file| self.copied(iso, path, file))?;
                }
            }
        }
        builder.inject(&self.injection)?;
        builder.finish()?;
        if !self.injection.is_empty() {
            eprintln!("{:<8}in the initrd: {}", "inject", self.injection.names());
        }
        Ok(())
    }

    // A folder may have a list of sums as well.
    fn check_folder(&self) -> Result<(), Failure> {
        for path in std::iter::once(&self.installer.kernel).chain(&self.installer.initrd) {
            let Some(wanted) = find::sum(&self.location, &self.installer.sums, path)? else { continue };
            let file = self.location.name(path);
            let trouble = |e| Failure::new(Status::Failed, format!("{} can't be read", file.display())).because(&e);
            let mut summed = Summed::new(io::sink());
            io::copy(&mut fs::File::open(&file).map_err(trouble)?, &mut summed).map_err(trouble)?;
            summed.check(&file, &wanted)?;
        }
        Ok(())
    }

    fn copied(&self, iso: &Iso, path: &str, to: &mut fs::File) -> Result<u64, Failure> {
        let wanted = find::sum(&self.location, &self.installer.sums, path)?;
        let mut summed = Summed::new(to);
        let len = iso.copy(path, &mut summed)?;
        match wanted {
            Some(wanted) => summed.check(&self.location.name(path), &wanted).map(|()| len),
            None => Ok(len),
        }
    }
}

fn piece(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("initrd-{number}"))
}

/// Writes on, and adds up what it writes.
struct Summed<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Summed<W> {
    fn new(to: W) -> Self {
        Self { to, hash: Sha256::new() }
    }

    fn check(self, name: &Path, wanted: &str) -> Result<(), Failure> {
        let found: String = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if found == wanted {
            return Ok(());
        }
        Err(Failure::new(Status::Verification, format!("{} has a wrong checksum", name.display()))
            .why(format!("its own list says {wanted}"))
            .why(format!("the file has {found}"))
            .advise("Get it again."))
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The downloads have served: an installer's kernel is for the first boot alone, whose process has it open.
pub(super) fn forget(store: &Store, machine: &str) {
    let _ = fs::remove_dir_all(folder(store, machine));
}
