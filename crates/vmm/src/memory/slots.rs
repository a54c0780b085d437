//! The one owner of KVM's memory slots.
//!
//! RAM and, later, framebuffers are *regions*: host memory shown at a guest-physical address. Regions are added,
//! moved and removed here and nowhere else, so slot numbers never clash, and dirty bits, which KVM gives out only once,
//! reach every reader that asked for them together with those of the monitor's own writes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::layout::{BIOS_AREA, PAGE, VGA_HOLE};
use super::{GuestRam, Mapping};
use vm_memory::GuestMemoryBackend;
use vm_memory::GuestMemoryRegion;

/// KVM's address space: 0 is the usual one, 1 that of system management mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AddressSpace(pub u16);

/// One slot as the kernel takes it (`KVM_SET_USER_MEMORY_REGION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Number, the address space in the upper 16 bits.
    pub number: u32,
    /// Guest-physical address.
    pub guest: u64,
    /// Length in bytes; 0 deletes the slot.
    pub len: u64,
    /// Address in this process.
    pub host: u64,
    /// Guest writes leave to the monitor.
    pub read_only: bool,
    /// Guest writes are logged.
    pub log: bool,
}

/// The kernel's side: KVM in a machine, a recorder in tests.
pub trait SlotTable: Send + Sync {
    /// Sets, changes or deletes a slot.
    ///
    /// # Safety
    /// `slot.host` and `slot.len` must name memory of this process that stays mapped, and is used as volatile memory
    /// only, until the slot is deleted or changed.
    ///
    /// # Errors
    /// When the kernel refuses; the slot is as it was.
    #[allow(unsafe_code)]
    unsafe fn set(&self, slot: Slot) -> io::Result<()>;
    /// Takes the bits of pages that the guest wrote since the last call: one bit a page, lowest first.
    ///
    /// # Errors
    /// When the slot isn't logged.
    fn take_dirty(&self, number: u32, len: u64) -> io::Result<Vec<u64>>;
}

/// A region's handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(u32);

/// Somebody who wants a region's dirty bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReaderId(u32);

/// What a region shows.
#[derive(Clone)]
pub struct Shown {
    /// Host memory; kept alive as long as the region stands.
    pub mapping: Arc<Mapping>,
    /// Offset of the region in it, a multiple of the page size.
    pub offset: u64,
    /// Length in bytes, a multiple of the page size.
    pub len: u64,
    /// Guest writes leave to the monitor.
    pub read_only: bool,
}

/// Why a region can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Empty, not made of whole pages, or not inside its mapping.
    #[error("memory region {0:#x}+{1:#x} is empty, unaligned or outside its mapping")]
    Shape(u64, u64),
    /// Another region is there.
    #[error("memory region {0:#x}+{1:#x} overlaps another one")]
    Overlap(u64, u64),
    /// No such region or reader.
    #[error("no such memory region or reader")]
    Unknown,
    /// KVM has no slot left.
    #[error("the machine has no memory slot left (limit {0})")]
    Full(u32),
    /// KVM refuses.
    #[error("KVM refuses the memory region at {0:#x}")]
    Kernel(u64, #[source] io::Error),
}

struct Region {
    space: AddressSpace,
    guest: u64,
    shown: Shown,
    /// Pages each reader has yet to hear of.
    readers: BTreeMap<ReaderId, Vec<u64>>,
}

impl Region {
    fn slot(&self, id: RegionId) -> Slot {
        Slot {
            number: u32::from(self.space.0) << 16 | id.0,
            guest: self.guest,
            len: self.shown.len,
            host: self.shown.mapping.as_ptr() as u64 + self.shown.offset,
            read_only: self.shown.read_only,
            log: !self.readers.is_empty(),
        }
    }
}

#[derive(Default)]
struct State {
    regions: BTreeMap<RegionId, Region>,
    next_reader: u32,
}

/// The owner.
pub struct Slots {
    table: Arc<dyn SlotTable>,
    limit: u32,
    state: Mutex<State>,
}

impl Slots {
    /// An owner of no slot yet; `limit` is how many the kernel has.
    pub fn new(table: Arc<dyn SlotTable>, limit: u32) -> Self {
        Self { table, limit, state: Mutex::default() }
    }

    /// Shows a machine's RAM. With a VGA window there is a hole in it, and small pages around the hole; a machine with
    /// nothing in the window boots with some hundred exits less without.
    ///
    /// # Errors
    /// As [`Slots::add`].
    pub fn add_ram(&self, ram: &GuestRam, vga_window: bool) -> Result<Vec<RegionId>, SlotError> {
        let mut ids = Vec::new();
        for region in ram.iter() {
            let (base, len) = (region.start_addr().0, region.len());
            let whole = [(base, base + len), (0, 0)];
            let parts = if vga_window { around_vga_hole(base, base + len) } else { whole };
            for (first, end) in parts.into_iter().filter(|(first, end)| first < end) {
                let shown =
                    Shown { mapping: region.get_mmap(), offset: first - base, len: end - first, read_only: false };
                ids.push(self.add(AddressSpace::default(), first, shown)?);
            }
        }
        Ok(ids)
    }

    /// Shows host memory at `guest`.
    ///
    /// # Errors
    /// When it is unaligned, outside its mapping, overlaps a region of the same address space, or the kernel refuses.
    pub fn add(&self, space: AddressSpace, guest: u64, shown: Shown) -> Result<RegionId, SlotError> {
        check_shape(guest, &shown)?;
        let mut state = self.state.lock();
        check_free(&state, space, guest, shown.len, None)?;
        let number = (0..self.limit).find(|n| !state.regions.contains_key(&RegionId(*n)));
        let id = RegionId(number.ok_or(SlotError::Full(self.limit))?);
        let region = Region { space, guest, shown, readers: BTreeMap::new() };
        self.set(region.slot(id))?;
        state.regions.insert(id, region);
        Ok(id)
    }

    /// Shows the region elsewhere. What readers have yet to hear of stays.
    ///
    /// # Errors
    /// As [`Slots::add`]; the region is then gone from the guest if it had to be taken away first, and stays known.
    pub fn move_to(&self, id: RegionId, guest: u64) -> Result<(), SlotError> {
        let mut state = self.state.lock();
        let region = state.regions.get(&id).ok_or(SlotError::Unknown)?;
        check_shape(guest, &region.shown)?;
        check_free(&state, region.space, guest, region.shown.len, Some(id))?;
        let region = state.regions.get_mut(&id).ok_or(SlotError::Unknown)?;
        // Deleting throws the log away, so it is read before.
        self.collect(id, region)?;
        self.set(Slot { len: 0, ..region.slot(id) })?;
        region.guest = guest;
        self.set(region.slot(id))
    }

    /// Takes the region away.
    ///
    /// # Errors
    /// When it is unknown or the kernel refuses.
    pub fn remove(&self, id: RegionId) -> Result<(), SlotError> {
        let mut state = self.state.lock();
        let region = state.regions.get(&id).ok_or(SlotError::Unknown)?;
        self.set(Slot { len: 0, ..region.slot(id) })?;
        state.regions.remove(&id);
        Ok(())
    }

    /// Begins to collect the region's dirty bits for one more reader. The first makes KVM log.
    ///
    /// # Errors
    /// When the region is unknown or the kernel refuses.
    pub fn watch(&self, id: RegionId) -> Result<ReaderId, SlotError> {
        let mut state = self.state.lock();
        let reader = ReaderId(state.next_reader);
        state.next_reader += 1;
        let region = state.regions.get_mut(&id).ok_or(SlotError::Unknown)?;
        if region.readers.is_empty() {
            self.set(Slot { log: true, ..region.slot(id) })?;
            // Bits from before nobody asked for.
            take_own(&region.shown);
        } else {
            self.collect(id, region)?;
        }
        region.readers.insert(reader, vec![0; words(region.shown.len)]);
        Ok(reader)
    }

    /// The reader is gone. After the last one KVM logs no more.
    ///
    /// # Errors
    /// When region or reader are unknown or the kernel refuses.
    pub fn unwatch(&self, id: RegionId, reader: ReaderId) -> Result<(), SlotError> {
        let mut state = self.state.lock();
        let region = state.regions.get_mut(&id).ok_or(SlotError::Unknown)?;
        region.readers.remove(&reader).ok_or(SlotError::Unknown)?;
        if region.readers.is_empty() { self.set(region.slot(id)) } else { Ok(()) }
    }

    /// Takes the pages that guest or monitor wrote since this reader last asked: one bit a page, lowest first.
    ///
    /// # Errors
    /// When region or reader are unknown or the kernel refuses.
    pub fn take_dirty(&self, id: RegionId, reader: ReaderId) -> Result<Vec<u64>, SlotError> {
        let mut state = self.state.lock();
        let region = state.regions.get_mut(&id).ok_or(SlotError::Unknown)?;
        if !region.readers.contains_key(&reader) {
            return Err(SlotError::Unknown);
        }
        self.collect(id, region)?;
        let bits = region.readers.get_mut(&reader).ok_or(SlotError::Unknown)?;
        Ok(std::mem::replace(bits, vec![0; words(region.shown.len)]))
    }

    // Gives everybody the bits that have come up since the last time.
    fn collect(&self, id: RegionId, region: &mut Region) -> Result<(), SlotError> {
        if region.readers.is_empty() {
            return Ok(());
        }
        let slot = region.slot(id);
        let guest = self.table.take_dirty(slot.number, slot.len).map_err(|e| SlotError::Kernel(slot.guest, e))?;
        let own = take_own(&region.shown);
        for bits in region.readers.values_mut() {
            for (to, (a, b)) in bits.iter_mut().zip(guest.iter().zip(&own)) {
                *to |= a | b;
            }
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn set(&self, slot: Slot) -> Result<(), SlotError> {
        // SAFETY: `check_shape` proved that host and len lie in the region's mapping, which `Region::shown` keeps
        // alive until the slot is deleted; `drop` deletes those that are left. All access is by vm-memory.
        unsafe { self.table.set(slot) }.map_err(|e| SlotError::Kernel(slot.guest, e))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let state = std::mem::take(self.state.get_mut());
        for (id, region) in &state.regions {
            // The kernel refuses no deletion of a slot that exists; if it did, the descriptor goes away next.
            if let Err(error) = self.set(Slot { len: 0, ..region.slot(*id) }) {
                log::warn!("memory slot {id:?} stays: {error}");
            }
        }
    }
}

fn words(len: u64) -> usize {
    (len / PAGE).div_ceil(64) as usize
}

// The monitor's own writes within the shown part, cleared as they are read.
fn take_own(shown: &Shown) -> Vec<u64> {
    let mut bits = vec![0u64; words(shown.len)];
    let bitmap = shown.mapping.bitmap();
    for page in 0..shown.len / PAGE {
        let index = (shown.offset / PAGE + page) as usize;
        if bitmap.is_bit_set(index) {
            bitmap.reset_bit(index);
            if let Some(word) = bits.get_mut((page / 64) as usize) {
                *word |= 1 << (page % 64);
            }
        }
    }
    bits
}

fn check_shape(guest: u64, shown: &Shown) -> Result<(), SlotError> {
    let whole = [guest, shown.offset, shown.len].iter().all(|n| n.is_multiple_of(PAGE));
    let inside = shown.offset.checked_add(shown.len).is_some_and(|end| end <= shown.mapping.size() as u64);
    let fits = guest.checked_add(shown.len).is_some();
    if whole && inside && fits && shown.len > 0 { Ok(()) } else { Err(SlotError::Shape(guest, shown.len)) }
}

fn check_free(
    state: &State,
    space: AddressSpace,
    guest: u64,
    len: u64,
    except: Option<RegionId>,
) -> Result<(), SlotError> {
    let clash = state.regions.iter().any(|(id, r)| {
        Some(*id) != except && r.space == space && guest < r.guest + r.shown.len && r.guest < guest + len
    });
    if clash { Err(SlotError::Overlap(guest, len)) } else { Ok(()) }
}

fn around_vga_hole(first: u64, end: u64) -> [(u64, u64); 2] {
    [(first, end.min(VGA_HOLE)), (first.max(BIOS_AREA), end)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, allocate};
    use vm_memory::{Bytes, GuestAddress};

    #[derive(Default)]
    struct Recorder {
        slots: Mutex<BTreeMap<u32, Slot>>,
        dirty: Mutex<BTreeMap<u32, Vec<u64>>>,
    }
    impl SlotTable for Recorder {
        #[allow(unsafe_code)]
        unsafe fn set(&self, slot: Slot) -> io::Result<()> {
            let mut slots = self.slots.lock();
            match slot.len {
                0 => {
                    slots.remove(&slot.number).ok_or(io::ErrorKind::NotFound)?;
                }
                _ => {
                    slots.insert(slot.number, slot);
                }
            }
            Ok(())
        }
        fn take_dirty(&self, number: u32, len: u64) -> io::Result<Vec<u64>> {
            if !self.slots.lock()[&number].log {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(self.dirty.lock().remove(&number).unwrap_or(vec![0; words(len)]))
        }
    }

    fn machine(bytes: u64) -> (Arc<Recorder>, Slots, GuestRam, Vec<RegionId>) {
        let table = Arc::new(Recorder::default());
        let slots = Slots::new(table.clone(), 8);
        let ram = allocate(bytes, Backing::Private).unwrap();
        let ids = slots.add_ram(&ram, true).unwrap();
        (table, slots, ram, ids)
    }

    fn page(mapping_len: u64) -> Shown {
        let ram = allocate(mapping_len, Backing::Private).unwrap();
        let mapping = ram.find_region(GuestAddress(0)).unwrap().get_mmap();
        Shown { mapping, offset: 0, len: mapping_len, read_only: false }
    }

    #[test]
    fn ram_without_a_window_is_whole() {
        let table = Arc::new(Recorder::default());
        let slots = Slots::new(table.clone(), 8);
        slots.add_ram(&allocate(1 << 21, Backing::Private).unwrap(), false).unwrap();
        let shape: Vec<_> = table.slots.lock().values().map(|s| (s.guest, s.len)).collect();
        assert_eq!(shape, [(0, 1 << 21)]);
    }

    #[test]
    fn ram_leaves_the_vga_window_free() {
        let (table, _slots, _ram, ids) = machine(1 << 21);
        assert_eq!(ids.len(), 2);
        let shape: Vec<_> = table.slots.lock().values().map(|s| (s.guest, s.len)).collect();
        assert_eq!(shape, [(0, 0xa_0000), (0xc_0000, 0x14_0000)]);
        let hosts: Vec<_> = table.slots.lock().values().map(|s| s.host).collect();
        assert_eq!(hosts[1] - hosts[0], 0xc_0000);
    }

    #[test]
    fn regions_neither_overlap_nor_leave_their_mapping() {
        let (_table, slots, _ram, ids) = machine(1 << 21);
        let space = AddressSpace::default();
        assert!(matches!(slots.add(space, 0x10_0000, page(PAGE)), Err(SlotError::Overlap(..))));
        assert!(matches!(slots.add(space, 0x20_0001, page(PAGE)), Err(SlotError::Shape(..))));
        let outside = Shown { offset: PAGE, ..page(PAGE) };
        assert!(matches!(slots.add(space, 0x20_0000, outside), Err(SlotError::Shape(..))));
        assert!(matches!(slots.add(space, u64::MAX - PAGE + 1, page(2 * PAGE)), Err(SlotError::Shape(..))));
        // The same address in another address space is another place.
        slots.add(AddressSpace(1), 0x10_0000, page(PAGE)).unwrap();
        slots.remove(ids[1]).unwrap();
        slots.add(space, 0x10_0000, page(PAGE)).unwrap();
        assert!(matches!(slots.remove(RegionId(7)), Err(SlotError::Unknown)));
    }

    #[test]
    fn slots_run_out_and_come_back() {
        let (_table, slots, _ram, _ids) = machine(1 << 21);
        let space = AddressSpace::default();
        let ids: Vec<_> = (0..6).map(|n| slots.add(space, 0x100_0000 + n * PAGE, page(PAGE)).unwrap()).collect();
        assert!(matches!(slots.add(space, 0x200_0000, page(PAGE)), Err(SlotError::Full(8))));
        slots.remove(ids[3]).unwrap();
        slots.add(space, 0x200_0000, page(PAGE)).unwrap();
    }

    #[test]
    fn every_reader_hears_of_every_page_once() {
        let (table, slots, ram, ids) = machine(1 << 21);
        let first = slots.watch(ids[1]).unwrap();
        table.dirty.lock().insert(ids[1].0, vec![0b100, 0, 0, 0, 0]);
        ram.write_obj(1u8, GuestAddress(0xc_0000)).unwrap();
        let second = slots.watch(ids[1]).unwrap();
        table.dirty.lock().insert(ids[1].0, vec![0b1000, 0, 0, 0, 0]);
        assert_eq!(slots.take_dirty(ids[1], second).unwrap(), [0b1000, 0, 0, 0, 0]);
        assert_eq!(slots.take_dirty(ids[1], first).unwrap(), [0b1101, 0, 0, 0, 0]);
        assert_eq!(slots.take_dirty(ids[1], first).unwrap(), [0; 5]);
        slots.unwatch(ids[1], first).unwrap();
        assert!(table.slots.lock()[&ids[1].0].log);
        slots.unwatch(ids[1], second).unwrap();
        assert!(!table.slots.lock()[&ids[1].0].log);
        assert!(slots.take_dirty(ids[1], first).is_err());
    }

    #[test]
    fn a_moved_region_keeps_its_dirty_bits_and_frees_its_place() {
        let (table, slots, _ram, _ids) = machine(1 << 21);
        let space = AddressSpace::default();
        let id = slots.add(space, 0xe000_0000, page(4 * PAGE)).unwrap();
        let reader = slots.watch(id).unwrap();
        table.dirty.lock().insert(id.0, vec![0b10]);
        slots.move_to(id, 0xe000_1000).unwrap();
        assert_eq!(table.slots.lock()[&id.0].guest, 0xe000_1000);
        assert_eq!(slots.take_dirty(id, reader).unwrap(), [0b10]);
        slots.add(space, 0xe000_0000, page(PAGE)).unwrap();
        assert!(matches!(slots.move_to(id, 0x10_0000), Err(SlotError::Overlap(..))));
    }

    #[test]
    fn dropping_the_owner_deletes_what_is_left() {
        let (table, slots, _ram, _ids) = machine(1 << 21);
        drop(slots);
        assert!(table.slots.lock().is_empty());
    }
}
