//! `cargo xtask bench`: measurements beside a peer, in one run, as ratios of medians.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kiln_lab::guest;
use kiln_lab::machine::Lab;
use kiln_lab::options::Options;
use kiln_lab::protocol::{Exit, Run};

use crate::cargo::cargo;
use crate::setup;

/// Measure kiln beside a peer
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A Linux boot to the first line of /init, beside QEMU's q35: time under icount, exits, own memory
    Boot {
        /// Runs of each; the median counts
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// Disk verbs beside qemu-img: wall and CPU time, size of what is made, peak memory
    Image {
        /// Rounds, each of both in turn; compression takes three at most
        #[arg(long, default_value_t = 9)]
        rounds: usize,
    },
    /// The user-mode network beside QEMU's: bytes a second both ways, connections
    Net {
        /// Rounds, each of all in turn; the median counts
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// How long a stream lasts
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// virtio-blk beside QEMU's: exits, own processor time and time for each request
    Disk {
        /// Rounds, each of all in turn; the median counts
        #[arg(long, default_value_t = 9)]
        rounds: usize,
        /// How long a stage lasts
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// The VNC server beside QEMU's: bytes and CPU time of a menu walk, of scrolling, of a photograph
    Vnc {
        /// Runs of each; the median counts
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// Only what has this in its name
        #[arg(long, default_value = "")]
        only: String,
    },
}

const MARK: &str = "INIT-REACHED";
const RAM: u64 = 256;
const HOME: &str = "/bench";

/// One way to boot.
struct Subject {
    name: &'static str,
    /// Shell words that make the machine, before anything is measured.
    prepare: String,
    /// Shell words whose output is the guest's console.
    boot: String,
    /// Words in the monitor's command line, where it isn't the command itself.
    process: Option<&'static str>,
    /// Shell words that end it.
    end: String,
}

#[derive(Clone, Copy)]
struct Sample {
    seconds: f64,
    exits: f64,
    own_mib: f64,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        match &self.what {
            What::Boot { runs } => {
                setup::ensure(&["qemu-system-x86"])?;
                boot(*runs)
            }
            What::Vnc { runs, only } => {
                setup::ensure(&["qemu-system-x86"])?;
                crate::bench_vnc::run(*runs, only)
            }
            What::Net { rounds, seconds } => {
                setup::ensure(&["qemu-system-x86"])?;
                crate::bench_guest::net(*rounds, *seconds)
            }
            What::Disk { rounds, seconds } => {
                setup::ensure(&["qemu-system-x86"])?;
                crate::bench_guest::disk(*rounds, *seconds)
            }
            What::Image { rounds } => crate::bench_image::run(*rounds),
        }
    }
}

pub(crate) fn release_build() -> Result<PathBuf> {
    let status = cargo().args(["build", "--release", "--quiet", "--package", "kiln"]).status();
    if !status.context("running cargo")?.success() {
        bail!("building kiln failed");
    }
    let target = std::env::current_exe()?;
    let target = target.parent().and_then(|p| p.parent()).context("no target folder")?;
    Ok(target.join("release/kiln"))
}

fn kiln(name: &'static str, more: &str) -> Subject {
    let machine = name.replace(' ', "-");
    // The definition is made by an install, which starts it once; what is measured is a start.
    let prepare = format!(
        "kiln install --name {machine} --memory {RAM} --import --disk none --network none {more} --noautoconsole \
         --boot kernel=/lab/packages/vmlinux,initrd=/bench.initrd,kernel_args='console=ttyS0 quiet' && \
         kiln destroy {machine}"
    );
    let boot = format!("kiln start {machine} >&2 && kiln console {machine} 2>&1 </dev/null");
    Subject { name, prepare, boot, process: Some("run-machine"), end: format!("kiln destroy {machine}") }
}

fn subjects() -> Vec<Subject> {
    let qemu = format!(
        "qemu-system-x86_64 -nodefaults -no-user-config -machine q35,accel=kvm -cpu host -m {RAM} -display none \
         -kernel /lab/packages/vmlinux -initrd /bench.initrd -append 'console=ttyS0 quiet' -serial stdio"
    );
    vec![
        Subject {
            name: "QEMU q35",
            prepare: "true".into(),
            boot: qemu,
            process: Some("qemu-system"),
            end: "true".into(),
        },
        kiln("kiln small", "--template small"),
        kiln("kiln default", "--graphics none"),
        kiln("kiln default with screen", "--graphics vnc"),
    ]
}

// The mark is /init's first line, and no program is started after it: what the guest does until the meter has seen the
// mark would be counted, too.
fn initrd() -> Result<Vec<u8>> {
    guest::bare(&format!("echo {MARK}; read line"))
}

fn boot(runs: usize) -> Result<ExitCode> {
    let folder = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join("initrd");
    std::fs::write(&archive, initrd()?)?;
    let mut files = vec![
        (release_build()?, "/bin/kiln".to_owned()),
        (std::env::current_exe()?, "/bin/meter".to_owned()),
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
    // One guest of one CPU: the setting in which nested paging holds and time can be counted in instructions.
    let options = Options { memory_mib: 2048, npt: true, icount: true, files, ..Options::default() };
    let lab = Lab::start(&options);
    let _ = std::fs::remove_dir_all(&folder);
    let lab = lab?;
    println!("lab: {}; {RAM} MiB, 1 vCPU, the same vmlinux and initrd; medians of {runs}\n", options.describe());
    let mut reference = None;
    println!("{:<26}{:>9}{:>9}{:>9}{:>11}", "", "time s", "of QEMU", "exits", "own MiB");
    for subject in subjects() {
        let sample = measure(&lab, &subject, runs)?;
        let base = *reference.get_or_insert(sample.seconds);
        let ratio = sample.seconds / base;
        println!(
            "{:<26}{:>9.3}{ratio:>9.3}{:>9.0}{:>11.1}",
            subject.name, sample.seconds, sample.exits, sample.own_mib
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(lab: &Lab, subject: &Subject, runs: usize) -> Result<Sample> {
    shell(lab, &subject.prepare)?;
    let mut samples = Vec::new();
    for _ in 0..runs {
        let process = subject.process.map(|p| format!("--process {p}")).unwrap_or_default();
        let command = format!("meter meter --until {MARK} --ram {RAM} {process} -- sh -c \"{}\"", subject.boot);
        let text = shell(lab, &format!("{command}; status=$?; {}>&2; exit $status", subject.end))?;
        let line = text.lines().last().unwrap_or_default().to_owned();
        let mut numbers = line.split(' ').map(str::parse::<f64>);
        let mut next = || numbers.next().and_then(Result::ok).with_context(|| format!("the meter said {line:?}"));
        samples.push(Sample { seconds: next()?, exits: next()?, own_mib: next()? / 1024.0 });
    }
    let median = |of: fn(&Sample) -> f64| {
        let mut all: Vec<f64> = samples.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Ok(Sample { seconds: median(|s| s.seconds), exits: median(|s| s.exits), own_mib: median(|s| s.own_mib) })
}

pub(crate) fn shell(lab: &Lab, line: &str) -> Result<String> {
    let run = Run {
        argv: vec!["sh".into(), "-c".into(), line.into()],
        env: vec![("KILN_HOME".into(), HOME.into())],
        limit_ms: 300_000,
    };
    let output = lab.output(run)?;
    if output.exit != Exit::Status(0) {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{line}: {:?}\n{out}{err}", output.exit);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
