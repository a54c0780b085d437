//! A machine as verbs are told of it: by name, uuid or number; defined, running, or both.

use std::fs;

use kiln_domain::Domain;

use super::running::{self, DOCUMENT, Running, is_running};
use super::store::Changing;
use super::{Store, lock, name};
use crate::failure::{Failure, Status};
use crate::runner::start::LOCK;

/// A machine that is defined or runs.
#[derive(Debug, Clone)]
pub struct Known {
    /// The store that it is in.
    pub store: Store,
    /// Its name.
    pub name: String,
}

impl Known {
    /// The machine that a word means: its name, else its uuid, else its number while it runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(word: &str) -> Result<Self, Failure> {
        let store = Store::here()?;
        name::check(word).map_err(|failure| match word {
            "" => failure.in_virsh("Failed to get option 'domain': Option argument is empty"),
            _ => failure.in_virsh(format!("failed to get domain '{word}'")),
        })?;
        let is_there = |name: &str| store.has(name) || is_running(store.folders(), name);
        if is_there(word) {
            return Ok(Self { name: word.into(), store });
        }
        match Self::by_uuid(&store, word).or_else(|| Self::by_number(&store, word)) {
            Some(name) => Ok(Self { store, name }),
            None => Err(store.unknown(word).in_virsh(format!("failed to get domain '{word}'"))),
        }
    }

    /// The name of the machine that has this uuid.
    pub fn by_uuid(store: &Store, word: &str) -> Option<String> {
        let wanted = uuid(word)?;
        let mut names = store.names().ok()?;
        names.extend(running::names(store.folders()));
        names.into_iter().find(|name| {
            let known = Self { store: store.clone(), name: name.clone() };
            known.document().is_ok_and(|document| document.uuid() == Ok(Some(wanted)))
        })
    }

    /// The name of the running machine that has this number.
    pub fn by_number(store: &Store, word: &str) -> Option<String> {
        let wanted: u32 = word.parse().ok()?;
        let mut names = running::names(store.folders()).into_iter();
        names.find(|name| running::record(store.folders(), name).is_some_and(|record| record.id == wanted))
    }

    /// Whether it stays when it stops.
    pub fn is_persistent(&self) -> bool {
        self.store.has(&self.name)
    }

    /// The running machine; `None` when it doesn't run.
    ///
    /// # Errors
    /// When it runs but can't be talked to.
    pub fn find(&self) -> Result<Option<Running>, Failure> {
        Running::find(self.store.folders(), &self.name)
    }

    /// The running machine.
    ///
    /// # Errors
    /// When it doesn't run, or can't be talked to.
    pub fn running(&self) -> Result<Running, Failure> {
        self.find()?.ok_or_else(|| running::not_running(&self.name))
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        is_running(self.store.folders(), &self.name)
    }

    /// Its permanent definition.
    ///
    /// # Errors
    /// When it has none, or it can't be read.
    pub fn definition(&self) -> Result<Domain, Failure> {
        if !self.is_persistent() && self.runs() {
            return Err(Failure::new(Status::Failed, format!("{:?} has no permanent definition", self.name))
                .why("it is transient: it is gone when it stops")
                .advise(format!("kiln dumpxml {0} > {0}.xml, then kiln define {0}.xml keeps it.", self.name))
                .in_virsh("Requested operation is not valid: transient domains do not have any persistent config"));
        }
        self.store.read(&self.name)
    }

    /// The document of its run while it runs, else its definition.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn document(&self) -> Result<Domain, Failure> {
        if self.runs() {
            let path = self.store.folders().running(&self.name).join(DOCUMENT);
            if let Some(document) = fs::read_to_string(path).ok().and_then(|text| Domain::parse(&text).ok()) {
                return Ok(document);
            }
        }
        self.definition()
    }

    /// Removes what its process logged, when it has stopped.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove_log(&self) -> Result<(), Failure> {
        let path = self.store.folders().log(&self.name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::new(Status::Failed, format!("{} can't be removed", path.display())).because(&e))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a machine that was not kept leaves behind when it has stopped. Most of it went with its process.
    pub fn forget_if_gone(&self) {
        if let Ok(changing) = self.store.change() {
            forget(&changing, &self.name);
        }
    }
}

/// Removes what machines leave behind that were not kept and whose processes were killed.
pub fn forget_gone(changing: &Changing<'_>) {
    let folder = changing.store().folders().runtime.join("machines");
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).for_each(|name| forget(changing, &name));
}

fn forget(changing: &Changing<'_>, name: &str) {
    let (store, folders) = (changing.store(), changing.store().folders());
    // Whoever starts one of this name has the lock, and is let alone.
    let Ok(Some(_lock)) = lock::try_lock(&folders.running(name).join(LOCK)) else { return };
    if !store.has(name) {
        for folder in [folders.running(name), folders.logs(name)] {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The bytes of a uuid as people write it (RFC 9562, section 4; dashes may be left out).
pub fn uuid(text: &str) -> Option<[u8; 16]> {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let is_one = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u128::from_str_radix(&hex, 16).ok().filter(|_| is_one)?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_with_and_without_dashes() {
        let bytes = uuid("12345678-9abc-def0-1234-56789abcdef0").unwrap();
        assert_eq!(bytes[..4], [0x12, 0x34, 0x56, 0x78]);
        assert_eq!(uuid("123456789ABCDEF0123456789abcdef0"), Some(bytes));
        assert!(uuid("web").is_none() && uuid("12").is_none() && uuid(&"+".repeat(32)).is_none());
    }
}
