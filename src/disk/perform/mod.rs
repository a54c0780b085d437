//! Where requests are carried out. One file per verb; what several need is in `open.rs` and `target.rs`.

mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod info;
mod map;
mod measure;
mod open;
mod rebase;
mod resize;
mod snapshot;
mod target;

use std::process::ExitCode;

pub(crate) use target::raw as lengthen_raw;

use super::{Dialect, Request};
use crate::failure::Failure;

/// Does what was asked for.
///
/// # Errors
/// What went wrong; nothing is half-written then.
pub fn perform(dialect: Dialect, request: Request) -> Result<ExitCode, Failure> {
    match request {
        Request::Create(create) => create::perform(dialect, &create),
        Request::Info(info) => info::perform(dialect, &info),
        Request::Check(check) => check::perform(dialect, &check),
        Request::Convert(convert) => convert::perform(dialect, &convert),
        Request::Resize(resize) => resize::perform(&resize),
        Request::Snapshot(snapshot) => snapshot::perform(&snapshot),
        Request::Rebase(rebase) => rebase::perform(&rebase),
        Request::Commit(commit) => commit::perform(&commit),
        Request::Map(map) => map::perform(dialect, &map),
        Request::Compare(compare) => compare::perform(dialect, &compare),
        Request::Measure(measure) => measure::perform(dialect, &measure),
    }
}
