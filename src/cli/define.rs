//! Verbs that change what is defined: define, edit, undefine.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use super::machine::{One, done};
use crate::failure::{Failure, Status};
use crate::machine::definition::{self, Prepared};
use crate::machine::storage::{self, Volume};
use crate::machine::{Known, Store, bases};
use crate::plan::template;

/// Keep a machine's definition: new, or in place of the one it has
///
/// What kiln can't run yet is kept and told; start refuses it.
#[derive(Debug, Args)]
pub(super) struct Define {
    /// The domain XML, or a template of it (.j2)
    file: PathBuf,
    /// A variable of the template; once per variable
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Define {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let text = self.text()?;
        let define = || {
            let store = Store::here()?;
            let changing = store.change()?;
            let prepared = definition::prepare(&store, &text)?;
            definition::keep(&store, &changing, &prepared)?;
            Ok(prepared)
        };
        let prepared = define().map_err(|failure: Failure| {
            failure.headed_in_virsh(format!("Failed to define domain from {}", self.file.display()))
        })?;
        tell(&prepared);
        done(&format!("Domain '{}' defined from {}\n", prepared.name, self.file.display()))
    }

    // The document in the file, or what comes of the template in it.
    fn text(&self) -> Result<String, Failure> {
        if self.file.extension().is_some_and(|suffix| suffix == "j2") {
            return template::from_template(&self.file, &template::pairs(&self.set)?);
        }
        if !self.set.is_empty() {
            return Err(Failure::new(Status::Usage, "--set goes with a template, a file whose name ends in .j2"));
        }
        definition::read(&self.file)
    }
}

fn tell(prepared: &Prepared) {
    prepared.notes.iter().for_each(|note| eprintln!("note: {note}"));
}

/// Change a machine's definition in an editor ($VISUAL, $EDITOR, or vi); it counts from the next start on
#[derive(Debug, Args)]
pub(super) struct Edit {
    #[command(flatten)]
    one: One,
}

/// The text while it is edited. It is removed in the end, unless its changes would be lost.
struct Draft {
    path: PathBuf,
    kept: bool,
}

impl Draft {
    fn of(known: &Known, text: &str) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("kiln-{}-{}.xml", known.name, std::process::id()));
        let write = || {
            // Definitions hold the passwords of screens.
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())
        };
        write()
            .map_err(|e| Failure::new(Status::Failed, format!("{} can't be written", path.display())).because(&e))?;
        Ok(Self { path, kept: false })
    }

    fn edit(&self) -> Result<String, Failure> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let editor = given("VISUAL").or_else(|| given("EDITOR")).unwrap_or_else(|| "vi".into());
        let trouble = |why: String| {
            Failure::new(Status::Failed, format!("the editor {editor:?} failed"))
                .why(why)
                .advise("Name one that is installed: export EDITOR=nano")
        };
        // A shell splits its words, as with every other tool that has an editor called.
        let status = Command::new("/bin/sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(&self.path).status();
        match status {
            Ok(status) if status.success() => definition::read(&self.path),
            Ok(status) => Err(trouble(status.to_string())),
            Err(e) => Err(trouble(e.to_string())),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn asked_again(failure: &Failure) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("{failure}Edit again? [y/n] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim().to_lowercase().starts_with('y')
}

impl Edit {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        let before = known.definition()?.to_string();
        let mut draft = Draft::of(&known, &before)?;
        loop {
            let text = draft.edit()?;
            if text == before {
                return done(&format!("Domain '{}' XML configuration not changed.\n", known.name));
            }
            match keep(&known, &before, &text) {
                Ok(prepared) => {
                    tell(&prepared);
                    if known.runs() {
                        eprintln!("note: it counts from the next start on");
                    }
                    return done(&format!("Domain '{}' XML configuration edited.\n", known.name));
                }
                Err(failure) if asked_again(&failure) => {}
                Err(failure) => {
                    draft.kept = true;
                    return Err(failure
                        .advise(format!("The definition is as it was. What you wrote: {}", draft.path.display()))
                        .advise(format!("When it is mended: kiln define {}", draft.path.display())));
                }
            }
        }
    }
}

// Keeps an edited definition, if nobody has changed it meanwhile.
fn keep(known: &Known, before: &str, text: &str) -> Result<Prepared, Failure> {
    let changing = known.store.change()?;
    let prepared = definition::prepare(&known.store, text)?;
    if prepared.name != known.name {
        return Err(Failure::new(
            Status::Conflict,
            format!("a machine is not renamed by an edit: {:?}", prepared.name),
        )
        .why(format!("its name is {:?}", known.name)));
    }
    if known.definition()?.to_string() != before {
        return Err(Failure::new(Status::Conflict, "the definition was changed by somebody else meanwhile"));
    }
    definition::keep(&known.store, &changing, &prepared)?;
    Ok(prepared)
}

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
}

impl Undefine {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        let wanted: Option<Vec<String>> =
            self.storage.as_ref().map(|words| words.split(',').map(str::to_owned).collect());
        let removes = self.remove_all_storage || wanted.is_some();
        if removes && known.runs() {
            return Err(Failure::new(Status::Conflict, format!("{:?} is running: its disks are in use", known.name))
                .advise(format!("Stop it first: kiln shutdown {0}, or kiln destroy {0}", known.name))
                .in_virsh("Storage volume deletion is supported only on stopped domains"));
        }
        let (code, volumes) = {
            // Held to the end: nobody defines a machine on its disks meanwhile.
            let changing = known.store.change()?;
            let definition = match known.definition() {
                Ok(definition) => Some(definition),
                // One that can't be understood can be removed; its disks are nobody's to remove then.
                Err(_) if known.is_persistent() && !removes => None,
                Err(failure) => {
                    return Err(failure.headed_in_virsh(format!("Failed to undefine domain '{}'", known.name)));
                }
            };
            let volumes =
                definition.as_ref().map(|domain| storage::volumes(&known, domain, wanted.as_deref())).transpose()?;
            let files = definition.as_ref().map(bases::files_of_machine).unwrap_or_default();
            changing.remove(&known.name)?;
            let code = done(&format!("Domain '{}' has been undefined\n", known.name))?;
            for base in bases::idle(&known.store, &files) {
                let shown = base.display();
                eprintln!("no machine lies on the base {shown} any more\n  > {}", bases::how_to_release(&base));
            }
            let volumes = volumes.unwrap_or_default();
            (if removes { remove(&volumes)? } else { code }, volumes)
        };
        if !removes {
            volumes.iter().for_each(|volume| eprintln!("kept: {}", volume.path.display()));
        }
        if known.runs() {
            eprintln!("note: {:?} goes on until it stops", known.name);
        }
        Ok(code)
    }
}

// Removes what may go, and tells what stays. What should have gone and couldn't makes it a failure.
fn remove(volumes: &[Volume]) -> Result<ExitCode, Failure> {
    let mut failed = None;
    for Volume { target, path, kept } in volumes {
        let shown = path.display();
        match kept.clone().map_or_else(|| storage::remove(path).map_err(|why| (why, true)), |why| Err((why, false))) {
            Ok(()) => drop(done(&format!("Volume '{target}'({shown}) removed.\n"))?),
            Err((why, is_failure)) => {
                eprintln!("kept: {shown}: {why}");
                if is_failure {
                    failed = Some((path, why));
                }
            }
        }
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some((path, why)) => {
            Err(Failure::new(Status::Failed, format!("{} could not be removed", path.display())).why(why))
        }
    }
}
