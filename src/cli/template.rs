//! `kiln template`: what templates there are, what stands in them, and what they make of settings.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use kiln_domain::Domain;
use serde_json::json;

use super::table::table;
use super::{print, print_json};
use crate::failure::{Failure, Status};
use crate::plan::template::{self, Listed, Rendered, Sets, Source};
use crate::plan::{Plan, Step};
use crate::runner::blueprint::Blueprint;

/// What is done with templates.
#[derive(Debug, Subcommand)]
pub(super) enum Template {
    List(List),
    Show(Show),
    Check(Check),
}

impl Template {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        match self {
            Template::List(list) => list.run()?,
            Template::Show(show) => print(&Source::of(&show.template).text()?)?,
            Template::Check(check) => check.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// List templates, and where each comes from
#[derive(Debug, Args)]
pub(super) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl List {
    fn run(&self) -> Result<(), Failure> {
        let all = template::list()?;
        if self.json {
            let row =
                |listed: &Listed| json!({ "name": listed.name, "file": listed.file, "replaces": listed.replaces });
            return print_json(&all.iter().map(row).collect::<Vec<_>>());
        }
        let row = |listed: &Listed| {
            let from = listed.file.as_ref().map_or_else(|| "kiln".into(), |file| file.display().to_string());
            vec![listed.name.clone(), if listed.replaces { format!("{from} (in place of kiln's)") } else { from }]
        };
        print(&table(&["Name", "From"], &all.iter().map(row).collect::<Vec<_>>()))
    }
}

/// Print a template
#[derive(Debug, Args)]
pub(super) struct Show {
    /// Its name, or a file
    #[arg(value_name = "NAME|FILE")]
    template: String,
}

/// Fill a template in, see whether a machine comes of it, and tell what it takes
///
/// What --set leaves open is filled in as kiln install does it for a small machine.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Its name, or a file
    #[arg(value_name = "NAME|FILE")]
    template: String,
    /// A variable; once per variable
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Check {
    fn run(&self) -> Result<(), Failure> {
        let source = Source::of(&self.template);
        let sets = Sets::of_words(&self.set)?;
        let (rendered, own) = filled(&source, &sets)?;
        sets.check_asked_for(&rendered.variables)?;
        let note = runs(&source, &rendered.text)?;
        let (mut set, mut by_install, mut unset) = (vec![], vec![], vec![]);
        for name in rendered.variables.iter().map(String::as_str) {
            let is_own = own.as_ref().is_some_and(|own| has(own, name));
            match sets.names().any(|set| set == name) {
                true => set.push(name),
                false if is_own => by_install.push(name),
                false => unset.push(name),
            }
        }
        for (row, names) in [("set", set), ("not set", unset), ("by kiln install", by_install)] {
            if !names.is_empty() {
                print(&format!("{row:<16} {}\n", names.join(" ")))?;
            }
        }
        match note {
            Some(note) => eprint!("note: kiln define would keep it; kiln start would refuse it:\n{note}"),
            None => eprintln!("A machine comes of it."),
        }
        Ok(())
    }
}

fn has(values: &minijinja::Value, name: &str) -> bool {
    values.get_attr(name).is_ok_and(|value| !value.is_undefined())
}

// By the settings alone, as `define` does it; else with what `install` fills in, which is then returned, too.
fn filled(source: &Source, sets: &Sets) -> Result<(Rendered, Option<minijinja::Value>), Failure> {
    let alone = match template::render(source, &sets.values()) {
        Ok(rendered) => return Ok((rendered, None)),
        Err(failure) => failure,
    };
    let own = Plan::sample(source.clone())?.values(Step::Permanent);
    match template::render(source, &minijinja::context! { ..sets.values(), ..own.clone() }) {
        Ok(rendered) => Ok((rendered, Some(own))),
        Err(failure) if failure.what == alone.what => Err(failure),
        Err(failure) => {
            let both = Failure::new(alone.status, format!("the template {source} can't be filled in"))
                .why(format!("as kiln define does it: {}", alone.what))
                .why(format!("as kiln install does it: {}", failure.what));
            Err(alone.advice.into_iter().chain(failure.advice).fold(both, Failure::advise))
        }
    }
}

// Why `start` would refuse what comes of it, if it would.
fn runs(source: &Source, text: &str) -> Result<Option<Failure>, Failure> {
    let failed = || Failure::new(Status::Failed, format!("the template {source} gives no domain"));
    let mut domain = Domain::parse(text).map_err(|e| failed().because(&e))?;
    domain.name().map_err(|e| failed().because(&e))?;
    let placed = domain.assign_addresses().map_err(|e| failed().because(&e));
    Ok(placed.and_then(|()| Blueprint::read(&domain)).err())
}
