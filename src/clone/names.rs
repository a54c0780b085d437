//! Names of copies, as virt-clone makes them.

use std::path::{Path, PathBuf};

/// Longer endings than this are part of a file's name.
const LONGEST_SUFFIX: usize = 7;
/// What the disk of a machine that is cloned by links is called besides.
const TOP: &str = "-top";

/// `web` becomes `web-clone`, then `web-clone1`; `web-clone` becomes `web-clone1`.
pub(super) fn machine(original: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let ended = original.rsplit_once("-clone").filter(|(_, number)| number.chars().all(|c| matches!(c, '1'..='9')));
    let (stem, first) = match ended {
        Some((stem, number)) => (stem, Some(number.parse::<u64>().map_or(1, |number| number.saturating_add(1)))),
        None => (original, None),
    };
    let plain = first.is_none().then(|| format!("{stem}-clone"));
    let numbered = (first.unwrap_or(1)..).map(|number| format!("{stem}-clone{number}"));
    plain.into_iter().chain(numbered).find(|name| !is_taken(name)).unwrap_or_default()
}

// The name without folder, cut before its ending.
fn parts(path: &Path) -> (String, String) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.rsplit_once('.') {
        Some((stem, suffix)) if suffix.len() <= LONGEST_SUFFIX => (stem.into(), format!(".{suffix}")),
        _ => (name, String::new()),
    }
}

fn first_free(path: &Path, stem: &str, suffix: &str, is_taken: impl Fn(&Path) -> bool) -> PathBuf {
    let plain = std::iter::once(path.with_file_name(format!("{stem}{suffix}")));
    let numbered = (1u64..).map(|number| path.with_file_name(format!("{stem}-{number}{suffix}")));
    plain.chain(numbered).find(|path| !is_taken(path)).unwrap_or_default()
}

/// A disk's copy beside it: called after the clone if the disk is called after its machine, else NAME-clone. `suffix`
/// stands in for the ending.
pub(super) fn disk(
    path: &Path,
    original: &str,
    clone: &str,
    suffix: Option<&str>,
    is_taken: impl Fn(&Path) -> bool,
) -> PathBuf {
    let (stem, own) = parts(path);
    let is_named_after = stem == original || stem.strip_suffix(TOP) == Some(original);
    let stem = if is_named_after { clone.to_owned() } else { format!("{stem}-clone") };
    first_free(path, &stem, suffix.unwrap_or(&own), is_taken)
}

/// The image in which a machine goes on when its disk becomes a base.
pub(super) fn top(path: &Path, is_taken: impl Fn(&Path) -> bool) -> PathBuf {
    let (stem, _) = parts(path);
    let stem = match stem.rsplit_once(TOP) {
        Some((stem, number)) if number.trim_start_matches('-').chars().all(|c| c.is_ascii_digit()) => stem,
        _ => &stem,
    };
    first_free(path, &format!("{stem}{TOP}"), ".qcow2", is_taken)
}

/// A file other than a disk that belongs to one machine: the clone's name stands in for the machine's, or behind.
pub(super) fn file(path: &str, original: &str, clone: &str) -> String {
    let path = Path::new(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = if name.contains(original) {
        name.replacen(original, clone, 1)
    } else {
        let (stem, suffix) = parts(path);
        format!("{stem}-{clone}{suffix}")
    };
    path.with_file_name(new).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_as_virt_clone_does() {
        let named = |original: &str, taken: &[&str]| machine(original, |name| taken.contains(&name));
        assert_eq!(named("web", &[]), "web-clone");
        assert_eq!(named("web", &["web-clone"]), "web-clone1");
        assert_eq!(named("web-clone", &[]), "web-clone1");
        assert_eq!(named("web-clone2", &["web-clone3"]), "web-clone4");
        assert_eq!(named("web-clones", &[]), "web-clones-clone");
    }

    #[test]
    fn disks_are_named_as_virt_clone_does() {
        let named = |path: &str, taken: &[&str]| {
            let is_taken = |path: &Path| taken.iter().any(|taken| Path::new(taken) == path);
            disk(Path::new(path), "web", "new", None, is_taken).display().to_string()
        };
        assert_eq!(named("/d/web.img", &[]), "/d/new.img");
        assert_eq!(named("/d/data.img", &[]), "/d/data-clone.img");
        assert_eq!(named("/d/data.img", &["/d/data-clone.img"]), "/d/data-clone-1.img");
        assert_eq!(named("/d.e/data", &[]), "/d.e/data-clone");
        assert_eq!(named("/d/data.longending", &[]), "/d/data.longending-clone");
        assert_eq!(named("/d/web-top.qcow2", &[]), "/d/new.qcow2");
    }

    #[test]
    fn tops_and_logs() {
        let named =
            |path: &str, taken: &str| top(Path::new(path), |path| path == Path::new(taken)).display().to_string();
        assert_eq!(named("/d/web.img", ""), "/d/web-top.qcow2");
        assert_eq!(named("/d/web-top.qcow2", "/d/web-top.qcow2"), "/d/web-top-1.qcow2");
        assert_eq!(named("/d/web-top-1.qcow2", "/d/web-top.qcow2"), "/d/web-top-1.qcow2");
        assert_eq!(file("/l/web-serial.log", "web", "new"), "/l/new-serial.log");
        assert_eq!(file("/l/serial.log", "web", "new"), "/l/serial-new.log");
    }
}
