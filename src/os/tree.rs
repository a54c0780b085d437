//! Install trees: where a distribution keeps installer kernel and initrd.
//!
//! Debian's layout so far (the Debian installation manual, "Booting the installer"; the archive's
//! `installer-ARCH/current/images`).

/// A place in a tree where an installer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the layout.
    pub layout: &'static str,
    /// Kernel, relative to the location.
    pub kernel: &'static str,
    /// Initrd, relative to the location.
    pub initrd: &'static str,
    /// Folder whose `SHA256SUMS` has both, relative to the location.
    pub sums: &'static str,
}

const fn debian(kernel: &'static str, initrd: &'static str, sums: &'static str) -> Candidate {
    Candidate { layout: "Debian", kernel, initrd, sums }
}

/// All candidates, in the order in which they are tried.
pub const CANDIDATES: &[Candidate] = &[
    debian("debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz", ""),
    debian(
        "current/images/netboot/debian-installer/amd64/linux",
        "current/images/netboot/debian-installer/amd64/initrd.gz",
        "current/images/",
    ),
    debian(
        "dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/linux",
        "dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/initrd.gz",
        "dists/stable/main/installer-amd64/current/images/",
    ),
    debian("netboot/debian-installer/amd64/linux", "netboot/debian-installer/amd64/initrd.gz", ""),
    debian("linux", "initrd.gz", ""),
];

/// The sum of `path` in a `SHA256SUMS` file whose folder is `folder` (both relative to the location).
pub fn listed_sum(sums: &str, folder: &str, path: &str) -> Option<String> {
    let name = path.strip_prefix(folder)?;
    sums.lines().find_map(|line| {
        let (sum, file) = line.split_once(char::is_whitespace)?;
        let file = file.trim_start().trim_start_matches('*').trim_start_matches("./");
        let is_sum = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        (file == name && is_sum).then(|| sum.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_found_by_their_path_in_the_folder() {
        let sum = "ab".repeat(32);
        let sums = format!("{sum}  ./netboot/linux\n{sum} *other\nshort  ./netboot/initrd.gz\n");
        assert_eq!(listed_sum(&sums, "images/", "images/netboot/linux"), Some(sum.clone()));
        assert_eq!(listed_sum(&sums, "images/", "images/other"), Some(sum));
        assert_eq!(listed_sum(&sums, "images/", "images/netboot/initrd.gz"), None, "no sum");
        assert_eq!(listed_sum(&sums, "images/", "netboot/linux"), None, "another folder");
    }
}
