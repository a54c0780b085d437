//! `--location`, `--extra-args`, `--initrd-inject`, `--import` and `--boot`: what the first boot starts.

use std::path::PathBuf;

use super::not_yet;
use crate::cli::suboptions::Suboptions;
use crate::failure::{Failure, Status};
use crate::install::{Source, TreeWish};

/// The options' words.
pub(super) struct Words {
    pub location: Option<String>,
    pub extra: Vec<String>,
    pub inject: Vec<PathBuf>,
    pub import: bool,
    pub boot: Option<String>,
}

/// What they ask for together.
pub(super) fn source(words: Words) -> Result<Source, Failure> {
    let Words { location, extra, inject, import, boot } = words;
    let kernel = boot.as_deref().map(boot_options).transpose()?;
    if location.is_none() {
        without_installer(&extra, &inject)?;
    }
    match (location, import, kernel) {
        (Some(text), false, None) => {
            let (location, files) = location_options(&text)?;
            Ok(Source::Tree(TreeWish { location, files, extra: extra.join(" "), inject }))
        }
        (Some(_), true, _) => Err(Failure::new(Status::Usage, "--location and --import exclude each other")),
        (Some(_), false, Some(_)) => Err(not_yet(
            "--location with --boot",
            "the installed system boots by firmware, which kiln doesn't have yet",
        )),
        (None, _, Some((kernel, initrd, cmdline))) => Ok(Source::Kernel { kernel, initrd, cmdline }),
        (None, true, None) => Err(crate::runner::blueprint::needs_firmware()),
        (None, false, None) => Err(Failure::new(Status::Usage, "nothing says what to install or boot")
            .advise("An install tree or medium: --location ISO|FOLDER|URL")
            .advise("A kernel: --import --boot kernel=FILE,initrd=FILE,kernel_args=…")),
    }
}

fn without_installer(extra: &[String], inject: &[PathBuf]) -> Result<(), Failure> {
    if !extra.is_empty() {
        let what = "--extra-args goes with --location: its words are for an installer's kernel";
        return Err(Failure::new(Status::Usage, what)
            .advise("With --boot they stand in it: --boot kernel=FILE,kernel_args=WORDS"));
    }
    if !inject.is_empty() {
        let what = "--initrd-inject goes with --location: its files are for an installer's initrd";
        return Err(Failure::new(Status::Usage, what)
            .advise("With --boot the initrd is yours: cpio -o -H newc makes an archive that can be appended to it."));
    }
    Ok(())
}

type Paths = Option<(String, String)>;

fn location_options(text: &str) -> Result<(String, Paths), Failure> {
    let mut options = Suboptions::parse("--location", Some("location"), text);
    let location = options.take("location").unwrap_or_default();
    let files = match (options.take("kernel"), options.take("initrd")) {
        (Some(kernel), Some(initrd)) => Some((kernel, initrd)),
        (None, None) => None,
        (kernel, _) => {
            let missing = if kernel.is_some() { "initrd" } else { "kernel" };
            return Err(Failure::new(Status::Usage, format!("--location {text}: {missing}= is missing"))
                .why("kernel= and initrd= belong together")
                .advise("Name both by their paths in it, or neither: then kiln looks for them."));
        }
    };
    options.finish(&["location", "kernel", "initrd"], &[])?;
    Ok((location, files))
}

fn boot_options(text: &str) -> Result<(PathBuf, Option<PathBuf>, String), Failure> {
    let mut options = Suboptions::parse("--boot", None, text);
    let kernel = options.take("kernel");
    let initrd = options.take("initrd").map(PathBuf::from);
    let cmdline = options.take("kernel_args").or_else(|| options.take("cmdline")).unwrap_or_default();
    for firmware in ["hd", "cdrom", "network", "fd", "uefi", "loader", "nvram", "menu", "firmware"] {
        if options.take(firmware).is_some() {
            return Err(not_yet(&format!("--boot {firmware}"), "kiln has no firmware so far")
                .advise("Boot a kernel directly: --boot kernel=FILE,initrd=FILE,kernel_args=…"));
        }
    }
    options.finish(&["kernel", "initrd", "kernel_args"], &["dtb", "machine", "init", "smbios.mode", "emulator"])?;
    let kernel = kernel.ok_or_else(|| Failure::new(Status::Usage, format!("--boot {text}: kernel= is missing")))?;
    Ok((kernel.into(), initrd, cmdline))
}
