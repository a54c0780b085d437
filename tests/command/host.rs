//! Hosts that lack what machines need: KVM, permission, memory, space, a writable home.

use std::fs;
use std::process::Command;

use super::home::{Home, KILN, Told, install};
use super::server::{claims, fine, serve};

/// A machine for which nothing is missing but what the host lacks.
fn sound(home: &Home) -> Vec<String> {
    let boot = format!("kernel={}", home.file("vmlinuz", "a kernel, as far as anybody has looked"));
    install(&["--boot", &boot, "--noautoconsole"]).iter().map(|word| (*word).to_owned()).collect()
}

fn words(line: &[String]) -> Vec<&str> {
    line.iter().map(String::as_str).collect()
}

/// Runs a shell line in which `$KILN` is kiln with the words.
fn shell(home: &Home, prefix: &[&str], line: &str, words: &[String]) -> Told {
    let mut command = Command::new(prefix[0]);
    command.args(&prefix[1..]).args(["sh", "-c", line, KILN]).args(words).env("KILN_HOME", home.path("home"));
    Told::from((format!("{line} {}", words.join(" ")), command.output().unwrap()))
}

#[test]
fn without_kvm() {
    kiln_lab::needs_lab!(60, KILN);
    let home = Home::new();
    let line = sound(&home);
    let before = home.files();
    // A mount namespace of its own: other tests keep their device.
    let told = shell(&home, &["unshare", "-m"], r#"mount -t tmpfs tmpfs /dev && exec "$0" "$@""#, &line);
    told.ends(7).says(&[
        "machines can't run on this host",
        "1. ",
        "there is no /dev/kvm",
        "modprobe kvm-amd",
        "kiln doctor",
    ]);
    assert_eq!(home.files(), before);
}

#[test]
fn without_permission() {
    kiln_lab::needs_lab!(60, KILN);
    let home = Home::new();
    let line = sound(&home);
    open_to_nobody(&home);
    let before = home.files();
    let prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let told = shell(&home, &prefix, r#"exec "$0" "$@""#, &line);
    told.ends(7).says(&["machines can't run on this host", "no permission to open /dev/kvm", "usermod -aG kvm nobody"]);
    // A disk that may not be opened is told before that.
    let secret = home.file("secret.img", [0; 512]);
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let line: Vec<String> = line.into_iter().map(|w| if w == "none" { secret.clone() } else { w }).collect();
    let line: Vec<String> = line
        .windows(2)
        .map(
            |pair| {
                if ["--network", "--graphics"].contains(&pair[0].as_str()) { "none".into() } else { pair[1].clone() }
            },
        )
        .collect();
    let line = [vec!["install".to_owned()], line].concat();
    let told = shell(&home, &prefix, r#"exec "$0" "$@""#, &line);
    told.ends(1).says(&["the disk", "can't be used", "1. Permission denied", "> Look at its permissions"]);
    fs::remove_file(secret).unwrap();
    assert_eq!(home.files(), before);
}

fn open_to_nobody(home: &Home) {
    let shell = Command::new("sh").args(["-c", "chmod 755 / && chown -R nobody \"$0\""]).arg(home.path("")).status();
    assert!(shell.unwrap().success());
}

#[test]
fn while_another_hypervisor_has_the_processor() {
    kiln_lab::needs_kvm!(60, KILN);
    let home = Home::new();
    let line = sound(&home);
    let before = home.files();
    // The filter goes with the thread and its children.
    let told = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            seccompiler::apply_filter(&kvm_is_busy()).unwrap();
            home.kiln(&words(&line))
        });
        busy.join().unwrap()
    });
    told.ends(7).says(&["machines can't run on this host", "KVM is busy", "> Another hypervisor holds"]);
    assert_eq!(home.files(), before);
}

/// KVM_CREATE_VM answers EBUSY.
fn kvm_is_busy() -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    const SYS_IOCTL: i64 = 16;
    const KVM_CREATE_VM: u64 = 0xae01;
    const EBUSY: u32 = 16;
    let is_create = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, KVM_CREATE_VM).unwrap();
    let rules = [(SYS_IOCTL, vec![SeccompRule::new(vec![is_create]).unwrap()])].into();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EBUSY), arch).unwrap().try_into().unwrap()
}

#[test]
fn with_a_control_group_that_is_too_small() {
    kiln_lab::needs_lab!(60, KILN);
    let home = Home::new();
    let line = sound(&home);
    let before = home.files();
    let group = "/sys/fs/cgroup/small";
    let enter = format!(
        "echo +memory > /sys/fs/cgroup/cgroup.subtree_control && mkdir {group} && echo 100M > {group}/memory.max && \
         echo 0 > {group}/cgroup.procs && exec \"$0\" \"$@\""
    );
    let told = shell(&home, &["env"], &enter, &line);
    told.ends(1).says(&["256 MiB of memory can't be had: there are 100 MiB", "the control group allows 100 MiB"]);
    assert_eq!(home.files(), before);
    fs::remove_dir(group).unwrap();
}

#[test]
fn with_a_home_that_takes_nothing() {
    kiln_lab::needs_lab!(100, KILN);
    let home = Home::new();
    let line = sound(&home);
    fs::create_dir(home.store("")).unwrap();
    let mount = |options: &str| {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(home.store("")).status();
        assert!(status.unwrap().success());
    };
    let unmount = || assert!(Command::new("umount").arg(home.store("")).status().unwrap().success());

    mount("ro");
    let before = home.files();
    let told = home.kiln(&words(&line)).ends(1);
    told.says(&[
        "creating the folder",
        "failed",
        "1. Read-only file system",
        "> Make the folder writable",
        "KILN_HOME",
    ]);
    home.kiln(&["list", "--all"]).ends(0);
    assert_eq!(home.files(), before);
    unmount();

    // Room for folders and the store's number, not for a definition.
    mount("size=16k");
    fs::write(home.store("ballast"), [0; 12 << 10]).unwrap();
    let before = home.files();
    let boot = super::guest::boot(&home, super::guest::SHELL);
    let told = home.kiln(&install(&["--boot", &boot, "--noautoconsole"])).ends(1);
    told.says(&["failed", "1. No space left on device", "> Free some space there"]);
    fs::remove_file(home.path("initrd")).unwrap();
    assert_eq!(home.files(), before);
    assert!(home.machines().is_empty());
    unmount();

    mount("size=1m");
    let big = vec![0x90; 4 << 20];
    let url = serve(move |path| path.contains("debian-installer/amd64/").then(|| fine(&big)));
    let told = home.kiln(&install(&["--location", &url, "--noautoconsole"])).ends(1);
    told.says(&["can't be stored", "1. No space left on device", "> The cache's file system is full"]);
    assert_eq!(home.files(), [home.path("vmlinuz")].into());
    unmount();
}

/// The files of a netboot tree.
const LINUX: &str = "/debian-installer/amd64/linux";
const INITRD: &str = "/debian-installer/amd64/initrd.gz";

#[track_caller]
fn tree_is_refused(answer: fn(&str) -> Option<Vec<u8>>, code: i32, texts: &[&str]) {
    let home = Home::new();
    let url = serve(answer);
    let told = home.kiln(&install(&["--location", &url, "--disk", "size=1", "--noautoconsole"]));
    told.ends(code).says(texts);
    assert!(home.files().is_empty(), "{:?}", home.files());
    assert!(home.machines().is_empty());
}

#[test]
fn trees_that_are_damaged_on_their_way() {
    kiln_lab::needs_kvm!(100, KILN);
    let page = |_: &str| Some(fine(b"  <!DOCTYPE html><title>Sign in to the network</title>"));
    tree_is_refused(page, 1, &["/linux is a web page, not the kernel", "> Name the folder"]);
    let short = |path: &str| path.contains("amd64").then(|| claims(1000, &[0; 600]));
    tree_is_refused(short, 1, &["/linux was cut short", "1. ", "> Try again"]);
    let lost = |path: &str| (path == LINUX).then(|| fine(b"kernel"));
    tree_is_refused(
        lost,
        3,
        &["there is no install tree", "amd64/linux is there, debian-installer/amd64/initrd.gz isn't"],
    );
    let wrong = |path: &str| match path {
        LINUX | INITRD => Some(fine(b"not what was listed")),
        "/SHA256SUMS" => {
            let sum = "ab".repeat(32);
            Some(fine(format!("{sum}  ./{}\n", &LINUX[1..]).as_bytes()))
        }
        _ => None,
    };
    tree_is_refused(wrong, 6, &["/linux has a wrong checksum", "1. the tree's own list says abab", "2. what came has"]);
}

#[test]
fn files_that_do_not_boot() {
    kiln_lab::needs_kvm!(100, KILN);
    let home = Home::new();
    let stock = fs::read(super::guest::kernel()).unwrap();
    // Documentation/arch/x86/boot.rst: xloadflags, bit 0 is the 64-bit entry.
    let mut old = stock.clone();
    old[0x236] &= !1;
    let none = home.file("none", "MZ is how many things begin");
    let old = home.file("old", &old[..1 << 20]);
    let cut = home.file("cut", &stock[..0x240]);
    let kernel = super::guest::kernel();
    let big = home.path("big");
    fs::File::create(&big).unwrap().set_len(300 << 20).unwrap();
    let empty = home.file("empty", "");
    let rows = [
        (format!("kernel={none}"), "is no Linux kernel"),
        (format!("kernel={old}"), "the kernel has no 64-bit entry"),
        (format!("kernel={cut}"), "the kernel file is damaged"),
        (format!("kernel={kernel},initrd={}", big.display()), "doesn't fit"),
        (format!("kernel={kernel},initrd={empty}"), "the initrd file is empty"),
        (format!("kernel={kernel},kernel_args={}", "x".repeat(5000)), "the kernel command line has"),
    ];
    let before = home.files();
    for (boot, why) in rows {
        let told = home.kiln(&install(&["--boot", &boot, "--disk", "size=1", "--noautoconsole"])).ends(1);
        told.says(&["the machine can't be made", "1. the machine can't boot", "2. ", why]);
        assert_eq!(home.files(), before);
    }
    assert!(home.machines().is_empty());
}

#[test]
fn without_certificates() {
    // The lab has none.
    kiln_lab::needs_lab!(60, KILN);
    let home = Home::new();
    let told = home.kiln(&install(&["--location", "https://127.0.0.1:9/"])).ends(1);
    told.says(&["downloads can't be set up", "No CA certificates", "> Install certificates"]);
    let url = serve(|_| Some(super::server::redirect("https://127.0.0.1:9/")));
    home.kiln(&install(&["--location", &url])).ends(1).says(&["can't be fetched"]);
    assert!(home.files().is_empty());
}
