//! The KVM device, the module behind it, and what is in the way.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_vmm::probe::{ProbeError, Step, Trial};
use serde::Serialize;

/// The device and the module behind it: information, not a verdict.
#[derive(Debug, Clone, Serialize)]
pub struct Kvm {
    /// Whether the device exists.
    pub present: bool,
    /// Owner, group and mode of the device.
    pub permission: Option<Permission>,
    /// Modules found, e.g. `kvm_amd`.
    pub modules: Vec<String>,
    /// Virtualization that /proc/cpuinfo claims: `vmx`, `svm`, or none.
    pub processor: Option<String>,
    /// The user who asks.
    pub user: String,
    /// Whether the user is listed in the device's group.
    pub in_group: bool,
}

/// Owner, group and mode of the device.
#[derive(Debug, Clone, Serialize)]
pub struct Permission {
    /// Numeric owner.
    pub uid: u32,
    /// Name of the group, or its number.
    pub group: String,
    /// Permission bits, in octal.
    pub mode: String,
}

const DEVICE: &str = "dev/kvm";

impl Kvm {
    pub(super) fn find(root: &Path) -> Self {
        let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
        let (uid, name) = super::user(root);
        let user = name.unwrap_or_else(|| uid.to_string());
        let device = fs::metadata(root.join(DEVICE)).ok();
        let group =
            device.as_ref().and_then(|d| groups.lines().find(|l| l.split(':').nth(2) == Some(&d.gid().to_string())));
        let in_group = group.is_some_and(|line| line.rsplit(':').next().unwrap_or("").split(',').any(|m| m == user));
        let permission = device.as_ref().map(|d| Permission {
            uid: d.uid(),
            group: group.and_then(|l| l.split(':').next()).map_or_else(|| d.gid().to_string(), str::to_owned),
            mode: format!("{:04o}", d.mode() & 0o7777),
        });
        Self {
            present: device.is_some(),
            permission,
            modules: modules(root),
            processor: processor(root),
            user,
            in_group,
        }
    }

    /// What a person reads.
    pub fn describe(&self) -> String {
        let modules = match self.modules.as_slice() {
            [] => "no kvm module is loaded".to_owned(),
            names => format!("module {} (information only)", names.join(", ")),
        };
        match &self.permission {
            Some(p) => format!("/dev/kvm, group {}, mode {}; {modules}", p.group, p.mode),
            None => format!("/dev/kvm does not exist; {modules}"),
        }
    }

    /// What to do so that machines run.
    pub(super) fn advise(&self, trial: &TrialResult) -> Vec<String> {
        match trial {
            TrialResult::Passed { .. } => vec![],
            TrialResult::Missing => self.advise_missing(),
            TrialResult::Denied => self.advise_permission(),
            TrialResult::Busy => vec![
                "Another hypervisor holds the processor's virtualization (VirtualBox, VMware, or a second KVM module)."
                    .into(),
                "Stop its machines and unload it, e.g.: sudo modprobe -r vboxnetadp vboxnetflt vboxdrv".into(),
            ],
            TrialResult::Stumbled { .. } => vec![
                "This KVM opens, but doesn't execute what 64-bit kernels execute: machines would hang or die early.".into(),
                "Use a host with hardware virtualization: a physical machine with VT-x or AMD-V on in its firmware, or a \
                 virtual machine with nested virtualization on."
                    .into(),
            ],
            TrialResult::Refused { .. } => {
                vec!["See the kernel's log for the reason: sudo dmesg | grep -i kvm".into()]
            }
        }
    }

    fn advise_missing(&self) -> Vec<String> {
        match self.processor.as_deref() {
            Some("vmx") => vec!["The processor has VT-x. Load the module: sudo modprobe kvm-intel".into()],
            Some(_) => vec!["The processor has AMD-V. Load the module: sudo modprobe kvm-amd".into()],
            None => vec![
                "The processor shows no hardware virtualization (neither vmx nor svm in /proc/cpuinfo).".into(),
                "Switch VT-x or AMD-V on in the firmware's setup; in a virtual machine or container, have its host pass \
                 /dev/kvm or nested virtualization on."
                    .into(),
            ],
        }
    }

    fn advise_permission(&self) -> Vec<String> {
        let Some(permission) = &self.permission else { return vec![] };
        let group_may = u32::from_str_radix(&permission.mode, 8).is_ok_and(|mode| mode & 0o060 == 0o060)
            && permission.group != "root";
        let user = &self.user;
        if !group_may {
            return vec![format!(
                "{user} may not open /dev/kvm. Until the next boot: sudo chown root:kvm /dev/kvm && sudo chmod 660 \
                 /dev/kvm && sudo usermod -aG kvm {user}, then log in again."
            )];
        }
        let group = &permission.group;
        if self.in_group {
            vec![format!(
                "{user} is in the group {group}, but this login began before that: log in again, or: newgrp {group}"
            )]
        } else {
            vec![format!("{user} may not open /dev/kvm. Run: sudo usermod -aG {group} {user}, then log in again.")]
        }
    }
}

fn modules(root: &Path) -> Vec<String> {
    let loaded = fs::read_dir(root.join("sys/module")).into_iter().flatten();
    let names = loaded.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let listed = fs::read_to_string(root.join("proc/modules")).unwrap_or_default();
    let listed = listed.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect::<Vec<_>>();
    let mut found: Vec<String> = names.chain(listed).filter(|n| n.starts_with("kvm_")).collect();
    found.sort();
    found.dedup();
    found
}

fn processor(root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let flags = text.lines().find_map(|l| l.strip_prefix("flags"))?;
    ["vmx", "svm"].iter().find(|f| flags.split_whitespace().any(|w| w == **f)).map(|f| (*f).to_owned())
}

/// What came of the trial guest.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum TrialResult {
    /// It did all that kernels need.
    Passed {
        /// The steps.
        steps: Vec<Step>,
    },
    /// It ran and stopped short.
    Stumbled {
        /// Steps that worked.
        steps: Vec<Step>,
        /// The step that didn't.
        at: Option<Step>,
        /// How.
        how: String,
    },
    /// There is no `/dev/kvm`.
    Missing,
    /// `/dev/kvm` may not be opened.
    Denied,
    /// KVM has no place for a machine: another hypervisor holds the processor.
    Busy,
    /// KVM refused something else.
    Refused {
        /// What and why.
        why: String,
    },
}

impl From<&Result<Trial, ProbeError>> for TrialResult {
    fn from(outcome: &Result<Trial, ProbeError>) -> Self {
        match outcome {
            Ok(trial) if trial.passed() => TrialResult::Passed { steps: trial.done.clone() },
            Ok(Trial { done, failed }) => TrialResult::Stumbled {
                steps: done.clone(),
                at: failed.as_ref().map(|f| f.0),
                how: failed.as_ref().map_or_else(|| "it ended early".into(), |f| f.1.describe()),
            },
            Err(ProbeError::Open(e)) if e.kind() == io::ErrorKind::NotFound => TrialResult::Missing,
            Err(ProbeError::Open(e)) if e.kind() == io::ErrorKind::PermissionDenied => TrialResult::Denied,
            Err(ProbeError::CreateVm(e)) if e.raw_os_error() == Some(EBUSY) => TrialResult::Busy,
            Err(error) => TrialResult::Refused { why: chain(error) },
        }
    }
}

const EBUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|s| format!(": {s}")).unwrap_or_default();
    format!("{error}{source}")
}

impl TrialResult {
    /// What a person reads.
    pub fn describe(&self) -> String {
        match self {
            TrialResult::Passed { steps } => format!("did all {} things that kernels need", steps.len()),
            TrialResult::Stumbled { steps, at, how } => {
                let at = at.map_or("its end", Step::describe);
                let worked: Vec<_> = steps.iter().map(|s| s.describe()).collect();
                let worked = if worked.is_empty() { "nothing".into() } else { worked.join(", ") };
                format!("stopped at {at}: {how}\nworked before: {worked}")
            }
            TrialResult::Missing => "not run: there is no /dev/kvm".into(),
            TrialResult::Denied => "not run: no permission to open /dev/kvm".into(),
            TrialResult::Busy => "not run: KVM is busy (EBUSY when creating a machine)".into(),
            TrialResult::Refused { why } => format!("not run: {why}"),
        }
    }
}
