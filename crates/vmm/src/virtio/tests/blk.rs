//! The block device.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};

use crate::device::Device;
use crate::testing::{DATA, Driver, MemoryDisk, Piece};
use crate::virtio::bits::*;
use crate::virtio::blk::bits::*;
use crate::virtio::blk::{Blk, Consequence, DetectZeroes, DiskError, Drive, OnError};

const SIZE: usize = 8 << 20;

fn drive(disk: &Arc<MemoryDisk>, queues: u16) -> Drive {
    let serial = "kiln-disk-0123456789abc".into();
    // What a failing host is answered with is tried where it says so.
    Drive { queues, serial, on_write_error: OnError::Report, ..Drive::new("vda", disk.clone()) }
}

fn driver(disk: &Arc<MemoryDisk>, queues: u16) -> Driver {
    Driver::new(Blk::new(drive(disk, queues)))
}

/// Where request `slot` has header, data and status.
fn slot(slot: u64) -> (u64, u64, u64) {
    let base = DATA + slot * 0x4_0000;
    (base, base + 0x1000, base + 0x3_f000)
}

/// Posts a request with `len` bytes of data at the slot's place.
fn post(driver: &mut Driver, queue: u16, at: u64, kind: u32, sector: u64, len: u32, indirect: bool) -> u16 {
    let (header, data, status) = slot(at);
    driver.put(header, &kind.to_le_bytes());
    driver.put(header + 4, &[0; 4]);
    driver.put(header + 8, &sector.to_le_bytes());
    driver.put(status, &[0xee]);
    let reads = matches!(kind, REQUEST_IN | REQUEST_GET_ID);
    let mut pieces = vec![Piece(header, 16, false)];
    if len > 0 {
        pieces.push(Piece(data, len, reads));
    }
    pieces.push(Piece(status, 1, true));
    if indirect { driver.post_indirect(queue, &pieces) } else { driver.post(queue, &pieces) }
}

/// Does a request and gives its status.
fn request(driver: &mut Driver, kind: u32, sector: u64, len: u32) -> u8 {
    post(driver, 0, 0, kind, sector, len, false);
    driver.kick(0);
    driver.wait(0);
    driver.take(slot(0).2, 1)[0]
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn what_is_written_is_read_back() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH | FEATURE_EVENT_IDX, 1, 16);
    let data = pattern(1, 0x8000);
    driver.put(slot(0).1, &data);
    assert_eq!(request(&mut driver, REQUEST_OUT, 100, 0x8000), STATUS_OK);
    assert_eq!(disk.content()[51_200..][..0x8000], data);
    assert_eq!(disk.flushes.load(Ordering::Acquire), 0);
    assert_eq!(request(&mut driver, REQUEST_FLUSH, 0, 0), STATUS_OK);
    assert_eq!(disk.flushes.load(Ordering::Acquire), 1);
    driver.put(slot(0).1, &vec![0; 0x8000]);
    assert_eq!(request(&mut driver, REQUEST_IN, 101, 0x7e00), STATUS_OK);
    assert_eq!(driver.take(slot(0).1, 0x7e00), data[512..]);
}

#[test]
fn how_a_request_is_cut_does_not_matter() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 64);
    let header = [&1u32.to_le_bytes()[..], &[0; 4], &7u64.to_le_bytes()].concat();
    let data = pattern(2, 1024);
    let stream = [header, data.clone()].concat();
    driver.put(DATA, &stream);
    for cuts in [vec![1, 15, 16, 17], vec![8, 500, 1000], vec![1030], vec![]] {
        for indirect in [false, true] {
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in cuts.iter().copied().chain([stream.len()]) {
                pieces.push(Piece(DATA + from as u64, (to - from) as u32, false));
                from = to;
            }
            pieces.extend([Piece(DATA, 0, false), Piece(DATA + 0x9000, 0, true), Piece(DATA + 0x9000, 1, true)]);
            driver.put(DATA + 0x9000, &[0xee]);
            if indirect {
                driver.post_indirect(0, &pieces)
            } else {
                driver.post(0, &pieces)
            };
            driver.kick(0);
            driver.wait(0);
            assert_eq!(driver.take(DATA + 0x9000, 1), [STATUS_OK]);
            assert_eq!(disk.content()[7 * 512..][..1024], data);
            disk.grow(SIZE);
        }
    }
}

#[test]
fn a_request_larger_than_the_buffer_goes_in_steps() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 16);
    let data = pattern(3, 3 << 20);
    driver.put(DATA + 0x1000, &data);
    driver.put(DATA, &[&1u32.to_le_bytes()[..], &[0; 12]].concat());
    driver.post(0, &[Piece(DATA, 16, false), Piece(DATA + 0x1000, 3 << 20, false), Piece(DATA + 0x100, 1, true)]);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, 1);
    assert_eq!(disk.writes.load(Ordering::Acquire), 3);
    assert!(disk.content()[..3 << 20] == data);
    driver.put(DATA, &[0; 16]);
    driver.put(DATA + 0x1000, &vec![0; 3 << 20]);
    driver.post(0, &[Piece(DATA, 16, false), Piece(DATA + 0x1000, 3 << 20, true), Piece(DATA + 0x100, 1, true)]);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, (3 << 20) + 1);
    assert!(driver.take(DATA + 0x1000, 3 << 20) == data);
}

#[test]
fn what_cannot_be_done_is_answered_so() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 16);
    let end = SIZE as u64 / 512;
    assert_eq!(request(&mut driver, REQUEST_IN, end, 512), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, REQUEST_IN, end - 1, 1024), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, REQUEST_OUT, u64::MAX, 512), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, REQUEST_OUT, u64::MAX / 512, 512), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, REQUEST_IN, 0, 100), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, 99, 0, 512), STATUS_UNSUPPORTED);
    assert_eq!(request(&mut driver, REQUEST_IN, end - 1, 512), STATUS_OK);
    disk.failing.store(true, Ordering::Release);
    for (kind, len) in [(REQUEST_IN, 512), (REQUEST_OUT, 512), (REQUEST_FLUSH, 0)] {
        assert_eq!(request(&mut driver, kind, 0, len), STATUS_IO_ERROR, "{kind}");
    }
    disk.failing.store(false, Ordering::Release);
    assert_eq!(request(&mut driver, REQUEST_FLUSH, 0, 0), STATUS_OK);
    assert_eq!(disk.content(), vec![0; SIZE]);
}

fn segments(driver: &mut Driver, kind: u32, segments: &[(u64, u32, u32)]) -> u8 {
    let bytes: Vec<u8> = segments
        .iter()
        .flat_map(|(sector, count, flags)| {
            [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
        })
        .collect();
    driver.put(slot(0).1, &bytes);
    request(driver, kind, 0, bytes.len() as u32)
}

#[test]
fn discard_and_write_zeroes_clear_their_segments_and_check_all_first() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = Driver::new(Blk::new(Drive { unmap: true, ..drive(&disk, 1) }));
    driver.start(FEATURE_FLUSH | FEATURE_DISCARD | FEATURE_WRITE_ZEROES, 1, 16);
    driver.put(slot(0).1, &[7; 0x2000]);
    assert_eq!(request(&mut driver, REQUEST_OUT, 0, 0x2000), STATUS_OK);
    let first = |disk: &MemoryDisk| disk.content()[..0x2000].chunks(512).map(|sector| sector[0]).collect::<Vec<_>>();
    assert_eq!(segments(&mut driver, REQUEST_DISCARD, &[(1, 1, 0), (3, 2, 0)]), STATUS_OK);
    assert_eq!(first(&disk), [7, 0, 7, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!(segments(&mut driver, REQUEST_WRITE_ZEROES, &[(8, 2, 0), (12, 1, 1)]), STATUS_OK);
    assert_eq!(first(&disk), [7, 0, 7, 0, 0, 7, 7, 7, 0, 0, 7, 7, 0, 7, 7, 7]);
    let before = disk.content();
    let end = SIZE as u64 / 512;
    for (kind, list, status) in [
        (REQUEST_DISCARD, vec![(0, 1, 1)], STATUS_UNSUPPORTED),
        (REQUEST_WRITE_ZEROES, vec![(0, 1, 2)], STATUS_UNSUPPORTED),
        (REQUEST_DISCARD, vec![(0, 1, 0), (end, 1, 0)], STATUS_IO_ERROR),
        (REQUEST_DISCARD, vec![(u64::MAX, 1, 0)], STATUS_IO_ERROR),
        (REQUEST_DISCARD, vec![(0, u32::MAX, 0)], STATUS_IO_ERROR),
        (REQUEST_DISCARD, vec![(0, 1, 0); 33], STATUS_IO_ERROR),
        (REQUEST_WRITE_ZEROES, vec![], STATUS_IO_ERROR),
    ] {
        assert_eq!(segments(&mut driver, kind, &list), status, "{kind} {list:?}");
    }
    assert!(disk.content() == before);
}

#[test]
fn a_read_only_disk_refuses_writes_and_says_so() {
    let disk = MemoryDisk::new(SIZE, true);
    let mut driver = driver(&disk, 1);
    assert_ne!(driver.offered() & FEATURE_READ_ONLY, 0);
    assert_eq!(driver.offered() & (FEATURE_DISCARD | FEATURE_WRITE_ZEROES), 0);
    driver.start(FEATURE_READ_ONLY | FEATURE_FLUSH, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_OUT, 0, 512), STATUS_IO_ERROR);
    assert_eq!(segments(&mut driver, REQUEST_DISCARD, &[(0, 1, 0)]), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, REQUEST_IN, 0, 512), STATUS_OK);
    assert_eq!(disk.writes.load(Ordering::Acquire), 0);
}

#[test]
fn without_the_flush_feature_each_write_is_durable() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(0, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_OUT, 0, 512), STATUS_OK);
    assert_eq!(disk.flushes.load(Ordering::Acquire), 1);
}

#[test]
fn the_serial_number_and_the_configuration_are_told() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 4);
    driver.start(FEATURE_FLUSH, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_GET_ID, 0, 20), STATUS_OK);
    assert_eq!(driver.take(slot(0).1, 20), b"kiln-disk-0123456789");
    assert_ne!(driver.offered() & FEATURE_MULTI_QUEUE, 0);
    let config = |driver: &Driver, at: usize| u32::from_le_bytes(driver.get(0x2000 + at as u64));
    assert_eq!(config(&driver, CONFIG_CAPACITY), SIZE as u32 / 512);
    assert_eq!(config(&driver, CONFIG_SEG_MAX), 510);
    assert_eq!(config(&driver, CONFIG_BLOCK_SIZE), 512);
    assert_eq!(driver.get(0x2000 + CONFIG_PHYSICAL_BLOCK_EXPONENT as u64), [3, 0, 8, 0]);
    assert_eq!(driver.get(0x2000 + CONFIG_NUM_QUEUES as u64), [4, 0]);
    assert_eq!(config(&driver, CONFIG_MAX_DISCARD_SEGMENTS), 32);
    assert_eq!(driver.get(0x2000 + CONFIG_LEN as u64), [0; 4]);
}

#[test]
fn a_resized_disk_is_announced() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 16);
    let [generation] = driver.get(COMMON_GENERATION as u64);
    disk.grow(2 * SIZE);
    driver.device.config_changed();
    driver.wait_vector(0);
    assert_eq!(driver.get(0x2000), (2 * SIZE as u64 / 512).to_le_bytes());
    assert_ne!(driver.get(COMMON_GENERATION as u64), [generation]);
    assert_eq!(request(&mut driver, REQUEST_IN, SIZE as u64 / 512, 512), STATUS_OK);
}

#[test]
fn writes_show_in_the_dirty_bitmap() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, MmapRegion};
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 16);
    let memory = driver.memory.clone();
    let bitmap = MmapRegion::bitmap(memory.iter().next().unwrap());
    post(&mut driver, 0, 0, REQUEST_IN, 0, 512, false);
    bitmap.reset();
    driver.kick(0);
    driver.wait(0);
    let dirty = |address: u64| bitmap.dirty_at(address as usize);
    assert!(dirty(slot(0).1) && dirty(slot(0).2) && dirty(driver.ring(0) + 0x4000));
    assert!(!dirty(slot(0).0) && !dirty(driver.ring(0)));
}

#[test]
fn a_disk_in_a_file_is_moved_in_place() {
    use kiln_image::{Access, raw::Raw};
    use std::os::unix::fs::FileExt;
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, MmapRegion};
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let disk = Arc::new(Raw::from_file(file.try_clone().unwrap(), "disk.img", Access::Write).unwrap());
    let drive = Drive { on_read_error: OnError::Report, ..Drive::new("vda", disk) };
    let mut driver = Driver::new(Blk::new(drive));
    driver.start(FEATURE_FLUSH, 1, 16);
    let data = pattern(5, 0x8000);
    driver.put(slot(0).1, &data);
    assert_eq!(request(&mut driver, REQUEST_OUT, 3, 0x8000), STATUS_OK);
    let mut there = vec![0; 0x8000];
    file.read_exact_at(&mut there, 3 * 512).unwrap();
    assert!(there == data);
    // Read into two pieces, which are marked.
    let (header, at, status) = slot(1);
    let memory = driver.memory.clone();
    let bitmap = MmapRegion::bitmap(memory.iter().next().unwrap());
    driver.put(header, &[&REQUEST_IN.to_le_bytes()[..], &[0; 4], &3u64.to_le_bytes()].concat());
    bitmap.reset();
    let pieces =
        [Piece(header, 16, false), Piece(at, 100, true), Piece(at + 0x2000, 412, true), Piece(status, 1, true)];
    driver.post(0, &pieces);
    driver.kick(0);
    assert_eq!(driver.wait(0).1, 513);
    assert_eq!(driver.take(status, 1), [STATUS_OK]);
    assert!(driver.take(at, 100) == data[..100] && driver.take(at + 0x2000, 412) == data[100..512]);
    assert!(bitmap.dirty_at(at as usize) && bitmap.dirty_at(at as usize + 0x2000));
    assert!(!bitmap.dirty_at(at as usize + 0x1000));
    // Shorter than it was: found out by the way through the buffer.
    file.set_len(4096).unwrap();
    assert_eq!(request(&mut driver, REQUEST_IN, 4, 8192), STATUS_IO_ERROR);
    assert_eq!(request(&mut driver, REQUEST_IN, 4, 512), STATUS_OK);
}

#[test]
fn several_queues_at_once_keep_their_data_apart() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 4);
    driver.start(FEATURE_FLUSH | FEATURE_MULTI_QUEUE | FEATURE_EVENT_IDX, 4, 32);
    let mut expected = vec![0; SIZE];
    for round in 0..50u64 {
        for queue in 0..4u64 {
            for part in 0..4 {
                let at = queue * 4 + part;
                let data = pattern(round * 16 + at, 4096);
                driver.put(slot(at).1, &data);
                let sector = (queue * 512 + (round * 4 + part) % 64) * 8;
                expected[sector as usize * 512..][..4096].copy_from_slice(&data);
                post(&mut driver, queue as u16, at, REQUEST_OUT, sector, 4096, part % 2 == 0);
            }
        }
        for queue in 0..4 {
            driver.kick(queue);
        }
        for queue in 0..4 {
            for _ in 0..4 {
                assert_eq!(driver.wait(queue).1, 1);
            }
        }
    }
    assert!(disk.content() == expected);
    assert_eq!(driver.status() & STATUS_NEEDS_RESET, 0);
}

#[test]
fn with_the_event_index_the_driver_is_called_only_when_it_asked() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH | FEATURE_EVENT_IDX, 1, 64);
    // Call me after the eighth.
    let event = GuestAddress(driver.ring(0) + 0x2000 + 4 + 64 * 2);
    driver.memory.write_obj(7u16, event).unwrap();
    disk.hold(true);
    for at in 0..8 {
        post(&mut driver, 0, at, REQUEST_IN, at, 512, false);
    }
    driver.kick(0);
    disk.hold(false);
    driver.wait_vector(1);
    let used: u16 = driver.memory.read_obj(GuestAddress(driver.ring(0) + 0x4002)).unwrap();
    assert_eq!(used, 8, "the only call comes after the eighth");
    driver.device.pause();
    assert!(!driver.signalled(1));
}

/// Pauses with requests waiting, restores into a new device on the same memory and disk, and sees each done once.
#[test]
fn a_restored_device_goes_on_in_the_middle_and_does_each_request_once() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut first = driver(&disk, 2);
    first.start(FEATURE_FLUSH | FEATURE_MULTI_QUEUE | FEATURE_EVENT_IDX, 2, 32);
    assert_eq!(request(&mut first, REQUEST_OUT, 0, 512), STATUS_OK);
    disk.hold(true);
    let mut heads = Vec::new();
    for at in 0..6 {
        first.put(slot(at).1, &pattern(at, 4096));
        heads.push(post(&mut first, (at % 2) as u16, at, REQUEST_OUT, 64 + at * 8, 4096, at > 3));
    }
    first.kick(0);
    first.kick(1);
    while disk.waiting() < 2 {
        std::thread::yield_now();
    }
    // A third party lets go once the pause is on its way: those two requests end, the others stay in the ring.
    std::thread::scope(|scope| {
        let device = first.device.clone();
        let pause = scope.spawn(move || device.pause());
        disk.hold(false);
        pause.join().unwrap();
    });
    assert_eq!(disk.waiting(), 0, "nothing is in flight");
    let saved = first.device.save().unwrap();
    let saved: crate::device::Saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
    let written = disk.writes.load(Ordering::Acquire);

    let mut second = Driver::on(first.memory.clone(), Blk::new(drive(&disk, 2)));
    second.take_over(&first);
    first.device.unplug();
    drop(first);
    second.device.restore(&saved).unwrap();
    assert_eq!(second.device.save().unwrap(), saved);
    assert_eq!(disk.writes.load(Ordering::Acquire), written, "nothing runs before the machine does");
    second.device.resume();
    let mut done = Vec::new();
    for at in 0..6 {
        done.push((at % 2, second.wait((at % 2) as u16).0));
    }
    let mut expected: Vec<_> = heads.iter().enumerate().map(|(at, head)| (at % 2, *head)).collect();
    done.sort_unstable();
    expected.sort_unstable();
    assert_eq!(done, expected);
    assert_eq!((second.used(0), second.used(1)), (None, None));
    assert_eq!(disk.writes.load(Ordering::Acquire), 7, "each request ran once");
    for at in 0..6 {
        assert!(disk.content()[(64 + at as usize * 8) * 512..][..4096] == pattern(at, 4096));
    }
    assert_eq!(request(&mut second, REQUEST_IN, 0, 512), STATUS_OK);
}

#[test]
fn a_pause_ends_after_the_request_at_hand_and_resume_finds_the_rest() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 64);
    for round in 0..30u64 {
        for at in 0..4 {
            post(&mut driver, 0, at, REQUEST_OUT, (round * 4 + at) * 8, 4096, true);
        }
        driver.kick(0);
        driver.device.pause();
        driver.device.resume();
        for _ in 0..4 {
            assert_eq!(driver.wait(0).1, 1);
        }
    }
    assert_eq!(disk.writes.load(Ordering::Acquire), 120);
}

#[test]
fn a_reset_while_paused_leaves_the_device_paused_and_new() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = driver(&disk, 1);
    driver.start(FEATURE_FLUSH, 1, 16);
    driver.device.pause();
    driver.device.reset();
    assert_eq!(driver.status(), 0);
    driver.start(FEATURE_FLUSH, 1, 16);
    post(&mut driver, 0, 0, REQUEST_OUT, 0, 512, false);
    driver.kick(0);
    assert_eq!(disk.writes.load(Ordering::Acquire), 0);
    driver.device.resume();
    assert_eq!(driver.wait(0).1, 1);
    driver.device.reset();
    assert_eq!(driver.status(), 0);
    driver.start(FEATURE_FLUSH, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_OUT, 0, 512), STATUS_OK);
}

#[test]
fn an_idle_worker_sleeps() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = Driver::numbered(Blk::new(drive(&disk, 1)), 888);
    driver.start(FEATURE_FLUSH, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_OUT, 0, 512), STATUS_OK);
    let switches = || {
        let mut tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let name = |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        let worker = tasks.find(|task| name(task).trim() == "queue888").unwrap();
        let status = std::fs::read_to_string(worker.join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        (status.contains("State:\tS"), line.to_string())
    };
    while !switches().0 {
        std::thread::yield_now();
    }
    let before = switches();
    // The time in which a worker that polls would have shown it.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(switches(), before);
}

fn told(drive: Drive) -> (Drive, Arc<parking_lot::Mutex<Vec<DiskError>>>) {
    let all = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let theirs = all.clone();
    (Drive { witness: Arc::new(move |error| theirs.lock().push(error)), ..drive }, all)
}

#[test]
fn a_failing_host_is_answered_as_the_policy_says() {
    use OnError::*;
    let cases = [(Report, false, true), (Ignore, false, false), (StopWithoutSpace, false, true), (Report, true, true)];
    for (policy, full, is_told) in cases {
        let disk = MemoryDisk::new(SIZE, false);
        let (drive, errors) = told(Drive { on_read_error: policy, on_write_error: policy, ..drive(&disk, 1) });
        let mut driver = Driver::new(Blk::new(drive));
        driver.start(FEATURE_FLUSH, 1, 16);
        driver.put(slot(0).1, &[7; 512]);
        disk.full.store(full, Ordering::Release);
        disk.failing.store(true, Ordering::Release);
        let answer = if is_told { STATUS_IO_ERROR } else { STATUS_OK };
        for (kind, len) in [(REQUEST_OUT, 512), (REQUEST_FLUSH, 0), (REQUEST_IN, 512)] {
            assert_eq!(request(&mut driver, kind, 0, len), answer, "{policy:?} {kind}");
        }
        // What was read is not what lay in the buffer before.
        let left = if is_told { 7 } else { 0 };
        assert_eq!(driver.take(slot(0).1, 512), vec![left; 512], "{policy:?}");
        let consequence = if is_told { Consequence::Reported } else { Consequence::Ignored };
        let errors = errors.lock();
        assert_eq!(errors.len(), 3);
        for error in &*errors {
            let got = (error.drive.as_str(), error.no_space, error.consequence);
            assert_eq!(got, ("vda", full, consequence), "{error:?}");
        }
    }
}

#[test]
fn a_stopped_request_waits_for_the_pause_and_is_done_again_when_the_machine_goes_on() {
    let disk = MemoryDisk::new(SIZE, false);
    let (drive, errors) = told(Drive { on_write_error: OnError::StopWithoutSpace, ..drive(&disk, 1) });
    let mut driver = Driver::new(Blk::new(drive));
    driver.start(FEATURE_FLUSH, 1, 16);
    let data = pattern(5, 2 << 20);
    driver.put(DATA + 0x1000, &data);
    driver.put(DATA, &[&1u32.to_le_bytes()[..], &[0; 12]].concat());
    disk.full.store(true, Ordering::Release);
    // The first half gets there; the second finds no space.
    disk.fail_after_writes(1);
    let pieces = [Piece(DATA, 16, false), Piece(DATA + 0x1000, 2 << 20, false), Piece(DATA + 0x100, 1, true)];
    driver.post(0, &pieces);
    driver.kick(0);
    while errors.lock().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(errors.lock()[0].consequence, Consequence::Stopped);
    // Until the machine pauses, kicks change nothing; going on with a full disk stops it again.
    driver.kick(0);
    for round in 1..4 {
        driver.device.pause();
        assert_eq!((driver.used(0), errors.lock().len()), (None, round));
        driver.device.resume();
        while errors.lock().len() == round {
            std::thread::yield_now();
        }
    }
    driver.device.pause();
    disk.failing.store(false, Ordering::Release);
    driver.device.resume();
    assert_eq!(driver.wait(0).1, 1);
    assert_eq!(driver.take(DATA + 0x100, 1), [STATUS_OK]);
    assert!(disk.content()[..2 << 20] == data);
}

#[test]
fn a_drive_without_a_write_cache_offers_no_flush_and_makes_each_write_durable() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = Driver::new(Blk::new(Drive { write_cache: false, ..drive(&disk, 1) }));
    assert_eq!(driver.offered() & FEATURE_FLUSH, 0);
    driver.start(0, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_OUT, 0, 512), STATUS_OK);
    assert_eq!(segments(&mut driver, REQUEST_WRITE_ZEROES, &[(0, 1, 0)]), STATUS_OK);
    assert_eq!(disk.flushes.load(Ordering::Acquire), 2);
}

#[test]
fn an_unsafe_drive_flushes_nothing() {
    let disk = MemoryDisk::new(SIZE, false);
    let mut driver = Driver::new(Blk::new(Drive { ignore_flush: true, ..drive(&disk, 1) }));
    driver.start(FEATURE_FLUSH, 1, 16);
    assert_eq!(request(&mut driver, REQUEST_FLUSH, 0, 0), STATUS_OK);
    assert_eq!(disk.flushes.load(Ordering::Acquire), 0);
}

#[test]
fn discards_and_zeros_free_space_only_where_they_may() {
    use DetectZeroes::*;
    // Unmap, what is detected; then the discards, zeros that keep and zeros that free space that reach the disk for: a
    // discard, a zeroing that may free and one that may not, a write of zeros, a write of something.
    for (unmap, detect_zeroes, expected) in [
        (false, Off, [0, 2, 0]),
        (true, Off, [1, 1, 1]),
        (false, On, [0, 3, 0]),
        (true, On, [1, 2, 1]),
        (true, Unmap, [1, 1, 2]),
        (false, Unmap, [0, 3, 0]),
    ] {
        let disk = MemoryDisk::new(SIZE, false);
        let mut driver = Driver::new(Blk::new(Drive { unmap, detect_zeroes, ..drive(&disk, 1) }));
        driver.start(FEATURE_FLUSH | FEATURE_DISCARD | FEATURE_WRITE_ZEROES, 1, 16);
        assert_eq!(segments(&mut driver, REQUEST_DISCARD, &[(0, 1, 0)]), STATUS_OK);
        assert_eq!(segments(&mut driver, REQUEST_WRITE_ZEROES, &[(8, 1, 1)]), STATUS_OK);
        assert_eq!(segments(&mut driver, REQUEST_WRITE_ZEROES, &[(16, 1, 0)]), STATUS_OK);
        driver.put(slot(0).1, &[0; 512]);
        assert_eq!(request(&mut driver, REQUEST_OUT, 24, 512), STATUS_OK);
        driver.put(slot(0).1, &[1; 512]);
        assert_eq!(request(&mut driver, REQUEST_OUT, 32, 512), STATUS_OK);
        let got = [&disk.discards, &disk.zeroes_kept, &disk.zeroes_freed].map(|count| count.load(Ordering::Acquire));
        assert_eq!(got, expected, "{unmap} {detect_zeroes:?}");
        assert_eq!(disk.content()[32 * 512], 1);
    }
}
