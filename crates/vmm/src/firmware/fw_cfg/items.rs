//! What firmware can ask for: numbered items, and files with names among them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bits::*;

/// Makes an item's bytes.
pub type Make = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Where an item's bytes come from.
#[derive(Clone)]
pub enum Content {
    /// The same in all lives of the machine.
    Fixed(Vec<u8>),
    /// Made anew at the first look after each reset, since it tells of what firmware has moved meanwhile. Firmware asks for sizes
    /// before: it is as long as is said, with zeros at its end.
    Made {
        /// Bytes.
        len: usize,
        /// Makes them, at most `len`.
        make: Make,
    },
}

impl Content {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Fixed(bytes) => bytes.len(),
            Self::Made { len, .. } => *len,
        }
    }
}

/// Why an item can't be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// The name is empty, too long, or has other letters than printable ones of ASCII.
    #[error("the name {0:?} can't be a firmware configuration file's: it takes 1 to 55 printable letters")]
    Name(String),
    /// There is such a file, or such a key.
    #[error("{0} stands in the firmware configuration already")]
    Twice(String),
    /// The key is the device's own, or a file's.
    #[error("the key {0:#x} of the firmware configuration is not free to choose")]
    Key(u16),
    /// Its length doesn't fit into 32 bits, or there is no key left.
    #[error("{0} has no room in the firmware configuration")]
    Room(String),
}

/// All items of a machine.
#[derive(Clone, Default)]
pub struct Items {
    numbered: BTreeMap<u16, Content>,
    files: BTreeMap<String, Content>,
}

impl Items {
    /// Adds an item under a key.
    ///
    /// # Errors
    /// When the key is the device's own, a file's or taken, or the item too long.
    pub fn number(&mut self, key: u16, content: Content) -> Result<(), ItemError> {
        let own = [KEY_SIGNATURE, KEY_FEATURES, KEY_DIRECTORY].contains(&key);
        let files = key & SELECT_ARCHITECTURE == 0 && key >= KEY_FIRST_FILE;
        if own || files || key & SELECT_WRITE != 0 {
            return Err(ItemError::Key(key));
        }
        fits(&content).ok_or_else(|| ItemError::Room(format!("the key {key:#x}")))?;
        match self.numbered.insert(key, content) {
            None => Ok(()),
            Some(_) => Err(ItemError::Twice(format!("the key {key:#x}"))),
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When the name can't be one or is taken, or the file too long.
    pub fn file(&mut self, name: &str, content: Content) -> Result<(), ItemError> {
        let is_name = (1..NAME_LEN).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name {
            return Err(ItemError::Name(name.into()));
        }
        let last = KEY_FIRST_FILE as usize + self.files.len();
        fits(&content).filter(|()| last < usize::from(SELECT_WRITE)).ok_or_else(|| ItemError::Room(name.into()))?;
        match self.files.insert(name.into(), content) {
            None => Ok(()),
            Some(_) => Err(ItemError::Twice(name.into())),
        }
    }

    // All items by key: files have theirs by the order of their names.
    pub(super) fn by_key(self) -> BTreeMap<u16, Content> {
        let mut all = self.numbered;
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (key, (name, content)) in (KEY_FIRST_FILE..).zip(self.files) {
            let mut entry = Vec::with_capacity(ENTRY_LEN);
            entry.extend((content.len() as u32).to_be_bytes());
            entry.extend(key.to_be_bytes());
            entry.extend([0, 0]);
            entry.extend(name.as_bytes());
            entry.resize(ENTRY_LEN, 0);
            directory.extend(entry);
            all.insert(key, content);
        }
        let features = (FEATURE_TRADITIONAL | FEATURE_DMA).to_le_bytes();
        all.insert(KEY_SIGNATURE, Content::Fixed(SIGNATURE.into()));
        all.insert(KEY_FEATURES, Content::Fixed(features.into()));
        all.insert(KEY_DIRECTORY, Content::Fixed(directory));
        all
    }
}

fn fits(content: &Content) -> Option<()> {
    u32::try_from(content.len()).is_ok().then_some(())
}
