//! Clones with disks of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, fcntl};

use crate::stage::{QEMU_IMG, Stage, judge, pattern};

const CARD: &str = "    <interface type='user'>\n      <mac address='52:54:00:00:00:01'/>\n      \
    <portForward proto='tcp'>\n        <range start='2222' to='22'/>\n      </portForward>\n      \
    <model type='virtio'/>\n      <backend type='passt'/>\n    </interface>\n";
const SCREEN: &str = "    <graphics type='vnc' port='5999'/>\n    <video>\n      <model type='vga'/>\n    </video>\n";

fn between<'a>(text: &'a str, open: &str, close: &str) -> &'a str {
    text.split_once(open).unwrap().1.split_once(close).unwrap().0
}

#[test]
fn a_clone_is_another_machine_with_the_same_disks() {
    let stage = Stage::empty();
    stage.qcow2("d/web.qcow2", b'w');
    stage.home.file("d/data.img", pattern(b'd'));
    stage.home.file("d/tools.img", pattern(b't'));
    let disks = [("qcow2", "d/web.qcow2", ""), ("raw", "d/data.img", ""), ("raw", "d/tools.img", "<readonly/>")];
    stage.define("web", &disks, &format!("{CARD}{SCREEN}"));
    judge(QEMU_IMG, &["snapshot", "-c", "before", &stage.home.text("d/web.qcow2")]);
    let before = stage.everything();

    let told = stage.clone(&["web", "--name", "two"]).ends(0);
    let told = told.says(&["Clone 'two' created successfully.", "copied  ", "d/web.qcow2 to ", "d/two.qcow2"]);
    told.says(&["note: the host's ports tcp 2222 still lead to the original alone", "note: the screen's port 5999"]);
    let text = |name: &str| stage.home.text(name);
    assert_eq!(stage.disks("two"), [text("d/two.qcow2"), text("d/data-clone.img"), text("d/tools.img")]);
    stage.holds(&text("d/two.qcow2"), b'w');
    stage.holds(&text("d/data-clone.img"), b'd');
    judge(QEMU_IMG, &["check", "-q", &text("d/two.qcow2")]);
    // Internal snapshots came along, and holes are holes.
    assert!(judge(QEMU_IMG, &["snapshot", "-l", &text("d/two.qcow2")]).contains("before"));
    let about = fs::metadata(text("d/data-clone.img")).unwrap();
    assert!(about.blocks() * 512 < 2 << 20 && about.len() == 8 << 20, "{about:?}");
    assert_eq!(stage.mode(text("d/two.qcow2")), 0o600);

    let (web, two) = (stage.xml("web"), stage.xml("two"));
    assert_ne!(between(&web, "<uuid>", "<"), between(&two, "<uuid>", "<"));
    assert_ne!(between(&web, "<mac address='", "'"), between(&two, "<mac address='", "'"));
    assert!(two.contains("<graphics type='vnc' port='-1' autoport='yes'/>") && !two.contains("portForward"), "{two}");
    let file = stage.home.file("two.xml", &two);
    judge("/usr/bin/virt-xml-validate", &[&file, "domain"]);
    // The original is what it was.
    for (path, mode, bytes) in before {
        assert!(stage.mode(&path) == mode && fs::read(&path).unwrap() == bytes, "{}", path.display());
    }
    // Names are made up, as virt-clone does it.
    stage.clone(&["-o", "web", "--auto-clone"]).ends(0).says(&["Clone 'web-clone' created"]);
    stage.clone(&["web", "--auto-clone"]).ends(0).says(&["Clone 'web-clone1' created"]);
    assert_eq!(stage.disks("web-clone1")[..2], [text("d/web-clone1.qcow2"), text("d/data-clone-2.img")]);
}

#[test]
fn what_is_said_is_done() {
    let stage = Stage::new();
    let text = |name: &str| stage.home.text(name);
    fs::create_dir(stage.home.path("e")).unwrap();
    let uuid = "12345678-9abc-4def-8234-56789abcdef0";
    let (first, second) = (text("e/a.qcow2"), text("e/b.img"));
    let line = ["web", "-n", "two", "-f", &first, "-f", &second, "--uuid", uuid, "--nonsparse"];
    stage.clone(&line).ends(0);
    assert_eq!(stage.disks("two"), [first.clone(), second.clone(), text("d/tools.img")]);
    assert!(stage.xml("two").contains(uuid));
    assert!(fs::metadata(&second).unwrap().blocks() * 512 >= 8 << 20, "all its space is taken");
    stage.holds(&second, b'd');

    stage
        .clone(&["web", "-n", "three", "--skip-copy", "vda", "--force-copy", "vdc"])
        .ends(0)
        .says(&["both machines use the disk vda"]);
    assert_eq!(stage.disks("three"), [text("d/web.qcow2"), text("d/data-clone.img"), text("d/tools-clone.img")]);
    stage.holds(&text("d/tools-clone.img"), b't');

    let line = ["web", "-n", "four", "--preserve-data", "-f", &first, "-f", &second];
    let before = stage.everything().len();
    stage.clone(&line).ends(0);
    assert_eq!(stage.disks("four")[..2], [first.clone(), second.clone()]);
    assert_eq!(stage.everything().len(), before + 1, "a definition alone is new");
    // What would be made is told, and nothing made.
    let before = stage.everything();
    stage.clone(&["web", "-n", "five", "--print-xml"]).ends(0).says(&["<name>five</name>", "d/five.qcow2"]);
    assert!(stage.everything() == before);
}

#[test]
fn a_copy_lies_on_what_the_original_lies_on() {
    let stage = Stage::empty();
    stage.home.file("d/below.img", pattern(b'b'));
    let top = stage.home.text("d/top.qcow2");
    judge(QEMU_IMG, &["create", "-q", "-f", "qcow2", "-b", "below.img", "-F", "raw", &top]);
    let below = "<backingStore type='file'><format type='raw'/><source file='below.img'/></backingStore>";
    stage.define("web", &[("qcow2", "d/top.qcow2", below)], "");
    fs::create_dir(stage.home.path("e")).unwrap();
    for (name, file) in [("same", "d/same.qcow2"), ("other", "e/other.qcow2")] {
        let file = stage.home.text(file);
        stage.clone(&["web", "--name", name, "--file", &file]).ends(0);
        stage.holds(&file, b'b');
        judge(QEMU_IMG, &["check", "-q", &file]);
        assert!(stage.xml(name).contains("<backingStore"), "it is still what the definition says");
    }
    let said = judge(QEMU_IMG, &["info", &stage.home.text("e/other.qcow2")]);
    assert!(said.contains(&format!("backing file: {}", stage.home.text("d/below.img"))), "{said}");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let stage = Stage::new();
    let text = |name: &str| stage.home.text(name);
    stage.define(
        "other",
        &[],
        "    <interface type='user'>\n      <mac address='52:54:00:00:00:09'/>\n    </interface>\n",
    );
    let (there, nowhere) = (text("d/tools.img"), text("none/x.img"));
    let uuid = stage.xml("other").split_once("<uuid>").unwrap().1[..36].to_owned();
    stage.define("gone", &[("qcow2", "d/gone.qcow2", "")], "");
    stage.qcow2("d/data-file.qcow2", b'x');
    judge(
        QEMU_IMG,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &format!("data_file={}", text("d/outside.raw")),
            &text("d/in-two.qcow2"),
            "1M",
        ],
    );
    stage.define("two-files", &[("qcow2", "d/in-two.qcow2", "")], "");
    let far = "    <disk type='network' device='disk'>\n      <driver name='qemu' type='raw'/>\n      \
        <source protocol='nbd' name='x'/>\n      <target dev='vda' bus='virtio'/>\n    </disk>\n";
    stage.define("far", &[], far);
    let before = stage.everything();
    let rows: &[(&[&str], i32, &str)] = &[
        (&["nobody", "--name", "two"], 3, "no machine \"nobody\""),
        (&["web"], 2, "--auto-clone"),
        (&["web", "--name", "other"], 4, "there is a machine \"other\" already"),
        (&["web", "--name", "a/b"], 2, "can't be a machine's name"),
        (&["web", "--name", "two", "--file", &there], 4, "tools.img exists already"),
        (&["web", "--name", "two", "--file", &nowhere], 3, "there is no folder"),
        (&["web", "--name", "two", "--file", "a", "--file", "a"], 4, "a exists already"),
        (&["web", "--name", "two", "--file", "a", "--file", "b", "--file", "c"], 2, "2 disks are copied"),
        (&["web", "--name", "two", "--preserve-data", "--file", &there], 2, "2 disks are copied"),
        (&["web", "--name", "two", "--preserve-data", "--file", "a", "--file", "b"], 3, "No such file"),
        (&["web", "--name", "two", "--preserve-data", "--file", &there, "--file", &there], 4, "would be two disks"),
        (&["web", "--name", "two", "--skip-copy", "vdx"], 3, "There are: vda, vdb, vdc"),
        (&["web", "--name", "two", "--skip-copy", "vda", "--force-copy", "vda"], 2, "exclude each other"),
        (&["web", "--name", "two", "--mac", "52:54:00:00:00:02"], 2, "0 network cards"),
        (&["other", "--name", "two", "--mac", "52:54:00:00:00:09"], 4, "in use by the machine \"other\""),
        (&["other", "--name", "two", "--mac", "nonsense"], 2, "nonsense"),
        (&["web", "--name", "two", "--uuid", "12"], 2, "32 hex digits"),
        (&["web", "--name", "two", "--uuid", &uuid], 4, "the uuid of \"other\""),
        (&["gone", "--name", "two"], 3, "can't be copied"),
        (&["far", "--name", "two"], 1, "the disk vda of type network can't be copied"),
        (&["two-files", "--name", "two"], 1, "its data lie in another file"),
        (&["web", "--name", "two", "--linked", "--nonsparse"], 2, "cannot be used with"),
        (&["web", "--name", "two", "--replace"], 2, "undefine the machine that has the name first"),
        (&["--original-xml", "x", "--name", "two"], 2, "kiln define"),
        (&["--release", &there], 3, "is no base of linked clones"),
    ];
    for (words, code, says) in rows {
        stage.clone(words).ends(*code).says(&[says]);
        assert!(stage.everything() == before, "{words:?} left something");
    }
    // Without a file system that shares blocks there is no lightweight copy, and nothing in its place.
    let told = stage.clone(&["web", "--name", "two", "--reflink"]);
    if told.code != Some(0) {
        told.ends(1).says(&["can't share blocks", "> Leave --reflink out"]);
        assert!(stage.everything() == before);
    }
}

#[test]
fn a_machine_that_is_on_is_not_cloned() {
    let stage = Stage::new();
    // What a running machine's process holds.
    let lock = stage.home.store("run/machines/web/lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let file = fs::File::create(&lock).unwrap();
    let whole =
        libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    let before = stage.everything();
    for linked in [&[][..], &["--linked"]] {
        let words = [&["web", "--name", "two"], linked].concat();
        stage.clone(&words).ends(4).says(&["\"web\" is running or paused", "> Turn it off first: kiln shutdown web"]);
    }
    assert!(stage.everything() == before);
    drop(file);
    stage.clone(&["web", "--name", "two"]).ends(0);
}

#[test]
fn a_disk_that_another_program_writes_to_is_not_copied() {
    let stage = Stage::new();
    let disk = stage.home.text("d/web.qcow2");
    let mut writer = std::process::Command::new("qemu-io")
        .arg(&disk)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its prompt says that it has opened the image.
    std::io::Read::read_exact(writer.stdout.as_mut().unwrap(), &mut [0; 7]).unwrap();
    let before = stage.everything();
    for words in [&["web", "--name", "two"][..], &["web", "--name", "two", "--linked"]] {
        stage.clone(words).ends(4).says(&["d/web.qcow2", "use"]);
        assert!(stage.everything() == before);
    }
    drop(writer.stdin.take());
    writer.wait().unwrap();
}
