//! `check`.

use std::process::ExitCode;
use std::sync::Arc;

use kiln_image::chain::{Image, Open};
use kiln_image::qcow2::bits::incompatible;
use kiln_image::qcow2::check::{self, Finding, Fix, Report};
use kiln_image::qcow2::image::read_header;
use kiln_image::storage::{File, Storage};
use kiln_image::{Access, Format};
use serde_json::{Map, Value, json};

use super::super::{Check, Dialect, Output, Repair};
use super::open::{cached, failed, failed_reading};
use crate::failure::{Failure, Status};
use crate::machine::bases;

pub(super) fn perform(dialect: Dialect, request: &Check) -> Result<ExitCode, Failure> {
    let access = if request.repair.is_some() { Access::Write } else { Access::ReadOnly };
    if access.writes() {
        bases::check_writable(&request.file)?;
    }
    let cache = cached(request.cache);
    let opened = if request.force_share {
        File::open_unlocked(&request.file, cache)
    } else {
        File::open_with(&request.file, access, cache)
    };
    let file = opened.map_err(|error| if access.writes() { failed(&error) } else { failed_reading(&error) })?;
    let storage: Arc<dyn Storage> = Arc::new(file);
    if format_of(request, storage.as_ref())? == Format::Raw {
        let failure = Failure::new(Status::Failed, format!("{} can't be checked", request.file.display()));
        let failure = failure.why("a raw disk has nothing beside the guest's data that could be wrong");
        return match dialect {
            Dialect::Kiln => Err(failure),
            Dialect::QemuImg => {
                eprint!("{}", failure.told_by("qemu-img"));
                Ok(ExitCode::from(63))
            }
        };
    }
    let header = read_header(storage.as_ref()).map_err(|error| failed(&error))?;
    if dialect == Dialect::QemuImg && !request.force_share {
        // It wants to open what lies below as well.
        below(request, access)?;
    }
    if request.repair == Some(Repair::Leaks) && header.incompatible & incompatible::CORRUPT != 0 {
        let failure = Failure::new(Status::Failed, format!("{} is marked as corrupt", request.file.display()));
        return Err(failure.advise("-r all mends what can be mended, and takes the mark away then."));
    }
    let mut tell = |finding: Finding| {
        if request.output == Output::Human {
            eprintln!("{finding}");
        }
    };
    let (report, fixed) = match request.repair {
        None => (check::check(storage.as_ref(), &header, &mut tell).map_err(|error| failed(&error))?, None),
        Some(repair) => {
            let fix = match repair {
                Repair::Leaks => Fix::Leaks,
                Repair::All => Fix::All,
            };
            let repaired = check::repair(&storage, &header, fix, &mut tell).map_err(|error| failed(&error))?;
            let fixed = (repaired.corruptions_fixed, repaired.leaks_fixed());
            (repaired.after, Some(fixed))
        }
    };
    let fixed = fixed.unwrap_or((0, 0));
    match request.output {
        Output::Json => println!("{:#}", as_json(request, &report, fixed)),
        Output::Human if request.quiet => {}
        Output::Human => print!("{}", as_text(&report, fixed)),
    }
    Ok(ExitCode::from(match (dialect, report.corruptions, report.leaks) {
        (_, 0, 0) => 0,
        (Dialect::Kiln, _, _) => Status::Verification as u8,
        (Dialect::QemuImg, 0, _) => 3,
        (Dialect::QemuImg, _, _) => 2,
    }))
}

fn below(request: &Check, access: Access) -> Result<(), Failure> {
    let how = Open { even_corrupt: true, ..Open::reading(request.format.map(Into::into)) };
    // The file itself is locked already when it is to be mended.
    let how = Open { locks: !access.writes(), ..how };
    Image::open(&request.file, how).map(drop).map_err(|error| failed_reading(&error))
}

fn format_of(request: &Check, storage: &dyn Storage) -> Result<Format, Failure> {
    use kiln_image::format::{Guess, guess_storage};
    if let Some(format) = request.format {
        return Ok(format.into());
    }
    let guess = guess_storage(storage).map_err(|error| {
        Failure::new(Status::Failed, format!("can't read {}", request.file.display())).because(&error)
    })?;
    match guess {
        Guess::Format(format) => Ok(format),
        Guess::Foreign(name) => Err(Failure::new(Status::Failed, format!("not yet: a check of format {name}"))),
    }
}

fn as_json(request: &Check, report: &Report, (corruptions, leaks): (u64, u64)) -> Value {
    let mut all = Map::new();
    let mut put = |name: &str, value: Value| drop(all.insert(name.into(), value));
    put("filename", json!(request.file.to_string_lossy()));
    put("format", json!("qcow2"));
    put("check-errors", json!(0));
    put("image-end-offset", json!(report.image_end));
    put("total-clusters", json!(report.total_clusters));
    // As elsewhere, what is zero isn't said.
    for (name, value) in [
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("corruptions-fixed", corruptions),
        ("leaks-fixed", leaks),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
    ] {
        if value > 0 {
            put(name, json!(value));
        }
    }
    Value::Object(all)
}

fn as_text(report: &Report, (corruptions, leaks): (u64, u64)) -> String {
    let mut text = String::new();
    if corruptions + leaks > 0 {
        text += &format!("Mended: {corruptions} errors, {leaks} leaked clusters.\n");
    }
    text += &match (report.corruptions, report.leaks) {
        (0, 0) => "No errors were found on the image.\n".to_owned(),
        (0, leaks) => format!(
            "{leaks} leaked clusters were found on the image. They take space and harm nothing; -r leaks frees them.\n"
        ),
        (errors, leaks) => format!(
            "{errors} errors and {leaks} leaked clusters were found on the image. Data may be lost, or get lost when it \
             is written; -r all mends what can be mended.\n"
        ),
    };
    let percent = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 };
    if report.total_clusters > 0 {
        text += &format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters)
        );
    }
    text + &format!("Image end offset: {}\n", report.image_end)
}
