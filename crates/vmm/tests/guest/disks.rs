//! Disks under load.

use kiln_vmm::config::Topology;

use super::story::{Recipe, blank_disk};

#[test]
fn eight_cpus_write_and_read_back_what_they_wrote() {
    kiln_lab::needs_kvm!(250);
    let guest = Recipe {
        cpus: Topology::one_socket(8),
        modules: &["virtio_pci", "virtio_blk"],
        disks: vec![blank_disk(64), blank_disk(64)],
        ..Recipe::default()
    }
    .boot();
    assert_eq!(guest.runs("cat /sys/block/vda/size /sys/block/vdb/serial"), "131072\n0123");
    // Each writer has 4 MiB of a disk of its own; what is read comes from the device, not from the page cache.
    let writer = "(head -c 4194304 /dev/urandom > /tmp/$n; d=/dev/vd$(echo ab | cut -c$((n % 2 + 1))); \
                   for round in 1 2 3; do dd if=/tmp/$n of=$d bs=64k seek=$((n * 64)) conv=fsync,notrunc 2>/dev/null; \
                   dd if=$d of=/tmp/$n.back bs=64k skip=$((n * 64)) count=64 iflag=direct 2>/dev/null; \
                   cmp /tmp/$n /tmp/$n.back && echo same >> /tmp/result.$n; done) &";
    let all = format!("for n in 0 1 2 3 4 5 6 7; do {writer} done; wait; cat /tmp/result.* | sort | uniq -c");
    assert_eq!(guest.runs(&all).trim(), "24 same");
}
