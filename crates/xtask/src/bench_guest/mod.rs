//! What `cargo xtask bench net` and `bench disk` share: one lab CPU by the wall clock, in it the same guest under kiln and
//! under QEMU, one after the other, round by round.

mod disk;
mod net;
pub(crate) mod stages;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use kiln_lab::guest;
use kiln_lab::machine::{Died, Lab};
use kiln_lab::options::Options;
use kiln_lab::packages::cloud_kernel;

use crate::bench::{release_build, shell};
use crate::cargo::cargo;

pub(crate) use disk::run as disk;
pub(crate) use net::run as net;

/// The guest's memory in MiB.
const RAM: u64 = 256;
/// Labs that may die in one run of a bench.
const DEATHS: usize = 5;

/// What one stage took.
#[derive(Clone, Copy, Default)]
struct Sample {
    seconds: f64,
    exits: f64,
    /// Seconds of the monitor's processor time without the guest's.
    own: f64,
    /// What the guest counted: bytes, connections, requests.
    count: f64,
}

/// What a round measured, by the stages' names.
type Stages = BTreeMap<String, Sample>;

/// A guest under one of the two.
struct Subject {
    name: &'static str,
    /// Shell words that make the machine, once for each lab.
    prepare: String,
    /// Shell words that stand before those that run the stages.
    start: String,
    /// What `stages` is told, and the command whose input and output are the console.
    console: String,
    /// Shell words that end it.
    end: String,
}

impl Subject {
    /// kiln's, with more words for `install`.
    fn kiln(name: &'static str, more: &str) -> Self {
        let machine = name.replace(' ', "-");
        // The definition is made by an install, which starts it once.
        let prepare = format!(
            "kiln install --name {machine} --memory {RAM} --import --graphics none --noautoconsole {more} \
             --boot kernel=/lab/packages/vmlinux,initrd=/bench.initrd,kernel_args='console=ttyS0 quiet' && \
             kiln destroy {machine}"
        );
        Self {
            name,
            prepare,
            start: format!("kiln start {machine} >&2"),
            console: format!("--process run-machine -- kiln console {machine}"),
            end: format!("kiln destroy {machine}"),
        }
    }

    /// QEMU's, with more words for it.
    fn qemu(name: &'static str, more: &str) -> Self {
        let console = format!(
            "-- qemu-system-x86_64 -nodefaults -no-user-config -machine q35,accel=kvm -cpu host -m {RAM} -display none \
             -kernel /lab/packages/vmlinux -initrd /bench.initrd -append 'console=ttyS0 quiet' -serial stdio {more}"
        );
        Self { name, prepare: "true".into(), start: "true".into(), console, end: "true".into() }
    }
}

/// A lab, and how to make the next one should it die.
struct Stage {
    options: Options,
    lab: Option<Lab>,
    deaths: usize,
    /// Shell words that every lab begins with.
    prepare: String,
    last: &'static str,
}

impl Stage {
    /// `script` is what the guest does once these modules are loaded, up to the end of the stage `last`.
    fn new(folder: &Path, modules: &[&str], script: &str, prepare: String, last: &'static str) -> Result<Self> {
        let load = build_load()?;
        let archive = folder.join("initrd");
        let modules = [&["virtio_pci"], modules].concat();
        let script = format!("stty -echo\n{script}\nread line");
        let files = [("/bin/load", 0o755, &*std::fs::read(&load)?)];
        std::fs::write(&archive, guest::with_files(&cloud_kernel()?, &modules, &script, &files)?)?;
        let mut files = vec![
            (release_build()?, "/bin/kiln".to_owned()),
            (std::env::current_exe()?, "/bin/meter".to_owned()),
            (load, "/bin/load".to_owned()),
            (archive, "/bench.initrd".to_owned()),
        ];
        for file in [
            "/usr/bin/qemu-system-x86_64",
            "/usr/share/seabios/bios-256k.bin",
            "/usr/share/qemu/linuxboot_dma.bin",
            "/usr/share/qemu/pvh.bin",
            "/usr/share/qemu/kvmvapic.bin",
        ] {
            files.push((file.into(), file.to_owned()));
        }
        let options = Options { cpus: 1, memory_mib: 2048, npt: true, files, ..Options::default() };
        Ok(Self { options, lab: None, deaths: 0, prepare, last })
    }

    /// One round of one subject. A lab that dies is followed by another one, in which the round is done again.
    fn measure(&mut self, subject: &Subject, subjects: &[Subject]) -> Result<Stages> {
        let last = self.last;
        loop {
            match self.lab(subjects).and_then(|lab| go(lab, subject, last)) {
                Err(error) if error.is::<Died>() && self.deaths < DEATHS => {
                    eprintln!("xtask: the lab died under {}; once more in a new one", subject.name);
                    self.deaths += 1;
                    self.lab = None;
                }
                other => return other,
            }
        }
    }

    fn lab(&mut self, subjects: &[Subject]) -> Result<&Lab> {
        if self.lab.is_none() {
            let lab = Lab::start(&self.options)?;
            shell(&lab, &self.prepare)?;
            for subject in subjects {
                shell(&lab, &subject.prepare)?;
            }
            self.lab = Some(lab);
        }
        self.lab.as_ref().context("no lab")
    }
}

fn go(lab: &Lab, subject: &Subject, last: &str) -> Result<Stages> {
    let Subject { start, console, end, .. } = subject;
    let text =
        shell(lab, &format!("{start} && meter stages --last '{last}' {console}; status=$?; {end} >&2; exit $status"))?;
    let mut stages = Stages::new();
    for line in text.lines() {
        let (name, numbers) = line.split_once('\t').with_context(|| format!("the meter said {line:?}"))?;
        let numbers: Vec<f64> = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [seconds, exits, own, count] = numbers[..] else { bail!("the meter said {line:?}") };
        stages.insert(name.to_owned(), Sample { seconds, exits, own, count });
    }
    Ok(stages)
}

// Without shared libraries, so that one file is all that a guest needs.
fn build_load() -> Result<PathBuf> {
    let words = ["rustc", "--release", "--quiet", "--package", "kiln-lab", "--example", "load"];
    let status = cargo().args(words).args(["--", "-C", "target-feature=+crt-static"]).status();
    if !status.context("running cargo")?.success() {
        bail!("building the guest's program failed");
    }
    let target = std::env::current_exe()?;
    let target = target.parent().and_then(Path::parent).context("no target folder")?;
    Ok(target.join("release/examples/load"))
}

/// Runs `work` with a folder of its own, which is gone afterwards.
fn with_folder<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let folder = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = work(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

/// The median of what `of` says of a stage in each round.
fn median(rounds: &[Stages], stage: &str, of: impl Fn(&Sample) -> f64) -> f64 {
    let mut all: Vec<f64> = rounds.iter().filter_map(|round| round.get(stage)).map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn qemu_version() -> Result<String> {
    let version = Command::new("qemu-system-x86_64").arg("--version").output().context("running QEMU")?;
    Ok(String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().to_owned())
}
