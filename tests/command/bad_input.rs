//! Mistakes that are told before KVM is asked: each with what, why and what to do, its exit status, and nothing left.

use std::fs;
use std::net::TcpListener;

use super::home::{Home, Told, install};
use super::server::{fine, redirect, serve};

/// `kiln install WORDS` fails with `code`, says these texts and leaves nothing.
#[track_caller]
fn refused(home: &Home, words: &[&str], code: i32, texts: &[&str]) -> Told {
    let before = home.files();
    let told = home.kiln(&install(words)).ends(code).says(texts);
    assert_eq!(home.files(), before, "something is left");
    told
}

fn kernel(home: &Home) -> String {
    format!("kernel={}", home.file("vmlinuz", "a kernel, as far as anybody has looked"))
}

#[test]
fn processors() {
    let home = Home::new();
    let boot = kernel(&home);
    for number in ["0", "65"] {
        let what = format!("--vcpus {number}: a machine has 1 to 64 virtual CPUs");
        refused(&home, &["--vcpus", number, "--boot", &boot], 2, &[&what]);
    }
    refused(&home, &["--vcpus", "many", "--boot", &boot], 2, &["--vcpus vcpus=many: a number is expected"]);
    refused(&home, &["--vcpus", "4,sockets=3", "--boot", &boot], 2, &["the topology doesn't give 4 CPUs"]);
}

#[test]
fn memory() {
    let home = Home::new();
    let boot = kernel(&home);
    refused(&home, &["--memory", "2", "--boot", &boot], 2, &["can't run in 2 MiB", "Did you mean 2G?"]);
    refused(&home, &["--memory", "lots", "--boot", &boot], 2, &["--memory lots: a size is expected, e.g. 2048 or 2G"]);
    let texts = ["67108864 MiB of memory can't be had: there are", "1. ", "available", "> Give the machine less"];
    refused(&home, &["--memory", "64T", "--boot", &boot], 1, &texts);
}

#[test]
fn names() {
    let home = Home::new();
    let boot = kernel(&home);
    let long = "x".repeat(256);
    let rows = [
        ("a/b", "it contains '/'"),
        ("a\nb", "it contains '\\n'"),
        ("..", "it names a folder"),
        ("", "it is empty"),
        (long.as_str(), "it has 256 bytes, at most 255 fit"),
    ];
    for (name, why) in rows {
        refused(&home, &["--name", name, "--boot", &boot], 2, &["can't be a machine's name", why, "> Use letters"]);
    }
    // Verbs on machines look at names just so.
    home.kiln(&["destroy", "../web"]).ends(2).says(&["can't be a machine's name: it contains '/'"]);
}

#[test]
fn a_name_that_is_taken() {
    let home = Home::new();
    let folder = home.store("config/machines/web");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("domain.xml"), "<domain type='kvm'><name>web</name></domain>").unwrap();
    let boot = kernel(&home);
    refused(&home, &["--boot", &boot], 4, &["there is a machine \"web\" already", "> ", "kiln undefine web"]);
    refused(&home, &["--boot", &boot, "--dry-run"], 4, &["there is a machine \"web\" already"]);
}

#[test]
fn words_that_are_nearly_right() {
    let home = Home::new();
    let boot = kernel(&home);
    let rows: &[(&[&str], &str)] = &[
        (&["--memroy", "1"], "--memory"),
        (&["--graphics", "vcn"], "Did you mean vnc?"),
        (&["--autoconsole", "txt"], "Did you mean text?"),
        (&["--template", "smal"], "Did you mean small?"),
        (&["--disk", "sise=2"], "Did you mean size=?"),
        (&["--vcpus", "2,core=2"], "Did you mean cores=?"),
        (&["--graphics", "vnc,pasword=x"], "Did you mean password=?"),
        (&["--graphics", "vnc,websoket=-1"], "Did you mean websocket=?"),
        (&["--graphics", "vnc,keymap=en-uk"], "There are: en-us, en-gb, de, fr, es, ja."),
        (&["--graphics", "spice"], "kiln shows machines by VNC"),
        (&["--network", "nome"], "Did you mean none?"),
        (&["--print-xml", "3"], "1, 2 or all is expected"),
        (&["--extra-args", "quiet"], "--extra-args goes with --location"),
        (&["--disk", "size=1", "--nodisks"], "a disk and no disks are asked for at once"),
        (&["--wait", "soon"], "invalid value 'soon'"),
    ];
    for (words, near) in rows {
        let words = [*words, &["--boot", &boot]].concat();
        refused(&home, &words, if words.contains(&"--template") { 3 } else { 2 }, &[near]);
    }
    home.kiln(&["instal"]).ends(2).says(&["install"]);
    home.kiln(&["dominfo", "web", "--jsn"]).ends(2).says(&["--json"]);
}

#[test]
fn what_is_not_there_yet_is_named() {
    let home = Home::new();
    let boot = kernel(&home);
    let rows: &[(&[&str], &str)] = &[
        (&["--network", "bridge=br0"], "not yet: --network bridge=br0"),
        (&["--cdrom", "/x.iso"], "not yet: --cdrom"),
        (&["--disk", "size=1,format=vmdk"], "kiln runs raw and qcow2"),
        (&["--disk", "size=1,bus=sata"], "not yet: --disk bus=sata"),
        (&["--disk", "size=1,device=cdrom"], "not yet: --disk device=cdrom"),
        (&["--boot", "uefi"], "not yet: --boot uefi"),
        (&["--vcpus", "2,maxvcpus=4"], "not yet: --vcpus maxvcpus="),
    ];
    for (words, text) in rows {
        let boots = words.iter().any(|w| ["--boot", "--location"].contains(w));
        let words = if boots { words.to_vec() } else { [*words, &["--boot", &boot]].concat() };
        refused(&home, &words, 2, &[text]);
    }
    refused(&home, &["--import"], 1, &["boots by firmware, which kiln does not have yet", "> Boot a kernel directly"]);
    home.kiln(&["migrate", "a", "b"]).ends(2).says(&["not yet: kiln migrate", "> kiln --help"]);
    home.kiln(&["image"]).ends(2).says(&["there is no verb image", "> Did you mean kiln disk?"]);
    home.kiln(&["vm"]).ends(2).says(&["there is no verb vm"]);
}

#[test]
fn a_long_dash() {
    let home = Home::new();
    let told = home.kiln(&["install", "\u{2013}\u{2013}name", "web", "\u{2013}r", "512"]).ends(2);
    told.says(&["U+2013", "1. text processors", "install --name web -r 512"]);
    assert!(home.files().is_empty());
}

#[test]
fn disks() {
    let home = Home::new();
    let boot = kernel(&home);
    let missing = home.text("none.img");
    refused(&home, &["--disk", &missing, "--boot", &boot], 3, &["is not there", "> To make it: --disk path="]);
    let folder = home.text("home");
    fs::create_dir_all(&folder).unwrap();
    refused(&home, &["--disk", &folder, "--boot", &boot], 2, &["can't be used", "it is a folder", "> Name the image"]);
    let nowhere = format!("path={},size=1", home.text("no/such/folder/disk.img"));
    let told = refused(&home, &["--disk", &nowhere, "--boot", &boot], 3, &["there is no folder", "> Make it first"]);
    assert!(!told.err.contains("KVM"), "cheap checks come before the trial guest: {}", told.err);
    refused(&home, &["--disk", "size=0", "--boot", &boot], 2, &["--disk size=0: a size is expected"]);
    refused(&home, &["--disk", "size=9999999999T", "--boot", &boot], 2, &["a size is expected"]);
    refused(&home, &["--disk", "readonly=yes", "--boot", &boot], 2, &["neither path= nor size= is given"]);
}

#[test]
fn a_disk_in_use() {
    let home = Home::new();
    let boot = kernel(&home);
    let path = home.file("used.img", [0; 4096]);
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    kiln_image::lock::acquire(&file, &path, kiln_image::Access::Write).unwrap();
    refused(
        &home,
        &["--disk", &path, "--boot", &boot],
        4,
        &["can't be used", "in use", "> stop the machine or program"],
    );
    assert_eq!(fs::read(&path).unwrap(), [0; 4096]);
}

#[test]
fn a_kernel_that_is_not_there() {
    let home = Home::new();
    let missing = home.text("vmlinuz");
    let boot = format!("kernel={missing}");
    refused(&home, &["--boot", &boot], 3, &["the kernel", "can't be used", "there is no such file"]);
    let boot = format!("{},initrd={missing}.gz", kernel(&home));
    refused(&home, &["--boot", &boot], 3, &["the initrd", "there is no such file"]);
    let boot = format!("kernel={}", home.path("").display());
    refused(&home, &["--boot", &boot], 1, &["the kernel", "it is a folder"]);
    refused(&home, &["--boot", "initrd=/x"], 2, &["--boot initrd=/x: kernel= is missing"]);
    refused(&home, &[], 2, &["nothing says what to install or boot", "> An install tree or medium: --location"]);
}

#[test]
fn screens() {
    let home = Home::new();
    let boot = kernel(&home);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let option = format!("vnc,port={port}");
    let where_ = format!("VNC can't listen on 127.0.0.1, port {port}");
    refused(&home, &["--graphics", &option, "--boot", &boot], 4, &[&where_, "> Leave the port out"]);
    let told = refused(&home, &["--graphics", "vnc,password=ninechars", "--boot", &boot], 2, &["8", "> VNC would cut"]);
    assert!(!told.err.contains("ninechars"), "a password is not repeated: {}", told.err);
    let texts = ["VNC can't listen on 192.0.2.1", "> The address is not this host's"];
    refused(&home, &["--graphics", "vnc,listen=192.0.2.1", "--boot", &boot], 1, &texts);
    let texts = ["VNC can't listen on \"nowhere.invalid\": it is no address"];
    refused(&home, &["--graphics", "vnc,listen=nowhere.invalid", "--boot", &boot], 1, &texts);
    refused(&home, &["--graphics", "vnc,port=70000", "--boot", &boot], 2, &["a port number is expected"]);
    for number in ["70000", "0", "-2"] {
        let option = format!("vnc,websocket={number}");
        refused(&home, &["--graphics", &option, "--boot", &boot], 2, &["a port number is expected", "-1"]);
    }
    let option = format!("vnc,websocket={port}");
    let where_ = format!("the WebSocket can't listen on 127.0.0.1, port {port}");
    refused(&home, &["--graphics", &option, "--boot", &boot], 4, &[&where_, "> Leave the port out"]);
    refused(&home, &["--graphics", "vnc", "--template", "small", "--boot", &boot], 2, &["has no display", "> Leave"]);
}

#[test]
fn locations_that_lead_nowhere() {
    let home = Home::new();
    refused(
        &home,
        &["--location", ""],
        2,
        &["--location \"\": it is empty", "> Name a folder, an ISO image or an http(s) URL"],
    );
    let folder = home.text("tree");
    refused(&home, &["--location", &folder], 3, &["there is no ", "/tree"]);
    fs::create_dir(&folder).unwrap();
    let texts = ["there is no install tree at", "1. neither kernel nor initrd", "> For Debian: the folder that holds"];
    refused(&home, &["--location", &folder], 3, &texts);
    let file = home.file("debian.iso", "CD001");
    refused(
        &home,
        &["--location", &file],
        2,
        &["debian.iso is no install medium", "1. it is no ISO 9660 image", "> Name"],
    );
}

#[test]
fn servers_that_have_nothing() {
    let home = Home::new();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    let texts = ["can't be fetched", "1. ", "Connection refused", "> Is the address right?"];
    refused(&home, &["--location", &url], 1, &texts);
    let empty = serve(|_| None);
    refused(&home, &["--location", &empty], 3, &["there is no install tree at http://", "> For Debian"]);
    let circle = serve(|path| Some(redirect(path)));
    refused(&home, &["--location", &circle], 1, &["can't be fetched", "redirect", "> The server sends in circles"]);
    let broken = serve(|_| Some(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()));
    refused(&home, &["--location", &broken], 1, &["can't be fetched", "the server answered 500"]);
    let name = "http://nowhere.invalid/debian";
    refused(&home, &["--location", name], 1, &["can't be fetched", "1. ", "> Is the address right?"]);
    // A page for every address: its first look tells, nothing is stored.
    let pages = serve(|_| Some(fine(b"<!DOCTYPE html><title>Welcome</title>")));
    let told = home.kiln(&install(&["--location", &pages, "--print-xml", "1"])).ends(0);
    assert!(told.out.contains("/debian-installer/amd64/linux"), "{}", told.out);
    assert!(home.files().is_empty());
}

#[test]
fn a_store_of_a_newer_kiln() {
    let home = Home::new();
    let boot = kernel(&home);
    fs::create_dir_all(home.store("config")).unwrap();
    fs::write(home.store("config/format"), "2\n").unwrap();
    let texts = ["the store has format 2; this kiln reads format 1", "1. a newer kiln wrote", "> Use that kiln"];
    refused(&home, &["--boot", &boot], 1, &texts);
    for verb in [&["list"][..], &["start", "web"], &["undefine", "web"], &["dumpxml", "web"]] {
        home.kiln(verb).ends(1).says(&texts);
    }
    assert_eq!(fs::read_to_string(home.store("config/format")).unwrap(), "2\n");
}

#[test]
fn a_machine_that_is_not_there() {
    let home = Home::new();
    for verb in
        ["start", "shutdown", "destroy", "reset", "undefine", "dominfo", "domstate", "domuuid", "dumpxml", "vncdisplay"]
    {
        home.kiln(&[verb, "web"]).ends(3).says(&["no machine \"web\"", "> There is none yet; kiln install makes one."]);
    }
    for verb in ["console", "screenshot", "view"] {
        home.kiln(&[verb, "web"]).ends(3).says(&["no machine \"web\""]);
    }
    assert!(home.files().is_empty());
    home.kiln(&["list", "--all", "--json"]).ends(0).says(&["[]"]);
}

#[test]
fn standard_streams_that_are_closed() {
    let home = Home::new();
    let run = |redirection: &str| {
        let line = format!("exec {} list --all {redirection}", super::home::KILN);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &line]).env("KILN_HOME", home.path("home"));
        Told::from((line, shell.output().unwrap()))
    };
    run("<&-").ends(0).says(&["Name"]);
    run("2>&-").ends(0).says(&["Name"]);
    run("<&- >&- 2>&-").ends(0);
    run("> /dev/full").ends(1).says(&["writing to standard output failed", "No space left"]);
    assert!(home.files().is_empty());
}
