//! `cargo xtask bench net`: kiln's user mode beside QEMU's. A server in the lab, at an address of the lab's own, takes what
//! the guest sends, sends what it reads, and answers a byte with a byte.

use std::process::ExitCode;

use anyhow::Result;

use super::{Stage, Stages, Subject, median, qemu_version, verdict, with_folder};

/// Stands for the outside (RFC 5737).
const SERVER: &str = "192.0.2.1";
const MIB: f64 = 1_048_576.0;
/// Connections in these stages.
const CROWDS: [(&str, f64); 2] = [("one after another", 1000.0), ("at once", 200.0)];

pub(crate) fn run(rounds: usize, seconds: u64) -> Result<ExitCode> {
    let qemu = "-netdev user,id=n -device virtio-net-pci,netdev=n,romfile=";
    let subjects = [
        Subject::kiln("kiln", "--disk none --network user"),
        Subject::kiln("kiln at 1500", "--disk none --network user,mtu.size=1500"),
        Subject::qemu("QEMU", qemu),
    ]
    .map(beside_server);
    let results = with_folder(|folder| {
        let script = format!(
            "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
            load net {SERVER} {seconds}"
        );
        let prepare = format!("ip addr add {SERVER}/32 dev lo");
        let mut stage = Stage::new(folder, &["virtio_net"], &script, prepare, "at once")?;
        // Nested paging doesn't hold under a network's load (docs/lab.md).
        stage.options.npt = false;
        println!("{}; {}", qemu_version()?, stage.options.describe());
        println!("streams of {seconds} s; medians of {rounds}\n");
        let mut results = [const { Vec::new() }; 3];
        for round in 1..=rounds {
            for (subject, results) in subjects.iter().zip(&mut results) {
                eprintln!("xtask: round {round} of {rounds}, {}", subject.name);
                results.push(stage.measure(subject, &subjects)?);
            }
        }
        Ok(results)
    })?;
    report(&results);
    Ok(ExitCode::SUCCESS)
}

fn beside_server(subject: Subject) -> Subject {
    let start = format!(
        "{{ load serve {SERVER} > /server & until grep -q SERVING /server; do sleep 0.1; done; {}; }}",
        subject.start
    );
    Subject { start, ..subject }
}

fn report([own, usual, qemu]: &[Vec<Stages>; 3]) {
    let mtu = |of: &[Stages]| median(of, "MTU", |s| s.count);
    println!("MTU: kiln's own {}, {} where it is set, QEMU's {}\n", mtu(own), mtu(usual), mtu(qemu));
    let speed = |of: &[Stages], stage| median(of, stage, |s| s.count / s.seconds / MIB);
    let own_ms = |of: &[Stages], stage| median(of, stage, |s| s.own * 1e3 * MIB / s.count);
    println!(
        "{:<34}{:>9}{:>9}{:>9}{:>9}  {:<8}{:>14}{:>14}",
        "MiB/s", "kiln", "QEMU", "ratio", "goal", "", "own ms/MiB", "QEMU's"
    );
    for (name, kiln, stage, goal) in [
        ("guest to host", own, "to host", 5.0),
        ("host to guest", own, "to guest", 1.5),
        ("guest to host, both at MTU 1500", usual, "to host", 1.0),
        ("host to guest, both at MTU 1500", usual, "to guest", 1.0),
    ] {
        let (ours, theirs) = (speed(kiln, stage), speed(qemu, stage));
        let ratio = ours / theirs;
        println!(
            "{name:<34}{ours:>9.1}{theirs:>9.1}{ratio:>9.2}{goal:>9.1}  {:<8}{:>14.2}{:>14.2}",
            verdict(ratio >= goal),
            own_ms(kiln, stage),
            own_ms(qemu, stage)
        );
    }
    println!("\n{:<34}{:>9}{:>9}{:>9}{:>9}", "connections served, at least", "kiln", "QEMU", "kiln s", "QEMU s");
    for (stage, goal) in CROWDS {
        let least =
            |of: &[Stages]| of.iter().filter_map(|round| round.get(stage)).map(|s| s.count).fold(goal, f64::min);
        let seconds = |of: &[Stages]| median(of, stage, |s| s.seconds);
        println!(
            "{:<34}{:>9}{:>9}{:>9.2}{:>9.2}  {}",
            format!("{goal} {stage}"),
            least(own),
            least(qemu),
            seconds(own),
            seconds(qemu),
            verdict(least(own) >= goal && least(usual) >= goal)
        );
    }
}
