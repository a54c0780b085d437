//! `info`.

use std::process::ExitCode;

use kiln_image::chain::{Image, Open};
use kiln_image::qcow2::bits::{LAZY_REFCOUNTS, autoclear, incompatible};
use kiln_image::qcow2::snapshots::Snapshot;
use kiln_image::qcow2::{Header, bitmaps};
use kiln_image::storage::Storage;
use kiln_image::{BlockDevice, Error};
use serde_json::{Map, Value, json};

use super::super::{Dialect, Info, Output};
use super::open::{failed_reading, looking, tell_notes};
use crate::failure::Failure;

pub(super) fn perform(dialect: Dialect, info: &Info) -> Result<ExitCode, Failure> {
    let how =
        Open { locks: !info.force_share, backing: info.backing_chain, ..Open::reading(info.format.map(Into::into)) };
    let image = looking(dialect, &info.file, how)?;
    let told = |error: Error| failed_reading(&error);
    match info.output {
        Output::Human => {
            let all: Result<Vec<String>, Error> = image.chain().map(as_text).collect();
            print!("{}", all.map_err(told)?.join("\n"));
        }
        Output::Json => {
            let all: Result<Vec<Value>, Error> = image.chain().map(as_json).collect();
            let mut all = all.map_err(told)?;
            let value = match (info.backing_chain, all.pop()) {
                (false, Some(one)) => one,
                (_, last) => {
                    all.extend(last);
                    Value::Array(all)
                }
            };
            println!("{value:#}");
        }
    }
    tell_notes(&image, false);
    Ok(ExitCode::SUCCESS)
}

/// Bytes as people say them.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    // Three digits that count.
    let text = if value >= 100.0 || unit == 0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    format!("{text} {}", UNITS.get(unit).unwrap_or(&"B"))
}

fn host_failed(image: &Image) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Open { path: image.path().into(), source }
}

fn allocated(image: &Image) -> Result<u64, Error> {
    let own = image.storage().allocated().map_err(host_failed(image))?;
    let data = image.data_file().map(|(_, file)| file.allocated()).transpose().map_err(host_failed(image))?;
    Ok(own + data.unwrap_or(0))
}

fn is(header: &Header, bit: u64) -> bool {
    header.incompatible & bit != 0
}

// Name and value of what only this format has, in the order in which it is told.
fn specific(image: &Image) -> Result<Vec<(&'static str, Value)>, Error> {
    let Some(qcow2) = image.qcow2() else { return Ok(Vec::new()) };
    let header = qcow2.header();
    let mut all = vec![
        ("compat", json!(if header.version == 2 { "0.10" } else { "1.1" })),
        ("compression-type", json!(header.compression.name())),
    ];
    if header.version > 2 {
        all.push(("lazy-refcounts", json!(header.compatible & LAZY_REFCOUNTS != 0)));
    }
    all.push(("refcount-bits", json!(1 << header.refcount_order)));
    if header.version > 2 {
        all.push(("corrupt", json!(is(&header, incompatible::CORRUPT))));
        if is(&header, incompatible::DATA_FILE) {
            let name = header.data_file.as_ref().map(|name| name.to_string_lossy().into_owned());
            all.push(("data-file", json!(name.unwrap_or_default())));
            all.push(("data-file-raw", json!(header.autoclear & autoclear::DATA_FILE_RAW != 0)));
        }
        if let Some(found) = header.bitmaps.filter(|_| header.autoclear & autoclear::BITMAPS != 0) {
            let found = bitmaps::read_directory(image.storage().as_ref(), &found)?;
            all.push(("bitmaps", found.iter().map(bitmap).collect()));
        }
        all.push(("extended-l2", json!(header.has_extended_l2())));
    }
    Ok(all)
}

fn bitmap(bitmap: &bitmaps::Bitmap) -> Value {
    let flags: Vec<&str> = [(1, "in-use"), (2, "auto")]
        .into_iter()
        .filter(|(bit, _)| bitmap.flags & bit != 0)
        .map(|(_, name)| name)
        .collect();
    json!({ "flags": flags, "name": bitmap.name, "granularity": 1u64 << bitmap.granularity_bits })
}

// A name that QEMU would take for a protocol's is told so that it takes it for a file's.
fn shown(image: &Image) -> String {
    let name = image.path().to_string_lossy().into_owned();
    let head = name.split('/').next().unwrap_or_default();
    if head.contains(':') { format!("./{name}") } else { name }
}

fn as_json(image: &Image) -> Result<Value, Error> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| drop(all.insert(name.into(), value));
    let file_len = image.storage().len().map_err(host_failed(image))?;
    let own = image.storage().allocated().map_err(host_failed(image))?;
    let name = shown(image);
    let file = json!({
        "children": [],
        "virtual-size": file_len,
        "filename": name,
        "format": "file",
        "actual-size": own,
        "format-specific": { "type": "file", "data": {} },
        "dirty-flag": false,
    });
    put("children", json!([{ "name": "file", "info": file }]));
    put("virtual-size", json!(image.len()));
    put("filename", json!(name));
    put("format", json!(image.format().name()));
    put("actual-size", json!(allocated(image)?));
    let mut dirty = false;
    if let Some(qcow2) = image.qcow2() {
        let header = qcow2.header();
        dirty = is(&header, incompatible::DIRTY);
        put("cluster-size", json!(header.cluster_size()));
        let data: Map<String, Value> = specific(image)?.into_iter().map(|(name, value)| (name.into(), value)).collect();
        put("format-specific", json!({ "type": "qcow2", "data": data }));
        if let Some(name) = &header.backing {
            put("backing-filename", json!(name.to_string_lossy()));
            let full = kiln_image::chain::below(image.path(), name);
            put("full-backing-filename", json!(full.to_string_lossy()));
            if let Some(format) = &header.backing_format {
                put("backing-filename-format", json!(format));
            }
        }
        let snapshots = qcow2.snapshots()?;
        if !snapshots.is_empty() {
            put("snapshots", snapshots.iter().map(snapshot).collect());
        }
    }
    put("dirty-flag", json!(dirty));
    Ok(Value::Object(all))
}

fn snapshot(snapshot: &Snapshot) -> Value {
    const SECOND: u64 = 1_000_000_000;
    let mut all = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_len,
        "date-sec": snapshot.seconds,
        "date-nsec": snapshot.nanoseconds,
        "vm-clock-sec": snapshot.guest_clock / SECOND,
        "vm-clock-nsec": snapshot.guest_clock % SECOND,
    });
    if let (Some(count), Some(all)) = (snapshot.instructions, all.as_object_mut()) {
        all.insert("icount".into(), json!(count));
    }
    all
}

fn as_text(image: &Image) -> Result<String, Error> {
    let file_len = image.storage().len().map_err(host_failed(image))?;
    let mut text = format!(
        "image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n",
        image.path().display(),
        image.format().name(),
        human(image.len()),
        image.len(),
        human(allocated(image)?)
    );
    if let Some(qcow2) = image.qcow2() {
        let header = qcow2.header();
        text += &format!("cluster_size: {}\n", header.cluster_size());
        if is(&header, incompatible::DIRTY) {
            text += "cleanly shut down: no\n";
        }
        if let Some(name) = &header.backing {
            let full = kiln_image::chain::below(image.path(), name);
            text += &format!("backing file: {}", name.to_string_lossy());
            text += &if full.as_os_str() == name {
                "\n".to_owned()
            } else {
                format!(" (actual path: {})\n", full.display())
            };
            if let Some(format) = &header.backing_format {
                text += &format!("backing file format: {format}\n");
            }
        }
        let snapshots = qcow2.snapshots()?;
        if !snapshots.is_empty() {
            text += &format!("Snapshot list:\n{}", snapshot_table(&snapshots));
        }
        text += "Format specific information:\n";
        for (name, value) in specific(image)? {
            let name = name.replace('-', " ");
            match value {
                Value::String(value) => text += &format!("    {name}: {value}\n"),
                Value::Array(all) => {
                    text += &format!("    {name}:\n");
                    for one in all {
                        text += &format!("        {one}\n");
                    }
                }
                other => text += &format!("    {name}: {other}\n"),
            }
        }
    }
    text += &format!(
        "Child node '/file':\n    filename: {}\n    protocol type: file\n    file length: {} ({file_len} bytes)\n    \
         disk size: {}\n",
        image.path().display(),
        human(file_len),
        human(image.storage().allocated().map_err(host_failed(image))?)
    );
    Ok(text)
}

/// Snapshots in columns.
pub fn snapshot_table(all: &[Snapshot]) -> String {
    let mut text = format!("{:<9} {:<17} {:>8} {:>20} {:>13}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK");
    for snapshot in all {
        let clock = snapshot.guest_clock / 1_000_000;
        let (seconds, millis) = (clock / 1000, clock % 1000);
        let clock = format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        text += &format!(
            "{:<9} {:<17} {:>8} {:>20} {clock:>13}\n",
            snapshot.id,
            snapshot.name,
            human(snapshot.vm_state_len),
            date(snapshot.seconds)
        );
    }
    text
}

// Days since 1970 to a date, by the calendar of ISO 8601; in UTC.
fn date(seconds: u32) -> String {
    let (days, rest) = (i64::from(seconds) / 86_400, seconds % 86_400);
    let (mut year, mut left) = (1970, days);
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02}:{:02}", left + 1, rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_that_count() {
        let all = [0, 512, 1024, 197_120, 1 << 20, 1_536 << 20, u64::MAX].map(human);
        assert_eq!(all, ["0 B", "512 B", "1 KiB", "192 KiB", "1 MiB", "1.5 GiB", "16 EiB"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34:56");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59:59");
    }
}
