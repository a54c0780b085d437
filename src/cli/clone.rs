//! `kiln clone`: virt-clone's options.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::clone::{self, Wishes};
use crate::failure::{Failure, Status};
use crate::network::interface::check_mac;

const EXAMPLES: &str = "\
Examples:
  kiln clone web --name web2                 disks are copied to names of their own
  kiln clone web --name web2 --linked        both go on in images on top of web's disk
  kiln clone web --auto-clone                called web-clone";

/// Make another machine like one that is off, with its own disks, uuid and MAC addresses
///
/// The options are virt-clone's. Nothing inside the guest changes: host names, keys and machine-id stay the original's.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Clone {
    /// Name of the machine that is cloned
    #[arg(value_name = "NAME", required_unless_present_any = ["original", "release"], conflicts_with = "original")]
    source: Option<String>,
    /// The same
    #[arg(short, long, value_name = "NAME")]
    original: Option<String>,
    /// Name of the clone
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
    /// Make up the clone's name, and those of its disks
    #[arg(long)]
    auto_clone: bool,
    /// File of a disk's copy, once per disk that is copied; by default beside the original
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Make the original's disks read-only bases on which both machines get a disk of their own
    #[arg(long, conflicts_with_all = ["preserve_data", "nonsparse", "reflink"])]
    linked: bool,
    /// Use the files of --file as they are, and copy nothing
    #[arg(long, conflicts_with_all = ["nonsparse", "reflink"])]
    preserve_data: bool,
    /// Take all the space of the copies now
    #[arg(long, conflicts_with = "reflink")]
    nonsparse: bool,
    /// Share blocks with the original's file, where the file system can
    #[arg(long)]
    reflink: bool,
    /// Copy this disk (vdb) though it is read-only or shareable; once per disk
    #[arg(long, value_name = "TARGET")]
    force_copy: Vec<String>,
    /// Let both machines use this disk; once per disk
    #[arg(long, value_name = "TARGET")]
    skip_copy: Vec<String>,
    /// MAC address of a network card, in their order, or RANDOM
    #[arg(short, long, value_name = "MAC")]
    mac: Vec<String>,
    /// The clone's uuid
    #[arg(short, long, value_name = "UUID")]
    uuid: Option<String>,
    /// Print the clone's domain XML and do nothing
    #[arg(long)]
    print_xml: bool,
    /// Let go of a base that no machine lies on any more: it can be written to again
    #[arg(long, value_name = "FILE", exclusive = true)]
    release: Option<PathBuf>,
}

impl Clone {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if let Some(base) = &self.release {
            clone::release(base)?;
            print(&format!("{} is no base any more\n", base.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let print_xml = self.print_xml;
        let wishes = self.wishes()?;
        if print_xml {
            let xml = clone::xml(&wishes)?;
            print(&format!("{}\n", xml.trim_end()))?;
            return Ok(ExitCode::SUCCESS);
        }
        let (code, name) = clone::run(&wishes)?;
        print(&format!("Clone '{name}' created successfully.\n"))?;
        Ok(code)
    }

    fn wishes(self) -> Result<Wishes, Failure> {
        if self.name.is_none() && !self.auto_clone {
            return Err(Failure::new(Status::Usage, "the clone has no name")
                .advise("--name NAME, or --auto-clone to have one made up"));
        }
        if let Some(both) = self.force_copy.iter().find(|target| self.skip_copy.contains(target)) {
            return Err(Failure::new(
                Status::Usage,
                format!("--force-copy {both} and --skip-copy {both} exclude each other"),
            ));
        }
        let mac = |text: &String| {
            if text == "RANDOM" {
                Ok(None)
            } else {
                check_mac(text).map(Some).map_err(|failure| Failure { status: Status::Usage, ..failure })
            }
        };
        Ok(Wishes {
            original: self.source.or(self.original).unwrap_or_default(),
            name: self.name,
            uuid: self.uuid,
            files: self.file,
            macs: self.mac.iter().map(mac).collect::<Result<_, _>>()?,
            force: self.force_copy,
            skip: self.skip_copy,
            preserve: self.preserve_data,
            linked: self.linked,
            whole: self.nonsparse,
            reflink: self.reflink,
        })
    }
}
