//! Recorded CPUID of both vendors, read back the way kernels read it.

use super::*;

const AMD: &str = include_str!("fixtures/amd.txt");
const INTEL: &str = include_str!("fixtures/intel.txt");

fn recorded(text: &str) -> Vec<Leaf> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let n: Vec<_> = line.split(' ').map(|word| u32::from_str_radix(word, 16).unwrap()).collect();
            Leaf {
                function: n[0],
                index: n[1],
                flags: n[2],
                eax: n[3],
                ebx: n[4],
                ecx: n[5],
                edx: n[6],
                ..Leaf::default()
            }
        })
        .collect()
}

fn leaf(leaves: &[Leaf], function: u32, index: u32) -> Leaf {
    let matches: Vec<_> = leaves.iter().filter(|l| l.function == function && l.index == index).collect();
    assert_eq!(matches.len(), 1, "leaf {function:#x}/{index} stands once");
    *matches[0]
}

fn topologies() -> Vec<Topology> {
    let t = |sockets, dies, cores, threads| Topology { sockets, dies, cores, threads };
    vec![t(1, 1, 1, 1), t(8, 1, 1, 1), t(1, 1, 8, 1), t(2, 1, 2, 2), t(2, 2, 3, 2), t(1, 1, 5, 3), t(4, 2, 4, 2)]
}

// (socket, die, core, thread) by the extended topology leaf, as Linux's detect_extended_topology reads it.
fn by_levels(leaves: &[Leaf], function: u32) -> (u32, u32, u32, u32) {
    let (mut core, mut die, mut socket) = (0, None, 0);
    let id = leaf(leaves, function, 0).edx;
    for index in 0.. {
        let level = leaf(leaves, function, index);
        assert_eq!((level.ecx & 0xff, level.edx), (index, id));
        match level.ecx >> 8 & 0xff {
            0 => break,
            LEVEL_THREAD => core = level.eax,
            LEVEL_CORE => die = Some(level.eax),
            LEVEL_DIE => {}
            other => panic!("level type {other}"),
        }
        socket = level.eax;
    }
    let die = die.unwrap_or(socket);
    let cut = |from: u32, to: u32| id >> from & ((1 << (to - from)) - 1);
    (id >> socket, cut(die, socket), cut(core, die), cut(0, core))
}

fn place(t: &Topology, n: u32) -> (u32, u32, u32, u32) {
    (n / t.threads_per_socket(), n / t.threads_per_die() % t.dies, n / t.threads % t.cores, n % t.threads)
}

#[test]
fn intel_levels_name_each_processors_place() {
    for t in topologies() {
        let cpuid = Cpuid::new(&recorded(INTEL), t, true);
        for n in 0..t.processors() {
            let leaves = cpuid.of_processor(n);
            let (socket, die, core, thread) = place(&t, n);
            if t.dies > 1 {
                assert_eq!(by_levels(&leaves, TOPOLOGY_V2), (socket, die, core, thread), "{t:?} {n}");
            }
            let (s, _, _, th) = by_levels(&leaves, TOPOLOGY);
            assert_eq!((s, th), (socket, thread), "{t:?} {n}");
            let l1 = leaf(&leaves, INTEL_CACHES, 0);
            let shift = t.shifts();
            assert_eq!((l1.eax >> 14 & 0xfff) + 1, 1 << shift.core);
            assert_eq!((l1.eax >> 26) + 1, 1 << (shift.socket - shift.core));
        }
    }
}

#[test]
fn amd_leaves_name_each_processors_place() {
    for t in topologies() {
        let cpuid = Cpuid::new(&recorded(AMD), t, true);
        for n in 0..t.processors() {
            let leaves = cpuid.of_processor(n);
            let (socket, die, core, _) = place(&t, n);
            let here = leaf(&leaves, AMD_TOPOLOGY, 0);
            assert_eq!(here.eax, t.apic_id(n));
            assert_eq!(here.ebx, (die * t.cores + core) | (t.threads - 1) << 8, "{t:?} {n}");
            assert_eq!(here.ecx, (socket * t.dies + die) | (t.dies - 1) << 8);
            let sizes = leaf(&leaves, SIZES, 0);
            assert_eq!((sizes.ecx & 0xff) + 1, t.threads_per_socket());
            assert_eq!(t.apic_id(n) >> (sizes.ecx >> 12 & 0xf), socket);
            assert_eq!(by_levels(&leaves, TOPOLOGY).0, socket);
            assert_eq!(leaf(&leaves, EXTENDED_FEATURES, 0).ecx & ECX_TOPOEXT, ECX_TOPOEXT);
        }
    }
}

#[test]
fn leaf_1_counts_and_names_and_shows_the_hypervisor() {
    for text in [AMD, INTEL] {
        let t = Topology { sockets: 2, dies: 1, cores: 3, threads: 2 };
        let cpuid = Cpuid::new(&recorded(text), t, false);
        let features = leaf(&cpuid.of_processor(7), FEATURES, 0);
        assert_eq!(features.ebx >> 24, t.apic_id(7));
        assert_eq!(features.ebx >> 16 & 0xff, 8);
        assert_eq!(features.edx & EDX_HTT, EDX_HTT);
        assert_eq!(features.ecx & (ECX_HYPERVISOR | ECX_X2APIC), ECX_HYPERVISOR | ECX_X2APIC);
        assert_eq!(features.ecx & ECX_TSC_DEADLINE, 0);
        let alone = Cpuid::new(&recorded(text), Topology::flat(1), true);
        let features = leaf(&alone.of_processor(0), FEATURES, 0);
        assert_eq!((features.edx & EDX_HTT, features.ecx & ECX_TSC_DEADLINE), (0, ECX_TSC_DEADLINE));
    }
}

#[test]
fn what_is_announced_is_there() {
    for text in [AMD, INTEL] {
        for t in topologies() {
            let leaves = Cpuid::new(&recorded(text), t, true).of_processor(0);
            assert!(leaf(&leaves, VENDOR, 0).eax >= TOPOLOGY);
            assert!(leaf(&leaves, HYPERVISOR, 0).eax >= KVM_FEATURES);
            for level in 0..3 {
                leaf(&leaves, TOPOLOGY, level);
            }
        }
    }
    assert_eq!(vendor(&recorded(AMD)), Vendor::Amd);
    assert_eq!(vendor(&recorded(INTEL)), Vendor::Intel);
}
