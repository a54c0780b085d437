//! Every line of `tests/seed/lines.toml`, answered as it says there.

use serde::Deserialize;

use super::guest::{self, SHELL};
use super::home::{Home, KILN, Told, install};
use super::server::{fine, serve};
use super::talk::Talk;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Works,
    Refused,
    Planned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Machine {
    Running,
    Paused,
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    line: String,
    /// Under which name kiln is called, where that isn't its own.
    name: Option<String>,
    kiln: Vec<String>,
    state: State,
    says: String,
    #[serde(default)]
    kvm: bool,
    /// What a planned row waits for.
    waits: Option<String>,
    /// State of the machine named web.
    with: Option<Machine>,
    /// What is typed, on a terminal.
    keys: Option<String>,
}

fn rows() -> Vec<Row> {
    #[derive(Deserialize)]
    struct Lines {
        row: Vec<Row>,
    }
    toml::from_str::<Lines>(include_str!("../seed/lines.toml")).unwrap().row
}

/// What planned rows may wait for: each is work of its own that other capabilities don't wait for.
const CAPABILITIES: [&str; 13] = [
    "firmware",
    "boot from media",
    "network boot",
    "disk buses",
    "bridges",
    "VLANs",
    "CPU models",
    "processor hot-plug",
    "virt-install's other options",
    "interactive virsh",
    "memory dumps",
    "statistics",
    "autostart",
];

/// The words of a row with files in place of their names.
fn words(row: &Row, files: &[(&str, String)]) -> Vec<String> {
    let filled = |word: &String| {
        files.iter().fold(word.clone(), |word, (name, value)| word.replace(&format!("{{{name}}}"), value))
    };
    row.kiln.iter().map(filled).collect()
}

fn run(home: &Home, row: &Row, files: &[(&str, String)]) -> Told {
    let words = words(row, files);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = home.command(&words);
    if let Some(name) = &row.name {
        let path = home.path("bin").join(name);
        command = std::process::Command::new(path);
        command.args(&words).env("KILN_HOME", home.path("home"));
    }
    // No viewer is found, so none opens a window while tests run.
    command.env("PATH", "");
    // An editor in which nothing is done.
    command.env("VISUAL", ":");
    match &row.keys {
        None => Told::from((words.join(" "), command.output().unwrap())),
        Some(keys) => {
            let mut talk = Talk::on_terminal(&home.command(&words));
            talk.sees("leaves.");
            talk.types(keys);
            let (code, out) = talk.ends();
            Told { line: words.join(" "), code, out, err: String::new() }
        }
    }
}

#[track_caller]
fn answers(row: &Row, told: Told) {
    let told = told.says(&[&row.says]);
    match row.state {
        State::Works => drop(told.ends(0)),
        // Under another tool's name statuses are that tool's.
        State::Planned => drop(told.ends(if row.name.is_none() { 2 } else { 1 }).says(&["not yet: "])),
        State::Refused => {
            assert!(told.code.is_some_and(|code| code != 0), "{row:?}");
            drop(told.says(&["> "]));
        }
    }
}

#[test]
fn planned_rows_wait_for_known_capabilities() {
    let rows = rows();
    for row in &rows {
        let waits = row.waits.as_deref();
        assert_eq!(waits.is_some(), row.state == State::Planned, "{row:?}");
        assert!(waits.is_none_or(|waits| CAPABILITIES.contains(&waits)), "{row:?}");
    }
    for capability in CAPABILITIES {
        let waits = rows.iter().any(|row| row.waits.as_deref() == Some(capability));
        assert!(waits, "nothing waits for {capability} any more");
    }
}

/// The machine of the tutorial's own XML.
const TUTORIAL: &str = "<domain type='kvm'><name>tutorial</name><memory>1048576</memory><vcpu>1</vcpu>
<os><type>hvm</type><boot dev='cdrom'/><boot dev='hd'/></os>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices><emulator>/usr/bin/kvm</emulator>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/d.qcow2'/><target dev='hda' bus='ide'/></disk>
<disk type='file' device='cdrom'><source file='/d.iso'/><target dev='hdc' bus='ide'/></disk>
<interface type='network'><source network='default'/></interface><graphics type='vnc' port='-1'/></devices></domain>";

/// A machine with a card on a bridge of the host's.
const BRIDGE: &str = "<domain type='kvm'><name>bridged</name><memory>262144</memory>
<os><type machine='q35'>hvm</type><kernel>/k</kernel></os>
<devices><interface type='bridge'><source bridge='br0'/></interface></devices></domain>";

#[test]
fn every_line_has_an_answer() {
    let home = Home::new();
    std::fs::create_dir(home.path("bin")).unwrap();
    home.kiln(&["link", &home.text("bin")]).ends(0);
    let files = ["ISO", "KERNEL", "INITRD"].map(|name| (name, home.file(name, "nothing that boots")));
    let xml = home.file("from.xml", "<domain type='kvm'><name>from-xml</name><memory>262144</memory></domain>");
    let more = [
        ("DISK", home.file("disk.img", [0; 4096])),
        ("XML", xml),
        ("TUTORIAL", home.file("tutorial.xml", TUTORIAL)),
        ("BRIDGE", home.file("bridge.xml", BRIDGE)),
    ];
    let files = [&files[..], &more].concat();
    for row in rows().iter().filter(|row| !row.kvm) {
        eprintln!("{}", row.line);
        let before = home.files();
        answers(row, run(&home, row, &files));
        // Only what works leaves anything behind.
        if row.state != State::Works {
            assert_eq!(home.files(), before, "{row:?}");
        }
    }
}

#[test]
fn every_line_that_works_is_run() {
    kiln_lab::needs_kvm!(600, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    let tree = guest::tree(&home, SHELL);
    let folder = tree.clone();
    let url = serve(move |path| std::fs::read(format!("{folder}{path}")).ok().map(|bytes| fine(&bytes)));
    let files = [
        ("DISK", home.file("disk.img", vec![0; 1 << 20])),
        ("KERNEL", guest::kernel()),
        ("INITRD", home.text("initrd")),
        ("KS", home.file("ks.cfg", "text\n")),
        ("TREE", tree),
        ("URL", url),
        ("XML", home.file("new.xml", document(&home))),
    ];
    for row in rows().iter().filter(|row| row.kvm) {
        eprintln!("{}", row.line);
        prepare(&home, row.with, &boot);
        answers(row, run(&home, row, &files));
        if row.state != State::Works {
            continue;
        }
        // The machine that a row makes is called new.
        let verb = row.kiln[0].as_str();
        if matches!(verb, "install" | "create") {
            home.kiln(&["destroy", "new"]).ends(0);
        }
        if matches!(verb, "install" | "define") {
            home.kiln(&["undefine", "new"]).ends(0);
        }
    }
}

fn document(home: &Home) -> String {
    let (kernel, initrd) = (guest::kernel(), home.text("initrd"));
    format!(
        "<domain type='kvm'><name>new</name><memory>262144</memory><os><type machine='q35'>hvm</type>\
         <kernel>{kernel}</kernel><initrd>{initrd}</initrd></os></domain>"
    )
}

fn prepare(home: &Home, wanted: Option<Machine>, boot: &str) {
    let Some(wanted) = wanted else { return };
    let state = home.machines().into_iter().find(|(name, _)| name == "web").map(|(_, state)| state);
    match (wanted, state.as_deref()) {
        (Machine::Running, Some("running")) | (Machine::Off, Some("shut off")) | (Machine::Paused, Some("paused")) => {}
        (Machine::Running, Some("paused")) => drop(home.kiln(&["resume", "web"]).ends(0)),
        (Machine::Running, Some(_)) => drop(home.kiln(&["start", "web"]).ends(0)),
        (Machine::Paused, Some(_)) => {
            prepare(home, Some(Machine::Running), boot);
            home.kiln(&["suspend", "web"]).ends(0);
        }
        (Machine::Off, Some(_)) => {
            home.kiln(&["destroy", "web"]).ends(0);
            // One that was undefined while it ran is gone now.
            prepare(home, Some(wanted), boot);
        }
        (_, None) => {
            let line = ["--boot", boot, "--graphics", "vnc", "--network", "network=default", "--noautoconsole"];
            home.kiln(&install(&line)).ends(0);
            prepare(home, Some(wanted), boot);
        }
    }
}
