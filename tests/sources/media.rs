//! Images as media have them, cut, damaged and hostile, beside what other readers find in them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use kiln::media::iso::Iso;

use super::home::{Home, Told, install};
use super::medium::{GENISOIMAGE, bytes, folder, iso, run, xorriso};

const SECTOR: u64 = 2048;

fn content(image: &str, path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    Iso::open(Path::new(image)).unwrap().copy(path, &mut bytes).unwrap();
    bytes
}

#[track_caller]
fn refused(home: &Home, location: &str, code: i32, texts: &[&str]) -> Told {
    let before = home.files();
    let told = home.kiln(&install(&["--location", location, "--print-xml"])).ends(code).says(texts);
    assert_eq!(home.files(), before, "something is left");
    told
}

#[test]
fn files_are_what_was_put_in_whatever_their_names() {
    let home = Home::new();
    let long = format!("boot/{}.img", "a-long-name".repeat(12));
    let deep = "a/b/c/d/e/f/g/h/i/j/deep";
    let files: [(&str, Vec<u8>); 5] = [
        ("install.amd/vmlinuz", bytes(1, 300_001)),
        ("install.amd/initrd.gz", bytes(2, 2048)),
        (&long, bytes(3, 70_000)),
        (deep, bytes(4, 5)),
        ("empty", Vec::new()),
    ];
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
    let from = folder(&home, "files", &listed);
    for number in 0..200 {
        fs::write(from.join(format!("boot/one-of-many-files-{number}")), [number as u8]).unwrap();
    }
    let joliet = xorriso(&home, &from, "joliet.iso", &["-J", "-joliet-long", "--norock"]);
    symlink("../install.amd/vmlinuz", from.join("boot/link")).unwrap();
    symlink("install.amd", from.join("folder")).unwrap();
    symlink("circle", from.join("circle")).unwrap();
    symlink("../../../../etc/passwd", from.join("outside")).unwrap();
    let rock_ridge = xorriso(&home, &from, "rock.iso", &["-r", "-J", "-joliet-long", "-V", "Two words"]);
    for image in [&rock_ridge, &joliet] {
        let opened = Iso::open(Path::new(image)).unwrap();
        // Joliet names end after 103 letters.
        for (path, bytes) in files.iter().filter(|(path, _)| path.len() < 100 || image.contains("rock")) {
            assert!(opened.has(path).unwrap(), "{path} in {image}");
            assert!(content(image, path) == *bytes, "{path} in {image}");
        }
        assert_eq!(content(image, "boot/one-of-many-files-199"), [199]);
        for path in ["install.amd", "nowhere", "install.amd/vmlinuz/x", "", "/", "circle", "circle/x"] {
            assert!(!opened.has(path).unwrap(), "{path} in {image}");
        }
    }
    let opened = Iso::open(Path::new(&rock_ridge)).unwrap();
    assert_eq!(opened.volume(), "Two words");
    assert!(content(&rock_ridge, "boot/link") == files[0].1 && content(&rock_ridge, "folder/initrd.gz") == files[1].1);
    // Links are the image's own: none leads to a file of this host.
    assert!(!opened.has("outside").unwrap());

    let plain = home.text("plain.iso");
    run(GENISOIMAGE, &["-quiet", "-o", &plain, from.join("install.amd").to_str().unwrap()]);
    assert!(content(&plain, "vmlinuz") == files[0].1, "names of capitals are found by small ones");
    let isoinfo = |image: &str, path: &str, names: &str| run("/usr/bin/isoinfo", &["-i", image, names, "-x", path]);
    assert!(isoinfo(&rock_ridge, "/install.amd/vmlinuz", "-R") == files[0].1);
}

/// The place of a directory record in an image, by the identifier in it.
fn record(image: &[u8], identifier: &[u8]) -> usize {
    let at = image.windows(identifier.len()).position(|window| window == identifier).unwrap();
    at - 33
}

#[test]
fn a_file_in_several_extents_is_one() {
    let home = Home::new();
    let (first, second) = (bytes(5, 5000), bytes(6, 3000));
    let from = folder(&home, "files", &[("part.a", &first), ("part.b", &second)]);
    let image = home.text("parts.iso");
    run(GENISOIMAGE, &["-quiet", "-o", &image, from.to_str().unwrap()]);
    // ECMA-119, 9.1.6: the flag says that the record isn't the file's last; both have its name.
    let mut raw = fs::read(&image).unwrap();
    let (one, other) = (record(&raw, b"PART.A;1"), record(&raw, b"PART.B;1"));
    raw[one + 25] |= 0x80;
    raw[other + 33..][..8].copy_from_slice(b"PART.A;1");
    fs::write(&image, raw).unwrap();
    assert!(content(&image, "part.a") == [first, second].concat());
}

#[test]
fn what_is_no_medium_is_told_apart() {
    let home = Home::new();
    let rows: [(&str, &[u8], &str); 4] = [
        ("text.iso", b"not found", "it is no ISO 9660 image"),
        ("empty.iso", b"", "it is no ISO 9660 image"),
        ("packed.iso.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "it is packed"),
        ("disk.img", &[0xeb; 100_000], "it is no ISO 9660 image"),
    ];
    for (name, bytes, why) in rows {
        refused(&home, &home.file(name, bytes), 2, &["is no install medium that can be read", "1. ", why, "> "]);
    }
    refused(&home, &home.text("missing.iso"), 3, &["there is no ", "missing.iso"]);
    run("/usr/bin/mkfifo", &[&home.text("pipe")]);
    refused(&home, &home.text("pipe"), 2, &["it is neither a folder nor a file nor a block device"]);
    let udf = home.path("udf.iso");
    File::create(&udf).unwrap().set_len(4 << 20).unwrap();
    run("/usr/sbin/mkudffs", &["--blocksize=2048", "--media-type=dvd", udf.to_str().unwrap()]);
    refused(&home, &home.text("udf.iso"), 2, &["1. it has a UDF file system alone", "> Mount it", "mount -o loop,ro"]);
}

#[test]
fn a_medium_without_an_installer() {
    let home = Home::new();
    let image = iso(&home, "data.iso", &[("readme.txt", b"hello"), ("install.amd/vmlinuz", b"alone")]);
    let texts = [
        "there is no installer that kiln can start on ",
        "1. looked for: .treeinfo, the layouts of Alpine Linux, Arch Linux, Debian",
        "2. and for a menu of isolinux, syslinux or GRUB",
        "install.amd/vmlinuz is there, install.amd/initrd.gz isn't",
        "> Name them by their paths in it: --location ISO,kernel=PATH,initrd=PATH",
    ];
    refused(&home, &image, 3, &texts);
    let from = home.path("data.iso.d");
    let bridge = home.text("bridge.iso");
    run(GENISOIMAGE, &["-quiet", "-udf", "-o", &bridge, from.to_str().unwrap()]);
    assert_eq!(content(&bridge, "readme.txt"), b"hello");
    refused(&home, &bridge, 3, &["there is no installer", "the volume has UDF files as well"]);
}

#[test]
fn a_cut_medium() {
    let home = Home::new();
    let kernel = bytes(7, 400_000);
    let image = iso(&home, "cut.iso", &[("install.amd/vmlinuz", &kernel), ("install.amd/initrd.gz", b"x")]);
    let whole = fs::metadata(&image).unwrap().len();
    for len in [whole - SECTOR, whole / 2, 20 * SECTOR, 17 * SECTOR] {
        File::options().write(true).open(&image).unwrap().set_len(len).unwrap();
        let texts = ["cut.iso is cut short", &format!("{whole} bytes, the file {len}"), "> Get it again"];
        refused(&home, &image, 6, &texts);
    }
    File::options().write(true).open(&image).unwrap().set_len(10 * SECTOR).unwrap();
    refused(&home, &image, 2, &["it is no ISO 9660 image"]);
}

#[test]
fn a_medium_that_is_a_disk_as_well() {
    let home = Home::new();
    let loader = fs::read("/usr/lib/ISOLINUX/isolinux.bin").unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("isolinux/isolinux.bin", &loader),
        ("isolinux/isolinux.cfg", b"default install\nlabel install\nkernel /install.amd/vmlinuz\n"),
        ("install.amd/vmlinuz", b"kernel"),
        ("install.amd/initrd.gz", b"initrd"),
    ];
    let from = folder(&home, "files", &files);
    let options = ["-r", "-V", "HYBRID", "-isohybrid-mbr", "/usr/lib/ISOLINUX/isohdpfx.bin"];
    let boot = ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4"];
    let image = xorriso(&home, &from, "hybrid.iso", &[&options[..], &boot, &["-boot-info-table"]].concat());
    assert_eq!(fs::read(&image).unwrap()[510..512], [0x55, 0xaa], "it is no hybrid");
    assert_eq!(content(&image, "install.amd/vmlinuz"), b"kernel");
    let told = home.kiln(&install(&["--location", &image, "--disk", "size=1", "--print-xml", "1"])).ends(0);
    told.says(&["cache/installs/web/linux", "cache/installs/web/initrd", "hybrid.iso", "dev='vdb'", "<readonly/>"]);
    let told = home.kiln(&install(&["--location", &image, "--disk", "size=1", "--print-xml", "2"])).ends(0);
    assert!(!told.out.contains("hybrid.iso"), "{}", told.out);
}

#[test]
fn directories_that_lead_in_circles_and_sizes_that_cannot_be() {
    let home = Home::new();
    let from = folder(&home, "files", &[("circle/x", b"k"), ("install.amd/vmlinuz", b"k"), ("b", b"b")]);
    let plain = home.text("plain.iso");
    run(GENISOIMAGE, &["-quiet", "-o", &plain, from.to_str().unwrap()]);
    let raw = fs::read(&plain).unwrap();
    let both = |value: u32| [value.to_le_bytes(), value.to_be_bytes()].concat();
    let damage = |name: &str, patches: &[(usize, Vec<u8>)], len: u64| {
        let mut bytes = raw.clone();
        for (at, patch) in patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        let path = home.file(name, bytes);
        if len > 0 {
            File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        }
        path
    };
    // A folder that is its own parent, and the root.
    let root = raw[16 * 2048 + 158..][..8].to_vec();
    let circle = damage("circle.iso", &[(record(&raw, b"\x06CIRCLE") + 1 + 2, root)], 0);
    let opened = Iso::open(Path::new(&circle));
    refused(&home, &circle, 3, &["there is no installer"]);
    assert!(opened.unwrap().has("circle/circle/circle/circle/b").unwrap(), "the circle isn't one");
    // A root of 4 GiB, nearly all of it holes: moved to the end, before them.
    let (pvd, size, end) = (16 * 2048 + 156, both(0xffff_f800), raw.len() as u32 / 2048);
    let at = u32::from_le_bytes(raw[pvd + 2..][..4].try_into().unwrap()) as usize * 2048;
    let mut root = raw[at..at + 2048].to_vec();
    root[2..18].copy_from_slice(&[both(end), size.clone()].concat());
    let absurd = damage("root.iso", &[(pvd + 2, both(end)), (pvd + 10, size)], 9 << 30);
    File::options().write(true).open(&absurd).unwrap().write_all_at(&root, u64::from(end) * SECTOR).unwrap();
    refused(&home, &absurd, 6, &["root.iso is damaged", "1. its directories lead in circles or are absurdly large"]);
    // A kernel larger than its image.
    let kernel = record(&raw, b"VMLINUZ.;1");
    let large = damage("large.iso", &[(kernel + 10, both(0xf000_0000))], 0);
    let failure = Iso::open(Path::new(&large)).unwrap().copy("install.amd/vmlinuz", &mut Vec::new()).unwrap_err();
    assert!(failure.to_string().contains("it claims to have 4026531840 bytes"), "{failure}");
}

#[test]
fn images_damaged_anywhere_are_looked_into_without_harm() {
    let home = Home::new();
    let menu: &[u8] = b"default x\ninclude more.cfg\nlabel x\nkernel ../k\nappend initrd=/i a b\n";
    let files: [(&str, &[u8]); 6] = [
        ("isolinux/isolinux.cfg", menu),
        ("isolinux/more.cfg", b"include isolinux.cfg\n"),
        ("boot/grub/grub.cfg", b"menuentry x {\nlinux /k\ninitrd /i\n}\n"),
        (".treeinfo", b"[general]\nfamily = F\n"),
        ("k", &[1; 5000]),
        ("i", &[2; 5000]),
    ];
    let from = folder(&home, "files", &files);
    symlink("k", from.join("isolinux/link")).unwrap();
    let whole = fs::read(xorriso(&home, &from, "whole.iso", &["-r", "-J"])).unwrap();
    let path = home.path("damaged.iso");
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&whole, 0).unwrap();
    let mut state = 0x1234_5678_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    // The padding at the end says nothing.
    let (start, end) = (16 * 2048, whole.len() - 150 * 2048);
    let (mut opened, mut copied) = (0, 0);
    for _ in 0..3000 {
        let mut hurt = Vec::new();
        for _ in 0..1 + next(6) {
            let at = start + next(end - start);
            let value = [0xff, 0, next(256) as u8, whole[start + next(end - start)]][next(4)];
            file.write_all_at(&[value], at as u64).unwrap();
            hurt.push(at);
        }
        if let Ok(iso) = Iso::open(&path) {
            opened += 1;
            for name in ["isolinux/isolinux.cfg", "boot/grub/grub.cfg", "isolinux/link", "nowhere"] {
                let _ = iso.text(name);
            }
            copied += usize::from(iso.copy("k", &mut std::io::sink()).is_ok());
        }
        for at in hurt {
            file.write_all_at(&whole[at..=at], at as u64).unwrap();
        }
    }
    assert!(opened > 1000 && copied > 1000, "{opened} opened, {copied} read");
}
