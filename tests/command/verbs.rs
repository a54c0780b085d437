//! Verbs on definitions, and on machines that run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kiln_image::{Format, Image, Open};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use super::control::Client;
use super::endings::process_of;
use super::guest::{self, LISTENS, SHELL};
use super::home::{Home, KILN, Told, install};
use super::states::{becomes, data};
use super::talk::{PATIENCE, Talk};

fn document(name: &str, inside: &str) -> String {
    format!(
        "<domain type='kvm'>\n  <name>{name}</name>\n  <memory>262144</memory>\n  <vcpu>2</vcpu>\n\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\n{inside}</domain>\n"
    )
}

/// An editor that runs a script on its file.
fn editor(home: &Home, script: &str) -> String {
    let path = home.file("editor", format!("#!/bin/sh\n{script}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn edit(home: &Home, script: &str) -> Told {
    let mut command = home.command(&["edit", "web"]);
    command.env("VISUAL", editor(home, script)).env("TMPDIR", home.path(""));
    Told::from((format!("edit web, by {script}"), command.output().unwrap()))
}

#[test]
fn what_is_defined_is_kept_and_told() {
    let home = Home::new();
    let own = "  <x:own xmlns:x='urn:x'>kept &amp; told</x:own>\n  <devices><sound model='ich9'/></devices>\n";
    let xml = home.file("web.xml", document("web", own));
    let told = home.kiln(&["define", &xml]).ends(0);
    told.says(&["Domain 'web' defined from", "web.xml", "start will refuse it: this machine boots by firmware"]);
    home.kiln(&["dumpxml", "web"]).ends(0).says(&["<x:own xmlns:x='urn:x'>kept &amp; told</x:own>", "<uuid>"]);
    home.kiln(&["start", "web"]).ends(1).says(&["boots by firmware, which kiln does not have yet"]);
    let uuid = data(home.kiln(&["domuuid", "web", "--json"]))["uuid"].as_str().unwrap().to_owned();
    home.kiln(&["dominfo", &uuid]).ends(0).says(&["Id:", "-", "Persistent:     yes"]);
    home.kiln(&["domname", &uuid]).ends(0).says(&["web\n"]);
    home.kiln(&["domid", "web"]).ends(0).says(&["-\n"]);
    home.kiln(&["define", &xml]).ends(4).says(&[
        "there is a machine \"web\" already",
        &uuid,
        "give the document its uuid",
    ]);
    // Its own document again changes it in place.
    let same = home.kiln(&["dumpxml", "web"]).ends(0).out.replace("262144", "524288");
    home.kiln(&["define", &home.file("same.xml", same)]).ends(0);
    assert_eq!(data(home.kiln(&["dominfo", "web", "--json"]))["max_memory_kib"], 524_288);
    let other = document("db", &format!("  <uuid>{uuid}</uuid>\n"));
    home.kiln(&["define", &home.file("db.xml", other)]).ends(4).says(&["the machine \"web\" has the uuid"]);
    assert_eq!(home.machines(), [("web".into(), "shut off".into())]);
}

#[test]
fn what_is_no_definition_is_refused() {
    let home = Home::new();
    let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    let bomb = "<!DOCTYPE d [<!ENTITY a 'xxxxxxxxxx'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>\n<domain>&b;</domain>";
    let rows = [
        ("<domain><name>x".to_owned(), "line 1"),
        (bomb.into(), "a document type declaration has no place in a domain"),
        (document("web", &deep), "nested more than 64 deep"),
        ("<network/>".into(), "the document is a <network>"),
        (document("../web", ""), "can't be a machine's name: it contains '/'"),
        (
            document(
                "web",
                "<devices><interface type='user'><mac address='52:54:00:00:00:01'/>\
          <address type='pci' bus='0x09' slot='0x00'/></interface></devices>",
            ),
            "sits on PCI bus 9",
        ),
        (document("web", "<currentMemory>1048576</currentMemory>"), "it is more than <memory>"),
    ];
    for (text, why) in rows {
        let path = home.file("bad.xml", text);
        for verb in ["define", "create"] {
            let told = home.kiln(&[verb, &path]);
            assert!(matches!(told.code, Some(1 | 2)), "{told:?}");
            told.says(&[why]);
        }
    }
    let long = home.path("long.xml");
    fs::File::create(&long).unwrap().set_len(100 << 20).unwrap();
    home.kiln(&["define", long.to_str().unwrap()]).ends(1).says(&["it is longer than 4 MiB"]);
    home.kiln(&["define", &home.text("none.xml")]).ends(3).says(&["none.xml can't be read"]);
    home.kiln(&["define", &home.text("")]).ends(1).says(&["can't be read"]);
    assert!(home.machines().is_empty());
    let devices = [
        ("<hostdev mode='subsystem' type='pci'/>", "start will refuse it: the machine has a <hostdev>"),
        (
            "<disk type='file' device='disk'><source file='/x'/><target dev='sda' bus='sata'/></disk>",
            "start will refuse it",
        ),
        ("<unheard-of/>", "start will refuse it: the machine has a <unheard-of>"),
    ];
    for (number, (device, why)) in devices.into_iter().enumerate() {
        let os = "<os><type machine='q35'>hvm</type><kernel>/k</kernel></os>";
        let text = format!(
            "<domain type='kvm'><name>d{number}</name><memory>262144</memory>{os}<devices>{device}</devices></domain>"
        );
        home.kiln(&["define", &home.file("d.xml", text)]).ends(0).says(&[why]);
        home.kiln(&["dumpxml", &format!("d{number}")]).ends(0).says(&[device]);
    }
}

#[test]
fn definitions_are_edited_whole_or_not_at_all() {
    let home = Home::new();
    home.kiln(&["define", &home.file("web.xml", document("web", ""))]).ends(0);
    let before = home.kiln(&["dumpxml", "web"]).ends(0).out;
    edit(&home, "true").ends(0).says(&["Domain 'web' XML configuration not changed."]);
    let told = edit(&home, "sed -i s,262144,524288, \"$1\"").ends(0);
    told.says(&["Domain 'web' XML configuration edited."]);
    let edited = home.kiln(&["dumpxml", "web"]).ends(0).out;
    assert_eq!(edited, before.replace("262144", "524288"));
    let files = home.files();
    // Broken, renamed, another's uuid: what was written is kept, the definition as it was.
    let rows = [
        ("echo '<domain>' > \"$1\"", "is never closed"),
        ("sed -i s,'<name>web,<name>db,' \"$1\"", "a machine is not renamed by an edit"),
        ("sed -i s,'<uuid>....,<uuid>0000,' \"$1\"", "there is a machine \"web\" already, with the uuid"),
    ];
    for (script, why) in rows {
        let told = edit(&home, script);
        assert!(matches!(told.code, Some(1 | 4)), "{told:?}");
        let path = told.err.split("What you wrote: ").nth(1).unwrap().lines().next().unwrap().trim().to_owned();
        told.says(&[why, "The definition is as it was"]);
        assert!(fs::read_to_string(&path).unwrap().contains("<domain"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it may hold a password");
        fs::remove_file(path).unwrap();
    }
    edit(&home, "exit 3").ends(1).says(&["the editor", "failed", "exit status: 3"]);
    let other = format!("sed -i s,524288,131072, \"$1\"; {KILN} setvcpus web 1 --config");
    let told = edit(&home, &other).ends(4).says(&["changed by somebody else meanwhile"]);
    let path = told.err.split("What you wrote: ").nth(1).unwrap().lines().next().unwrap().trim().to_owned();
    fs::remove_file(path).unwrap();
    assert_eq!(home.files(), files, "nothing else is left");
    assert_eq!(data(home.kiln(&["dominfo", "web", "--json"]))["vcpus"], 1);
    // On a terminal there is a second try.
    let script = "if grep -q broken \"$1\"; then cat good > \"$1\"; else cp \"$1\" good; echo broken > \"$1\"; fi";
    let mut command = home.command(&["edit", "web"]);
    command.env("VISUAL", editor(&home, &format!("cd {}; {script}", home.text("")))).env("TMPDIR", home.path(""));
    let mut talk = Talk::on_terminal(&command);
    talk.sees("Edit again? [y/n] ");
    talk.types("y\r");
    talk.sees("not changed");
    assert_eq!(talk.ends().0, Some(0));
}

#[test]
fn limits_are_for_the_next_start() {
    let home = Home::new();
    home.kiln(&["define", &home.file("web.xml", document("web", ""))]).ends(0);
    home.kiln(&["setmem", "web", "128M", "--config"]).ends(0);
    home.kiln(&["setmem", "web", "196608"]).ends(0);
    home.kiln(&["setmem", "web", "1G", "--config"])
        .ends(2)
        .says(&["1048576 KiB are more than the machine's most, 262144 KiB", "kiln edit web"]);
    home.kiln(&["setmem", "web", "5x"]).ends(2).says(&["a number of KiB is expected"]);
    home.kiln(&["setmem", "web", "0"]).ends(2).says(&["can't run without memory"]);
    home.kiln(&["setmem", "web", "1M"]).ends(2).says(&["can't run in 1 MiB"]);
    home.kiln(&["setmem", "web", "128M", "--live"]).ends(1).says(&["is not running"]);
    home.kiln(&["setvcpus", "web", "1", "--config"]).ends(0);
    home.kiln(&["setvcpus", "web", "4", "--config"]).ends(2).says(&["at most 2", "--maximum --config"]);
    home.kiln(&["setvcpus", "web", "4", "--maximum"]).ends(2).says(&["--maximum goes with --config"]);
    home.kiln(&["setvcpus", "web", "4", "--maximum", "--config"]).ends(0);
    home.kiln(&["setvcpus", "web", "65", "--maximum", "--config"]).ends(2).says(&["1 to 64"]);
    let info = data(home.kiln(&["dominfo", "web", "--json"]));
    assert_eq!(
        (&info["memory_kib"], &info["max_memory_kib"], &info["vcpus"]),
        (&json!(196_608), &json!(262_144), &json!(1))
    );
    home.kiln(&["dumpxml", "web"])
        .ends(0)
        .says(&["<vcpu current='1'>4</vcpu>", "<currentMemory unit='KiB'>196608</currentMemory>"]);
}

#[test]
fn disks_go_with_their_machine_or_it_stays() {
    let home = Home::new();
    let images = ["a", "b", "c"].map(|name| home.text(&format!("{name}.img")));
    let disk = |(path, name): (&String, char)| {
        std::fs::write(path, vec![0xaa; 1 << 20]).unwrap();
        format!(
            "<disk type='file' device='disk'><driver type='raw'/><source file='{path}'/>\
             <target dev='vd{name}' bus='virtio'/></disk>"
        )
    };
    let disks: String = images.iter().zip('a'..).map(disk).collect();
    let xml = home.file("web.xml", document("web", &format!("<devices>{disks}</devices>")));
    home.kiln(&["define", &xml]).ends(0);
    let files = home.files();
    // One that somebody has open: the machine still names it, and the others are there too.
    let held = Image::open(images[1].as_ref(), Open::writing(Some(Format::Raw))).unwrap();
    for words in [&["--remove-all-storage"][..], &["--storage", "vda,vdb", "--wipe-storage"]] {
        let told = home.kiln(&[&["undefine", "web"], words].concat()).ends(4);
        told.says(&["b.img could not be removed", "> \"web\" is still defined"]);
        assert_eq!(home.files(), files);
        assert_eq!(fs::read(&images[0]).unwrap(), vec![0xaa; 1 << 20]);
    }
    drop(held);
    home.kiln(&["undefine", "web", "--storage", "vda,vdz"]).ends(3).says(&["has no disk vdz"]);
    home.kiln(&["undefine", "web", "--wipe-storage"]).ends(2).says(&["--wipe-storage goes with"]);
    home.kiln(&["undefine", "web", "--storage", "vda", "--remove-all-storage"]).ends(2);
    assert_eq!(home.files(), files);
    // What was in it is gone under its other name, too.
    fs::hard_link(&images[0], home.path("other-name")).unwrap();
    let told = home.kiln(&["undefine", "web", "--storage", &format!("vdb,{}", images[0]), "--wipe-storage"]).ends(0);
    let told = told.says(&["has been undefined", "Volume 'vda'(", "Volume 'vdb'(", "removed."]);
    told.says(&["kept: ", "c.img: it was not asked for"]);
    assert_eq!(fs::read(home.path("other-name")).unwrap(), vec![0; 1 << 20]);
    assert!(!home.path("a.img").exists() && !home.path("b.img").exists() && home.machines().is_empty());
    assert_eq!(fs::read(&images[2]).unwrap(), vec![0xaa; 1 << 20]);
}

#[test]
fn a_machine_that_does_not_answer_hides_no_other() {
    let home = Home::new();
    for name in ["db", "web"] {
        home.kiln(&["define", &home.file("m.xml", document(name, ""))]).ends(0);
    }
    // As a process that has come no further than its lock.
    let folder = home.store("run/machines/web");
    fs::create_dir_all(&folder).unwrap();
    let _held = kiln::machine::lock::try_lock(&folder.join("lock")).unwrap().unwrap();
    let told = home.kiln(&["list", "--all", "--state-other", "--state-shutoff"]).ends(0);
    told.says(&[
        " -    db     shut off",
        " -    web    no state",
        "note: \"web\" runs, but does not answer: Its log: ",
    ]);
}

#[test]
fn what_the_format_does_not_have_is_refused_when_that_is_asked_for() {
    let home = Home::new();
    let xml = home.file("web.xml", document("web", "<memroy>1</memroy><devices><disc/></devices>"));
    for verb in ["define", "create"] {
        let told = home.kiln(&[verb, &xml, "--validate"]).ends(1);
        told.says(&["libvirt's format does not have", "<domain> has no <memroy>", "<devices> has no <disc>"]);
    }
    assert!(home.machines().is_empty());
    home.kiln(&["define", &home.file("fine.xml", document("web", "<title>t</title>")), "--validate"]).ends(0);
}

#[test]
fn forms_that_virsh_has_and_kiln_refuses_are_told_with_the_reason() {
    let home = Home::new();
    home.kiln(&["define", &home.file("web.xml", document("web", ""))]).ends(0);
    for (words, says) in [
        (&["dumpxml", "web", "--xpath", "//name"][..], "xmllint --xpath"),
        (&["dumpxml", "web", "--xpath", "//name", "--wrap"], "not yet: --wrap"),
        (&["dumpxml", "web", "--migratable"], "--inactive is what another host can define"),
        (&["dumpxml", "web", "--update-cpu"], "CPU models are not there"),
        (&["setvcpus", "web", "1", "--guest"], "talks to no agent"),
        (&["setvcpus", "web", "1", "--config", "--hotpluggable"], "can't plug processors"),
        (&["start", "web", "--autodestroy"], "hang on no connection"),
        (&["start", "web", "--pass-fds", "3,4"], "a container's init"),
        (&["send-key", "web", "--codeset", "bogus", "1"], "There are: linux, xt,"),
        (&["send-key", "web", "--codeset", "usb", "KEY_A"], "a number is expected"),
    ] {
        home.kiln(words).ends(2).says(&[says]);
    }
    let filters = ["--autostart", "--with-snapshot", "--with-checkpoint", "--with-managed-save", "--state-other"];
    for (filter, is_there) in filters.map(|filter| (filter, false)).into_iter().chain([("--no-autostart", true)]) {
        let told = home.kiln(&["list", "--all", filter]).ends(0);
        assert_eq!(told.out.contains("web"), is_there, "{filter}: {}", told.out);
    }
}

#[track_caller]
fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it never is so");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn info(home: &Home, name: &str) -> Value {
    data(home.kiln(&["dominfo", name, "--json"]))
}

#[test]
fn the_lives_of_machines_that_are_kept_or_not() {
    kiln_lab::needs_kvm!(400, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, LISTENS);
    let disk = format!("path={},size=1", home.text("data.qcow2"));
    home.kiln(&install(&["--boot", &boot, "--disk", &disk, "--memory", "256", "--vcpus", "2", "--noautoconsole"]))
        .ends(0);
    let first = info(&home, "web");
    assert_eq!((&first["id"], &first["persistent"]), (&json!(1), &json!(true)));
    home.kiln(&["domname", "1"]).ends(0).says(&["web\n"]);
    home.kiln(&["domstate", "1"]).ends(0).says(&["running\n"]);
    home.kiln(&["dumpxml", "web"]).ends(0).says(&["<domain type='kvm' id='1'>"]);
    assert!(!home.kiln(&["dumpxml", "web", "--inactive"]).ends(0).out.contains("id='1'"));
    home.kiln(&["domblklist", "web", "--details"]).ends(0).says(&["file", "disk", "vda", "data.qcow2"]);

    // The same process, another boot.
    let console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    home.kiln(&["reboot", "web", "--mode", "agent"]).ends(2).says(&["not yet: --mode agent", "> --mode acpi"]);
    home.kiln(&["shutdown", "web", "--mode", "acpi,signal"]).ends(2).says(&["--mode signal is not kiln's"]);
    home.kiln(&["shutdown", "web", "--mode", "bogus"]).ends(2).says(&["--mode bogus: acpi is expected"]);
    home.kiln(&["reboot", "web", "--mode", "agent,acpi"]).ends(0).says(&["Domain 'web' is being rebooted"]);
    console.sees("GUEST READY");
    assert_eq!(info(&home, "web")["running"]["pid"], first["running"]["pid"]);
    // Nothing is changed while it runs, but for the next start.
    home.kiln(&["setmem", "web", "128M"]).ends(2).says(&[
        "not yet: another size of memory",
        "no balloon",
        "> With --config",
    ]);
    home.kiln(&["setvcpus", "web", "1", "--live"]).ends(2).says(&["not yet: another number", "> With --config"]);
    home.kiln(&["setmem", "web", "128M", "--config"]).ends(0);
    home.kiln(&["setvcpus", "web", "1", "--config"]).ends(0);
    assert_eq!(info(&home, "web")["vcpus"], 2, "the run's");
    home.kiln(&["undefine", "web", "--remove-all-storage"]).ends(4).says(&["its disks are in use", "> Stop it first"]);

    // Undefined while it runs, and taken back.
    home.kiln(&["undefine", "web"]).ends(0).says(&["has been undefined", "kept: ", "goes on until it stops"]);
    assert_eq!(info(&home, "web")["persistent"], false);
    home.kiln(&["list", "--transient"]).ends(0).says(&[" 1    web    running"]);
    home.kiln(&["dumpxml", "web", "--inactive"]).ends(1).says(&["has no permanent definition"]);
    home.kiln(&["undefine", "web"]).ends(1).says(&["has no permanent definition"]);
    let xml = home.kiln(&["dumpxml", "web"]).ends(0).out;
    home.kiln(&["define", &home.file("web.xml", &xml)]).ends(0);
    home.kiln(&["setmem", "web", "128M", "--config"]).ends(0);
    home.kiln(&["setvcpus", "web", "1", "--config"]).ends(0);
    // How far it may go is the definition's to say, not the run's, which has two.
    home.kiln(&["setvcpus", "web", "1", "--maximum", "--config"]).ends(0);
    home.kiln(&["setvcpus", "web", "2", "--config"]).ends(2).says(&["at most 1"]);
    home.kiln(&["domblklist", "web", "--inactive"]).ends(0).says(&["Target", "vda", "data.qcow2"]);
    home.kiln(&["shutdown", "web", "--mode", "acpi", "--timeout", "100"]).ends(0);
    console.sees("\"web\" has ended.");
    assert_eq!(home.machines(), [("web".into(), "shut off".into())], "it is defined again");

    // A second life with less, which begins paused, with its serial port on this terminal.
    let mut console = Talk::on_terminal(&home.command(&["start", "web", "--paused", "--console"]));
    console.sees("Connected to domain 'web'");
    home.kiln(&["domstate", "web", "--reason"]).ends(0).says(&["paused (user)"]);
    home.kiln(&["resume", "web"]).ends(0);
    console.sees("GUEST READY");
    console.types("grep -c ^processor /proc/cpuinfo; awk '/MemTotal/ { print ($2 < 131072) ? \"SMALL\" : \"LARGE\" }' /proc/meminfo\r");
    console.sees("1\r\n");
    console.sees("SMALL\r\n");
    // One that is not kept, beside it.
    let quiet = home.file("deaf", guest::initrd(SHELL));
    // Its disk is raw, as older machines have theirs beside the new ones.
    let old = home.store("data/images/guest.img").to_str().unwrap().to_owned();
    let transient = xml
        .replace("<name>web", "<name>guest")
        .replace(&home.text("initrd"), &quiet)
        .replace("type='qcow2'", "type='raw'")
        .replace(&home.text("data.qcow2"), &old);
    let transient = transient.lines().filter(|line| !line.contains("<uuid>")).collect::<Vec<_>>().join("\n");
    let path = home.file("guest.xml", &transient);
    home.kiln(&["create", &path]).ends(3).says(&["guest.img"]);
    home.kiln(&["create", &path, "--autodestroy"]).ends(2).says(&["--autodestroy can't be done", "> kiln destroy"]);
    home.kiln(&["create", &path, "--pass-fds", "3"]).ends(2).says(&["--pass-fds can't be done"]);
    assert_eq!(home.machines().len(), 1, "what doesn't start leaves nothing");
    home.file("home/data/images/guest.img", vec![0; 1 << 20]);
    let mut console = Talk::on_terminal(&home.command(&["create", &path, "--paused", "--console"]));
    console.sees("Domain 'guest' created from");
    console.sees("Connected to domain 'guest'");
    home.kiln(&["domstate", "guest"]).ends(0).says(&["paused"]);
    console.types("\x1d");
    assert_eq!(console.ends().0, Some(0));
    home.kiln(&["resume", "guest"]).ends(0);
    home.kiln(&["domblklist", "guest"]).ends(0).says(&["vda", &old]);
    home.kiln(&["dumpxml", "guest"]).ends(0).says(&["type='raw'", &old]);
    home.kiln(&["create", &path]).ends(4).says(&["there is a machine \"guest\" already"]);
    home.kiln(&["list"]).ends(0).says(&[" 1    web", " 2    guest"]);
    let told = home.kiln(&["shutdown", "guest", "--timeout", "0.5"]).ends(5);
    told.says(&["still runs after 0.5 s", "did not follow the power button", "acpid", "kiln destroy guest"]);
    // It goes by itself, and takes with it what it left: its document may hold a password.
    let mut guest = Talk::on_terminal(&home.command(&["console", "guest"]));
    guest.sees("GUEST READY");
    guest.types("poweroff -f\r");
    guest.sees("\"guest\" has ended.");
    guest.ends();
    let (run, logs) = (home.store("run/machines/guest"), home.store("state/machines/guest"));
    until(|| home.kiln(&["domstate", "guest"]).code == Some(3));
    assert_eq!(home.files().into_iter().filter(|f| f.starts_with(&run)).collect::<Vec<_>>(), [run.join("lock")]);
    assert!(!logs.exists());
    home.kiln(&["create", &path]).ends(0);
    let mut control = Client::of(&home, "guest");
    home.kiln(&["destroy", "guest", "--remove-logs"]).ends(0);
    assert_eq!(control.hears("SHUTDOWN"), json!({ "guest": false, "reason": "host-qmp-quit" }));
    home.kiln(&["domstate", "guest"]).ends(3).says(&["no machine \"guest\""]);
    assert!(!run.exists() && !logs.exists());
    // One whose process is killed takes nothing along; the next create clears up behind it.
    home.kiln(&["create", &path]).ends(0);
    kill_process(process_of(&home, "guest"), Signal::KILL).unwrap();
    until(|| home.machines().len() == 1);
    assert!(run.join("domain.xml").exists() && logs.exists());
    assert_ne!(home.kiln(&["create", &home.file("bad.xml", "<domain/>")]).code, Some(0));
    assert!(!run.exists() && !logs.exists());

    home.kiln(&["shutdown", "web"]).ends(0);
    becomes(&home, "web", "shut off");
    let told = home.kiln(&["undefine", "web", "--remove-all-storage"]).ends(0);
    told.says(&["has been undefined", "Volume 'vda'(", "data.qcow2) removed."]);
    assert!(!home.path("data.qcow2").exists() && fs::metadata(&old).unwrap().len() == 1 << 20);
    assert!(home.machines().is_empty());
}
