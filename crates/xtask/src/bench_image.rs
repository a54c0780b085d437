//! `cargo xtask bench image`: kiln's disk verbs beside the installed qemu-img, round by round in turns, as ratios of
//! medians.
//!
//! Inputs are made here and lie in the page cache. `floor` is a plain loop that reads what the input has and writes it
//! elsewhere. `qcow2-rs` is that crate, where it can do the work at all, in the program of crates/image/peers; the column is
//! empty where that can't be built.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};

use crate::setup;

const MIB: u64 = 1 << 20;
/// Bytes of the input disk, of which about three quarters have data.
const INPUT: u64 = 512 * MIB;

/// Run one command and tell what it took (for `bench`)
#[derive(Debug, Args)]
pub struct Ration {
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Ration {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let begun = Instant::now();
        let mut command = Command::new(&self.command[0]);
        let output = command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).output();
        let output = output.with_context(|| format!("starting {}", self.command[0]))?;
        let wall = begun.elapsed().as_secs_f64();
        if !output.status.success() {
            bail!("{:?}: {}", self.command, String::from_utf8_lossy(&output.stderr));
        }
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
        println!("{wall} {cpu} {}", usage.max_rss());
        Ok(ExitCode::SUCCESS)
    }
}

/// Copy a file's data, and nothing more (for `bench`)
#[derive(Debug, Args)]
pub struct Floor {
    from: PathBuf,
    to: PathBuf,
}

impl Floor {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let (from, to) = (File::open(&self.from)?, File::create(&self.to)?);
        let mut buffer = vec![0; 512 << 10];
        let (mut written, len) = (0, from.metadata()?.len());
        let mut at = 0;
        // The maker of the input notes where its data lie, a pair of numbers for each run.
        for run in fs::read_to_string(self.from.with_extension("runs"))?.lines() {
            let (start, end) = run.split_once(' ').context("a run of two numbers")?;
            (at, _) = (start.parse::<u64>()?, ());
            let end = end.parse::<u64>()?.min(len);
            while at < end {
                let part = &mut buffer[..(end - at).min(512 << 10) as usize];
                from.read_exact_at(part, at)?;
                to.write_all_at(part, written)?;
                at += part.len() as u64;
                written += part.len() as u64;
            }
        }
        Ok(if at == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

#[derive(Clone, Copy)]
struct Sample {
    wall: f64,
    cpu: f64,
    peak_mib: f64,
    size: f64,
}

struct Bench {
    folder: PathBuf,
    kiln: PathBuf,
    /// The program that runs qcow2-rs.
    crates: Option<PathBuf>,
    rounds: usize,
}

/// The text of one row: its name, kiln's words and the peer's.
struct Row {
    name: &'static str,
    kiln: &'static str,
    peer: &'static str,
    /// Words of the floor, where there is one.
    floor: Option<&'static str>,
    /// Words of the program that runs qcow2-rs, where it can do this.
    crates: Option<&'static str>,
    rounds: usize,
    goal: &'static str,
}

fn rows(rounds: usize) -> Vec<Row> {
    let few = rounds.min(3);
    let row = |name, kiln, peer, floor, rounds, goal| Row { name, kiln, peer, floor, crates: None, rounds, goal };
    let beside = |crates, row| Row { crates: Some(crates), ..row };
    const TO_QCOW2: &str = "convert -f raw -O qcow2 in.raw out";
    const BEST: &str = "convert -f raw -O qcow2 -W -m 16 in.raw out";
    const ZLIB: &str = "convert -c -f raw -O qcow2 in.raw out";
    const ZLIB_W: &str = "convert -c -W -m 8 -f raw -O qcow2 in.raw out";
    const ZSTD: &str = "convert -c -f raw -O qcow2 -o compression_type=zstd in.raw out";
    const ZSTD_W: &str = "convert -c -W -m 8 -f raw -O qcow2 -o compression_type=zstd in.raw out";
    let same = |name, words, rounds, goal| row(name, words, words, None, rounds, goal);
    vec![
        same("create 100G", "create -f qcow2 out 100G", rounds, "0.35"),
        same("info", "info in.qcow2", rounds, "0.35"),
        beside(
            "convert raw qcow2 in.raw out",
            row("raw to qcow2", TO_QCOW2, TO_QCOW2, Some("in.raw out"), rounds, "0.85"),
        ),
        row("raw to qcow2, peer -W -m 16", TO_QCOW2, BEST, Some("in.raw out"), rounds, "1.0"),
        beside(
            "convert qcow2 raw in.qcow2 out",
            same("qcow2 to raw", "convert -f qcow2 -O raw in.qcow2 out", rounds, "0.9"),
        ),
        row("-c zlib", ZLIB, ZLIB, None, few, "0.15, size 1.02"),
        row("-c zlib, peer -W -m 8", ZLIB, ZLIB_W, None, few, "0.3"),
        row("-c zstd", ZSTD, ZSTD, None, few, "0.5"),
        row("-c zstd, peer -W -m 8", ZSTD, ZSTD_W, None, few, "0.8"),
        same("check of 256 GiB of tables", "check tables.qcow2", rounds, "0.5"),
        same("map of 200,000 extents", "map --output=json pieces.qcow2", rounds, "0.5"),
        same("compare", "compare -f raw -F qcow2 in.raw in.qcow2", rounds, "0.65"),
        same("snapshot create", "snapshot -c s in.qcow2", rounds, "1.0"),
        same("snapshot apply", "snapshot -a s in.qcow2", rounds, "1.0"),
    ]
}

/// Measures.
///
/// # Errors
/// When a command fails.
pub fn run(rounds: usize) -> Result<ExitCode> {
    setup::ensure(&["qemu-utils"])?;
    let kiln = crate::bench::release_build()?;
    let crates = crate::peers::build();
    if let Err(error) = &crates {
        eprintln!("xtask: qcow2-rs is not measured: {error:#}");
    }
    let folder = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let bench = Bench { folder: folder.clone(), kiln, crates: crates.ok(), rounds };
    let outcome = bench.run();
    fs::remove_dir_all(folder)?;
    outcome.map(|()| ExitCode::SUCCESS)
}

impl Bench {
    fn run(&self) -> Result<()> {
        symlink(&self.kiln, self.folder.join("qemu-img"))?;
        self.make_inputs()?;
        let version = Command::new("qemu-img").arg("--version").output()?.stdout;
        println!("peer: {}", String::from_utf8_lossy(&version).lines().next().unwrap_or_default());
        println!("ratios of medians, kiln/qemu-img, up to {} rounds in turns", self.rounds);
        println!("(of wall time: kiln/floor, kiln/qcow2-rs)\n");
        println!(
            "{:<30}{:>7}{:>7}{:>8}{:>8}{:>10}{:>10}{:>8}   goal",
            "", "wall", "cpu", "size", "floor", "qcow2-rs", "peak MiB", "peer"
        );
        for row in rows(self.rounds) {
            self.row(&row)?;
        }
        Ok(())
    }

    fn row(&self, row: &Row) -> Result<()> {
        let own = self.folder.join("qemu-img");
        let (mut ours, mut theirs, mut floors, mut crates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..row.rounds {
            ours.push(self.sample(&own.to_string_lossy(), row.kiln)?);
            self.take_back(row)?;
            theirs.push(self.sample("qemu-img", row.peer)?);
            self.take_back(row)?;
            if let Some(words) = row.floor {
                let xtask = std::env::current_exe()?;
                floors.push(self.sample(&xtask.to_string_lossy(), &format!("floor {words}"))?);
            }
            if let (Some(program), Some(words)) = (&self.crates, row.crates) {
                crates.push(self.sample(&program.to_string_lossy(), words)?);
            }
        }
        let ratio = |of: fn(&Sample) -> f64| median(&ours, of) / median(&theirs, of);
        let beside = |others: &[Sample]| match others.is_empty() {
            true => String::new(),
            false => format!("{:.2}", median(&ours, |s| s.wall) / median(others, |s| s.wall)),
        };
        let (floor, crates) = (beside(&floors), beside(&crates));
        let size = if median(&theirs, |s| s.size) > 0.0 { format!("{:.3}", ratio(|s| s.size)) } else { String::new() };
        println!(
            "{:<30}{:>7.2}{:>7.2}{size:>8}{floor:>8}{crates:>10}{:>10.1}{:>8.1}   {}",
            row.name,
            ratio(|s| s.wall),
            ratio(|s| s.cpu),
            median(&ours, |s| s.peak_mib),
            median(&theirs, |s| s.peak_mib),
            row.goal
        );
        Ok(())
    }

    // A snapshot that was made for a row goes before the next one; rows that apply one need one.
    fn take_back(&self, row: &Row) -> Result<()> {
        if row.name == "snapshot create" {
            self.quietly(&["snapshot", "-d", "s", "in.qcow2"])?;
            self.quietly(&["snapshot", "-c", "keep", "in.qcow2"])?;
            self.quietly(&["snapshot", "-d", "keep", "in.qcow2"])?;
        }
        Ok(())
    }

    fn quietly(&self, words: &[&str]) -> Result<()> {
        let output = Command::new("qemu-img").args(words).current_dir(&self.folder).output()?;
        if !output.status.success() {
            bail!("qemu-img {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn sample(&self, program: &str, words: &str) -> Result<Sample> {
        let out = self.folder.join("out");
        let _ = fs::remove_file(&out);
        if words.starts_with("snapshot -a") {
            // There is one to apply.
            let _ = self.quietly(&["snapshot", "-d", "s", "in.qcow2"]);
            self.quietly(&["snapshot", "-c", "s", "in.qcow2"])?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        let output =
            command.args(["ration", "--", program]).args(words.split(' ')).current_dir(&self.folder).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.split_whitespace().map(str::parse::<f64>);
        let mut next = || {
            numbers.next().and_then(Result::ok).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (wall, cpu, peak) = (next()?, next()?, next()?);
        let size = fs::metadata(&out).map_or(0, |about| about.size());
        Ok(Sample { wall, cpu, peak_mib: peak / 1024.0, size: size as f64 })
    }

    fn make_inputs(&self) -> Result<()> {
        write_input(&self.folder.join("in.raw"))?;
        self.quietly(&["convert", "-f", "raw", "-O", "qcow2", "in.raw", "in.qcow2"])?;
        self.quietly(&["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "tables.qcow2", "256G"])?;
        let pieces = File::create(self.folder.join("pieces.raw"))?;
        pieces.set_len(100_000 * 40_960)?;
        for number in 0..100_000 {
            pieces.write_all_at(&[1; 4096], number * 40_960)?;
        }
        let words = ["convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "pieces.raw", "pieces.qcow2"];
        self.quietly(&words)?;
        // Into the page cache.
        for name in ["in.raw", "in.qcow2", "pieces.qcow2"] {
            std::io::copy(&mut File::open(self.folder.join(name))?, &mut std::io::sink())?;
        }
        Ok(())
    }
}

// Runs of what an installed system has, with holes between; notes where the runs are.
fn write_input(path: &Path) -> Result<()> {
    let bytes = programs(INPUT * 3 / 4)?;
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise
    };
    let file = File::create(path)?;
    file.set_len(INPUT)?;
    let (mut runs, mut at, mut from) = (String::new(), 0, 0);
    while at < INPUT {
        let len = ([64 << 10, 256 << 10, MIB, 4 * MIB][next() as usize % 4]).min(INPUT - at);
        let Some(part) = bytes.get(from..from + len as usize) else { break };
        file.write_all_at(part, at)?;
        runs.push_str(&format!("{at} {}\n", at + len));
        from += part.len();
        at += len + [0, 0, 64 << 10, MIB][next() as usize % 4];
    }
    Ok(fs::write(path.with_extension("runs"), runs)?)
}

// Bytes of the files below /usr, in the order of their names, over and over until there are enough.
fn programs(enough: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < enough {
        let before = bytes.len();
        add_files(Path::new("/usr"), enough, &mut bytes)?;
        if bytes.len() == before {
            bail!("there are no files below /usr to make a disk of");
        }
    }
    Ok(bytes)
}

fn add_files(folder: &Path, enough: u64, bytes: &mut Vec<u8>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.filter_map(Result::ok).collect();
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        let Ok(kind) = entry.file_type() else { continue };
        if bytes.len() as u64 >= enough {
            break;
        }
        if kind.is_dir() {
            add_files(&entry.path(), enough, bytes)?;
        } else if kind.is_file() {
            // What can't be read isn't needed.
            let _ = File::open(entry.path()).and_then(|mut file| file.read_to_end(bytes));
        }
    }
    Ok(())
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut all: Vec<f64> = samples.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
