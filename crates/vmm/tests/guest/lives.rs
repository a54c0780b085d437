//! A machine is put down and picked up again, and its guest doesn't notice.

use kiln_vmm::config::Topology;

use super::disks::MODULES;
use super::story::{Recipe, blank_disk};

#[test]
fn pausing_leaves_the_guest_as_it_was() {
    kiln_lab::needs_kvm!(120);
    let guest = Recipe { cpus: Topology::one_socket(2), ..Recipe::default() }.boot();
    for round in 0..10 {
        guest.machine().pause();
        guest.machine().resume();
        assert_eq!(guest.runs(&format!("echo round {round}")), format!("round {round}\n"));
    }
}

#[test]
fn twenty_lives_on_the_same_ram() {
    kiln_lab::needs_kvm!(300);
    // Four writers check what the disk gives back, and note the time of each round.
    let script = "for n in 0 1 2 3; do (while :; do
                    head -c 262144 /dev/urandom > /tmp/$n
                    dd if=/tmp/$n of=/dev/vda bs=16k seek=$((n * 16)) conv=fsync,notrunc 2>/dev/null
                    dd if=/dev/vda of=/tmp/$n.back bs=16k skip=$((n * 16)) count=16 iflag=direct 2>/dev/null
                    cmp -s /tmp/$n /tmp/$n.back || echo BAD >> /tmp/ticks.$n
                    echo $(cut -d' ' -f1 /proc/uptime | tr -d .) >> /tmp/ticks.$n
                  done) & done
                  echo GUEST READY; exec sh";
    let mut guest = Recipe {
        cpus: Topology::one_socket(2),
        script,
        modules: MODULES,
        disks: vec![blank_disk(16)],
        ..Recipe::default()
    }
    .boot();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut after_first = 0;
    for life in 0..20 {
        guest.next_life();
        assert_eq!(guest.runs(&format!("echo life {life}")), format!("life {life}\n"));
        if life == 0 {
            after_first = descriptors();
        }
    }
    assert_eq!(descriptors(), after_first, "nothing is left of former lives");
    for writer in 0..4 {
        // Another round after the last life: its disk and its interrupts still work.
        let rounds = guest.runs(&format!("wc -l < /tmp/ticks.{writer}"));
        guest.runs(&format!("while [ $(wc -l < /tmp/ticks.{writer}) -le {} ]; do sleep 0.1; done", rounds.trim()));
        let ticks = guest.runs(&format!("cat /tmp/ticks.{writer}"));
        assert!(!ticks.contains("BAD"), "a checksum was wrong");
        let times: Vec<u64> = ticks.lines().map(|line| line.parse().unwrap()).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "the clock went back: {times:?}");
    }
}
