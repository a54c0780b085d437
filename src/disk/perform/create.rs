//! `create`.

use std::path::PathBuf;
use std::process::ExitCode;

use kiln_image::chain::{self, Image, Open};
use kiln_image::{BlockDevice, SECTOR};

use super::super::{ChosenBy, Create, Dialect, Layout};
use super::open::failed;
use super::target::{self, Place};
use crate::failure::{Failure, Status};

pub(super) fn perform(dialect: Dialect, create: &Create) -> Result<ExitCode, Failure> {
    let size = match (create.new.size, below(create)?) {
        (Some(size), _) => size,
        (None, Some(size)) => size,
        (None, None) => {
            return Err(Failure::new(Status::Usage, "how large is the disk to be?").advise("Give a size, e.g. 20G."));
        }
    };
    let size = size.checked_next_multiple_of(SECTOR).unwrap_or(size);
    let place = Place::find(dialect, &create.file, create.force)?;
    if let Some(path) = place.temporary() {
        remove_when_stopped(path.to_owned())?;
    }
    target::format(dialect, &create.file, &create.new, size, &place)?;
    place.finish(dialect == Dialect::Kiln)?;
    if !create.quiet {
        println!("{}", told(create, size));
    }
    Ok(ExitCode::SUCCESS)
}

// Ctrl-C ends the program at once, as nothing is lost by it; only the file that has a name already must go.
fn remove_when_stopped(path: PathBuf) -> Result<(), Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let failed = |error| Failure::new(Status::Failed, "can't listen to signals").because(&error);
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(failed)?;
    let wait = move || {
        if signals.forever().next().is_some() {
            let _ = std::fs::remove_file(&path);
            std::process::exit(i32::from(Status::Interrupted as u8));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(failed)
}

// Length of the backing file, after a look at it.
fn below(create: &Create) -> Result<Option<u64>, Failure> {
    let Layout::Qcow2(layout) = &create.new.layout else { return Ok(None) };
    let Some(backing) = &layout.backing else { return Ok(None) };
    if create.backing_unchecked {
        return Ok(None);
    }
    let path = chain::below(&create.file, backing.file.as_os_str());
    let how = Open { locks: false, ..Open::reading(Some(backing.format.into())) };
    let image = Image::open(&path, how).map_err(|error| {
        let failure = failed(&error);
        failure.advise("Backing files are looked for where the new disk lies; -u makes it without a look at them.")
    })?;
    Ok(Some(image.len()))
}

fn told(create: &Create, size: u64) -> String {
    let on = |is: bool| if is { "on" } else { "off" };
    let by = match create.chosen_by {
        ChosenBy::Option => "",
        ChosenBy::Suffix => " (by its name)",
        ChosenBy::Default => " (no format was given)",
    };
    let file = create.file.display();
    match &create.new.layout {
        Layout::Raw { .. } => format!("Formatting '{file}', fmt=raw{by} size={size}"),
        Layout::Qcow2(layout) => {
            let made = target::as_created(layout, size);
            let mut text = format!(
                "Formatting '{file}', fmt=qcow2{by} cluster_size={} extended_l2={} compression_type={} size={size}",
                layout.cluster_size,
                on(layout.extended_l2),
                made.compression.name()
            );
            if let Some((name, format)) = &made.backing {
                text += &format!(" backing_file={}", name.to_string_lossy());
                text += &format!(" backing_fmt={}", format.as_deref().unwrap_or_default());
            }
            text += &format!(" lazy_refcounts={} refcount_bits={}", on(layout.lazy_refcounts), layout.refcount_bits);
            text
        }
    }
}
