//! Domain XML templates (minijinja): the embedded ones, each of which a file of the same name in the user's
//! `config/templates` folder replaces.

use std::fs;

use minijinja::{AutoEscape, Environment, ErrorKind, Value};

use crate::failure::{Failure, Status};
use crate::machine::Folders;

/// Names of the embedded templates.
pub const NAMES: &[&str] = &["default", "small"];

const EMBEDDED: &[(&str, &str)] = &[
    ("default.xml.j2", include_str!("../../templates/default.xml.j2")),
    ("small.xml.j2", include_str!("../../templates/small.xml.j2")),
];

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_loader(|name| {
        let own = Folders::here().ok().map(|f| f.config.join("templates").join(name));
        if let Some(text) = own.and_then(|path| fs::read_to_string(path).ok()) {
            return Ok(Some(text));
        }
        Ok(EMBEDDED.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_owned()))
    });
    // XML, not HTML: a path's slashes stay as they are.
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("xml".into()));
    environment.set_formatter(|out, _state, value| {
        let text = if value.is_none() || value.is_undefined() { String::new() } else { value.to_string() };
        Ok(out.write_str(&if value.is_safe() { text } else { kiln_domain::xml::escaped(&text) })?)
    });
    environment
}

/// Renders a template.
///
/// # Errors
/// When it is unknown, malformed, or asks for what isn't there.
pub fn render(name: &str, values: &Value) -> Result<String, Failure> {
    let environment = environment();
    let file = format!("{name}.xml.j2");
    let template = environment.get_template(&file).map_err(|e| {
        if e.kind() == ErrorKind::TemplateNotFound {
            let near = NAMES.iter().find(|n| crate::machine::store::distance(n, name) <= 2);
            let failure = Failure::new(Status::NotFound, format!("no template {name:?}"));
            match near {
                Some(near) => failure.advise(format!("Did you mean {near}?")),
                None => failure.advise(format!("There are: {}", NAMES.join(", "))),
            }
        } else {
            Failure::new(Status::Failed, format!("the template {name:?} is malformed")).why(e.to_string())
        }
    })?;
    template.render(values).map_err(|e| {
        Failure::new(Status::Failed, format!("the template {name:?} can't be filled in")).why(e.to_string())
    })
}
