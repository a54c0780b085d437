//! The name `virsh` beside the real one: the same commands in one call, on machines that are alike.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::alike::same;
use super::guest::{self, LISTENS};
use super::home::{Home, KILN};
use super::states::becomes;
use super::talk::Talk;

/// The MAC address of the test driver's own machine's card.
const MAC: &str = "aa:bb:cc:dd:ee:ff";

/// Takes its address, then listens to the power button.
const TAKES_ADDRESS: &str = "ip link set eth0 up; udhcpc -i eth0 -n -q -s /bin/true > /dev/null 2>&1\n";

struct Pair {
    home: Home,
    name: PathBuf,
    theirs: PathBuf,
    ours: PathBuf,
    editor: Option<String>,
    differences: Cell<u32>,
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
        Self { name: bin.join("virsh"), home, theirs, ours, editor: None, differences: Cell::new(0) }
    }

    fn run(&self, mut command: Command, words: &[&str], card: &str) -> Output {
        command.args(words.iter().map(|word| word.replace("CARD", card)));
        command.env_remove("VISUAL").env("EDITOR", self.editor.as_deref().unwrap_or("true"));
        command.env("LC_ALL", "C").output().unwrap()
    }

    fn kiln(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.name);
        command.env("KILN_HOME", self.home.path("home")).current_dir(&self.ours);
        self.run(command, words, "vnet0")
    }

    // Theirs are about libvirt's test machine, which is new in each call.
    fn virsh(&self, words: &[&str]) -> Output {
        let mut command = Command::new("virsh");
        command.args(["-c", "test:///default"]).current_dir(&self.theirs);
        self.run(command, words, "testnet0")
    }

    /// The same words to both.
    fn alike(&self, words: &[&str]) {
        self.alike_but(words, &[]);
    }

    /// The same words to both; kiln alone says these lines, too.
    fn alike_but(&self, words: &[&str], own: &[&str]) {
        let (ours, theirs) = (self.kiln(words), self.virsh(words));
        let compare = || same(&ours, &theirs, own, &format!("{words:?}"));
        // All differences are told, not the first alone.
        let alike = std::panic::catch_unwind(std::panic::AssertUnwindSafe(compare)).is_ok();
        self.differences.set(self.differences.get() + u32::from(!alike));
    }

    #[track_caller]
    fn agreed(&self) {
        assert_eq!(self.differences.get(), 0, "of the command lines above have other answers");
    }

    /// The files two.xml and three.xml, and bad.xml, in which stands what the format doesn't have.
    fn machines(&self, ours: &str) {
        let theirs = "<domain type='test'>\n<name>test</name><memory>262144</memory><vcpu>2</vcpu>\
                      <os><type>hvm</type></os></domain>";
        for (name, inside) in [("two", ""), ("three", ""), ("bad", "<unheard/>")] {
            let of = |text: &str| {
                let text = text.replace("<name>test", &format!("<name>{name}"));
                let text = text.replace("</domain>", &format!("{inside}</domain>"));
                let lines = text.lines().filter(|line| !line.contains("<disk") && !line.contains("<interface"));
                lines.collect::<Vec<_>>().join("\n")
            };
            self.write(&format!("{name}.xml"), &of(theirs), &of(ours));
        }
    }

    fn write(&self, name: &str, theirs: &str, ours: &str) {
        fs::write(self.theirs.join(name), theirs).unwrap();
        fs::write(self.ours.join(name), ours).unwrap();
    }
}

#[test]
fn command_lines_that_are_wrong() {
    let pair = Pair::new();
    for line in [
        "list; bogus; list",
        "list --bogus",
        "list --all=yes",
        "list --inactive --inactive",
        "list 'x",
        "list \"x",
        "list x\\",
        "list --name --table",
        "domid",
        "domid nosuch extra",
        "domid --domain",
        "domid --domain=; domid ''; domid --domain --all; domid -x; domid ---x; domid -- nosuch",
        "domid --x=3",
        "domid --dom nosuch",
        "domid nosuch; dominfo nosuch; start nosuch; edit nosuch",
        "define nosuch.xml; create nosuch.xml",
        "setmem nosuch --size",
        "setmem nosuch 1 --size 2",
        "setmem nosuch --size 1 --size 2",
        "setmem 1 --domain nosuch",
        "setmem --domain nosuch nosuch 1",
        "setmem nosuch 1G --current --config",
        "setmem --kilobytes=1 --domain nosuch; setmem --kilobytes 1 nosuch; setmem --size=1 nosuch",
        "setvcpus nosuch 1 --live --current; setvcpus nosuch 1 --guest --config; setvcpus nosuch --count 1",
        "undefine nosuch",
        "undefine nosuch --storage",
        "undefine nosuch --tpm --keep-tpm; undefine nosuch --nvram --keep-nvram",
        "domname nosuch; domname 99; domuuid nosuch",
        "send-key nosuch",
        "shutdown nosuch --mode bogus; shutdown nosuch acpi,bogus; reboot nosuch --mode bogus; reboot nosuch acpi x",
        "dumpxml nosuch x",
        "domstate nosuch x",
    ] {
        pair.alike(&[line]);
    }
    for words in [vec!["bogus"], vec!["--bogus"], vec!["-q", "bogus"], vec!["-q", "domid nosuch; list --inactive"]] {
        pair.alike(&words);
    }
    pair.agreed();
}

/// `test` as the test driver has it.
fn document(disk: &str, initrd: &str) -> String {
    let kernel = guest::kernel();
    format!(
        "<domain type='kvm'>\n  <name>test</name>\n  <memory>262144</memory>\n  <vcpu>2</vcpu>\n  \
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>\
         <cmdline>console=ttyS0 quiet</cmdline></os>\n  <devices>\n    <disk type='file' device='disk'>\
         <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\n    \
         <interface type='network'><mac address='{MAC}'/><source network='default'/><model type='virtio'/></interface>\n    \
         <serial type='pty'/>\n  </devices>\n</domain>\n"
    )
}

fn runs(home: &Home) {
    home.kiln(&["start", "test"]).ends(0);
}

#[test]
fn the_same_commands_have_the_same_answers() {
    kiln_lab::needs_kvm!(500, KILN, "/usr/bin/virsh");
    let mut pair = Pair::new();
    let disk = pair.home.file("guest/diskimage1", vec![0; 1 << 20]);
    let initrd = pair.home.file("initrd", guest::initrd(&format!("{TAKES_ADDRESS}{LISTENS}")));
    let xml = pair.home.file("test.xml", document(&disk, &initrd));
    pair.home.kiln(&["define", &xml]).ends(0);
    // Each call of theirs begins with a test machine that runs, so each of ours does.
    runs(&pair.home);
    let console = Talk::on_terminal(&pair.home.command(&["console", "test"]));
    lists_and_states(&pair);
    cards_and_disks(&pair, &disk);
    editors(&mut pair);
    console.sees("GUEST READY");
    hands_and_addresses(&pair);
    ends(&pair, &console);
    files(&pair, &xml, &disk, &initrd);
    pair.agreed();
}

fn lists_and_states(pair: &Pair) {
    pair.alike(&["list; list --all; list --inactive; list --name; list --uuid; list --id; list --all --title; \
                  list --all --uuid --name; list --id --name; list --transient; list --persistent; \
                  list --state-paused; list --table --title"]);
    pair.alike(&[
        "list --autostart; list --no-autostart; list --autostart --no-autostart; list --managed-save --all; \
                  list --with-managed-save --all; list --without-managed-save; list --with-snapshot; \
                  list --without-snapshot; list --with-checkpoint; list --without-checkpoint; list --state-other; \
                  list --all --state-other --state-running; list --state-shutoff",
    ]);
    pair.alike(&["list", "--all"]);
    let told = "domid test; domuuid test; domname 1; domname test; domstate test; dominfo test";
    pair.alike(&[told]);
    pair.alike(&["-q", told]);
    pair.alike(&["--quiet", "list; list --all; list --name; list --managed-save --title; suspend test; resume test"]);
    pair.alike(&["suspend test; list; domstate test; resume test; resume test; list"]);
    pair.alike(&["start test; start test --paused --autodestroy; domid test"]);
    pair.alike(&["setmem test 0; setmem test ''; setmem test 5x; setmem test -5; setvcpus test 0; setvcpus test x; \
                  setvcpus test -1; setmem test 99999999 --config; setvcpus test 9 --config; \
                  setvcpus test 3 --maximum; setvcpus test 1 --current --config"]);
    pair.alike(&["setmem test 131072 --config; setmem --size 131072 --domain test --config; \
                  setmem --config --kilobytes=131072 test; setvcpus --count=1 --config --domain test; \
                  setvcpus test 2 --config; setvcpus test 1 --guest; setvcpus test 1 --hotpluggable"]);
    pair.alike(&["undefine test --remove-all-storage; undefine test vda; undefine --storage vda test; \
                  undefine test --wipe-storage; undefine test --delete-storage-volume-snapshots"]);
}

fn cards_and_disks(pair: &Pair, disk: &str) {
    pair.alike(&["domifstat test CARD; domifstat --interface CARD --domain test; domifstat test bogus"]);
    pair.alike(&[&format!("domifstat test {MAC}")]);
    pair.alike(&["domifaddr test --source bogus; domifaddr test --interface eth9; domifaddr test eth9 lease"]);
    pair.alike(&["-q", "domifstat test CARD; domifaddr test --interface eth9"]);
    // On a machine whose card and disk are the same as kiln's.
    let theirs = format!(
        "<domain type='test'><name>twin</name><memory>262144</memory><os><type>hvm</type></os><devices>\
         <disk type='file' device='disk'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
         <interface type='network'><mac address='52:54:00:00:00:11'/><source network='default'/>\
         <model type='virtio'/></interface></devices></domain>"
    );
    let ours = theirs.replace("type='test'", "type='kvm'");
    pair.write("twin.xml", &theirs, &ours);
    let refused = "it is kept, but start will refuse it: this machine boots by firmware";
    let commands = [
        "define twin.xml",
        "domiflist twin",
        "domiflist --inactive --domain twin",
        "domblklist twin",
        "domblklist twin --details",
        "domblklist --inactive twin",
        "domblklist twin --inactive --details",
        "domifaddr twin",
        "domifstat twin CARD",
        "undefine twin",
    ];
    pair.alike_but(&[&commands.join("; ")], &[refused, &format!("kept: {disk}")]);
    // Where there are no heads, something else stands between the tables.
    pair.alike_but(&["-q", &commands.join("; domid test; ")], &[refused]);
}

fn editors(pair: &mut Pair) {
    pair.alike(&["edit test; edit --domain test --skip-validate"]);
    pair.alike(&["-q", "edit test"]);
    let script = pair.home.file("editor", "#!/bin/sh\nsed -i 's,2</vcpu>,1</vcpu>,' \"$1\"\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    pair.editor = Some(script);
    // There is no schema in the lab for virsh to look at.
    pair.alike_but(&["edit test --skip-validate"], &["it counts from the next start on"]);
    pair.editor = Some("false".into());
    pair.alike(&["edit test --skip-validate"]);
    pair.editor = None;
    for words in [&["--maximum"][..], &[]] {
        pair.home.kiln(&[&["setvcpus", "test", "2", "--config"], words].concat()).ends(0);
    }
}

fn hands_and_addresses(pair: &Pair) {
    pair.alike(&["domifaddr test; domifaddr test --full; domifaddr --interface CARD --domain test; \
                  domifaddr test CARD lease"]);
    pair.alike(&["-q", "domifaddr test; domifaddr test --full"]);
    pair.alike(&["send-key test 37 18; send-key test KEY_A KEY_B; send-key test --holdtime 10 0x1e 036; \
                  send-key --keycode 37 --domain test; send-key test --keycode 37 --keycode 18; \
                  send-key test --codeset bogus 1; send-key test --holdtime x 1; send-key test KEY_BOGUS; \
                  send-key test 999; send-key test 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"]);
    // A: each codeset's number of it, and one that it doesn't have.
    let sets = [("linux", 30), ("xt", 30), ("atset1", 30), ("atset2", 28), ("atset3", 28), ("os_x", 0), ("xt_kbd", 30)];
    let sets = [&sets[..], &[("usb", 4), ("win32", 65), ("qnum", 30), ("rfb", 30)]].concat();
    for (set, number) in sets {
        pair.alike(&[&format!("send-key test --codeset {set} {number}; send-key test {number} --codeset={set}")]);
        if set != "rfb" {
            pair.alike(&[&format!("send-key test --codeset {set} 57599")]);
        }
    }
}

fn ends(pair: &Pair, console: &Talk) {
    let home = &pair.home;
    pair.alike(&["shutdown test --mode agent; shutdown test agent"]);
    pair.alike(&["-q", "reboot test"]);
    pair.alike(&["reboot test; reboot test --mode acpi,agent"]);
    console.sees("GUEST READY");
    pair.alike(&["shutdown test"]);
    becomes(home, "test", "shut off");
    runs(home);
    pair.alike(&["destroy test; destroy test; domid test; list --all; reboot test; shutdown test; suspend test; \
                  setmem test 128M --live; setvcpus test 1 --live; dominfo test; domuuid test; domifaddr test; \
                  domifstat test CARD; send-key test 1; reset test"]);
    runs(home);
    pair.alike(&["destroy test; start test --autodestroy; start test; list; list --all --id"]);
    pair.alike(&["destroy test; setvcpus test 1 --config; dominfo test; setvcpus test 2 --config"]);
    runs(home);
    pair.alike(&["-q", "destroy test; list --all; list --state-shutoff; start test"]);
}

// Machines from files, and the test machine's own end.
fn files(pair: &Pair, xml: &str, disk: &str, initrd: &str) {
    let kept = format!("kept: {disk}");
    let own = [kept.as_str(), "\"test\" goes on until it stops"];
    pair.alike_but(&["undefine test; list --all; dominfo test; destroy test; list --all; domstate test"], &own);
    pair.home.kiln(&["define", xml]).ends(0);
    runs(&pair.home);
    pair.machines(&document(disk, initrd));
    let script = "define two.xml; define two.xml; list --all; create three.xml; create three.xml; list; domid three; \
                  destroy three; list --all; start two; undefine two; define two.xml; destroy two; list --all";
    pair.alike_but(&[script], &["\"two\" goes on until it stops"]);
    pair.alike(&["-q", "create three.xml; domid three; destroy three; list"]);
}

#[test]
fn machines_that_are_only_defined() {
    let pair = Pair::new();
    pair.machines(&document("/disk", "/initrd"));
    pair.alike(&["define two.xml; define two.xml; domid two; domstate two; undefine --domain two; domid two"]);
    pair.alike(&["define --file two.xml --validate; dominfo two; undefine two --tpm; define two.xml; \
                  undefine two --managed-save --snapshots-metadata --checkpoints-metadata"]);
    pair.alike(&["define --validate bad.xml; create --validate bad.xml; domid bad"]);
    pair.alike(&["-q", "define two.xml; domid two; domstate two; undefine two"]);
    pair.alike(&["define two.xml; edit two; undefine two"]);
    pair.agreed();
}
