//! Verbs that write definitions: define, edit.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;

use super::machine::One;
use super::manner::{mentioned, said};
use crate::failure::{Failure, Status};
use crate::machine::definition::{self, Prepared};
use crate::machine::{Known, Store, validate};
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
    /// Refuse elements that libvirt's format does not have
    #[arg(long)]
    validate: bool,
}

impl Define {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let text = self.text()?;
        let define = || {
            let store = Store::here()?;
            let changing = store.change()?;
            let prepared = definition::prepare(&store, &text)?;
            if self.validate {
                validate::check(&prepared.domain)?;
            }
            definition::keep(&store, &changing, &prepared)?;
            Ok(prepared)
        };
        let prepared = define().map_err(|failure: Failure| {
            failure.headed_in_virsh(format!("Failed to define domain from {}", self.file.display()))
        })?;
        tell(&prepared);
        said(&format!("Domain '{}' defined from {}\n", prepared.name, self.file.display()))
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
    /// Keep elements that libvirt's format does not have, as edit does anyway
    #[arg(long, hide = true)]
    skip_validate: bool,
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
            Ok(status) => Err(trouble(status.to_string()).in_virsh(format!(
                "internal error: Child process ({editor} {}) unexpected {}",
                self.path.display(),
                status.to_string().replace(": ", " ")
            ))),
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
                return said(&format!("Domain '{}' XML configuration not changed.\n", known.name));
            }
            match keep(&known, &before, &text) {
                Ok(prepared) => {
                    tell(&prepared);
                    if known.runs() {
                        mentioned("note: it counts from the next start on");
                    }
                    return said(&format!("Domain '{}' XML configuration edited.\n", known.name));
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
