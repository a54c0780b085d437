//! `kiln link`: other tools' names for kiln.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::failure::{Failure, Status};

/// Names under which kiln has another tool's habits.
const NAMES: [&str; 2] = ["qemu-img", "virsh"];

/// Make the names qemu-img and virsh for kiln in a folder of your PATH
///
/// Called by such a name kiln behaves as that program does: its options, defaults and exit statuses.
#[derive(Debug, Args)]
pub(super) struct Link {
    /// The folder, e.g. ~/.local/bin
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Link {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let own = std::env::current_exe().and_then(fs::canonicalize);
        let own =
            own.map_err(|error| Failure::new(Status::Failed, "kiln can't find its own program").because(&error))?;
        for name in NAMES {
            let path = self.folder.join(name);
            match symlink(&own, &path) {
                Ok(()) => println!("{} is kiln now.", path.display()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if fs::canonicalize(&path).is_ok_and(|there| there == own) {
                        println!("{} is kiln already.", path.display());
                        continue;
                    }
                    let failure = Failure::new(Status::Conflict, format!("{} exists already", path.display()));
                    return Err(failure.advise("Remove it first, or name another folder that comes earlier in PATH."));
                }
                Err(error) => {
                    let status =
                        if error.kind() == io::ErrorKind::NotFound { Status::NotFound } else { Status::Failed };
                    return Err(Failure::new(status, format!("can't make {}", path.display())).because(&error));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
