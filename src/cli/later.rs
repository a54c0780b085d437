//! What the tools that kiln replaces have and kiln doesn't yet: refused by name, with what it waits for.

use crate::failure::{Failure, Status};

/// virt-install's options: name, and what kiln lacks for it.
const OPTIONS: &[(&str, &str)] = &[
    ("--cdrom", "boot from media needs firmware"),
    ("-c", "boot from media needs firmware"),
    ("--pxe", "network boot needs firmware"),
    ("--livecd", "boot from media needs firmware"),
    ("--install", "a catalogue of systems is not there"),
    ("--unattended", "answer files are not there"),
    ("--cloud-init", "answer files are not there"),
    ("--cpu", "CPU models are not there; guests get the host's"),
    ("--virt-type", "every machine is of type kvm"),
    ("--connect", "there is one store per user so far"),
    ("--os-type", "it means nothing to virt-install either, since years"),
    ("--metadata", "edit the definition instead: kiln edit"),
    ("--events", "on_reboot and its kin are the template's so far"),
    ("--resource", "control groups are not there"),
    ("--numatune", "NUMA is not there"),
    ("--memorybacking", "memory is the process's own"),
    ("--memtune", "control groups are not there"),
    ("--cputune", "control groups are not there"),
    ("--blkiotune", "control groups are not there"),
    ("--features", "features are the template's"),
    ("--clock", "the clock is the template's"),
    ("--pm", "power management is the template's"),
    ("--seclabel", "security labels are not there"),
    ("--sysinfo", "SMBIOS texts are kiln's own"),
    ("--qemu-commandline", "there is no QEMU"),
    ("--launchSecurity", "encrypted memory is not there"),
    ("--controller", "controllers are the template's"),
    ("--input", "input devices are the template's"),
    ("--serial", "the serial port is the template's"),
    ("--parallel", "parallel ports are not there"),
    ("--channel", "channels are not there"),
    ("--console", "consoles are the template's"),
    ("--hostdev", "passthrough is not there"),
    ("--filesystem", "shared folders are not there"),
    ("--sound", "sound is not there"),
    ("--audio", "sound is not there"),
    ("--watchdog", "watchdogs are not there"),
    ("--video", "the display is the template's"),
    ("--smartcard", "smart cards are not there"),
    ("--redirdev", "USB is not there"),
    ("--memballoon", "balloons are not there"),
    ("--tpm", "TPMs are not there"),
    ("--rng", "the entropy source is the template's"),
    ("--panic", "panic devices are not there"),
    ("--shmem", "shared memory is not there"),
    ("--memdev", "memory devices are not there"),
    ("--vsock", "vsock is not there"),
    ("--iommu", "IOMMUs are not there"),
    ("--xml", "edit the definition instead"),
    ("--idmap", "containers are not there"),
    ("--container", "containers are not there"),
    ("--paravirt", "Xen is not kiln's"),
    ("--hvm", "every machine is hvm"),
    ("--arch", "every machine is x86_64"),
    ("--machine", "every machine is q35"),
    ("--uuid", "kiln gives one"),
    ("--autostart", "machines start when they are told to"),
    ("--transient", "install keeps what it makes; kiln create starts machines from XML that are not kept"),
    ("--destroy-on-exit", "machines go on"),
    ("--check", "every check is made"),
    ("--noacpi", "ACPI is the template's"),
    ("--check-cpu", "every check is made"),
    ("--description", "edit the definition instead"),
    ("--network-install", "networks are not there"),
    ("--reinstall", "undefine and install again"),
    ("--original-xml", "define the file first (kiln define), then clone it"),
    ("--replace", "undefine the machine that has the name first"),
    ("--nvram", "there is no firmware whose variables it could hold"),
];

/// Verbs of virsh, virt-clone, virt-xml and qemu-img.
const VERBS: &[&str] = &[
    "xml",
    "build",
    "net",
    "media",
    "os",
    "new",
    "autostart",
    "dump",
    "save",
    "restore",
    "migrate",
    "snapshot-create",
    "snapshot-list",
    "attach-disk",
    "detach-disk",
    "change-media",
    "cpu-stats",
    "help",
];

/// What to say of an option that virt-install has.
pub(super) fn option(given: &str) -> Option<Failure> {
    let name = given.split(['=', ' ']).next()?;
    let (name, why) = OPTIONS.iter().find(|(option, _)| *option == name)?;
    Some(Failure::new(Status::Usage, format!("not yet: {name}")).why(*why))
}

/// What to say of a verb that the other tools have.
pub(super) fn verb(given: &str) -> Option<Failure> {
    match given {
        "image" => Some(Failure::new(Status::Usage, "there is no verb image").advise("Did you mean kiln disk?")),
        "vm" => Some(
            Failure::new(Status::Usage, "there is no verb vm")
                .advise("Verbs come alone: kiln list, kiln start NAME, …"),
        ),
        _ => VERBS.contains(&given).then(|| {
            Failure::new(Status::Usage, format!("not yet: kiln {given}")).advise("kiln --help lists what there is.")
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Words;
    use super::*;

    #[test]
    fn what_there_is_is_not_said_to_come_later() {
        let words = Words::command();
        for name in VERBS {
            assert!(words.find_subcommand(name).is_none(), "{name}");
        }
        let install = words.find_subcommand("install").unwrap();
        for (name, _) in OPTIONS {
            let given = |option: &clap::Arg| {
                let longs = option.get_long_and_visible_aliases().unwrap_or_default();
                let shorts = option.get_short_and_visible_aliases().unwrap_or_default();
                longs.iter().any(|long| *name == format!("--{long}"))
                    || shorts.iter().any(|short| *name == format!("-{short}"))
            };
            assert!(!install.get_opts().any(given), "{name}");
        }
    }
}
