//! `map`.

use std::fmt::Write;
use std::process::ExitCode;

use kiln_image::chain::Image;
use kiln_image::{BlockDevice, Error};

use super::super::{Dialect, Map, Output};
use super::open;
use crate::failure::{Failure, Status};

/// A stretch of the disk as its chain has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stretch {
    start: u64,
    len: u64,
    depth: usize,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    offset: Option<u64>,
}

pub(super) fn perform(dialect: Dialect, map: &Map) -> Result<ExitCode, Failure> {
    let image = open::looking(dialect, &map.file, open::for_reading(map.format, map.force_share))?;
    let size = image.len();
    let end = map.length.map_or(size, |length| map.start.saturating_add(length).min(size));
    let mut all: Vec<Stretch> = Vec::new();
    let mut out = String::new();
    let mut at = map.start;
    if map.output == Output::Human {
        println!("{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to");
    } else {
        out.push('[');
    }
    if at >= end {
        // Programs expect an entry, if of nothing.
        let nothing = Stretch { start: at, len: 0, ..Stretch::default() };
        all.push(nothing);
    }
    while at < end {
        let next = stretch(&image, at, end - at).map_err(|error| open::failed_reading(&error))?;
        at += next.len;
        match all.last_mut().filter(|last| goes_on(last, &next)) {
            Some(last) => last.len += next.len,
            None => all.push(next),
        }
        // Only the last one may still grow.
        if all.len() > 1024 {
            let last = all.pop();
            for stretch in all.drain(..) {
                tell(&image, &stretch, map.output, &mut out)?;
            }
            all.extend(last);
        }
    }
    for stretch in &all {
        tell(&image, stretch, map.output, &mut out)?;
    }
    print!("{out}{}", if map.output == Output::Json { "]\n" } else { "" });
    open::tell_notes(&image, false);
    Ok(ExitCode::SUCCESS)
}

fn goes_on(last: &Stretch, next: &Stretch) -> bool {
    let kind = |s: &Stretch| (s.depth, s.present, s.zero, s.data, s.compressed);
    kind(last) == kind(next)
        && match (last.offset, next.offset) {
            (Some(a), Some(b)) => a + last.len == b,
            (None, None) => true,
            _ => false,
        }
}

fn stretch(image: &Image, at: u64, most: u64) -> Result<Stretch, Error> {
    let (mut most, mut deepest, mut kept) = (most, 0, None);
    for (depth, layer) in image.chain().enumerate() {
        if at >= layer.len() {
            // It ends before: zeros, which nobody says.
            deepest = 0;
            break;
        }
        deepest = depth;
        let status = layer.status(at, most.min(layer.len() - at))?;
        most = status.len;
        if status.allocated {
            return Ok(Stretch {
                start: at,
                len: status.len,
                depth,
                present: true,
                zero: status.zero,
                data: status.data,
                compressed: status.compressed,
                offset: status.host,
            });
        }
        kept = status.host;
    }
    Ok(Stretch { start: at, len: most, depth: deepest, zero: true, offset: kept, ..Stretch::default() })
}

fn tell(image: &Image, stretch: &Stretch, output: Output, out: &mut String) -> Result<(), Failure> {
    match output {
        Output::Json => {
            if out.len() > 1 || !out.starts_with('[') {
                out.push_str(",\n");
            }
            let offset = stretch.offset.map_or_else(String::new, |offset| format!(", \"offset\": {offset}"));
            let _ = write!(
                out,
                "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \
                 \"compressed\": {}{offset}}}",
                stretch.start,
                stretch.len,
                stretch.depth,
                stretch.present,
                stretch.zero,
                stretch.data,
                stretch.compressed
            );
            if out.len() > 1 << 16 {
                print!("{out}");
                // Not empty, so that the next one is set off from it.
                out.clear();
            }
        }
        Output::Human => {
            if !stretch.data || stretch.zero {
                return Ok(());
            }
            let Some(offset) = stretch.offset else {
                let what = "this disk has compressed clusters, which have no place that can be told";
                return Err(Failure::new(Status::Failed, what).advise("--output json tells of them."));
            };
            let layer = image.chain().nth(stretch.depth).unwrap_or(image);
            let file = layer.data_file().map_or(layer.path(), |(path, _)| path);
            out.push_str(&format!(
                "{:<16}{:<16}{:<16}{}\n",
                format!("{:#x}", stretch.start),
                format!("{:#x}", stretch.len),
                format!("{offset:#x}"),
                file.display()
            ));
        }
    }
    Ok(())
}
