//! Templates by their names: the embedded ones, and the user's own in the store's `config/templates`.

use std::fs;
use std::path::PathBuf;

use super::own_folder;
use crate::failure::{Failure, Status};
use crate::machine::store::distance;

/// How template files' names end.
const SUFFIX: &str = ".xml.j2";

const EMBEDDED: &[(&str, &str)] = &[
    ("default.xml.j2", include_str!("../../../templates/default.xml.j2")),
    ("small.xml.j2", include_str!("../../../templates/small.xml.j2")),
];

/// A template as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The user's file; an embedded one has none.
    pub file: Option<PathBuf>,
    /// Whether the file stands in for an embedded one of that name.
    pub replaces: bool,
}

/// All templates, by name.
///
/// # Errors
/// When the user's folder is there and can't be read.
pub fn list() -> Result<Vec<Listed>, Failure> {
    let embedded = EMBEDDED.iter().map(|(file, _)| stem(file)).map(|name| (name.to_owned(), None));
    let mut all: std::collections::BTreeMap<String, Option<PathBuf>> = embedded.collect();
    let embedded: Vec<String> = all.keys().cloned().collect();
    all.extend(
        own()?
            .into_iter()
            .map(|path| (stem(&path.file_name().unwrap_or_default().to_string_lossy()).to_owned(), Some(path))),
    );
    let listed = |(name, file): (String, Option<PathBuf>)| {
        let replaces = file.is_some() && embedded.contains(&name);
        Listed { name, file, replaces }
    };
    Ok(all.into_iter().map(listed).collect())
}

fn own() -> Result<Vec<PathBuf>, Failure> {
    let Some(folder) = own_folder() else { return Ok(vec![]) };
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(|e| {
            Failure::new(Status::Failed, format!("the folder {} can't be read", folder.display())).because(&e)
        })?,
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter(|path| path.is_file() && path.to_string_lossy().ends_with(SUFFIX)).collect())
}

fn stem(file: &str) -> &str {
    file.strip_suffix(SUFFIX).unwrap_or(file)
}

/// The known word that is at most two edits away.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(known, word), known))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, known)| known)
}

/// The file of a template's name.
pub(super) fn file_of(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// The text of a template in the folders: by its file's name, without any folder.
///
/// # Errors
/// When the user's own one can't be read.
pub(super) fn find(file: &str) -> Result<Option<String>, Failure> {
    if file.is_empty() || file == "." || file == ".." || file.contains(['/', '\0']) {
        return Ok(None);
    }
    if let Some(path) = own_folder().map(|folder| folder.join(file)).filter(|path| path.exists()) {
        return super::read(&path).map(Some);
    }
    Ok(EMBEDDED.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned()))
}

/// Whether the name is an embedded template's, and nothing of the user's own can come into it.
pub(super) fn is_embedded(name: &str) -> bool {
    let is_own = |name: &str| own_folder().is_some_and(|folder| folder.join(file_of(name)).exists());
    let any_own = EMBEDDED.iter().any(|(file, _)| is_own(stem(file)));
    !any_own && EMBEDDED.iter().any(|(file, _)| stem(file) == name)
}

/// The text of the template of this name.
///
/// # Errors
/// When there is none, or it can't be read.
pub(super) fn named(name: &str) -> Result<String, Failure> {
    if let Some(text) = find(&file_of(name))? {
        return Ok(text);
    }
    let names: Vec<String> = list()?.into_iter().map(|listed| listed.name).collect();
    let failure = Failure::new(Status::NotFound, format!("no template {name:?}"));
    let failure = match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => failure.advise(format!("Did you mean {near}?")),
        None => failure.advise(format!("There are: {}", names.join(", "))),
    };
    Err(failure.advise("A file is named by a path: ./NAME.xml.j2"))
}
