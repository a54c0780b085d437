//! Domain XML templates (minijinja): the embedded ones, the user's own, and files that are named by their paths.
//!
//! What a template is filled with are values, never XML: each is escaped where it is written. A variable that nobody has
//! set is an error. A template takes bounded time and memory and writes a bounded document (`engine`, [`confined`]).

pub mod confined;
mod engine;
mod sets;
mod sources;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_domain::xml::LARGEST;
use minijinja::Value;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Status};
use crate::machine::Folders;
pub use sets::Sets;
pub(crate) use sets::pairs;
pub use sources::{Listed, list};

/// Where a template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// One of the template folders, or embedded: `NAME.xml.j2`.
    Name(String),
    /// A file.
    File(PathBuf),
}

impl Source {
    /// What a word names: a file if it has a slash or ends in `.j2` or `.xml`, else a template's name.
    pub fn of(word: &str) -> Self {
        if word.contains('/') || word.ends_with(".j2") || word.ends_with(".xml") {
            Source::File(word.into())
        } else {
            Source::Name(word.into())
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// When there is none, it can't be read, or is larger than a domain document can be.
    pub fn text(&self) -> Result<String, Failure> {
        match self {
            Source::Name(name) => sources::named(name),
            Source::File(path) => read(path),
        }
    }

    // By which errors call it.
    fn label(&self) -> String {
        match self {
            Source::Name(name) => sources::file_of(name),
            Source::File(path) => path.display().to_string(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

/// A template that has been filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// The document.
    pub text: String,
    /// Names that the template, and what it builds on, asks for.
    pub variables: BTreeSet<String>,
}

/// Fills a template in. `values` is a map.
///
/// # Errors
/// When it is unknown, malformed, takes too long or writes too much, or asks for what isn't there.
pub fn render(source: &Source, values: &Value) -> Result<Rendered, Failure> {
    match source {
        Source::Name(name) if sources::is_embedded(name) => engine::render(&source.label(), &source.text()?, values),
        _ => confined::render(&source.label(), &source.text()?, values),
    }
}

/// Fills the template in a file in with what `--set` says, and nothing else. Every setting must be one that it asks for.
///
/// # Errors
/// As [`render`], and when a setting is malformed, given twice, or not asked for.
pub(crate) fn from_template(path: &Path, sets: &[(String, String)]) -> Result<String, Failure> {
    let sets = Sets::of(sets)?;
    let rendered = render(&Source::File(path.into()), &sets.values())?;
    sets.check_asked_for(&rendered.variables)?;
    Ok(rendered.text)
}

fn read(path: &Path) -> Result<String, Failure> {
    let refuse = |status| Failure::new(status, format!("the template {} can't be read", path.display()));
    let mut bytes = Vec::new();
    let limit = LARGEST as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|e| {
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        refuse(if missing { Status::NotFound } else { Status::Failed }).because(&e)
    })?;
    if bytes.len() > LARGEST {
        return Err(refuse(Status::Failed).why(format!("it is larger than {LARGEST} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| refuse(Status::Failed).why(format!("it is not UTF-8: {e}")))
}

// The user's own templates, where the store's folders are known.
fn own_folder() -> Option<PathBuf> {
    Folders::here().ok().map(|folders| folders.config.join("templates"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const WEB: &str = "<domain type='kvm'>\n  <name>{{ name }}</name>\n  <title a='{{ name }}'/>\n</domain>\n";

    fn filled(text: &str, sets: &[(&str, &str)]) -> Result<String, Failure> {
        let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let sets = Sets::of(&sets)?;
        let rendered = engine::render("web.xml.j2", text, &sets.values())?;
        sets.check_asked_for(&rendered.variables)?;
        Ok(rendered.text)
    }

    #[test]
    fn words_name_files_or_templates() {
        for file in ["./web", "web.xml.j2", "web.j2", "web.xml", "a/b"] {
            assert_eq!(Source::of(file), Source::File(file.into()));
        }
        assert_eq!(Source::of("small"), Source::Name("small".into()));
    }

    #[test]
    fn a_value_never_becomes_an_element() {
        let text = filled(WEB, &[("name", "a\"/><disk x='&")]).unwrap();
        let domain = kiln_domain::Domain::parse(&text).unwrap();
        assert_eq!(domain.name().unwrap(), "a\"/><disk x='&");
        assert_eq!(domain.root().find("title").unwrap().attribute("a"), Some("a\"/><disk x='&"));
        assert_eq!(domain.root().children().count(), 2);
        // What a filter, a macro, a captured block and a list make of it is the same text.
        let odd = "<domain><name>{{ name|e }}</name><a>{% macro m(x) %}{{ x }}{% endmacro %}{{ m(name) }}</a>\
                   {% set s %}{{ name }}{% endset %}<b>{{ s }}</b><c>{{ [name]|join(',') }}</c><d>{{ '<' ~ name }}</d></domain>";
        let domain = kiln_domain::Domain::parse(&filled(odd, &[("name", "<x/>")]).unwrap()).unwrap();
        let texts: Vec<String> = domain.root().children().map(|child| child.text()).collect();
        assert_eq!(texts, ["<x/>", "<x/>", "<x/>", "<x/>", "<<x/>"]);
    }

    #[test]
    fn line_ends_and_tabs_survive_an_attribute() {
        let text = filled(WEB, &[("name", "a\n\tb")]).unwrap();
        assert!(text.contains("a='a&#10;&#9;b'"), "{text}");
    }

    #[test]
    fn what_is_not_set_is_named_with_its_line() {
        let failure =
            filled("<domain>\n<name>{{ name }}</name>\n<title>{{ title|upper }}</title></domain>", &[("name", "a")])
                .unwrap_err();
        let told = failure.to_string();
        assert!(
            told.contains("title is not set") && told.contains("line 3") && told.contains("--set title="),
            "{told}"
        );
        let told = filled("<domain>{% if verbose %}x{% endif %}</domain>", &[]).unwrap_err().to_string();
        assert!(told.contains("verbose is not set") && told.contains("line 1"), "{told}");
        assert_eq!(filled("<domain>{{ size|default(20) }}</domain>", &[]).unwrap(), "<domain>20</domain>");
    }

    #[test]
    fn what_is_not_asked_for_is_refused_by_name() {
        let told = filled(WEB, &[("name", "a"), ("nmae", "b")]).unwrap_err().to_string();
        assert!(told.contains("nmae") && told.contains("Did you mean name?"), "{told}");
    }

    #[test]
    fn no_template_runs_for_ever_or_without_bounds() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
                      {% endfor %}{% endfor %}{% endfor %}";
        assert!(filled(nested, &[]).unwrap_err().to_string().contains("too long"));
        let long =
            "{% for a in range(90000) %}0123456789012345678901234567890123456789012345678901234567890{% endfor %}";
        assert!(filled(long, &[]).unwrap_err().to_string().contains("too much"));
        let itself = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(filled(itself, &[]).unwrap_err().to_string().contains("recursion"));
    }

    #[test]
    fn includes_come_from_the_template_folders_alone() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        fs::write(secret.path(), "<secret/>").unwrap();
        for name in [secret.path().to_str().unwrap(), "../../../../../../../../etc/hostname", "a/../../b", ".", ""] {
            let told = filled(&format!("{{% include '{name}' %}}"), &[]).unwrap_err().to_string();
            assert!(told.contains("no template"), "{told}");
        }
    }
}
