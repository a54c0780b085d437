//! A machine is put down and picked up again, and its guest doesn't notice.

use kiln_vmm::config::Topology;
use kiln_vmm::legacy::i8042::Key;

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
    // Two writers check what the disk gives back, and note the time of each round.
    let script = "for n in 0 1; do (while :; do
                    head -c 262144 /dev/urandom > /tmp/$n
                    dd if=/tmp/$n of=/dev/vda bs=16k seek=$((n * 16)) conv=fsync,notrunc 2>/dev/null
                    dd if=/dev/vda of=/tmp/$n.back bs=16k skip=$((n * 16)) count=16 iflag=direct 2>/dev/null
                    cmp -s /tmp/$n /tmp/$n.back || echo BAD >> /tmp/ticks.$n
                    echo $(cut -d' ' -f1 /proc/uptime | tr -d .) >> /tmp/ticks.$n
                  done) & done
                  keyboard=$(sed -n '/AT Translated/,/^$/s/.*\\(event[0-9]*\\).*/\\1/p' /proc/bus/input/devices)
                  cat /dev/input/$keyboard > /tmp/keys &
                  until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/input/; do :; done
                  echo GUEST READY; exec sh";
    let mut guest = Recipe {
        cpus: Topology::one_socket(2),
        script,
        modules: &["virtio_pci", "virtio_blk", "evdev"],
        disks: vec![blank_disk(16)],
        ..Recipe::default()
    }
    .boot();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut after_first = 0;
    let numbers: Vec<_> = (1..=100).map(|n| n.to_string()).collect();
    for life in 0..20 {
        // The console is talking and a key is on its way when the machine is put down.
        guest.types("echo FR''OM; seq 1 100; echo T''O");
        let keyboard = guest.machine().ps2().unwrap();
        assert!(keyboard.key(Key::Plain(0x1e), true) && keyboard.key(Key::Plain(0x1e), false));
        guest.next_life();
        guest.sees("FROM\r\n");
        assert_eq!(guest.sees("TO\r\n").split_whitespace().collect::<Vec<_>>(), numbers);
        assert_eq!(guest.runs(&format!("echo life {life}")), format!("life {life}\n"));
        if life == 0 {
            after_first = descriptors();
        }
    }
    assert_eq!(descriptors(), after_first, "nothing is left of former lives");
    // Press and release: scan code, key and end of report each, 24 bytes apiece.
    guest.runs("until [ $(wc -c < /tmp/keys) -ge 2880 ]; do sleep 0.1; done");
    assert_eq!(guest.runs("wc -c < /tmp/keys"), "2880\n");
    for writer in 0..2 {
        // Another round after the last life: its disk and its interrupts still work.
        let rounds = guest.runs(&format!("wc -l < /tmp/ticks.{writer}"));
        guest.runs(&format!("while [ $(wc -l < /tmp/ticks.{writer}) -le {} ]; do sleep 0.1; done", rounds.trim()));
        let ticks = guest.runs(&format!("cat /tmp/ticks.{writer}"));
        assert!(!ticks.contains("BAD"), "a checksum was wrong");
        let times: Vec<u64> = ticks.lines().map(|line| line.parse().unwrap()).collect();
        assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "the clock went back: {times:?}");
    }
}
