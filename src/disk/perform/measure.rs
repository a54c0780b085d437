//! `measure`.

use std::process::ExitCode;
use std::sync::Arc;

use kiln_image::BlockDevice;
use kiln_image::chain::Image;
use kiln_image::convert::Source;
use kiln_image::qcow2::bitmaps;
use kiln_image::qcow2::bits::autoclear;
use serde_json::json;

use super::super::{Dialect, Layout, Measure, Measured, Output, Preallocation};
use super::open;
use crate::failure::{Failure, Status};

pub(super) fn perform(dialect: Dialect, measure: &Measure) -> Result<ExitCode, Failure> {
    let source = match &measure.of {
        Measured::Empty(_) => None,
        Measured::Disk { file, format, snapshot: None } => {
            Some(open::looking(dialect, file, open::for_reading(*format, measure.force_share))?)
        }
        Measured::Disk { file, format, snapshot: Some(which) } => {
            Some(open::at_snapshot(file, open::for_reading(*format, measure.force_share), which)?)
        }
    };
    let size = match (&measure.of, &source) {
        (Measured::Empty(size), _) => size.next_multiple_of(kiln_image::SECTOR),
        (_, Some(image)) => image.len(),
        _ => 0,
    };
    let (required, whole, bitmaps) = match &measure.new.layout {
        Layout::Raw { .. } => (size, size, None),
        Layout::Qcow2(layout) => {
            let cluster = u64::from(layout.cluster_size);
            let size = size.next_multiple_of(cluster);
            let whole = everything(size, layout)
                .ok_or_else(|| Failure::new(Status::Failed, format!("a disk of {size} bytes needs larger clusters")))?;
            let full = matches!(layout.preallocation, Preallocation::Falloc | Preallocation::Full);
            let data = match &source {
                _ if full => size,
                None => 0,
                // What is shared with what lies below isn't known.
                Some(_) if layout.backing.is_some() => size,
                Some(image) => data(image, cluster).map_err(|error| open::failed_reading(&error))?,
            };
            let bitmaps = source.as_deref().map(|image| bitmap_len(image, cluster)).transpose()?.flatten();
            (whole - size + data, whole, bitmaps)
        }
    };
    match measure.output {
        Output::Human => {
            println!("required size: {required}\nfully allocated size: {whole}");
            if let Some(bitmaps) = bitmaps {
                println!("bitmaps size: {bitmaps}");
            }
        }
        Output::Json => {
            let mut all = json!({ "required": required, "fully-allocated": whole });
            if let (Some(bitmaps), Some(all)) = (bitmaps, all.as_object_mut()) {
                all.insert("bitmaps".into(), json!(bitmaps));
            }
            println!("{all:#}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

// Bytes of a qcow2 file with all of its data.
fn everything(size: u64, layout: &super::super::Qcow2) -> Option<u64> {
    let cluster = u64::from(layout.cluster_size);
    let entry = if layout.extended_l2 { 16 } else { 8 };
    let l2 = (size / cluster).next_multiple_of(cluster / entry) * entry;
    let l1 = (l2 / cluster).next_multiple_of(cluster / 8) * 8;
    if l1 > kiln_image::qcow2::bits::MOST_L1 {
        return None;
    }
    let clusters = (cluster + l2 + l1 + size) / cluster;
    let per_block = cluster * 8 / u64::from(layout.refcount_bits);
    // Refcounts count their own blocks, too.
    let (mut tables, mut blocks, mut last) = (0u64, 0u64, u64::MAX);
    while last != clusters + tables + blocks {
        last = clusters + tables + blocks;
        blocks = last.div_ceil(per_block);
        tables = blocks.div_ceil(cluster / 8);
    }
    Some((clusters + tables + blocks) * cluster)
}

// Bytes of clusters in which there is data.
fn data(image: &Arc<Image>, cluster: u64) -> Result<u64, kiln_image::Error> {
    let size = BlockDevice::len(image.as_ref());
    let (mut at, mut sum) = (0, 0);
    while at < size {
        let status = image.stretch(at, size - at, false)?;
        let mut end = at + status.len;
        if status.data && !status.zero {
            end = end.next_multiple_of(cluster);
            sum += at % cluster + (end - at);
        }
        at = end;
    }
    Ok(sum)
}

// Bytes that copies of an image's bitmaps would take.
fn bitmap_len(image: &Image, cluster: u64) -> Result<Option<u64>, Failure> {
    let Some(qcow2) = image.qcow2() else { return Ok(None) };
    let header = qcow2.header();
    let Some(all) = header.bitmaps.filter(|_| header.autoclear & autoclear::BITMAPS != 0) else {
        return Ok((header.version >= 3).then_some(0));
    };
    let all = bitmaps::read_directory(image.storage().as_ref(), &all).map_err(|error| open::failed_reading(&error))?;
    let mut sum = 0;
    let mut directory = 0;
    for bitmap in all {
        let granularity = 1u64 << bitmap.granularity_bits;
        let bytes = header.size.div_ceil(granularity).div_ceil(8);
        let clusters = bytes.div_ceil(cluster);
        sum += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(sum + directory.next_multiple_of(cluster)))
}
