//! Disks that no machine can run on: what kiln says before anything is made or started, and that they stay as they are.

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use super::home::{Home, Told, install};

/// An install line on these disks. None of them gets so far that the kernel matters.
fn told(home: &Home, disks: &[&str]) -> Told {
    let kernel = home.file("vmlinuz", [0; 512]);
    let boot = format!("kernel={kernel}");
    let disks: Vec<&str> = disks.iter().flat_map(|disk| ["--disk", disk]).collect();
    home.kiln(&install(&[&["--boot", &boot, "--dry-run"], &disks[..]].concat()))
}

fn create(home: &Home, words: &[&str], file: &str, size: &[&str]) -> String {
    let path = home.text(file);
    home.kiln(&[&["disk", "create", "-q", "-f", "qcow2"], words, &[&path], size].concat()).ends(0);
    path
}

pub fn patch(path: &str, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn damaged_images() {
    let home = Home::new();
    // Offsets of the header's fields: docs/interop/qcow2 of QEMU.
    let cases: &[(&str, u64, &[u8], &str)] = &[
        ("version", 4, &9u32.to_be_bytes(), "its version is 9"),
        ("cluster-bits", 20, &63u32.to_be_bytes(), "cluster"),
        ("size", 24, &(1u64 << 62).to_be_bytes(), "more than its clusters can hold"),
        ("encryption", 32, &1u32.to_be_bytes(), "encrypt"),
        ("l1", 40, &12345u64.to_be_bytes(), "L1 table"),
        ("refcounts", 48, &12345u64.to_be_bytes(), "refcount table"),
        ("features", 72, &(1u64 << 40).to_be_bytes(), "feature"),
        ("corrupt", 72, &2u64.to_be_bytes(), "marked as corrupt"),
    ];
    for (name, at, bytes, says) in cases {
        let path = create(&home, &[], &format!("{name}.qcow2"), &["1M"]);
        patch(&path, *at, bytes);
        let before = fs::read(&path).unwrap();
        let told = told(&home, &[&path]).ends(1);
        told.says(&["the disk", &format!("{name}.qcow2 can't be used"), says]);
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
    }
    let path = create(&home, &[], "cut.qcow2", &["1M"]);
    fs::File::options().write(true).open(&path).unwrap().set_len(60).unwrap();
    told(&home, &[&path]).ends(1).says(&["cut.qcow2 can't be used"]);
    assert!(!home.store("config/machines").exists(), "nothing is defined");
}

#[test]
fn a_dirty_image_is_looked_at_and_stays_as_it_is() {
    let home = Home::new();
    let path = create(&home, &["-o", "lazy_refcounts=on"], "dirty.qcow2", &["1M"]);
    patch(&path, 72, &1u64.to_be_bytes());
    let before = fs::read(&path).unwrap();
    // What stops this is the kernel, or the host's KVM, but not the disk.
    let told = told(&home, &[&path]);
    assert!(!told.err.contains("dirty.qcow2"), "{}", told.err);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_lies_below_is_missing_moved_or_something_else() {
    let home = Home::new();
    let base = create(&home, &[], "base.qcow2", &["1M"]);
    let middle = create(&home, &["-b", "base.qcow2", "-F", "qcow2"], "middle.qcow2", &[]);
    let top = create(&home, &["-b", "middle.qcow2", "-F", "qcow2"], "top.qcow2", &[]);
    let moved = home.text("moved.qcow2");
    fs::rename(&base, &moved).unwrap();
    told(&home, &[&top]).ends(3).says(&[
        "top.qcow2 can't be used",
        "base.qcow2",
        "> The disk lies on that file",
        "> Put it back, or, if it has another name now: kiln disk rebase -u -b NEW",
    ]);
    home.kiln(&["disk", "rebase", "-u", "-b", &moved, "-F", "qcow2", &middle]).ends(0);
    let mended = told(&home, &[&top]);
    assert!(!mended.err.contains("top.qcow2"), "{}", mended.err);
    // It says qcow2 and is not.
    fs::write(&moved, vec![7; 1 << 20]).unwrap();
    told(&home, &[&top]).ends(1).says(&["top.qcow2 can't be used", "moved.qcow2"]);
    // It lies on itself.
    home.kiln(&["disk", "rebase", "-u", "-b", &top, "-F", "qcow2", &middle]).ends(0);
    told(&home, &[&top]).ends(1).says(&["top.qcow2 can't be used", "it lies below itself"]);
    // A format that is not read.
    fs::write(&moved, b"KDMV").unwrap();
    told(&home, &[&moved]).ends(1).says(&["has the format vmdk; kiln runs raw and qcow2", "> Where qemu-img is"]);
}

#[test]
fn a_definition_that_says_otherwise_than_its_image() {
    let home = Home::new();
    let base = create(&home, &[], "base.qcow2", &["1M"]);
    let other = create(&home, &[], "other.qcow2", &["1M"]);
    let top = create(&home, &["-b", "base.qcow2", "-F", "qcow2"], "top.qcow2", &[]);
    let kernel = home.file("vmlinuz", [0; 512]);
    let boot = format!("kernel={kernel}");
    let store = |below: &str| {
        // A template of the user's own can say it.
        let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/default.xml.j2")).unwrap();
        let marked = text.replacen("<target dev=", &format!("{below}<target dev="), 1);
        home.file("home/config/templates/default.xml.j2", marked);
        home.kiln(&install(&["--boot", &boot, "--dry-run", "--disk", &top]))
    };
    let below = |file: &str, format: &str, more: &str| {
        format!("<backingStore type='file'><format type='{format}'/><source file='{file}'/>{more}</backingStore>")
    };
    for right in [below(&base, "qcow2", ""), below(&base, "qcow2", "<backingStore/>"), String::new()] {
        let told = store(&right);
        assert!(!told.err.contains("top.qcow2"), "{right}: {}", told.err);
    }
    store(&below(&other, "qcow2", "")).ends(1).says(&["top.qcow2 can't be used", "other.qcow2", "base.qcow2 does"]);
    store(&below(&base, "raw", "")).ends(1).says(&["top.qcow2 can't be used", "as raw", "as qcow2"]);
    store("<backingStore/>").ends(1).says(&["says that nothing else lies below it", "base.qcow2"]);
    let twice = below(&base, "qcow2", &below(&other, "qcow2", ""));
    store(&twice).ends(1).says(&["other.qcow2 lies below it", "the image says that nothing does"]);
}

/// The machine "web", defined on the image `top`, which lies on `base`.
fn defined(home: &Home) -> (String, String) {
    let base = create(home, &[], "base.qcow2", &["1M"]);
    let top = create(home, &["-b", "base.qcow2", "-F", "qcow2"], "top.qcow2", &[]);
    let kernel = home.file("vmlinuz", [0; 512]);
    let document = format!(
        "<domain type='kvm'><name>web</name><memory>262144</memory>
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel></os>
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{top}'/>
         <target dev='vda' bus='virtio'/></disk></devices></domain>"
    );
    home.kiln(&["define", &home.file("web.xml", document)]).ends(0);
    (top, base)
}

#[test]
fn a_defined_machine_whose_disks_have_changed_since() {
    let cut = |path: &str, len: u64| fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
    type Change<'a> = &'a dyn Fn(&Home, &str, &str);
    let rows: &[(&str, i32, &[&str], Change<'_>)] = &[
        ("version", 1, &["its version is 9"], &|_, top, _| {
            patch(top, 4, &9u32.to_be_bytes());
        }),
        ("L1 table", 1, &["L1 table", "> Look at it"], &|_, top, _| patch(top, 40, &12345u64.to_be_bytes())),
        ("refcounts", 1, &["refcount table"], &|_, top, _| patch(top, 48, &12345u64.to_be_bytes())),
        ("marked", 1, &["marked as corrupt"], &|_, top, _| patch(top, 72, &2u64.to_be_bytes())),
        ("cut header", 1, &["top.qcow2"], &|_, top, _| cut(top, 60)),
        ("empty", 1, &["top.qcow2"], &|_, top, _| cut(top, 0)),
        ("another format", 1, &["top.qcow2"], &|_, top, _| fs::write(top, vec![7; 1 << 20]).unwrap()),
        ("gone", 3, &["> Put it back, or change the machine's definition."], &|_, top, _| {
            fs::remove_file(top).unwrap()
        }),
        ("base gone", 3, &["base.qcow2", "> Put it back, or, if it has another name now"], &|_, _, base| {
            fs::remove_file(base).unwrap();
        }),
        ("base moved", 3, &["base.qcow2", "kiln disk rebase -u -b NEW"], &|home, _, base| {
            fs::rename(base, home.text("moved.qcow2")).unwrap();
        }),
        ("base of another format", 1, &["base.qcow2"], &|_, _, base| fs::write(base, vec![7; 1 << 20]).unwrap()),
        ("base cut", 1, &["base.qcow2"], &|_, _, base| cut(base, 60)),
        ("loop", 1, &["it lies below itself"], &|home, top, base| {
            drop(home.kiln(&["disk", "rebase", "-u", "-b", top, "-F", "qcow2", base]).ends(0));
        }),
    ];
    for (name, code, says, change) in rows {
        let home = Home::new();
        let (top, base) = defined(&home);
        change(&home, &top, &base);
        let before = [fs::read(&top).ok(), fs::read(&base).ok()];
        eprintln!("{name}");
        home.kiln(&["start", "web"]).ends(*code).says(&["the disk", "top.qcow2 can't be used"]).says(says);
        assert!([fs::read(&top).ok(), fs::read(&base).ok()] == before, "{name}: they stay as they are");
        assert_eq!(home.machines(), [("web".into(), "shut off".into())]);
    }
}

#[test]
fn words_that_do_not_go_together() {
    let home = Home::new();
    let qcow2 = create(&home, &[], "disk.qcow2", &["1M"]);
    let raw = home.file("disk.img", [0; 4096]);
    let says = |disk: &str, code: i32, texts: &[&str]| drop(told(&home, &[disk]).ends(code).says(texts));
    says(&format!("{qcow2},shareable=yes"), 1, &["shareable and qcow2", "> Share a raw disk"]);
    says(&format!("{raw},io=native"), 1, &["io='native' without cache='none'", "> Set cache=none"]);
    says(&format!("{raw},format=qcow2"), 1, &["disk.img can't be used"]);
    says(&format!("{raw},backing_store={qcow2}"), 4, &["exists already", "> Take another path"]);
    let new = home.text("new.img");
    says(&format!("{new},format=raw,backing_store={qcow2}"), 2, &["a raw disk can't lie on another one"]);
    says(&format!("{new}x,backing_store={}", home.text("none")), 3, &["none can't be used"]);
    assert!(fs::read(&raw).unwrap() == [0; 4096], "what is there is never touched");
}

#[test]
fn one_disk_for_two() {
    let home = Home::new();
    let disk = create(&home, &[], "disk.qcow2", &["1M"]);
    told(&home, &[&disk, &disk]).ends(4).says(&["disk.qcow2 can't be used", "in use"]);
    let base = create(&home, &[], "base.qcow2", &["1M"]);
    let top = create(&home, &["-b", "base.qcow2", "-F", "qcow2"], "top.qcow2", &[]);
    told(&home, &[&top, &base]).ends(4).says(&["base.qcow2 can't be used", "in use"]);
    let second = create(&home, &["-b", "base.qcow2", "-F", "qcow2"], "second.qcow2", &[]);
    let shared = told(&home, &[&top, &second]);
    assert!(!shared.err.contains("in use"), "two overlays share what lies below: {}", shared.err);
}
