//! `kiln doctor` on hosts that can, can't, and may not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "failing is a test's way to speak")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kiln_vmm::probe;
use serde_json::Value;

const KILN: &str = env!("CARGO_BIN_EXE_kiln");

fn doctor(command: &mut Command) -> (Output, Value) {
    let output = command.output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, json)
}

#[test]
fn real_kvm_can_run_machines() {
    kiln_lab::needs_kvm!(60, KILN);
    let (output, json) = doctor(Command::new(KILN).args(["doctor", "--json"]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json["runs"], true);
    assert_eq!(json["trial"]["steps"].as_array().unwrap().len(), 8);
    let text = String::from_utf8(Command::new(KILN).arg("doctor").output().unwrap().stdout).unwrap();
    assert!(text.contains("Machines can run here."), "{text}");
}

#[test]
fn the_lab_shows_its_module() {
    kiln_lab::needs_lab!(60, KILN);
    let (_, json) = doctor(Command::new(KILN).args(["doctor", "--json"]));
    assert_eq!(json["kvm"]["modules"], serde_json::json!(["kvm_amd"]));
    assert_eq!(json["kvm"]["processor"], "svm");
}

/// A root folder whose files claim the given module and processor.
fn host_that_claims(module: &str, flags: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/modules", &format!("{module} 16384 0 - Live 0x0\nkvm 1 0 - Live 0x0\n"));
    write("proc/cpuinfo", &format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\n"));
    write("dev/kvm", "");
    root
}

#[test]
fn false_names_do_not_change_the_verdict() {
    // Whatever this machine's KVM can: the names say the opposite, and the verdict stays with the guest.
    let trial = probe::run_default();
    let truth = kiln::host::examine(Path::new("/"), &trial).runs;
    let worst = host_that_claims("kvm_pvm", "");
    let best = host_that_claims("kvm_intel", "vmx");
    for (root, module) in [(worst, "kvm_pvm"), (best, "kvm_intel")] {
        let report = kiln::host::examine(root.path(), &trial);
        assert_eq!(report.runs, truth, "{module}");
        assert_eq!(report.kvm.modules, [module]);
    }
}

#[test]
fn false_names_do_not_change_the_verdict_of_real_kvm() {
    kiln_lab::needs_kvm!(60);
    let worst = host_that_claims("kvm_pvm", "");
    assert!(kiln::host::examine(worst.path(), &probe::run_default()).runs);
}

#[test]
fn a_busy_kvm_is_named() {
    kiln_lab::needs_kvm!(60, KILN);
    // The filter goes with the thread and its children: KVM_CREATE_VM answers EBUSY, as it does while another
    // hypervisor holds VMX.
    let (output, json) = std::thread::spawn(|| {
        seccompiler::apply_filter(&busy_filter()).unwrap();
        doctor(Command::new(KILN).args(["doctor", "--json"]))
    })
    .join()
    .unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(json["trial"]["outcome"], "busy");
    let advice = json["advice"].to_string();
    assert!(advice.contains("Another hypervisor holds the processor's virtualization"), "{advice}");
}

fn busy_filter() -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
    const SYS_IOCTL: i64 = 16;
    const KVM_CREATE_VM: u64 = 0xae01;
    const EBUSY: u32 = 16;
    let is_create = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, KVM_CREATE_VM).unwrap();
    let rules = [(SYS_IOCTL, vec![SeccompRule::new(vec![is_create]).unwrap()])].into();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EBUSY), arch).unwrap().try_into().unwrap()
}

/// `kiln doctor` as the user nobody; the lab has setpriv.
fn doctor_as_nobody() -> (Output, Value) {
    doctor(Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", KILN, "doctor", "--json"]))
}

fn shell(line: &str) {
    assert!(Command::new("sh").args(["-c", line]).status().unwrap().success(), "{line}");
}

#[test]
fn an_ordinary_user_is_told_what_to_mend() {
    // One test for all that changes the lab's users and device: tests share the lab.
    kiln_lab::needs_lab!(60, KILN);
    shell("chmod 755 / && echo kvm:x:104: >> /etc/group && chown root:kvm /dev/kvm && chmod 660 /dev/kvm");
    let (output, json) = doctor_as_nobody();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(json["trial"]["outcome"], "denied");
    assert!(json["advice"][0].as_str().unwrap().contains("sudo usermod -aG kvm nobody"), "{json:#}");

    shell("sed -i s/^kvm.*/kvm:x:104:nobody/ /etc/group");
    let (_, json) = doctor_as_nobody();
    assert!(json["advice"][0].as_str().unwrap().contains("log in again"), "{json:#}");

    shell("chown root:root /dev/kvm && chmod 600 /dev/kvm");
    let (_, json) = doctor_as_nobody();
    assert!(json["advice"][0].as_str().unwrap().contains("sudo chown root:kvm /dev/kvm"), "{json:#}");

    shell("mkdir -p /run/systemd/system /var/lib/systemd/linger");
    let (_, json) = doctor_as_nobody();
    assert_eq!(json["lingering"]["state"], "disabled");
    assert!(json["advice"].to_string().contains("loginctl enable-linger nobody"), "{json:#}");
    shell("touch /var/lib/systemd/linger/nobody");
    assert_eq!(doctor_as_nobody().1["lingering"]["state"], "enabled");
}

#[test]
fn a_missing_device_is_told_with_the_module_to_load() {
    kiln_lab::needs_lab!(60, KILN);
    // A mount namespace of its own: other tests keep their device.
    let script = format!(
        "mount -t tmpfs tmpfs /dev && {KILN} doctor --json; echo $?; \
         sed s/svm/xxx/g /proc/cpuinfo > /tmp/cpuinfo && mount -o bind /tmp/cpuinfo /proc/cpuinfo && {KILN} doctor"
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(text.contains("\"outcome\": \"missing\"") && text.contains("sudo modprobe kvm-amd"), "{text}");
    assert!(text.contains("/dev/kvm does not exist") && text.contains("no hardware virtualization"), "{text}");
}

#[test]
fn memory_and_its_limits_are_read() {
    let root = host_that_claims("kvm_amd", "svm");
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/meminfo", "MemTotal:        2097152 kB\nMemFree: 1 kB\nMemAvailable:    1048576 kB\n");
    write("proc/self/cgroup", "0::/user/inner\n");
    write("sys/fs/cgroup/user/memory.max", "536870912\n");
    write("sys/fs/cgroup/user/memory.current", "268435456\n");
    write("sys/fs/cgroup/user/inner/memory.max", "max\n");
    let memory = kiln::host::examine(root.path(), &probe::run_default()).memory;
    assert_eq!(memory.total, Some(2 << 30));
    assert_eq!(memory.cgroup_limit, Some(512 << 20));
    assert_eq!(memory.cgroup_left, Some(256 << 20));
    assert_eq!(memory.room(), Some(256 << 20));
}
