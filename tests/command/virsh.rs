//! The name `virsh` beside the real one: the same commands in one call, on machines that are alike.
//!
//! Numbers, uuids and dates are masked and columns made alike; everything else must be the same, empty lines, errors and
//! exit status too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::guest::{self, SHELL};
use super::home::{Home, KILN};

/// What the test driver's own words are in QEMU's driver, whose machines kiln's are.
const DRIVER: [(&str, &str); 2] = [
    ("internal error: domain 'test' not running", "Requested operation is not valid: domain is not running"),
    ("internal error: domain 'test' not paused", "Requested operation is not valid: domain is already running"),
];

fn masked(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = DRIVER.iter().fold(text.into_owned(), |text, (driver, words)| text.replace(driver, words));
    let mut lines = Vec::new();
    for line in text.split('\n') {
        // Security models are libvirt's; the test driver tells a processor time of machines that are off, QEMU's doesn't;
        // notes are kiln's own.
        if ["Security ", "CPU time:", "note: ", "kept: "].iter().any(|start| line.starts_with(start)) {
            continue;
        }
        let mut masked = String::new();
        for c in line.chars() {
            let c = if c.is_ascii_digit() { '0' } else { c };
            let repeats = matches!(c, '0' | ' ' | '-') && masked.ends_with(c);
            if !repeats {
                masked.push(c);
            }
        }
        let words: Vec<String> = masked.split(' ').map(without_uuid).collect();
        lines.push(words.join(" ").replace("OS Type: linux", "OS Type: hvm").trim_end().to_owned());
    }
    lines.join("\n")
}

// Hexadecimal digits and dashes, in five groups.
fn without_uuid(word: &str) -> String {
    let is_group = |group: &str| group.chars().all(|c| c.is_ascii_hexdigit());
    if word.split('-').count() == 5 && word.split('-').all(is_group) { "UUID".into() } else { word.into() }
}

struct Pair {
    home: Home,
    name: PathBuf,
    theirs: PathBuf,
    ours: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let home = Home::new();
        let folder = |name: &str| {
            let path = home.path(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (bin, theirs, ours) = (folder("bin"), folder("theirs"), folder("ours"));
        home.kiln(&["link", bin.to_str().unwrap()]).ends(0);
        assert_eq!(fs::canonicalize(bin.join("virsh")).unwrap(), fs::canonicalize(KILN).unwrap());
        Self { name: bin.join("virsh"), home, theirs, ours }
    }

    fn kiln(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.name);
        command.args(words).env("KILN_HOME", self.home.path("home")).current_dir(&self.ours);
        command.output().unwrap()
    }

    /// The same words to both, theirs about libvirt's test machine, which is new in each call.
    #[track_caller]
    fn alike(&self, words: &[&str]) {
        let mut virsh = Command::new("virsh");
        virsh.args(["-c", "test:///default"]).args(words).env("LC_ALL", "C").current_dir(&self.theirs);
        let theirs = virsh.output().unwrap();
        let ours = self.kiln(words);
        let told = format!("{words:?}");
        assert_eq!(masked(&ours.stderr), masked(&theirs.stderr), "stderr of {told}");
        assert_eq!(masked(&ours.stdout), masked(&theirs.stdout), "stdout of {told}");
        assert_eq!(ours.status.code(), theirs.status.code(), "exit status of {told}");
    }

    fn write(&self, name: &str, theirs: &str, ours: &str) {
        fs::write(self.theirs.join(name), theirs).unwrap();
        fs::write(self.ours.join(name), ours).unwrap();
    }
}

#[test]
fn command_lines_that_are_wrong() {
    let pair = Pair::new();
    for words in [
        vec!["bogus"],
        vec!["list; bogus; list"],
        vec!["list", "--bogus"],
        vec!["domid"],
        vec!["domid", "nosuch", "extra"],
        vec!["domid nosuch; dominfo nosuch; start nosuch"],
        vec!["--bogus"],
        vec!["list 'x"],
        vec!["list \"x"],
        vec!["list x\\"],
        vec!["list --name --table"],
        vec!["define nosuch.xml; create nosuch.xml"],
        vec!["setmem nosuch 1G --current --config"],
        vec!["undefine nosuch"],
        vec!["domname nosuch; domname 99; domuuid nosuch"],
    ] {
        pair.alike(&words);
    }
}

fn test_machine(disk: &Path, kernel: &str, initrd: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>test</name>\n  <memory>262144</memory>\n  <vcpu>2</vcpu>\n  \
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>\
         <cmdline>console=ttyS0 quiet</cmdline></os>\n  <devices>\n    <disk type='file' device='disk'>\
         <driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>\n    \
         <serial type='pty'/>\n  </devices>\n</domain>\n",
        disk.display()
    )
}

#[test]
fn the_same_commands_have_the_same_answers() {
    kiln_lab::needs_kvm!(400, KILN, "/usr/bin/virsh");
    let pair = Pair::new();
    let home = &pair.home;
    // Where the test driver's machine has its disk, in a folder of ours.
    let disk = home.path("guest/diskimage1");
    home.file("guest/diskimage1", vec![0; 1 << 20]);
    let initrd = home.file("initrd", guest::initrd(SHELL));
    let xml = home.file("test.xml", test_machine(&disk, &guest::kernel(), &initrd));
    home.kiln(&["define", &xml]).ends(0);

    // Each call of theirs begins with a test machine that runs, so each of ours does.
    let runs = || drop(home.kiln(&["start", "test"]).ends(0));
    runs();
    let script = "list; list --all; list --inactive; list --name; list --uuid; list --id; list --all --title; \
                  list --all --uuid --name; list --transient; list --persistent; list --state-paused";
    pair.alike(&[script]);
    pair.alike(&["list", "--all"]);
    pair.alike(&["-q", "list; domid test"]);
    pair.alike(&["domid test; domuuid test; domname 1; domname test; domstate test; dominfo test"]);
    pair.alike(&["start test; start test; domid test"]);
    pair.alike(&["suspend test; list; domstate test; resume test; resume test; list"]);
    pair.alike(&["setmem test 0; setvcpus test 0; setvcpus test x; setmem test 99999999 --config; \
                  setvcpus test 9 --config; setvcpus test 3 --maximum; setvcpus test 1 --current --config"]);
    pair.alike(&["undefine test --remove-all-storage"]);
    pair.alike(&["destroy test; destroy test; domid test; list --all; reboot test; shutdown test; suspend test; \
                  setmem test 128M --live; setvcpus test 1 --live; dominfo test; domuuid test; domifaddr test"]);
    runs();
    pair.alike(&["destroy test; start test; list; list --all --id"]);
    pair.alike(&["destroy test; setvcpus test 1 --config; dominfo test; setvcpus test 2 --config"]);
    runs();
    pair.alike(&["undefine test; list --all; dominfo test; destroy test; list --all; domstate test"]);

    // Machines from files, beside the test machine.
    home.kiln(&["define", &xml]).ends(0);
    runs();
    let theirs = |name: &str| {
        format!(
            "<domain type='test'><name>{name}</name><memory>262144</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain>"
        )
    };
    let ours = |name: &str| {
        test_machine(&disk, &guest::kernel(), &initrd)
            .replace("<name>test", &format!("<name>{name}"))
            .lines()
            .filter(|line| !line.contains("<disk"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    pair.write("two.xml", &theirs("two"), &ours("two"));
    pair.write("three.xml", &theirs("three"), &ours("three"));
    pair.alike(&[
        "define two.xml; define two.xml; list --all; create three.xml; create three.xml; list; domid three; \
                  destroy three; list --all; start two; undefine two; define two.xml; destroy two; list --all",
    ]);
    pair.alike(&["define --file two.xml; undefine --domain two"]);
}
