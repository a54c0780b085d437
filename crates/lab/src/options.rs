//! What a lab is made of.

use std::path::PathBuf;

/// Settings of a lab. The default is what guest tests use.
#[derive(Debug, Clone)]
pub struct Options {
    /// CPUs of the emulated PC. Two, so that a guest's CPUs can run at once; more gain nothing.
    pub cpus: u32,
    /// Memory of the emulated PC in MiB; only what is touched is taken from this machine.
    pub memory_mib: u32,
    /// Nested paging in the inner KVM. Off by default: with it guests of several CPUs hang (docs/lab.md).
    pub npt: bool,
    /// Time counts instructions: repeatable to half a percent, at twice the wall time and with one CPU.
    pub icount: bool,
    /// Files and folders from here, to the same path or another one inside. ELF files bring their libraries.
    pub files: Vec<(PathBuf, String)>,
    /// Disks `/dev/vda` and on.
    pub disks: Vec<Disk>,
    /// TCP ports: here (127.0.0.1) to inside.
    pub forwards: Vec<(u16, u16)>,
    /// More kernel modules.
    pub modules: Vec<String>,
}

/// A disk of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// Empty, of this many bytes, gone with the lab.
    Blank(u64),
    /// A raw image, written in place.
    Image(PathBuf),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory_mib: 2048,
            npt: false,
            icount: false,
            files: Vec::new(),
            disks: Vec::new(),
            forwards: Vec::new(),
            modules: Vec::new(),
        }
    }
}

impl Options {
    /// One line that says under which settings something was measured.
    pub fn describe(&self) -> String {
        format!(
            "{} CPU{}, {} MiB, npt={}, {}",
            self.processors(),
            if self.processors() == 1 { "" } else { "s" },
            self.memory_mib,
            u8::from(self.npt),
            if self.icount { "icount" } else { "wall clock" }
        )
    }

    /// CPUs that the lab really gets: icount has one.
    pub fn processors(&self) -> u32 {
        if self.icount { 1 } else { self.cpus }
    }
}
