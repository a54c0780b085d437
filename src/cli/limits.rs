//! `setmem` and `setvcpus`: what a machine has from its next start on.

use std::process::ExitCode;

use clap::Args;
use kiln_domain::{Domain, DomainError};

use super::machine::done;
use super::size;
use crate::failure::{Failure, Status};
use crate::machine::Known;
use crate::plan;

/// Which of a machine's two states is changed.
#[derive(Debug, Clone, Copy, Args)]
struct Affected {
    /// From the next start on
    #[arg(long)]
    config: bool,
    /// In the running machine: refused, with the reason
    #[arg(long)]
    live: bool,
    /// The running machine if it runs, else its definition
    #[arg(long, conflicts_with_all = ["config", "live"])]
    current: bool,
}

impl Affected {
    // What is changed, by which is told how far it may be.
    fn of(self, known: &Known) -> Result<Domain, Failure> {
        if self.config && !self.live { known.definition() } else { known.document() }
    }

    // Only definitions can be changed so far.
    fn check(self, known: &Known, what: &str, why: &str) -> Result<(), Failure> {
        let not_running = "Requested operation is not valid: domain is not running";
        if self.live && !known.runs() {
            return Err(Failure::new(Status::Failed, format!("{:?} is not running", known.name)).in_virsh(not_running));
        }
        if self.live || !self.config && known.runs() {
            return Err(Failure::new(Status::Usage, format!("not yet: {what} of a running machine"))
                .why(why)
                .advise("With --config it counts from the next start on."));
        }
        Ok(())
    }
}

/// Set how much memory a machine has, up to its definition's most
#[derive(Debug, Args)]
pub(super) struct SetMem {
    /// Name of the machine, its uuid, or its number while it runs
    name: String,
    /// Memory, in KiB or with a suffix (2G)
    #[arg(value_name = "SIZE")]
    size: String,
    #[command(flatten)]
    affected: Affected,
}

/// Set how many virtual CPUs a machine has, up to its definition's most
#[derive(Debug, Args)]
pub(super) struct SetVcpus {
    /// Name of the machine, its uuid, or its number while it runs
    name: String,
    /// How many
    #[arg(value_name = "N")]
    count: String,
    /// The most that it may have; goes with --config
    #[arg(long)]
    maximum: bool,
    /// By the guest's agent: refused, with the reason
    #[arg(long, hide = true, conflicts_with = "config")]
    guest: bool,
    /// Let the processors be unplugged again: refused, with the reason
    #[arg(long, hide = true)]
    hotpluggable: bool,
    #[command(flatten)]
    affected: Affected,
}

fn understood(e: &DomainError) -> Failure {
    Failure::new(Status::Failed, "the machine's definition can't be understood").because(e)
}

fn change(known: &Known, how: impl FnOnce(&mut Domain) -> Result<(), Failure>) -> Result<ExitCode, Failure> {
    let changing = known.store.change()?;
    let mut domain = known.definition()?;
    how(&mut domain)?;
    changing.write(&known.name, &domain)?;
    done("")
}

impl SetMem {
    fn no_size(&self) -> Failure {
        let what = format!("Scaled numeric value '{}' for <size> option is malformed or out of range", self.size);
        let suffix = self.size.trim_start_matches(|c: char| c.is_ascii_digit());
        let failure = Failure::new(Status::Usage, format!("{:?}: a number of KiB is expected, or e.g. 2G", self.size));
        match suffix {
            "" => failure.in_virsh(what),
            _ if suffix == self.size => failure.in_virsh(what),
            _ => failure.in_virsh(format!("invalid argument: unknown suffix '{suffix}'")).headed_in_virsh(what),
        }
    }

    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let bytes = size::parse(&self.size, 1 << 10).ok_or_else(|| self.no_size())?;
        if bytes == 0 {
            return Err(Failure::new(Status::Usage, "a machine can't run without memory")
                .in_virsh("memory in virDomainSetMemoryFlags must not be zero"));
        }
        let known = Known::of(&self.name)?;
        let most = self.affected.of(&known)?.memory().map_err(|e| understood(&e))?;
        if bytes > most {
            return Err(Failure::new(
                Status::Usage,
                format!("{} KiB are more than the machine's most, {} KiB", bytes >> 10, most >> 10),
            )
            .advise(format!("The most stands in the definition as <memory>: kiln edit {}", known.name))
            .in_virsh("invalid argument: cannot set memory higher than max memory"));
        }
        self.affected.check(&known, "another size of memory", "kiln has no balloon device yet")?;
        plan::check_memory(bytes >> 20)?;
        change(&known, |domain| {
            let current = domain.root_mut().find_or_make("currentMemory");
            current.set("unit", "KiB");
            current.set_text(&(bytes >> 10).to_string());
            Ok(())
        })
    }
}

impl SetVcpus {
    fn check_kind(&self) -> Result<(), Failure> {
        let refuse = |option: &str, why: &str| {
            Err(Failure::new(Status::Usage, format!("not yet: {option}"))
                .why(why)
                .advise("With --config another number counts from the next start on."))
        };
        match self {
            Self { guest: true, .. } => refuse("--guest", "kiln talks to no agent in guests so far"),
            Self { hotpluggable: true, .. } => refuse("--hotpluggable", "kiln can't plug processors yet"),
            _ => Ok(()),
        }
    }

    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let count: u32 = self.count.parse().map_err(|_| {
            Failure::new(Status::Usage, format!("{:?}: a number of virtual CPUs is expected", self.count))
                .in_virsh(format!("Numeric value '{}' for <count> option is malformed or out of range", self.count))
        })?;
        if count == 0 {
            return Err(Failure::new(Status::Usage, "a machine can't run without a virtual CPU")
                .in_virsh("Can't set 0 processors for a VM"));
        }
        if self.maximum && !self.affected.config {
            return Err(Failure::new(Status::Usage, "--maximum goes with --config: it counts from the next start on")
                .in_virsh("Option --config is required by option --maximum"));
        }
        self.check_kind()?;
        let known = Known::of(&self.name)?;
        if !self.maximum {
            let most = self.affected.of(&known)?.most_vcpus().map_err(|e| understood(&e))?;
            if count > most {
                return Err(Failure::new(Status::Usage, format!("the machine has at most {most} virtual CPUs"))
                    .advise(format!("First: kiln setvcpus {} {count} --maximum --config", known.name))
                    .in_virsh(format!("invalid argument: requested cpu amount exceeds maximum ({count} > {most})")));
            }
        }
        plan::check_vcpus(count)?;
        self.affected.check(&known, "another number of virtual CPUs", "kiln can't plug processors yet")?;
        change(&known, |domain| if self.maximum { set_most(domain, count) } else { set_current(domain, count) })
    }
}

fn set_current(domain: &mut Domain, count: u32) -> Result<(), Failure> {
    let most = domain.most_vcpus().map_err(|e| understood(&e))?;
    let vcpu = domain.root_mut().find_or_make("vcpu");
    if vcpu.text().is_empty() {
        vcpu.set_text(&most.to_string());
    }
    if count == most {
        vcpu.unset("current");
    } else {
        vcpu.set("current", count.to_string());
    }
    Ok(())
}

fn set_most(domain: &mut Domain, count: u32) -> Result<(), Failure> {
    let now = domain.vcpus().map_err(|e| understood(&e))?;
    if let Some(topology) = domain.topology().map_err(|e| understood(&e))? {
        let product = [topology.sockets, topology.dies, topology.cores, topology.threads]
            .into_iter()
            .try_fold(1u32, u32::checked_mul);
        if product != Some(count) {
            return Err(Failure::new(Status::Conflict, format!("the definition's CPU topology doesn't give {count}"))
                .why(format!(
                    "{} sockets, {} dies, {} cores, {} threads",
                    topology.sockets, topology.dies, topology.cores, topology.threads
                ))
                .advise("Change <topology> and <vcpu> together: kiln edit NAME")
                .in_virsh("unsupported configuration: CPU topology doesn't match maximum vcpu count"));
        }
    }
    let vcpu = domain.root_mut().find_or_make("vcpu");
    vcpu.set_text(&count.to_string());
    if now < count {
        vcpu.set("current", now.to_string());
    } else {
        vcpu.unset("current");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(inside: &str) -> Domain {
        Domain::parse(&format!("<domain type='kvm'>{inside}</domain>")).unwrap()
    }

    #[test]
    fn the_most_and_the_current_number() {
        let mut d = domain("<vcpu placement='static'>4</vcpu>");
        set_current(&mut d, 2).unwrap();
        assert!(d.to_string().contains("<vcpu placement='static' current='2'>4</vcpu>"), "{d}");
        set_most(&mut d, 8).unwrap();
        assert!(d.to_string().contains("current='2'>8</vcpu>"), "{d}");
        set_most(&mut d, 2).unwrap();
        assert!(d.to_string().contains("<vcpu placement='static'>2</vcpu>"), "{d}");
        set_current(&mut d, 2).unwrap();
        assert!(!d.to_string().contains("current"), "{d}");
        let mut d = domain("<vcpu>4</vcpu><cpu><topology sockets='2' cores='2' threads='1'/></cpu>");
        assert!(set_most(&mut d, 6).unwrap_err().to_string().contains("CPU topology"));
        assert!(set_most(&mut d, 4).is_ok());
    }
}
