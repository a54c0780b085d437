//! Whether this process is to be quiet: `virsh -q` leaves out what isn't data.
//!
//! It is one word for the whole process, said once before the first verb runs, as its name is. Data that was asked for, what
//! went wrong and what kiln could not do as it was asked are told in any case.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use super::machine::done;
use crate::failure::Failure;

static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on only data is printed.
pub(super) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

pub(super) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Says on standard output what was done.
pub(super) fn said(text: &str) -> Result<ExitCode, Failure> {
    done(if is_quiet() { "" } else { text })
}

/// Says on standard error what is good to know.
pub(super) fn mentioned(text: &str) {
    if !is_quiet() {
        eprintln!("{text}");
    }
}
