//! `cargo xtask bench disk`: kiln's virtio-blk beside QEMU's, with the same written image in the lab's memory.

use std::process::ExitCode;

use anyhow::Result;

use super::{Sample, Stage, Stages, Subject, median, qemu_version, verdict, with_folder};

/// In the order in which the guest goes through them.
const STAGES: [&str; 6] =
    ["4k read, depth 1", "4k write, depth 1", "4k read, depth 16", "4k write, depth 16", "1M read", "1M write"];
/// What is taken off the others.
const NOTHING: &str = "nothing";
/// The most of QEMU's that time may be; exits and processor time may be as many as QEMU's.
const TIME: f64 = 1.05;
/// Bytes of the image.
const SIZE: &str = "256M";

pub(crate) fn run(rounds: usize, seconds: u64) -> Result<ExitCode> {
    let subjects = [
        Subject::kiln("kiln raw", "--network none --disk path=/dev/shm/d.raw,format=raw,cache=writeback"),
        Subject::qemu("QEMU raw", &qemu("raw")),
        Subject::kiln("kiln qcow2", "--network none --disk path=/dev/shm/d.qcow2,format=qcow2,cache=writeback"),
        Subject::qemu("QEMU qcow2", &qemu("qcow2")),
    ];
    let results = with_folder(|folder| {
        let prepare = ["raw", "qcow2"]
            .map(|format| format!("kiln disk create -f {format} -o preallocation=full /dev/shm/d.{format} {SIZE}"));
        let script = format!("load disk /dev/vda {seconds}");
        let mut stage = Stage::new(folder, &["virtio_blk"], &script, prepare.join(" && "), STAGES[5])?;
        println!("{}; {}", qemu_version()?, stage.options.describe());
        println!("{SIZE}, cache=writeback, page cache of the lab; stages of {seconds} s; medians of {rounds}\n");
        let mut results = [const { Vec::new() }; 4];
        for round in 1..=rounds {
            for (subject, results) in subjects.iter().zip(&mut results) {
                eprintln!("xtask: round {round} of {rounds}, {}", subject.name);
                results.push(stage.measure(subject, &subjects)?);
            }
        }
        Ok(results)
    })?;
    let [raw, qemu_raw, qcow2, qemu_qcow2] = &results;
    println!(
        "{:<26}{:>8}{:>8}{:>7}{:>10}{:>9}{:>7}{:>9}{:>9}{:>7}",
        "per request", "exits", "QEMU", "ratio", "own us", "QEMU", "ratio", "us", "QEMU", "ratio"
    );
    for (format, ours, theirs) in [("raw", raw, qemu_raw), ("qcow2", qcow2, qemu_qcow2)] {
        for stage in STAGES {
            row(&format!("{format} {stage}"), stage, ours, theirs);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn qemu(format: &str) -> String {
    format!(
        "-drive if=none,id=d,file=/dev/shm/d.{format},format={format},cache=writeback,aio=threads \
         -device virtio-blk-pci,drive=d"
    )
}

fn row(name: &str, stage: &str, ours: &[Stages], theirs: &[Stages]) {
    let exits = |of: &[Stages]| per_request(of, stage, |s| s.exits);
    let own = |of: &[Stages]| per_request(of, stage, |s| s.own) * 1e6;
    let time = |of: &[Stages]| per_request(of, stage, |s| s.seconds) * 1e6;
    let ratios = [exits(ours) / exits(theirs), own(ours) / own(theirs), time(ours) / time(theirs)];
    let met = ratios.iter().zip([1.0, 1.0, TIME]).all(|(ratio, most)| *ratio <= most);
    println!(
        "{name:<26}{:>8.2}{:>8.2}{:>7.2}{:>10.1}{:>9.1}{:>7.2}{:>9.1}{:>9.1}{:>7.2}  {}",
        exits(ours),
        exits(theirs),
        ratios[0],
        own(ours),
        own(theirs),
        ratios[1],
        time(ours),
        time(theirs),
        ratios[2],
        verdict(met)
    );
}

// The median over the rounds, each without what the empty stage took.
fn per_request(rounds: &[Stages], stage: &str, of: fn(&Sample) -> f64) -> f64 {
    let idle = median(rounds, NOTHING, of);
    median(rounds, stage, |s| (of(s) - idle) / s.count)
}
