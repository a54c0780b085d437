//! A machine is put down and picked up again, and its guest doesn't notice.

use kiln_vmm::config::Topology;

use super::story::Recipe;

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
    let script = "(n=0; while :; do n=$((n+1)); echo \"$n $(cut -d' ' -f1 /proc/uptime | tr -d .)\" >> /tmp/ticks; \
                  head -c 100000 /dev/urandom > /tmp/a; a=$(sha256sum < /tmp/a); cat /tmp/a > /tmp/b; \
                  [ \"$a\" = \"$(sha256sum < /tmp/b)\" ] || echo BAD >> /tmp/ticks; done) &\n\
                  echo GUEST READY; exec sh";
    let mut guest = Recipe { cpus: Topology::one_socket(2), script, ..Recipe::default() }.boot();
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
    let before: u64 = guest.runs("wc -l < /tmp/ticks").trim().parse().unwrap();
    let ticks = guest.runs("cat /tmp/ticks");
    assert!(!ticks.contains("BAD"), "a checksum was wrong");
    let times: Vec<u64> = ticks.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect();
    assert!(times.len() as u64 >= before && before >= 2, "the guest worked on: {before} rounds");
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "the clock went back: {times:?}");
}
