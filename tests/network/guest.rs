//! The guest: Debian's cloud kernel, busybox's DHCP client and tools, and a shell on the serial port.

use kiln_lab::guest::with_files;
use kiln_lab::packages::cloud_kernel;

use super::home::Home;
use super::talk::Talk;

/// What udhcpc calls with what it was told.
const LEASED: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip link set mtu $mtu dev $interface
ip addr add $ip/$mask dev $interface
ip route add default via $router
echo nameserver $dns > /etc/resolv.conf
echo LEASE $ip $router $dns $mtu $hostname
";

const INIT: &str = "mount -t tmpfs tmpfs /tmp
    ip link set lo up
    echo GUEST READY; exec sh";

/// A query for the address of kiln.test, as it goes over TCP (RFC 1035, 4.2.2).
pub const QUERY: &[u8] = b"\0\x1b\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x04kiln\x04test\0\0\x01\0\x01";

/// The value of `--boot`.
pub fn boot(home: &Home) -> String {
    let kernel = cloud_kernel().unwrap();
    let files = [("/leased", 0o755, LEASED.as_bytes()), ("/query", 0o644, QUERY)];
    let initrd = with_files(&kernel, &["virtio_pci", "virtio_net"], INIT, &files).unwrap();
    let initrd = home.file("initrd", initrd);
    format!("kernel={},initrd={initrd},kernel_args=console=ttyS0 quiet panic=1", kernel.bzimage.to_str().unwrap())
}

/// The guest's shell.
pub struct Shell(pub Talk);

impl Shell {
    /// On a machine's serial port, once the guest is there.
    pub fn of(home: &Home, machine: &str) -> Self {
        let talk = Talk::on_terminal(&home.command(&["console", machine]));
        talk.sees("GUEST READY");
        Self(talk)
    }

    /// Runs a line; gives its output and exit status.
    #[track_caller]
    pub fn runs(&mut self, line: &str) -> (String, i32) {
        // What is echoed doesn't read like the marks.
        self.0.types(&format!("echo BEG''IN; {line}; echo EN''D=$?=\r"));
        self.0.sees("BEGIN\r\n");
        let said = self.0.sees("END=");
        let status = self.0.sees("=");
        (said.replace('\r', ""), status.parse().unwrap())
    }

    /// Runs a line that succeeds; gives its output.
    #[track_caller]
    pub fn does(&mut self, line: &str) -> String {
        let (said, status) = self.runs(line);
        assert_eq!(status, 0, "{line}: {said}");
        said
    }
}
