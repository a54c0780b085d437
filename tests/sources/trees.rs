//! Install trees of many layouts, in folders and on servers, and what they say of themselves.

use std::fs;

use super::home::{Home, Told, install};
use super::medium::{folder, iso};
use super::server::Server;

const KERNEL: &str = "images/pxeboot/vmlinuz";
const INITRD: &str = "images/pxeboot/initrd.img";

fn treeinfo(family: &str, version: &str, kernel: &str) -> String {
    format!(
        "[header]\ntype = productmd.treeinfo\nversion = 1.2\n[release]\nname = {family}\nversion = {version}\n\
         [general]\narch = x86_64\nfamily = {family}\nversion = {version}\n[images-x86_64]\nkernel = {kernel}\ninitrd = {INITRD}\n"
    )
}

fn server(info: &str) -> Server {
    Server::of(&[(".treeinfo", info.as_bytes()), (KERNEL, b"k"), (INITRD, b"i")])
}

fn xml(home: &Home, words: &[&str]) -> Told {
    home.kiln(&install(&[words, &["--print-xml", "1"]].concat()))
}

fn cmdline(told: &Told) -> String {
    let (_, rest) = told.out.split_once("<cmdline>").unwrap_or_else(|| panic!("{told:?}"));
    rest.split_once("</cmdline>").unwrap().0.to_owned()
}

#[test]
fn installers_are_told_where_their_tree_is() {
    let home = Home::new();
    let rows = [
        ("Fedora", "40", "inst.repo"),
        ("Fedora", "18", "method"),
        ("Red Hat Enterprise Linux", "9.4", "inst.repo"),
        ("Red Hat Enterprise Linux Server", "6.10", "method"),
        ("CentOS Stream", "9", "inst.repo"),
        ("openSUSE Leap", "15.6", "install"),
    ];
    for (family, version, argument) in rows {
        let server = server(&treeinfo(family, version, KERNEL));
        let url = format!("{}/", server.url);
        let told = xml(&home, &["--location", &url, "--extra-args", "quiet"]).ends(0);
        assert_eq!(cmdline(&told), format!("{argument}={} quiet console=ttyS0", server.url), "{family} {version}");
        assert!(told.out.contains(&format!("{}/{KERNEL}", server.url)), "{}", told.out);
        let own = format!("{argument}=http://elsewhere/");
        let told = xml(&home, &["--location", &url, "--extra-args", &own, "--graphics", "vnc"]).ends(0);
        assert_eq!(cmdline(&told), own);
    }
    let plain = server(&treeinfo("Hannah Montana Linux", "1", KERNEL));
    assert_eq!(cmdline(&xml(&home, &["--location", &plain.url]).ends(0)), "console=ttyS0");
    let suse = Server::of(&[("boot/x86_64/loader/linux", b"k"), ("boot/x86_64/loader/initrd", b"i")]);
    let told = xml(&home, &["--location", &suse.url]).ends(0);
    assert_eq!(cmdline(&told), format!("install={} console=ttyS0", suse.url));
    let ubuntu = "current/legacy-images/netboot/ubuntu-installer/amd64";
    let files = [format!("{ubuntu}/linux"), format!("{ubuntu}/initrd.gz")];
    let server = Server::of(&[(&files[0], b"k"), (&files[1], b"i")]);
    xml(&home, &["--location", &server.url]).ends(0).says(&[&files[0], &files[1], "<cmdline>console=ttyS0<"]);
}

#[test]
fn a_treeinfo_that_leads_astray_is_not_followed() {
    let home = Home::new();
    let rows = [
        ("/images/pxeboot/vmlinuz", "isn't inside the tree"),
        ("../vmlinuz", "isn't inside the tree"),
        ("images/../../vmlinuz", "isn't inside the tree"),
        ("http://elsewhere.invalid/vmlinuz", "isn't inside the tree"),
        ("images/pxeboot/gone", "it names images/pxeboot/gone, which isn't there"),
    ];
    for (path, why) in rows {
        let info = treeinfo("Fedora", "40", path);
        let from = folder(&home, "tree", &[("tree/.treeinfo", info.as_bytes()), ("vmlinuz", b"k"), ("tree/x", b"")]);
        fs::create_dir_all(from.join("tree/images/pxeboot")).unwrap();
        fs::write(from.join("tree").join(INITRD), "i").unwrap();
        fs::write(from.join("tree").join(KERNEL), "k").unwrap();
        let server = server(&info);
        let tree = from.join("tree");
        for location in [server.url.as_str(), tree.to_str().unwrap()] {
            let texts = ["the tree's .treeinfo can't be followed", "1. ", why, "> Name the files yourself"];
            xml(&home, &["--location", location]).ends(6).says(&texts);
        }
        assert!(!server.asked().iter().any(|request| request.path().contains("..")), "{:?}", server.asked());
    }
    // A path that goes back and forth inside is none of these.
    let server = server(&treeinfo("Fedora", "40", "images/x/../pxeboot/./vmlinuz"));
    xml(&home, &["--location", &server.url]).ends(0).says(&["/images/pxeboot/vmlinuz"]);
}

#[test]
fn a_treeinfo_without_an_installer_says_what_it_lacks() {
    let home = Home::new();
    let whole = treeinfo("Fedora", "40", KERNEL);
    let rows = [
        (whole.replace("arch = x86_64", "arch = aarch64"), "it is for aarch64; kiln's machines are x86_64"),
        (whole.replace("images-x86_64", "images-xen"), "it names no kernel for x86_64"),
        (whole.replace("initrd = ", "other = "), "it names no initrd for x86_64"),
    ];
    for (info, why) in rows {
        let server = Server::of(&[(".treeinfo", info.as_bytes())]);
        xml(&home, &["--location", &server.url]).ends(3).says(&["there is no install tree at", ".treeinfo: ", why]);
    }
    let iso = Server::of(&[]);
    let url = format!("{}/some.iso", iso.url);
    xml(&home, &["--location", &url]).ends(3).says(&["> An ISO image is to be downloaded first"]);
}

#[test]
fn what_a_tree_says_of_itself_is_no_command_to_the_terminal() {
    let home = Home::new();
    let menu = "label \x1b[2Jone\nkernel /k\nappend initrd=/i \x1b[2J\nlabel two\nkernel /k\x07\ninitrd /i\n";
    let image = iso(&home, "menu.iso", &[("isolinux.cfg", menu.as_bytes()), ("k", b"k"), ("i", b"i")]);
    let told = xml(&home, &["--location", &image]).ends(3);
    assert!(!told.err.contains(['\x1b', '\x07']), "{:?}", told.err);
    for (from, to, code) in
        [("arch = x86_64", "arch = \x1b[2J", 3), (KERNEL, "a\x1b[2J", 6), ("Fedora", "\x1b[2JFedora", 0)]
    {
        let info = treeinfo("Fedora", "40", KERNEL).replace(from, to);
        let server = if code == 3 { Server::of(&[(".treeinfo", info.as_bytes())]) } else { server(&info) };
        let told = xml(&home, &["--location", &server.url]).ends(code);
        assert!(!told.err.contains('\x1b') && !told.out.contains('\x1b'), "{told:?}");
        assert!(code != 3 || told.err.contains(r"it is for \u{1b}[2J"), "{told:?}");
    }
}

const MENU: &str = "DEFAULT two\nINCLUDE entries.cfg\n";
const ENTRIES: &str = "LABEL one\n  KERNEL memdisk\n  INITRD dos.img\nLABEL two\n  LINUX ../odd/kernel\n  INITRD ucode,/odd/initrd\n\
                       \x20 APPEND root=live:CDLABEL=ODD quiet\n";

#[test]
fn media_of_no_known_layout_are_found_by_their_menus() {
    let home = Home::new();
    let files: [(&str, &[u8]); 6] = [
        ("isolinux/isolinux.cfg", MENU.as_bytes()),
        ("isolinux/entries.cfg", ENTRIES.as_bytes()),
        ("isolinux/ucode", b"u"),
        ("odd/kernel", b"k"),
        ("odd/initrd", b"i"),
        ("isolinux/memdisk", b"m"),
    ];
    let image = iso(&home, "odd.iso", &files);
    let tree = home.text("odd.iso.d");
    for location in [&image, &tree] {
        let told = xml(&home, &["--location", location, "--extra-args", "mine"]).ends(0);
        assert_eq!(cmdline(&told), "root=live:CDLABEL=ODD quiet mine console=ttyS0");
    }
    // Its kernel lies there, its initrd is to be put together.
    xml(&home, &["--location", &tree]).ends(0).says(&["/odd/kernel<", "cache/installs/web/initrd<"]);
    let grub = "set timeout=5\nmenuentry 'Live' {\n  linux /live/vmlinuz boot=live \"a=b c\" console=ttyS0,115200\n  initrd /live/initrd\n}\n";
    let image = iso(
        &home,
        "grub.iso",
        &[("boot/grub/grub.cfg", grub.as_bytes()), ("live/vmlinuz", b"k"), ("live/initrd", b"i")],
    );
    let told = xml(&home, &["--location", &image]).ends(0);
    assert_eq!(cmdline(&told).replace("&quot;", "\""), "boot=live \"a=b c\" console=ttyS0,115200");
    // What the menu names must be there.
    let image = iso(&home, "gone.iso", &[("boot/grub/grub.cfg", grub.as_bytes()), ("live/vmlinuz", b"k")]);
    xml(&home, &["--location", &image]).ends(3).says(&["boot/grub/grub.cfg: live/initrd isn't there"]);
}

#[test]
fn a_known_medium_gets_the_words_that_find_it() {
    let home = Home::new();
    let menu = format!(
        "label linux\n kernel vmlinuz\n append initrd=initrd.img\nlabel x\n kernel /{KERNEL}\n \
         append initrd=/{INITRD} inst.stage2=hd:LABEL=F-40 rd.live.check quiet\n"
    );
    let info = treeinfo("Fedora", "40", KERNEL);
    let files =
        [(".treeinfo", info.as_bytes()), (KERNEL, b"k"), (INITRD, b"i"), ("isolinux/isolinux.cfg", menu.as_bytes())];
    let image = iso(&home, "fedora.iso", &files);
    let told = xml(&home, &["--location", &image]).ends(0);
    assert_eq!(cmdline(&told), "inst.stage2=hd:LABEL=F-40 rd.live.check console=ttyS0");
    // The same files in a folder: there is no medium to find.
    let told = xml(&home, &["--location", &home.text("fedora.iso.d")]).ends(0);
    assert_eq!(cmdline(&told), "console=ttyS0");
    let told = xml(&home, &["--location", &image, "--extra-args", "inst.stage2=http://x/"]).ends(0);
    assert_eq!(cmdline(&told), "rd.live.check inst.stage2=http://x/ console=ttyS0");
}

#[test]
fn kernel_and_initrd_by_their_paths() {
    let home = Home::new();
    let image = iso(&home, "odd.iso", &[("a/k", b"k"), ("a/i", b"i")]);
    let tree = home.text("odd.iso.d");
    let server = Server::of(&[("a/k", b"k"), ("a/i", b"i")]);
    for location in [&image, &tree, &server.url] {
        let words = format!("{location},kernel=a/k,initrd=/a/i");
        assert_eq!(cmdline(&xml(&home, &["--location", &words]).ends(0)), "console=ttyS0");
        let rows = [
            ("kernel=a/k", 2, "initrd= is missing"),
            ("initrd=a/k", 2, "kernel= is missing"),
            ("kernel=a/k,initrd=../i", 2, "initrd=../i: it leads out of the location"),
            ("kernel=a/none,initrd=a/i", 3, "a/none"),
            ("kernel=a,initrd=a/i", 3, "kernel=a: there is no"),
            ("kernal=a", 2, "Did you mean kernel=?"),
        ];
        for (options, code, text) in rows {
            let words = format!("{location},{options}");
            // A server may have a page for a folder.
            xml(&home, &["--location", &words]).ends(code).says(&[text]);
        }
    }
}

#[test]
fn what_can_be_injected() {
    let home = Home::new();
    let tree = folder(&home, "tree", &[("linux", b"k"), ("initrd.gz", b"i")]);
    let tree = tree.to_str().unwrap();
    let (file, other) = (home.file("preseed.cfg", "x"), home.file("b/preseed.cfg", "y"));
    let with = |files: &[&str]| {
        let mut words = vec!["--location", tree];
        files.iter().for_each(|file| words.extend(["--initrd-inject", *file]));
        xml(&home, &words)
    };
    with(&[&file]).ends(0).says(&["/tree/linux<", "cache/installs/web/initrd<"]);
    with(&[&file, &other]).ends(4).says(&["it can't be injected", "would have the same name"]);
    with(&[&home.text("none")]).ends(3).says(&["--initrd-inject", "none: it can't be injected", "1. "]);
    with(&[&home.text("b")]).ends(2).says(&["it is no plain file", "> Name each file"]);
    let boot = format!("kernel={file}");
    let told = home.kiln(&install(&["--boot", &boot, "--initrd-inject", &file, "--print-xml"])).ends(2);
    told.says(&["--initrd-inject goes with --location", "> With --boot the initrd is yours"]);
}

#[test]
fn servers_of_other_kinds_are_refused_by_name() {
    let home = Home::new();
    let rows = [
        ("ftp://server/tree", "not ftp", "> Most servers have the same tree there: --location https://server/tree"),
        ("nfs:server:/srv/tree", "kiln reads no NFS itself", "mount -t nfs server:/srv/tree /mnt"),
        ("nfs://server/srv/tree", "kiln reads no NFS itself", "mount -t nfs server:/srv/tree /mnt"),
        ("file:///srv/tree", "a file's path is expected", "> --location /srv/tree"),
    ];
    for (location, what, advice) in rows {
        xml(&home, &["--location", location]).ends(2).says(&[what, advice]);
    }
}
