//! Filling in: what a template may do, and how far it may go.
//!
//! Values are escaped for XML where they are written, unless the template itself calls one `safe`. What nobody has set
//! can't be written, looped over or asked for truth; `default` and `is defined` are there for that. A template is
//! stopped after [`STEPS`] instructions and [`LARGEST`] bytes, and comes no deeper than [`DEEPEST`].

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;

use kiln_domain::xml::{LARGEST, escaped};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, value::ValueKind};

use super::{Rendered, sources};
use crate::failure::{Failure, Status};

/// Most instructions: some hundred times what the longest template of ours takes with a hundred devices.
const STEPS: u64 = 2_000_000;
/// Deepest nesting of loops, conditions, macros and includes, which cost ten each; a thread's smallest stack bears it.
const DEEPEST: usize = 100;

/// The first character that XML 1.0 (section 2.2, production 2) has no place for.
pub(super) fn forbidden(text: &str) -> Option<char> {
    text.chars()
        .find(|c| matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}'))
}

fn escape(text: &str) -> Result<String, Error> {
    if let Some(bad) = forbidden(text) {
        let what = format!("a value has the character U+{:04X}, which XML can't hold", u32::from(bad));
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    // As they are, a reader of attributes would make spaces of them (XML 1.0, section 3.3.3).
    Ok(escaped(text).replace('\n', "&#10;").replace('\r', "&#13;").replace('\t', "&#9;"))
}

// As it stands in the document.
pub(super) fn written(value: &Value) -> Result<String, Error> {
    match value {
        value if value.is_none() => Ok(String::new()),
        value if value.is_safe() => Ok(value.to_string()),
        // XML's booleans (XML Schema part 2, 3.2.2), not Python's.
        value if value.kind() == ValueKind::Bool => Ok(value.is_true().to_string()),
        value => escape(&value.to_string()),
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_loader(|name| {
        sources::find(name).map_err(|failure| Error::new(ErrorKind::InvalidOperation, failure.to_string()))
    });
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_debug(true);
    environment.set_fuel(Some(STEPS));
    environment.set_recursion_limit(DEEPEST);
    // XML, not HTML: a path's slashes stay as they are.
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("xml".into()));
    environment.set_formatter(|out, _state, value| Ok(out.write_str(&written(value)?)?));
    for name in ["escape", "e"] {
        environment.add_filter(name, |value: &Value| written(value).map(Value::from_safe_string));
    }
    environment
}

/// Takes as many bytes as a document can have.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > LARGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fills in the template `text`, which errors call `label`.
pub(super) fn render(label: &str, text: &str, values: &Value) -> Result<Rendered, Failure> {
    let environment = environment();
    let template = environment.template_from_named_str(label, text).map_err(|e| told(label, &e, values))?;
    let mut page = Page::default();
    template.render_captured_to(values, &mut page).map_err(|e| told(label, &e, values))?;
    let text = String::from_utf8(page.bytes)
        .map_err(|e| Failure::new(Status::Failed, format!("the template {label} writes no text")).because(&e))?;
    let mut variables: BTreeSet<String> = template.undeclared_variables(false).into_iter().collect();
    // What it extends, includes and imports has been loaded by now.
    variables.extend(environment.templates().flat_map(|(_, loaded)| loaded.undeclared_variables(false)));
    // Functions of the engine are none, unless somebody sets a variable of that name.
    variables.retain(|name| is_set(values, name) || environment.globals().all(|(global, _)| global != name));
    Ok(Rendered { text, variables })
}

fn is_set(values: &Value, name: &str) -> bool {
    values.get_attr(name).is_ok_and(|value| !value.is_undefined())
}

// The innermost error: those around it say by way of which block or include it came.
fn innermost(error: &Error) -> &Error {
    let mut at = error;
    while let Some(next) = at.source().and_then(|source| source.downcast_ref::<Error>()) {
        at = next;
    }
    at
}

fn told(label: &str, error: &Error, values: &Value) -> Failure {
    let error = innermost(error);
    let name = error.name().unwrap_or(label);
    let place = error.line().map_or_else(String::new, |line| format!(", line {line}"));
    let failed = |what: &str| Failure::new(Status::Failed, format!("the template {name}{place}: {what}"));
    match error.kind() {
        ErrorKind::UndefinedError => not_set(error, values, failed),
        ErrorKind::OutOfFuel => {
            failed("filling it in takes too long").why(format!("it was stopped after {STEPS} steps"))
        }
        ErrorKind::WriteFailure => {
            failed("it writes too much").why(format!("a domain document has at most {LARGEST} bytes"))
        }
        ErrorKind::TemplateNotFound => failed(error.detail().unwrap_or("it builds on a template that is not there"))
            .why("no template of that name is embedded or in the template folder")
            .advise("kiln template list shows those there are."),
        _ => failed(error.detail().unwrap_or(&error.kind().to_string())),
    }
}

fn not_set(error: &Error, values: &Value, failed: impl Fn(&str) -> Failure) -> Failure {
    let source = error.template_source().unwrap_or_default();
    let expression = error.range().and_then(|range| source.get(range)).unwrap_or_default().trim();
    let line = error.line().and_then(|number| source.lines().nth(number - 1)).unwrap_or_default();
    let asked = Environment::new().template_from_str(source).map(|t| t.undeclared_variables(false)).unwrap_or_default();
    let is_missing = |word: &&str| asked.contains(*word) && !is_set(values, word);
    let words = |text| str::split(text, |c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    // What is passed to a filter stands before what the engine points at.
    match words(expression).chain(words(line)).find(is_missing) {
        Some(name) => failed(&format!("{name} is not set")).advise(format!("Set it: --set {name}=VALUE")),
        None if expression.is_empty() => failed("something in it is not set"),
        None => failed(&format!("{expression} is not set")),
    }
}
