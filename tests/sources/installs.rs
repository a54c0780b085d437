//! Guests that were started from media: what they find of it, and what of them stays.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use kiln::media::initrd::{Builder, Injection};
use kiln_lab::guest::initramfs;
use kiln_lab::installer::{INSIDE, Netboot};
use kiln_lab::packages::cloud_kernel;

use super::home::{Home, KILN, install};
use super::medium::{XORRISO, folder, run, xorriso};
use super::server::Server;

const XZ: &str = "/usr/bin/xz";
const GZIP: &str = "/usr/bin/gzip";
const ZSTD: &str = "/usr/bin/zstd";

/// The bytes as a program packs them.
fn packed(program: &str, args: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// What a guest says of the disk vdb, of the files in its root, and of its words; then it restarts as installers do.
const LOOKS: &str = "echo volume $(dd if=/dev/vdb bs=1 skip=32808 count=32 2>/dev/null).
    echo read-only $(cat /sys/block/vdb/ro).
    echo x 2>/dev/null > /dev/vdb || echo can not write.
    echo injected $(cat /answer.cfg) and $(cat /early), $(cat /late), mode $(stat -c %a /answer.cfg).
    echo words $(cat /proc/cmdline).
    reboot -f";

#[test]
fn a_guest_from_a_medium_sees_it_and_what_was_injected() {
    kiln_lab::needs_kvm!(400, KILN, XORRISO, XZ, GZIP, ZSTD);
    let home = Home::new();
    let stock = cloud_kernel().unwrap();
    let kernel = fs::read(&stock.bzimage).unwrap();
    let initrd = initramfs(&stock, &["virtio_pci", "virtio_blk"], LOOKS).unwrap();
    // Packed as distributions do, and of a length that four doesn't divide.
    let mut gzip = packed(GZIP, &["-1"], &initrd);
    let archive = |name: &str, text: &str| {
        let file = home.file(name, text);
        let path = home.path(&format!("{name}.cpio"));
        let mut builder = Builder::new(&path).unwrap();
        builder.inject(&Injection::new(&[file.into()]).unwrap()).unwrap();
        builder.finish().unwrap();
        fs::read(path).unwrap()
    };
    let early = packed(XZ, &["--check=crc32", "-1"], &archive("early", "the early one"));
    let late = packed(ZSTD, &["-q", "-1"], &archive("late", "the late one"));
    // Zeros after an archive are nothing.
    while gzip.len().is_multiple_of(4) {
        gzip.push(0);
    }
    let menu = "default x\nlabel x\nkernel /odd/kernel\nappend initrd=/odd/early,/odd/initrd,/odd/late from=menu\n";
    let files: [(&str, &[u8]); 5] = [
        ("odd/kernel", &kernel),
        ("odd/early", &early),
        ("odd/late", &late),
        ("odd/initrd", &gzip),
        ("isolinux/isolinux.cfg", menu.as_bytes()),
    ];
    let from = folder(&home, "files", &files);
    let image = xorriso(&home, &from, "medium.iso", &["-r", "-J", "-V", "KILN_MEDIUM"]);
    let before = fs::read(&image).unwrap();
    let answer = home.file("answer.cfg", "the answer");
    fs::set_permissions(&answer, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let words =
        ["--location", &image, "--initrd-inject", &answer, "--extra-args", "mine=1 quiet", "--disk", "size=0.01"];
    let told = home.kiln(&install(&[&words[..], &["--autoconsole", "text"]].concat())).ends(0);
    for said in [
        "volume KILN_MEDIUM .",
        "read-only 1.",
        "can not write.",
        "injected the answer and the early one, the late one, mode 640.",
        "words from=menu mine=1 quiet console=ttyS0.",
    ] {
        assert!(told.out.contains(said), "{said:?} is not said by the guest: {}\n{}", told.out, told.err);
    }
    let told = told.says(&[
        "medium  x on ",
        "medium.iso (volume \"KILN_MEDIUM\"), by its isolinux/isolinux.cfg",
        "inject  in the initrd: /answer.cfg",
        "added to the kernel's command line: from=menu",
        "medium.iso is vdb of the first boot, read-only (machines have no CD drive yet)",
        "\"web\" runs.",
        "which is now shut off",
    ]);
    assert!(fs::read(&image).unwrap() == before, "the medium was changed");
    let kept = home.kiln(&["dumpxml", "web"]).ends(0).out;
    assert!(!kept.contains("medium.iso") && !kept.contains("<kernel>") && kept.contains("dev='vda'"), "{kept}");
    assert!(!home.files().iter().any(|path| path.starts_with(home.store("cache"))), "{:?}", home.files());
    drop(told);

    // The same files as a tree on a server, by their paths; the guest has no medium then, and one disk.
    let server = Server::of(&files);
    let location = format!("{},kernel=odd/kernel,initrd=odd/initrd", server.url);
    let words = ["--name", "net", "--location", &location, "--initrd-inject", &answer, "--disk", "size=0.01"];
    let told = home.kiln(&install(&[&words[..], &["--autoconsole", "text"]].concat())).ends(0);
    assert!(told.out.contains("injected the answer and , , mode 640."), "{}\n{}", told.out, told.err);
    assert!(told.out.contains("volume .") && told.out.contains("words console=ttyS0."), "{}", told.out);
    // And in a folder, whose files stay as they are.
    let location = format!("{},kernel=odd/kernel,initrd=odd/initrd", home.text("files"));
    let words = ["--name", "near", "--location", &location, "--initrd-inject", &answer, "--disk", "none"];
    let told = home.kiln(&install(&[&words[..], &["--autoconsole", "text"]].concat())).ends(0);
    assert!(told.out.contains("injected the answer and , , mode 640."), "{}\n{}", told.out, told.err);
    assert!(fs::read(home.path("files/odd/initrd")).unwrap() == gzip, "the tree was changed");
    assert!(!home.files().iter().any(|path| path.starts_with(home.store("cache"))), "{:?}", home.files());
}

#[test]
fn a_medium_whose_files_are_not_those_that_it_lists() {
    kiln_lab::needs_kvm!(100, KILN, XORRISO);
    let home = Home::new();
    for wrong in ["install.amd/vmlinuz", "install.amd/initrd.gz"] {
        let list = format!("{}  ./{wrong}\n", "ab".repeat(32));
        let files: [(&str, &[u8]); 3] =
            [("install.amd/vmlinuz", b"k"), ("install.amd/initrd.gz", b"i"), ("sha256sum.txt", list.as_bytes())];
        let from = folder(&home, "files", &files);
        let image = xorriso(&home, &from, "medium.iso", &["-r"]);
        let before = home.files();
        for location in [&image, from.to_str().unwrap()] {
            let told = home.kiln(&install(&["--location", location, "--disk", "size=1"])).ends(6);
            told.says(&[
                wrong,
                "has a wrong checksum",
                "1. its own list says abab",
                "2. the file has ",
                "> Get it again.",
            ]);
            assert_eq!(home.files(), before, "something is left");
        }
    }
}

#[test]
fn a_cache_that_is_full_is_told_and_left_as_it_was() {
    kiln_lab::needs_lab!(100, KILN, XORRISO);
    let home = Home::new();
    let cache = home.store("cache");
    fs::create_dir_all(&cache).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", cache.to_str().unwrap()]);
    let large = vec![1; 3 << 20];
    for (kernel, initrd) in [(&large[..], &b"i"[..]), (b"k", &large)] {
        let files: [(&str, &[u8]); 2] = [("install.amd/vmlinuz", kernel), ("install.amd/initrd.gz", initrd)];
        let from = folder(&home, "files", &files);
        let image = xorriso(&home, &from, "medium.iso", &["-r"]);
        let server = Server::of(&files);
        let answer = home.file("answer.cfg", "the answer");
        let before = home.files();
        // In a folder the kernel is used where it lies, and the initrd if nothing goes into it.
        let locations = [&image, &server.url, &home.text("files")];
        for location in &locations[..if kernel.len() > 1 { 2 } else { 3 }] {
            let words = ["--location", location.as_str(), "--initrd-inject", &answer, "--disk", "size=1"];
            let told = home.kiln(&install(&words)).ends(1);
            told.says(&["No space left on device", "> The cache's file system is full: free some space"]);
            assert_eq!(home.files(), before, "something is left");
        }
    }
    run("umount", &[cache.to_str().unwrap()]);
}

/// Debian's installer takes this file out of its initrd's root, and runs the command before it asks anything.
const PRESEED: &str =
    "d-i preseed/early_command string (echo \"PRESEED RUN by $(uname -r)\") > /dev/ttyS0; poweroff -f\n";

#[test]
fn debians_installer_from_an_image_takes_an_injected_answer() {
    let netboot = Netboot::get().unwrap();
    let brought = |file: &std::path::Path| {
        let inside = std::path::Path::new(INSIDE).join("debian-installer/amd64").join(file.file_name().unwrap());
        format!("{}:{}", file.display(), inside.display())
    };
    let (kernel, initrd) = (brought(&netboot.kernel), brought(&netboot.initrd));
    kiln_lab::needs_kvm!(600, KILN, XORRISO, &kernel, &initrd);
    let home = Home::new();
    let (kernel, initrd) = (fs::read(&netboot.kernel).unwrap(), fs::read(&netboot.initrd).unwrap());
    let from = folder(&home, "files", &[("install.amd/vmlinuz", &kernel), ("install.amd/initrd.gz", &initrd)]);
    let image = xorriso(&home, &from, "debian.iso", &["-r", "-V", "Debian 12 n"]);
    drop((kernel, initrd));
    fs::remove_dir_all(from).unwrap();
    let preseed = home.file("preseed.cfg", PRESEED);
    let words = ["--location", &image, "--initrd-inject", &preseed, "--memory", "1024", "--disk", "size=0.01"];
    let told = home.kiln(&install(&[&words[..], &["--autoconsole", "text"]].concat())).ends(0);
    assert!(told.out.contains("PRESEED RUN by 6.1."), "{}\n{}", told.out, told.err);
    told.says(&["medium  Debian on ", "debian.iso (volume \"Debian 12 n\")", "inject  in the initrd: /preseed.cfg"]);
}

#[test]
fn an_injected_archive_is_what_cpio_reads() {
    let home = Home::new();
    let files = [("base", vec![7; 4099]), ("a.cfg", b"one\n".to_vec()), ("run.sh", b"#!/bin/sh\n".to_vec())];
    let paths = files.each_ref().map(|(name, bytes)| home.file(name, bytes));
    fs::set_permissions(&paths[2], std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut builder = Builder::new(&home.path("initrd")).unwrap();
    builder.file(&home.path("base")).unwrap();
    builder.inject(&Injection::new(&paths[1..].iter().map(Into::into).collect::<Vec<_>>()).unwrap()).unwrap();
    builder.finish().unwrap();
    let made = fs::read(home.path("initrd")).unwrap();
    assert!(made[..4099] == [7; 4099] && made[4099] == 0);
    let archive = home.file("archive", &made[4100..]);
    let listing = String::from_utf8(run("/usr/bin/cpio", &["-itvn", "--quiet", "-F", &archive])).unwrap();
    let lines: Vec<(&str, &str)> =
        listing.lines().map(|line| (&line[..10], line.rsplit(' ').next().unwrap())).collect();
    assert_eq!(lines, [("-rw-r--r--", "a.cfg"), ("-rwxr-xr-x", "run.sh")], "{listing}");
    let owners = listing.lines().all(|line| line.split_whitespace().skip(2).take(2).eq(["0", "0"]));
    assert!(owners, "{listing}");
    let text = run("/usr/bin/cpio", &["-i", "--quiet", "--to-stdout", "-F", &archive, "a.cfg"]);
    assert_eq!(text, b"one\n");
    fs::write(&paths[1], "two").unwrap();
    assert_eq!(made, fs::read(home.path("initrd")).unwrap());
}
