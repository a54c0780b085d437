//! `--disk`.

use std::path::PathBuf;

use kiln_image::Format;

use super::not_yet;
use crate::cli::size;
use crate::cli::suboptions::Suboptions;
use crate::failure::{Failure, Status};
use crate::install::DiskWish;
use crate::runner::blueprint::driver_values;

const KNOWN: &[&str] = &[
    "path",
    "size",
    "format",
    "sparse",
    "backing_store",
    "backing_format",
    "cache",
    "io",
    "discard",
    "detect_zeroes",
    "error_policy",
    "rerror_policy",
    "bus",
    "device",
    "perms",
    "readonly",
    "shareable",
    "serial",
    "boot.order",
];

const LATER: &[&str] = &[
    "pool",
    "vol",
    "target.dev",
    "target.removable",
    "target.rotation_rate",
    "snapshot_policy",
    "snapshot",
    "transient",
    "driver.copy_on_read",
    "driver.iothread",
    "driver.queues",
    "driver.packed",
    "driver.name",
    "address.type",
    "wwn",
    "vendor",
    "product",
    "iotune.read_bytes_sec",
    "iotune.write_bytes_sec",
    "iotune.total_bytes_sec",
    "iotune.read_iops_sec",
    "iotune.write_iops_sec",
    "iotune.total_iops_sec",
    "geometry.cyls",
    "reservations.managed",
    "startup_policy",
    "source.startupPolicy",
    "logical_block_size",
    "physical_block_size",
];

// virt-install has two names for many.
const ALIASES: &[(&str, &str)] = &[
    ("source.file", "path"),
    ("source.dev", "path"),
    ("driver.type", "format"),
    ("driver_type", "format"),
    ("driver.cache", "cache"),
    ("driver.io", "io"),
    ("driver.discard", "discard"),
    ("driver.detect_zeroes", "detect_zeroes"),
    ("driver.error_policy", "error_policy"),
    ("driver.rerror_policy", "rerror_policy"),
    ("target.bus", "bus"),
    ("boot_order", "boot.order"),
    ("backingStore", "backing_store"),
];

/// All `--disk` of a command line.
pub(super) fn wishes(texts: &[String], none: bool) -> Result<Vec<DiskWish>, Failure> {
    let says_none = none || texts.iter().any(|text| text == "none");
    if says_none && texts.iter().any(|text| text != "none") {
        return Err(Failure::new(Status::Usage, "a disk and no disks are asked for at once")
            .advise("Leave out --nodisks and --disk none, or the other --disk."));
    }
    let wishes = texts.iter().filter(|text| *text != "none").map(|text| wish(text));
    let wishes = wishes.collect::<Result<Vec<_>, _>>()?;
    if wishes.is_empty() && !says_none {
        return Err(Failure::new(Status::Usage, "--disk is missing")
            .advise("A new disk of 20 GiB: --disk size=20. None at all: --disk none"));
    }
    Ok(wishes)
}

fn wish(text: &str) -> Result<DiskWish, Failure> {
    let mut options = Suboptions::parse("--disk", Some("path"), text);
    options.rename(ALIASES);
    place(&mut options)?;
    let path = options.take("path").map(PathBuf::from);
    let size = take_size(&mut options)?;
    let format = take_format(&mut options, "format")?;
    let backing = options.take("backing_store").map(PathBuf::from);
    let backing_format = take_format(&mut options, "backing_format")?;
    if backing.is_none() && backing_format.is_some() {
        return Err(Failure::new(Status::Usage, format!("--disk {text}: backing_format= goes with backing_store=")));
    }
    let sparse = options.take_flag("sparse")?.unwrap_or(true);
    let mut driver = Vec::new();
    for key in ["cache", "io", "discard", "detect_zeroes", "error_policy", "rerror_policy"] {
        let Some(value) = options.take(key).filter(|value| value != "default") else { continue };
        let there = driver_values(key);
        if !there.contains(&value.as_str()) {
            return Err(options.wrong(key, &value, &format!("there are {}", there.join(", "))));
        }
        driver.push((key, value));
    }
    let (read_only, shareable) = permissions(&mut options)?;
    let serial = options.take("serial");
    if serial.as_ref().is_some_and(|serial| serial.len() > 20) {
        let serial = serial.unwrap_or_default();
        return Err(options.wrong("serial", &serial, "a virtio disk shows at most 20 bytes"));
    }
    let boot_order = options.take_number::<u32>("boot.order")?;
    if boot_order == Some(0) {
        return Err(options.wrong("boot.order", "0", "the first is 1"));
    }
    options.finish(KNOWN, LATER)?;
    if path.is_none() && size.is_none() && backing.is_none() {
        return Err(Failure::new(Status::Usage, format!("--disk {text}: neither path= nor size= is given")));
    }
    let backing = backing.map(|backing| (backing, backing_format));
    Ok(DiskWish { path, size, format, sparse, backing, driver, read_only, shareable, serial, boot_order })
}

// Where it is plugged, and what it is.
fn place(options: &mut Suboptions) -> Result<(), Failure> {
    match options.take("bus").as_deref() {
        None | Some("virtio") => {}
        Some("xen") => {
            return Err(Failure::new(Status::Usage, "--disk bus=xen: there is no Xen in kiln's machines")
                .advise("Take bus=virtio, which is also what it is without bus="));
        }
        Some(known @ ("sata" | "scsi" | "ide" | "usb" | "fdc" | "sd")) => {
            return Err(not_yet(&format!("--disk bus={known}"), "disks are on bus=virtio so far"));
        }
        Some(other) => return Err(options.wrong("bus", other, "there is virtio")),
    }
    match options.take("device").as_deref() {
        None | Some("disk") => Ok(()),
        Some(known @ ("cdrom" | "floppy" | "lun")) => {
            let why = format!("kiln has no {known} drive so far");
            Err(not_yet(&format!("--disk device={known}"), &why)
                .advise("An image's files can be read by a disk: --disk path=FILE.iso,readonly=yes"))
        }
        Some(other) => Err(options.wrong("device", other, "there is disk")),
    }
}

fn take_size(options: &mut Suboptions) -> Result<Option<u64>, Failure> {
    let Some(text) = options.take("size") else { return Ok(None) };
    let size = size::parse(&text, 1 << 30).filter(|size| *size > 0);
    size.map(Some).ok_or_else(|| options.wrong("size", &text, "a size is expected, in GiB or with a suffix"))
}

fn take_format(options: &mut Suboptions, key: &str) -> Result<Option<Format>, Failure> {
    let Some(name) = options.take(key) else { return Ok(None) };
    let format = Format::from_name(&name);
    format.map(Some).ok_or_else(|| {
        let failure = options.wrong(key, &name, "kiln runs raw and qcow2");
        failure.advise("Where qemu-img is: qemu-img convert -O qcow2 OLD NEW.qcow2")
    })
}

// perms=ro|rw|sh is the old way to say readonly= and shareable=.
fn permissions(options: &mut Suboptions) -> Result<(bool, bool), Failure> {
    let (read_only, shareable) = match options.take("perms").as_deref() {
        None | Some("rw") => (false, false),
        Some("ro") => (true, false),
        Some("sh") => (false, true),
        Some(other) => return Err(options.wrong("perms", other, "there are rw, ro, sh")),
    };
    let read_only = options.take_flag("readonly")?.unwrap_or(read_only);
    Ok((read_only, options.take_flag("shareable")?.unwrap_or(shareable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<DiskWish, Failure> {
        wish(text)
    }

    #[test]
    fn every_word_of_a_disk_is_understood() {
        let disk =
            one("path=/a,size=2,format=raw,sparse=no,cache=none,io=native,perms=sh,serial=x,boot.order=2").unwrap();
        assert_eq!((disk.size, disk.format, disk.sparse), (Some(2 << 30), Some(Format::Raw), false));
        assert_eq!(disk.driver, [("cache", "none".to_owned()), ("io", "native".to_owned())]);
        assert!(disk.shareable && !disk.read_only);
        assert_eq!((disk.serial.as_deref(), disk.boot_order), (Some("x"), Some(2)));
        let disk = one("/b,driver.discard=unmap,backing_store=/c,driver.type=qcow2,readonly").unwrap();
        assert_eq!(disk.driver, [("discard", "unmap".to_owned())]);
        assert_eq!(disk.backing, Some(("/c".into(), None)));
        assert!(disk.read_only && disk.sparse && disk.format == Some(Format::Qcow2));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, says) in [
            ("path=/a,cache=fast", "there are none, writeback, writethrough, directsync, unsafe"),
            ("path=/a,error_policy=later", "there are report, stop, ignore, enospace"),
            ("path=/a,rerror_policy=enospace", "there are report, stop, ignore"),
            ("path=/a,bus=sata", "not yet: --disk bus=sata"),
            ("path=/a,bus=xen", "there is no Xen"),
            ("path=/a,bus=scuzzy", "there is virtio"),
            ("path=/a,device=cdrom", "not yet: --disk device=cdrom"),
            ("path=/a,format=vmdk", "kiln runs raw and qcow2"),
            ("path=/a,backing_format=raw", "goes with backing_store="),
            ("path=/a,perms=yes", "there are rw, ro, sh"),
            ("path=/a,serial=123456789012345678901", "at most 20 bytes"),
            ("path=/a,boot.order=0", "the first is 1"),
            ("path=/a,sise=3", "Did you mean size=?"),
            ("path=/a,pool=x", "not yet: --disk pool="),
            ("cache=none", "neither path= nor size="),
        ] {
            let told = one(text).unwrap_err();
            assert!(told.status == Status::Usage && told.to_string().contains(says), "{text}: {told}");
        }
    }
}
