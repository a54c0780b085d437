//! `commit`.

use std::process::ExitCode;
use std::sync::Arc;

use kiln_image::chain::{Image, Open};
use kiln_image::commit;

use super::super::Commit;
use super::open;
use crate::failure::{Failure, Status};
use crate::machine::bases;

pub(super) fn perform(words: &Commit) -> Result<ExitCode, Failure> {
    let stop = open::stopper();
    let how = open::writing_alone(words.format, words.cache);
    bases::check_writable(&words.file)?;
    let top = Image::open(&words.file, how).map_err(|error| open::failed(&error))?;
    let file = words.file.display();
    let depth = base_of(words, &top)?;
    let Some(base) = top.chain().nth(depth) else {
        return Err(Failure::new(Status::Failed, format!("{file} lies on nothing that its changes could go to")));
    };
    // Its format is what the image above it says.
    let how = Open { format: Some(base.format()), ..open::writing_alone(None, words.cache) };
    bases::check_writable(base.path())?;
    let base = Image::open(base.path(), how).map_err(|error| open::failed(&error))?;
    let how = commit::Commit {
        depth,
        keep: words.keep,
        rate_limit: words.rate_limit,
        stop: &stop,
        progress: &open::progress(words.progress),
    };
    if !commit::commit(&how, &top, &base).map_err(|error| open::failed(&error))? {
        return Err(open::stopped());
    }
    open::tell_notes(&top, words.quiet);
    if !words.quiet {
        println!("Image committed.");
    }
    Ok(ExitCode::SUCCESS)
}

// How deep in the chain the changes go.
fn base_of(words: &Commit, top: &Arc<Image>) -> Result<usize, Failure> {
    let Some(base) = &words.base else { return Ok(1) };
    let same = |image: &Image| {
        let canonical = |path: &std::path::Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
        let named = kiln_image::chain::below(&words.file, base.as_os_str());
        canonical(image.path()) == canonical(base) || canonical(image.path()) == canonical(&named)
    };
    top.chain().enumerate().skip(1).find(|(_, image)| same(image)).map(|(depth, _)| depth).ok_or_else(|| {
        let what = format!("{} doesn't lie below {}", base.display(), words.file.display());
        Failure::new(Status::NotFound, what)
    })
}
