//! The lab: an emulated PC with hardware virtualization, in which tests run kiln where the host's KVM can't.
//!
//! QEMU emulates an AMD CPU with SVM in software; inside it Debian's cloud kernel loads its real kvm-amd, so
//! `/dev/kvm` there is hardware-like, only slower. docs/lab.md tells what holds there and why.
//!
//! * [`machine::Lab`] is a running lab: commands and files go in, output, status and files come back.
//! * [`needs_kvm!`] turns an ordinary test into a guest test: it runs straight where KVM works, else in a lab that
//!   all guest tests of the same test program share.
//! * [`packages`] and [`guest`] hand out kernels and initramfs images for guests, here and inside.
//!
//! Not for: anything that kiln itself does at run time. Nothing but tests and developer commands uses this crate.

pub mod cpio;
pub mod elf;
pub mod guest;
pub mod initramfs;
pub mod installer;
pub mod machine;
pub mod module;
pub mod options;
pub mod packages;
pub mod protocol;
pub mod screen;
pub mod site;
pub mod testing;
pub mod vmlinux;

/// Whether this process runs inside a lab.
pub fn inside() -> bool {
    std::env::var_os("KILN_LAB").is_some_and(|v| v == "inside")
}
