//! The store: one definition per machine, a format number, atomic writes.
//!
//! ```text
//! config/format                  the number below
//! config/lock                    held while definitions change
//! config/machines/NAME/domain.xml
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kiln_domain::Domain;

use super::{Folders, lock, name};
use crate::failure::{Failure, Status};

/// Format of the store that this kiln writes.
pub const FORMAT: u32 = 1;

const DEFINITION: &str = "domain.xml";

/// A store.
#[derive(Debug, Clone)]
pub struct Store {
    folders: Folders,
}

/// The store is locked for changes as long as this lives.
pub struct Changing<'a> {
    store: &'a Store,
    _lock: File,
}

fn trouble(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(Status::Failed, format!("{doing} {} failed", path.display())).because(error);
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            failure.advise("Make the folder writable, or keep machines elsewhere: export KILN_HOME=/some/folder")
        }
        io::ErrorKind::StorageFull => failure.advise("Free some space there, or keep machines elsewhere by KILN_HOME"),
        _ => failure,
    }
}

/// Writes a file for its owner alone, by temporary name, fsync and rename, so that it is there whole or not at all.
///
/// # Errors
/// When the file system refuses.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        // Definitions hold the passwords of screens.
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        trouble("writing", path, &e)
    })
}

/// Makes a folder and those above it.
///
/// # Errors
/// When the file system refuses.
pub fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|e| trouble("creating the folder", path, &e))
}

impl Store {
    /// Opens the store in these folders. One that isn't there is empty.
    ///
    /// # Errors
    /// When a newer kiln wrote it, or it can't be read.
    pub fn open(folders: Folders) -> Result<Self, Failure> {
        let path = folders.config.join("format");
        match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(trouble("reading", &path, &e)),
            Ok(text) => check_format(&path, &text)?,
        }
        Ok(Self { folders })
    }

    /// A new store, with the folder that everything of it lies in.
    #[cfg(test)]
    pub(crate) fn scratch() -> (tempfile::TempDir, Self) {
        let home = tempfile::tempdir().expect("a folder");
        let around = super::folders::Surroundings { kiln_home: Some(home.path().into()), ..Default::default() };
        let store = Folders::of(&around).and_then(Self::open).expect("a store");
        (home, store)
    }

    /// This user's store.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn here() -> Result<Self, Failure> {
        Self::open(Folders::here()?)
    }

    /// Its folders.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// Where a machine's definition lies in the store's `config` folder.
    pub fn definition_in_config(name: &str) -> PathBuf {
        Path::new("machines").join(name).join(DEFINITION)
    }

    fn definition(&self, name: &str) -> PathBuf {
        self.folders.definition(name).join(DEFINITION)
    }

    /// Names of all machines that are defined, sorted.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn names(&self) -> Result<Vec<String>, Failure> {
        let folder = self.folders.config.join("machines");
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.map_err(|e| trouble("reading", &folder, &e))?,
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| self.definition(name).is_file()).collect();
        names.sort();
        Ok(names)
    }

    /// Whether a machine is defined.
    pub fn has(&self, name: &str) -> bool {
        name::check(name).is_ok() && self.definition(name).is_file()
    }

    /// A machine's definition.
    ///
    /// # Errors
    /// When there is none, or it can't be read.
    pub fn read(&self, name: &str) -> Result<Domain, Failure> {
        if !self.has(name) {
            return Err(self.unknown(name));
        }
        let path = self.definition(name);
        let text = fs::read_to_string(&path).map_err(|e| trouble("reading", &path, &e))?;
        Domain::parse(&text).map_err(|e| {
            Failure::new(Status::Failed, format!("the definition {} can't be understood", path.display())).because(&e)
        })
    }

    /// What to say of a machine that isn't there: the nearest name, and root's machines where they can be seen.
    pub fn unknown(&self, name: &str) -> Failure {
        let failure = Failure::new(Status::NotFound, format!("no machine {name:?}"));
        let names = self.names().unwrap_or_default();
        let near = names.iter().min_by_key(|n| distance(n, name)).filter(|n| distance(n, name) <= 2);
        let system = Path::new("/etc/kiln/machines").join(name).join(DEFINITION);
        if self.folders.config != Path::new("/etc/kiln") && name::check(name).is_ok() && system.is_file() {
            failure.advise("root has one: sudo kiln …")
        } else if let Some(near) = near {
            failure.advise(format!("Did you mean {near:?}?"))
        } else if names.is_empty() {
            failure.advise("There is none yet; kiln install makes one.")
        } else {
            failure.advise("kiln list --all shows those there are.")
        }
    }

    /// Locks the store for changes, making it where it isn't there yet.
    ///
    /// # Errors
    /// When the file system refuses, or a newer kiln wrote it meanwhile.
    pub fn change(&self) -> Result<Changing<'_>, Failure> {
        make_folder(&self.folders.config)?;
        let path = self.folders.lock();
        let lock = lock::lock(&path).map_err(|e| trouble("locking", &path, &e))?;
        let format = self.folders.config.join("format");
        match fs::read_to_string(&format) {
            Ok(text) => check_format(&format, &text)?,
            Err(_) => write_whole(&format, format!("{FORMAT}\n").as_bytes())?,
        }
        Ok(Changing { store: self, _lock: lock })
    }
}

impl Changing<'_> {
    /// The store.
    pub fn store(&self) -> &Store {
        self.store
    }

    /// Writes a machine's definition, new or again.
    ///
    /// # Errors
    /// When the name is refused or the file system does.
    pub fn write(&self, name: &str, domain: &Domain) -> Result<(), Failure> {
        name::check(name)?;
        make_folder(&self.store.folders.definition(name))?;
        let mut text = domain.to_string();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        write_whole(&self.store.definition(name), text.as_bytes())
    }

    /// Removes a machine's definition, and unless it runs, its logs; disks stay.
    ///
    /// # Errors
    /// When there is none, or the file system refuses.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        if !self.store.has(name) {
            return Err(self.store.unknown(name));
        }
        let folder = self.store.folders.definition(name);
        // The definition first: without it the rest is not a machine, however far this gets.
        let definition = self.store.definition(name);
        fs::remove_file(&definition).map_err(|e| trouble("removing", &definition, &e))?;
        let left = if super::running::is_running(&self.store.folders, name) {
            vec![folder]
        } else {
            vec![folder, self.store.folders.logs(name), self.store.folders.running(name)]
        };
        for folder in left {
            match fs::remove_dir_all(&folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(trouble("removing", &folder, &e)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn check_format(path: &Path, text: &str) -> Result<(), Failure> {
    match text.trim().parse::<u32>() {
        Ok(FORMAT) => Ok(()),
        Ok(newer) if newer > FORMAT => {
            Err(Failure::new(Status::Failed, format!("the store has format {newer}; this kiln reads format {FORMAT}"))
                .why(format!("a newer kiln wrote {}", path.display()))
                .advise("Use that kiln, or another store: export KILN_HOME=/some/folder"))
        }
        _ => Err(Failure::new(Status::Failed, format!("{} holds no format number", path.display()))
            .advise(format!("If the store is kiln's, write the number {FORMAT} into it."))),
    }
}

/// Edits between two words (Levenshtein's distance).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::parse(&format!("<domain type='kvm'>\n  <name>{name}</name>\n</domain>\n")).unwrap()
    }

    #[test]
    fn a_definition_comes_back_as_it_was_written() {
        let (_home, store) = Store::scratch();
        assert!(store.names().unwrap().is_empty());
        store.change().unwrap().write("web", &domain("web")).unwrap();
        assert_eq!(store.names().unwrap(), ["web"]);
        assert_eq!(store.read("web").unwrap(), domain("web"));
        store.change().unwrap().remove("web").unwrap();
        assert!(!store.has("web"));
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn an_unknown_name_gets_the_nearest() {
        let (_home, store) = Store::scratch();
        assert!(store.read("web").unwrap_err().to_string().contains("kiln install"));
        store.change().unwrap().write("webserver", &domain("webserver")).unwrap();
        let failure = store.read("webservr").unwrap_err();
        assert_eq!(failure.status, Status::NotFound);
        assert!(failure.to_string().contains("Did you mean \"webserver\"?"), "{failure}");
    }

    #[test]
    fn a_newer_store_is_refused_and_left_alone() {
        let (home, store) = Store::scratch();
        store.change().unwrap();
        let format = home.path().join("config/format");
        fs::write(&format, "2\n").unwrap();
        let failure = Store::open(store.folders().clone()).unwrap_err();
        assert!(failure.to_string().contains("format 2"), "{failure}");
        assert!(store.change().is_err());
        assert_eq!(fs::read_to_string(&format).unwrap(), "2\n");
        fs::write(&format, "junk").unwrap();
        assert!(Store::open(store.folders().clone()).is_err());
    }

    #[test]
    fn distances() {
        assert_eq!((distance("web", "web"), distance("web", "wbe"), distance("", "ab")), (0, 2, 2));
    }
}
