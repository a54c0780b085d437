//! Paths inside a tree, that never lead out of it.

/// A path of a tree's own description, seen from the folder `from` (`""` is the root). A slash at its beginning is the
/// root's. `None` when it leads out of the tree, names nothing, or has a control character in it.
pub fn inside(from: &str, path: &str) -> Option<String> {
    let from = if path.starts_with('/') { "" } else { from };
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty() && !path.contains(char::is_control)).then(|| parts.join("/"))
}

/// The folder that a file lies in, `""` for the root.
pub fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let rows = [
            ("isolinux", "vmlinuz", Some("isolinux/vmlinuz")),
            ("isolinux", "/casper/vmlinuz", Some("casper/vmlinuz")),
            ("boot/grub", "../x86_64/./linux", Some("boot/x86_64/linux")),
            ("", "images//pxeboot/vmlinuz", Some("images/pxeboot/vmlinuz")),
            ("", "../vmlinuz", None),
            ("a", "b/../../../c", None),
            ("", "/", None),
            ("", "a/..", None),
            ("", "a\x1b[2J", None),
        ];
        for (from, path, wanted) in rows {
            assert_eq!(inside(from, path).as_deref(), wanted, "{path} from {from}");
        }
        assert_eq!((folder("a/b/c"), folder("c")), ("a/b", ""));
    }
}
