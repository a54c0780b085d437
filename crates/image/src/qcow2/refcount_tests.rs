use super::*;
use crate::testing::Memory;

fn layout(cluster_bits: u32, refcount_order: u32) -> Layout {
    Layout { cluster_bits, l2_bits: cluster_bits - 3, extended: false, version: 3, refcount_order, data_file: false }
}

#[test]
fn refcounts_of_all_widths_keep_apart() {
    for order in 0..=6 {
        let most = layout(9, order).most_refcount();
        let mut bytes = [0; 64];
        let count = (64 * 8) >> order;
        for index in 0..count {
            set(&mut bytes, order, index, (index as u64 * 77 + 1) & most);
        }
        for index in 0..count {
            assert_eq!(get(&bytes, order, index), (index as u64 * 77 + 1) & most, "order {order}, {index}");
        }
    }
    // Refcount blocks: 4 bits, the first in the low half.
    let mut byte = [0];
    set(&mut byte, 2, 0, 3);
    set(&mut byte, 2, 1, 9);
    assert_eq!(byte, [0x93]);
}

#[test]
fn clusters_are_given_out_once_and_the_table_grows() {
    for order in [0, 4, 6] {
        let memory = Memory::default();
        let layout = layout(9, order);
        // Cluster 1 has the table, cluster 2 the first block; the header is cluster 0.
        let mut table = vec![0; 64];
        table[0] = 2 << 9;
        let mut refcounts = Refcounts::new(layout, 1 << 9, table);
        for cluster in 0..3 {
            refcounts.change(&memory, cluster, 1).unwrap();
        }
        let mut taken = std::collections::BTreeSet::from([0, 1, 2]);
        let per_block = 1u64 << layout.refcounts_bits();
        for n in 0..per_block * 3 {
            let run = refcounts.allocate(&memory, n % 5 + 1).unwrap();
            for cluster in run.first..run.first + run.count {
                assert!(taken.insert(cluster), "order {order}: {cluster} twice");
                assert_eq!(refcounts.get(&memory, cluster).unwrap(), 1);
            }
        }
        for block in refcounts.blocks().to_vec().into_iter().filter(|block| *block != 0).skip(1) {
            assert!(taken.insert(block >> 9), "a block on a cluster that was given out");
            assert_eq!(refcounts.get(&memory, block >> 9).unwrap(), 1);
        }
        // A freed one comes back first.
        refcounts.change(&memory, 7, -1).unwrap();
        assert_eq!(refcounts.allocate(&memory, 1).unwrap().first, 7);
    }
}

#[test]
fn a_table_that_has_grown_gets_a_place_of_its_own() {
    let memory = Memory::default();
    let mut table = vec![0; 64];
    table[0] = 2 << 9;
    let mut refcounts = Refcounts::new(layout(9, 6), 1 << 9, table);
    for cluster in 0..3 {
        refcounts.change(&memory, cluster, 1).unwrap();
    }
    // 64 refcounts a block, 64 blocks a table.
    refcounts.allocate(&memory, 64 * 64).unwrap();
    let old = refcounts.place_table(&memory).unwrap().unwrap();
    assert_eq!(old, Clusters { first: 1, count: 1 });
    let new = refcounts.table();
    assert!(new.count >= 2 && new.first > 4096, "{new:?}");
    assert_eq!(refcounts.get(&memory, new.first).unwrap(), 1);
    assert_eq!(refcounts.place_table(&memory).unwrap(), None);
    refcounts.write_blocks(&memory).unwrap();
    refcounts.write_table(&memory).unwrap();
    let mut entry = [0; 8];
    storage::read(&memory, &mut entry, (new.first << 9) + 8).unwrap();
    assert_eq!(u64::from_be_bytes(entry), refcounts.blocks()[1]);
}

#[test]
fn what_is_free_is_not_freed_again() {
    let memory = Memory::default();
    let mut table = vec![0; 64];
    table[0] = 2 << 9;
    let mut refcounts = Refcounts::new(layout(9, 0), 1 << 9, table);
    let told = refcounts.change(&memory, 5, -1).unwrap_err().to_string();
    assert_eq!(told, "the cluster at 0xa00 is freed, but is free already");
    refcounts.change(&memory, 5, 1).unwrap();
    let told = refcounts.change(&memory, 5, 1).unwrap_err().to_string();
    assert_eq!(told, "the cluster at 0xa00 is used more often than its refcount can tell");
}

#[test]
fn blocks_that_are_longer_than_a_piece_in_memory_are_used_to_their_end() {
    // 32768 refcounts a block, of which a piece holds 8192.
    let memory = Memory::default();
    let mut refcounts = Refcounts::format(layout(16, 4));
    for _ in 0..70 {
        refcounts.allocate(&memory, 1000).unwrap();
    }
    assert_eq!(refcounts.get(&memory, 60_000).unwrap(), 1);
    assert_eq!(refcounts.change(&memory, 60_000, -1).unwrap(), 0);
    assert_eq!(refcounts.allocate(&memory, 1).unwrap().first, 60_000);
}
