//! `--help`: made of the same tables that are read.

use super::Dialect;
use super::table::{Does, Opt};

/// What a verb's help says besides its options.
pub(super) struct About {
    pub(super) name: &'static str,
    /// Its operands.
    pub(super) operands: &'static str,
    /// An operand may be a number with a minus.
    pub(super) signed: bool,
    /// One sentence.
    pub(super) about: &'static str,
    /// What else one must know, a line each.
    pub(super) notes: &'static [&'static str],
}

/// A verb's help.
pub(super) fn verb<T>(dialect: Dialect, verb: &About, table: &[Opt<T>]) -> String {
    let mut lines: Vec<(String, &str)> = Vec::new();
    for opt in table.iter().filter(|opt| dialect == Dialect::Kiln || !opt.own) {
        let what = match opt.does {
            Does::Flag(_) => None,
            Does::Value(what, _) => Some(what),
            Does::Refused { .. } => continue,
        };
        let short = opt.short.map(|short| format!("-{short}"));
        let long = opt.longs.first().map(|long| format!("--{long}"));
        let names: Vec<String> = short.into_iter().chain(long).collect();
        let indent = if opt.short.is_some() { "" } else { "    " };
        lines.push((
            format!("{indent}{}{}", names.join(", "), what.map_or(String::new(), |what| format!(" {what}"))),
            opt.about,
        ));
    }
    lines.push(("-h, --help".into(), "print this"));
    let mut text =
        format!("{}\n\nUsage: {} {} [OPTIONS] {}\n\nOptions:\n", verb.about, dialect.words(), verb.name, verb.operands);
    text.push_str(&columns(&lines));
    for (number, note) in verb.notes.iter().enumerate() {
        text.push_str(if number == 0 { "\n" } else { "" });
        text.push_str(note);
        text.push('\n');
    }
    text
}

/// The help of the program as a whole.
pub(super) fn all(dialect: Dialect, verbs: impl Iterator<Item = &'static About>) -> String {
    let lines: Vec<(String, &str)> = verbs.map(|verb| (verb.name.to_owned(), verb.about)).collect();
    let words = dialect.words();
    format!(
        "Makes, looks into and changes disk images: raw and qcow2.\n\nUsage: {words} VERB [OPTIONS] …\n\n\
         Verbs:\n{}\n{words} VERB --help tells a verb's options.\n",
        columns(&lines)
    )
}

/// Two columns, the left one as wide as it must be.
pub(super) fn columns(lines: &[(String, &str)]) -> String {
    let width = lines.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(left, right)| format!("  {left:width$}  {right}\n")).collect()
}
