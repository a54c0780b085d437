//! `compare`.

use std::process::ExitCode;

use kiln_image::BlockDevice;
use kiln_image::chain::Image;
use kiln_image::convert::Source;
use kiln_image::zeros;

use super::super::{Compare, Dialect};
use super::open;
use crate::failure::{Failure, Status};

/// Bytes compared at once.
const PIECE: u64 = 1 << 20;

pub(super) fn perform(dialect: Dialect, compare: &Compare) -> Result<ExitCode, Failure> {
    let left = open::looking(dialect, &compare.left.file, compare.left.format, compare.force_share)?;
    let right = open::looking(dialect, &compare.right.file, compare.right.format, compare.force_share)?;
    let different = || match dialect {
        Dialect::Kiln => ExitCode::from(Status::Verification as u8),
        Dialect::QemuImg => ExitCode::from(1),
    };
    let tell = |text: String| {
        if !compare.quiet {
            println!("{text}");
        }
    };
    if left.len() != right.len() {
        if compare.strict {
            tell(format!("The sizes differ: {} and {} bytes.", left.len(), right.len()));
            return Ok(different());
        }
        tell(format!("The sizes differ: {} and {} bytes. What is longer should be zeros.", left.len(), right.len()));
    }
    let progress = open::progress(compare.progress);
    let total = left.len().max(right.len());
    let mut at = 0;
    while at < total {
        let step = compare_at(&left, &right, at, compare.strict).map_err(|error| open::failed_reading(&error))?;
        match step {
            Step::Same(len) => at += len,
            Step::Differs(offset, why) => {
                tell(format!("{why} at offset {offset}!"));
                return Ok(different());
            }
        }
        progress(at, total);
    }
    tell("Images are identical.".into());
    open::tell_notes(&left, compare.quiet);
    open::tell_notes(&right, compare.quiet);
    Ok(ExitCode::SUCCESS)
}

enum Step {
    Same(u64),
    Differs(u64, &'static str),
}

// What an image reads at `at`, behind its end zeros.
fn look(image: &Image, at: u64, most: u64) -> Result<(bool, bool, u64), kiln_image::Error> {
    let len = BlockDevice::len(image);
    if at >= len {
        return Ok((true, false, most));
    }
    let status = image.stretch(at, most.min(len - at), false)?;
    let top = image.stretch(at, status.len, true)?;
    Ok((status.zero, top.allocated && !(top.zero && image.qcow2().is_none()), status.len.min(top.len)))
}

fn compare_at(left: &Image, right: &Image, at: u64, strict: bool) -> Result<Step, kiln_image::Error> {
    const FAR: u64 = 1 << 40;
    let (left_zero, left_there, left_len) = look(left, at, FAR)?;
    let (right_zero, right_there, len) = look(right, at, left_len)?;
    if strict && left_there != right_there {
        return Ok(Step::Differs(at, "Strict mode: the allocation differs"));
    }
    if left_zero && right_zero {
        return Ok(Step::Same(len));
    }
    let len = len.min(PIECE);
    let read = |image: &Image, zero: bool| -> Result<Option<Vec<u8>>, kiln_image::Error> {
        if zero {
            return Ok(None);
        }
        let mut bytes = vec![0; len as usize];
        Source::read(image, &mut bytes, at)?;
        Ok(Some(bytes))
    };
    let place = match (read(left, left_zero)?, read(right, right_zero)?) {
        (Some(a), Some(b)) if a == b => None,
        (Some(a), Some(b)) => a.chunks(512).zip(b.chunks(512)).position(|(a, b)| a != b),
        (Some(one), None) | (None, Some(one)) if zeros::is_zero(&one) => None,
        (Some(one), None) | (None, Some(one)) => one.chunks(512).position(|sector| !zeros::is_zero(sector)),
        (None, None) => None,
    };
    Ok(match place {
        None => Step::Same(len),
        Some(sector) => Step::Differs(at + sector as u64 * 512, "Content mismatch"),
    })
}
