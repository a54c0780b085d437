//! `kiln define`: a domain document, or a template of one, becomes a machine of the store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kiln_domain::{Domain, DomainError};

use super::print;
use crate::failure::{Failure, Status};
use crate::machine::{Store, name};
use crate::plan::{self, template};
use crate::runner::blueprint::Blueprint;

/// Define a machine by its domain XML, or change it; FILE.j2 is a template that --set fills in
#[derive(Debug, Args)]
pub(super) struct Define {
    /// The document, or a template of one (.j2)
    file: PathBuf,
    /// A variable of the template; once per variable
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Define {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let name = define(&text(&self.file, &self.set)?, &self.file)?;
        print(&format!("Domain '{name}' defined from {}\n", self.file.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

// The document in a file, or what comes of the template in it.
fn text(file: &Path, sets: &[String]) -> Result<String, Failure> {
    if file.extension().is_some_and(|suffix| suffix == "j2") {
        return template::from_template(file, &template::pairs(sets)?);
    }
    if !sets.is_empty() {
        return Err(Failure::new(Status::Usage, "--set goes with a template, a file whose name ends in .j2"));
    }
    fs::read_to_string(file).map_err(|e| {
        let status = if e.kind() == std::io::ErrorKind::NotFound { Status::NotFound } else { Status::Failed };
        Failure::new(status, format!("{} can't be read", file.display())).because(&e)
    })
}

fn define(text: &str, file: &Path) -> Result<String, Failure> {
    let refuse =
        |e: DomainError| Failure::new(Status::Failed, format!("{} defines no machine", file.display())).because(&e);
    let mut domain = Domain::parse(text).map_err(refuse)?;
    let name = domain.name().map_err(refuse)?;
    name::check(&name)?;
    if domain.uuid().map_err(refuse)?.is_none() {
        domain.root_mut().find_or_make("uuid").set_text(&plan::new_uuid()?);
    }
    domain.assign_addresses().map_err(refuse)?;
    match Blueprint::read(&domain) {
        Ok(blueprint) => blueprint.warnings.iter().for_each(|warning| eprintln!("note: {warning}")),
        Err(failure) => eprint!("note: it is kept, and kiln start would refuse it:\n{failure}"),
    }
    Store::here()?.change()?.write(&name, &domain)?;
    Ok(name)
}
