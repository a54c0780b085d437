//! Model-specific registers: what a processor needs set before its first instruction, and which ones are its state.
//!
//! Numbers from the Intel SDM, volume 4, and volume 3 chapter 12.11 (memory type range registers).

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use super::vm::{Doing, KvmError};
use crate::memory::layout::{ABOVE_4G, LOW_RAM_LIMIT, LOW_RAM_OF_LARGE, RamSplit};

const IA32_TSC: u32 = 0x10;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_PAT: u32 = 0x277;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const MTRR_PHYS_BASE0: u32 = 0x200;
const MTRR_FIX_64K_00000: u32 = 0x250;
const MTRR_FIX_16K_80000: u32 = 0x258;
const MTRR_FIX_16K_A0000: u32 = 0x259;
const MTRR_FIX_4K_C0000: u32 = 0x268;
const MTRR_FIX_4K_F8000: u32 = 0x26f;
const MTRR_DEF_TYPE: u32 = 0x2ff;

/// `rep movs` and `rep stos` are fast.
const FAST_STRING: u64 = 1;
/// The attribute table after power-on: WB WT UC- UC, twice.
const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;
const WRITE_BACK: u64 = 6;
const WRITE_BACK_X8: u64 = 0x0606_0606_0606_0606;
const UNCACHEABLE: u64 = 0;
const MTRRS_ON: u64 = 1 << 11;
const FIXED_MTRRS_ON: u64 = 1 << 10;
const RANGE_VALID: u64 = 1 << 11;

/// Registers as firmware leaves them: RAM write-back, the VGA window and the hole below 4 GiB uncacheable.
/// `width` is the number of physical address bits.
pub fn at_boot(ram: RamSplit, width: u8) -> Vec<(u32, u64)> {
    let mut set = vec![
        (IA32_TSC, 0),
        (IA32_MISC_ENABLE, FAST_STRING),
        (IA32_PAT, PAT_AT_RESET),
        (MTRR_FIX_64K_00000, WRITE_BACK_X8),
        (MTRR_FIX_16K_80000, WRITE_BACK_X8),
        (MTRR_FIX_16K_A0000, 0),
    ];
    set.extend((MTRR_FIX_4K_C0000..=MTRR_FIX_4K_F8000).map(|msr| (msr, WRITE_BACK_X8)));
    let everything = (1u64 << width.clamp(32, 52)) - 1;
    for (n, (base, len)) in (0..).zip(hole(ram)) {
        set.push((MTRR_PHYS_BASE0 + 2 * n, base | UNCACHEABLE));
        set.push((MTRR_PHYS_BASE0 + 2 * n + 1, everything & !(len - 1) | RANGE_VALID));
    }
    set.push((MTRR_DEF_TYPE, MTRRS_ON | FIXED_MTRRS_ON | WRITE_BACK));
    set
}

// The hole in naturally aligned powers of two.
fn hole(ram: RamSplit) -> Vec<(u64, u64)> {
    if ram.below_4g <= LOW_RAM_OF_LARGE {
        vec![(LOW_RAM_OF_LARGE, ABOVE_4G - LOW_RAM_OF_LARGE)]
    } else {
        vec![(LOW_RAM_LIMIT, 0x1000_0000), (0xc000_0000, 0x4000_0000)]
    }
}

/// Sets registers one by one.
///
/// # Errors
/// When the kernel can't be asked. A register that this processor lacks is skipped: `IA32_MISC_ENABLE` on AMD, say.
pub fn set_each(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), KvmError> {
    for (index, data) in values {
        let entry = kvm_msr_entry { index: *index, data: *data, ..Default::default() };
        let one = Msrs::from_entries(&[entry]).map_err(std::io::Error::other).doing("list registers")?;
        if vcpu.set_msrs(&one).doing("set a model-specific register")? == 0 {
            log::debug!("the processor has no MSR {index:#x}");
        }
    }
    Ok(())
}

/// The registers that KVM keeps for each processor.
///
/// # Errors
/// When the kernel refuses the list.
pub fn saved_list(kvm: &Kvm) -> Result<Vec<u32>, KvmError> {
    Ok(kvm.get_msr_index_list().doing("list the model-specific registers")?.as_slice().to_vec())
}

/// Reads registers; those that this processor lacks are left out.
///
/// # Errors
/// When the kernel refuses all of them.
pub fn save(vcpu: &VcpuFd, list: &[u32]) -> Result<Vec<(u32, u64)>, KvmError> {
    let mut values = Vec::with_capacity(list.len());
    let mut rest = list;
    while !rest.is_empty() {
        let entries: Vec<_> = rest.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(std::io::Error::other).doing("list registers")?;
        let read = vcpu.get_msrs(&mut msrs).doing("read model-specific registers")?;
        values.extend(msrs.as_slice().iter().take(read).map(|e| (e.index, e.data)));
        // The kernel stops at the first that it can't read: go on behind it.
        rest = rest.get(read + 1..).unwrap_or_default();
    }
    Ok(values)
}

/// Writes what [`save`] read. The deadline comes last: it is measured against the time-stamp counter.
///
/// # Errors
/// When the kernel refuses.
pub fn restore(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), KvmError> {
    let (deadline, mut rest): (Vec<_>, Vec<_>) = values.iter().partition(|(index, _)| *index == IA32_TSC_DEADLINE);
    rest.sort_by_key(|(index, _)| *index != IA32_TSC);
    rest.extend(deadline);
    let mut rest = rest.as_slice();
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
            .collect();
        let msrs = Msrs::from_entries(&entries).map_err(std::io::Error::other).doing("list registers")?;
        let set = vcpu.set_msrs(&msrs).doing("set model-specific registers")?;
        if let Some((index, data)) = rest.get(set) {
            // Some are read-only for a guest that was given no such feature: reading them is all there is.
            log::debug!("the processor refuses {data:#x} in MSR {index:#x}");
        }
        rest = rest.get(set + 1..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_is_uncacheable_and_ram_is_not() {
        for total in [128u64 << 20, 2 << 30, 0xa000_0000, 6 << 30] {
            let ram = RamSplit::of(total);
            let msrs = at_boot(ram, 40);
            let ranges: Vec<_> = (0..4)
                .filter_map(|n| {
                    let find = |index| msrs.iter().find(|(i, _)| *i == index).map(|(_, v)| *v);
                    Some((find(MTRR_PHYS_BASE0 + 2 * n)?, find(MTRR_PHYS_BASE0 + 2 * n + 1)?))
                })
                .collect();
            let uncacheable = |address: u64| {
                ranges.iter().any(|(base, mask)| {
                    let mask = mask & !0xfff;
                    address & mask == base & mask
                })
            };
            assert!(!uncacheable(0) && !uncacheable(ram.below_4g - 1), "{total:#x}");
            for device in [0xb000_0000, 0xbfff_ffff, 0xc000_0000, 0xfec0_0000, 0xffff_ffff] {
                assert!(uncacheable(device), "{total:#x} {device:#x}");
            }
            assert!(!uncacheable(ABOVE_4G) && !uncacheable(ABOVE_4G + (1 << 31)));
        }
    }
}
