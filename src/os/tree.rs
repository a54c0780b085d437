//! Install trees and media by their layout: where a distribution keeps installer kernel and initrd.
//!
//! Debian: its installation manual, "Booting the installer", the archive's `installer-ARCH/current/images`, and its media.
//! The others: the layouts of their media and trees as released, the ones virt-install knows among them.

use super::{Installer, Sums, System};

/// A place in a tree where an installer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Name of the layout.
    pub layout: &'static str,
    /// Kernel, relative to the location.
    pub kernel: &'static str,
    /// Initrd, relative to the location.
    pub initrd: &'static str,
    /// The file that may have the sums of both, relative to the location.
    pub sums: Option<&'static str>,
    /// The kernel argument that names the tree's URL.
    pub url_argument: Option<&'static str>,
}

const fn plain(layout: &'static str, kernel: &'static str, initrd: &'static str) -> Candidate {
    Candidate { layout, kernel, initrd, sums: None, url_argument: None }
}

const fn summed(layout: &'static str, kernel: &'static str, initrd: &'static str, sums: &'static str) -> Candidate {
    Candidate { sums: Some(sums), ..plain(layout, kernel, initrd) }
}

const fn suse(kernel: &'static str, initrd: &'static str) -> Candidate {
    Candidate { url_argument: Some("install"), ..plain("SUSE", kernel, initrd) }
}

const SUMS: &str = "SHA256SUMS";

/// All candidates, in the order in which they are tried.
pub const CANDIDATES: &[Candidate] = &[
    summed("Debian", "debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz", SUMS),
    summed(
        "Debian",
        "current/images/netboot/debian-installer/amd64/linux",
        "current/images/netboot/debian-installer/amd64/initrd.gz",
        "current/images/SHA256SUMS",
    ),
    summed(
        "Debian",
        "dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/linux",
        "dists/stable/main/installer-amd64/current/images/netboot/debian-installer/amd64/initrd.gz",
        "dists/stable/main/installer-amd64/current/images/SHA256SUMS",
    ),
    summed("Debian", "netboot/debian-installer/amd64/linux", "netboot/debian-installer/amd64/initrd.gz", SUMS),
    summed(
        "Debian (daily)",
        "daily/netboot/debian-installer/amd64/linux",
        "daily/netboot/debian-installer/amd64/initrd.gz",
        "daily/SHA256SUMS",
    ),
    summed(
        "Ubuntu",
        "current/legacy-images/netboot/ubuntu-installer/amd64/linux",
        "current/legacy-images/netboot/ubuntu-installer/amd64/initrd.gz",
        "current/legacy-images/SHA256SUMS",
    ),
    summed(
        "Ubuntu",
        "current/images/netboot/ubuntu-installer/amd64/linux",
        "current/images/netboot/ubuntu-installer/amd64/initrd.gz",
        "current/images/SHA256SUMS",
    ),
    summed("Ubuntu", "ubuntu-installer/amd64/linux", "ubuntu-installer/amd64/initrd.gz", SUMS),
    summed("Debian", "install.amd/vmlinuz", "install.amd/initrd.gz", "sha256sum.txt"),
    plain("Ubuntu", "install/netboot/ubuntu-installer/amd64/linux", "install/netboot/ubuntu-installer/amd64/initrd.gz"),
    plain("Ubuntu", "install/vmlinuz", "install/initrd.gz"),
    plain("Ubuntu", "casper/vmlinuz", "casper/initrd"),
    plain("Ubuntu", "casper/vmlinuz", "casper/initrd.gz"),
    plain("Ubuntu", "casper/vmlinuz", "casper/initrd.lz"),
    suse("boot/x86_64/loader/linux", "boot/x86_64/loader/initrd"),
    suse("boot/x86_64/linux", "boot/x86_64/initrd"),
    suse("boot/loader/linux64", "boot/loader/initrd64"),
    suse("boot/loader/linux", "boot/loader/initrd"),
    plain("Fedora or Red Hat", "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"),
    plain("Fedora or Red Hat", "isolinux/vmlinuz", "isolinux/initrd.img"),
    plain("Mageia", "isolinux/x86_64/vmlinuz", "isolinux/x86_64/all.rdz"),
    plain("Arch Linux", "arch/boot/x86_64/vmlinuz-linux", "arch/boot/x86_64/initramfs-linux.img"),
    plain("Alpine Linux", "boot/vmlinuz-lts", "boot/initramfs-lts"),
    plain("Alpine Linux", "boot/vmlinuz-virt", "boot/initramfs-virt"),
    summed("Debian", "linux", "initrd.gz", SUMS),
];

impl From<Candidate> for Installer {
    fn from(candidate: Candidate) -> Self {
        Self {
            system: System { name: candidate.layout.into(), url_argument: candidate.url_argument },
            kernel: candidate.kernel.into(),
            initrd: vec![candidate.initrd.into()],
            words: Vec::new(),
            sums: candidate.sums.map_or(Sums::None, Sums::List),
            by: None,
        }
    }
}

/// The sum of `path` in a list of sums that lies in the folder `folder` (both relative to the location).
pub fn listed_sum(sums: &str, folder: &str, path: &str) -> Option<String> {
    let name = path.strip_prefix(folder)?.trim_start_matches('/');
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
        assert_eq!(listed_sum(&sums, "images", "images/netboot/linux"), Some(sum.clone()));
        assert_eq!(listed_sum(&sums, "images", "images/other"), Some(sum.clone()));
        assert_eq!(listed_sum(&sums, "", "other"), Some(sum));
        assert_eq!(listed_sum(&sums, "images", "images/netboot/initrd.gz"), None, "no sum");
        assert_eq!(listed_sum(&sums, "images", "netboot/linux"), None, "another folder");
    }

    #[test]
    fn each_layout_is_named_once() {
        for (at, one) in CANDIDATES.iter().enumerate() {
            let same = |two: &&Candidate| (two.kernel, two.initrd) == (one.kernel, one.initrd);
            assert!(CANDIDATES[..at].iter().find(same).is_none(), "{one:?}");
        }
    }
}
