//! What can be installed: install trees and media, recognised by their layout and by what they say about themselves.
//!
//! Nothing here reads files itself: a [`Tree`] looks them up, be it a folder, a server or an ISO image.

pub mod find;
pub mod grub;
pub mod menu;
pub mod paths;
pub mod syslinux;
pub mod tree;
pub mod treeinfo;

use crate::failure::Failure;

/// Where files of a tree are looked up. Paths are relative to its root, with slashes.
pub trait Tree {
    /// Whether there is such a file.
    ///
    /// # Errors
    /// When that can't be found out.
    fn has(&self, path: &str) -> Result<bool, Failure>;

    /// A small text file; `None` when there is none.
    ///
    /// # Errors
    /// When that can't be found out.
    fn text(&self, path: &str) -> Result<Option<String>, Failure>;

    /// What it is.
    fn place(&self) -> Place;
}

/// Kinds of trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A folder of this host.
    Folder,
    /// A server, where every look costs the time of a network.
    Server,
    /// An install medium, which the guest has as well.
    Medium,
}

/// The system whose installer was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Its name, as people know it.
    pub name: String,
    /// The kernel argument that tells its installer the tree's URL.
    pub url_argument: Option<&'static str>,
}

impl System {
    /// A system by a name that a tree gives it: a short one, without what a terminal would take for a command.
    pub fn named(name: &str, url_argument: Option<&'static str>) -> Self {
        let name = name.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
        let name: String = name.collect::<Vec<_>>().join(" ").chars().take(LONGEST_NAME).collect();
        Self { name: if name.is_empty() { "an installer".into() } else { name }, url_argument }
    }
}

/// Letters of a system's name that are told.
const LONGEST_NAME: usize = 60;

/// An installer in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installer {
    /// Whose it is.
    pub system: System,
    /// Its kernel's path in the tree.
    pub kernel: String,
    /// Paths of what is its initrd together.
    pub initrd: Vec<String>,
    /// Words that its kernel needs.
    pub words: Vec<String>,
    /// What is known of checksums.
    pub sums: Sums,
    /// How it was found, where that isn't by its layout.
    pub by: Option<String>,
}

/// SHA-256 sums of a tree's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sums {
    /// None are known.
    None,
    /// They stand in this file, if it is there.
    List(&'static str),
    /// Paths and sums.
    Known(Vec<(String, String)>),
}
