//! Verbs that tell about a machine: its names, state, definition and disks.

use std::process::ExitCode;

use clap::Args;
use kiln_domain::Domain;
use serde_json::{Value, json};

use super::machine::{OneData, done, end};
use super::table::table;
use crate::failure::{Failure, Status};
use crate::machine::running::{Running, last_ending};
use crate::machine::{Known, Store, bases};

// Its state, and why it is in it, in virsh's words; why it is off is written elsewhere.
fn state(running: Option<&Running>) -> Result<(&'static str, Option<&'static str>), Failure> {
    let state = running.map(Running::state).transpose()?.flatten();
    Ok(state.map_or(("shut off", None), |(state, reason)| (state, Some(reason))))
}

pub(super) fn domid(one: &OneData) -> Result<ExitCode, Failure> {
    let id = one.known()?.find()?.map(|running| running.record.id);
    one.end(&json!({ "id": id }), &id.map_or("-\n".into(), |id| format!("{id}\n")))
}

/// Print a machine's name, given its number or uuid
#[derive(Debug, Args)]
pub(super) struct Name {
    /// The machine's number, or its uuid
    id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Name {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let store = Store::here()?;
        let found = Known::by_number(&store, &self.id).or_else(|| Known::by_uuid(&store, &self.id));
        let name = found.ok_or_else(|| {
            Failure::new(Status::NotFound, format!("no machine has the number or uuid {:?}", self.id))
                .advise("Numbers are those of machines that run: kiln list")
                .in_virsh(format!("failed to get domain '{}'", self.id))
        })?;
        end(self.json, &json!({ "name": name }), &format!("{name}\n"))
    }
}

pub(super) fn domuuid(one: &OneData) -> Result<ExitCode, Failure> {
    let uuid = one.known()?.document()?.text("uuid").unwrap_or_default();
    one.end(&json!({ "uuid": uuid }), &format!("{uuid}\n"))
}

/// Print a machine's state, and why it is in it
#[derive(Debug, Args)]
pub(super) struct State {
    #[command(flatten)]
    one: OneData,
    /// With the reason
    #[arg(long)]
    reason: bool,
}

impl State {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = self.one.known()?;
        let (state, reason) = state(known.find()?.as_ref())?;
        let ended = || last_ending(known.store.folders(), &known.name).map_or("unknown".into(), |e| e.reason);
        let reason = reason.map_or_else(ended, str::to_owned);
        let text = if self.reason { format!("{state} ({reason})\n") } else { format!("{state}\n") };
        self.one.end(&json!({ "state": state, "reason": reason }), &text)
    }
}

// Seconds of processor time that a process has had (proc_pid_stat(5): utime and stime).
fn cpu_time(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; what follows it doesn't.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

pub(super) fn dominfo(one: &OneData) -> Result<ExitCode, Failure> {
    let known = one.known()?;
    let running = known.find()?;
    let domain = known.document()?;
    let understood = |e: kiln_domain::DomainError| {
        Failure::new(Status::Failed, "the machine's definition can't be understood").because(&e)
    };
    let most = domain.memory().map_err(understood)? >> 10;
    let memory = domain.current_memory().map_err(understood)? >> 10;
    let vcpus = domain.vcpus().map_err(understood)?;
    let uuid = domain.text("uuid").unwrap_or_default();
    let (state, _) = state(running.as_ref())?;
    let version = domain.root().find("metadata").and_then(|m| m.find(crate::runner::blueprint::METADATA));
    let version = version.and_then(|v| v.attribute("version")).unwrap_or(kiln_vmm::config::VERSION);
    let cpu_time = running.as_ref().and_then(|running| cpu_time(running.record.pid));
    let persistent = known.is_persistent();
    let value = json!({
        "id": running.as_ref().map(|r| r.record.id), "name": known.name, "uuid": uuid, "state": state, "vcpus": vcpus,
        "cpu_time_s": cpu_time, "max_memory_kib": most, "memory_kib": memory, "persistent": persistent,
        "machine": version, "disks": disks(&domain), "running": running.as_ref().map(|r| &r.record),
    });
    let id = running.as_ref().map_or("-".into(), |r| r.record.id.to_string());
    let row = |key: &str, value: &str| format!("{:<15} {value}\n", format!("{key}:"));
    let text = [
        row("Id", &id),
        row("Name", &known.name),
        row("UUID", uuid.as_str()),
        row("OS Type", &domain.text("os/type").unwrap_or_else(|| "hvm".into())),
        row("State", state),
        row("CPU(s)", &vcpus.to_string()),
        cpu_time.map(|seconds| row("CPU time", &format!("{seconds:.1}s"))).unwrap_or_default(),
        row("Max memory", &format!("{most} KiB")),
        row("Used memory", &format!("{memory} KiB")),
        row("Persistent", if persistent { "yes" } else { "no" }),
        row("Autostart", "disable"),
        row("Managed save", "no"),
    ];
    one.end(&value, &text.concat())
}

fn disks(domain: &Domain) -> Vec<String> {
    let disks = domain.devices().filter(|d| d.name() == "disk");
    disks.filter_map(bases::source_of).map(str::to_owned).collect()
}

/// Print a machine's XML: that of its run while it runs, else its definition
#[derive(Debug, Args)]
pub(super) struct Dump {
    /// Name of the machine, its uuid, or its number while it runs
    name: String,
    /// The definition, also while it runs
    #[arg(long)]
    inactive: bool,
    /// With the screen's password
    #[arg(long)]
    security_info: bool,
    #[command(flatten)]
    forms: Forms,
}

/// Forms of it that virsh has and kiln refuses, each with the reason.
#[derive(Debug, Args)]
struct Forms {
    /// What an XPath finds in it
    #[arg(long, hide = true)]
    xpath: Option<String>,
    /// What the XPath finds, in one element
    #[arg(long, hide = true)]
    wrap: bool,
    /// As it goes to another host
    #[arg(long, hide = true)]
    migratable: bool,
    /// With the host's processor
    #[arg(long, hide = true)]
    update_cpu: bool,
}

impl Forms {
    fn check(&self, name: &str) -> Result<(), Failure> {
        let refuse = |option: &str, why: &str| Failure::new(Status::Usage, format!("not yet: {option}")).why(why);
        if self.xpath.is_some() || self.wrap {
            let option = if self.wrap { "--wrap" } else { "--xpath" };
            return Err(refuse(option, "kiln evaluates no XPath")
                .advise(format!("kiln dumpxml {name} | xmllint --xpath EXPRESSION -")));
        }
        if self.migratable {
            return Err(refuse("--migratable", "machines don't move between hosts while they run")
                .advise(format!("kiln dumpxml {name} --inactive is what another host can define.")));
        }
        if self.update_cpu {
            return Err(refuse("--update-cpu", "CPU models are not there; guests get the host's"));
        }
        Ok(())
    }
}

impl Dump {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        self.forms.check(&self.name)?;
        let known = Known::of(&self.name)?;
        let mut domain = if self.inactive { known.definition() } else { known.document() }?;
        if !self.security_info {
            domain.hide_passwords();
        }
        let text = domain.to_string();
        done(&if text.ends_with('\n') { text } else { text + "\n" })
    }
}

/// List a machine's disks
#[derive(Debug, Args)]
pub(super) struct Disks {
    /// Name of the machine, its uuid, or its number while it runs
    name: String,
    /// As they will be at the next start
    #[arg(long)]
    inactive: bool,
    /// With type and device
    #[arg(long)]
    details: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Disks {
    pub(super) fn run(&self) -> Result<ExitCode, Failure> {
        let known = Known::of(&self.name)?;
        let domain = if self.inactive { known.definition() } else { known.document() }?;
        let row = |disk: &kiln_domain::xml::Element| {
            let word = |name: &str| disk.attribute(name).map(str::to_owned);
            let target = disk.find("target").and_then(|t| t.attribute("dev")).unwrap_or("-").to_owned();
            let source = bases::source_of(disk).map(str::to_owned);
            (word("type").unwrap_or_default(), word("device").unwrap_or_else(|| "disk".into()), target, source)
        };
        let disks: Vec<_> = domain.devices().filter(|d| d.name() == "disk").map(row).collect();
        let dash = |source: &Option<String>| source.clone().unwrap_or_else(|| "-".into());
        let text = if self.details {
            let rows: Vec<_> =
                disks.iter().map(|(t, d, n, s)| vec![t.clone(), d.clone(), n.clone(), dash(s)]).collect();
            table(&["Type", "Device", "Target", "Source"], &rows)
        } else {
            let rows: Vec<_> = disks.iter().map(|(_, _, target, source)| vec![target.clone(), dash(source)]).collect();
            table(&["Target", "Source"], &rows)
        };
        let data: Value = disks
            .iter()
            .map(|(kind, device, target, source)| {
                json!({ "type": kind, "device": device, "target": target, "source": source })
            })
            .collect();
        end(self.json, &data, &text)
    }
}
