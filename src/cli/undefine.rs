//! `undefine`: a machine's definition goes, and its disks if that is asked for.

use std::process::ExitCode;

use clap::Args;
use kiln_domain::Domain;

use super::machine::One;
use super::manner::{mentioned, said};
use crate::failure::{Failure, Status};
use crate::machine::storage::{self, Claimed, Volume};
use crate::machine::{Known, bases};

/// Remove a machine's definition; its disks are kept, unless asked for otherwise
///
/// A machine that runs goes on; it is gone when it stops, unless it is defined again before that.
#[derive(Debug, Args)]
pub(super) struct Undefine {
    #[command(flatten)]
    one: One,
    /// Remove the files of its disks, too: those that it may write to and nobody else uses
    #[arg(long)]
    remove_all_storage: bool,
    /// Remove the files of these disks: names or paths, with commas between them
    #[arg(long, value_name = "DISKS", conflicts_with = "remove_all_storage")]
    storage: Option<String>,
    /// Write zeros over what is in the files before they are removed
    #[arg(long)]
    wipe_storage: bool,
    /// Remove the snapshots in the files: they are part of them
    #[arg(long, hide = true)]
    delete_storage_volume_snapshots: bool,
    #[command(flatten)]
    absent: Absent,
}

/// What machines don't have, and what is therefore gone and kept as it is asked for.
#[derive(Debug, Args)]
struct Absent {
    /// Remove saved state: there is none
    #[arg(long, hide = true)]
    managed_save: bool,
    /// Remove snapshots' metadata: images keep their own
    #[arg(long, hide = true)]
    snapshots_metadata: bool,
    /// Remove checkpoints' metadata: there is none
    #[arg(long, hide = true)]
    checkpoints_metadata: bool,
    /// Remove firmware's variables: there are none
    #[arg(long, hide = true, conflicts_with = "keep_nvram")]
    nvram: bool,
    /// Keep firmware's variables: there are none
    #[arg(long, hide = true)]
    keep_nvram: bool,
    /// Remove the TPM's state: there is none
    #[arg(long, hide = true, conflicts_with = "keep_tpm")]
    tpm: bool,
    /// Keep the TPM's state: there is none
    #[arg(long, hide = true)]
    keep_tpm: bool,
}

impl Undefine {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        self.check()?;
        let known = self.one.known()?;
        if self.removes() && known.runs() {
            return Err(Failure::new(Status::Conflict, format!("{:?} is running: its disks are in use", known.name))
                .advise(format!("Stop it first: kiln shutdown {0}, or kiln destroy {0}", known.name))
                .in_virsh("Storage volume deletion is supported only on stopped domains"));
        }
        let code = self.undefine(&known)?;
        if known.runs() {
            mentioned(&format!("note: {:?} goes on until it stops", known.name));
        }
        Ok(code)
    }

    fn removes(&self) -> bool {
        self.remove_all_storage || self.storage.is_some()
    }

    fn check(&self) -> Result<(), Failure> {
        if self.delete_storage_volume_snapshots && !self.remove_all_storage {
            let what = "--delete-storage-volume-snapshots goes with --remove-all-storage";
            return Err(Failure::new(Status::Usage, what)
                .in_virsh("Option --remove-all-storage is required by option --delete-storage-volume-snapshots"));
        }
        if self.wipe_storage && !self.removes() {
            return Err(Failure::new(Status::Usage, "--wipe-storage goes with --storage or --remove-all-storage")
                .in_virsh("'--wipe-storage' requires '--storage <string>' or '--remove-all-storage'"));
        }
        Ok(())
    }

    fn undefine(&self, known: &Known) -> Result<ExitCode, Failure> {
        // Held to the end: nobody defines a machine on its disks meanwhile.
        let changing = known.store.change()?;
        let definition = self.definition(known)?;
        let volumes = definition.as_ref().map(|domain| self.volumes(known, domain)).transpose()?.unwrap_or_default();
        let files = definition.as_ref().map(bases::files_of_machine).unwrap_or_default();
        let removed = if self.removes() { self.remove(known, &volumes)? } else { vec![] };
        changing.remove(&known.name)?;
        let code = said(&format!("Domain '{}' has been undefined\n", known.name))?;
        said(&removed.join(""))?;
        for base in bases::idle(&known.store, &files) {
            let shown = base.display();
            mentioned(&format!("no machine lies on the base {shown} any more\n  > {}", bases::how_to_release(&base)));
        }
        for Volume { path, kept, .. } in volumes {
            match kept {
                Some(why) if self.removes() => eprintln!("kept: {}: {why}", path.display()),
                _ if !self.removes() => mentioned(&format!("kept: {}", path.display())),
                _ => {}
            }
        }
        Ok(code)
    }

    // `None`: one that can't be understood can be removed; its disks are nobody's to remove then.
    fn definition(&self, known: &Known) -> Result<Option<Domain>, Failure> {
        match known.definition() {
            Ok(definition) => Ok(Some(definition)),
            Err(_) if known.is_persistent() && !self.removes() => Ok(None),
            Err(failure) => Err(failure.headed_in_virsh(format!("Failed to undefine domain '{}'", known.name))),
        }
    }

    fn volumes(&self, known: &Known, definition: &Domain) -> Result<Vec<Volume>, Failure> {
        let wanted: Option<Vec<String>> =
            self.storage.as_ref().map(|words| words.split(',').map(str::to_owned).collect());
        storage::volumes(known, definition, wanted.as_deref())
    }

    // Removes the files that may go, all or none as far as locks tell: the definition still names what could not be removed.
    fn remove(&self, known: &Known, volumes: &[Volume]) -> Result<Vec<String>, Failure> {
        let trouble = |path: &std::path::Path, why: String, status: Status| {
            Failure::new(status, format!("{} could not be removed", path.display()))
                .why(why)
                .advise(format!("{:?} is still defined. Try again when the file is free, or leave it out:", known.name))
                .advise(format!("kiln undefine {0} --storage DISKS (kiln domblklist {0})", known.name))
        };
        let claim = |volume: &Volume| {
            let claimed = Claimed::of(&volume.path);
            claimed.map_err(|why| trouble(&volume.path, why, Status::Conflict)).map(|claimed| (volume.clone(), claimed))
        };
        let mine = volumes.iter().filter(|volume| volume.kept.is_none());
        let claimed = mine.map(claim).collect::<Result<Vec<_>, _>>()?;
        let mut removed = Vec::new();
        for (Volume { target, path, .. }, claimed) in claimed {
            if let Err(why) = claimed.remove(self.wipe_storage) {
                said(&removed.join(""))?;
                return Err(trouble(&path, why, Status::Failed));
            }
            removed.push(format!("Volume '{target}'({}) removed.\n", path.display()));
        }
        Ok(removed)
    }
}
