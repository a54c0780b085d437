//! `snapshot`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln_image::qcow2::Qcow2;

use super::super::{Action, Cache, Snapshot, SnapshotVerb};
use super::{info, open};
use crate::failure::{Failure, Status};

pub(super) fn perform(request: &SnapshotVerb) -> Result<ExitCode, Failure> {
    let image = match request.action {
        Action::List => open::reading(&request.file, open::for_reading(request.format, request.force_share))?,
        _ => open::writing(&request.file, request.format, Cache::Writeback)?,
    };
    let Some(qcow2) = image.qcow2() else {
        if request.action == Action::List {
            return Ok(ExitCode::SUCCESS);
        }
        let failure = Failure::new(Status::Failed, format!("{} can't have snapshots", request.file.display()));
        return Err(failure.why("it is raw").advise("kiln disk convert -O qcow2 makes a disk of it that can."));
    };
    let told = |error: kiln_image::Error| open::failed(&error);
    match &request.action {
        Action::List => {
            let all = qcow2.snapshots().map_err(told)?;
            if !all.is_empty() && !request.quiet {
                print!("Snapshot list:\n{}", info::snapshot_table(&all));
            }
        }
        Action::Create(name) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            qcow2.create_snapshot(name, now.as_secs() as u32, now.subsec_nanos()).map_err(told)?;
        }
        Action::Apply(word) => {
            let all = qcow2.snapshots().map_err(told)?;
            let index = find(qcow2, request, word)?;
            if let Some(snapshot) = all.get(index) {
                qcow2.apply_snapshot(snapshot).map_err(told)?;
            }
        }
        // By its name only, as qemu-img has it: an id is soon mistaken.
        Action::Delete(word) => {
            let all = qcow2.snapshots().map_err(told)?;
            let index = all.iter().position(|snapshot| snapshot.name == *word).ok_or_else(|| missing(request, word))?;
            qcow2.delete_snapshot(index).map_err(told)?;
        }
    }
    if request.action != Action::List {
        image.close().map_err(told)?;
    }
    open::tell_notes(&image, request.quiet);
    Ok(ExitCode::SUCCESS)
}

fn find(qcow2: &Qcow2, request: &SnapshotVerb, word: &str) -> Result<usize, Failure> {
    let all = qcow2.snapshots().map_err(|error| open::failed(&error))?;
    open::find(&all, &Snapshot::IdOrName(word.to_owned())).ok_or_else(|| missing(request, word))
}

fn missing(request: &SnapshotVerb, word: &str) -> Failure {
    let failure = Failure::new(Status::NotFound, format!("{} has no snapshot {word:?}", request.file.display()));
    failure.advise(format!("kiln disk snapshot -l {} lists those there are.", request.file.display()))
}
