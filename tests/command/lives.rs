//! Machines from their first start to their end, by the verbs alone.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use serde_json::json;

use super::control::Client;
use super::guest::{self, LISTENS, REBOOTS, SHELL};
use super::home::{Home, KILN, install};
use super::states::{becomes, data};
use super::talk::{PATIENCE, Talk};

#[test]
fn a_machine_by_all_its_verbs() {
    kiln_lab::needs_kvm!(300, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, LISTENS);
    let disk = format!("path={},size=1", home.text("data.img"));
    let line = install(&[
        "--name",
        "web",
        "--boot",
        &boot,
        "--disk",
        &disk,
        "--vcpus",
        "2",
        "--graphics",
        "vnc,password=secret,websocket=-1,keymap=de",
        "--osinfo",
        "debian12",
        "--noautoconsole",
    ]);
    let told = home.kiln(&line).ends(0);
    let told = told.says(&[
        "\"web\" runs.",
        "VNC at 127.0.0.1:",
        "with a password",
        "kiln view web",
        "a page with noVNC, told ws://127.0.0.1:",
        "ssh -L ",
        "kiln console web",
    ]);
    let told = told.says(&["data.img (vda)", "kiln shutdown web, or kiln destroy web"]);
    assert!(told.out.is_empty(), "data alone goes to standard output");
    assert!(!told.err.contains("secret"), "{}", told.err);

    let info = data(home.kiln(&["dominfo", "web", "--json"]));
    assert_eq!((&info["name"], &info["state"], &info["vcpus"]), (&json!("web"), &json!("running"), &json!(2)));
    assert_eq!((&info["memory_kib"], &info["machine"]), (&json!(256 << 10), &json!("kiln-q35-0")));
    let uuid = data(home.kiln(&["domuuid", "web", "--json"]))["uuid"].as_str().unwrap().to_owned();
    home.kiln(&["domuuid", "web"]).ends(0).says(&[&uuid]);
    home.kiln(&["dominfo", "web"]).ends(0).says(&["Name:", "web", "UUID:", &uuid, "State:", "running", "CPU(s):", "2"]);
    let xml = home.kiln(&["dumpxml", "web"]).ends(0);
    assert!(!xml.out.contains("secret"), "{}", xml.out);
    xml.says(&["<domain", &uuid, "http://libosinfo.org/linux/debian12", "<kernel>", "data.img", "<address type='pci'"]);
    home.kiln(&["dumpxml", "web", "--security-info"]).ends(0).says(&["passwd='secret'"]);
    home.kiln(&["domstate", "web", "--reason"]).ends(0).says(&["running (booted)"]);
    home.kiln(&["list"]).ends(0).says(&["Name", "State", "web", "running"]);
    home.kiln(&["ls", "--json"]).ends(0).says(&["\"web\"", "\"running\""]);

    let display = data(home.kiln(&["vncdisplay", "web", "--json"]));
    let port = u16::try_from(display["port"].as_u64().unwrap()).unwrap();
    home.kiln(&["vncdisplay", "web"]).ends(0).says(&[&format!("127.0.0.1:{}\n", port - 5900)]);
    let mut control = Client::of(&home, "web");
    let mut greeting = [0; 12];
    let mut viewer = TcpStream::connect(("127.0.0.1", port)).unwrap();
    viewer.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"RFB 003.008\n");
    let told = control.hears("VNC_CONNECTED");
    let service = viewer.local_addr().unwrap().port().to_string();
    assert_eq!((&told["server"]["auth"], &told["client"]["service"]), (&json!("vnc"), &json!(service)), "{told}");
    let clients = control.ask(&json!({ "execute": "query-vnc" }))["return"]["clients"].clone();
    assert_eq!(clients, json!([told["client"]]));
    drop(viewer);
    assert_eq!(control.hears("VNC_DISCONNECTED"), told);
    drop(control);
    let url = display["websocket"].as_str().unwrap();
    home.kiln(&["vncdisplay", "web"]).ends(0).says(&[url]);
    let mut answer = String::new();
    let mut browser = TcpStream::connect(url.trim_start_matches("ws://").trim_end_matches('/')).unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
    browser.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("noVNC"), "{answer}");

    let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    console.types("grep -c ^processor /proc/cpuinfo; cat /sys/block/vda/size; cat /sys/class/dmi/id/product_uuid\r");
    console.sees("2\r\n");
    console.sees("2097152\r\n");
    console.sees(&uuid);
    console.types("\x1d");
    assert_eq!(console.ends().0, Some(0));

    let picture = home.text("screen.png");
    home.kiln(&["screenshot", "web", &picture]).ends(0).says(&["Screenshot saved to"]);
    let picture = png::Decoder::new(std::io::BufReader::new(fs::File::open(picture).unwrap())).read_info().unwrap();
    assert_eq!((picture.info().width, picture.info().height), (1280, 800));

    home.kiln(&["start", "web"]).ends(4).says(&["\"web\" is running already", "> kiln console web"]);
    home.kiln(&line).ends(4).says(&["there is a machine \"web\" already"]);
    let other = format!("path={}", home.text("data.img"));
    let told = home.kiln(&install(&["--name", "other", "--boot", &boot, "--disk", &other, "--noautoconsole"])).ends(4);
    told.says(&["the disk", "data.img can't be used", "> stop the machine"]);

    let console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    home.kiln(&["reset", "web"]).ends(0).says(&["Domain 'web' was reset"]);
    console.sees("GUEST READY");
    home.kiln(&["shutdown", "web"]).ends(0).says(&["Domain 'web' is being shutdown"]);
    console.sees("\"web\" has ended.");
    assert_eq!(console.ends().0, Some(0));
    becomes(&home, "web", "shut off");
    home.kiln(&["domstate", "web", "--reason"]).ends(0).says(&["shut off (shutdown)"]);
    for verb in ["shutdown", "destroy", "reset", "console", "vncdisplay", "screenshot"] {
        home.kiln(&[verb, "web"]).ends(1).says(&["\"web\" is not running", "> kiln start web"]);
    }
    home.kiln(&["list"]).ends(0);
    assert_eq!(home.machines(), [("web".into(), "shut off".into())]);

    home.kiln(&["start", "web"]).ends(0).says(&["Domain 'web' started", "screen: VNC at 127.0.0.1:"]);
    home.kiln(&["stop", "web"]).ends(0).says(&["Domain 'web' destroyed"]);
    home.kiln(&["domstate", "web", "--reason"]).ends(0).says(&["shut off (destroyed)"]);
    home.kiln(&["rm", "web"]).ends(0).says(&["has been undefined", "kept: ", "data.img"]);
    assert_eq!(home.files(), [home.path("data.img"), home.path("initrd"), home.path("screen.png")].into());
}

#[test]
fn an_installer_that_reboots_ends_its_machine() {
    kiln_lab::needs_kvm!(200, KILN);
    let home = Home::new();
    let tree = guest::tree(&home, REBOOTS);
    let told = home.kiln(&install(&["--location", &tree, "--disk", "size=0.01", "--autoconsole", "text"])).ends(0);
    assert!(told.out.contains("INSTALLED"), "{}", told.out);
    told.says(&[
        "INSTALLED",
        "Debian at",
        "added to the kernel's command line: console=ttyS0",
        "The installer has restarted \"web\", which is now shut off.",
        "Booting from its disk needs firmware, which kiln doesn't have yet",
        "--boot kernel=",
    ]);
    home.kiln(&["domstate", "web", "--reason"]).ends(0).says(&["shut off (reboot)"]);
    let kept = home.kiln(&["dumpxml", "web"]).ends(0).out;
    assert!(!kept.contains("<kernel>") && kept.contains("<boot dev='hd'/>"), "{kept}");
    home.kiln(&["start", "web"]).ends(1).says(&["boots by firmware, which kiln does not have yet", "> Boot a kernel"]);
    // The same tree from a server, with its list of checksums; nothing of it is kept.
    let folder = tree.clone();
    let sums = {
        use sha2::{Digest, Sha256};
        let sum = |path: &str| -> String {
            let bytes = fs::read(format!("{tree}/{path}")).unwrap();
            Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
        };
        let paths = ["debian-installer/amd64/linux", "debian-installer/amd64/initrd.gz"];
        paths.map(|path| format!("{}  ./{path}\n", sum(path))).concat()
    };
    let url = super::server::serve(move |path| match path {
        "/SHA256SUMS" => Some(super::server::fine(sums.as_bytes())),
        path => fs::read(format!("{folder}{path}")).ok().map(|bytes| super::server::fine(&bytes)),
    });
    let line = install(&["--name", "net", "--location", &url, "--extra-args", "hello=1", "--disk", "size=0.01"]);
    let told = home.kiln(&line).ends(0);
    told.says(&["INSTALLED", "kernel", "checksum right", "initrd", "checksum right", "which is now shut off"]);
    assert!(!home.files().iter().any(|path| path.starts_with(home.store("cache"))), "{:?}", home.files());
}

/// Descriptors, threads and KiB of memory of a process.
fn weight(pid: u64) -> (usize, usize, u64) {
    let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let anon = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    (count("fd"), count("task"), anon.trim().trim_end_matches(" kB").parse().unwrap())
}

fn pid(home: &Home, name: &str) -> u64 {
    data(home.kiln(&["dominfo", name, "--json"]))["running"]["pid"].as_u64().unwrap()
}

/// Processes that run machines of this home.
fn processes(home: &Home) -> Vec<String> {
    let home = format!("KILN_HOME={}", home.text("home"));
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        // One that ends meanwhile has none.
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let around = fs::read(path.join("environ")).unwrap_or_default();
        let ours = around.split(|b| *b == 0).any(|v| v == home.as_bytes());
        if ours && words.windows(11).any(|w| w == b"run-machine") {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn twenty_starts_and_stops_leave_nothing() {
    kiln_lab::needs_kvm!(400, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    home.kiln(&install(&["--boot", &boot, "--disk", "size=0.01", "--graphics", "vnc", "--noautoconsole"])).ends(0);
    let mut after_first = None;
    for round in 0..20 {
        home.kiln(&["destroy", "web"]).ends(0);
        assert!(processes(&home).is_empty(), "round {round}: {:?}", processes(&home));
        let files = home.files();
        assert_eq!(after_first.get_or_insert_with(|| files.clone()), &files, "round {round}");
        home.kiln(&["start", "web"]).ends(0);
    }
    assert_eq!(processes(&home).len(), 1);
    home.kiln(&["destroy", "web"]).ends(0);
    home.kiln(&["undefine", "web"]).ends(0);
    assert_eq!(home.files(), [home.path("initrd"), home.store("data/images/web.qcow2")].into());
}

#[test]
fn a_machine_does_not_grow_with_its_visitors() {
    kiln_lab::needs_kvm!(300, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    home.kiln(&install(&["--boot", &boot, "--graphics", "vnc", "--noautoconsole"])).ends(0);
    let console = Talk::on_terminal(&home.command(&["console", "web"]));
    console.sees("GUEST READY");
    let port = data(home.kiln(&["vncdisplay", "web", "--json"]))["port"].as_u64().unwrap() as u16;
    let pid = pid(&home, "web");
    let visit = || {
        let mut greeting = [0; 12];
        TcpStream::connect(("127.0.0.1", port)).unwrap().read_exact(&mut greeting).unwrap();
        home.kiln(&["domstate", "web"]).ends(0);
        let mut console = Talk::on_terminal(&home.command(&["console", "web"]));
        console.sees("GUEST READY");
        console.types("\x1d");
        assert_eq!(console.ends().0, Some(0));
    };
    let look = || drop(home.kiln(&["screenshot", "web", &home.text("screen.png")]).ends(0));
    visit();
    look();
    let (descriptors, threads, _) = settled(pid, None);
    let memory = weight(pid).2;
    // More than may be there at once.
    for _ in 0..20 {
        visit();
    }
    for _ in 0..8 {
        look();
    }
    settled(pid, Some((descriptors, threads)));
    // Guest memory that is touched meanwhile counts as well; a leak of the pictures alone would be 32 MiB.
    let grown = weight(pid).2.saturating_sub(memory);
    assert!(grown < 24 << 10, "{grown} KiB more");
}

/// The process's weight when its visitors' threads have gone.
#[track_caller]
fn settled(pid: u64, wanted: Option<(usize, usize)>) -> (usize, usize, u64) {
    let deadline = Instant::now() + PATIENCE;
    let mut last = (0, 0, 0);
    let mut same = 0;
    loop {
        let now = weight(pid);
        same = if (now.0, now.1) == (last.0, last.1) { same + 1 } else { 0 };
        last = now;
        let is_wanted = wanted.is_none_or(|wanted| wanted == (now.0, now.1));
        if is_wanted && same >= 10 {
            return now;
        }
        assert!(Instant::now() < deadline, "{now:?} descriptors, threads, KiB stay; {wanted:?} were there before");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn five_machines_at_once() {
    kiln_lab::needs_kvm!(300, KILN);
    let home = Home::new();
    let boot = guest::boot(&home, SHELL);
    // A port that is taken is skipped. Other tests take some, so any free one will do.
    let taken = (5900..6900).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).unwrap();
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        let line = ["--name", name, "--memory", "128", "--boot", &boot, "--graphics", "vnc", "--network", "user"];
        home.kiln(&install(&[&line[..], &["--noautoconsole"]].concat())).ends(0);
    }
    // Each card has a name of its own among all that run.
    let card = |name: &str| {
        let info = data(home.kiln(&["dominfo", name, "--json"]));
        info["running"]["network"]["cards"][0]["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(names.map(card), ["vnet0", "vnet1", "vnet2", "vnet3", "vnet4"]);
    assert_eq!(home.machines(), names.map(|name| (name.to_owned(), "running".to_owned())));
    assert_eq!(processes(&home).len(), 5);
    let port = |name: &str| data(home.kiln(&["vncdisplay", name, "--json"]))["port"].as_u64().unwrap();
    let mut ports: Vec<u64> = names.iter().map(|name| port(name)).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 5, "{ports:?}");
    assert!(ports.iter().all(|port| (5900..6900).contains(port)), "{ports:?}");
    assert!(!ports.contains(&u64::from(taken.local_addr().unwrap().port())), "{ports:?}");
    for name in names {
        let mut console = Talk::on_terminal(&home.command(&["console", name]));
        console.sees("GUEST READY");
        console.types("echo I am al''ive\r");
        console.sees("I am alive");
        console.types("\x1d");
        assert_eq!(console.ends().0, Some(0));
    }
    for name in names {
        home.kiln(&["destroy", name]).ends(0);
        home.kiln(&["undefine", name]).ends(0);
    }
    assert!(processes(&home).is_empty() && home.machines().is_empty());
    assert_eq!(home.files(), [home.path("initrd")].into());
}
