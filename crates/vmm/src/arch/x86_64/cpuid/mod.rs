//! What CPUID says to each processor: KVM's supported leaves, with identity and topology made to agree.
//!
//! The host's own topology never shows: every leaf that counts or numbers processors is written anew, by vendor.

pub mod bits;
mod topology;

use bits::*;
use kvm_bindings::kvm_cpuid_entry2 as Leaf;
pub use topology::{Shifts, Topology, TopologyError};

/// Whose leaves a processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// Intel, and those who follow it (Zhaoxin).
    Intel,
    /// AMD and Hygon.
    Amd,
}

/// The machine's view of CPUID.
#[derive(Debug, Clone)]
pub struct Cpuid {
    leaves: Vec<Leaf>,
    vendor: Vendor,
    topology: Topology,
}

impl Cpuid {
    /// Leaves for a machine of the given topology, made from those that KVM supports.
    pub fn new(supported: &[Leaf], topology: Topology, tsc_deadline: bool) -> Self {
        let vendor = vendor(supported);
        let rewritten = |leaf: &Leaf| match leaf.function {
            TOPOLOGY | TOPOLOGY_V2 => true,
            AMD_TOPOLOGY => vendor == Vendor::Amd,
            _ => false,
        };
        let mut leaves: Vec<_> = supported.iter().filter(|leaf| !rewritten(leaf)).copied().collect();
        for leaf in &mut leaves {
            match leaf.function {
                VENDOR => leaf.eax = leaf.eax.max(highest_basic(vendor, topology)),
                FEATURES => {
                    leaf.ecx |= ECX_HYPERVISOR | ECX_X2APIC;
                    // A guest's own guests would be state that isn't saved.
                    leaf.ecx &= !(ECX_TSC_DEADLINE | ECX_VMX);
                    leaf.ecx |= if tsc_deadline { ECX_TSC_DEADLINE } else { 0 };
                }
                EXTENDED_FEATURES => leaf.ecx &= !ECX_SVM,
                HYPERVISOR => leaf.eax = leaf.eax.max(KVM_FEATURES),
                _ => {}
            }
        }
        if vendor == Vendor::Amd {
            announce_amd_topology(&mut leaves);
        }
        Self { leaves, vendor, topology }
    }

    /// Number of physical address bits.
    pub fn physical_bits(&self) -> u8 {
        let sizes = self.leaves.iter().find(|leaf| leaf.function == SIZES);
        // A processor without the leaf has 36 (SDM volume 3, 4.1.4).
        sizes.map_or(36, |leaf| leaf.eax as u8).clamp(32, 52)
    }

    /// The leaves of the `n`th processor.
    pub fn of_processor(&self, n: u32) -> Vec<Leaf> {
        let id = self.topology.apic_id(n);
        let mut leaves = self.leaves.clone();
        for leaf in &mut leaves {
            match leaf.function {
                FEATURES => self.identify(leaf, id),
                INTEL_CACHES if self.vendor == Vendor::Intel => self.share_intel_cache(leaf),
                EXTENDED_FEATURES if self.vendor == Vendor::Amd => {
                    leaf.ecx = put(leaf.ecx, ECX_CMP_LEGACY, self.topology.threads_per_socket() > 1);
                }
                SIZES if self.vendor == Vendor::Amd => {
                    leaf.ecx = (self.topology.threads_per_socket() - 1) | self.topology.shifts().socket << 12;
                }
                AMD_CACHES if self.vendor == Vendor::Amd => self.share_amd_cache(leaf),
                _ => {}
            }
        }
        leaves.extend(self.levels(TOPOLOGY, id, &self.two_levels()));
        if self.vendor == Vendor::Intel && self.highest() >= TOPOLOGY_V2 {
            leaves.extend(self.levels(TOPOLOGY_V2, id, &self.three_levels()));
        }
        if self.vendor == Vendor::Amd {
            leaves.push(self.amd_place(n, id));
        }
        leaves
    }

    fn highest(&self) -> u32 {
        self.leaves.iter().find(|leaf| leaf.function == VENDOR).map_or(0, |leaf| leaf.eax)
    }

    // Leaf 1: initial APIC id, and how many ids the socket spans.
    fn identify(&self, leaf: &mut Leaf, id: u32) {
        let span = 1u32 << self.topology.shifts().socket;
        leaf.ebx = leaf.ebx & 0xffff | (span.min(255) << 16) | (id & 0xff) << 24;
        leaf.edx = put(leaf.edx, EDX_HTT, self.topology.threads_per_socket() > 1);
    }

    // Leaf 4: EAX 25:14 threads that share the cache, 31:26 cores in the socket, both less one.
    fn share_intel_cache(&self, leaf: &mut Leaf) {
        if leaf.eax & 0x1f == 0 {
            return;
        }
        let shifts = self.topology.shifts();
        let sharing = (1u32 << if leaf.eax >> 5 & 7 >= 3 { shifts.die } else { shifts.core }) - 1;
        let cores = (1u32 << (shifts.socket - shifts.core)) - 1;
        leaf.eax = leaf.eax & 0x3fff | (sharing & 0xfff) << 14 | (cores & 0x3f) << 26;
    }

    // Leaf 0x8000_001d: EAX 25:14 threads that share the cache, less one.
    fn share_amd_cache(&self, leaf: &mut Leaf) {
        if leaf.eax & 0x1f == 0 {
            return;
        }
        let sharing = if leaf.eax >> 5 & 7 >= 3 { self.topology.threads_per_die() } else { self.topology.threads } - 1;
        leaf.eax = leaf.eax & 0x3fff | (sharing & 0xfff) << 14;
    }

    // Leaf 0x8000_001e: extended APIC id, core, node (one a die).
    fn amd_place(&self, n: u32, id: u32) -> Leaf {
        let t = &self.topology;
        let core = (n / t.threads) % (t.cores * t.dies);
        let node = n / t.threads_per_die();
        Leaf {
            function: AMD_TOPOLOGY,
            eax: id,
            ebx: core & 0xff | (t.threads - 1) << 8,
            ecx: node & 0xff | (t.dies - 1).min(7) << 8,
            ..Default::default()
        }
    }

    fn two_levels(&self) -> [(u32, u32, u32); 2] {
        let (t, shifts) = (&self.topology, self.topology.shifts());
        [(LEVEL_THREAD, shifts.core, t.threads), (LEVEL_CORE, shifts.socket, t.threads_per_socket())]
    }

    fn three_levels(&self) -> [(u32, u32, u32); 3] {
        let (t, shifts) = (&self.topology, self.topology.shifts());
        [
            (LEVEL_THREAD, shifts.core, t.threads),
            (LEVEL_CORE, shifts.die, t.threads_per_die()),
            (LEVEL_DIE, shifts.socket, t.threads_per_socket()),
        ]
    }

    // EAX: bits below the next level, EBX: threads in it, ECX: sub-leaf and type, EDX: x2APIC id. An invalid level ends.
    fn levels(&self, function: u32, id: u32, levels: &[(u32, u32, u32)]) -> Vec<Leaf> {
        let end = (0, 0, 0);
        (0..)
            .zip(levels.iter().chain([&end]))
            .map(|(index, (kind, shift, count))| Leaf {
                function,
                index,
                flags: SIGNIFICANT_INDEX,
                eax: *shift,
                ebx: *count,
                ecx: index | kind << 8,
                edx: id,
                ..Default::default()
            })
            .collect()
    }
}

fn vendor(leaves: &[Leaf]) -> Vendor {
    let name = leaves.iter().find(|leaf| leaf.function == VENDOR).map(|leaf| [leaf.ebx, leaf.edx, leaf.ecx]);
    let amd = [*b"AuthenticAMD", *b"HygonGenuine"].map(|name| words(&name));
    if name.is_some_and(|name| amd.contains(&name)) { Vendor::Amd } else { Vendor::Intel }
}

fn words(name: &[u8; 12]) -> [u32; 3] {
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(name.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

fn highest_basic(vendor: Vendor, topology: Topology) -> u32 {
    if vendor == Vendor::Intel && topology.dies > 1 { TOPOLOGY_V2 } else { TOPOLOGY }
}

fn announce_amd_topology(leaves: &mut Vec<Leaf>) {
    for leaf in leaves.iter_mut() {
        match leaf.function {
            EXTENDED => leaf.eax = leaf.eax.max(AMD_TOPOLOGY),
            EXTENDED_FEATURES => leaf.ecx |= ECX_TOPOEXT,
            _ => {}
        }
    }
    if !leaves.iter().any(|leaf| leaf.function == AMD_CACHES) {
        // No cache is described, which is better than a leaf that falls through to another.
        leaves.push(Leaf { function: AMD_CACHES, flags: SIGNIFICANT_INDEX, ..Default::default() });
    }
}

fn put(word: u32, bit: u32, set: bool) -> u32 {
    if set { word | bit } else { word & !bit }
}

#[cfg(test)]
mod tests;
