//! Linked clones: a base that nobody writes to, under images that each machine has for itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::home::{KILN, Told};
use crate::stage::{QEMU_IMG, Stage, judge};

#[test]
fn both_machines_go_on_on_top_of_the_base() {
    let stage = Stage::new();
    let text = |name: &str| stage.home.text(name);
    let base = fs::read(text("d/web.qcow2")).unwrap();
    stage
        .clone(&["web", "--name", "two", "--linked"])
        .ends(0)
        .says(&["Clone 'two' created", "web.qcow2 (read-only from now on)"]);
    assert_eq!(stage.disks("web"), [text("d/web-top.qcow2"), text("d/data-top.qcow2"), text("d/tools.img")]);
    assert_eq!(stage.disks("two"), [text("d/two.qcow2"), text("d/data-clone.qcow2"), text("d/tools.img")]);
    for name in ["web", "two"] {
        let disks = stage.disks(name);
        for (disk, letter, format) in [(&disks[0], b'w', "qcow2"), (&disks[1], b'd', "raw")] {
            stage.holds(disk, letter);
            judge(QEMU_IMG, &["check", "-q", disk]);
            let said = judge(QEMU_IMG, &["info", "--backing-chain", disk]);
            assert!(said.contains(&format!("backing file format: {format}")), "{said}");
        }
        let xml = stage.xml(name);
        // The read-only one alone is still what it was.
        assert_eq!(xml.matches("type='raw'").count(), 1, "{xml}");
        judge("/usr/bin/virt-xml-validate", &[&stage.home.file("x.xml", &xml), "domain"]);
    }
    assert_eq!((stage.mode(text("d/web.qcow2")), stage.mode(text("d/data.img"))), (0o444, 0o444));
    assert_eq!(stage.mode(text("d/tools.img")) & 0o200, 0o200, "what both only read needs no guard");
    // The next one lies on what web wrote since: the chain grows.
    judge("/usr/bin/qemu-io", &["-c", "write -q -P 0x21 0 64k", &text("d/web-top.qcow2")]);
    stage.clone(&["web", "--name", "three", "--linked", "--file", &text("d/third.qcow2")]).ends(0);
    assert_eq!(stage.disks("web")[0], text("d/web-top-1.qcow2"));
    let said = judge("/usr/bin/qemu-io", &["-r", "-c", "read -q -P 0x21 0 64k", &text("d/third.qcow2")]);
    assert!(!said.contains("failed"), "{said}");
    let chain = judge(QEMU_IMG, &["info", "--backing-chain", &text("d/third.qcow2")]);
    assert_eq!(chain.matches("image: ").count(), 3, "{chain}");
    stage.holds(&text("d/two.qcow2"), b'w');
    assert_eq!(fs::read(text("d/web.qcow2")).unwrap(), base);
}

/// kiln under the name qemu-img.
fn as_qemu_img(stage: &Stage, words: &[&str]) -> Told {
    let link = stage.home.path("qemu-img");
    if !link.exists() {
        symlink(KILN, &link).unwrap();
    }
    let mut command = Command::new(&link);
    let output = command.args(words).env("KILN_HOME", stage.home.path("home")).output().unwrap();
    Told::from((words.join(" "), output))
}

#[test]
fn no_verb_writes_to_a_base() {
    let stage = Stage::new();
    stage.clone(&["web", "--name", "two", "--linked"]).ends(0);
    let text = |name: &str| stage.home.text(name);
    let (base, raw, top) = (text("d/web.qcow2"), text("d/data.img"), text("d/two.qcow2"));
    let (linked, hard) = (text("soft"), text("hard"));
    symlink(&base, &linked).unwrap();
    fs::hard_link(&base, &hard).unwrap();
    let other = stage.home.file("other.img", [7; 4096]);
    as_qemu_img(&stage, &["--version"]);
    let before = stage.everything();
    let rows: &[&[&str]] = &[
        &["resize", &base, "+1G"],
        &["resize", &linked, "+1G"],
        &["resize", &hard, "+1G"],
        &["resize", "-f", "raw", &raw, "+1G"],
        &["snapshot", "-c", "s", &base],
        &["check", "-r", "all", &base],
        &["rebase", "-u", "-b", "", &base],
        &["commit", &top],
        &["convert", "-f", "raw", "-O", "qcow2", &other, &base],
        &["convert", "-n", "-f", "raw", "-O", "qcow2", &other, &base],
        &["create", "-f", "qcow2", &base, "1M"],
    ];
    for words in rows {
        for told in [stage.home.kiln(&[&["disk"], *words].concat()), as_qemu_img(&stage, words)] {
            assert_ne!(told.code, Some(0), "{words:?}");
            assert!(stage.everything() == before, "{words:?} wrote");
            if !told.err.contains("exists already") {
                told.says(&["is a base of linked clones", "would destroy the disks of two, web"]);
            }
        }
    }
    for verb in ["create", "convert"] {
        let rest: &[&str] =
            if verb == "create" { &["-f", "qcow2", &base, "1M"] } else { &["-f", "raw", "-O", "raw", &other, &raw] };
        stage.home.kiln(&[&["disk", verb, "--force"], rest].concat()).ends(4).says(&["is a base of linked clones"]);
    }
    assert!(stage.everything() == before);
    // Nor does a machine, by whatever way it came to it.
    stage.define("thief", &[("raw", "d/data.img", "")], "");
    stage.home.kiln(&["start", "thief"]).ends(4).says(&["data.img is a base of linked clones", "two, web"]);
    let disk = format!("path={base}");
    let kernel = format!("kernel={}", text("kernel"));
    let line = [
        "install",
        "--name",
        "new",
        "--memory",
        "256",
        "--network",
        "none",
        "--import",
        "--boot",
        &kernel,
        "--disk",
        &disk,
    ];
    stage.home.kiln(&line).ends(4).says(&["web.qcow2 is a base of linked clones"]);
    stage.home.kiln(&["undefine", "thief"]).ends(0);
    // To read one is fine.
    stage.home.kiln(&["disk", "check", &base]).ends(0);
    stage.home.kiln(&["disk", "convert", "-f", "raw", "-O", "qcow2", &raw, &text("copy.qcow2")]).ends(0);
}

#[test]
fn a_base_is_let_go_when_nobody_lies_on_it() {
    let stage = Stage::empty();
    stage.qcow2("d/web.qcow2", b'w');
    stage.define("web", &[("qcow2", "d/web.qcow2", "")], "");
    let base = stage.home.text("d/web.qcow2");
    let mode = stage.mode(&base);
    stage.clone(&["web", "--name", "two", "--linked"]).ends(0);
    stage.clone(&["--release", &base]).ends(4).says(&["is the base of two, web", "> Undefine those first."]);
    let told = stage.home.kiln(&["undefine", "two"]).ends(0);
    assert!(!told.err.contains("base"), "web still lies on it: {}", told.err);
    let last = stage.home.kiln(&["undefine", "web"]).ends(0);
    last.says(&["no machine lies on the base", "> If no other image lies on it: kiln clone --release"]);
    stage.home.kiln(&["disk", "resize", &base, "+1G"]).ends(4).says(&["no machine of the store uses it any more"]);
    // A definition that can't be read may name it.
    let broken = stage.home.file("home/config/machines/broken/domain.xml", "<domain");
    stage.clone(&["--release", &base]).ends(1).says(&["broken/domain.xml can't be understood"]);
    fs::remove_file(broken).unwrap();
    stage.clone(&["--release", &base]).ends(0).says(&["is no base any more"]);
    assert_eq!(stage.mode(&base), mode);
    stage.home.kiln(&["disk", "resize", &base, "+1G"]).ends(0);
}

#[test]
fn odd_files_of_other_machines_are_in_nobodys_way() {
    let stage = Stage::empty();
    stage.qcow2("d/real.qcow2", b'w');
    symlink("real.qcow2", stage.home.path("d/web.qcow2")).unwrap();
    stage.define("web", &[("qcow2", "d/web.qcow2", "")], "");
    nix::unistd::mkfifo(&stage.home.path("d/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    stage.define("odd", &[("qcow2", "d/pipe", ""), ("qcow2", "d", ""), ("qcow2", "d/none", "")], "");
    stage.clone(&["web", "--name", "two", "--linked"]).ends(0);
    let real = stage.home.text("d/real.qcow2");
    stage.home.kiln(&["disk", "resize", &real, "+1M"]).ends(4).says(&["would destroy the disks of two, web"]);
    stage.clone(&["odd", "--name", "three"]).ends(1).says(&["is a pipe, not a disk image"]);
    // The base is the file, wherever the link leads later.
    fs::remove_file(stage.home.path("d/web.qcow2")).unwrap();
    for machine in ["web", "two"] {
        stage.holds(&stage.disks(machine)[0], b'w');
    }
    stage.home.kiln(&["disk", "resize", &real, "+1M"]).ends(4).says(&["two, web"]);
}

#[test]
fn a_broken_list_of_bases_is_told_and_nothing_written() {
    let stage = Stage::new();
    stage.clone(&["web", "--name", "two", "--linked"]).ends(0);
    let list = stage.home.store("config/bases.json");
    let whole = fs::read(&list).unwrap();
    fs::write(&list, "[{").unwrap();
    let before = stage.everything();
    let free = stage.home.text("d/tools.img");
    for words in [
        &["disk", "resize", "-f", "raw", &free, "+1M"][..],
        &["start", "two"],
        &["clone", "web", "--auto-clone", "--linked"],
    ] {
        stage.home.kiln(words).ends(1).says(&["bases.json can't be read", "> It names the images"]);
        assert!(stage.everything() == before, "{words:?}");
    }
    fs::write(&list, whole).unwrap();
    stage.home.kiln(&["disk", "resize", "-f", "raw", &free, "+1M"]).ends(0);
}

#[test]
fn a_disk_that_another_machine_writes_to_is_no_base() {
    let stage = Stage::new();
    stage.define("other", &[("qcow2", "d/web.qcow2", "")], "");
    let before = stage.everything();
    stage
        .clone(&["web", "--name", "two", "--linked"])
        .ends(4)
        .says(&["no linked clone", "\"other\" writes to it, too"]);
    assert!(stage.everything() == before);
}
