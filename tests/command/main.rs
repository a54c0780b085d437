//! The command as its users meet it: what it answers, what it leaves, and how machines live under it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

mod alike;
mod bad_disks;
mod bad_input;
mod control;
mod disk_trouble;
mod disks;
mod documents;
mod endings;
mod guest;
mod home;
mod host;
mod kills;
mod libvirt;
mod lives;
mod seed;
mod server;
mod states;
mod talk;
mod verbs;
mod virsh;
