//! `resize`.

use std::process::ExitCode;

use kiln_image::chain::Node;
use kiln_image::{BlockDevice, SECTOR};

use super::super::{Cache, Change, Preallocation, Resize};
use super::{open, target};
use crate::failure::{Failure, Status};

pub(super) fn perform(resize: &Resize) -> Result<ExitCode, Failure> {
    let image = open::writing(&resize.file, resize.format, Cache::Writeback)?;
    let old = image.len();
    let file = resize.file.display();
    let new = match resize.change {
        Change::To(size) => Some(size),
        Change::Grow(by) => old.checked_add(by),
        Change::Shrink(by) => old.checked_sub(by).filter(|new| *new > 0),
    };
    let too_much = || Failure::new(Status::Usage, format!("{file} has {old} bytes and can't be changed by so much"));
    let new = new.filter(|new| *new <= i64::MAX as u64).ok_or_else(too_much)?;
    if image.qcow2().is_some() && !new.is_multiple_of(SECTOR) {
        return Err(Failure::new(Status::Usage, format!("{file} can have whole sectors of {SECTOR} bytes only")));
    }
    if new < old && !resize.shrink {
        let failure = Failure::new(Status::Usage, format!("{file} would lose its last {} bytes", old - new));
        return Err(failure.advise("Shrink what is in it first (file system, partitions); then add --shrink."));
    }
    if new < old && resize.preallocation != Preallocation::Off {
        return Err(Failure::new(Status::Usage, "--preallocation is for disks that grow"));
    }
    if image.qcow2().is_none() && resize.preallocation == Preallocation::Metadata {
        return Err(Failure::new(Status::Usage, "a raw disk has no tables: --preallocation=falloc or full"));
    }
    match image.node() {
        Node::Raw(_) if new > old => target::raw(image.storage().as_ref(), new, resize.preallocation, old)
            .map_err(|error| Failure::new(Status::Failed, format!("{file} can't get {new} bytes")).because(&error))?,
        Node::Qcow2(qcow2) => qcow2
            .resize_with(new, target::qcow2_preallocation(resize.preallocation))
            .map_err(|error| open::failed(&error))?,
        Node::Raw(_) => image.resize(new).map_err(|error| open::failed(&error))?,
    }
    image.close().map_err(|error| open::failed(&error))?;
    open::tell_notes(&image, resize.quiet);
    if !resize.quiet {
        println!("Image resized.");
    }
    Ok(ExitCode::SUCCESS)
}
