//! What machines boot in these tests: Debian's cloud kernel and a few lines of shell.

use kiln_lab::guest::initramfs;
use kiln_lab::packages::cloud_kernel;

use super::home::Home;

/// Greets and gives a shell.
pub const SHELL: &str = "echo GUEST READY; exec sh";

/// Listens to the power button as acpid does, greets once it listens, and gives a shell.
pub const LISTENS: &str = "event=$(sed -n '/LNXPWRBN/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p' /proc/bus/input/devices)
    (dd if=/dev/input/$event bs=24 count=1 2>/dev/null >/tmp/key; poweroff -f) &
    until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/; do :; done
    echo GUEST READY; exec sh";

/// Does what an installer does last.
pub const REBOOTS: &str = "echo INSTALLED; reboot -f";

/// The stock kernel's path.
pub fn kernel() -> String {
    cloud_kernel().unwrap().bzimage.to_str().unwrap().to_owned()
}

/// An initrd that runs the script.
pub fn initrd(script: &str) -> Vec<u8> {
    initramfs(&cloud_kernel().unwrap(), &["button", "evdev", "virtio_pci", "virtio_blk", "virtio_net"], script).unwrap()
}

/// The value of `--boot` for a guest that runs the script.
pub fn boot(home: &Home, script: &str) -> String {
    let initrd = home.file("initrd", initrd(script));
    format!("kernel={},initrd={initrd},kernel_args=console=ttyS0 quiet panic=1", kernel())
}

/// A folder laid out as Debian's netboot tree is, whose installer runs the script.
pub fn tree(home: &Home, script: &str) -> String {
    home.file("tree/debian-installer/amd64/linux", std::fs::read(kernel()).unwrap());
    home.file("tree/debian-installer/amd64/initrd.gz", initrd(script));
    home.text("tree")
}
