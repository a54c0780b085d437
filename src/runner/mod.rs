//! One machine in one process: domain XML becomes a [`kiln_vmm::config::Config`], and monitor, VNC server, console and
//! control socket are joined.
//!
//! Whoever starts a machine opens everything it needs ([`start`]); the process gets opened descriptors
//! ([`handover`]) and opens no path after that.

pub mod blueprint;
pub mod cards;
mod console;
pub mod disks;
pub mod handover;
mod ids;
pub mod keymap;
mod leavings;
mod ports;
mod process;
mod qmp;
mod screen;
pub mod start;
mod state;
mod viewers;
mod visitors;

pub use process::{Ending, main};
