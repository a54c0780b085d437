//! Machines of several sizes come up and see what they were given.

use kiln_vmm::config::{Legacy, Topology};

use super::story::{MIB, Recipe};

fn mem_total_kib(text: &str) -> u64 {
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn one_cpu_and_128_mib_by_bzimage() {
    kiln_lab::needs_kvm!(120);
    let guest = Recipe { memory: 128 * MIB, legacy: Legacy::small(), ..Recipe::default() }.boot();
    assert_eq!(guest.runs("nproc"), "1\n");
    let total = mem_total_kib(&guest.runs("grep MemTotal /proc/meminfo"));
    assert!((80 << 10..128 << 10).contains(&total), "{total} KiB");
}

#[test]
fn eight_cpus_and_6_gib_by_pvh() {
    kiln_lab::needs_kvm!(200);
    let guest = Recipe { cpus: Topology::one_socket(8), memory: 6144 * MIB, pvh: true, ..Recipe::default() }.boot();
    assert_eq!(guest.runs("nproc"), "8\n");
    let total = mem_total_kib(&guest.runs("grep MemTotal /proc/meminfo"));
    assert!((5800 << 10..6144 << 10).contains(&total), "{total} KiB");
    let online =
        guest.runs("grep -c '^processor' /proc/cpuinfo; cat /sys/devices/system/clocksource/*/current_clocksource");
    assert_eq!(online, "8\nkvm-clock\n");
}

#[test]
fn the_guest_sees_its_topology() {
    kiln_lab::needs_kvm!(200);
    let cpus = Topology { sockets: 2, dies: 1, cores: 2, threads: 2 };
    let guest = Recipe { cpus, ..Recipe::default() }.boot();
    let seen = guest.runs(
        "cd /sys/devices/system/cpu; for n in 0 1 2 3 4 5 6 7; do echo $(cat cpu$n/topology/physical_package_id \
         cpu$n/topology/core_id cpu$n/topology/thread_siblings_list); done; cd /",
    );
    let wanted = "0 0 0-1\n0 0 0-1\n0 1 2-3\n0 1 2-3\n1 0 4-5\n1 0 4-5\n1 1 6-7\n1 1 6-7\n";
    assert_eq!(seen, wanted);
}

#[test]
fn the_guest_knows_who_it_is() {
    kiln_lab::needs_kvm!(120);
    let guest = Recipe::default().boot();
    assert_eq!(guest.runs("cat /sys/class/dmi/id/product_uuid"), "2f1c549a-1011-1213-1415-161718191a1b\n");
    assert_eq!(guest.runs("cat /sys/class/dmi/id/product_version"), "kiln-q35-0\n");
    let ecam = guest.runs("grep -c 'ECAM\\|MMCONFIG' /proc/iomem");
    assert_ne!(ecam, "0\n", "configuration space is memory-mapped");
}
