//! Leaves and bits of CPUID, by name. Intel SDM volume 2, "CPUID"; AMD APM volume 3, appendix E.

/// Highest basic leaf, vendor.
pub const VENDOR: u32 = 0x0;
/// Features, initial APIC id.
pub const FEATURES: u32 = 0x1;
/// Intel: deterministic cache parameters.
pub const INTEL_CACHES: u32 = 0x4;
/// Extended topology.
pub const TOPOLOGY: u32 = 0xb;
/// Intel: extended topology with dies.
pub const TOPOLOGY_V2: u32 = 0x1f;
/// Hypervisor's signature; what KVM offers stands in the next leaf.
pub const HYPERVISOR: u32 = 0x4000_0000;
/// What KVM offers.
pub const KVM_FEATURES: u32 = 0x4000_0001;
/// Highest extended leaf.
pub const EXTENDED: u32 = 0x8000_0000;
/// Extended features.
pub const EXTENDED_FEATURES: u32 = 0x8000_0001;
/// Address widths; AMD: number of threads.
pub const SIZES: u32 = 0x8000_0008;
/// AMD: cache parameters.
pub const AMD_CACHES: u32 = 0x8000_001d;
/// AMD: APIC id, core, node.
pub const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1, ECX: Intel's virtualization.
pub const ECX_VMX: u32 = 1 << 5;
/// Leaf 0x8000_0001, ECX: AMD's virtualization.
pub const ECX_SVM: u32 = 1 << 2;
/// Leaf 1, ECX: x2APIC.
pub const ECX_X2APIC: u32 = 1 << 21;
/// Leaf 1, ECX: the APIC timer can wait for a time-stamp.
pub const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: a hypervisor is present.
pub const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: EBX 23:16 counts logical processors.
pub const EDX_HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX, AMD: several logical processors share a package.
pub const ECX_CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001, ECX, AMD: leaves 0x8000_001d and 0x8000_001e are there.
pub const ECX_TOPOEXT: u32 = 1 << 22;

/// The sub-leaf matters.
pub const SIGNIFICANT_INDEX: u32 = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

/// Level types of the extended topology leaves, in ECX 15:8.
pub const LEVEL_THREAD: u32 = 1;
/// Cores within what is above.
pub const LEVEL_CORE: u32 = 2;
/// Dies within the package (leaf 0x1f only).
pub const LEVEL_DIE: u32 = 5;
